"""Answers and phases of a load test, made up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks.answers import Answered
from benchmarks.session import Phase

BEGAN = 1000.0


def row(
    due: float, latency_ms: float, wrong: str | None = None, version: str = "1.0", late_ms: float = 0.0,
    status: int = 200, steps: Mapping[str, float] | None = None,
) -> Answered:  # fmt: skip
    return Answered(
        due, due + late_ms / 1e3, due + latency_ms / 1e3, status, wrong, "a", "png", "raw", version, "cpu", "onnx", 1,
        steps or {}, 1000,
    )  # fmt: skip


def phase(rows: Sequence[Answered], seconds: float = 12.0, users: int = 2) -> Phase:
    """Rows that were due before its beginning count as completed only."""
    end = BEGAN + seconds
    due = tuple(one for one in rows if BEGAN <= one.due < end)
    completed = tuple(one for one in rows if BEGAN <= one.done < end)
    return Phase(f"{users} clients", users, 0.0, BEGAN, end, due, completed, (), BEGAN)


def queued(rate_per_s: float, service_ms: float, seconds: float) -> tuple[Answered, ...]:
    """What one server that takes so long for each gives to requests at equal distances, one in four twice as large."""
    free, rows = BEGAN, []
    for number in range(int(rate_per_s * seconds)):
        due = BEGAN + number / rate_per_s
        free = max(free, due) + service_ms / 1e3 * (2 if number % 4 == 0 else 1)
        rows.append(row(due, 1e3 * (free - due)))
    return tuple(rows)
