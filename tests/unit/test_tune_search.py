"""The search on machines that are made up: it finds what is best there, in few trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.mar_settings import Settings
from benchmarks.tune_search import Trial, best, search

START = Settings(workers=1, threads=0, batch_size=8, delay_ms=1)


def trial(
    settings: Settings, images_per_s: float, lone_ms: float, batch: float | None = None, device: str = "cpu"
) -> Trial:
    """Batches are full, and large ones take memory."""
    full = float(settings.batch_size) if batch is None else batch
    return Trial(settings, 1.0, images_per_s, lone_ms, lone_ms, full, device, 200 + 20 * settings.batch_size)


def cpu(settings: Settings) -> Trial:
    """Two cores: workers of one thread serve most, two of two threads leave a lone request both cores."""
    if settings.workers == 1:
        return trial(settings, 10.0, 100)
    if settings.threads == 2:
        return trial(settings, 11.0, 101)
    return trial(settings, 11.8 - 0.05 * settings.batch_size, 170)


def gpu(settings: Settings) -> Trial:
    """Batches of 16 are what it wants, from two workers that take turns, and queues don't fill them at once."""
    speed = min(settings.batch_size, 16) * 10 * (1.5 if settings.workers > 1 else 1.0)
    waits = 1.2 if settings.delay_ms == 5 else 1.0
    return trial(settings, speed * waits, 20 + settings.delay_ms, 0.7 * settings.batch_size, "cuda")


def test_a_lone_request_is_not_sold_for_throughput() -> None:
    trials, found = search(START, 2, 1.25, cpu)
    assert (found.settings.workers, found.settings.threads) == (2, 2)
    assert max(trials, key=lambda t: t.images_per_s).settings.threads == 0  # it was looked at


def test_throughput_alone_if_that_is_asked_for() -> None:
    _, found = search(START, 2, 100.0, cpu)
    assert found.settings == Settings(workers=2, threads=0, batch_size=1, delay_ms=1)


def test_a_gpu_gets_batches_workers_and_a_delay() -> None:
    trials, found = search(START, 16, 1.25, gpu)
    assert found.settings.workers == 2
    assert found.settings.batch_size == 16
    assert found.settings.delay_ms == 5
    assert len(trials) <= 14
    assert len({t.settings for t in trials}) == len(trials)  # nothing is measured twice


def test_a_wait_that_brings_nothing_here_is_taken_back() -> None:
    """A package that was tuned on another host, where batches did not fill."""

    def machine(settings: Settings) -> Trial:
        return trial(settings, 10.0, 100 + settings.delay_ms)

    _, found = search(replace(START, delay_ms=20), 1, 1.25, machine)
    assert found.settings.delay_ms == 1


def test_no_time_left_means_the_best_so_far() -> None:
    def three(measure: Callable[[Settings], Trial]) -> Callable[[Settings], Trial | None]:
        left = iter(range(3))
        return lambda settings: measure(settings) if next(left, None) is not None else None

    trials, found = search(START, 16, 1.25, three(gpu))
    assert len(trials) == 3
    assert found.images_per_s == max(t.images_per_s for t in trials)
    with pytest.raises(ValueError, match="nothing was measured"):
        search(START, 2, 1.25, lambda _: None)


def test_full_batches_are_not_waited_for() -> None:
    trials, _ = search(START, 2, 1.25, cpu)
    assert {t.settings.delay_ms for t in trials} == {1}


def test_best_within_the_noise_is_the_quicker_then_the_smaller() -> None:
    quick, slow = trial(START, 10.0, 100), trial(replace(START, workers=2), 10.1, 120)
    assert best([slow, quick], 1.25) is quick
    small = trial(replace(START, batch_size=1), 10.0, 100)
    assert best([quick, small], 1.25) is small
    assert best([quick, trial(replace(START, workers=2), 10.5, 120)], 1.25).settings.workers == 2
    assert best([quick, trial(replace(START, workers=2), 10.5, 126)], 1.25) is quick
