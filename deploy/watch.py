"""A version that clients reach, watched for a while against the one before it.

Seen from outside: a golden photo each second, which must come back right and as quickly as before. Seen from inside
(/metrics): errors, time of the worker for each answer, shares of the classes. Of the machine: workers that die or grow.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from deploy.asking import Asker, require_golden
from deploy.incoming import GoldenPhoto
from deploy.management import Management
from deploy.metrics import Scrape, scrape
from deploy.probe import SLACK_MS
from deploy.processes import memory_mib
from deploy.rollout_options import RolloutConfig
from segserve.errors import CheckFailed

PERIOD_S = 1.0
MIN_ANSWERS = 20
"""Fewer say nothing about error rate and time."""
MIN_SHARE_ANSWERS = 300
"""Nor fewer than these about the classes, whose shares are smoothed over about 100 photos, golden ones among them."""
MIN_PINGS = 5
TOTAL = "total"


@dataclass(frozen=True)
class Before:
    """How the old version did: /metrics when it was still the default, and a golden photo's median latency."""

    version: str
    at_start: Scrape
    at_end: Scrape
    ping_ms: float


@dataclass(frozen=True)
class Watched:
    """What was seen of the new version; None where too few answers came to say."""

    seconds: float
    pings: int
    ping_ms: float
    answers: int
    error_share: float | None
    slowdown: float | None
    share_change: float | None
    growth_mib: float


class Watcher:
    """Of one new version (name, number), beside what is known of the one before it. Raises: CheckFailed at a fault."""

    def __init__(
        self, asker: Asker, management: Management, metrics_url: str, version: tuple[str, str], limits: RolloutConfig
    ) -> None:  # fmt: skip
        self._asker, self._management, self._metrics_url = asker, management, metrics_url
        self._name, self._new = version
        self._limits = limits

    def watch(
        self, before: Before, photos: Sequence[GoldenPhoto], seconds: float, *, default: bool
    ) -> Watched:
        """Returns after `seconds` without a fault; `default`: requests that name no version must reach the new one."""
        first, state = scrape(self._metrics_url), self._management.version(self._name, self._new)
        pids = state.worker_pids if state else ()
        start_mib, started, pings = memory_mib(pids), time.monotonic(), list[float]()
        for number in itertools.count():
            pings.append(self._ping(photos[number % len(photos)], default=default))
            self._require_workers(pids)
            now, so_far_s = scrape(self._metrics_url), time.monotonic() - started
            found = self._compare(before, first, now, so_far_s, pings, memory_mib(pids) - start_mib)
            _require(found, self._new, before, self._limits)
            if so_far_s >= seconds:
                return found
            time.sleep(max(0.0, started + (number + 1) * PERIOD_S - time.monotonic()))
        raise AssertionError("count() does not end")

    def _ping(self, photo: GoldenPhoto, *, default: bool) -> float:
        """Latency in ms of a golden photo, which must come back right."""
        seen = self._asker.ask(photo.photo, None if default else self._new)
        if seen.version != self._new:
            raise CheckFailed(f"version {seen.version} answered where {self._new} should")
        require_golden(seen, photo.labels, f"{self._name} {self._new}", photo.name)
        return seen.latency_ms

    def _require_workers(self, pids: tuple[int, ...]) -> None:
        state, version = self._management.version(self._name, self._new), f"{self._name} {self._new}"
        if state is None:
            raise CheckFailed(f"{version} is no longer registered: somebody else unregistered it")
        if state.worker_pids != pids or not state.ready:
            raise CheckFailed(
                f"a worker of {version} died: {state.workers_ready} of {state.workers} are READY"
            )

    def _compare(
        self,
        before: Before,
        first: Scrape,
        now: Scrape,
        seconds: float,
        pings: list[float],
        growth_mib: float,
    ) -> Watched:
        name, new = self._name, self._new
        at_first = first.answers(name, new)
        answers = {
            status: count - at_first.get(status, 0.0) for status, count in now.answers(name, new).items()
        }
        total = sum(answers.values())
        errors = sum(count for status, count in answers.items() if status >= 500)
        enough = total >= MIN_ANSWERS
        steps = now.steps(name, new, TOTAL).minus(first.steps(name, new, TOTAL))
        old = before.at_end.steps(name, before.version, TOTAL)
        recent = old.minus(before.at_start.steps(name, before.version, TOTAL))
        old = recent if recent.count >= MIN_ANSWERS else old
        old_shares, new_shares = before.at_end.class_shares(name, before.version), now.class_shares(name, new)
        known = min(total, old.count) >= MIN_SHARE_ANSWERS and old_shares and new_shares
        return Watched(
            seconds,
            len(pings),
            statistics.median(pings),
            int(total),
            errors / total if enough else None,
            steps.mean_s() / old.mean_s() if enough and old.count >= MIN_ANSWERS else None,
            _changed(old_shares, new_shares) if known else None,
            growth_mib,
        )


def _changed(old: Mapping[str, float], new: Mapping[str, float]) -> float:
    """Share of the pixels that another class has."""
    return sum(abs(new.get(c, 0.0) - old.get(c, 0.0)) for c in {*old, *new}) / 2


def _require(found: Watched, new: str, before: Before, limits: RolloutConfig) -> None:
    """Raises: CheckFailed for what is worse than allowed."""
    if found.error_share is not None and found.error_share > limits.max_error_share:
        raise CheckFailed(
            f"{100 * found.error_share:.1f} % of the {found.answers} answers of version {new} are errors of the "
            f"server; {100 * limits.max_error_share:g} % are allowed (--max-error-share)"
        )
    if found.slowdown is not None and found.slowdown > limits.max_slowdown:
        raise CheckFailed(
            f"the workers of version {new} take {found.slowdown:.1f} times as long for an answer as those of "
            f"{before.version}; {limits.max_slowdown:g} times are allowed (--max-slowdown)"
        )
    slow_ms = limits.max_slowdown * before.ping_ms + SLACK_MS
    if found.pings >= MIN_PINGS and found.ping_ms > slow_ms:
        raise CheckFailed(
            f"a golden photo takes {found.ping_ms:.0f} ms with version {new}, {before.ping_ms:.0f} with "
            f"{before.version}; {limits.max_slowdown:g} times as long is allowed (--max-slowdown)"
        )
    if found.share_change is not None and found.share_change > limits.max_share_change:
        raise CheckFailed(
            f"version {new} gives {100 * found.share_change:.0f} % of the pixels to other classes than "
            f"{before.version} did; {100 * limits.max_share_change:g} % are allowed (--max-share-change)"
        )
    if found.growth_mib > limits.max_growth_mib:
        raise CheckFailed(
            f"the workers of version {new} grew by {found.growth_mib:.0f} MiB in {found.seconds:.0f} s; "
            f"{limits.max_growth_mib:g} are allowed (--max-growth-mib)"
        )
