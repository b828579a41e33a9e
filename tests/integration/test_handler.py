"""The handler in TorchServe's own context, with an engine that finds red, green and blue."""

from __future__ import annotations

import io
import json
import logging
import os
import warnings
from typing import Any

import numpy as np
import pytest
from PIL import Image

from handlers import segmentation_handler
from handlers.segmentation_handler import SegmentationHandler
from segserve import encode
from segserve.segmenter import Segmenter
from tests.integration.calling import Caller, Fields, error_of, mask_of, photo

with warnings.catch_warnings():
    warnings.simplefilter("ignore", ResourceWarning)  # ts.version leaves its file open
    from ts.utils.util import list_classes_from_module

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


@pytest.fixture
def serve(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> Caller:
    return Caller(colour_segmenter, monkeypatch, {"segserve": {"max_response_bytes": 100_000}})


# --- one request ------------------------------------------------------------------------------------------------


def test_torchserve_finds_exactly_one_class() -> None:
    assert list_classes_from_module(segmentation_handler) == [SegmentationHandler]


@pytest.mark.parametrize("fields", [{"body": bytearray}, {"body": bytes}, {"data": bytearray}])
def test_the_mask_comes_back_at_the_size_of_the_photo(serve: Caller, fields: dict[str, type]) -> None:
    [(name, as_type)] = fields.items()
    [served] = serve({name: as_type(photo(GREEN, BLUE, height=75, width=130))})
    mask = mask_of(served)
    assert mask.shape == (75, 130)
    assert (mask[:, :55] == 1).all()
    assert (mask[:, 75:] == 2).all()


def test_every_format_by_field_and_by_header(serve: Caller) -> None:
    sent = photo(RED, BLUE)
    by_field = serve(*({"body": sent, "format": name} for name in ("png", "json", "npy", "overlay")))
    by_header = serve(
        *({"body": bytearray(sent)} for _ in range(4)),
        headers=[
            {"ACCEPT": "image/png"},
            {"accept": "application/json"},
            {"Accept": "application/x-npy"},
            {"aCCept": "image/jpeg"},
        ],
    )
    types = ["image/png", "application/json", "application/x-npy", "image/jpeg"]
    for answers in (by_field, by_header):
        assert [(status, headers["content-type"]) for status, headers, _ in answers] == [
            (200, t) for t in types
        ]
        png, described, npy, overlay = (body for _, _, body in answers)
        labels = np.load(io.BytesIO(npy))
        np.testing.assert_array_equal(labels, np.asarray(Image.open(io.BytesIO(png))))
        assert [entry["name"] for entry in json.loads(described)["classes"]] == ["wall", "ceiling"]
        assert json.loads(described)["classes"][0]["pixels"] == int((labels == 0).sum())
        assert set(json.loads(described)["timings_ms"]) == {"decode", "engine", "mask"}
        assert Image.open(io.BytesIO(overlay)).size == (64, 48)


def test_a_field_is_not_taken_for_a_header(serve: Caller) -> None:
    [served] = serve({"data": bytearray(photo(RED, BLUE)), "accept": bytearray(b"text/html")})
    assert mask_of(served).shape == (48, 64)


def test_classes_by_field(serve: Caller) -> None:
    [served] = serve({"body": photo(RED, BLUE), "classes": bytearray(b"ceiling")})
    assert sorted(np.unique(mask_of(served)).tolist()) == [2, 255]
    [unknown] = serve({"body": photo(RED, BLUE), "classes": "sky"})
    assert error_of(unknown)[:2] == (422, "UnknownClass")
    assert "wall, floor, ceiling" in error_of(unknown)[2]


def test_headers_tell_how_it_was_made(serve: Caller) -> None:
    [(_, headers, _)] = serve({"body": photo(RED, BLUE)})
    assert headers["x-segserve-version"] == "3.1"
    assert headers["x-segserve-engine"] == "numpy"
    assert headers["x-segserve-device"] == "cpu"
    assert headers["x-segserve-batch-size"] == "1"
    steps = dict(step.split(";dur=") for step in headers["server-timing"].split(", "))
    assert list(steps) == ["decode", "engine", "mask", "encode", "batch_wait", "total"]
    durations = {step: float(ms) for step, ms in steps.items()}
    assert all(ms >= 0 for ms in durations.values())
    assert durations["total"] >= durations["decode"] + durations["mask"]


def test_the_engine_is_named_with_its_precision(serve: Caller, colour_engine: Any) -> None:
    colour_engine.precision = "int8"
    [(_, headers, _)] = serve({"body": photo(RED, BLUE)})
    assert headers["x-segserve-engine"] == "numpy-int8"


# --- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "headers", "status", "error_type", "message"),
    [
        ({}, {}, 400, "BadImage", "no image"),
        ({"body": bytearray()}, {}, 400, "BadImage", "no image"),
        ({"body": b"\xff\xd8\xff\xe0 cut"}, {}, 400, "BadImage", "corrupt or cut short"),
        ({"body": "text"}, {}, 400, "BadImage", "not an image"),
        ({"body": ["json"]}, {}, 400, "BadImage", "JSON"),
        ({"body": photo(RED, RED)}, {"Accept": "text/html"}, 406, "FormatNotAcceptable", "application/json"),
        ({"body": photo(RED, RED), "format": b"tiff"}, {}, 406, "FormatNotAcceptable", "'tiff'"),
        ({"body": b"%PDF-1.7"}, {}, 415, "ImageFormatNotServed", "PDF is not served"),
        ({"body": photo(RED, RED), "classes": b"\xff"}, {}, 422, "UnknownClass", "wall"),
    ],
)
def test_errors_of_a_request(
    serve: Caller, fields: Fields, headers: dict[str, str], status: int, error_type: str, message: str
) -> None:
    [served] = serve(fields, headers=[headers])
    assert error_of(served)[:2] == (status, error_type)
    assert message in error_of(served)[2]
    assert served[1]["x-segserve-version"] == "3.1"


