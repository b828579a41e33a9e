"""Figures of a long load, from answers written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.endurance import goodput_per_s, summary


def answer(done: float, status: int = 200, wrong: str | None = None) -> dict[str, Any]:
    return {"due": done - 0.5, "sent": done - 0.5, "done": done, "status": status, "wrong": wrong}


def test_masks_are_counted_while_all_users_are_there() -> None:
    slow_start = [answer(done) for done in range(10)]  # 1/s
    full_load = [answer(9 + 0.25 * k) for k in range(1, 91)]  # 4/s
    leaving = [answer(40.0 + done) for done in range(30)]
    # in no order, as greenlets write them
    assert goodput_per_s([*leaving, *full_load, *slow_start], requests=100) == pytest.approx(4.0)


def test_only_right_masks_are_good() -> None:
    rows = [answer(k / 10) for k in range(101)]
    rows[20], rows[30], rows[40] = answer(2.0, 503), answer(3.0, 400), answer(4.0, wrong="another mask")
    found = summary(rows, requests=101)
    assert found["goodput_per_s"] == pytest.approx((90 - 3) / 9.0)
    assert (found["wrong"], found["asked_to_wait"], found["errors_5xx"]) == (1, 1, 0)
    assert found["wrong_most"] == {"another mask": 1}
    assert found["masks"] == 98


def test_a_503_of_a_broken_handler_is_no_full_queue() -> None:
    rows = [answer(k / 10) for k in range(101)]
    rows[20] = answer(2.0, 503, wrong="status 503: Prediction failed")
    rows[30] = answer(3.0, 507, wrong="status 507: Out of resources")
    found = summary(rows, requests=101)
    assert (found["wrong"], found["asked_to_wait"], found["errors_5xx"]) == (2, 0, 2)


def test_who_was_told_to_come_again_waited_since_the_first_time() -> None:
    refused = [{**answer(k + 0.1, 503), "due": float(k)} for k in range(50)]
    answered = [{**answer(k + 20.3), "due": float(k), "sent": k + 20.0} for k in range(50)]
    found = summary([*refused, *answered], requests=100)
    assert found["asked_to_wait"] == 50
    assert found["p50_ms"] == pytest.approx(20_300)
    assert found["p99_ms"] == pytest.approx(20_300)
