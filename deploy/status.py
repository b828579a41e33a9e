"""What a server serves: versions, default, what is kept, workers, queue, memory, and a rollout that was cut off.

    python -m deploy.status --run-dir run [--json]

Exit code: 0 if every default version and every canary of the front has a READY worker (while a rollout is at work: only
every default version) and no rollout was cut off before its version was in service; 1 otherwise, or if nothing runs. So
it serves as a health check. Other versions that did not load or have no READY worker are named, and no reason for 1:
starting the server anew for a spare version would end the service of the others.
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
from deploy.front_process import front_running
from deploy.journal import Journal
from deploy.management import Management, ModelState
from deploy.processes import memory_mib
from deploy.run_folder import Running
from segserve.cli import run
from segserve.errors import Unreachable


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
        nothing = {"ready": False, "server": None, "versions": list[Any](), "missing": [], "rollout": None}
        print(json.dumps(nothing) if config.json else f"nothing runs in {config.run_dir}")
        return 1
    rollout, known = journal.load(config.run_dir), served.load(config.run_dir)
    at_work = rollout is not None and journal.at_work(config.run_dir)
    rows = versions(running, known)
    ready, missing = is_ready(rows, rollout, at_work), not_loaded(rows, known) if rows else []
    if config.json:
        left = dataclasses.asdict(rollout) | {"at_work": at_work} if rollout else None
        server = dataclasses.asdict(running)
        found = {"ready": ready, "server": server, "versions": rows, "missing": missing, "rollout": left}
        print(json.dumps(found))
    else:
        show(running, rows, missing)
        if rollout is not None:
            print(_told(rollout, at_work))
    return 0 if ready else 1


def is_ready(rows: list[dict[str, Any]], rollout: Journal | None, at_work: bool) -> bool:
    """Whether the service is as it shall be.

    What a rollout at work is loading need not be ready yet, and it looks after its canary itself; what it left behind
    when it was killed is an error, but for an old version that is still to be retired.
    """
    served_now = [row for row in rows if row["default"] or (row["canary"] and not at_work)]
    ready = bool(rows) and all(row["workers_ready"] > 0 for row in served_now)
    return ready and (at_work or rollout is None or rollout.committed)


def show(running: Running, rows: list[dict[str, Any]], missing: list[str]) -> None:
    """The table, and what else an operator looks for."""
    table = Table(
        "model", "version", "", "READY", "waiting", "MiB", "from", title=running.url, title_justify="left"
    )
    for row in rows:
        marks = ", ".join(mark for mark in ("default", "kept", "canary") if row[mark])
        table.add_row(
            row["name"], row["version"], marks, f"{row['workers_ready']} of {row['workers']}", str(row["pending"]),
            f"{row['memory_mib']:.0f}", row["file"],
        )  # fmt: skip
    Console(highlight=False).print(table)
    print(f"process {running.pid}, tokens {running.auth}, metrics {running.metrics_url}/metrics")
    print(f"management {running.management_socket}, logs {running.log_dir}")
    for row in rows:
        if not row["workers_ready"]:
            print(
                f"{row['name']} {row['version']} has no READY worker; why is in {running.log_dir}/model_log.log"
            )
    for model in missing:
        print(f"{model} is missing: it did not load when the server was started; the next start tries again")


def _told(rollout: Journal, at_work: bool) -> str:
    what = f"a rollout of {rollout.name} {rollout.new}"
    if at_work:
        return f"{what} is at work"
    if rollout.committed:
        return f"{what} was cut off, when it was in service already: the next rollout clears up after it"
    return f"{what} was cut off: `python -m deploy.rollback` clears up after it, as the next rollout or start would"


def versions(running: Running, known: dict[str, served.Served]) -> list[dict[str, Any]]:
    """One row for each version of each model; none where the server does not answer, which is said."""
    rows, front = list[dict[str, Any]](), front_running(Path(running.run_dir))
    canaries = front.canaries if front else {}
    try:
        with Management.of(running) as management:
            for name in management.names():
                default = management.default_version(name)
                kept = known[name].kept if name in known else None
                canary = canaries[name].version if name in canaries else None
                rows += [_row(state, default, kept, canary) for state in management.versions(name)]
    except Unreachable:
        Console(stderr=True).print("the management API does not answer")
        return []
    return rows


def _row(state: ModelState, default: str, kept: str | None, canary: str | None) -> dict[str, Any]:
    return {
        **dataclasses.asdict(state), "default": state.version == default, "kept": state.version == kept,
        "canary": state.version == canary, "memory_mib": memory_mib(state.worker_pids),
    }  # fmt: skip


def not_loaded(rows: list[dict[str, Any]], known: dict[str, served.Served]) -> list[str]:
    """NAME=FILE of what is to be served and is not."""
    there = {(row["name"], row["version"]) for row in rows}
    return [
        f"{name}={file}"
        for name, model in known.items()
        for version, file in model.files.items()
        if (name, version) not in there
    ]


if __name__ == "__main__":
    run(StatusConfig, main)
