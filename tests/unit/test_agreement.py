"""The table of `benchmarks.agreement`: ratios of what two clients and the server saw."""

from __future__ import annotations

import math

import pytest

from benchmarks.agreement import JUDGED, off, plus, ratios
from deploy.metrics import Histogram
from tests.run_rows import BEGAN, row


def test_ratios() -> None:
    ours = [row(BEGAN + n, 110.0, steps={"total": 60.0}) for n in range(10)]
    told = Histogram(10, 0.5, ((0.05, 0.0), (0.1, 10.0), (math.inf, 10.0)))
    found = {line["what"]: line for line in ratios(ours, [100.0] * 10, told)}
    assert found["p50"]["ratio"] == pytest.approx(1.1)
    assert found["p99"]["ratio"] == pytest.approx(1.1)
    assert found["mean in the worker"]["ratio"] == pytest.approx(1.2)
    assert found["p50 in the worker"]["b ms"] == pytest.approx(75)
    assert found["p50 in the worker"]["ratio"] == pytest.approx(
        1
    )  # 60 is as far in that bucket as 50 to 100 can tell


def test_a_server_that_tells_nothing_has_no_mean() -> None:
    assert "mean in the worker" not in {line["what"] for line in ratios([row(BEGAN, 9)], [9.0], Histogram())}


def test_what_is_off_or_was_not_measured_is_told() -> None:
    told = Histogram(10, 0.5, ((0.05, 0.0), (0.1, 10.0), (math.inf, 10.0)))
    alike = [row(BEGAN + n, 104.0, steps={"total": 50.0}) for n in range(10)]
    assert off(ratios(alike, [100.0] * 10, told), 0.05) == []
    assert off(ratios(alike, [110.0] * 10, told), 0.05) == [
        "p50: 0.945 times, expected 1 within 0.05", "p95: 0.945 times, expected 1 within 0.05",
    ]  # fmt: skip
    untold = [row(BEGAN + n, 104.0) for n in range(10)]
    not_measured = "not measured, one of the two told nothing"
    assert off(ratios(untold, [100.0] * 10, told), 0.05) == [f"mean in the worker: {not_measured}"]
    assert off(ratios(alike, [100.0] * 10, Histogram()), 0.05) == [f"mean in the worker: {not_measured}"]
    assert off(ratios([], [100.0], Histogram()), 0.05) == [f"{what}: {not_measured}" for what in JUDGED]


def test_turns_count_together() -> None:
    first = Histogram(2, 0.1, ((0.05, 1.0), (math.inf, 2.0)))
    second = Histogram(3, 0.2, ((0.05, 1.0), (math.inf, 3.0)))
    sum_s = first.sum_s + second.sum_s
    assert plus(plus(Histogram(), first), second) == Histogram(5, sum_s, ((0.05, 2.0), (math.inf, 5.0)))
