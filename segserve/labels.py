"""Class names, colours and the ignore label: the vocabulary that training, export and serving share."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IGNORE_LABEL = 255
"""Pixels with this label count neither in the loss nor in any metric."""

ROOM_CLASSES = (
    "wall", "floor", "ceiling", "window", "door", "bed", "chair", "sofa", "table", "plant", "other",
)  # fmt: skip
"""The classes of the rendered rooms, in label order."""


def palette(num_classes: int) -> NDArray[np.uint8]:
    """Colours that stay apart for any number of classes, the same ones every time.

    The bits of the class id are spread over the high bits of R, G and B, as the PASCAL VOC development kit
    does it, but starting at id 1 so that no class is black (black is kept for "not asked for").

    Returns: uint8 (num_classes, 3), RGB.
    """
    ids = np.arange(1, num_classes + 1, dtype=np.uint32)
    colours = np.zeros((num_classes, 3), np.uint32)
    for bit in range(8):
        for channel in range(3):
            colours[:, channel] |= ((ids >> (3 * bit + channel)) & 1) << (7 - bit)
    return colours.astype(np.uint8)
