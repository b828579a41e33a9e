"""What the tests of rollouts share: a server with a model of its own, and clients that notice everything."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from benchmarks.slowed import version
from deploy import journal, processes, served
from deploy.management import Management
from deploy.run_folder import Running
from segserve.segmenter import Segmenter
from tests.e2e.serving import labels_of, run, start_options, started

PATIENT = ("--ready-timeout-s", "200", "--max-slowdown", "500", "--watch-s", "3")


@dataclass(frozen=True)
class Place:
    """A server with `rooms` 1.0 of its own, and where things are."""

    run_dir: Path
    store: Path
    options: list[str]
    source: Path

    @property
    def running(self) -> Running:
        return started(self.run_dir)

    def rollout(self, mar: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
        return run("deploy.rollout", mar, "--run-dir", self.run_dir, *PATIENT, *options, timeout_s=280)

    def mar(self, number: str, added_to_handler: str = "") -> Path:
        return version(self.source, self.store.parent / f"rooms-{number}.mar", number, added_to_handler)

    def versions(self) -> dict[str, str]:
        """Version → "default" or ""."""
        with Management.of(self.running) as management:
            default = management.default_version("rooms")
            return {
                v.version: "default" if v.version == default else "" for v in management.versions("rooms")
            }

    def worker_pids(self) -> set[int]:
        with Management.of(self.running) as management:
            return {pid for state in management.versions("rooms") for pid in state.worker_pids}

    def assert_untouched(self, workers: set[int]) -> None:
        """1.0 in service with the same workers, nothing else, no trace of an attempt."""
        assert self.versions() == {"1.0": "default"}
        assert self.worker_pids() == workers
        java = self.running.pid
        assert processes.wait_until(
            lambda: set(processes.session_members(java)) == workers | {java}, timeout_s=30
        )
        left = sorted(str(path.relative_to(self.store)) for path in self.store.rglob("*"))
        assert left == ["rooms.mar"], left
        assert journal.load(self.run_dir) is None
        assert served.load(self.run_dir)["rooms"] == served.Served("1.0", {"1.0": "rooms.mar"})


@contextlib.contextmanager
def served_place(source: Path, folder: Path, ports: list[int], *more: str) -> Iterator[Place]:
    store, run_dir = folder / "store", folder / "run"
    store.mkdir()
    source = Path(shutil.copy(source, store / "rooms.mar"))
    options = [*more, *start_options(store, run_dir, ports, ["rooms=rooms.mar"])]
    try:
        began = run("deploy.server", "start", "--detach", *options, "--ready-timeout-s", "200", timeout_s=250)
        assert began.returncode == 0, began.stderr
        yield Place(run_dir, store, options, source)
    finally:
        assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0


class Traffic:
    """Clients that post a photo again and again and keep what came back: status, version, whether the mask is right."""

    def __init__(self, running: Running, photo: bytes, offline: Segmenter, clients: int = 3) -> None:
        self._url, self._photo, self._labels = running.url, photo, offline.segment(photo)
        self._end = threading.Event()
        self.seen: list[tuple[int, str, bool]] = []
        self._threads = [threading.Thread(target=self._post) for _ in range(clients)]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()

    def _post(self) -> None:
        with httpx.Client(base_url=self._url, timeout=120) as client:
            while not self._end.is_set():
                answer = client.post("/predictions/rooms", content=self._photo)
                right = answer.status_code == 200 and np.array_equal(labels_of(answer), self._labels)
                self.seen.append((answer.status_code, answer.headers.get("x-segserve-version", ""), right))
