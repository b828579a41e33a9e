"""How fast is each artefact on this host, and which one is to be served?

Engines are timed in turns, one call each a round, so that a machine that slows down slows all of them; medians count.

    timings = measure({"onnx": engine, ...}, (480, 480), (1, 8))
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from segserve import cpu
from segserve.engines import Engine
from training.rooms import render

Objective = Literal["throughput", "latency"]

MIN_ROUNDS, MAX_ROUNDS = 3, 15
MEASURE_S = 45.0
"""Rounds go on until so many seconds have passed."""
NEARLY = 0.95
"""Of the most images/s: what is left is not worth the latency and the memory of a larger batch."""


@dataclass(frozen=True)
class Timing:
    """Medians of one engine: ms for each batch size."""

    latency_ms: dict[int, float]

    @property
    def images_per_s(self) -> float:
        """At the best of the batch sizes."""
        return max(1e3 * batch / ms for batch, ms in self.latency_ms.items())

    def goodness(self, objective: Objective) -> float:
        """What is to be largest."""
        return self.images_per_s if objective == "throughput" else -self.latency_ms[min(self.latency_ms)]


def measure(
    engines: Mapping[str, Engine],
    size: tuple[int, int],
    batch_sizes: Sequence[int],
    say: Callable[[str], None] = lambda step: None,
    dropped: dict[str, str] | None = None,
) -> dict[str, Timing]:
    """Time every engine at every batch size on rendered rooms; after a warm-up, at least MIN_ROUNDS of each.

    With `dropped`, an engine that raises in the warm-up, as for want of memory, goes there with what it said.
    """
    image, _ = render(93_000_000, *size)
    batches = {
        count: np.stack([np.roll(image, 16 * n, axis=1) for n in range(count)]) for count in batch_sizes
    }
    engines = _warm(engines, list(batches.values()), dropped)
    taken: dict[tuple[str, int], list[float]] = {(name, n): [] for name in engines for n in batches}
    started = time.perf_counter()
    for round_number in range(MAX_ROUNDS):
        if round_number >= MIN_ROUNDS and time.perf_counter() - started > MEASURE_S:
            break
        say(f"time, round {round_number + 1}")
        for (name, count), times in taken.items():
            before = time.perf_counter()
            engines[name](batches[count])
            times.append(1e3 * (time.perf_counter() - before))
    return {
        name: Timing({count: statistics.median(taken[name, count]) for count in batches}) for name in engines
    }


def _warm(
    engines: Mapping[str, Engine], batches: Sequence[NDArray[np.uint8]], dropped: dict[str, str] | None
) -> dict[str, Engine]:
    """Those that answered every batch."""
    warm = {}
    for name, engine in engines.items():
        try:
            for images_nhwc in batches:
                engine(images_nhwc)
        except Exception as error:  # engines raise what they like
            if dropped is None:
                raise
            dropped[name] = f"{type(error).__name__}: {error}"
        else:
            warm[name] = engine
    return warm


def choice(
    timings: Mapping[str, Timing],
    eager: Timing,
    failed: Mapping[str, str],
    left_out: Mapping[str, str],
    objective: Objective,
) -> dict[str, Any]:
    """For model_spec.json: the table of all engines, best first, those that failed parity at the end, and the host."""
    order = sorted(timings, key=lambda name: (name in failed, -timings[name].goodness(objective)))
    return {
        "objective": objective,
        "cpu": cpu.name(),
        "cpu_features": cpu.features(),
        "threads": cpu.cores(),
        "table": [
            {
                "name": name,
                "latency_ms": {str(n): round(ms, 2) for n, ms in timings[name].latency_ms.items()},
                "images_per_s": round(timings[name].images_per_s, 3),
                "ratio_to_eager": round(timings[name].images_per_s / eager.images_per_s, 2),
                "passed": name not in failed,
                "reason": failed.get(name, ""),
            }
            for name in order
        ],
        "eager_latency_ms": {str(n): round(ms, 2) for n, ms in eager.latency_ms.items()},
        "left_out": dict(left_out),
    }


def batch_size(table: Mapping[str, Any], name: str) -> int | None:
    """The smallest measured batch size at which artefact `name` makes nearly the most images/s; None: not measured.

    table: what `choice` returned.
    """
    for row in table.get("table", ()):
        if row["name"] == name:
            per_s = {int(count): 1e3 * int(count) / ms for count, ms in row["latency_ms"].items()}
            return min(count for count, speed in per_s.items() if speed >= NEARLY * max(per_s.values()))
    return None
