"""The load client against a small server: what it sends, counts, keeps, and what it makes of broken answers."""

from __future__ import annotations

import math
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from benchmarks.client import NO_ANSWER, Answer, Load, drive, post
from tests.serving_http import reply, serving


def test_each_request_is_sent_as_often_as_the_others_and_its_own_answer_comes_back() -> None:
    bodies = [bytes([number]) * 100_000 for number in range(3)]

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        reply(handler, body[:70_000], X_Path=handler.path, X_Accept=str(handler.headers["Accept"]))

    with serving(answer) as url:
        requests = [post(f"{url}/predictions/m?format=png", body, {"Accept": "image/png"}) for body in bodies]
        load = drive(url, requests, 4, 0.0, min_answers=12, keep_bodies=2)
    assert len(load.answers) >= 12
    assert not load.failed
    for number, body in enumerate(bodies):
        mine = [answer for answer in load.answers if answer.request == number]
        assert abs(len(mine) - len(load.answers) / 3) <= 1
        assert [answer.body for answer in mine if answer.body is not None] == [body[:70_000]] * 2
    first = load.answers[0]
    assert first.num_bytes == 70_000
    assert first.headers["x-path"] == "/predictions/m?format=png"
    assert first.headers["x-accept"] == "image/png"


def test_the_window_ends_after_the_duration_and_concurrency_is_kept() -> None:
    together, most, lock = 0, 0, threading.Lock()
    all_here = threading.Barrier(5, timeout=60)

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        nonlocal together, most
        with lock:
            together += 1
            most = max(most, together)
        all_here.wait()
        with lock:
            together -= 1
        reply(handler, b"done")

    with serving(answer) as url:
        load = drive(url, [post(url, b"x", {})], 5, 0.0, min_answers=1)
    assert most == 5
    assert len(load.answers) == 5
    assert load.window_s == load.answers[0].done_s


def test_without_drain_it_hangs_up_on_what_is_still_on_its_way() -> None:
    over, lock, seen = threading.Event(), threading.Lock(), 0

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        nonlocal seen
        with lock:
            seen += 1
            late = seen > 3
        if late:
            over.wait(60)
            handler.close_connection = True
        else:
            reply(handler, b"done")

    with serving(answer) as url:
        load = drive(url, [post(url, b"x", {})], 2, 0.0, min_answers=3, drain=False)
        over.set()
    assert [answer.status for answer in load.answers] == [200, 200, 200]


def test_other_statuses_are_failures_with_what_the_server_said() -> None:
    with serving(lambda handler, body: reply(handler, b"no model", 503)) as url:
        load = drive(url, [post(url, b"x", {})], 1, 0.0, min_answers=2, keep_bodies=5)
    assert [(answer.status, answer.error, answer.body) for answer in load.failed] == [
        (503, "no model", None),
        (503, "no model", None),
    ]
    assert load.images_per_s == 0
    assert math.isnan(load.latency_ms(50))


def test_a_broken_connection_and_one_that_takes_too_long_are_failures_and_the_next_request_goes_on() -> None:
    seen = 0
    over = threading.Event()

    def answer(handler: BaseHTTPRequestHandler, _: bytes) -> None:
        nonlocal seen
        seen += 1
        if seen == 1:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
            handler.close_connection = True
        elif seen == 2:
            over.wait(60)
            handler.close_connection = True
        else:
            reply(handler, b"fine")

    with serving(answer) as url:
        load = drive(url, [post(url, b"x", {})], 1, 0.0, min_answers=3, answer_timeout_s=2.0)
        over.set()
    assert [answer.status for answer in load.answers] == [NO_ANSWER, NO_ANSWER, 200]
    assert "IncompleteReadError" in load.answers[0].error
    assert load.answers[1].error == "no answer within 2 s"


def test_chunked_bodies_and_servers_that_close_after_each_answer() -> None:
    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.send_header("Connection", "close")
        handler.end_headers()
        handler.wfile.write(b"3\r\nabc\r\n4;note=x\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n")

    with serving(answer) as url:
        load = drive(url, [post(url, b"x", {})], 2, 0.0, min_answers=6, keep_bodies=1)
    assert [answer.status for answer in load.answers] == [200] * len(load.answers)
    assert {answer.num_bytes for answer in load.answers} == {7}
    assert load.answers[0].body == b"abcdefg"


def test_figures_count_good_answers_inside_the_window_until_the_last_of_them() -> None:
    def at(done_s: float, latency_s: float, status: int = 200) -> Answer:
        return Answer(0, status, done_s - latency_s, latency_s, {}, 0, None)

    answers = (at(1, 1), at(2, 0.5), at(4, 0.25), at(4.5, 0.1, 500), at(6, 2))
    load = Load(concurrency=2, window_s=5, answers=answers)
    assert load.images_per_s == pytest.approx(3 / 4)
    assert [answer.status for answer in load.failed] == [500]
    assert load.latency_ms(50) == pytest.approx(500)
    assert load.latency_ms(95) == pytest.approx(1000)
    assert load.latency_ms(1) == pytest.approx(250)


def test_nobody_listens() -> None:
    with serving(lambda handler, body: None) as url:
        pass
    with pytest.raises(ConnectionRefusedError):
        drive(url, [post(url, b"x", {})], 1, 1.0)
