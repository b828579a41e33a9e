"""Overlays, which no two JPEG encoders write alike, are held against the mask over the photo."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.judge import Answer, judge
from benchmarks.photos import photo
from benchmarks.truth import Truth
from segserve import encode
from segserve.errors import CheckFailed
from segserve.image import decode
from segserve.labels import ROOM_CLASSES, palette
from training.rooms import render


def room_truth() -> tuple[Truth, NDArray[np.uint8]]:
    """A rendered room turned by its EXIF tag, with its labels, and its pixels as the server decodes them."""
    _, labels = render(5, 160, 128)
    room = photo(5, 160, 128)
    return Truth(room, labels, palette(len(ROOM_CLASSES))), decode(room.jpeg)


def overlay(body: bytes) -> Answer:
    return Answer("overlay", "1.2", "image/jpeg", body)


def test_an_overlay_is_compared_with_the_mask_over_the_photo() -> None:
    truth, pixels = room_truth()
    right = encode.overlay_jpeg(pixels, truth.labels, truth.colours)
    judge(overlay(right), truth, {})
    left_out = np.where(truth.labels == truth.labels[0, 0], 255, truth.labels).astype(np.uint8)
    judge(
        overlay(encode.overlay_jpeg(pixels, left_out, truth.colours)),
        Truth(truth.photo, left_out, truth.colours),
        {},
    )
    for wrong in (
        encode.overlay_jpeg(np.zeros_like(pixels), np.full_like(truth.labels, 255), truth.colours),  # black
        encode.overlay_jpeg(pixels, np.full_like(truth.labels, 255), truth.colours),  # the photo as it is
        encode.overlay_jpeg(pixels, np.ascontiguousarray(truth.labels[::-1]), truth.colours),
        encode.overlay_jpeg(pixels, truth.labels, truth.colours[::-1].copy()),
        encode.overlay_jpeg(pixels, left_out, truth.colours),
    ):
        with pytest.raises(CheckFailed, match=r"overlay: another picture than the mask of version 1\.2"):
            judge(overlay(wrong), truth, {})


def test_one_block_of_another_class_is_seen_in_an_overlay() -> None:
    truth, pixels = room_truth()
    spoilt = truth.labels.copy()
    spoilt[32:48, 64:80] = (spoilt[32, 64] + 4) % 11
    with pytest.raises(CheckFailed, match="overlay: another picture"):
        judge(overlay(encode.overlay_jpeg(pixels, spoilt, truth.colours)), truth, {})
