"""What benchmarks.rollouts makes of Locust's answers: it must notice a version that answered out of turn."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.rollouts import summary, was_default

GOOD = {"exit_code": 0, "error": ""}
SWAP = {**GOOD, "old": "1.0", "new": "2.0", "default_since": [50.0, 50.1], "began": 40.0, "ended": 60.0}
BACK = {**GOOD, "old": "2.0", "new": "1.0", "default_since": [80.0, 80.1], "began": 70.0, "ended": 90.0}


def row(sent: float, done: float, version: str, wrong: str | None = None) -> dict[str, Any]:
    return {"sent": sent, "done": done, "version": version, "status": 200, "wrong": wrong, "photo": "a"}


@pytest.mark.parametrize(
    ("sent", "done", "version", "fine"),
    [
        (10, 11, "1.0", True),
        (10, 11, "2.0", False),
        (49, 51, "1.0", True),
        (49, 51, "2.0", True),
        (51, 52, "1.0", False),
        (51, 52, "2.0", True),
        (85, 86, "1.0", True),
        (85, 86, "2.0", False),
        (79, 81, "2.0", True),
        (10, 11, "3.0", False),
    ],
)
def test_who_may_answer_when(sent: float, done: float, version: str, fine: bool) -> None:
    assert was_default(row(sent, done, version), [SWAP, BACK]) is fine


def test_a_rollout_that_failed_changes_nothing() -> None:
    failed = {"exit_code": 1, "began": 40.0, "ended": 60.0, "error": "rolled back"}
    assert was_default(row(10, 11, "1.0"), [failed])


def test_figures() -> None:
    rows = [row(t, t + 1, "1.0") for t in range(10, 30)] + [
        row(51, 54, "2.0"),
        row(61, 62, "1.0", "another mask"),
    ]
    found = summary(rows, [SWAP])
    assert (found["answers"], found["failed"], found["of_no_default"]) == (22, 1, 0)
    assert found["failures"] == ["another mask"]
    assert found["p99_ms"] == {"during": 3000.0, "without": 1000.0}
    assert found["p99_ratio"] == 3.0
