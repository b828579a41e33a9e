"""Servers one at a time: started on a free port, watched for memory, ended with every process that they made.

Nothing is ended by name: what belongs to a server is its session and its descendants, as they were seen while it
ran. No server may report its use to anybody or look for other machines.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from benchmarks.ports import free_ports
from benchmarks.signals import as_ctrl_c
from deploy import processes, run_folder
from segserve.errors import ServerError

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0
SAMPLE_S = 1.0
NO_TELEMETRY = {
    "BENTOML_DO_NOT_TRACK": "True",
    "RAY_USAGE_STATS_ENABLED": "0",
    "OTEL_SDK_DISABLED": "true",
    "DO_NOT_TRACK": "1",
}


@dataclass
class Server:
    """A server that answers. `pid` is the leader of its session."""

    url: str
    pid: int
    log: Path
    peak_mib: float = 0.0

    def family(self) -> list[psutil.Process]:
        """Its processes: the session's and all descendants."""
        pids = set(processes.session_members(self.pid))
        with contextlib.suppress(psutil.NoSuchProcess):
            pids.update(child.pid for child in psutil.Process(self.pid).children(recursive=True))
        found = []
        for pid in pids:
            with contextlib.suppress(psutil.NoSuchProcess):
                found.append(psutil.Process(pid))
        return found

    def sample_memory(self) -> None:
        """Keep the largest sum of proportional set sizes: pages that processes share count once."""
        total = 0
        for process in self.family():
            with contextlib.suppress(*processes.GOING):
                total += process.memory_full_info().pss
        self.peak_mib = max(self.peak_mib, total / 2**20)


@contextlib.contextmanager
def torchserve(store: Path, mar: str, config: Path, work: Path) -> Iterator[Server]:
    """TorchServe with one model, named `peer`, through deploy.server as in production."""
    port, metrics_port = free_ports(2)
    run_dir = work / "run"
    start = [
        "start", "--detach", "--run-dir", run_dir, "--model-store", store, "--models", f"peer={mar}",
        "--port", port, "--metrics-port", metrics_port, "--config", config, "--ready-timeout-s", int(START_TIMEOUT_S),
    ]  # fmt: skip
    with as_ctrl_c():
        try:
            _deploy_server(*start)
            running = run_folder.load(run_dir)
            if running is None:
                raise ServerError(f"{run_dir} names no server although it started; see {run_dir / 'logs'}")
            server = Server(running.url, running.pid, run_dir / "logs" / "model_log.log")
            with _watched(server):
                yield server
        finally:
            _deploy_server("stop", "--run-dir", run_dir)


@contextlib.contextmanager
def process(
    arguments: Sequence[str], settings: Mapping[str, object], python: Path, work: Path
) -> Iterator[Server]:
    """A peer's own server, started with the Python of its environment.

    `settings` is what benchmarks.peers.apps.usual.Settings reads; its port is where the server listens.
    """
    work.mkdir(parents=True, exist_ok=True)
    log = work / "server.log"
    with as_ctrl_c(), log.open("wb") as console:
        started = subprocess.Popen(
            arguments,
            cwd=work,
            env=environment(settings, python, work),
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        server = Server(f"http://127.0.0.1:{settings['port']}", started.pid, log)
        try:
            _wait_listening(server, started)
            with _watched(server):
                yield server
        finally:
            end(server, started)


def environment(settings: Mapping[str, object], python: Path, work: Path) -> dict[str, str]:
    """What a peer's process sees: nothing of our environment's packages, no proxies, its own scratch folder."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("PYTHON") and key.lower() not in ("http_proxy", "https_proxy", "all_proxy")
    }
    return {
        **kept,
        **NO_TELEMETRY,
        "PEER_SETTINGS": json.dumps(settings),
        "PATH": os.pathsep.join([str(python.parent), os.environ.get("PATH", "")]),
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": str(settings["threads"]),
        "TMPDIR": str(work),
        "BENTOML_HOME": str(work / "bentoml"),
        # Ray Serve's own switch for throughput
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    }


def end(server: Server, started: subprocess.Popen[bytes]) -> None:
    """SIGTERM, time to end, SIGKILL for whatever is left of the family."""
    family = {member.pid: member for member in server.family()}
    processes.send([server.pid], signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        started.wait(STOP_TIMEOUT_S)
    family |= {member.pid: member for member in server.family()}
    _, left = psutil.wait_procs(list(family.values()), timeout=2.0)
    for member in left:
        with contextlib.suppress(*processes.GOING):
            member.kill()  # psutil checks that it is still that very process
    psutil.wait_procs(left, timeout=10.0)
    started.wait()


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    if not path.exists():
        return f"{path} was not written"
    return "\n  ".join([f"{path}:", *path.read_text(errors="replace").splitlines()[-lines:]])


def _wait_listening(server: Server, started: subprocess.Popen[bytes]) -> None:
    port = int(server.url.rpartition(":")[2])
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        if started.poll() is not None:
            raise ServerError(f"it ended with code {started.returncode}; {log_tail(server.log)}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise ServerError(
                f"nothing listens on port {port} after {START_TIMEOUT_S:.0f} s; {log_tail(server.log)}"
            )
        time.sleep(processes.POLL_S)


@contextlib.contextmanager
def _watched(server: Server) -> Iterator[None]:
    """Sample the memory beside what happens in the `with`."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(SAMPLE_S):
            server.sample_memory()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _deploy_server(*arguments: object) -> None:
    words = [sys.executable, "-m", "deploy.server", *map(str, arguments)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    if done.returncode != 0:
        raise ServerError(f"deploy.server {arguments[0]}: {done.stderr.strip()[-1000:]}")
