"""Photo -> network input: one resampler for training evaluation, export parity and serving.

It is Pillow's bilinear filter, which widens its support when it shrinks (antialiasing), so the same file gives the
same input bytes everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve.geometry import Geometry
from segserve.image import Photo

PAD_VALUE = 127
"""Grey of the letterbox bars, close to the mean of every normalisation in use."""


def to_input(photo: Photo, height: int, width: int) -> tuple[NDArray[np.uint8], Geometry]:
    """Letterbox a photo into uint8 (height, width, 3), upright, and say how it lies there."""
    geometry = Geometry.letterbox(photo.height, photo.width, height, width)
    size, stored = (geometry.content_width, geometry.content_height), (photo.width, photo.height)
    if photo.sideways:
        size, stored = size[::-1], stored[::-1]
    # the last column of a reduced photo may stand for fewer of the file's columns than the others
    box = (0, 0, stored[0] / photo.reduced, stored[1] / photo.reduced)
    content = photo.rgb.resize(size, Image.Resampling.BILINEAR, box)
    if photo.turn is not None:
        content = content.transpose(photo.turn)
    padded = np.empty((height, width, 3), np.uint8)
    bottom, right = geometry.top + geometry.content_height, geometry.left + geometry.content_width
    padded[: geometry.top] = padded[bottom:] = PAD_VALUE
    padded[:, : geometry.left] = padded[:, right:] = PAD_VALUE
    padded[geometry.top : bottom, geometry.left : right] = np.asarray(content)
    return padded, geometry
