"""The charts of `benchmarks.run`, from phases and samples; report_charts.py draws.

marks: names and times (s since 1970) of what happened.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.answers import PERCENTS, Answered, percentiles_ms
from benchmarks.figures import completed_per_s, done_slices, slices
from benchmarks.report_charts import Chart, Series, lines
from benchmarks.session import Phase
from benchmarks.slo import Objective

POINTS = 60
MIN_SLICE_S = 1.0

Marks = Sequence[tuple[str, float]]


def limits_of(objectives: Sequence[Objective]) -> list[tuple[str, float]]:
    """The strictest latency limits as lines, ms."""
    found = []
    for percent in PERCENTS:
        values = [getattr(objective, f"p{percent}_ms") for objective in objectives]
        if known := [value for value in values if value is not None]:
            found.append((f"SLO p{percent}", float(min(known))))
    return found


def percentiles(phases: Sequence[Phase], objectives: Sequence[Objective], knee: int) -> str:
    """Latency over clients."""
    series = [
        Series(
            f"p{p}", [(float(one.users), percentiles_ms(one.rows, (p,))[f"p{p}"]) for one in phases], number
        )
        for number, p in enumerate(PERCENTS)
    ]
    chart = Chart("Latency over clients", "clients (closed load)", "ms", spread=True)
    return lines(chart, series, limits_of(objectives), [("knee", float(knee))])


def throughput(phases: Sequence[Phase], knee: int) -> str:
    """Right masks a second over clients."""
    series = [Series("right masks a second", [(float(one.users), completed_per_s(one)) for one in phases], 2)]
    chart = Chart("Throughput over clients", "clients (closed load)", "/s", spread=True)
    return lines(chart, series, marks=[("knee", float(knee))])


def over_time(phase: Phase, samples: Sequence[dict[str, Any]], marks: Marks) -> list[str]:
    """Latency, answers a second, cores, memory."""
    return [timeline(phase, marks), rate(phase, marks), cores(samples, marks), memory(samples, marks)]


def timeline(phase: Phase, marks: Marks) -> str:
    """Percentiles over time: of answers by when they were due."""
    count = _count(phase)

    def series(percent: int, colour: int) -> Series:
        def value(rows: list[Answered]) -> float:
            return percentiles_ms(rows, (percent,))[f"p{percent}"]

        return Series(f"p{percent}", _points(slices(phase, count), phase, value), colour)

    chart = Chart("Latency over time", "seconds from the beginning", "ms")
    return lines(chart, [series(50, 0), series(99, 1)], marks=_shifted(marks, phase.began))


def rate(phase: Phase, marks: Marks) -> str:
    """Answers a second over time, by version."""
    count = _count(phase)
    length_s = phase.seconds / count
    versions = sorted({row.version or "" for row in phase.rows if row.good})
    series = []
    for number, version in enumerate(versions):

        def value(rows: list[Answered], version: str = version) -> float:
            return sum(row.good and row.version == version for row in rows) / length_s

        series.append(Series(f"version {version}", _points(done_slices(phase, count), phase, value), number))

    def failed(rows: list[Answered]) -> float:
        return sum(row.wrong is not None for row in rows) / length_s

    if any(row.wrong is not None for row in phase.rows):
        series.append(Series("failed", _points(done_slices(phase, count), phase, failed), len(versions)))
    chart = Chart("Answers a second, by version", "seconds from the beginning", "/s")
    return lines(chart, series, marks=_shifted(marks, phase.began))


def memory(samples: Sequence[dict[str, Any]], marks: Marks) -> str:
    """Resident memory over time."""
    names = {"java_mib": "Java", "workers_mib": "workers"}
    return _sampled("Memory of the server", "MiB", samples, names, marks)


def cores(samples: Sequence[dict[str, Any]], marks: Marks) -> str:
    """CPU over time; 1 is a core that is busy."""
    names = {"server_cores": "server", "client_cores": "client"}
    return _sampled("Cores in use", "cores", samples, names, marks)


def gpus(samples: Sequence[dict[str, Any]]) -> list[str]:
    """A chart of utilisation and one of power, if there are GPUs."""
    if not samples or not samples[0]["gpus"]:
        return []
    began, drawn = samples[0]["t"], []
    for key, title, unit, factor in (("busy", "GPUs in use", "%", 100.0), ("power_w", "Power", "W", 1.0)):
        series = [
            Series(f"GPU {number}", [(s["t"] - began, factor * _or_nan(s["gpus"][number][key])) for s in samples],
                   number)
            for number in range(len(samples[0]["gpus"]))
        ]  # fmt: skip
        drawn.append(lines(Chart(title, "seconds from the first sample", unit), series))
    return drawn


def _or_nan(value: float | None) -> float:
    """What the driver did not tell is no point of the line, least of all one at 0."""
    return math.nan if value is None else value


def _sampled(
    title: str, unit: str, samples: Sequence[dict[str, Any]], names: dict[str, str], marks: Marks
) -> str:
    if not samples:
        return ""
    began, step = samples[0]["t"], max(1, len(samples) // 400)
    series = [
        Series(name, [(s["t"] - began, s[key]) for s in samples[::step] if s[key] is not None], number)
        for number, (key, name) in enumerate(names.items())
    ]
    chart = Chart(title, "seconds from the first sample", unit)
    return lines(chart, [one for one in series if one.points], marks=_shifted(marks, began))


def _points(
    parts: Sequence[list[Answered]], phase: Phase, value: Callable[[list[Answered]], float]
) -> list[tuple[float, float]]:
    length_s = phase.seconds / len(parts)
    points = [((number + 0.5) * length_s, value(rows)) for number, rows in enumerate(parts)]
    return [(x, y) for x, y in points if math.isfinite(y)]


def _count(phase: Phase) -> int:
    return max(2, min(POINTS, int(phase.seconds / MIN_SLICE_S)))


def _shifted(marks: Marks, began: float) -> list[tuple[str, float]]:
    return [(name, t - began) for name, t in marks]