def test_an_image_above_the_pixel_limit(colour_segmenter: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(colour_segmenter, "max_pixels", 40 * 40)
    serve = Caller(colour_segmenter, monkeypatch, {})
    large, fitting = serve({"body": photo(RED, BLUE, 41, 40)}, {"body": photo(RED, BLUE, 40, 40)})
    assert error_of(large)[:2] == (413, "ImageTooLarge")
    assert mask_of(fitting).shape == (40, 40)


def test_an_answer_that_the_server_would_not_survive(serve: Caller) -> None:
    sent = photo(RED, BLUE, height=400, width=400)
    as_npy, as_png = serve({"body": sent, "format": "npy"}, {"body": sent})
    assert error_of(as_npy)[:2] == (413, "ImageTooLarge")
    assert "format=png" in error_of(as_npy)[2]
    assert mask_of(as_png).shape == (400, 400)


# --- batches ----------------------------------------------------------------------------------------------------


def test_bad_neighbours_change_nothing(serve: Caller, colour_engine: Any) -> None:
    first = {"body": photo(RED, BLUE, 90, 61)}
    last = {"body": photo(GREEN, RED, 33, 120, "JPEG"), "format": "npy"}
    corrupt = {"body": photo(RED, BLUE)[:60]}
    calls = colour_engine.batch_sizes
    calls.clear()
    batch = serve(first, corrupt, {"body": b""}, last)
    assert calls == [2]
    assert [status for status, _, _ in batch] == [200, 400, 400, 200]
    assert [headers["x-segserve-batch-size"] for _, headers, _ in batch] == ["2", "0", "0", "2"]
    assert error_of(batch[1])[1] == error_of(batch[2])[1] == "BadImage"
    [first_alone], [last_alone] = serve(first), serve(last)
    assert batch[0][2] == first_alone[2]
    assert batch[3][2] == last_alone[2]
    assert mask_of(batch[0]).shape == (90, 61)
    assert np.load(io.BytesIO(batch[3][2])).shape == (33, 120)


def test_a_batch_without_any_image(serve: Caller, colour_engine: Any) -> None:
    colour_engine.batch_sizes.clear()
    assert [status for status, _, _ in serve({}, {"body": b"no"})] == [400, 400]
    assert colour_engine.batch_sizes == []


def test_an_engine_that_fails_on_a_batch_is_tried_image_by_image(
    serve: Caller, colour_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    colour_engine.fails = lambda images: len(images) > 1
    with caplog.at_level(logging.ERROR):
        served = serve({"body": photo(RED, BLUE)}, {"body": photo(GREEN, GREEN)})
    assert (mask_of(served[1]) == 1).all()
    assert set(np.unique(mask_of(served[0]))) == {0, 2}
    assert [headers["x-segserve-batch-size"] for _, headers, _ in served] == ["1", "1"]
    assert "failed on a batch of 2" in caplog.text


def test_an_image_that_breaks_the_engine_breaks_nobody_else(
    serve: Caller, colour_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    colour_engine.fails = lambda images: bool((images[:, 32, 16] == GREEN).all(axis=-1).any())
    with caplog.at_level(logging.ERROR):
        broken, fine = serve({"body": photo(GREEN, GREEN)}, {"body": photo(RED, BLUE)})
    assert error_of(broken)[:2] == (500, "InternalError")
    assert b"CUDA" not in broken[2]  # nothing of our inside
    assert set(np.unique(mask_of(fine))) == {0, 2}
    assert "CUDA error: an illegal" in caplog.text  # but the log has it, with the traceback
    assert "Traceback" in caplog.text


def test_an_image_that_there_is_no_memory_for_may_come_again(
    serve: Caller, colour_engine: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """As where other processes hold the GPU's memory for a moment: nothing of that is to be reported."""
    colour_engine.reason = "CUDA out of memory. Tried to allocate 2 GiB"
    colour_engine.fails = lambda images: bool((images[:, 32, 16] == GREEN).all(axis=-1).any())
    with caplog.at_level(logging.ERROR):
        refused, fine = serve({"body": photo(GREEN, GREEN)}, {"body": photo(RED, BLUE)})
        [alone] = serve({"body": photo(GREEN, GREEN)})  # the engine is asked for a grey image, and makes it
    for served in (refused, alone):
        message = "the engine has not enough memory for the image at the moment; send it again later"
        assert error_of(served) == (503, "Overloaded", message)
        assert served[1]["retry-after"] == "10"
    assert set(np.unique(mask_of(fine))) == {0, 2}
    assert "CUDA out of memory. Tried to allocate 2 GiB" in caplog.text


def test_a_bug_of_ours_is_the_error_of_one_request(
    serve: Caller, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_npy(_: object) -> bytes:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(encode, "npy", broken_npy)
    with caplog.at_level(logging.ERROR):
        broken, fine = serve({"body": photo(RED, BLUE), "format": "npy"}, {"body": photo(RED, BLUE)})
    assert error_of(broken)[:2] == (500, "InternalError")
    assert set(np.unique(mask_of(fine))) == {0, 2}
    assert "ZeroDivisionError: a bug" in caplog.text


@pytest.mark.parametrize("reason", ["CUDA error: an illegal memory access was encountered", "out of memory"])
def test_a_broken_engine_ends_the_worker(
    reason: str,
    serve: Caller,
    colour_engine: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Ended(Exception):
        """In place of the end of the process."""

    def exit_process(code: int) -> None:
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", exit_process)
    monkeypatch.setattr(logging, "shutdown", lambda: None)
    colour_engine.fails, colour_engine.reason = lambda _: True, reason
    with pytest.raises(Ended) as ended:
        serve({"body": photo(RED, BLUE)}, {"body": b"no image"})
    assert ended.value.args == (1,)
    assert f"the engine fails on every image: {reason}" in caplog.text


# --- settings ---------------------------------------------------------------------------------------------------
