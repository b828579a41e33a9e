"""The images of a batch side by side in threads: they really are, and each still has its own fate."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segserve import answer
from segserve.reply import Reply
from segserve.request import Request
from segserve.segmenter import Segmenter
from segserve.service import Service
from tests.integration.calling import photo

COLOURS = ((255, 0, 0), (0, 255, 0), (0, 0, 255))
MAX_BYTES = 1_000_000


def requests(count: int) -> list[Request]:
    """Photos that differ in colours and size, so that a mix-up would show."""
    return [
        Request({"body": photo(COLOURS[n % 3], COLOURS[(n + 1) % 3], 40 + n, 64 + 2 * n)})
        for n in range(count)
    ]


def labels(reply: Reply) -> tuple[int, Any]:
    return reply.status, np.asarray(Image.open(io.BytesIO(reply.body)))


def meeting(function: Callable[..., Any], count: int) -> Callable[..., Any]:
    """The function, but it returns only once `count` threads are in it; a lonely one breaks after a while."""
    barrier = threading.Barrier(count, timeout=20)

    def wrapped(*arguments: Any, **keywords: Any) -> Any:
        barrier.wait()
        return function(*arguments, **keywords)

    return wrapped


def test_decoding_and_answering_overlap_within_a_batch(
    colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = Service(colour_segmenter, MAX_BYTES)
    expected = [labels(reply) for request in requests(4) for reply in alone.answer([request])]
    service = Service(colour_segmenter, MAX_BYTES, threads=2)
    monkeypatch.setattr(colour_segmenter, "prepare", meeting(colour_segmenter.prepare, 2))
    monkeypatch.setattr(answer, "body", meeting(answer.body, 2))
    replies = service.answer(requests(4))
    for reply, (status, mask) in zip(replies, expected, strict=True):
        assert (reply.status, reply.headers["x-segserve-batch-size"]) == (status, "4")
        np.testing.assert_array_equal(labels(reply)[1], mask)


def test_one_thread_is_one_at_a_time(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = set()

    def prepare(*arguments: Any, **keywords: Any) -> Any:
        seen.add(threading.get_ident())
        return Segmenter.prepare(colour_segmenter, *arguments, **keywords)

    monkeypatch.setattr(colour_segmenter, "prepare", prepare)
    Service(colour_segmenter, MAX_BYTES).answer(requests(5))
    assert len(seen) == 1
    assert threading.get_ident() not in seen  # which waits, and looks at the clock


def test_what_breaks_in_a_thread_is_the_error_of_one_request(
    colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken_for_the_small_one(logits_chw: Any, prepared: Any) -> Any:
        if prepared.geometry.photo_height == 40:
            raise ZeroDivisionError("a bug")
        return Segmenter.labels(colour_segmenter, logits_chw, prepared)

    monkeypatch.setattr(colour_segmenter, "labels", broken_for_the_small_one)
    batch = requests(4)
    batch.insert(2, Request({"body": b"no image"}))
    replies = Service(colour_segmenter, MAX_BYTES, threads=3).answer(batch)
    assert [reply.status for reply in replies] == [500, 200, 400, 200, 200]
    assert [labels(reply)[1].shape for reply in replies if reply.status == 200] == [
        (41, 66),
        (42, 68),
        (43, 70),
    ]
