"""What `benchmarks.compare` concludes from figures of two result folders that have no ratio, or no slices at all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import compare, ratio
from tests.result_folders import ended, figure, folder, strict_json


@pytest.fixture
def compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, dict[str, Any], str]]:
    """Exit code, report and closing words, of the figures of A and of B."""

    def call(figures_a: dict[str, Any], figures_b: dict[str, Any]) -> tuple[int, dict[str, Any], str]:
        work = Path(tempfile.mkdtemp(dir=tmp_path))
        a = folder(work / "a", [], [], figures=figures_a)
        b = folder(work / "b", [], [], figures=figures_b)
        code = ended(monkeypatch, compare.CompareConfig, compare.main, a, b, "--json")
        report = strict_json(capsys.readouterr().out)
        assert ended(monkeypatch, compare.CompareConfig, compare.main, a, b) == code
        return code, report, capsys.readouterr().out.partition("tolerance 10%.")[2].strip()

    return call


def capacity(low: float, value: float, high: float) -> dict[str, Any]:
    return {
        "capacity": figure(value, "higher"),
        "capacity, low": figure(low, "higher"),
        "capacity, high": figure(high, "higher"),
    }


@pytest.mark.parametrize(
    ("low", "value", "high", "expected"),
    [
        (2.9, 3.0, 3.1, "worse"), (12.2, 12.4, 12.6, "unclear"), (13.9, 14.2, 14.5, "same"),
        (18.0, 19.0, 20.0, "better"), (0.0, 0.0, 0.0, "worse"),
    ],
)  # fmt: skip
def test_a_capacity_is_judged_by_its_range(
    compared: Any, low: float, value: float, high: float, expected: str
) -> None:
    code, report, words = compared(capacity(13.9, 14.2, 14.5), capacity(low, value, high))
    [row] = report["figures"]  # its ends are no figures of their own
    assert (row["verdict"], row["by"]) == (expected, "ranges")
    assert code == (expected == "worse")
    assert words == ("Worse" if code else "Nothing is worse") + " beyond doubt" + (
        ": capacity." if code else "."
    )


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (figure(0), figure(70), ("worse", "values")),
        (figure(0), figure(0), ("same", "values")),
        (figure(3), figure(0), ("better", "values")),
        (figure(10.0), figure(10.9), ("same", "values")),
        # beyond the tolerance, and beyond any doubt of one run
        (figure(10.0), figure(11.1), ("unclear", "values")),
        (figure(10.0), figure(19.9), ("unclear", "values")),
        (figure(10.0), figure(20.1), ("worse", "values")),
        (figure(10.0), figure(5.1), ("unclear", "values")),
        (figure(10.0), figure(4.9), ("better", "values")),
        (figure(100.0, "higher"), figure(50.1, "higher"), ("unclear", "values")),
        (figure(100.0, "higher"), figure(49.9, "higher"), ("worse", "values")),
        (figure(100.0, "higher"), figure(0, "higher"), ("worse", "values")),
        # a recovery, told in whole seconds
        (figure(0, unit="s"), figure(3, unit="s"), ("unclear", "values")),
        (figure(1, unit="s"), figure(0, unit="s"), ("unclear", "values")),
        (figure(0, unit="s"), figure(4, unit="s"), ("worse", "values")),
        (figure(10, unit="s"), figure(15, unit="s"), ("unclear", "values")),
        # requests lost: each counts, as there should be none
        (figure(0, unit="requests"), figure(1, unit="requests"), ("worse", "values")),
        (figure(10, unit="requests"), figure(12, unit="requests"), ("worse", "values")),
        (figure(12, unit="requests"), figure(10, unit="requests"), ("better", "values")),
        (figure(3.0), figure(None), ("worse", "gaps")),
        (figure(None), figure(3.0), ("better", "gaps")),
        (figure(0, samples=[0] * 12), figure(0.5, samples=[0.5] * 12), ("worse", "values")),
        (figure(0, samples=[0] * 12), figure(0.001, samples=[0] * 11 + [0.012]), ("worse", "values")),
        # one failure, and two: in other slices, and by chance
        (figure(0.01, samples=[0] * 11 + [0.12]), figure(0.02, samples=[0.12, *[0] * 10, 0.12]),
         ("unclear", "differences")),
        (figure(0.01, samples=[0] * 11 + [0.12]), figure(0.5, samples=[0.5] * 12), ("worse", "differences")),
        (figure(0.5, samples=[0.5] * 12), figure(0.0, samples=[0.0] * 12), ("better", "differences")),
        # a slow model answers so seldom that a slice or two are empty by chance; what is left is judged
        (figure(70.0, samples=[70.0] * 12), figure(70.0, samples=[70.0] * 10 + [None] * 2), ("same", "ratios")),
        (figure(70.0, samples=[70.0] * 12), figure(99.0, samples=[99.0] * 10 + [None] * 2), ("worse", "ratios")),
        (figure(70.0, samples=[70.0] * 12), figure(70.0, samples=[70.0] * 9 + [None] * 3), ("worse", "gaps")),
        (figure(70.0, samples=[None] + [70.0] * 11), figure(70.0, samples=[70.0] * 9 + [None] * 3), ("same", "values")),
        (figure(14.0, "higher", [14.0] * 12), figure(11.7, "higher", [14.0] * 10 + [0.0] * 2),
         ("unclear", "differences")),
        (figure(14.0, "higher", [14.0] * 12), figure(10.5, "higher", [14.0] * 9 + [0.0] * 3), ("worse", "gaps")),
        (figure(70.0, samples=[None] + [70.0] * 11), figure(70.0, samples=[70.0] * 11 + [None]), ("same", "ratios")),
        (figure(70.0, samples=[None] + [70.0] * 11), figure(99.0, samples=[99.0] * 12), ("worse", "ratios")),
        (figure(70.0, samples=[70.0] * 12), figure(99.0, samples=[99.0] * 3), ("unclear", "values")),
        (figure(70.0, samples=[70.0] * 12), figure(149.0, samples=[149.0] * 3), ("worse", "values")),
    ],
)  # fmt: skip
def test_what_has_no_ratio_is_judged_all_the_same(
    compared: Any, a: dict[str, Any], b: dict[str, Any], expected: tuple[str, str]
) -> None:
    code, report, words = compared({"one": a}, {"one": b})
    [row] = report["figures"]
    assert (row["verdict"], row["by"]) == expected
    assert code == (expected[0] == "worse")
    assert report["not_compared"] == []
    assert report["unclear"] == (["one"] if expected[0] == "unclear" else [])
    worse = {
        "values": "Worse by the value alone, which has no interval: one.",
        "gaps": "Worse, as B has nothing where A has something: one.",
    }.get(row["by"], "Worse beyond doubt: one.")
    calm = ["Nothing is worse beyond doubt."]
    if expected == ("unclear", "values"):
        calm.append("Unclear, as the value of one run shows no chance: one.")
    assert words.splitlines() == ([worse] if code else calm)


def test_two_runs_of_the_same_are_not_worse_by_chance(compared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run has of a value each: the tail of some hundred latencies, a short closed load, a few empty slices."""
    monkeypatch.setattr(ratio, "RESAMPLES", 2000)
    chance = np.random.default_rng(1)

    def seen() -> dict[str, Any]:
        answered = np.exp(chance.normal(0, 0.4, (3, 300))) * 100
        slices = chance.poisson(3, 12).tolist()  # an answer each seven seconds
        return {
            **{
                f"p99 {n}": figure(float(np.percentile(part, 99)), unit="ms")
                for n, part in enumerate(answered)
            },
            "closed load": figure(float(chance.poisson(60)) / 10, "higher", unit="/s"),
            "calm again after": figure(int(chance.integers(4)), unit="s"),
            "p50": figure(90.0, samples=[90.0 if count else None for count in slices], unit="ms"),
        }

    found = [compared(seen(), seen()) for _ in range(20)]
    assert [report["worse"] for _, report, _ in found] == [[]] * 20
    assert (
        sum(len(report["unclear"]) for _, report, _ in found) > 10
    )  # they differ by more than the tolerance


