"""What nginx itself refuses, for its size, its protocol or a fault of the front: in our form, not in nginx's."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from deploy.front_process import Front
from tests.e2e.fronts import MAX_BYTES, NEEDS_NGINX, Upstream, post, raw
from tests.e2e.serving import error_of

pytestmark = NEEDS_NGINX


def test_the_oldest_protocol_is_refused(front: Front, upstream: Upstream) -> None:
    assert b"mask of" not in raw(front, b"POST /predictions/rooms\r\n\r\n")
    assert upstream.lines == []


@pytest.mark.parametrize(
    ("head", "status", "said"),
    [
        (b"HTTP/2.0\r\nHost: x", b"505", "HTTP/1.1"),
        (b"HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip", b"501", "chunked"),
    ],
)
def test_protocols_that_are_not_spoken_are_refused_in_our_form(
    front: Front, upstream: Upstream, head: bytes, status: bytes, said: str
) -> None:
    answer = raw(front, b"POST /predictions/rooms " + head + b"\r\n\r\n")
    assert answer.split(b" ")[1] == status
    assert said in json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["message"]
    assert upstream.lines == []


def chunks(size: int) -> Iterator[bytes]:
    yield from (b"x" * 65536 for _ in range(size // 65536))
    yield b"x" * (size % 65536)


def test_bytes_up_to_the_limit_of_the_server_pass(front: Front, upstream: Upstream) -> None:
    seen = []
    upstream.answer = lambda line, headers, body: seen.append(len(body)) or (200, {}, b"mask")  # type: ignore[func-returns-value]
    assert post(front, body=b"x" * MAX_BYTES).status_code == 200
    assert (
        httpx.post(f"{front.url}/predictions/rooms", content=chunks(MAX_BYTES), timeout=60).status_code == 200
    )
    assert seen == [MAX_BYTES, MAX_BYTES]


def test_more_is_refused_in_our_form(front: Front, upstream: Upstream) -> None:
    url = f"{front.url}/predictions/rooms"
    for content in (b"x" * (MAX_BYTES + 1), chunks(MAX_BYTES + 1)):
        answer = httpx.post(url, content=content, timeout=60)
        assert (answer.status_code, error_of(answer)["type"]) == (413, "RequestTooLarge")
        assert str(MAX_BYTES) in error_of(answer)["message"]
    assert upstream.lines == []
    assert not [path for path in (front.folder / "tmp").rglob("*") if path.is_file()]  # nothing of it stays


def test_a_photo_that_cannot_be_put_down_is_refused_in_our_form(front: Front, upstream: Upstream) -> None:
    bodies = front.folder / "tmp" / "body"
    bodies.rename(bodies.with_name("away"))
    try:
        answer = post(front, body=b"x" * MAX_BYTES)
    finally:
        bodies.with_name("away").rename(bodies)
    assert (answer.status_code, error_of(answer)["type"]) == (503, "FrontFault")
    assert answer.headers["retry-after"] == "1"
    assert upstream.lines == []
    assert post(front, body=b"x" * MAX_BYTES).status_code == 200
