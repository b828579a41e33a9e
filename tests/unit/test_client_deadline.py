"""The client's deadline and its threads, with real time and real connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from deploy.client import Client
from deploy.retry import Retry
from segserve.errors import ServerError
from tests.serving_http import reply, serving


def trickle(stop: Callable[[], bool]) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
    def answer(handler: BaseHTTPRequestHandler, _body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "image/png")
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        while not stop():
            handler.wfile.write(b".")
            handler.wfile.flush()
            time.sleep(0.02)

    return answer


def test_the_deadline_holds_while_bytes_still_trickle_in() -> None:
    over = time.monotonic() + 20
    with serving(trickle(lambda: time.monotonic() > over)) as url, Client(url, "rooms") as client:
        started = time.monotonic()
        with pytest.raises(ServerError, match=r"did not answer within 0\.5 s"):
            client.segment(b"x", "png", timeout_s=0.5)
        assert time.monotonic() - started < 15
        over = 0


def test_a_request_that_the_server_lost_is_sent_again() -> None:
    asked: list[bytes] = []
    found = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(body)
        if len(asked) < 3:
            found.wait(60)  # never answered
        else:
            reply(handler, b"mask")
            found.set()

    policy = Retry(first_wait_s=0.01, answer_s=0.2)
    with serving(answer) as url, Client(url, "rooms", retry=policy) as client:
        assert client.segment(b"photo", "png", timeout_s=60) == b"mask"
    assert asked[:3] == [b"photo"] * 3


def test_many_threads_share_one_client() -> None:
    bodies = [b"%d" % n for n in range(200)]
    with serving(reply) as url, Client(url, "rooms") as client, ThreadPoolExecutor(16) as pool:
        assert list(pool.map(lambda body: client.segment(body, "png"), bodies)) == bodies
