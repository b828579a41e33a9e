"""What each scenario of `benchmarks.run` does, and what it says of the answers: latency, soak, swap.

The others are in scenario_spike.py and scenario_sweeps.py.

found = latency(options, session)         # Found: figures, tables, charts, sentences for what did not hold
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import charts, slo
from benchmarks.answers import Answered, percentiles_ms
from benchmarks.figures import (
    Figure,
    anatomy_ms,
    anatomy_row,
    completed_per_s,
    figure,
    figures_of,
    phase_row,
    slices,
    slope_per_hour,
)
from benchmarks.report_charts import stacked
from benchmarks.rollouts import roll_out, was_default
from benchmarks.run_options import Capacity, Common, Latency, Soak, Swap
from benchmarks.session import Phase, Session
from segserve.errors import UsageError

OUT_OF_TURN = "answered by a version out of turn"
FLAT = 1.05
"""The knee of latency: the fewest clients beyond which throughput grows by less than that."""


def _nothing(_: Answered) -> bool:
    return False


@dataclass
class Found:
    """What a scenario found out. missed: sentences of objectives, failed: of anything else that must hold.

    excused: whether a request failed because the scenario wanted it to; any other that failed fails the run.
    """

    figures: dict[str, Figure] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    charts: list[str] = field(default_factory=list)
    highlights: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    excused: Callable[[Answered], bool] = _nothing


def objectives_of(options: Common) -> tuple[slo.Objective, ...]:
    """Of --slo; none without. Raises: UsageError."""
    found = slo.read(options.slo) if options.slo is not None else ()
    if isinstance(options, Capacity):
        slo.refuse_floors(found)
    return found


def missed(options: Common, phase: Phase, where: str = "") -> list[str]:
    """The objectives that a load did not hold."""
    objectives = objectives_of(options)
    return [where + line for line in slo.missed(objectives, phase.rows, phase.seconds, phase.completed)]


def latency(options: Latency, session: Session) -> Found:
    """Closed load of more and more clients."""
    found, phases = Found(), list[Phase]()
    for clients in sorted(options.concurrency):
        phase = session.load(clients_text(clients), users=clients, seconds=options.level_s)
        phases.append(phase)
        found.figures.update(figures_of(phase, f" at {clients}"))
        found.missed += missed(options, phase, f"{phase.label}: ")
    knee = knee_of([(phase.users, completed_per_s(phase)) for phase in phases])
    found.figures["knee, clients"] = figure(knee, "clients", "higher")
    found.highlights = ["knee, clients", f"right masks a second at {knee}", f"p50 at {knee}", f"p99 at {knee}",
                        f"p50 at {phases[0].users}"]  # fmt: skip
    found.tables["Clients"] = [phase_row(phase) for phase in phases]
    anatomy = [anatomy_row(phase.label, phase.rows) for phase in phases]
    found.tables["Where the time of a median answer goes"] = [row for row in anatomy if row is not None]
    found.charts = [
        charts.percentiles(phases, objectives_of(options), knee),
        charts.throughput(phases, knee),
        stacked("Where the time of a median answer goes", "ms",
                [(phase.label, anatomy_ms(phase.rows)) for phase in phases if anatomy_ms(phase.rows)]),
        charts.cores(session.sampler.samples, []),
    ]  # fmt: skip
    return found


def clients_text(count: int) -> str:
    """As people say it."""
    return f"{count} client" + ("s" if count > 1 else "")


def knee_of(throughputs: list[tuple[int, float]]) -> int:
    """(clients, right masks a second) in order -> the fewest clients that make the most of the server, within 5 %."""
    best = max(rate for _, rate in throughputs)
    return next(clients for clients, rate in throughputs if rate * FLAT >= best)


def soak(options: Soak, session: Session) -> Found:
    """The same load for long."""
    phase = session.load(f"{options.users} clients for {options.minutes:g} min", users=options.users,
                         seconds=60 * options.minutes)  # fmt: skip
    found = Found(figures_of(phase), missed=missed(options, phase))
    quarters = slices(phase, 4)
    p99_ms = [percentiles_ms(quarter, (99,))["p99"] for quarter in quarters]
    found.figures["p99, last quarter to first"] = figure(p99_ms[-1] / p99_ms[0], "times", "lower")
    seen = [s for s in session.sampler.samples if phase.began + phase.seconds / 10 <= s["t"] <= phase.ended]
    for part in ("java", "workers"):
        points = [(s["t"], s[f"{part}_mib"]) for s in seen if s[f"{part}_mib"]]
        if len(points) > 1:
            growth = slope_per_hour([t for t, _ in points], [mib for _, mib in points])
            found.figures[f"{part}: growth"] = figure(growth, "MiB/h", "lower")
            found.figures[f"{part}: most memory"] = figure(max(mib for _, mib in points), "MiB", "lower")
    found.highlights = ["workers: growth", "java: growth", "workers: most memory", "p99, last quarter to first",
                        "p99", "right masks a second"]  # fmt: skip
    found.tables["The load"] = [phase_row(phase)]
    memory, *others = reversed(charts.over_time(phase, session.sampler.samples, []))
    found.charts = [memory, *reversed(others)]
    return found


def swap(options: Swap, session: Session) -> Found:
    """A rollout in the middle."""
    done: dict[str, Any] = {}

    def meanwhile(_: float) -> None:
        assert session.running is not None
        time.sleep(options.calm_s)  # Locust works meanwhile
        session.event("rollout begins", package=str(options.new))
        done.update(roll_out(options.new, Path(session.running.run_dir), options.watch_s))
        session.event("rollout ends", exit_code=done["exit_code"])
        time.sleep(options.calm_s)

    phase = session.load("a rollout under load", users=options.users, meanwhile=meanwhile)
    began, ended = done["began"], done["ended"]
    parts = {
        "before": [row for row in phase.rows if row.done < began],
        "during": [row for row in phase.rows if row.done >= began and row.due <= ended],
        "after": [row for row in phase.rows if row.due > ended],
    }
    found = Found(figures_of(phase), missed=missed(options, phase))
    _judge_swap(found, phase, done)
    for name, part in parts.items():
        found.figures[f"p99 {name}"] = figure(percentiles_ms(part, (99,))["p99"], "ms", "lower")
    found.highlights = ["requests lost", "p99 before", "p99 during", "p99 after", "rollout", OUT_OF_TURN]
    found.tables["Before, during, after"] = [part_row(name, part) for name, part in parts.items()]
    found.tables["Which version answered"] = versions_table(parts)
    since = (
        [("new version is the default", statistics.fmean(times))]
        if (times := done.get("default_since"))
        else []
    )
    marks = [("rollout begins", began), *since, ("ends", ended)]
    found.charts = charts.over_time(phase, session.sampler.samples, marks)
    return found


def _judge_swap(found: Found, phase: Phase, done: dict[str, Any]) -> None:
    """Requests lost, which fail any run, and answers of the version that was not the default; both must be none."""
    lost = [row for row in phase.rows if row.wrong is not None]
    good = [dataclasses.asdict(row) for row in phase.rows if row.wrong is None]
    strays = sum(not was_default(row, [done]) for row in good)
    found.figures["requests lost"] = figure(len(lost), "requests", "lower")
    found.figures[OUT_OF_TURN] = figure(strays, "requests", "lower")
    found.figures["rollout"] = figure(done["ended"] - done["began"], "s", "lower")
    if done["exit_code"] != 0:
        found.failed.append(f"the rollout failed: {done['error'].strip()}")
    if strays:
        found.failed.append(f"{strays} answers came from a version that was not the default")


def require_other_version(old_version: str, new_version: str) -> None:
    """Raises: UsageError."""
    if old_version == new_version:
        raise UsageError(f"--new is version {new_version} as well: export.build --version makes another")


def part_row(name: str, rows: list[Answered]) -> dict[str, Any]:
    """A part of a load as a line of a table."""
    failed = sum(row.wrong is not None for row in rows)
    return {"part": name, "answers": len(rows), "failed": failed,
            **{f"{key} ms": ms for key, ms in percentiles_ms(rows).items()}}  # fmt: skip


def versions_table(parts: dict[str, list[Answered]]) -> list[dict[str, Any]]:
    """Answers by version and part."""
    counts = {name: Counter(row.version or "none" for row in rows) for name, rows in parts.items()}
    versions = sorted({version for counter in counts.values() for version in counter})
    return [{"version": v, **{name: counter[v] for name, counter in counts.items()}} for v in versions]
