"""What benchmarks.rollouts makes of Locust's answers: it must notice a version that answered out of turn."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.rollouts import sent_between, summary, was_default

GOOD = {"exit_code": 0, "error": ""}
SWAP = {**GOOD, "old": "1.0", "new": "2.0", "default_since": [50.0, 50.1], "began": 40.0, "ended": 60.0}
BACK = {**GOOD, "old": "2.0", "new": "1.0", "default_since": [80.0, 80.1], "began": 70.0, "ended": 90.0}


def row(sent: float, done: float, version: str, wrong: str | None = None) -> dict[str, Any]:
    return {
        "due": sent, "sent": sent, "done": done, "version": version, "status": 200, "wrong": wrong, "photo": "a"
    }  # fmt: skip


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


def test_requests_that_hung_in_the_last_rollout_count() -> None:
    """They are given up 120 s later, when the load is over and only its last answers are waited for."""
    answered = [row(t, t + 0.3, "1.0") for t in range(40, 120)]
    hung = [{**row(58, 178, "1.0", "status 0: timed out"), "status": 0, "version": None}] * 50
    before, after = row(9, 9.3, "1.0", "another mask"), row(121, 122, "2.0", "another mask")
    rows = sent_between([before, *answered, *hung, after], started=10, ended=120)
    found = summary(rows, [{**SWAP, "exit_code": 1}])
    assert (found["answers"], found["failed"], found["of_no_default"]) == (130, 50, 0)
    assert found["failures"] == ["status 0: timed out"]
    assert found["answers_per_s"] == pytest.approx(130 / 79)
