"""What a load process saw: answers for the file and the objectives, versions, and how busy the process itself was.

A worker's record travels to the master in pieces, with Locust's own reports, so that the master's verdict counts every
answer and not Locust's rounded percentiles.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks.answers import Answered, append, parse

BUSY_SHARE = 0.9
"""Of one core: a process that uses more was late with its own work, so its latencies are not the server's."""
WINDOW_S = 10.0
"""Busy for so long counts, even if the rest of the run was calm."""
BOTTLENECK = "the client was the bottleneck"
"""How a process says that what was measured is the load generator itself."""
NO_REPORT = "no last report from"
"""How a master says that answers are missing: what a load process saw that died, or did not hand it over in time."""
UNWRITTEN = "answers were not written down"
"""How a process says that answers are missing which it had, or its workers: such as on a full disk."""


class Record:
    """The answers of one run, and of the workers' runs that were merged."""

    def __init__(self, file: Path | None, keep_rows: bool) -> None:
        """file: gets a line for each answer; keep_rows: for objectives, some 500 bytes an answer."""
        flags = os.O_CREAT | os.O_APPEND | os.O_WRONLY
        self._file = None if file is None else os.open(file, flags, 0o644)
        self.keep_rows = keep_rows
        self._cpu = CpuWatch()
        self.clear()

    def clear(self) -> None:
        """A new run begins."""
        self.rows: list[Answered] = []
        self.versions: set[str] = set()
        self.unwritten: dict[str, int] = {}
        """By reason."""
        self.busiest: dict[str, float] = {}
        self._cpu = CpuWatch()

    def add(self, row: Answered) -> None:
        """One answer of this process."""
        if self._file is not None:
            append(self._file, row)
        if row.version and row.good:
            self.versions.add(row.version)
        if self.keep_rows:
            self.rows.append(dataclasses.replace(row, server_ms={}))

    def missed(self, error: BaseException) -> None:
        """An answer that could not be judged to its end or written down: it is in no row."""
        reason = f"{type(error).__name__}: {error}"[:200]
        self.unwritten[reason] = self.unwritten.get(reason, 0) + 1

    def watch(self) -> None:
        """Call about once a second while the load runs: how much of a core this process takes."""
        self._cpu.sample()

    def finish(self, name: str) -> None:
        """The load of this process, of that name, is over."""
        self._cpu.sample()
        self.busiest[name] = self._cpu.busiest()

    def take(self) -> dict[str, Any]:
        """For the master: what was not taken before."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        unwritten = self.unwritten
        self.rows, self.unwritten = [], {}
        return {
            "rows": rows,
            "versions": sorted(self.versions),
            "busiest": self.busiest,
            "unwritten": unwritten,
        }

    def merge(self, piece: dict[str, Any]) -> None:
        """At the master: what a worker took."""
        self.rows += [parse(row) for row in piece["rows"]]
        self.versions.update(piece["versions"])
        self.busiest.update(piece["busiest"])
        for reason, count in piece["unwritten"].items():
            self.unwritten[reason] = self.unwritten.get(reason, 0) + count

    @property
    def seconds(self) -> float:
        """From the first request that was due to the last answer."""
        return max(row.done for row in self.rows) - min(row.due for row in self.rows) if self.rows else 0.0

    def gaps(self) -> list[str]:
        """A sentence for each reason why answers are missing."""
        return [f"{count} {UNWRITTEN}: {reason}" for reason, count in self.unwritten.items()]

    def bottlenecks(self) -> list[str]:
        """A sentence for each process that was too busy."""
        return [
            f"{BOTTLENECK}: load process {name} used {100 * share:.0f} % of a core, over "
            f"{100 * BUSY_SHARE:.0f} %, so its latencies are its own too. More processes (--processes), less load, or "
            "another machine"
            for name, share in sorted(self.busiest.items())
            if share > BUSY_SHARE
        ]


class CpuWatch:
    """CPU time of this process, all its threads, over time."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._samples: list[tuple[float, float]] = []

    def sample(self) -> None:
        """Now."""
        times = self._process.cpu_times()
        self._samples.append((time.monotonic(), times.user + times.system))

    def busiest(self) -> float:
        """As `busiest` below."""
        return busiest(self._samples)


def busiest(samples: Sequence[tuple[float, float]], window_s: float = WINDOW_S) -> float:
    """Largest share of a core over any window; samples: (clock, CPU time), both seconds. A shorter run is one window.

    0 if there are not two samples.
    """
    if len(samples) < 2:
        return 0.0
    shares, first = [_share(samples[0], samples[-1])], 0
    for last, sample in enumerate(samples):
        while first + 1 < last and sample[0] - samples[first + 1][0] >= window_s:
            first += 1
        if sample[0] - samples[first][0] >= window_s:
            shares.append(_share(samples[first], sample))
    return max(shares)


def _share(begin: tuple[float, float], end: tuple[float, float]) -> float:
    return (end[1] - begin[1]) / max(1e-9, end[0] - begin[0])
