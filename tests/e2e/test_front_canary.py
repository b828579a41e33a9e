"""A canary that fails, before a stand-in that fails on purpose: clients get the default version's answer."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest

from deploy import front_process
from deploy.front_config import Canary
from deploy.front_process import Front
from tests.e2e.fronts import MAX_BYTES, NEEDS_NGINX, Reply, Upstream, logged, post, raw
from tests.e2e.serving import error_of

pytestmark = NEEDS_NGINX


@pytest.mark.parametrize("status", [400, 404, 406, 413, 415, 422, 500, 503, 507])
def test_what_a_canary_cannot_answer_the_default_does(front: Front, upstream: Upstream, status: int) -> None:
    def answer(line: str, headers: dict[str, str], body: bytes) -> Reply:
        return (status, {}, b"broken") if "2.0" in line else (200, {"x-segserve-version": "1.0"}, body)

    upstream.answer = answer
    body = b"photo" * 700_000  # in a file: it is sent twice
    changed = front_process.change(front, {"rooms": Canary("2.0", 1.0)})
    try:
        assert post(front, body=body[:MAX_BYTES]).content == body[:MAX_BYTES]
        got = post(front, "/models/rooms/invoke?format=npy", X_Request_ID=f"failed-{status}")
        pinned = post(front, "/predictions/rooms/2.0")
    finally:
        front_process.change(changed, {})
    assert got.status_code == 200
    assert (pinned.status_code, pinned.content) == (status, b"broken")
    sent = [line.split()[1] for line in upstream.lines]
    assert sent == [
        "/predictions/rooms/2.0", "/predictions/rooms", "/rooms/2.0/predict?format=npy",
        "/models/rooms/invoke?format=npy", "/predictions/rooms/2.0",
    ]  # fmt: skip
    line = logged(front, f"failed-{status}")
    assert (line["canary"], line["upstream_status"], line["version"]) == ("2.0", f"{status} : 200", "1.0")


def test_a_photo_of_too_many_bytes_is_sent_to_no_version(front: Front, upstream: Upstream) -> None:
    changed = front_process.change(front, {"rooms": Canary("2.0", 1.0)})
    try:
        large = post(front, body=b"x" * (MAX_BYTES + 1))
    finally:
        front_process.change(changed, {})
    assert (large.status_code, error_of(large)["type"]) == (413, "RequestTooLarge")
    assert upstream.lines == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "BadImage"), (406, "FormatNotAcceptable"), (413, "ImageTooLarge"), (415, "ImageFormatNotServed"),
     (422, "UnknownClass")],
)  # fmt: skip
def test_what_both_versions_refuse_is_told_in_the_handlers_words(
    front: Front, upstream: Upstream, status: int, kind: str
) -> None:
    """nginx has words of its own for 400 and 413."""

    def refuse(line: str, headers: dict[str, str], body: bytes) -> Reply:
        version = "2.0" if "2.0" in line else "1.0"
        error = {"type": kind, "message": f"what {version} says"}
        more = {
            "Content-Type": "application/json",
            "x-segserve-version": version,
            "Server-Timing": "total;dur=1",
        }
        return status, more, json.dumps({"error": error}).encode()

    upstream.answer = refuse
    changed = front_process.change(front, {"rooms": Canary("2.0", 1.0)})
    try:
        answer = post(front)
    finally:
        front_process.change(changed, {})
    assert answer.status_code == status
    assert error_of(answer) == {"type": kind, "message": "what 1.0 says"}
    assert (answer.headers["x-segserve-version"], answer.headers["server-timing"]) == ("1.0", "total;dur=1")
    assert [line.split()[1] for line in upstream.lines] == ["/predictions/rooms/2.0", "/predictions/rooms"]


def test_what_nginx_itself_refuses_has_its_words_with_a_canary_too(front: Front, upstream: Upstream) -> None:
    def too_much() -> Iterator[bytes]:  # so that its length is not known before
        yield from (b"x" * 65536 for _ in range(MAX_BYTES // 65536 + 2))

    changed = front_process.change(front, {"rooms": Canary("2.0", 1.0)})
    try:
        large = httpx.post(
            front.url + "/predictions/rooms",
            content=too_much(),
            headers={"X-Request-ID": "large"},
            timeout=60,
        )
        torn = raw(
            front,
            b"POST /predictions/rooms HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nno length\r\n",
        )
    finally:
        front_process.change(changed, {})
    assert large.status_code == 413
    assert error_of(large)["type"] == "RequestTooLarge"
    assert torn.startswith(b"HTTP/1.1 400 ")
    assert json.loads(torn.partition(b"\r\n\r\n")[2])["error"]["type"] == "BadRequest"
    assert upstream.lines == []
    assert logged(front, "large")["upstream_status"] == ""  # nor was half of it sent on


def test_a_photo_that_cannot_be_put_down_is_sent_to_no_version(front: Front, upstream: Upstream) -> None:
    changed = front_process.change(front, {"rooms": Canary("2.0", 1.0)})
    bodies = front.folder / "tmp" / "body"
    bodies.rename(bodies.with_name("away"))
    try:
        answer = post(front, body=b"x" * MAX_BYTES, X_Request_ID="not-put-down")
    finally:
        bodies.with_name("away").rename(bodies)
        front_process.change(changed, {})
    assert (answer.status_code, error_of(answer)["type"]) == (503, "FrontFault")
    assert logged(front, "not-put-down")["upstream_status"] == ""
    assert upstream.lines == []
