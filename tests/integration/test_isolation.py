"""Every fate that a request can have, in one batch, and its neighbours get the bytes that they get alone."""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL.PngImagePlugin import PngImageFile

from deploy.processes import wait_until
from segserve.reply import Reply
from segserve.request import Request
from segserve.segmenter import Prepared, Segmenter
from segserve.service import Service
from tests.images import png
from tests.integration.calling import photo

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)
MAX_BYTES = 100_000
PATIENT_S = 60.0

GOOD = [
    Request({"body": photo(RED, BLUE, 90, 61)}),
    Request({"body": photo(BLUE, RED, 33, 120, "JPEG"), "format": "npy"}),
    Request({"data": photo(RED, RED, 64, 64), "format": "overlay"}),
    Request({"body": photo(BLUE, BLUE), "classes": "ceiling"}, {"accept": "image/png"}),
]
BAD = {
    400: Request({"body": photo(RED, BLUE)[:60]}),
    406: Request({"body": photo(RED, BLUE)}, {"accept": "text/html"}),
    413: Request({"body": png(60_000, 60_000, 8, 2, b"")}),
    415: Request({"body": b"%PDF-1.7"}),
    422: Request({"body": photo(RED, BLUE), "classes": "lava"}),
}
TOO_LARGE_ANSWER = Request({"body": photo(RED, BLUE, 400, 400), "format": "npy"})
BREAKS_THE_ENGINE = Request({"body": photo(GREEN, GREEN)})


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def breaks_on_green(images_nhwc: Any) -> bool:
    return bool((images_nhwc[:, 32, 16] == GREEN).all(axis=-1).any())


def error_type(reply: Reply) -> str:
    return str(json.loads(reply.body)["error"]["type"])


def hold_up(segmenter: Segmenter, gate: threading.Event, monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoding `b"stuck"` takes until the gate opens."""

    def prepare(data: bytes, with_photo: bool = False) -> Prepared:
        if data == b"stuck":
            assert gate.wait(PATIENT_S)
        return Segmenter.prepare(segmenter, data, with_photo)

    monkeypatch.setattr(segmenter, "prepare", prepare)


def test_every_status_in_one_batch_and_the_neighbours_bytes_are_the_same(
    colour_segmenter: Segmenter, colour_engine: Any, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    colour_engine.fails = breaks_on_green
    alone = [reply for request in GOOD for reply in Service(colour_segmenter, MAX_BYTES).answer([request])]
    assert [reply.status for reply in alone] == [200] * len(GOOD)
    hold_up(colour_segmenter, gate, monkeypatch)
    monkeypatch.setattr(time, "clock_gettime", lambda _: math.inf)  # as if it had used its time up
    stuck = Request({"body": b"stuck"})
    bad = [*BAD.values(), TOO_LARGE_ANSWER, BREAKS_THE_ENGINE, stuck]
    for shift in range(3):
        mixed = [*bad]
        places = [(3 * n + shift) % (len(bad) + n) for n in range(len(GOOD))]
        for place, request in zip(places, GOOD, strict=True):
            mixed.insert(place, request)
        replies = Service(colour_segmenter, MAX_BYTES, threads=2, decode_timeout_s=2.0).answer(mixed)
        by_request = {id(request): reply for request, reply in zip(mixed, replies, strict=True)}
        for request, expected in zip(GOOD, alone, strict=True):
            reply = by_request[id(request)]
            assert (reply.status, reply.content_type, reply.body) == (
                200,
                expected.content_type,
                expected.body,
            )
        for status, request in BAD.items():
            assert by_request[id(request)].status == status
        assert by_request[id(TOO_LARGE_ANSWER)].status == 413
        assert by_request[id(BREAKS_THE_ENGINE)].status == 500
        assert (by_request[id(stuck)].status, error_type(by_request[id(stuck)])) == (413, "DecodeTimeout")


def test_logits_that_are_not_numbers_are_one_requests_500(
    colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(colour_segmenter, MAX_BYTES)
    expected = [service.answer([request])[0].body for request in GOOD]

    def logits(prepared: list[Prepared]) -> Any:
        made = Segmenter.logits(colour_segmenter, prepared)
        for item, logits_chw in zip(prepared, made, strict=True):
            if (item.input_hwc[32, 16] == GREEN).all():
                logits_chw[0, 3, 3] = np.nan
        return made

    monkeypatch.setattr(colour_segmenter, "logits", logits)
    spoilt, *others = service.answer([BREAKS_THE_ENGINE, *GOOD])
    assert (spoilt.status, error_type(spoilt)) == (500, "InternalError")
    assert [reply.body for reply in others] == expected
    assert "not a number" in caplog.text


@pytest.mark.parametrize("step", ["load", "labels"])
def test_too_little_memory_for_one_image_is_that_requests_503(
    colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """In decoding, and at the mask's own size."""
    load, labels = PngImageFile.load, Segmenter.labels

    def load_all_but_the_large(image: PngImageFile) -> Any:
        if image.width == 97:
            raise MemoryError
        return load(image)

    def labels_of_all_but_the_large(segmenter: Segmenter, logits_chw: Any, prepared: Any) -> Any:
        if prepared.geometry.photo_width == 97:
            raise MemoryError
        return labels(segmenter, logits_chw, prepared)

    if step == "load":
        monkeypatch.setattr(PngImageFile, "load", load_all_but_the_large)
    else:
        monkeypatch.setattr(Segmenter, "labels", labels_of_all_but_the_large)
    large = Request({"body": photo(RED, GREEN, 40, 97)})
    refused, *others = Service(colour_segmenter, MAX_BYTES, threads=2).answer([large, *GOOD])
    assert (refused.status, error_type(refused)) == (503, "Overloaded")
    assert refused.headers["retry-after"] == "10"
    assert [reply.status for reply in others] == [200] * len(GOOD)


def test_stuck_decoders_refuse_others_with_503_and_leave_when_they_can(
    colour_segmenter: Segmenter, gate: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_up(colour_segmenter, gate, monkeypatch)
    service = Service(colour_segmenter, MAX_BYTES, decode_timeout_s=0.2)
    replies = service.answer([Request({"body": b"stuck"})] * 6)
    assert [(reply.status, error_type(reply)) for reply in replies] == [
        (503, "Overloaded"),
    ] * 6
    [refused] = service.answer(GOOD[:1])
    assert "every thread that decodes is busy" in refused.body.decode()
    assert (refused.status, refused.headers["retry-after"]) == (503, "1")
    assert "send this again later" in refused.body.decode()
    gate.set()
    assert wait_until(lambda: service.answer(GOOD[:1])[0].status == 200, PATIENT_S)
