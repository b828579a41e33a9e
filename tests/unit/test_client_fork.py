"""A client that was made before a fork, as by gunicorn --preload: it works in the child, and in the parent after."""

from __future__ import annotations

import multiprocessing
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.client import Client
from tests.serving_http import reply, serving


@pytest.fixture
def client() -> Iterator[Client]:
    """Its server answers with what it gets."""
    with serving(reply) as url, Client(url, "rooms") as client:
        assert client.segment(b"before", "png") == b"before"  # so there is a connection that a child has too
        yield client


def in_child(work: Callable[[], bytes]) -> bytes:
    """What it gives in a process that is forked off here."""
    fork = multiprocessing.get_context("fork")
    ours, theirs = fork.Pipe(duplex=False)
    child = fork.Process(target=lambda: theirs.send_bytes(work()))
    child.start()
    theirs.close()
    try:
        assert ours.poll(60), "the child hangs"
        return ours.recv_bytes()
    finally:
        child.kill()
        child.join()
        ours.close()


def test_child_and_parent_both_get_their_answers(client: Client) -> None:
    assert in_child(lambda: client.segment(b"child", "png")) == b"child"
    assert client.segment(b"parent", "png") == b"parent"


def test_the_threads_of_a_child_share_one_loop(client: Client) -> None:
    def work() -> bytes:
        bodies = [b"%d" % number for number in range(50)]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(lambda body: client.segment(body, "png"), bodies)) == bodies
        return b"%d" % [thread.name for thread in threading.enumerate()].count("client")

    assert in_child(work) == b"1"


def test_a_child_can_close_it_used_or_not(client: Client) -> None:
    def close() -> bytes:
        client.close()
        return b"closed"

    assert in_child(close) == b"closed"
    assert in_child(lambda: client.segment(b"x", "png") + close()) == b"xclosed"
    assert client.segment(b"parent", "png") == b"parent"