def test_memory_that_grows_is_held_against_the_memory(compared: Any) -> None:
    """Growth lies about 0, and a tenth of that is chance."""
    a = {"java: growth": figure(-0.5), "java: most memory": figure(700.0)}
    calm = {"java: growth": figure(4.0), "java: most memory": figure(702.0)}
    doubtful = {"java: growth": figure(300.0), "java: most memory": figure(702.0)}
    leak = {"java: growth": figure(800.0), "java: most memory": figure(702.0)}
    assert compared(a, calm)[0] == 0
    code, report, _ = compared(a, doubtful)
    assert (code, report["unclear"]) == (0, ["java: growth"])
    code, report, _ = compared(a, leak)
    assert (code, report["worse"]) == (1, ["java: growth"])


def test_what_is_not_compared_is_named_and_is_no_success(compared: Any) -> None:
    p50, gone = figure(9.0), {"cuda:1: images/s": figure(40.0, "higher")}
    code, report, words = compared({"p50": p50, **gone}, {"p50": p50})
    assert (code, report["not_compared"]) == (0, ["cuda:1: images/s"])
    assert report["figures"][1]["b"] is None
    assert words.splitlines() == [
        "No compared figure is worse beyond doubt.",
        "Not compared, as a side has nothing of it: cuda:1: images/s.",
    ]
    code, report, words = compared({"p50": figure(None)}, {"p50": figure(None)})
    assert (code, report["not_compared"], words) == (1, ["p50"], "Nothing could be compared.")


def test_the_knee_is_told_and_its_throughputs_are_judged(compared: Any) -> None:
    code, report, _ = compared(
        {"knee, clients": figure(8, "higher"), "p50": figure(9.0)},
        {"knee, clients": figure(4, "higher"), "p50": figure(9.0)},
    )
    assert (code, report["notes"]) == (0, ["knee, clients: 8 against 4"])
    assert [row["figure"] for row in report["figures"]] == ["p50"]
