"""Encoders: what a client decodes is the label map, pixel for pixel."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve import encode
from segserve.labels import palette


def decode_rle(encoded: dict[str, Any]) -> NDArray[np.bool_]:
    """COCO's text decoded by the book, independent of the encoder."""
    lengths: list[int] = []
    position, text = 0, encoded["counts"].encode()
    while position < len(text):
        value, shift, more = 0, 0, True
        while more:
            group = text[position] - 48
            value |= (group & 31) << shift
            more, position, shift = bool(group & 32), position + 1, shift + 5
            if not more and group & 16:
                value |= -1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
    flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    height, width = encoded["size"]
    return flat.reshape(width, height).T


def random_labels(seed: int, height: int = 61, width: int = 83) -> NDArray[np.uint8]:
    blocks = np.random.default_rng(seed).integers(0, 11, (8, 9), dtype=np.uint8)
    return np.kron(blocks, np.ones((8, 10), np.uint8))[:height, :width]


def rle(mask: NDArray[np.bool_]) -> dict[str, Any]:
    [encoded] = encode.rles(mask.astype(np.uint8), [1])
    return encoded


@pytest.mark.parametrize("mask", [
    np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(7, dtype=bool), np.ones((1, 1), bool),
    np.random.default_rng(1).random((40, 50)) > 0.5, np.arange(5000).reshape(50, 100) > 3,
])  # fmt: skip
def test_rle_round_trip(mask: NDArray[np.bool_]) -> None:
    np.testing.assert_array_equal(decode_rle(rle(mask)), mask)


def test_rle_of_known_masks() -> None:
    """Strings worked out by hand from the definition: runs 4; 0 4; 1 2 1 and, with differences, 1 1 1 3."""
    assert rle(np.zeros((2, 2), bool))["counts"] == "4"
    assert rle(np.ones((2, 2), bool))["counts"] == "04"
    assert rle(np.array([[0, 1], [1, 0]], bool))["counts"] == "121"
    assert rle(np.array([[0, 1, 0, 1, 1, 1]], bool))["counts"] == "1112"


@pytest.mark.parametrize("seed", range(4))
def test_rles_of_all_classes_at_once(seed: int) -> None:
    """Each class as if it were alone, in the order asked for, absent ones and 255 too."""
    labels = random_labels(seed)
    if seed % 2:  # no two neighbours alike: runs of one pixel, differences below zero
        labels = np.random.default_rng(seed).integers(0, 5, (37, 23), dtype=np.uint8)
    labels[0, 0], labels[-1, -1] = 255, 3
    asked = [7, 0, 3, 200, 255, 1]
    encoded = encode.rles(labels, asked)
    for class_id, one in zip(asked, encoded, strict=True):
        np.testing.assert_array_equal(decode_rle(one), labels == class_id)
    assert encode.rles(labels, []) == []


def test_rle_of_long_runs() -> None:
    """Lengths of several groups of bits, growing and shrinking by much."""
    mask = np.zeros((1, 3_000_000), bool)
    mask[0, 5:2_000_000] = mask[0, 2_000_003:2_000_004] = mask[0, 2_900_000:] = True
    np.testing.assert_array_equal(decode_rle(rle(mask)), mask)


def test_png_is_small_for_a_label_map() -> None:
    """A map of 2 megapixels with the outlines of ten regions."""
    yy, xx = np.mgrid[:1080, :1920]
    centres = np.random.default_rng(5).random((10, 2)) * [1080, 1920]
    nearest = ((yy[..., None] - centres[:, 0]) ** 2 + (xx[..., None] - centres[:, 1]) ** 2).argmin(-1)
    labels = nearest.astype(np.uint8)
    encoded = encode.png(labels, palette(11))
    assert len(encoded) < 20_000
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(encoded))), labels)


def test_png_holds_the_labels_and_the_colours() -> None:
    labels = random_labels(2)
    image = Image.open(io.BytesIO(encode.png(labels, palette(11))))
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), labels)
    np.testing.assert_array_equal(np.asarray(image.convert("RGB"))[0, 0], palette(11)[labels[0, 0]])


def test_npy_round_trip() -> None:
    labels = random_labels(3)
    np.testing.assert_array_equal(np.load(io.BytesIO(encode.npy(labels))), labels)


def test_overlay_tints_classes_and_leaves_the_rest() -> None:
    labels = np.zeros((32, 64), np.uint8)
    labels[:, 32:] = 255
    photo = np.full((32, 64, 3), 100, np.uint8)
    shown = np.asarray(Image.open(io.BytesIO(encode.overlay_jpeg(photo, labels, palette(11)))), np.int16)
    assert np.abs(shown[:, 48:] - 100).max() <= 3
    expected = 100 + encode.OVERLAY_OPACITY * (palette(11)[0].astype(float) - 100)
    assert np.abs(shown[:, 8] - expected).max() <= 6


def test_shares_count_every_class() -> None:
    labels = random_labels(4)
    labels[0, :5] = 255
    counts = encode.shares(labels, 11)
    assert [int((labels == k).sum()) for k in range(11)] == counts.tolist()


def test_palette_colours_differ_and_none_is_black() -> None:
    colours = palette(255)
    assert len({tuple(c) for c in colours.tolist()}) == 255
    assert colours.any(axis=1).all()


def test_shares_from_a_grid_are_close_to_those_of_all_pixels() -> None:
    labels = np.zeros((960, 1280), np.uint8)
    labels[:, 320:] = 1
    labels[700:, :] = 2
    np.testing.assert_allclose(
        encode.sampled_shares(labels, 4), encode.shares(labels, 4) / labels.size, atol=0.01
    )
    small = np.array([[0, 1, 255]], np.uint8)
    np.testing.assert_allclose(encode.sampled_shares(small, 2), [1 / 3, 1 / 3])
