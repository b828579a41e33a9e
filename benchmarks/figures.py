"""From answers to figures: a value, and the same in successive slices of the run, so that a change can be judged.

figures_of(phase)["p99"] -> {"value": 212.0, "unit": "ms", "better": "lower", "samples": [208.1, …]}
anatomy_ms(rows) -> {"engine": 58.0, …, "outside the server's steps": 3.1}, whose sum is the median latency
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from benchmarks.answers import PERCENTS, Answered, failure_share, goodput_per_s, mean_batch, percentiles_ms
from benchmarks.session import Phase

SLICES = 12
SERVER_STEPS = ("queue", "decode", "batch_wait", "engine", "mask", "encode")
LATE, OUTSIDE = "sent late", "outside the server's steps"
"""The first is what an open load waited to be sent; the second network, HTTP, Java, reading the answer."""
BAND = (0.4, 0.6)
"""Answers between these quantiles of latency stand for the median one: a single answer would be chance."""

Figure = dict[str, Any]


def figure(value: float, unit: str, better: str, samples: Sequence[float] = ()) -> Figure:
    """As result.json has it; NaN, where nothing was measured, is null there."""
    return {"value": value, "unit": unit, "better": better, "samples": list(samples)}


def figures_of(phase: Phase, suffix: str = "") -> dict[str, Figure]:
    """p50, p95, p99, right masks a second, share of failures; suffix: of their names, such as " at 8"."""
    parts = slices(phase)
    length_s = phase.seconds / SLICES
    found = {}
    for percent in PERCENTS:
        name = f"p{percent}"
        ours = [percentiles_ms(part, (percent,))[name] for part in parts]
        found[name + suffix] = figure(percentiles_ms(phase.rows, (percent,))[name], "ms", "lower", ours)
    found["right masks a second" + suffix] = figure(
        completed_per_s(phase), "/s", "higher", [goodput_per_s(part, length_s) for part in done_slices(phase)]
    )
    found["failures" + suffix] = figure(
        failure_share(phase.rows), "share", "lower", [failure_share(part) for part in parts]
    )
    return found


def completed_per_s(phase: Phase) -> float:
    """Right masks that were complete in the phase, a second."""
    return goodput_per_s(phase.completed, phase.seconds)


def slices(phase: Phase, count: int = SLICES) -> list[list[Answered]]:
    """Answers by when they were due, in equal slices of time."""
    return _cut(phase, phase.rows, count, lambda row: row.due)


def done_slices(phase: Phase, count: int = SLICES) -> list[list[Answered]]:
    """Answers by when they were complete."""
    return _cut(phase, phase.completed, count, lambda row: row.done)


def anatomy_ms(rows: Sequence[Answered]) -> dict[str, float]:
    """Where the time of a median answer goes, ms; parts sum to the mean latency of the answers around the median.

    Parts are those of Server-Timing and two of ours (LATE, OUTSIDE). If the server tells more than the client saw,
    OUTSIDE is 0 and the sum is too large, which is left to be seen. Empty if no answer tells its times.
    """
    told = sorted((row for row in rows if row.good and row.server_ms), key=lambda row: row.latency_ms)
    if not told:
        return {}
    middle = told[int(BAND[0] * len(told)) : max(int(BAND[0] * len(told)) + 1, int(BAND[1] * len(told)))]
    parts = {LATE: statistics.fmean(1e3 * (row.sent - row.due) for row in middle)}
    for step in SERVER_STEPS:
        parts[step] = statistics.fmean(row.server_ms.get(step, 0.0) for row in middle)
    latency_ms = statistics.fmean(row.latency_ms for row in middle)
    return {**parts, OUTSIDE: max(0.0, latency_ms - sum(parts.values()))}


def anatomy_row(label: str, rows: Sequence[Answered]) -> dict[str, Any] | None:
    """The parts as a line of a table, with their sum over the client's p50, and the share that the server explains."""
    parts, p50_ms = anatomy_ms(rows), percentiles_ms(rows, (50,))["p50"]
    if not parts:
        return None
    total_ms = sum(parts.values())
    return {
        "load": label, "p50 ms": p50_ms, **{f"{part} ms": ms for part, ms in parts.items()},
        "sum/p50": total_ms / p50_ms, "told by the server": sum(parts[step] for step in SERVER_STEPS) / total_ms,
    }  # fmt: skip


def phase_row(phase: Phase) -> dict[str, Any]:
    """A phase as a line of a table."""
    return {
        "load": phase.label, "answers": len(phase.rows), "failed": sum(r.wrong is not None for r in phase.rows),
        "right masks/s": completed_per_s(phase),
        **{f"{name} ms": ms for name, ms in percentiles_ms(phase.rows).items()},
        "mean batch": mean_batch(row.batch_size for row in phase.rows if row.batch_size),
    }  # fmt: skip


def failures_of(rows: Iterable[Answered]) -> list[str]:
    """A sentence for each reason why an answer that said 200 was wrong, and for each status of requests that were lost.

    What a lost request was told may be different each time: the first stands for all of that status.
    """
    wrong, lost = Counter[str](), dict[int, list[str]]()
    for row in rows:
        if row.wrong is None:
            continue
        if row.status == 200:
            wrong[row.wrong] += 1
        else:
            lost.setdefault(row.status, []).append(row.wrong)
    return [
        *(f"{count} answers with status 200 were wrong: {reason}" for reason, count in wrong.items()),
        *(f"{len(reasons)} requests were lost, the first: {reasons[0]}" for reasons in lost.values()),
    ]


def slope_per_hour(times_s: Sequence[float], values: Sequence[float]) -> float:
    """Median of the slopes between all pairs of some hundred points (Theil-Sen): a few jumps don't decide it."""
    step = max(1, len(times_s) // 200)
    points = list(zip(times_s[::step], values[::step], strict=True))
    slopes = [
        (y2 - y1) / (t2 - t1) for n, (t1, y1) in enumerate(points) for t2, y2 in points[n + 1 :] if t2 > t1
    ]
    return 3600 * statistics.median(slopes) if slopes else math.nan


def _cut(
    phase: Phase, rows: Sequence[Answered], count: int, time_of: Callable[[Answered], float]
) -> list[list[Answered]]:
    parts: list[list[Answered]] = [[] for _ in range(count)]
    for row in rows:
        number = int((time_of(row) - phase.began) / phase.seconds * count)
        if 0 <= number < count:
            parts[number].append(row)
    return parts
