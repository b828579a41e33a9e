"""Who reaches what: management by the owner's socket, models from the store, tokens where they are on."""

from __future__ import annotations

import contextlib
import json
import socket
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks.photos import Photo
from deploy import processes
from segserve.segmenter import Segmenter
from tests.e2e.serving import Server, labels_of, run


def listening(server: Server) -> list[tuple[str, int]]:
    """Every TCP address that the processes of the server listen on."""
    connections = [
        connection
        for pid in processes.session_members(server.running.pid)
        for connection in psutil.Process(pid).net_connections("tcp")
    ]
    listeners = [connection.laddr for connection in connections if connection.status == psutil.CONN_LISTEN]
    return [(address.ip.removeprefix("::ffff:"), address.port) for address in listeners]


def test_management_is_a_socket_in_a_folder_that_only_the_owner_may_enter(server: Server) -> None:
    path = Path(server.running.management_socket)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    with server.management() as management:
        assert management.get("/models/rooms").json()[0]["modelName"] == "rooms"


def test_management_cannot_be_reached_by_tcp(server: Server) -> None:
    expected = {httpx.URL(server.running.url).port, httpx.URL(server.running.metrics_url).port}
    reachable = set()
    for host, port in listening(server):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=5):
            reachable.add(port)
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
            reachable.add(port)
    assert reachable == expected  # TorchServe's two gRPC ports listen too, but nobody can connect to them
    for url in (server.running.url, server.running.metrics_url):
        for request in (
            ("GET", "/models"),
            ("DELETE", "/models/rooms/2.0"),
            ("POST", "/models?url=rooms.mar"),
        ):
            assert httpx.request(request[0], url + request[1], timeout=10).status_code in (404, 405)
    assert len(server.worker_pids("rooms")) == 2


@pytest.mark.parametrize(
    "url",
    ["http://127.0.0.1:{port}/evil.mar", "https://example.org/evil.mar", "file://{outside}", "{outside}",
     "file://{store}/../outside.mar", "../outside.mar", "file://{store}/..%2Foutside.mar"],
)  # fmt: skip
def test_no_model_from_anywhere_but_the_store(server: Server, store: Path, url: str) -> None:
    outside = store.parent / "outside.mar"
    outside.write_bytes((store / "rooms-1.0.mar").read_bytes())
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        wanted = url.format(port=listener.getsockname()[1], outside=outside, store=store)
        with server.management() as management:
            answer = management.post("/models", params={"url": wanted, "model_name": "evil"})
            assert 400 <= answer.status_code < 500, answer.text
            assert management.get("/models/evil").status_code == 404
        with pytest.raises(BlockingIOError):  # nobody even connected
            listener.accept()


def test_metrics_can_be_scraped(server: Server, room: Photo) -> None:
    server.post(room.jpeg)
    text = httpx.get(server.running.metrics_url + "/metrics", timeout=10).text
    counts = [
        line
        for line in text.splitlines()
        if line.startswith("ts_inference_requests_total{") and "rooms" in line
    ]
    assert counts
    assert float(counts[0].rsplit(" ", 1)[1]) >= 1


def test_the_access_log_has_the_request(server: Server, room: Photo) -> None:
    server.post(room.jpeg, "/predictions/rooms/2.0")
    assert processes.wait_until(
        lambda: (
            '"POST /predictions/rooms/2.0 HTTP/1.1" 200'
            in Path(server.running.log_dir, "access_log.log").read_text()
        ),
        timeout_s=10,
    )


# --- with tokens --------------------------------------------------------------------------------------------


def token(server: Server, kind: str) -> str:
    key_file = Path(server.running.run_dir) / "key_file.json"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    return str(json.loads(key_file.read_text())[kind]["key"])


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_beyond_loopback_tokens_are_on_by_themselves(token_server: Server) -> None:
    assert token_server.running.auth == "token"
    port = httpx.URL(token_server.running.url).port
    assert token_server.running.url == f"http://0.0.0.0:{port}"
    assert ("::", port) in listening(token_server)  # all addresses, IPv4 included


def test_without_the_token_nothing_is_served(token_server: Server, room: Photo) -> None:
    for headers in ({}, bearer("wrong"), bearer(token(token_server, "management"))):
        for path in ("/predictions/rooms", "/models/rooms/invoke"):
            answer = token_server.http.post(path, content=room.jpeg, headers=headers)
            assert answer.status_code == 400
            assert answer.json()["type"] == "InvalidKeyException"


def test_with_the_token_the_same_mask_comes(token_server: Server, room: Photo, offline: Segmenter) -> None:
    headers = bearer(token(token_server, "inference"))
    answer = token_server.http.post("/predictions/rooms", content=room.jpeg, headers=headers)
    assert (labels_of(answer) == offline.segment(room.jpeg)).all()


def test_tokens_outlive_any_server(token_server: Server) -> None:
    keys = json.loads((Path(token_server.running.run_dir) / "key_file.json").read_text())
    for kind in ("inference", "management"):
        expires = datetime.fromisoformat(keys[kind]["expiration time"])
        assert expires - datetime.now(UTC) > timedelta(days=9 * 365)


def test_management_wants_its_own_token(token_server: Server) -> None:
    with token_server.management() as management:
        assert management.get("/models").status_code == 400
        assert management.get("/models", headers=bearer(token(token_server, "inference"))).status_code == 400
        assert management.get("/models", headers=bearer(token(token_server, "management"))).status_code == 200


def test_segment_says_what_is_missing_and_works_with_the_key_file(
    token_server: Server, room: Photo, tmp_path: Path
) -> None:
    photo = tmp_path / "room.jpg"
    photo.write_bytes(room.jpeg)
    url = token_server.running.url.replace("0.0.0.0", "127.0.0.1")
    options = ("deploy.segment", photo, "--out", tmp_path / "out", "--url", url)
    refused = run(*options)
    assert refused.returncode == 1
    assert "--token-file" in refused.stdout
    served = run(*options, "--token-file", Path(token_server.running.run_dir) / "key_file.json")
    assert served.returncode == 0, served.stderr
    assert (tmp_path / "out" / "mask.png").exists()


def test_renewed_tokens_replace_the_old_ones(token_server: Server, room: Photo) -> None:
    old = token(token_server, "inference")
    renewed = run("deploy.server", "renew-tokens", "--run-dir", token_server.running.run_dir)
    assert renewed.returncode == 0, renewed.stderr
    new = token(token_server, "inference")
    answers = [
        token_server.http.post("/predictions/rooms", content=room.jpeg, headers=bearer(key)).status_code
        for key in (old, new)
    ]
    assert answers == [400, 200]
    assert run("deploy.status", "--run-dir", token_server.running.run_dir).returncode == 0
