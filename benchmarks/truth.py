"""What every answer of one version on one photo must say: its quiet mask, and what follows from it in other formats.

truth = Truth(photo, labels, colours)
truth.classes      # {0: {"pixels": 812, "rle": {"size": [480, 640], "counts": "…"}}, …}
truth.overlay      # the picture that the mask laid over the photo must look like, coarse

Each is made when the first answer needs it and kept: judging shares its cores with the server.
"""

from __future__ import annotations

import functools
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.photos import Photo
from segserve import encode, image

OVERLAY_BLOCK = 16
"""Pixels of a side. The mean of so many is what JPEG keeps best; the smallest that it stores of a colour."""


class Truth:
    """Labels uint8 (height, width), colours of the classes uint8 (num_classes, 3), as the server's PNG has them."""

    def __init__(self, photo: Photo, labels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> None:
        self.photo, self.labels, self.colours = photo, labels, colours

    def make_ready(self, formats: Collection[str]) -> None:
        """Make now what answers in these formats will be compared with."""
        for answer_format, needed in (("json", "classes"), ("overlay", "overlay")):
            if answer_format in formats:
                getattr(self, needed)

    @functools.cached_property
    def classes(self) -> dict[int, dict[str, Any]]:
        """Class id -> pixels and COCO RLE, as segserve.answer writes them; classes without a pixel left out."""
        pixels = encode.shares(self.labels, len(self.colours)).tolist()
        present = [class_id for class_id, count in enumerate(pixels) if count]
        return {
            class_id: {"pixels": pixels[class_id], "rle": rle}
            for class_id, rle in zip(present, encode.rles(self.labels, present), strict=True)
        }

    @functools.cached_property
    def overlay(self) -> NDArray[np.float32]:
        """As `coarse` gives it of segserve.encode.overlay_jpeg, without that JPEG."""
        mask = Image.fromarray(self.labels)
        mask.putpalette(encode.full_palette(self.colours).tobytes())  # black where there is no class
        shown = _coarse_photo(self.photo) * (1 - encode.OVERLAY_OPACITY)
        shown += coarse(mask.convert("RGB")) * encode.OVERLAY_OPACITY
        classless = self.labels >= len(self.colours)
        if classless.any():  # the photo shows there as it is
            shown += (
                coarse(Image.fromarray(_pixels(self.photo) * classless[..., None])) * encode.OVERLAY_OPACITY
            )
        return shown


def coarse(picture: Image.Image) -> NDArray[np.float32]:
    """Means of blocks, those at the right and bottom edge smaller: float32 (rows, columns, channels)."""
    means = np.asarray(picture.reduce(OVERLAY_BLOCK), np.float32)
    return means.reshape(*means.shape[:2], -1)


def _pixels(photo: Photo) -> NDArray[np.uint8]:
    return image.decode(photo.jpeg, photo.height * photo.width)  # of any size: the server has answered it


@functools.cache
def _coarse_photo(photo: Photo) -> NDArray[np.float32]:
    return coarse(Image.fromarray(_pixels(photo)))
