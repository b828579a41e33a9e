"""A folder with one photo, and what a source of labels makes of it: shared by the tests of label formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from training.sources.item import UNLABELLED, BadPair, Found

HEIGHT, WIDTH = 12, 20


def one_photo(folder: Path) -> Path:
    """images/a.jpg, HEIGHT x WIDTH, and an empty folder labels/."""
    (folder / "images").mkdir()
    (folder / "labels").mkdir()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(folder / "images" / "a.jpg")
    return folder


def values_of(found: Found) -> NDArray[np.int32]:
    """The label values of the one item, int32 (HEIGHT, WIDTH)."""
    (item,) = found.items
    return found.source.read(item, HEIGHT, WIDTH)


def bad(found: Found) -> BadPair:
    """Why the one item is left out."""
    with pytest.raises(BadPair) as raised:
        values_of(found)
    return raised.value


def box(value: int, x0: int, x1: int, y0: int, y1: int) -> NDArray[np.int32]:
    """Values of a label map that has one rectangle."""
    values = np.full((HEIGHT, WIDTH), UNLABELLED, np.int32)
    values[y0:y1, x0:x1] = value
    return values
