"""More clients than can be served: the rest is told so at once, what was taken is answered, memory stays bounded."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from benchmarks.photos import Photo
from deploy import processes
from deploy.front_process import Front
from segserve.segmenter import Segmenter
from tests.e2e.fronts import NEEDS_NGINX, Upstream, front_of, logged, run_folder_of, stand_in
from tests.e2e.serving import Server, error_of, labels_of

pytestmark = NEEDS_NGINX
QUEUE, IN_FLIGHT = 36, 40


@pytest.fixture
def slow(tmp_path: Path, free_ports: Callable[[int], list[int]]) -> Iterator[tuple[Upstream, Front]]:
    """Four at a time, 20 ms each; the front takes 40, somewhat more than the server's queue holds."""
    upstream = Upstream(delay_s=0.02, at_a_time=4)
    with stand_in(upstream):
        running = run_folder_of(upstream.url, tmp_path / "run", queue=QUEUE)
        with front_of(running.run_dir, free_ports(1)[0]) as front:
            assert front.settings.max_in_flight == IN_FLIGHT
            yield upstream, front


def rss_bytes(front: Front) -> int:
    members = processes.session_members(front.pid)
    assert len(members) == 3  # a master and two workers
    return sum(psutil.Process(pid).memory_info().rss for pid in members)


async def crowd(url: str, clients: int, each: int, body: bytes) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=clients)
    async with httpx.AsyncClient(timeout=120, limits=limits) as http:

        async def one() -> list[httpx.Response]:
            return [await http.post(f"{url}/predictions/rooms", content=body) for _ in range(each)]

        return [
            answer for answers in await asyncio.gather(*(one() for _ in range(clients))) for answer in answers
        ]


def test_hundreds_of_clients(slow: tuple[Upstream, Front]) -> None:
    upstream, front = slow
    body = b"p" * 300_000
    answers = asyncio.run(crowd(front.url, clients=300, each=2, body=body))
    after_first = rss_bytes(front)
    answers += asyncio.run(crowd(front.url, clients=300, each=2, body=body))
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 503}
    assert counts[200] == len(upstream.lines) >= 2 * IN_FLIGHT  # what was sent on was answered, nothing twice
    assert upstream.most_waiting <= IN_FLIGHT
    assert upstream.most_waiting >= IN_FLIGHT / 2  # the others were refused because it was full
    for answer in answers:
        if answer.status_code == 503:
            assert error_of(answer)["type"] == "Overloaded"
            assert answer.headers["retry-after"] == "1"
            assert len(answer.headers["x-request-id"]) == 32
    assert rss_bytes(front) <= after_first + (32 << 20)
    assert after_first < 40 * 3 * (1 << 20) + (64 << 20)  # 3 MiB for each in flight, and two processes


@pytest.fixture
def full(
    tmp_path: Path, free_ports: Callable[[int], list[int]]
) -> Iterator[tuple[Upstream, Front, threading.Event]]:
    """A front that takes two requests at a time; none is answered until the event is set."""
    free = threading.Event()
    upstream = Upstream(until=free)
    with stand_in(upstream):
        running = run_folder_of(upstream.url, tmp_path / "run")
        with front_of(running.run_dir, free_ports(1)[0], "--max-in-flight", "2") as front:
            yield upstream, front, free
            free.set()


def post(front: Front, name: str) -> httpx.Response:
    return httpx.post(
        f"{front.url}/predictions/rooms", content=b"x", headers={"X-Request-ID": name}, timeout=60
    )


def in_flight_is_full(front: Front) -> bool:
    return httpx.post(f"{front.url}/predictions/rooms", content=b"x", timeout=60).status_code == 503


def test_who_is_refused_need_not_send_the_photo(full: tuple[Upstream, Front, threading.Event]) -> None:
    upstream, front, free = full
    with ThreadPoolExecutor(2) as pool:
        taken = [pool.submit(post, front, f"taken-{number}") for number in range(2)]
        assert processes.wait_until(lambda: upstream.waiting == 2, 20)
        with socket.create_connection((front.settings.host, front.settings.port), timeout=20) as connection:
            connection.sendall(
                b"POST /predictions/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n"
            )
            assert connection.recv(1000).startswith(b"HTTP/1.1 503 ")
        assert (
            httpx.get(f"{front.url}/ping", timeout=20).status_code == 200
        )  # and a health check is not refused
        free.set()
        assert [future.result().status_code for future in taken] == [200, 200]
    assert post(front, "after").status_code == 200
    assert logged(front, "taken-0")["admission"] == "PASSED"


def test_who_hangs_up_stays_counted_until_the_server_is_done(
    full: tuple[Upstream, Front, threading.Event],
) -> None:
    upstream, front, free = full
    request = b"POST /predictions/rooms HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx"
    connections = [socket.create_connection((front.settings.host, front.settings.port)) for _ in range(2)]
    for connection in connections:
        connection.sendall(request)
    assert processes.wait_until(lambda: upstream.waiting == 2, 20)
    for connection in connections:
        connection.close()
    assert all(in_flight_is_full(front) for _ in range(50))
    free.set()
    assert processes.wait_until(lambda: not in_flight_is_full(front), 20)


def test_torchserve_behind_it_answers_all_that_was_taken(
    server: Server, room: Photo, offline: Segmenter, free_ports: Callable[[int], list[int]]
) -> None:
    with front_of(server.running.run_dir, free_ports(1)[0], "--max-in-flight", "8") as front:
        answers = asyncio.run(crowd(front.url, clients=100, each=3, body=room.jpeg))
        assert post(front, "bad").status_code == 400
    expected = offline.segment(room.jpeg)
    counts = Counter(answer.status_code for answer in answers)
    assert set(counts) == {200, 503}
    assert counts[200] >= 8
    for answer in answers:
        if answer.status_code == 200:
            assert (labels_of(answer) == expected).all()
        else:
            assert error_of(answer)["type"] == "Overloaded"
