"""Which settings to try next, and which were best. Nothing is measured here: `measure` is what does it.

One thing after the other, from where the last left off: workers and threads, then the batch size, then how long a
batch waits to fill; so some ten trials, not the hundreds of the whole grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from benchmarks.mar_settings import Settings

NOISE = 0.02
"""Share by which two measurements of the same thing differ."""
LARGEST_BATCH = 32
LEAST_DELAY_MS = 1  # 0 is TorchServe's own 100
DELAYS_MS = (5, 20)


@dataclass(frozen=True)
class Trial:
    """What some settings gave, on a machine as fast as at the first trial; it was `machine` times as fast.

    batch: images in a batch at saturation, on average.
    """

    settings: Settings
    machine: float
    images_per_s: float
    lone_p50_ms: float
    lone_p95_ms: float
    batch: float
    device: str
    worker_mib: int


def search(
    start: Settings, cores: int, max_slowdown: float, measure: Callable[[Settings], Trial | None]
) -> tuple[list[Trial], Trial]:
    """Try, beginning with `start`, until there is nothing better to try or `measure` says None (no time left).

    Returns: all trials in their order, and the best of them (see `best`). Raises ValueError if there is no trial.
    """
    known: dict[Settings, Trial] = {}

    def tried(candidates: Iterator[Settings]) -> bool:
        """False when the time is over."""
        for settings in candidates:
            if settings not in known:
                trial = measure(settings)
                if trial is None:
                    return False
                known[settings] = trial
        return True

    def found() -> Trial:
        return best(list(known.values()), max_slowdown)

    steps: Sequence[Callable[[], Iterator[Settings]]] = (
        lambda: iter([start]),
        lambda: _layouts(found(), cores),
        lambda: _batches(known, found),
        lambda: _layouts(found(), cores),  # the best layout may be another at another batch size
        lambda: _delays(found()),
    )
    for step in steps:
        if not tried(step()):
            break
    if not known:
        raise ValueError("nothing was measured")
    return list(known.values()), found()


def best(trials: Sequence[Trial], max_slowdown: float) -> Trial:
    """The most images/s where a lone request takes at most `max_slowdown` times the shortest time of all trials.

    Of those within the noise of it the one that answers a lone request first, then the one of least memory.
    """
    shortest_ms = min(trial.lone_p50_ms for trial in trials)
    allowed = [trial for trial in trials if trial.lone_p50_ms <= max_slowdown * shortest_ms]
    most = max(trial.images_per_s for trial in allowed)
    equals = [trial for trial in allowed if trial.images_per_s >= (1 - NOISE) * most]
    quick_ms = (1 + NOISE) * min(trial.lone_p50_ms for trial in equals)
    return min(
        (trial for trial in equals if trial.lone_p50_ms <= quick_ms),
        key=lambda trial: trial.worker_mib * trial.settings.workers,
    )


def _layouts(at: Trial, cores: int) -> Iterator[Settings]:
    """Workers that share the cores between them; on a GPU a few, so that one decodes while another computes.

    And two that have every core each: they get in each other's way under load, but fill each other's gaps, and a lone
    request has them all.
    """
    yield replace(at.settings, workers=2, threads=cores)
    counts = {1, 2, 3, 4} if at.device != "cpu" else {1, 2, cores // 2, cores}
    for workers in sorted(count for count in counts if 0 < count <= cores):
        # 0 is the handler's own division, which holds on any machine
        yield replace(at.settings, workers=workers, threads=0)


def _batches(known: dict[Settings, Trial], found: Callable[[], Trial]) -> Iterator[Settings]:
    """Twice as many while that gets better, and half as many while that gets no worse."""
    origin = found().settings
    for factor in (2.0, 0.5):
        settings = origin
        while 1 <= (size := int(settings.batch_size * factor)) <= LARGEST_BATCH:
            before, settings = known[settings], replace(settings, batch_size=size)
            yield settings
            enough = 1 + NOISE if factor > 1 else 1 - NOISE
            if settings not in known or known[settings].images_per_s < enough * before.images_per_s:
                break


def _delays(at: Trial) -> Iterator[Settings]:
    """No wait, which a package that was tuned elsewhere may have; longer ones only where batches don't fill anyway."""
    if at.settings.delay_ms > LEAST_DELAY_MS:
        yield replace(at.settings, delay_ms=LEAST_DELAY_MS)
    if at.batch < 0.9 * at.settings.batch_size:
        for delay_ms in DELAYS_MS:
            yield replace(at.settings, delay_ms=delay_ms)
