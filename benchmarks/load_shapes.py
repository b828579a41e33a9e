"""How many users a load shape wants when: functions of time, without Locust. benchmarks/shapes.py hands them to it.

Steps(users=4, step_s=30.0, steps=8).at(45.0) -> 8
read_trace(Path("monday.csv")).at(45.0)
"""

from __future__ import annotations

import bisect
import csv
import itertools
import math
from dataclasses import dataclass
from pathlib import Path

from segserve.errors import UsageError

USERS, ARRIVALS = "users", "arrivals_per_s"


@dataclass(frozen=True)
class Steps:
    """More users step by step: the knee is where latency grows and throughput does not."""

    users: int
    step_s: float
    steps: int

    def __post_init__(self) -> None:
        if min(self.users, self.steps) < 1 or self.step_s <= 0:
            raise UsageError("--step-users and --steps: expected at least 1; --step-s: more than 0")

    def at(self, seconds: float) -> int | None:
        """Users at that time; None when the load is over."""
        step = int(seconds // self.step_s)
        return None if step >= self.steps else (step + 1) * self.users


@dataclass(frozen=True)
class Spike:
    """Calm, many at once, calm again for as long: does the server come back?"""

    calm_users: int
    spike_users: int
    calm_s: float
    spike_s: float

    def __post_init__(self) -> None:
        if min(self.calm_users, self.spike_users) < 1 or min(self.calm_s, self.spike_s) <= 0:
            raise UsageError(
                "--calm-users, --spike-users: expected at least 1; --calm-s, --spike-s: more than 0"
            )

    def at(self, seconds: float) -> int | None:
        """Users at that time; None when the load is over."""
        if seconds >= 2 * self.calm_s + self.spike_s:
            return None
        return self.spike_users if self.calm_s <= seconds < self.calm_s + self.spike_s else self.calm_users


@dataclass(frozen=True)
class Soak:
    """The same for long: memory, connections and files that grow show now. Users come one after another at first."""

    users: int
    minutes: float
    ramp_s: float

    def __post_init__(self) -> None:
        if self.users < 1 or min(self.minutes, self.ramp_s) <= 0:
            raise UsageError("--soak-users: expected at least 1; --soak-minutes, --soak-ramp-s: more than 0")

    def at(self, seconds: float) -> int | None:
        """Users at that time; None when the load is over."""
        if seconds >= 60 * self.minutes:
            return None
        return max(1, round(min(1.0, (seconds + 1) / self.ramp_s) * self.users))


@dataclass(frozen=True)
class Trace:
    """How many users (or arrivals a second) from which second on; the last row is the end."""

    seconds: tuple[float, ...]
    counts: tuple[float, ...]
    of_arrivals: bool

    def at(self, seconds: float) -> int | None:
        """Users at that time, rounded; None after the end."""
        number = bisect.bisect_right(self.seconds, seconds) - 1
        return None if number == len(self.seconds) - 1 else round(self.counts[max(0, number)])


def read_trace(path: Path) -> Trace:
    """A CSV file with the header `seconds,users` or `seconds,arrivals_per_s`. Raises: UsageError."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [row for row in csv.reader(file) if row]
    except (OSError, ValueError) as error:
        raise UsageError(f"--trace: cannot read {path}: {error}") from None
    header = tuple(cell.strip() for cell in rows[0]) if rows else ()
    if header not in (("seconds", USERS), ("seconds", ARRIVALS)):
        raise UsageError(
            f"--trace: {path} begins with {','.join(header)!r}, expected seconds,{USERS} or {ARRIVALS}"
        )
    try:
        points = [(float(second), float(count)) for second, count in rows[1:]]
    except ValueError:
        raise UsageError(f"--trace: {path} has a row that is not two numbers") from None
    seconds = tuple(second for second, _ in points)
    if len(points) < 2 or seconds[0] != 0 or any(b <= a for a, b in itertools.pairwise(seconds)):
        raise UsageError(
            f"--trace: {path}: expected two rows or more, from second 0 on, each later than the last"
        )
    if not all(math.isfinite(count) and count >= 0 for _, count in points):
        raise UsageError(f"--trace: {path}: expected counts from 0")
    return Trace(seconds, tuple(count for _, count in points), header[1] == ARRIVALS)
