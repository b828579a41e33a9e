"""Which client a call goes to, and what a canary that fails does to it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from deploy.client import Refused
from deploy.router import Routed, Router
from segserve.errors import ServerError, UsageError


class Answering:
    """Answers with its name, or fails."""

    def __init__(self, name: bytes, error: Exception | None = None) -> None:
        self.name, self.error = name, error

    def segment(self, image: bytes, answer_format: str) -> bytes:
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
    "error", [ServerError("gone"), Refused(503, "full"), Refused(404, "no such version")]
)
def test_what_the_canary_cannot_answer_the_default_does(error: Exception) -> None:
    router = Router(Answering(b"old"), Answering(b"new", error), 1.0)
    assert answers(router, 3) == [b"old"] * 3
    assert router.routed == Routed(default=3, canary=0, failed=3)


def test_a_bad_image_is_not_tried_again() -> None:
    router = Router(Answering(b"old"), Answering(b"new", Refused(400, "not an image")), 1.0)
    with pytest.raises(Refused, match="not an image"):
        router.segment(b"photo", "png")
    assert router.routed == Routed()


def test_counts_hold_with_many_threads() -> None:
    router = Router(Answering(b"old"), Answering(b"new"), 0.5, seed=1)
    with ThreadPoolExecutor(16) as pool:
        got = list(pool.map(lambda _: router.segment(b"photo", "png").split()[0], range(2000)))
    assert router.routed == Routed(default=got.count(b"old"), canary=got.count(b"new"))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_cannot_be(share: float) -> None:
    with pytest.raises(UsageError, match="0 to 1"):
        Router(Answering(b"old"), Answering(b"new"), share)
