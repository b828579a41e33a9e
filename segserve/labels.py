"""Class names, colours and the ignore label: the vocabulary that training, export and serving share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IGNORE_LABEL = 255
"""Pixels with this label count neither in the loss nor in any metric."""

FIRST_COLOUR = (73, 109, 182)  # a quiet blue, for the class that usually fills most of a photo

ROOM_CLASSES = (
    "wall", "floor", "ceiling", "window", "door", "bed", "chair", "sofa", "table", "plant", "other",
)  # fmt: skip
"""The classes of the rendered rooms, in label order."""


def palette(num_classes: int) -> NDArray[np.uint8]:
    """Colours that stay apart for any number of classes, the same ones every time.

    Each is the colour of a coarse RGB grid that is farthest from all before it. Dark and pale ones are left out:
    black is kept for "not asked for", and both are hard to see over a photo.

    Returns: uint8 (num_classes, 3), RGB; num_classes at most 255.
    """
    levels = np.linspace(40, 230, 8)  # not quite to the ends: pure colours hide the photo below
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    grid = grid[(grid.max(axis=1) > 140) & (grid.min(axis=1) < 180)]
    distances = np.full(len(grid), np.inf)
    chosen = [int(np.argmin(np.linalg.norm(grid - FIRST_COLOUR, axis=1)))]
    while len(chosen) < num_classes:
        distances = np.minimum(distances, np.linalg.norm(grid - grid[chosen[-1]], axis=1))
        chosen.append(int(np.argmax(distances)))
    colours: NDArray[np.uint8] = grid[chosen[:num_classes]].round().astype(np.uint8)
    return colours
