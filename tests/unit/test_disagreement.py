"""How two versions' masks are compared, and the picture of it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from deploy.disagreement import Disagreement, Pair, picture
from segserve.labels import palette


def photo(height: int, width: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 200, np.uint8)).save(file, "JPEG")
    return file.getvalue()


def test_equal_masks_agree_in_every_class_that_is_there() -> None:
    labels = np.zeros((10, 10), np.uint8)
    labels[:3] = 2
    found = Disagreement(4)
    found.add(Pair("a", b"", labels, labels))
    assert found.overall() == 0.0
    assert found.by_class() == {0: 0.0, 2: 0.0}


def test_a_class_that_lost_half_of_its_pixels_is_named_with_one_minus_iou() -> None:
    old = np.zeros((10, 10), np.uint8)
    old[:4] = 1
    new = old.copy()
    new[:2] = 0
    found = Disagreement(2)
    found.add(Pair("a", b"", old, new))
    assert found.overall() == pytest.approx(0.2)
    assert found.by_class() == {0: 1 - 60 / 80, 1: 0.5}


def test_a_permutation_of_classes_is_total_disagreement() -> None:
    old = np.repeat(np.arange(4, dtype=np.uint8), 25).reshape(10, 10)
    found = Disagreement(4)
    found.add(Pair("a", b"", old, 3 - old))
    assert found.by_class() == dict.fromkeys(range(4), 1.0)


def test_specks_do_not_count() -> None:
    old = np.zeros((100, 100), np.uint8)
    new = old.copy()
    new[:2] = 1  # 2 %
    found = Disagreement(2)
    found.add(Pair("a", b"", old, new))
    assert set(found.by_class()) == {0}


def test_photos_are_counted_together_and_the_worst_is_kept() -> None:
    old, new = np.zeros((10, 10), np.uint8), np.ones((10, 10), np.uint8)
    found = Disagreement(2)
    found.add(Pair("same", b"", old, old))
    found.add(Pair("other", b"", old, new))
    assert found.photos == 2
    assert found.overall() == 0.5
    assert found.worst is not None
    assert found.worst.name == "other"


def test_the_picture_shows_photo_both_masks_and_what_differs(tmp_path: Path) -> None:
    old = np.zeros((90, 120), np.uint8)
    new = old.copy()
    new[:, 60:] = 1
    picture(Pair("a", photo(90, 120), old, new), palette(2), "1.0", "2.0", tmp_path / "x" / "worst.jpg")
    with Image.open(tmp_path / "x" / "worst.jpg") as image:
        pixels = np.asarray(image).astype(int)
    width = pixels.shape[1] // 4
    differs = pixels[:, 3 * width :]
    assert differs[200, 10, 0] < 120  # the left half is the same: dark
    assert differs[200, width - 10, 0] > 200  # the right half differs: red
    assert differs[200, width - 10, 1] < 60
