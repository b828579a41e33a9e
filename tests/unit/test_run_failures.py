"""What fails a run of `benchmarks.run`: every request that was lost, but for those that a scenario asked for."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from benchmarks import host, run, scenario_spike, scenarios
from benchmarks.answers import Answered
from benchmarks.capacity import Trial, knee
from benchmarks.figures import failures_of
from benchmarks.run_options import Capacity, Latency, Spike
from benchmarks.scenario_sweeps import capacity
from benchmarks.session import Phase, Session
from benchmarks.slo import Objective, strict
from segserve.errors import UsageError
from tests.run_rows import BEGAN, phase, row

SERVER = "http://127.0.0.1:1"
FULL = "status 503: Model rooms has no worker to serve inference request."
LATENCY_ONLY = '[[objective]]\nname = "fast"\np95_ms = 1000\n'


class Loads:
    """A session that gives answers made up."""

    def __init__(self, answer: Callable[[float, float, float], Phase]) -> None:
        """answer: rate (0: closed load), beginning and length in seconds -> what came of it."""
        self._answer, self.phases = answer, list[Phase]()
        self.sampler = SimpleNamespace(samples=[], missing=[])

    def load(self, label: str, *, rate_per_s: float = 0.0, seconds: float, **_: Any) -> Phase:
        began = self.phases[-1].ended if self.phases else BEGAN
        self.phases.append(self._answer(rate_per_s, began, seconds))
        return self.phases[-1]


def failures(scenario: str, found: scenarios.Found, loads: Loads) -> list[str]:
    result = run.result_of(scenario, found, [cast(Session, loads)])
    return cast(list[str], result["failures"])


def test_each_kind_of_failure_is_a_sentence() -> None:
    rows = [
        *[row(BEGAN, 9, "another mask")] * 2,
        *[row(BEGAN, 9, f"status 503: busy, request {n}", status=503) for n in range(3)],
        row(BEGAN, 9, "status 0: timed out", status=0),
        row(BEGAN, 9),
        row(BEGAN, 9, status=503),  # of a user who comes again
    ]
    assert failures_of(rows) == [
        "2 answers with status 200 were wrong: another mask",
        "3 requests were lost, the first: status 503: busy, request 0",
        "1 requests were lost, the first: status 0: timed out",
    ]


def test_what_went_wrong_before_or_after_the_counted_part_fails_a_run_too(tmp_path: Path) -> None:
    """But for what is excused, and it is in no figure."""
    outside = (row(BEGAN - 2, 9, "another mask"), row(BEGAN + 13, 9, "status 500: oh", status=500))
    loads = Loads(lambda *_: dataclasses.replace(phase([row(BEGAN + 1, 9)]), outside=outside))
    found = scenarios.latency(Latency(tmp_path / "out", SERVER, concurrency=(2,)), cast(Session, loads))
    assert failures("latency", found, loads) == [
        "in a warm-up or after an end: 1 answers with status 200 were wrong: another mask",
        "in a warm-up or after an end: 1 requests were lost, the first: status 500: oh",
    ]
    assert found.figures["failures at 2"]["value"] == 0
    found.excused = lambda row: row.status == 500
    assert failures("latency", found, loads) == [
        "in a warm-up or after an end: 1 answers with status 200 were wrong: another mask"
    ]


@pytest.mark.parametrize("status", [0, 500, 503, 507])
def test_lost_requests_fail_a_run(tmp_path: Path, status: int) -> None:
    rows = [
        row(BEGAN + n / 10, 50, *((f"status {status}", "1.0", 0.0, status) if n % 2 else ()))
        for n in range(120)
    ]
    loads = Loads(lambda *_: phase(rows))
    found = scenarios.latency(Latency(tmp_path / "out", SERVER, concurrency=(2,)), cast(Session, loads))
    assert failures("latency", found, loads) == [f"60 requests were lost, the first: status {status}"]


def test_a_run_in_which_everything_failed_is_json(tmp_path: Path) -> None:
    loads = Loads(lambda *_: phase([row(BEGAN + n, 50, "status 503", status=503) for n in range(12)]))
    found = scenarios.latency(Latency(tmp_path / "out", SERVER, concurrency=(2,)), cast(Session, loads))
    result = run.result_of("latency", found, [cast(Session, loads)])
    run.write(tmp_path, result, found)

    def not_json(constant: str) -> None:
        raise AssertionError(constant)

    for text in ((tmp_path / "result.json").read_text(), host.json_of(result)):
        [clients] = json.loads(text, parse_constant=not_json)["tables"]["Clients"]
        assert (clients["failed"], clients["p50 ms"], clients["mean batch"]) == (12, None, 1.0)
    assert "| 12" in (tmp_path / "table.md").read_text()


def refusing(most_per_s: float) -> Callable[[float, float, float], Phase]:
    """Of an open load all beyond that rate are refused at once, the others answered in 60 ms."""

    def answer(rate_per_s: float, began: float, seconds: float) -> Phase:
        every = max(1.0, rate_per_s / most_per_s)
        rows = []
        for number in range(int((rate_per_s or most_per_s) * seconds)):
            due = began + number / (rate_per_s or most_per_s)
            taken = int((number + 1) / every) > int(number / every)
            rows.append(row(due, 60) if taken else row(due, 2, "status 503: full", status=503))
        return Phase("", 16, rate_per_s, began, began + seconds, tuple(rows), tuple(rows), (), began)

    return answer


def test_capacity_does_not_count_what_is_refused_as_fast(tmp_path: Path) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text(LATENCY_ONLY)
    options = Capacity(tmp_path / "out", SERVER, slo=objectives, bisections=3, repeats=2)
    loads = Loads(refusing(10))
    found = capacity(options, cast(Session, loads))
    value = found.figures["capacity"]["value"]
    assert 8 < value < 11.5
    assert any(one.wrong for one in loads.phases[1].rows)
    assert failures("capacity", found, loads) == []  # it was loaded too much on purpose


def test_a_server_that_refuses_at_every_rate_has_no_capacity_and_says_why(tmp_path: Path) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text(LATENCY_ONLY)
    options = Capacity(tmp_path / "out", SERVER, slo=objectives, bisections=1, repeats=0)

    def answer(rate_per_s: float, began: float, seconds: float) -> Phase:
        return (
            refusing(10)(rate_per_s, began, seconds)
            if rate_per_s == 0
            else refusing(1)(rate_per_s, began, seconds)
        )

    loads = Loads(answer)
    found = capacity(options, cast(Session, loads))
    assert found.figures["capacity"]["value"] == 0
    [said] = failures("capacity", found, loads)
    assert said.startswith("at the lowest rate that was tried: SLO 'fast': ")
    assert said.endswith("expected at most 0 %")


def test_capacity_fails_for_requests_lost_before_it_loads_too_much_and_for_wrong_masks(
    tmp_path: Path,
) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text(LATENCY_ONLY)
    options = Capacity(tmp_path / "out", SERVER, slo=objectives, bisections=1, repeats=0)

    def answer(rate_per_s: float, began: float, seconds: float) -> Phase:
        made = refusing(10)(rate_per_s, began, seconds)
        spoilt = (
            row(began, 60, "another mask") if rate_per_s else row(began, 60, "status 500: oh", status=500)
        )
        rows = (spoilt, *made.rows[1:])
        return Phase("", 16, rate_per_s, began, made.ended, rows, rows, (), began)

    loads = Loads(answer)
    found = capacity(options, cast(Session, loads))
    said = failures("capacity", found, loads)
    assert "1 requests were lost, the first: status 500: oh" in said
    assert any(line.endswith("answers with status 200 were wrong: another mask") for line in said)


def test_capacity_fails_for_what_it_lost_and_no_objective_counts(tmp_path: Path) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text(LATENCY_ONLY + 'format = "png"\n')
    options = Capacity(tmp_path / "out", SERVER, slo=objectives, bisections=1, repeats=0)

    def answer(rate_per_s: float, began: float, seconds: float) -> Phase:
        made = refusing(10)(rate_per_s, began, seconds)
        if not rate_per_s:
            return made
        broken = dataclasses.replace(row(began, 60, "status 500: oh", status=500), format="json")
        rows = (broken, *made.rows)
        return dataclasses.replace(made, rows=rows, completed=rows)

    loads = Loads(answer)
    found = capacity(options, cast(Session, loads))
    assert any(one.status == 503 for one in loads.phases[1].rows)  # of PNG, which its objective counts
    assert failures("capacity", found, loads) == [
        f"{len(loads.phases) - 1} requests were lost, the first: status 500: oh"
    ]


def test_goodput_is_of_what_was_complete_in_the_load_not_of_what_was_due_in_it(tmp_path: Path) -> None:
    """A server of 1 mask a second under a load of 10: nine of ten answers come when it is over."""
    objectives = tmp_path / "slo.toml"
    objectives.write_text('[[objective]]\nname = "enough"\ngoodput_per_s = 5\n')
    rows = [row(BEGAN + n / 10, 900 * n + 1000) for n in range(120)]
    options = Latency(tmp_path / "out", SERVER, slo=objectives)
    assert scenarios.missed(options, phase(rows)) == [
        "SLO 'enough': 0.917 right masks a second, expected at least 5"
    ]


def test_capacity_takes_no_floor_for_it_is_missed_by_low_rates_too(tmp_path: Path) -> None:
    objectives = tmp_path / "slo.toml"
    objectives.write_text(LATENCY_ONLY + "goodput_per_s = 5\n")
    options = Capacity(tmp_path / "out", SERVER, slo=objectives)
    with pytest.raises(UsageError, match=r"goodput_per_s of 'fast': capacity tries low rates too"):
        run.main(options)
    assert not options.out.exists()  # nothing was started


def test_silence_on_failures_means_none() -> None:
    fast, half = Objective("fast", p95_ms=1000), Objective("half", failures=0.5)
    assert [one.failures for one in strict([fast, half])] == [0.0, 0.5]
    trials = [
        Trial(rate, refusing(10)(rate, BEGAN, 20).rows, 20.0) for rate in (5.0, 10.0, 20.0, 40.0, 100.0)
    ]
    assert knee(trials, strict([fast])).rate_per_s < 20


def spiked(*more: Answered) -> Sequence[Answered]:
    """30 s of calm, 15 s of spike in which every other request is refused, 30 s of calm."""
    rows = [row(BEGAN + n / 4, 100) for n in range(300)]
    rows += [row(BEGAN + 30 + n / 4, 2, FULL, status=503) for n in range(60)]
    return sorted([*rows, *more], key=lambda one: one.due)


@pytest.mark.parametrize(
    ("due", "status", "wrong", "forgiven"),
    [
        (10.0, 503, FULL, False),  # before
        (35.0, 500, "status 500", False),
        (35.0, 0, "status 0", False),
        (44.0, 503, FULL, True),
        (
            44.0,
            503,
            "status 503: Prediction failed",
            False,
        ),  # a handler that raised, whoever was in its batch
        (45.5, 503, FULL, True),  # the spike is over, the queue still full
        (60.0, 503, FULL, False),  # it was calm again
    ],
)
def test_a_spike_may_be_refused_while_it_lasts(
    tmp_path: Path, due: float, status: int, wrong: str, forgiven: bool
) -> None:
    rows = spiked(row(BEGAN + due, 2, wrong, status=status))
    loads = Loads(lambda *_: phase(rows, seconds=75))
    options = Spike(tmp_path / "out", SERVER, calm_s=30, spike_s=15)
    found = scenario_spike.spike(options, cast(Session, loads))
    assert found.figures["calm again after"]["value"] == 0
    assert found.figures["failures"]["value"] == pytest.approx(61 / 361)
    said = [] if forgiven else [f"1 requests were lost, the first: {wrong}"]
    assert failures("spike", found, loads) == said


def test_a_server_that_never_is_calm_again_loses_what_it_refuses_after_the_spike(tmp_path: Path) -> None:
    rows = [row(BEGAN + n / 4, 100) for n in range(120)]
    rows += [row(BEGAN + 30 + n / 4, 2, FULL, status=503) for n in range(180)]
    loads = Loads(lambda *_: phase(rows, seconds=75))
    found = scenario_spike.spike(Spike(tmp_path / "out", SERVER, calm_s=30, spike_s=15), cast(Session, loads))
    assert math.isnan(found.figures["calm again after"]["value"])
    never, lost = failures("spike", found, loads)
    assert never == (
        "it never was calm again: no second after the spike had a median of at most 1.5 times the 100 ms before it"
    )
    assert lost == f"120 requests were lost, the first: {FULL}"


def test_a_spike_without_a_calm_before_it_shows_nothing(tmp_path: Path) -> None:
    """A model so slow that no answer came in that time."""
    loads = Loads(lambda *_: phase([row(BEGAN + n, 40_000) for n in range(30)], seconds=75))
    found = scenario_spike.spike(Spike(tmp_path / "out", SERVER, calm_s=30, spike_s=15), cast(Session, loads))
    [said] = failures("spike", found, loads)
    assert said.startswith("no right mask came before the spike")
