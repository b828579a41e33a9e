"""Figures of a long load, from answers written by hand."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.endurance import goodput_per_s, summary


def answer(done: float, status: int = 200, wrong: str | None = None) -> dict[str, Any]:
    return {"sent": done - 0.5, "done": done, "status": status, "wrong": wrong}


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
