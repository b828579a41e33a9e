"""Workers that are killed under load, again and again: does a client with the default retries notice?

    python -m benchmarks.kills model_store/rooms.mar --every-s 10 --minutes 2 --clients 8

Clients (deploy.client, its default policy) send photos of 0.3 to 3 megapixels without a break and compare every mask
with that of the quiet server; SIGKILL strikes the worker every so often. Exit code 1 if any call failed or any mask
was wrong, or if the worker took longer to come back than --full-within-s.
"""

from __future__ import annotations

import math
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from benchmarks import host, loaded, mar_settings
from benchmarks.photos import Photo, mixed_photos
from deploy.client import Client
from deploy.management import Management
from deploy.processes import send, wait_until
from deploy.run_folder import Running
from segserve.cli import run
from segserve.errors import SegserveError, UsageError
from segserve.package import check_package

RECOVERY_TIMEOUT_S = 120.0


@dataclass(frozen=True)
class KillsConfig:
    """What is killed how often, and who looks on."""

    mar: tyro.conf.Positional[Path]
    """Package that is served."""
    every_s: float = 10.0
    """Seconds from kill to kill."""
    minutes: float = 2.0
    """How long."""
    clients: int = 8
    """Threads that share one Client."""
    full_within_s: float = 10.0
    """How long it may take from a kill until every worker is READY again."""
    seed: int = 100
    """Of the rendered photos."""
    json: bool = False
    """Print JSON."""

    def __post_init__(self) -> None:
        mar_settings.require_files(self.mar, None)
        if self.every_s <= 0 or self.minutes <= 0 or self.clients < 1:
            raise UsageError("--every-s and --minutes: more than 0; --clients: at least 1")


class Caller(threading.Thread):
    """One client: photo after photo until `end`."""

    def __init__(self, client: Client, photos: Sequence[tuple[Photo, bytes]], end: threading.Event) -> None:
        super().__init__()
        self._client, self._photos, self._end = client, photos, end
        self.latencies_s: list[float] = []
        self.wrong: list[str] = []

    def run(self) -> None:
        """Compare every mask, byte for byte."""
        number = 0
        while not self._end.is_set():
            photo, expected = self._photos[number % len(self._photos)]
            number += 1
            began = time.monotonic()
            try:
                if self._client.segment(photo.jpeg, "png") != expected:
                    self.wrong.append(f"{photo.name}: another mask")
            except SegserveError as error:
                self.wrong.append(f"{photo.name}: {error}")
            self.latencies_s.append(time.monotonic() - began)


def main(config: KillsConfig) -> int:
    """Exit code as above."""
    spec = check_package(config.mar)
    with (
        tempfile.TemporaryDirectory(prefix="kills-") as work,
        loaded.server(config.mar, spec.name, Path(work)) as running,
    ):
        found = measure(config, running, spec.name)
    slow = max(found["recovery_s"]) > config.full_within_s
    if config.json:
        print(host.json_of(found))
    else:
        print(
            f"{found['kills']} kills, {found['answers']} calls: {len(found['wrong'])} failed or wrong; READY again "
            f"after {found['recovery_s_median']:.1f} s (median), {max(found['recovery_s']):.1f} s at most; latency p50 "
            f"{found['p50_ms']:.0f} ms, worst {found['worst_ms']:.0f} ms"
        )
        for reason in found["wrong"][:10]:
            print(f"  {reason}")
    return 1 if found["wrong"] or slow else 0


def measure(config: KillsConfig, running: Running, name: str) -> dict[str, Any]:
    """Load and kill. Returns: the figures."""
    end = threading.Event()
    with Client(running.url, name) as client, Management.of(running) as management:
        photos = [(photo, client.segment(photo.jpeg, "png")) for photo in mixed_photos(config.seed)]
        callers = [Caller(client, photos, end) for _ in range(config.clients)]
        for caller in callers:
            caller.start()
        recoveries_s = []
        try:
            stop = time.monotonic() + 60 * config.minutes
            while time.monotonic() < stop:
                next_kill = time.monotonic() + config.every_s
                recoveries_s.append(_kill(management, name))
                wait_until(lambda at=next_kill: time.monotonic() >= at, config.every_s + 1)  # type: ignore[misc]
        finally:
            end.set()
            for caller in callers:
                caller.join()
    latencies_s = sorted(latency for caller in callers for latency in caller.latencies_s)
    return {
        "kills": len(recoveries_s),
        "answers": len(latencies_s),
        "wrong": [reason for caller in callers for reason in caller.wrong],
        "recovery_s": recoveries_s,
        "recovery_s_median": sorted(recoveries_s)[len(recoveries_s) // 2],
        "p50_ms": 1e3 * latencies_s[len(latencies_s) // 2],
        "worst_ms": 1e3 * latencies_s[-1],
    }


def _kill(management: Management, name: str) -> float:
    """Kill every worker of the model. Returns: seconds until new ones are all READY; infinite if they never are."""
    pids = {pid for state in management.versions(name) for pid in state.worker_pids}
    send(pids, signal.SIGKILL)
    killed = time.monotonic()

    def back() -> bool:
        states = management.versions(name)
        return all(s.workers == s.workers_ready > 0 and not pids & set(s.worker_pids) for s in states)

    return time.monotonic() - killed if wait_until(back, RECOVERY_TIMEOUT_S) else math.inf


if __name__ == "__main__":
    run(KillsConfig, main)
