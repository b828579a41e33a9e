"""What `benchmarks.run` makes of answers: figures with slices, the anatomy of a latency, parts around a swap."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest

from benchmarks import scenario_spike, scenarios
from benchmarks.figures import (
    LATE,
    OUTSIDE,
    SLICES,
    anatomy_ms,
    anatomy_row,
    completed_per_s,
    figures_of,
    phase_row,
    slope_per_hour,
)
from benchmarks.host import json_of
from benchmarks.scenario_sweeps import best_rows, device_figures, device_rows, devices_chart, names_of
from tests.run_rows import BEGAN, phase, row

STEPS = {
    "queue": 10.0,
    "decode": 6.0,
    "batch_wait": 1.0,
    "engine": 58.0,
    "mask": 0.5,
    "encode": 2.5,
    "total": 68.0,
}


def test_figures_have_a_sample_for_each_slice() -> None:
    rows = [row(BEGAN + 0.5 + second, 100 + second) for second in range(12)]
    found = figures_of(phase(rows), " at 2")
    assert found["p50 at 2"]["value"] == pytest.approx(105)
    assert found["p50 at 2"]["samples"] == pytest.approx([100 + n for n in range(SLICES)])
    assert found["right masks a second at 2"]["samples"] == pytest.approx([1.0] * SLICES)
    assert found["failures at 2"]["value"] == 0


def test_a_slice_without_an_answer_is_null() -> None:
    written = json.loads(json_of(figures_of(phase([row(BEGAN, 100)]))))
    assert written["p50"]["samples"][1:] == [None] * (SLICES - 1)


def test_throughput_is_of_what_was_complete_and_latency_of_what_was_due() -> None:
    """A closed load whose answers take 5 s: those that were due before the beginning are work of this time, too."""
    one = phase([row(BEGAN - 3 + second, 5000) for second in range(15)])
    assert completed_per_s(one) == pytest.approx(10 / 12)
    assert sum(figures_of(one)["right masks a second"]["samples"]) == pytest.approx(10)
    late = phase([row(BEGAN + 1, 100), row(BEGAN + 11, 5000)])
    assert completed_per_s(late) == pytest.approx(1 / 12)
    assert figures_of(late)["p99"]["value"] == pytest.approx(5000)


def test_the_parts_of_a_latency_sum_to_it() -> None:
    parts = anatomy_ms([row(BEGAN + n, 90.0, late_ms=2.0, steps=STEPS) for n in range(20)])
    assert sum(parts.values()) == pytest.approx(90, abs=1e-3)
    assert parts["engine"] == 58
    assert parts[LATE] == pytest.approx(2, abs=1e-3)
    assert parts[OUTSIDE] == pytest.approx(10, abs=1e-3)
    assert "total" not in parts


def test_a_server_that_tells_more_than_the_client_saw_is_not_made_to_fit() -> None:
    assert sum(anatomy_ms([row(BEGAN, 40.0, steps=STEPS)]).values()) == pytest.approx(78)


def test_no_times_no_anatomy() -> None:
    assert anatomy_ms([row(BEGAN, 40.0)]) == {}
    assert anatomy_row("x", [row(BEGAN, 40.0)]) is None


def test_growth_is_not_decided_by_a_jump() -> None:
    seconds = [float(n) for n in range(100)]
    assert slope_per_hour(seconds, [100 + n / 3600 for n in seconds]) == pytest.approx(1.0)
    assert slope_per_hour(seconds, [100.0] * 99 + [900.0]) == 0


def test_the_knee_is_the_fewest_clients_that_fill_the_server() -> None:
    assert scenarios.knee_of([(1, 10.0), (2, 14.0), (4, 14.5), (8, 14.4)]) == 2


def test_a_spike_is_over_when_the_median_is_back() -> None:
    before = [row(BEGAN, 100)]
    after = [row(1100 + s + 0.5, latency) for s, latency in enumerate((900, 400, 140, 100))]
    assert scenario_spike.recovery_s(before, after, 1100) == 2
    assert math.isnan(scenario_spike.recovery_s(before, after[:2], 1100))


def test_which_version_answered_when() -> None:
    parts = {"before": [row(BEGAN, 9)] * 3, "during": [row(BEGAN, 9), row(BEGAN, 9, version="2.0")]}
    assert scenarios.versions_table(parts) == [
        {"version": "1.0", "before": 3, "during": 1},
        {"version": "2.0", "before": 0, "during": 1},
    ]


def test_energy_is_told_where_power_is_known() -> None:
    gpus = [
        {"gpu": 0, "cuda": None, "power_w": 70.0},  # hidden by CUDA_VISIBLE_DEVICES=2,1
        {"gpu": 1, "cuda": 1, "power_w": None},
        {"gpu": 2, "cuda": 0, "power_w": 50.0},
    ]
    samples = [{"t": BEGAN + n, "gpus": gpus} for n in range(9)]
    rows = [row(BEGAN + n / 10, 50) for n in range(100)]
    cpu = device_rows(phase(rows, 10), 8, samples)
    assert (cpu[0]["device"], cpu[0]["images/s"], cpu[0]["images/joule"]) == ("cpu", 10.0, None)
    on_gpu = [dataclasses.replace(r, device=f"cuda:{n % 2}") for n, r in enumerate(rows)]
    first, second = device_rows(phase(on_gpu, 10), 8, samples)
    assert (first["device"], first["images/s"], first["images/joule"]) == ("cuda:0", 5.0, 0.1)
    assert (second["device"], second["power W"], second["images/joule"]) == ("cuda:1", None, None)
    slower = {**first, "images/s": 1.0}
    assert best_rows([slower, first, second]) == [first, second]


def test_packages_with_the_same_engine_are_told_apart() -> None:
    """Two trainings of one preset: neither hides the other in the table, the figures and the chart."""
    names = names_of([Path("a/rooms.mar"), Path("b/rooms.mar"), Path("wide.mar")])
    assert list(names.values()) == ["a/rooms.mar", "b/rooms.mar", "wide.mar"]
    made = []
    for number, name in enumerate(names.values()):
        rows = [row(BEGAN + n / 10, 50) for n in range(100 - 10 * number)]
        made += device_rows(phase(rows, 10), 8, [], name)
    assert [one["package"] for one in best_rows(made)] == list(names.values())
    figures = {name: one["value"] for each in made for name, one in device_figures(each).items()}
    assert figures["b/rooms.mar cpu onnx batch 8 clients 2: images/s"] == 9.0
    assert len(figures) == 6
    for name in names.values():
        assert f"{name} cpu onnx batch 8" in devices_chart(made)


def test_a_lone_package_has_no_name_so_that_its_runs_can_be_compared() -> None:
    assert names_of([Path("old.mar")]) == {Path("old.mar"): ""}
    [one] = device_rows(phase([row(BEGAN, 50)], 10), 8, [])
    assert set(device_figures(one)) == {
        "cpu onnx batch 8 clients 2: images/s", "cpu onnx batch 8 clients 2: p99"
    }  # fmt: skip


def test_the_mean_batch_is_of_batches_not_of_answers() -> None:
    rows = [dataclasses.replace(row(BEGAN + n, 50), batch_size=8 if n < 8 else 1) for n in range(10)]
    assert phase_row(phase(rows))["mean batch"] == pytest.approx(10 / 3)  # a batch of 8 and two of 1
    assert device_rows(phase(rows), 8, [])[0]["mean batch"] == pytest.approx(10 / 3)
