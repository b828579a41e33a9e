"""Starting and stopping: signals, taken ports, broken models, servers that were killed. Nothing is left running.

Starting again with a version that was damaged meanwhile is in test_damaged_versions.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from deploy import processes
from deploy import server as server_commands
from deploy.options import Start
from deploy.run_folder import Running
from segserve.errors import UsageError
from tests.e2e.serving import ECHO, archive, begun, run, start_options, started
from tests.mute import Mute

pytestmark = pytest.mark.timeout(900)  # several starts each, which are patient with a busy machine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small models: one that answers what it gets, and some that are broken in different ways."""
    folder = tmp_path_factory.mktemp("store")
    archive(folder / "echo.mar", "echo", ECHO)
    archive(folder / "imports.mar", "imports", "import no_such_library\n" + ECHO)
    archive(folder / "slow.mar", "slow", "import time\n" + ECHO.replace("pass", "time.sleep(600)"))
    archive(folder / "dies.mar", "dies", "import os\n" + ECHO.replace("pass", "os._exit(9)"))
    return folder


@contextlib.contextmanager
def foreground(options: list[str]) -> Iterator[subprocess.Popen[str]]:
    """`deploy.server start` in the foreground, up to its ready line."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with begun("deploy.server", "start", *options, **pipes, start_new_session=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line.startswith("ready: "), process.stderr.read() if process.stderr else ""
        yield process


def assert_gone(run_dir: Path, ports: list[int], running: Running | None = None) -> None:
    """No process, no socket, no state of the server is left; its logs are."""
    left = [process.pid for process in psutil.process_iter() if mentions(process, str(run_dir))]
    assert left == []
    assert running is None or processes.session_members(running.pid) == []
    assert running is None or not Path(running.management_socket).exists()
    left_files = {path.name for path in run_dir.iterdir()} - {"models.json"}  # of one that was READY
    assert left_files == {".lock", "config.properties", "logs"}
    for port in ports:
        processes.require_free("127.0.0.1", port, "--port")


def mentions(process: psutil.Process, text: str) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(text in argument for argument in process.cmdline())
    return False


def test_a_signal_to_the_foreground_stops_everything(
    store: Path, run_dir: Path, free_ports: Callable[[int], list[int]]
) -> None:
    ports = free_ports(2)
    with foreground(start_options(store, run_dir, ports, ["echo=echo.mar"])) as process:
        running = started(run_dir)
        assert httpx.post(running.url + "/predictions/echo", content=b"hello", timeout=30).content == b"hello"
        assert len(processes.session_members(running.pid)) >= 2  # java and a worker
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    assert_gone(run_dir, ports, running)


def test_the_server_ending_by_itself_ends_the_foreground_with_its_code(
    store: Path, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    ports, run_dir = (
        free_ports(2),
        tmp_path / "a folder with spaces, Umläute and a path too long for a socket" / "run",
    )
    try:
        with foreground(start_options(store, run_dir, ports, ["echo=echo.mar"])) as process:
            running = started(run_dir)
            os.kill(running.pid, signal.SIGKILL)
            _, said = process.communicate(timeout=60)
            assert process.returncode == 128 + signal.SIGKILL
            assert "ended by itself" in said
        assert_gone(run_dir, ports, running)
    finally:
        assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0


def test_status_attach_second_start_and_stop(
    store: Path, run_dir: Path, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    ports = free_ports(2)
    options = start_options(store, run_dir, ports, ["echo=echo.mar"])
    there = ("--run-dir", run_dir)
    assert run("deploy.status", *there).returncode == 1
    first = run("deploy.server", "start", "--detach", *options)
    assert first.returncode == 0, first.stderr
    running = started(run_dir)

    status = run("deploy.status", "--json", *there)
    assert status.returncode == 0
    [model] = json.loads(status.stdout)["versions"]
    assert model["worker_pids"]
    assert model["memory_mib"] > 10
    assert {**model, "worker_pids": None, "memory_mib": None} == {
        "name": "echo", "version": "1.0", "workers_ready": 1, "workers": 1, "default": True, "worker_pids": None,
        "pending": 0, "file": "echo.mar", "kept": False, "canary": False, "memory_mib": None,
    }  # fmt: skip

    second = run("deploy.server", "start", "--detach", *options)
    assert second.returncode == 2
    assert f"already runs a server at {running.url} (process {running.pid})" in second.stderr

    elsewhere = start_options(store, tmp_path / "other", ports, ["echo=echo.mar"])
    taken = run("deploy.server", "start", "--detach", *elsewhere)
    assert taken.returncode == 2
    assert f"port {ports[0]} on 127.0.0.1 is taken by a model server" in taken.stderr
    assert f"deploy.server stop --run-dir {run_dir}" in taken.stderr
    assert not (tmp_path / "other" / "logs").exists()  # Java was not even started

    with begun("deploy.server", "attach", *there, stdout=subprocess.PIPE) as attached:
        assert attached.stdout is not None
        assert running.url in attached.stdout.readline()
        assert running.alive()  # attaching changes nothing
        attached.send_signal(signal.SIGINT)
        assert attached.wait(60) == 0
    assert_gone(run_dir, ports, running)
    assert run("deploy.server", "stop", *there).returncode == 0  # again: nothing to do


def test_a_killed_server_leaves_nothing_that_stops_the_next(
    store: Path, run_dir: Path, free_ports: Callable[[int], list[int]]
) -> None:
    ports = free_ports(2)
    options = start_options(store, run_dir, ports, ["echo=echo.mar"])
    assert run("deploy.server", "start", "--detach", *options).returncode == 0
    killed = started(run_dir)
    os.kill(killed.pid, signal.SIGKILL)
    assert processes.wait_until(lambda: not killed.alive(), timeout_s=10)
    assert run("deploy.status", "--run-dir", run_dir).returncode == 1
    again = run("deploy.server", "start", "--detach", *options)
    assert again.returncode == 0, again.stderr
    assert processes.session_members(killed.pid) == []
    running = started(run_dir)
    assert run("deploy.server", "stop", "--run-dir", run_dir).returncode == 0
    assert_gone(run_dir, ports, running)


def test_a_port_that_is_taken_after_the_check_is_told_too(
    store: Path, run_dir: Path, free_ports: Callable[[int], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    [metrics] = free_ports(1)
    monkeypatch.setattr(processes, "require_free", lambda *_: None)  # somebody was faster
    monkeypatch.setattr(server_commands, "Interrupts", Mute)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        options = Start(store, ("echo=echo.mar",), port=port, metrics_port=metrics, run_dir=run_dir)
        with pytest.raises(UsageError, match=rf"port {port} on 127.0.0.1 is taken by process {os.getpid()}"):
            server_commands.start(options)
    assert_gone(run_dir, [metrics])


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("imports", "ModuleNotFoundError: No module named 'no_such_library' (handler.py, line 1)"),
        ("dies", "the process ended without a message"),
    ],
)
def test_a_broken_model_fails_with_its_own_reason(
    store: Path, run_dir: Path, free_ports: Callable[[int], list[int]], model: str, reason: str
) -> None:
    ports = free_ports(2)
    result = run(
        "deploy.server", "start", "--detach", *start_options(store, run_dir, ports, [f"{model}={model}.mar"])
    )
    assert result.returncode == 2
    assert f"error: workers of {model} 1.0 die as soon as they start: {reason}" in result.stderr
    assert "Traceback" not in result.stderr
    log = (run_dir / "logs" / "ts_log.log").read_text()
    assert "Retry worker" in log  # it was really tried
    assert_gone(run_dir, ports)


def test_a_worker_that_takes_too_long_is_not_waited_for(
    store: Path, run_dir: Path, free_ports: Callable[[int], list[int]]
) -> None:
    ports = free_ports(2)
    options = start_options(store, run_dir, ports, ["slow=slow.mar"])
    result = run("deploy.server", "start", "--detach", "--ready-timeout-s", "1", *options)
    assert result.returncode == 2
    assert "error: not ready after 1 s: " in result.stderr
    assert_gone(run_dir, ports)


def test_a_signal_before_the_server_is_ready_leaves_nothing(
    store: Path, run_dir: Path, free_ports: Callable[[int], list[int]]
) -> None:
    ports = free_ports(2)
    options = start_options(store, run_dir, ports, ["slow=slow.mar"])
    with begun("deploy.server", "start", "--detach", *options) as process:
        assert processes.wait_until((run_dir / "management.sock").exists, timeout_s=60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 130  # `make serve` must not go on
    assert_gone(run_dir, ports)
