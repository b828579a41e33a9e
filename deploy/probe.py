"""What a new version must show before a client reaches it: right masks, no slower, no leak, no surprise in its masks.

The old version is asked the same, in turn, so that whatever else the machine does strikes both.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from deploy.asking import Asker, Seen, require_golden
from deploy.disagreement import Disagreement, Pair
from deploy.incoming import GoldenPhoto
from deploy.processes import memory_mib
from segserve.errors import CheckFailed

SPEED_ROUNDS = 3
LEAK_ROUNDS = 10
MAX_LEAK_MIB = 40
"""That a worker may grow while the golden photos go round LEAK_ROUNDS times; it has seen them all before."""
SLACK_MS = 30.0
"""Differences below that are the machine's."""


@dataclass(frozen=True)
class Speed:
    """Medians of both versions over the same photos."""

    old_handler_ms: float
    new_handler_ms: float
    old_latency_ms: float
    new_latency_ms: float

    def slowdown(self) -> float:
        """The new one's time over the old one's: of the worker, and of the whole answer where that says more.

        Nobody waits for the new version yet, so its answers take little longer than its worker. Those of the old one
        may stand in a queue: what its worker took is what they are compared with.
        """
        return max(self.new_handler_ms, self.new_latency_ms - SLACK_MS) / max(self.old_handler_ms, 1e-3)


def golden(asker: Asker, photos: Sequence[GoldenPhoto], version: str | None, who: str) -> float:
    """The least agreement with the checkpoint over the golden photos. Raises: CheckFailed."""
    return min(require_golden(asker.ask(p.photo, version), p.labels, who, p.name) for p in photos)


def speed(asker: Asker, photos: Sequence[GoldenPhoto], old: str, new: str, max_slowdown: float) -> Speed:
    """Both versions in turn. Raises: CheckFailed if the new one takes more than so many times as long."""
    seen: dict[str, list[Seen]] = {old: [], new: []}
    for _ in range(SPEED_ROUNDS):
        for photo in photos:
            for version in (old, new):
                seen[version].append(asker.ask(photo.photo, version))
    found = Speed(
        *(statistics.median(s.handler_ms for s in seen[version]) for version in (old, new)),
        *(statistics.median(s.latency_ms for s in seen[version]) for version in (old, new)),
    )
    if found.slowdown() > max_slowdown:
        raise CheckFailed(
            f"version {new} takes {found.slowdown():.1f} times as long as {old} (worker {found.new_handler_ms:.0f} ms "
            f"and whole answer {found.new_latency_ms:.0f} ms, where the worker of {old} took "
            f"{found.old_handler_ms:.0f}); {max_slowdown:g} times are allowed (--max-slowdown)"
        )
    return found


def leak(asker: Asker, photos: Sequence[GoldenPhoto], new: str, pids: Sequence[int]) -> float:
    """How many MiB the workers grow while they see the same photos again. Raises: CheckFailed if that is a leak."""
    before_mib = memory_mib(pids)
    for _ in range(LEAK_ROUNDS):
        for photo in photos:
            asker.ask(photo.photo, new)
    grown_mib = memory_mib(pids) - before_mib
    if grown_mib > MAX_LEAK_MIB:
        raise CheckFailed(
            f"version {new} leaks memory: {grown_mib:.0f} MiB more after {LEAK_ROUNDS * len(photos)} more photos"
        )
    return grown_mib


def shadow(
    asker: Asker, photos: Iterable[tuple[str, bytes]], old: str, new: str, num_classes: int
) -> Disagreement:
    """Both versions' masks of all photos. Raises: CheckFailed if one of them gives none."""
    found = Disagreement(num_classes)
    for name, photo in photos:
        try:
            before, after = asker.ask(photo, old).labels, asker.ask(photo, new).labels
        except CheckFailed as error:
            raise CheckFailed(f"{name}: {error}") from None
        if before.shape != after.shape:
            raise CheckFailed(
                f"the masks of {name} differ in size: {before.shape} of {old}, {after.shape} of {new}"
            )
        found.add(Pair(name, photo, before, after))
    return found


def require_agreement(found: Disagreement, class_name: Callable[[int], str], max_disagreement: float) -> None:
    """Raises: CheckFailed naming the class that the two versions see most differently, if that is too much."""
    by_class = found.by_class()
    if not by_class:
        return
    worst = max(by_class, key=lambda c: by_class[c])
    if by_class[worst] > max_disagreement:
        shown = ", ".join(
            f"{class_name(c)} {d:.2f}" for c, d in sorted(by_class.items(), key=lambda x: -x[1])
        )
        raise CheckFailed(
            f"the two versions disagree about {class_name(worst)}: 1 - IoU of their masks is {by_class[worst]:.2f} "
            f"over {found.photos} photos, {max_disagreement:g} is allowed (--max-disagreement). By class: {shown}"
        )
