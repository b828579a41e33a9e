"""What a server serves: versions, default, what is kept, workers, queue, memory, and a rollout that was cut off.

    python -m deploy.status --run-dir run [--json]

Exit code: 0 if every version has all its workers READY and no rollout was cut off; 1 otherwise, or if nothing runs.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy import journal, run_folder, served
from deploy.management import Management
from deploy.probe import memory_mib
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
        print(json.dumps({"running": False}) if config.json else f"nothing runs in {config.run_dir}")
        return 1
    with Management.of(running) as management:
        rows = versions(management, served.load(config.run_dir))
    left = journal.load(config.run_dir)
    good = left is None and all(row["workers_ready"] == row["workers"] > 0 for row in rows)
    if config.json:
        cut_off = dataclasses.asdict(left) if left else None
        print(json.dumps({"running": True, "url": running.url, "versions": rows, "rollout": cut_off}))
        return 0 if good else 1
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
    if left is not None:
        print(
            f"a rollout of {left.name} {left.new} is on its way, or was cut off: the next rollout clears up after it"
        )
    return 0 if good else 1


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
