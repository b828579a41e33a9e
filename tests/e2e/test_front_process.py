"""The process of the front: starting, coming back, stopping, and what is said when it can't."""

from __future__ import annotations

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
from deploy.front_process import Front, front_running
from deploy.run_folder import Running
from tests.e2e.fronts import NEEDS_NGINX, Reply, Upstream, front_of, logged, run_folder_of, stand_in
from tests.e2e.serving import error_of, run

pytestmark = NEEDS_NGINX


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with stand_in(Upstream()) as upstream:
        yield upstream


@pytest.fixture
def running(upstream: Upstream, tmp_path: Path) -> Running:
    return run_folder_of(upstream.url, tmp_path / "run")


@pytest.fixture
def port(free_ports: Callable[[int], list[int]]) -> int:
    return free_ports(1)[0]


def post(front: Front, **options: object) -> httpx.Response:
    return httpx.post(f"{front.url}/predictions/rooms", content=b"x", timeout=60, **options)  # type: ignore[arg-type]


def start(run_dir: str | Path, port: int, *options: str | Path) -> subprocess.CompletedProcess[str]:
    return run("deploy.front", "start", "--run-dir", run_dir, "--port", str(port), *options)


# --- starting and stopping ----------------------------------------------------------------------------------


def test_it_is_one_session_of_this_user_and_stop_leaves_nothing(running: Running, port: int) -> None:
    with front_of(running.run_dir, port) as front:
        status = run("deploy.front", "status", "--run-dir", running.run_dir, "--json")
        assert json.loads(status.stdout)["front"]["url"] == front.url == f"http://127.0.0.1:{port}"
        members = processes.session_members(front.pid)
        assert len(members) == 3
        assert {psutil.Process(pid).uids().real for pid in members} == {os.getuid()}
        opened = {file.path for pid in members for file in psutil.Process(pid).open_files()}
        assert opened
        assert all(Path(path).is_relative_to(front.folder) for path in opened)
        again = start(running.run_dir, port)
        assert again.returncode == 2
        assert "stop it first" in again.stderr
    assert processes.session_members(front.pid) == []
    assert run("deploy.front", "status", "--run-dir", running.run_dir).returncode == 1
    assert not (front.folder / "tmp").exists()


def test_stop_lets_what_is_in_flight_end(upstream: Upstream, running: Running, port: int) -> None:
    upstream.delay_s = 1.0
    with (
        front_of(running.run_dir, port) as front,
        socket.create_connection(("127.0.0.1", port)) as connection,
    ):
        connection.sendall(b"POST /predictions/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert processes.wait_until(lambda: upstream.waiting == 1, 20)
        assert run("deploy.front", "stop", "--run-dir", running.run_dir).returncode == 0
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 ")
        assert not front.alive()


def test_after_a_kill_the_next_start_clears_up(running: Running, port: int) -> None:
    with front_of(running.run_dir, port) as killed:
        os.kill(killed.pid, signal.SIGKILL)
        assert processes.wait_until(lambda: not killed.alive(), 10)
        left = processes.session_members(killed.pid)
        assert len(left) == 2  # they keep the port
        assert front_running(Path(running.run_dir)) is None
        assert start(running.run_dir, port).returncode == 0
        assert not any(map(processes.exists, left))
        front = front_running(Path(running.run_dir))
        assert front is not None
        assert post(front).status_code == 200


def test_what_can_go_wrong_is_said(running: Running, port: int, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        refused = start(running.run_dir, port)
        assert refused.returncode == 2
        assert f"port {port} on 127.0.0.1 is taken" in refused.stderr
    open_to_all = start(running.run_dir, port, "--host", "0.0.0.0")
    assert open_to_all.returncode == 2
    assert "--auth token" in open_to_all.stderr
    (tmp_path / "torn.pem").write_text("torn")
    torn = start(
        running.run_dir, port, "--certificate", tmp_path / "torn.pem", "--key", tmp_path / "torn.pem"
    )
    assert torn.returncode == 2
    assert "torn.pem" in torn.stderr
    nobody = start(tmp_path / "empty", port)
    assert nobody.returncode == 2
    assert "deploy.server start" in nobody.stderr
    for command in ("reload", "rotate"):
        assert run("deploy.front", command, "--run-dir", running.run_dir).returncode == 2
    assert "Traceback" not in refused.stderr + open_to_all.stderr + torn.stderr + nobody.stderr
    assert front_running(Path(running.run_dir)) is None


# --- a server that goes away --------------------------------------------------------------------------------


def test_the_server_goes_and_comes_back(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> None:
    server_port, port = free_ports(2)
    running = run_folder_of(f"http://127.0.0.1:{server_port}", tmp_path / "run")
    with front_of(running.run_dir, port) as front:
        away = post(front)
        assert (away.status_code, error_of(away)["type"]) == (502, "ServerAway")
        assert away.headers["retry-after"] == "1"
        for _ in range(2):
            with stand_in(Upstream(), server_port):
                assert post(front).status_code == 200
            assert post(front).status_code == 502


def test_only_a_kept_connection_that_is_closed_is_asked_again(
    upstream: Upstream, running: Running, port: int
) -> None:
    broken: list[str] = []

    def answer(line: str, headers: dict[str, str], body: bytes) -> Reply:
        if headers["x-request-id"] in broken:
            broken.remove(headers["x-request-id"])
            raise ConnectionResetError
        return 200, {}, b"mask"

    upstream.answer = answer
    with front_of(running.run_dir, port) as front:
        broken += ["fresh"]
        assert post(front, headers={"X-Request-ID": "fresh"}).status_code == 502
        names = [f"kept-{number}" for number in range(20)]
        for name in names:
            assert post(front).status_code == 200  # leaves a connection to one of nginx's two workers
            broken.append(name)
            status = post(front, headers={"X-Request-ID": name}).status_code
            assert (status, logged(front, name)["upstream_status"]) in ((200, "502, 200"), (502, "502"))
        assert "502, 200" in [logged(front, name)["upstream_status"] for name in names]
