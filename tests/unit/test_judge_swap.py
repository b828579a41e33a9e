"""What `benchmarks.run swap` says of a rollout under load, from answers that are made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from benchmarks.answers import Answered
from benchmarks.figures import failures_of
from benchmarks.scenarios import OUT_OF_TURN, Found, _judge_swap
from tests.run_rows import BEGAN, phase, row

SWITCHED = (BEGAN + 5.0, BEGAN + 5.2)
DONE: dict[str, Any] = {
    "began": BEGAN + 4, "ended": BEGAN + 7, "exit_code": 0, "error": "", "old": "1.0", "new": "2.0",
    "default_since": SWITCHED,
}  # fmt: skip
IN_TURN = (
    row(BEGAN + 1, 90, version="1.0"),
    row(BEGAN + 4.95, 100, version="2.0"),  # on its way while the default changed: either is right
    row(BEGAN + 5.1, 200, version="1.0"),
    row(BEGAN + 9, 90, version="2.0"),
)
LOST = row(BEGAN + 5, 90, "status 503: busy", status=503)
EARLY = row(BEGAN + 1, 90, version="2.0")
LATE = row(BEGAN + 9, 90, version="1.0")


def judged(rows: Sequence[Answered], done: dict[str, Any] = DONE) -> Found:
    found = Found()
    _judge_swap(found, phase(rows), done)
    return found


def counts(found: Found) -> tuple[float, float]:
    return found.figures["requests lost"]["value"], found.figures[OUT_OF_TURN]["value"]


def test_a_swap_in_which_all_is_well() -> None:
    found = judged(IN_TURN)
    assert counts(found) == (0, 0)
    assert found.figures["rollout"]["value"] == pytest.approx(3)
    assert (found.failed, found.missed) == ([], [])


def test_a_lost_request_is_counted_and_is_no_stray_of_a_version() -> None:
    """That it fails the run, as in every scenario, is what `failures_of` says."""
    found = judged([*IN_TURN, LOST])
    assert counts(found) == (1, 0)
    assert found.failed == []
    assert failures_of([*IN_TURN, LOST]) == ["1 requests were lost, the first: status 503: busy"]


@pytest.mark.parametrize(("strays", "number"), [((EARLY,), 1), ((LATE,), 1), ((EARLY, LATE), 2)])
def test_answers_of_a_version_that_was_not_the_default_fail_the_run(
    strays: tuple[Answered, ...], number: int
) -> None:
    found = judged([*IN_TURN, *strays])
    assert counts(found) == (0, number)
    assert found.failed == [f"{number} answers came from a version that was not the default"]


def test_a_rollout_that_failed_fails_the_run_with_its_reason() -> None:
    """Nothing but that is known of it; every answer is then taken for one of the default."""
    failed = {"began": BEGAN + 4, "ended": BEGAN + 7, "exit_code": 1, "error": "1 of 20 masks differ\n"}
    found = judged([row(BEGAN + 1, 90), row(BEGAN + 9, 90)], failed)
    assert counts(found) == (0, 0)
    assert found.figures["rollout"]["value"] == pytest.approx(3)
    assert found.failed == ["the rollout failed: 1 of 20 masks differ"]
