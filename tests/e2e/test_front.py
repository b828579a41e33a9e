"""What the front lets through to the model server, what it refuses and how, with real nginx before a stand-in."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from deploy.front_process import Front
from tests.e2e.fronts import NEEDS_NGINX, Reply, Upstream, front_of, logged, post, raw, run_folder_of
from tests.e2e.serving import error_of

pytestmark = NEEDS_NGINX


# --- which requests pass ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "sent_on"),
    [
        ("/predictions/rooms", "/predictions/rooms"),
        ("/predictions/rooms?format=npy", "/predictions/rooms"),  # TorchServe drops that query
        ("/predictions/rooms/1.0", "/predictions/rooms/1.0"),
        ("/models/rooms/invoke?format=npy&classes=a%2Cb", "/models/rooms/invoke?format=npy&classes=a%2Cb"),
        ("/predictions/my_model-2.x", "/predictions/my_model-2.x"),
    ],
)  # fmt: skip
def test_inference_passes(front: Front, upstream: Upstream, path: str, sent_on: str) -> None:
    answer = post(front, path)
    assert (answer.status_code, answer.content) == (200, b"mask of photo")
    assert answer.headers["content-type"] == "image/png"
    assert upstream.lines == [f"POST {sent_on} HTTP/1.1"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("query", ["", "?x=1"])
def test_ping_passes(front: Front, upstream: Upstream, method: str, query: str) -> None:
    answer = httpx.request(method, f"{front.url}/ping{query}", timeout=20)
    assert (answer.status_code, answer.headers["content-length"]) == (200, "8")
    assert answer.content == (b"mask of " if method == "GET" else b"")
    assert upstream.lines == ["GET /ping HTTP/1.1"]


@pytest.mark.parametrize("method", ["POST", "DELETE", "TRACE"])
def test_ping_says_which_methods_it_takes(front: Front, upstream: Upstream, method: str) -> None:
    answer = httpx.request(method, f"{front.url}/ping?x=1", timeout=20)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
    assert "GET or HEAD" in error_of(answer)["message"]
    assert upstream.lines == []


REFUSED = [
    "GET /models", "GET /models/rooms", "POST /models?url=evil.mar", "DELETE /models/rooms/1.0",
    "PUT /models/rooms/1.0/set-default", "GET /token?type=management", "GET /metrics", "OPTIONS /", "GET /",
    "GET /api-description", "POST /explanations/rooms", "POST /invocations?model_name=rooms", "POST /rooms/predict",
    "POST /v1/models/rooms:predict", "POST /v2/models/rooms/infer", "POST /workflows?url=x.war", "POST /wfpredict/x",
    "POST /predictions/rooms/1.0/tail", "POST /predictions/", "POST /predictions", "POST /predictions/rooms/",
    "POST /predictions/../models?url=evil.mar", "POST /predictions/%2e%2e/models", "POST /predictions/..%2fmodels",
    "POST /predictions/%252e%252e/models", "POST /predictions/..", "POST /predictions/r/..", "POST /./predictions/r",
    "POST //predictions/rooms", "POST /predictions//rooms", "POST /x/../predictions/rooms", "POST /predictions/r%00",
    "POST /predictions\\..\\models", "POST /predictions/rooms;/../../models", "POST /predictions/rooms#x",
    "POST /predictions/r%6foms", "GET /x/../ping", "GET /%70ing", "GET /ping/x", "POST /canary", "GET /canary",
    "POST /models/rooms/invoke/x", "POST /models/../models/rooms/invoke", "POST /predictions/rooms\xff",
    "POST http://127.0.0.1:{port}/predictions/rooms", "POST http://169.254.169.254/predictions/rooms",
    "GET http://127.0.0.1:{port}/ping", "CONNECT 127.0.0.1:{port}", "POST *", "POST predictions/rooms",
    "GET /predictions/rooms", "PUT /predictions/rooms", "PATCH /models/rooms/invoke", "TRACE /predictions/rooms",
    "post /predictions/rooms", "POST /predictions/rooms?" + "a" * 9000,
]  # fmt: skip


@pytest.mark.parametrize("request_line", REFUSED, ids=range(len(REFUSED)))
def test_nothing_else_does(front: Front, upstream: Upstream, request_line: str) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        line = request_line.replace("{port}", str(listener.getsockname()[1]))
        head = f"{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nphoto"
        answer = raw(front, head.encode("latin1"))
        with pytest.raises(BlockingIOError):  # nobody even connected
            listener.accept()
    status = int(answer.split(b" ", 2)[1])
    assert status in (400, 404, 405, 414), answer
    error = json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert set(error) == {"type", "message"}
    assert (b"\r\nAllow: POST\r\n" in answer) == (status == 405)
    assert upstream.lines == []


@pytest.mark.parametrize(
    "headers",
    [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 50",
        "Content-Length: +5",
        "Transfer-Encoding: chunked, identity",
        "Content-Length : 5",
    ],
)
def test_no_request_can_hide_another(front: Front, upstream: Upstream, headers: str) -> None:
    hidden = "0\r\n\r\nGET /models HTTP/1.1\r\nHost: x\r\n\r\n"
    raw(front, f"POST /predictions/rooms HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n{hidden}".encode())
    assert not any("/models" in line for line in upstream.lines)


def test_a_foreign_host_leads_nowhere_else(front: Front, upstream: Upstream) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        listener.setblocking(False)
        host = f"127.0.0.1:{listener.getsockname()[1]}"
        assert post(front, Host=host, X_Forwarded_Host=host).status_code == 200
        with pytest.raises(BlockingIOError):
            listener.accept()
    assert upstream.headers[0]["host"] == "torchserve"


def test_with_names_only_these(
    upstream: Upstream, tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> None:
    running = run_folder_of(upstream.url, tmp_path / "run")
    with front_of(running.run_dir, free_ports(1)[0], "--names", "rooms.example") as front:
        assert post(front, Host="Rooms.example:8090").status_code == 200
        refused = post(front, Host="attacker.example")
        assert (refused.status_code, error_of(refused)["type"]) == (421, "WrongHost")


# --- headers ------------------------------------------------------------------------------------------------


def test_a_request_has_one_id_everywhere(front: Front, upstream: Upstream) -> None:
    upstream.answer = lambda line, headers, body: (200, {"x-request-id": "of-torchserve"}, b"mask")
    kept = post(front, X_Request_ID="order-17.a_b:/+=@")
    made = [post(front), post(front, X_Request_ID='bad id"'), post(front, X_Request_ID="x" * 129)]
    ids = [answer.headers["x-request-id"] for answer in (kept, *made)]
    assert ids[0] == "order-17.a_b:/+=@"
    assert all(len(made) == 32 for made in ids[1:])
    assert len(set(ids)) == 4
    assert [headers["x-request-id"] for headers in upstream.headers] == ids
    for name in ids:
        assert logged(front, name)["torchserve_request_id"] == "of-torchserve"


def test_the_queue_begins_at_the_front_whatever_a_client_says(front: Front, upstream: Upstream) -> None:
    before = time.time()
    post(front, X_Request_Start="t=1.000")
    start = upstream.headers[0]["x-request-start"]
    assert start.startswith("t=")
    assert before - 0.1 <= float(start[2:]) <= time.time() + 0.1


def test_token_accept_and_type_pass_untouched(front: Front, upstream: Upstream) -> None:
    sent = {"Authorization": "Bearer SeCrEt", "Accept": "application/x-npy", "Content-Type": "image/jpeg"}
    post(front, Authorization=sent["Authorization"], Accept=sent["Accept"], Content_Type=sent["Content-Type"])
    assert {name: upstream.headers[0][name.lower()] for name in sent} == sent


def test_a_photo_that_curl_calls_a_form_is_a_photo(front: Front, upstream: Upstream) -> None:
    post(front, Content_Type="application/x-www-form-urlencoded")
    post(front, Content_Type="multipart/form-data; boundary=x")
    assert [headers["content-type"] for headers in upstream.headers] == [
        "application/octet-stream",
        "multipart/form-data; boundary=x",
    ]


@pytest.mark.parametrize(
    ("reply", "retry_after"),
    [
        ((503, {}, b'{"code": 503, "message": "queue full"}'), "1"),
        ((503, {"Retry-After": "7"}, b"{}"), "7"),
        ((429, {}, b"{}"), "1"),
        ((400, {}, b'{"error": {}}'), None),
        ((500, {}, b'{"error": {}}'), None),
        ((501, {}, b"{}"), None),
        ((505, {}, b"{}"), None),
        ((200, {"x-segserve-version": "1.0"}, b"mask"), None),
    ],
)
def test_answers_pass_as_they_are_with_retry_after_where_it_helps(
    front: Front, upstream: Upstream, reply: Reply, retry_after: str | None
) -> None:
    upstream.answer = lambda line, headers, body: reply
    answer = post(front)
    assert (answer.status_code, answer.content) == (reply[0], reply[2])
    assert answer.headers.get("retry-after") == retry_after
    assert len(upstream.lines) == 1  # and none was sent again
    for name, value in reply[1].items():
        assert answer.headers.get_list(name) == [value]
