"""A new version that is watched: each limit by itself, what is counted, and workers that die."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from deploy import watch
from deploy.asking import Asker
from deploy.metrics import Scrape, parse
from deploy.probe import SLACK_MS
from deploy.rollout_options import RolloutConfig
from deploy.watch import Before, Watched, Watcher
from segserve.errors import CheckFailed
from tests.fake_management import FakeManagement

LIMITS = RolloutConfig(Path("new.mar"))
BEFORE = Before("1.0", Scrape(()), Scrape(()), 50.0)
GOOD = Watched(30, 5, 100 + SLACK_MS, 100, 0.01, 2.0, 0.3, 300.0)
"""Just what is allowed, all at once."""


def watcher(management: FakeManagement | None = None) -> Watcher:
    """It asks nobody."""
    management = management or FakeManagement({"2.0": "new"})
    return Watcher(cast("Asker", None), management, "http://127.0.0.1:1", ("rooms", "2.0"), LIMITS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"error_share": 0.011}, r"1\.1 % of the 100 answers .* 1 % are allowed \(--max-error-share\)"),
        ({"slowdown": 2.01}, r"2\.0 times as long .* \(--max-slowdown\)"),
        ({"ping_ms": 101.0 + SLACK_MS}, r"a golden photo takes .* \(--max-slowdown\)"),
        ({"share_change": 0.31}, r"31 % of the pixels .* 30 % are allowed \(--max-share-change\)"),
        ({"growth_mib": 301.0}, r"grew by 301 MiB in 30 s; 300 are allowed \(--max-growth-mib\)"),
    ],
)
def test_each_limit(change: dict[str, Any], said: str) -> None:
    watch._require(GOOD, "2.0", BEFORE, LIMITS)
    with pytest.raises(CheckFailed, match=said):
        watch._require(replace(GOOD, **change), "2.0", BEFORE, LIMITS)


def test_what_too_few_answers_cannot_say_is_no_fault() -> None:
    unknown = replace(GOOD, error_share=None, slowdown=None, share_change=None, pings=4, ping_ms=9e9)
    watch._require(unknown, "2.0", BEFORE, LIMITS)


def metrics(version: str, answers: dict[int, int], total_s: float, floor: float = 0.5) -> str:
    """As a server tells them: `answers` by status, all of them together `total_s` of the workers' time."""
    one = f'model="rooms",version="{version}"'
    return "".join(
        [
            "# TYPE segserve_answers_total counter\n",
            *(
                f'segserve_answers_total{{{one},status="{status}"}} {number}\n'
                for status, number in answers.items()
            ),
            "# TYPE segserve_class_share gauge\n",
            f'segserve_class_share{{{one},class="floor"}} {floor}\n',
            f'segserve_class_share{{{one},class="wall"}} {1 - floor}\n',
            "# TYPE segserve_step_seconds histogram\n",
            f'segserve_step_seconds_bucket{{{one},step="total",le="+Inf"}} {sum(answers.values())}\n',
            f'segserve_step_seconds_count{{{one},step="total"}} {sum(answers.values())}\n',
            f'segserve_step_seconds_sum{{{one},step="total"}} {total_s}\n',
        ]
    )


def seen(before: Before, first: str, now: str) -> Watched:
    return watcher()._compare(before, parse(first), parse(now), 30.0, [40.0, 50.0, 90.0], 7.0)


def test_what_came_before_the_watch_does_not_count() -> None:
    """Of both versions: the probe's answers of the new one, and the old one's yesterday."""
    old_first, old_last = metrics("1.0", {200: 1000}, 900.0), metrics("1.0", {200: 1400}, 940.0)
    before = Before("1.0", parse(old_first), parse(old_last), 50.0)
    first = metrics("2.0", {200: 60, 500: 30}, 50.0)
    found = seen(before, first, metrics("2.0", {200: 450, 400: 5, 500: 30, 503: 5}, 50.0 + 60.0, floor=0.3))
    assert (found.answers, found.pings, found.ping_ms, found.growth_mib) == (400, 3, 50.0, 7.0)
    assert found.error_share == pytest.approx(5 / 400)  # 400 is the client's fault
    assert found.slowdown == pytest.approx((60 / 400) / (40 / 400))
    assert found.share_change == pytest.approx(0.2)


@pytest.mark.parametrize(("number", "enough"), [(19, False), (20, True)])
def test_few_answers_say_nothing_of_errors_and_time(number: int, enough: bool) -> None:
    before = Before("1.0", Scrape(()), parse(metrics("1.0", {200: 500}, 50.0)), 50.0)
    found = seen(before, metrics("2.0", {}, 0.0), metrics("2.0", {500: number}, 30.0))
    assert (found.error_share == 1.0) is enough
    assert (found.slowdown is not None) is enough
    assert found.share_change is None  # that takes 300


@pytest.mark.parametrize(("old", "new", "known"), [(299, 300, False), (300, 299, False), (300, 300, True)])
def test_shares_of_classes_are_compared_once_both_have_settled(old: int, new: int, known: bool) -> None:
    before = Before("1.0", Scrape(()), parse(metrics("1.0", {200: old}, 30.0)), 50.0)
    found = seen(before, metrics("2.0", {}, 0.0), metrics("2.0", {200: new}, 30.0, floor=0.9))
    assert found.share_change == (pytest.approx(0.4) if known else None)


def test_workers_that_died_or_were_taken_away_end_it() -> None:
    watcher()._require_workers(())
    with pytest.raises(CheckFailed, match=r"a worker of rooms 2\.0 died: 1 of 1 are READY"):
        watcher()._require_workers((4711,))  # another one took its place
    with pytest.raises(CheckFailed, match=r"a worker of rooms 2\.0 died: 0 of 1 are READY"):
        watcher(FakeManagement({"2.0": "new"}, dying=("2.0",)))._require_workers(())
    with pytest.raises(CheckFailed, match=r"rooms 2\.0 is no longer registered"):
        watcher(FakeManagement({"1.0": "old"}))._require_workers(())
