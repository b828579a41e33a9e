"""Any picture that Pillow loads -> RGB of 8 bits a sample.

What a pixel becomes, where formats leave room for doubt:

- Transparency is laid on white. A product cut-out is shown on a white page, and the colour stored under fully
  transparent pixels is arbitrary (mostly black), which no viewer ever shows. Where one colour of 16 bits a sample is
  the transparent one, colours whose upper 8 bits are the same are transparent too.
- More than 8 bits per sample are scaled, never clipped. White is what the file declares (12-bit TIFF: 4095,
  16 bits: 65535). Signed and 32-bit integers and floats declare none: if all pixels are within 0..1 (floats)
  or 0..255 that is the range, otherwise the brightest pixel is white. Negative and NaN are black.
- CMYK and Lab are converted to sRGB by Pillow; embedded colour profiles are not applied (as in training).
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

_PHOTOMETRIC_TAG: Final = 0x0106
_BITS_PER_SAMPLE_TAG: Final = 0x0102
_SAMPLE_FORMAT_TAG: Final = 0x0153
_UNSIGNED, _SIGNED = 1, 2
"""Values of _SAMPLE_FORMAT_TAG."""
_GREY_STEPS: Final = {"L;2": 85, "L;4": 17}
"""Pillow's names of grey PNGs with few bits, and what one step of theirs is of 255."""


def scale_transparent_colour(image: Image.Image) -> None:
    """To the 8 bits that its pixels will have, in a PNG that is opened and not loaded; others stay as they are.

    Pillow keeps the number that the file has, compares it with pixels of 8 bits, and so would never find it.
    """
    if not isinstance(image, PngImageFile) or not image.tile:
        return
    stored, colour = image.tile[0].args, image.info.get("transparency")
    if stored in _GREY_STEPS and isinstance(colour, int):
        image.info["transparency"] = colour * _GREY_STEPS[stored]
    elif stored == "RGB;16B" and isinstance(colour, tuple):
        image.info["transparency"] = tuple(sample >> 8 for sample in colour)


def to_rgb(image: Image.Image) -> Image.Image:
    """A loaded picture of any mode as RGB of 8 bits a sample."""
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16") or _signed_bytes(image):
        return Image.fromarray(_grey_8bit(image)).convert("RGB")
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")  # which would be a copy
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def _signed_bytes(image: Image.Image) -> bool:
    """Whether it is a TIFF of such samples: Pillow has no mode for them and takes them for unsigned ones."""
    tags = getattr(image, "tag_v2", {})
    return image.mode == "L" and bool(tags.get(_SAMPLE_FORMAT_TAG, (1,))[0] == _SIGNED)


def _grey_8bit(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of 9 to 32 bits per sample, or of 8 signed ones, scaled to 0..255; (height, width)."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})  # TIFF only
    if image.mode == "L":
        values = values.view(np.int8)
    if values.dtype.kind == "u":
        white = 2 ** int(tags.get(_BITS_PER_SAMPLE_TAG, (16,))[0]) - 1
        table = np.minimum((np.arange(65536) * 255 + white // 2) // white, 255).astype(np.uint8)
        grey: NDArray[np.uint8] = table[values]  # a table needs no wider copy of the image
    else:
        undeclared = _UNSIGNED if tags else _SIGNED  # by TIFF 6.0; Pillow's own integers are signed
        if image.mode == "I" and tags.get(_SAMPLE_FORMAT_TAG, (undeclared,))[0] == _UNSIGNED:
            values = values.view(np.uint32)  # Pillow has no unsigned 32-bit mode
        scaled = np.nan_to_num(values.astype(np.float32), nan=0.0, posinf=np.inf, neginf=0.0)
        scaled *= 255.0 / _assumed_white(image, float(scaled.max(where=np.isfinite(scaled), initial=0)))
        grey = (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)
    if tags.get(_PHOTOMETRIC_TAG) == 0:  # WhiteIsZero; Pillow inverts only 8-bit and narrower samples
        grey = 255 - grey
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _assumed_white(image: Image.Image, brightest: float) -> float:
    if image.format == "PPM" and image.mode == "I":
        return 65535.0  # Pillow scales every PGM of more than 8 bits to this
    smallest = 1.0 if image.mode == "F" else 255.0
    return next(white for white in (smallest, 255.0, brightest) if white >= brightest)
