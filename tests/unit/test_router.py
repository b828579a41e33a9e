"""Which client a call goes to, and what a canary that fails does to it."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler

import pytest

from deploy.client import ANSWER_TIMEOUT_S, Client, Refused
from deploy.router import Routed, Router
from segserve.errors import ServerError, UsageError
from tests.serving_http import reply, serving


class Answering:
    """Answers with its name, or fails; `asked`: for how long it could have taken, and whether only once."""

    def __init__(self, name: bytes, error: Exception | None = None, takes_s: float = 0.0) -> None:
        self.name, self.error, self.takes_s = name, error, takes_s
        self.asked: list[tuple[float, bool]] = []

    def segment(
        self, image: bytes, answer_format: str, *, timeout_s: float = ANSWER_TIMEOUT_S, once: bool = False
    ) -> bytes:
        self.asked.append((timeout_s, once))
        time.sleep(self.takes_s)
        if self.error:
            raise self.error
        return self.name + b" " + image + b" " + answer_format.encode()


def answers(router: Router, calls: int) -> list[bytes]:
    return [router.segment(b"photo", "png").split()[0] for _ in range(calls)]


def test_the_share_goes_to_the_canary_and_a_seed_repeats_it() -> None:
    ways = [answers(Router(Answering(b"old"), Answering(b"new"), 0.1, seed=seed), 2000) for seed in (7, 7, 8)]
    assert ways[0] == ways[1] != ways[2]
    for way in ways:
        assert abs(way.count(b"new") - 200) <= 4 * (2000 * 0.1 * 0.9) ** 0.5
        assert way.count(b"old") + way.count(b"new") == 2000


@pytest.mark.parametrize(("share", "name"), [(0.0, b"old"), (1.0, b"new")])
def test_none_or_all(share: float, name: bytes) -> None:
    assert set(answers(Router(Answering(b"old"), Answering(b"new"), share), 100)) == {name}


def test_image_and_format_are_handed_on() -> None:
    router = Router(Answering(b"old"), Answering(b"new"), 1.0)
    assert router.segment(b"photo", "npy") == b"new photo npy"


@pytest.mark.parametrize(
    "error",
    [
        ServerError("gone"), Refused(503, "full"), Refused(429, "too much"), Refused(404, "no such version"),
        Refused(400, "not an image"), Refused(422, "no such class"),
    ],
)  # fmt: skip
def test_what_the_canary_cannot_answer_the_default_does(error: Exception) -> None:
    router = Router(Answering(b"old"), Answering(b"new", error), 1.0)
    assert answers(router, 3) == [b"old"] * 3
    assert router.routed == Routed(default=3, canary=0, failed=3)


def test_a_canary_has_half_of_the_time_and_the_default_what_is_left() -> None:
    old, new = Answering(b"old"), Answering(b"new", ServerError("gone"), takes_s=0.1)
    assert Router(old, new, 1.0).segment(b"photo", "png", timeout_s=60) == b"old photo png"
    assert new.asked == [(30, True)]
    [(left_s, once)] = old.asked
    assert 30 < left_s <= 59.9
    assert not once  # the default may be asked again until then
    Router(old, new, 0.0).segment(b"photo", "png")
    assert old.asked[-1][0] == pytest.approx(ANSWER_TIMEOUT_S, abs=30)


def test_a_canary_without_a_worker_is_asked_once() -> None:
    asked: list[str] = []

    def answer(handler: BaseHTTPRequestHandler, body: bytes) -> None:
        asked.append(handler.path)
        reply(handler, b"mask", status=503 if handler.path.endswith("2.0") else 200)

    with serving(answer) as url, Client(url, "rooms") as default, Client(url, "rooms/2.0") as canary:
        assert Router(default, canary, 1.0).segment(b"photo", "png", timeout_s=60) == b"mask"
    assert asked == ["/predictions/rooms/2.0", "/predictions/rooms"]


def test_a_bad_image_gets_the_refusal_of_the_default() -> None:
    old, new = (Answering(name, Refused(400, f"the {name.decode()} says no")) for name in (b"old", b"new"))
    router = Router(old, new, 1.0)
    with pytest.raises(Refused, match="the old says no"):
        router.segment(b"photo", "png")
    assert (len(new.asked), len(old.asked)) == (1, 1)
    assert router.routed == Routed(failed=1)


def test_counts_hold_with_many_threads() -> None:
    router = Router(Answering(b"old"), Answering(b"new"), 0.5, seed=1)
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda _: router.segment(b"photo", "png").split()[0], range(2000)))
    assert router.routed == Routed(default=got.count(b"old"), canary=got.count(b"new"))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_cannot_be(share: float) -> None:
    with pytest.raises(UsageError, match="0 to 1"):
        Router(Answering(b"old"), Answering(b"new"), share)
