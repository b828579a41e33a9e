"""The number that `benchmarks.run capacity` answers with, on a queue whose limit is known."""

from __future__ import annotations

import pytest

from benchmarks.capacity import LARGEST_MARGIN, Trial, crossing, knee, margin
from benchmarks.slo import Objective
from tests.run_rows import queued, row

FAST = (Objective("fast", p95_ms=500, failures=0.1),)
LIMIT_PER_S = 1000 / (50 * 1.25)
"""Of a server that takes 50 ms, and twice that for one in four."""


def trials(*rates: float) -> list[Trial]:
    return [Trial(rate, queued(rate, 50, 20), 20.0) for rate in rates]


def test_the_knee_is_where_the_queue_begins_to_grow() -> None:
    found = knee(trials(5, 10, 13, 14.5, 15.2, 15.8, 16.4, 17, 18), FAST)
    assert 0.95 * LIMIT_PER_S < found.rate_per_s < 1.05 * LIMIT_PER_S
    assert 14.5 < found.low <= found.rate_per_s <= found.high < 18


def test_a_tighter_objective_gives_a_lower_knee() -> None:
    rates = trials(5, 10, 13, 14.5, 15.2, 15.8, 16.4, 17, 18)
    assert knee(rates, (Objective("tight", p50_ms=60),)).rate_per_s < knee(rates, FAST).rate_per_s


def test_none_held_is_no_capacity() -> None:
    assert knee(trials(20, 25, 30), FAST).rate_per_s == 0.0


def test_all_held_is_the_highest_that_was_tried() -> None:
    assert knee(trials(2, 4, 6), FAST).rate_per_s == 6.0


def test_one_trial_that_breaks_the_order_moves_the_crossing_a_little() -> None:
    assert crossing([1, 2, 3, 4], [0.5, 0.5, 2.0, 2.0]) == pytest.approx(2.5)
    assert 2 < crossing([1, 2, 2.5, 3, 4], [0.5, 0.5, 1.2, 0.9, 2.0]) < 3


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        (Objective("a", p50_ms=200), 0.5),
        (Objective("a", p50_ms=50), 2.0),
        (Objective("a", failures=0.5), 0.5),
        (Objective("a", failures=0.0), LARGEST_MARGIN),
        (Objective("a", version="9", p50_ms=1e6), LARGEST_MARGIN),
    ],
)
def test_margin_is_got_over_allowed(objective: Objective, expected: float) -> None:
    rows = [row(1000 + n, 100) for n in range(3)] + [row(1004, 100, "status 503", status=503)]
    assert margin([objective], rows) == pytest.approx(expected)


def test_the_objective_that_is_closest_counts() -> None:
    rows = [row(1000.0, 100)]
    assert margin([Objective("a", p50_ms=400), Objective("b", p99_ms=125)], rows) == pytest.approx(0.8)
