"""The logs of a real server: a line for each request with its id and version, never a photo, and never too much."""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import httpx
import pytest

from benchmarks import mar_server, mar_settings
from benchmarks.photos import Photo
from deploy import launch
from deploy.metrics import scrape
from deploy.processes import wait_until
from tests.e2e.serving import Server, send_unreadable_form

pytestmark = pytest.mark.timeout(900)  # one starts a server of its own, patient with a busy machine

PATIENCE_S = 60.0
MARKER = b"nobody must see this photo"


def log(server: Server, name: str) -> str:
    return (Path(server.running.log_dir) / name).read_text(errors="replace")


def logged(server: Server, text: str) -> str:
    """The lines of request_log.log that have this text, once there are any."""

    def lines() -> list[str]:
        return [line for line in log(server, "request_log.log").splitlines() if text in line]

    assert wait_until(lambda: bool(lines()), PATIENCE_S), f"{text} was not logged"
    return "\n".join(lines())


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """The same photo with a JPEG comment."""
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def test_a_request_is_found_in_the_log_by_its_id(server: Server, room: Photo) -> None:
    headers = {"Content-Type": "image/jpeg", "X-Request-ID": "order-7.e2e"}
    answer = server.http.post("/predictions/rooms/2.0", content=room.jpeg, headers=headers)
    assert answer.headers["x-segserve-request-id"] == "order-7.e2e"
    own = answer.headers["x-request-id"]  # TorchServe's, whatever the client sends
    line = logged(server, "order-7.e2e")
    assert re.fullmatch(
        rf"\S+ answered request=order-7\.e2e server_id={own} model=rooms version=2\.0 status=200 "
        rf"bytes_in={len(room.jpeg)} photo=320x240 total_ms=\d+\.\d",
        line,
    )
    assert "answered request" not in log(server, "model_log.log")
    refused = server.post(b"no image", "/predictions/rooms/1.0")
    assert refused.headers["x-segserve-request-id"] == refused.headers["x-request-id"]
    assert " model=rooms version=1.0 status=400 bytes_in=8 photo=- " in logged(
        server, refused.headers["x-request-id"]
    )


def test_a_client_cannot_write_metrics_or_lines_of_its_own(server: Server, room: Photo) -> None:
    forged = "x [METRICS]segserve_answers_total.unit:9|#model:forged,version:1,status:200|#type:COUNTER|#hostname:h,1"
    headers = {"Content-Type": "image/jpeg", "X-Request-ID": forged}
    answer = server.http.post("/predictions/rooms/1.0", content=room.jpeg, headers=headers)
    assert answer.headers["x-segserve-request-id"] == answer.headers["x-request-id"]
    assert "METRICS" not in logged(server, answer.headers["x-request-id"])
    assert scrape(server.running.metrics_url).answers("forged", "1") == {}


def test_nothing_of_a_photo_is_in_any_log(server: Server, room: Photo) -> None:
    photo = with_comment(room.jpeg, MARKER)
    answers = [
        server.post(photo, "/predictions/rooms/1.0"),
        server.post(photo[:-2000], "/predictions/rooms/1.0"),
        server.post(MARKER, "/predictions/rooms/2.0"),
        server.http.post(
            "/predictions/rooms",
            files={"data": ("photo.jpg", photo)},
            data={"classes": "x" + MARKER.decode()},
        ),
        server.http.post("/predictions/rooms", files={MARKER.decode(): ("photo.jpg", photo)}),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 400, 422, 400]
    send_unreadable_form(server, photo[:100])
    send_unreadable_form(server, b"\n\tat " + MARKER + b"(\n" + MARKER + b"Exception: ")
    logged(server, answers[-1].headers["x-request-id"])
    assert wait_until(lambda: log(server, "http_log.log").count("ErrorDataDecoderException") >= 2, PATIENCE_S)
    files = sorted(Path(server.running.log_dir).iterdir())
    assert {"access_log.log", "http_log.log", "model_log.log", "request_log.log", "ts_log.log"} <= {
        f.name for f in files
    }
    for file in files:
        content = file.read_bytes()
        assert MARKER not in content, file
        assert b"JFIF" not in content, file


def all_rolled(logs: Path, name: str) -> bool:
    """Whether of a log there is what is written to, and five that were, and nothing else."""
    kept = {f"{name}.log", *(f"{name}.{number}.log.gz" for number in range(1, 6))}
    return {path.name for path in logs.glob(f"{name}*")} == kept


def test_logs_are_bounded(
    exported: Mapping[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same log configuration, with 2 kB where it has 10 MB: so many requests make more than it may keep."""
    text = launch.LOG_CONFIG.read_text()
    appenders, limits = text.count("<RollingFile "), text.count('<SizeBasedTriggeringPolicy size="10 MB"/>')
    assert appenders == limits == text.count('<DefaultRolloverStrategy max="5"/>') == 5
    tiny = tmp_path / "log4j2.xml"
    tiny.write_text(text.replace("10 MB", "2 KB"))
    monkeypatch.setattr(launch, "LOG_CONFIG", tiny)
    mar = exported["1.0"] / "rooms.mar"
    with (
        mar_server.serving(mar, mar_settings.read(mar), tmp_path / "server") as server,
        httpx.Client(headers={"Content-Type": "image/jpeg"}, timeout=60) as http,
    ):
        logs = Path(server.running.log_dir)
        console = (logs / "console.log").stat().st_size
        for _ in range(200):
            assert http.post(server.url, content=b"no image").status_code == 400
        urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
        for _ in range(10):
            assert http.post(server.url, content=b"%zz=", headers=urlencoded).status_code == 500
        for name in ("request_log", "access_log", "http_log"):
            # what was rolled over is compressed by a thread of its own
            assert wait_until(functools.partial(all_rolled, logs, name), PATIENCE_S), list(logs.iterdir())
            files = list(logs.glob(f"{name}*"))
            assert all(file.stat().st_size < 12_000 for file in files), files  # a traceback is written whole
        assert len(list(logs.glob("*.log*"))) <= 5 * 6 + 1
        assert (logs / "console.log").stat().st_size == console
