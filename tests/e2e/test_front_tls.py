"""TLS of the front, and its logs."""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from deploy import front_process
from deploy.front_process import Front
from deploy.run_folder import Running
from tests.certificates import certificate
from tests.e2e.fronts import NEEDS_NGINX, Upstream, front_of, logged, raw, run_folder_of, stand_in
from tests.e2e.serving import run

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


# --- TLS ----------------------------------------------------------------------------------------------------


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
        return secure.version(), str(subject["subject"][0][0][1])


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


def test_a_renewal_that_points_a_link_elsewhere_is_taken_up(
    running: Running, port: int, tmp_path: Path
) -> None:
    for name in ("first", "renewed"):
        (tmp_path / name).mkdir()
        certificate(tmp_path / name, name)
    live = tmp_path / "live"  # as Kubernetes has it; certbot links the files one by one
    live.symlink_to("first")
    with front_of(
        running.run_dir, port, "--certificate", live / "cert.pem", "--key", live / "key.pem"
    ) as front:
        assert handshake(front, live)[1] == "first"
        live.unlink()
        live.symlink_to("renewed")
        assert run("deploy.front", "reload", "--run-dir", running.run_dir).returncode == 0
        assert handshake(front, live)[1] == "renewed"


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
