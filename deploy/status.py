"""What a server serves: versions, default, what is kept, workers, queue, memory, and a rollout that was cut off.

    python -m deploy.status --run-dir run [--json]

Exit code: 0 if every version has a READY worker (while a rollout is at work: every default version) and no rollout was
cut off; 1 otherwise, or if nothing runs. So it serves as a health check.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

from deploy import journal, run_folder, served
from deploy.journal import Journal
from deploy.management import Management
from deploy.probe import memory_mib
from deploy.run_folder import Running
from segserve.cli import run


@dataclass(frozen=True)
class StatusConfig:
    """Which server."""

    run_dir: Path = Path("run")
    """Its folder."""
    json: bool = False
    """Print JSON."""


def main(config: StatusConfig) -> int:
    """Exit code as above."""
    running = run_folder.load(config.run_dir)
    if running is None or not running.alive():
        nothing: dict[str, Any] = {"ready": False, "server": None, "versions": [], "rollout": None}
        print(json.dumps(nothing) if config.json else f"nothing runs in {config.run_dir}")
        return 1
    rollout = journal.load(config.run_dir)
    at_work = rollout is not None and journal.at_work(config.run_dir)
    try:
        with Management.of(running) as management:
            rows = versions(management, served.load(config.run_dir))
    except httpx.TransportError:
        Console(stderr=True).print("the management API does not answer")
        rows = []
    # what a rollout at work is loading need not be ready yet; what it left behind when it was killed is an error
    ready = bool(rows) and all(row["workers_ready"] > 0 for row in rows if row["default"] or not at_work)
    ready = ready and (at_work or rollout is None)
    if config.json:
        left = dataclasses.asdict(rollout) | {"at_work": at_work} if rollout else None
        server = dataclasses.asdict(running)
        print(json.dumps({"ready": ready, "server": server, "versions": rows, "rollout": left}))
    else:
        show(running, rows)
        if rollout is not None:
            print(_told(rollout, at_work))
    return 0 if ready else 1


def show(running: Running, rows: list[dict[str, Any]]) -> None:
    """The table, and what else an operator looks for."""
    table = Table(
        "model", "version", "", "READY", "waiting", "MiB", "from", title=running.url, title_justify="left"
    )
    for row in rows:
        marks = ", ".join(mark for mark in ("default", "kept") if row[mark])
        table.add_row(
            row["name"], row["version"], marks, f"{row['workers_ready']} of {row['workers']}", str(row["pending"]),
            f"{row['memory_mib']:.0f}", row["file"],
        )  # fmt: skip
    Console(highlight=False).print(table)
    print(f"process {running.pid}, tokens {running.auth}, metrics {running.metrics_url}/metrics")
    print(f"management {running.management_socket}, logs {running.log_dir}")


def _told(rollout: Journal, at_work: bool) -> str:
    what = f"a rollout of {rollout.name} {rollout.new}"
    return f"{what} is at work" if at_work else f"{what} was cut off: the next rollout clears up after it"


def versions(management: Management, known: dict[str, served.Served]) -> list[dict[str, Any]]:
    """One row for each version of each model."""
    rows = []
    for name in management.names():
        default = management.default_version(name)
        for state in management.versions(name):
            kept = known[name].kept if name in known else None
            rows.append({
                **dataclasses.asdict(state), "default": state.version == default, "kept": state.version == kept,
                "memory_mib": memory_mib(state.worker_pids),
            })  # fmt: skip
    return rows


if __name__ == "__main__":
    run(StatusConfig, main)
