"""Photo -> network input: one resampler for training evaluation, export parity and serving.

It is Pillow's bilinear filter, which widens its support when it shrinks (antialiasing), so the same photo gives the
same input bytes everywhere.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve.geometry import Geometry

PAD_VALUE = 127
"""Grey of the letterbox bars, close to the mean of every normalisation in use."""


def to_input(photo_hwc: NDArray[np.uint8], height: int, width: int) -> tuple[NDArray[np.uint8], Geometry]:
    """Letterbox an upright RGB photo, uint8 (H, W, 3), into uint8 (height, width, 3) and say how it lies there."""
    geometry = Geometry.letterbox(photo_hwc.shape[0], photo_hwc.shape[1], height, width)
    size = (geometry.content_width, geometry.content_height)
    content = np.asarray(Image.fromarray(photo_hwc).resize(size, Image.Resampling.BILINEAR))
    if content.shape == (height, width, 3):
        return content, geometry
    padded = np.full((height, width, 3), PAD_VALUE, np.uint8)
    bottom, right = geometry.top + geometry.content_height, geometry.left + geometry.content_width
    padded[geometry.top : bottom, geometry.left : right] = content
    return padded, geometry
