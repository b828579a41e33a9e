"""The process of the front: starting, TLS, coming back, logs, stopping, and what is said when it can't."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from deploy import front_process, processes
from deploy.front_process import Front, front_running
from deploy.run_folder import Running
from tests.e2e.fronts import NEEDS_NGINX, Reply, Upstream, front_of, logged, raw, run_folder_of, stand_in
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
        while (
            upstream.connections < 20
        ):  # until both workers of nginx have kept one, so that the next is one of these
            before = upstream.connections
            statuses = [post(front).status_code for _ in range(20)]
            assert set(statuses) == {200}
            if upstream.connections == before:
                break
        broken += ["kept"]
        assert post(front, headers={"X-Request-ID": "kept"}).status_code == 200
        assert logged(front, "kept")["upstream_status"] == "502, 200"


# --- TLS ----------------------------------------------------------------------------------------------------


def certificate(folder: Path, name: str) -> None:
    """A self-signed one for localhost, as FOLDER/cert.pem and key.pem."""
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
        "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem"),
    ]  # fmt: skip
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("openssl is not installed")


def handshake(front: Front, folder: Path, version: ssl.TLSVersion | None = None) -> tuple[str | None, str]:
    """The protocol, and whose certificate it is."""
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    if version:
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.minimum_version = context.maximum_version = version
    with (
        socket.create_connection((front.settings.host, front.settings.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        subject = secure.getpeercert()
        assert subject is not None
        return secure.version(), str(subject["subject"][0][0][1])  # type: ignore[index]


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls(upstream: Upstream, running: Running, port: int, tmp_path: Path) -> None:
    certificate(tmp_path, "first")
    options = ("--certificate", tmp_path / "cert.pem", "--key", tmp_path / "key.pem")
    with front_of(running.run_dir, port, *options) as front:
        assert front.url == f"https://127.0.0.1:{port}"
        trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
        answer = post(front, verify=trusting, headers={"Authorization": "Bearer abc"})
        assert (answer.status_code, answer.content) == (200, b"mask")
        assert upstream.headers[-1]["authorization"] == "Bearer abc"
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            post(front)
        assert handshake(front, tmp_path) == ("TLSv1.3", "first")
        assert handshake(front, tmp_path, ssl.TLSVersion.TLSv1_2)[0] == "TLSv1.2"
        for old in (ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                handshake(front, tmp_path, old)
        plain = raw(front, b"POST /predictions/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
        assert plain.startswith(b"HTTP/1.1 400 ")
        assert b'"type": "BadRequest"' in plain
        certificate(tmp_path, "renewed")
        assert run("deploy.front", "reload", "--run-dir", running.run_dir).returncode == 0
        assert handshake(front, tmp_path)[1] == "renewed"
        (tmp_path / "cert.pem").write_text("torn")
        assert run("deploy.front", "reload", "--run-dir", running.run_dir).returncode == 2
        assert front.alive()


# --- logs ---------------------------------------------------------------------------------------------------


def test_a_line_has_what_an_operator_asks_for_and_no_secret(
    upstream: Upstream, running: Running, port: int
) -> None:
    upstream.answer = lambda line, headers, body: (200, {"x-segserve-version": "1.0"}, b"maskmaskmask")
    with front_of(running.run_dir, port) as front:
        httpx.post(
            f"{front.url}/predictions/rooms", content=b"photophotophoto",
            headers={"Authorization": "Bearer SeCrEt", "X-Request-ID": "seen"},
        )  # fmt: skip
        line = logged(front, "seen")
        raw(front, b'POST /predictions/\xff"\x80 HTTP/1.1\r\nHost: x\r\nX-Request-ID: odd\r\n\r\n')
        assert logged(front, "odd")["status"] == 404
        text = (front.folder / "logs" / "access.log").read_text()
    assert (line["version"], line["status"], line["upstream_status"], line["canary"]) == (
        "1.0",
        200,
        "200",
        "",
    )
    assert line["request"] == "POST /predictions/rooms HTTP/1.1"
    for seconds in ("upstream_seconds", "upstream_connect_seconds", "upstream_header_seconds"):
        assert re.fullmatch(r"\d+\.\d{3}", line[seconds])
    assert not re.search("SeCrEt|photo|mask", text)


def test_rotated_logs_go_on_and_the_last_five_are_kept(running: Running, port: int) -> None:
    with front_of(running.run_dir, port) as front:
        logs = front.folder / "logs"
        for number in range(7):
            post(front, headers={"X-Request-ID": f"n{number}"})
            logged(front, f"n{number}")
            assert run("deploy.front", "rotate", "--run-dir", running.run_dir).returncode == 0
        assert (logs / "access.log").read_text() == ""
        kept = {path.name: path.read_text() for path in logs.glob("access.log.*")}
        assert set(kept) == {f"access.log.{number}" for number in range(1, front_process.KEPT_LOGS + 1)}
        assert '"n6"' in kept["access.log.1"]
        assert '"n2"' in kept["access.log.5"]
