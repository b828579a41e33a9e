"""The client against a stand-in for the server: what it makes of answers, and which way it asks."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from deploy.client import Client
from deploy.exchange import message
from segserve.errors import UsageError


class Recorder(BaseHTTPRequestHandler):
    """Answers every POST with its own target: a path, or the whole URL where it was asked as a proxy."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", self.headers["Accept"])
        self.end_headers()
        self.wfile.write(self.path.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Recorder) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_loopback_is_never_asked_through_a_proxy(
    host: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")  # nobody listens there
    with Client(f"http://{host}:{port}", "rooms") as client:
        assert client.segment(b"x", "png") == b"/predictions/rooms"


def test_another_machine_is_asked_through_the_proxy(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
    with Client("http://rooms.invalid", "rooms") as client:
        assert client.segment(b"x", "png") == b"http://rooms.invalid/predictions/rooms"


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:808O", "http://127.0.0.1:80800", "127.0.0.1:8080", "http://"]
)
def test_an_address_that_is_none_is_told(url: str) -> None:
    before = set(threading.enumerate())
    with pytest.raises(UsageError, match=rf"^{url} is no address of a server; expected http://HOST:PORT"):
        Client(url, "rooms")
    assert set(threading.enumerate()) <= before  # nobody could close it


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (415, b'{"error": {"type": "ImageFormatNotServed", "message": "an ICO"}}',
         "415 Unsupported Media Type: an ICO"),
        (404, b'{"code": 404, "type": "ModelNotFoundException", "message": "Model not found: x"}',
         "404 Not Found: Model not found: x"),
        (413, b"", "413 Request Entity Too Large: more bytes than the server takes"),
        (502, b"<html>proxy</html>", "502 Bad Gateway: <html>proxy</html>"),
        (503, b"", "503 Service Unavailable: no reason given"),
        (400, b'{"message": "Token Authorization failed."}', "--token-file"),
    ],
)  # fmt: skip
def test_what_the_client_says_of_an_answer_that_is_not_200(status: int, body: bytes, said: str) -> None:
    assert said in message(httpx.Response(status, content=body))
