"""What an answer looks like in every format."""

from __future__ import annotations

import gzip
import io
import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve import answer, encode
from segserve.errors import ImageTooLarge
from segserve.request import CONTENT_TYPES
from tests.specs import make_spec

SPEC = make_spec()
CLASSES = SPEC.classes
# wall 6, floor 4, ceiling 2
LABELS: NDArray[np.uint8] = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 2, 2]], np.uint8)
PHOTO: NDArray[np.uint8] = np.full((3, 4, 3), 100, np.uint8)


def body(answer_format: str, class_ids: tuple[int, ...] | None = None, max_bytes: int = 10_000) -> bytes:
    return answer.body(
        answer_format,
        LABELS,
        PHOTO,
        SPEC,
        class_ids=class_ids,
        timings_ms={"decode": 1.23456},
        max_bytes=max_bytes,
    )


# --- bodies ---------------------------------------------------------------------------------------------------


def test_png_and_npy_hold_the_labels() -> None:
    image = Image.open(io.BytesIO(body("png")))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), LABELS)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), np.array(SPEC.palette, np.uint8)[LABELS])
    np.testing.assert_array_equal(np.load(io.BytesIO(body("npy"))), LABELS)


def test_json_describes_each_class() -> None:
    described = json.loads(body("json"))
    assert described["image"] == {"width": 4, "height": 3}
    assert described["model"] == {"name": "rooms", "version": "1.2"}
    assert described["timings_ms"] == {"decode": 1.235}
    assert [(entry["id"], entry["name"], entry["pixels"]) for entry in described["classes"]] == [
        (0, "wall", 6),
        (1, "floor", 4),
        (2, "ceiling", 2),
    ]
    assert [entry["fraction"] for entry in described["classes"]] == [6 / 12, 4 / 12, 2 / 12]
    # runs go down the columns, beginning with background; counts below 48 are one character, 48 + count
    assert described["classes"][0]["rle"] == {"size": [3, 4], "counts": "066"}
    for entry in described["classes"]:
        assert entry["rle"]["size"] == [3, 4]


def test_json_leaves_out_classes_that_are_not_there() -> None:
    labels = np.full((2, 2), 2, np.uint8)
    described = json.loads(answer.json_body(labels, SPEC, None, {}))
    assert [entry["name"] for entry in described["classes"]] == ["ceiling"]


def test_classes_restrict_every_format() -> None:
    expected = np.where(LABELS == 1, 1, 255)
    image = Image.open(io.BytesIO(body("png", (1,))))
    np.testing.assert_array_equal(np.asarray(image), expected)
    colours = np.where((LABELS == 1)[:, :, None], SPEC.palette[1], (0, 0, 0))
    np.testing.assert_array_equal(np.asarray(image.convert("RGB")), colours)
    np.testing.assert_array_equal(np.load(io.BytesIO(body("npy", (1,)))), expected)
    [floor] = json.loads(body("json", (1,)))["classes"]
    assert (floor["name"], floor["pixels"], floor["fraction"]) == ("floor", 4, 4 / 12)


def test_the_overlay_tints_only_what_was_asked_for() -> None:
    labels = np.zeros((32, 32), np.uint8)
    labels[:, 16:] = 1
    photo = np.full((32, 32, 3), 100, np.uint8)

    def overlay(class_ids: tuple[int, ...] | None) -> NDArray[np.int_]:
        data = answer.body(
            "overlay", labels, photo, SPEC, class_ids=class_ids, timings_ms={}, max_bytes=10_000
        )
        image = Image.open(io.BytesIO(data))
        assert image.format == "JPEG"
        return np.asarray(image).astype(int)

    everything, floor_only = overlay(None), overlay((1,))
    assert everything[16, 4, 0] > everything[16, 4, 1] + 20  # wall is red
    assert everything[16, 28, 1] > everything[16, 28, 0] + 20  # floor is green
    assert np.abs(floor_only[16, 4] - 100).max() <= 6
    np.testing.assert_allclose(floor_only[16, 28], everything[16, 28], atol=6)


# --- limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("answer_format", CONTENT_TYPES)
def test_the_size_limit_is_exact(answer_format: str) -> None:
    size = len(body(answer_format))
    assert len(body(answer_format, max_bytes=size)) == size
    with pytest.raises(ImageTooLarge, match=rf"{size} bytes, {size - 1} are allowed; scale the image down"):
        body(answer_format, max_bytes=size - 1)


def test_npy_is_refused_before_it_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> bytes:
        raise AssertionError

    monkeypatch.setattr(encode, "npy", never)
    with pytest.raises(ImageTooLarge, match="format=png"):
        body("npy", max_bytes=LABELS.size + 127)


def test_an_overlay_that_no_jpeg_can_hold() -> None:
    labels = np.zeros((1, 65_501), np.uint8)
    photo = np.zeros((1, 65_501, 3), np.uint8)
    with pytest.raises(ImageTooLarge, match=r"65501 x 1; ask for format=png"):
        answer.body("overlay", labels, photo, SPEC, class_ids=None, timings_ms={}, max_bytes=10**6)
    png = answer.body("png", labels, photo, SPEC, class_ids=None, timings_ms={}, max_bytes=10**6)
    assert Image.open(io.BytesIO(png)).size == (65_501, 1)


def test_errors_are_json_whatever_was_sent() -> None:
    told = json.loads(answer.error_body("BadImage", "naïve \ud800 text"))
    assert told == {"error": {"type": "BadImage", "message": "naïve ? text"}}


def test_packed_labels_are_checked_by_their_packed_size() -> None:
    labels, photo = np.zeros((1000, 1000), np.uint8), np.zeros((1000, 1000, 3), np.uint8)
    arguments: dict[str, Any] = {"class_ids": None, "timings_ms": {}, "max_bytes": 20_000}
    packed = answer.body("npy", labels, photo, SPEC, **arguments, gzipped=True)
    np.testing.assert_array_equal(np.load(io.BytesIO(gzip.decompress(packed))), labels)
    with pytest.raises(ImageTooLarge, match="accept gzip"):
        answer.body("npy", labels, photo, SPEC, **arguments)
