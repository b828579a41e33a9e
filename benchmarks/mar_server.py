"""A server for one .mar, for as long as a measurement takes: ports and run folder of its own, nothing left behind.

with serving(mar, read(mar), Path(folder)) as server:
    drive(server.url, ...)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks import mar_settings
from benchmarks.mar_settings import Settings
from benchmarks.ports import free_ports
from benchmarks.signals import as_ctrl_c
from deploy import launch, processes, run_folder
from deploy.management import Management
from deploy.options import REPOSITORY
from deploy.ready import StartLogs, wait_ready
from deploy.run_folder import Running
from segserve.errors import ServerError

MODEL = "measured"
READY_TIMEOUT_S = 300.0
MAX_REQUEST_BYTES = 8_000_000
"""Smaller than config.properties allows: the memory for waiting requests is counted as so many of the largest
(deploy/memory.py), and hundreds of clients shall wait here without 503. Photos of 3 megapixels have 1 or 2 MB."""
QUEUE_SIZE = 1000


@dataclass(frozen=True)
class MarServer:
    """A ready server."""

    running: Running

    @property
    def url(self) -> str:
        """Where to post photos to."""
        return f"{self.running.url}/predictions/{MODEL}"

    def memory_mib(self) -> dict[str, list[int]]:
        """Resident memory of Java and of each worker, now."""
        found: dict[str, list[int]] = {"java": [], "workers": []}
        for pid in processes.session_members(self.running.pid):
            with contextlib.suppress(*processes.GOING):
                of_java = pid == self.running.pid
                found["java" if of_java else "workers"].append(psutil.Process(pid).memory_info().rss >> 20)
        return found


@contextlib.contextmanager
def serving(mar: Path, settings: Settings, work: Path) -> Iterator[MarServer]:
    """Serve `mar` with these settings; `work` is an empty folder for all that the server writes.

    Raises: ServerError with the reason if it does not get ready.
    """
    store = work / "store"
    store.mkdir(parents=True)
    mar_settings.write(mar, store / "model.mar", settings)
    sizes = {"max_request_size": str(MAX_REQUEST_BYTES), "job_queue_size": str(QUEUE_SIZE)}
    config = work / "config.properties"
    config.write_text(launch.effective_config(REPOSITORY / "config.properties", sizes))
    inference, metrics = free_ports(2)
    run_dir = run_folder.create(work / "run")
    logs = StartLogs(run_dir / "logs")
    host = "127.0.0.1"
    plan = launch.Plan(
        run_dir, config, store, (f"{MODEL}=model.mar",), (host, inference), (host, metrics), "none"
    )
    with as_ctrl_c():
        running, process = launch.launch(plan)
        try:
            wait_ready(running, process, logs, READY_TIMEOUT_S, lambda _: None)
            _wait_for_all(running)
            yield MarServer(running)
        finally:
            processes.end_session(running.pid, timeout_s=10)
            process.wait()
            run_folder.clear(running)


def _wait_for_all(running: Running) -> None:
    """Ready means one worker; what is measured is all of them."""
    with Management.of(running) as management:

        def all_ready() -> bool:
            return all(model.workers_ready == model.workers for model in management.versions(MODEL))

        if not processes.wait_until(all_ready, READY_TIMEOUT_S):
            raise ServerError(f"not every worker got ready in {READY_TIMEOUT_S:.0f} s; see {running.log_dir}")
