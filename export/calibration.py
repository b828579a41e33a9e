"""The network inputs that int8 is calibrated with: the user's photos, prepared as served, and rendered rooms.

Rendered rooms go beside photos because parity judges on them too: a pspnet50 that was calibrated with photos alone, and
kept 99.4 % of their labels, kept 98.6 % of those of rendered rooms, and was refused.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.cases import image_files, read_photo
from segserve.resize import to_input
from training.rooms import render
from training.spread import spread

COUNT = 48
ROOMS_BESIDE_PHOTOS = 16
FIRST_SEED = 92_000_000  # neither trained on nor compared with


def images(folder: Path | None, size: tuple[int, int]) -> list[list[NDArray[np.uint8]]]:
    """Inputs uint8 (1, height, width, 3), by kind: at most COUNT photos, evenly chosen from the folder, and rooms.

    Raises UsageError for a folder without images, or a file in it that is none.
    """
    if folder is None:
        return [_rooms(COUNT, size)]
    photos = [read_photo(file, "--calibration", size) for file in chosen_files(folder)]
    return [
        [to_input(photo, *size)[0][np.newaxis] for photo in photos],
        _rooms(ROOMS_BESIDE_PHOTOS, size),
    ]


def chosen_files(folder: Path | None) -> list[Path]:
    """At most COUNT of a folder's files, evenly chosen. Raises UsageError for a folder without files."""
    return [] if folder is None else spread(image_files(folder, "--calibration"), COUNT)


def _rooms(count: int, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    return [render(FIRST_SEED + n, *size)[0][np.newaxis] for n in range(count)]
