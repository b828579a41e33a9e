"""Bytes → upright RGB uint8: the one decoder of training, evaluation, parity and serving.

Try it on a file: `python -c "import sys, segserve.image as i; print(i.decode(open(sys.argv[1],'rb').read()).shape)" X`

What a pixel becomes, where formats leave room for doubt:

- Orientation: turned upright as EXIF (or XMP) says, in every format that carries it. Pillow turns TIFFs itself.
- Transparency is laid on white. A product cut-out is shown on a white page, and the colour stored under fully
  transparent pixels is arbitrary (mostly black), which no viewer ever shows.
- More than 8 bits per sample are scaled, never clipped. White is what the file declares (12-bit TIFF: 4095,
  16 bits: 65535). Signed and 32-bit integers and floats declare none: if all pixels are within 0..1 (floats)
  or 0..255 that is the range, otherwise the brightest pixel is white. Negative and NaN are black.
- CMYK and Lab are converted to sRGB by Pillow; embedded colour profiles are not applied (as in training).
- Of several frames or pages the first is used.
"""

from __future__ import annotations

import io
import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segserve import jpeg_scans
from segserve.errors import BadImage, ImageFormatNotServed, ImageTooLarge, RequestError
from segserve.formats import (
    OPENED_FORMATS,
    SERVED_FORMATS,
    SERVED_NAMES,
    looks_like_markup,
    refused_format,
    served_by_signature,
)

__all__ = ["MAX_PIXELS", "SERVED_FORMATS", "decode"]

MAX_PIXELS: Final = 64_000_000
"""Default limit: the largest photo that a phone or camera commonly makes; 192 MB as RGB."""

_ORIENTATION_TAG: Final = 0x0112
_PHOTOMETRIC_TAG: Final = 0x0106
_BITS_PER_SAMPLE_TAG: Final = 0x0102
_SAMPLE_FORMAT_TAG: Final = 0x0153
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

# Pillow remarks on odd files through its loggers; a client's odd file is no event in the server's log.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


def decode(data: bytes | bytearray, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """Decode an image file fully and turn it upright.

    Args: data is the file's bytes; max_pixels is compared with width x height as the header declares them,
    before any pixel is decoded or memory for one is taken.

    Returns: uint8 (height, width, 3), RGB, C-contiguous, writable.

    Raises: BadImage (empty, not an image, truncated or corrupt: Pillow's reason is in the message),
    ImageFormatNotServed, ImageTooLarge. Nothing else, whatever the bytes are.
    """
    if not data:
        raise BadImage("the image is empty (0 bytes); send the bytes of an image file as the request body")
    with _pillow.limited_to(max_pixels):
        try:
            with _open(data, max_pixels) as image:
                if image.format in ("JPEG", "MPO"):
                    jpeg_scans.check(data, image.width * image.height)
                image.load()
                _check_size(image, max_pixels)  # an ICO's real size is known only now
                return _to_rgb(_upright(image))
        except RequestError:
            raise
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            raise ImageTooLarge(_too_large(int(pixels[0]) if pixels else -1, max_pixels)) from error
        except Exception as error:  # Pillow raises some twenty types on corrupt files: no list stays complete
            raise BadImage(_corrupt(data, error)) from error


def _open(data: bytes | bytearray, max_pixels: int) -> Image.Image:
    """Parse the header only."""
    try:
        image = Image.open(io.BytesIO(data), formats=OPENED_FORMATS)
    except UnidentifiedImageError as error:
        if (name := refused_format(data)) is not None:
            raise ImageFormatNotServed(f"{name} is not served; send one of {SERVED_NAMES}") from error
        raise
    _check_size(image, max_pixels)
    return image


def _check_size(image: Image.Image, max_pixels: int) -> None:
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(f"the image declares {width} x {height} pixels; send one with at least one pixel")
    if width * height > max_pixels:
        raise ImageTooLarge(_too_large(width * height, max_pixels))


def _too_large(pixels: int, max_pixels: int) -> str:
    return (
        f"the image declares {pixels:,} pixels, {max_pixels:,} are allowed; scale it down and send it again"
    )


def _corrupt(data: bytes | bytearray, error: Exception) -> str:
    if (name := served_by_signature(data)) is not None:
        reason = "its header is not valid" if isinstance(error, UnidentifiedImageError) else str(error)
        return f"the {name} image is corrupt or cut short ({reason or type(error).__name__}); send it again whole"
    hint = " but HTML or XML: was a page sent in place of the picture?" if looks_like_markup(data) else ""
    return f"this is not an image{hint}; send one of {SERVED_NAMES}"


def _upright(image: Image.Image) -> Image.Image:
    """Apply the EXIF orientation; a TIFF's is gone by now, because Pillow applies it while loading."""
    try:
        orientation = image.getexif().get(_ORIENTATION_TAG)
    except Exception:  # damaged metadata does not make the picture unusable
        return image
    turn = _TURNS.get(orientation) if isinstance(orientation, int) else None
    return image if turn is None else image.transpose(turn)


def _to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode == "I" or image.mode == "F" or image.mode.startswith("I;16"):
        return np.repeat(_grey_8bit(image)[:, :, np.newaxis], 3, axis=2)
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, "white")
        image.paste(rgba, mask=rgba.getchannel("A"))
    return np.array(image.convert("RGB"))


def _grey_8bit(image: Image.Image) -> NDArray[np.uint8]:
    """Grey of 9 to 32 bits per sample, scaled to 0..255; (height, width)."""
    values = np.asarray(image)
    tags = getattr(image, "tag_v2", {})  # TIFF only
    if values.dtype.kind == "u":
        white = 2 ** int(tags.get(_BITS_PER_SAMPLE_TAG, (16,))[0]) - 1
        table = np.minimum((np.arange(65536) * 255 + white // 2) // white, 255).astype(np.uint8)
        grey: NDArray[np.uint8] = table[values]  # a table needs no wider copy of the image
    else:
        if image.mode == "I" and tags.get(_SAMPLE_FORMAT_TAG, (2,))[0] == 1:
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


class _PillowSettings:
    """Pillow's warnings and its own pixel limit are process-wide, decodes may overlap in threads.

    The first of the decodes that overlap changes the settings, the last puts them back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: list[int] = []
        self._before = ExitStack()

    @contextmanager
    def limited_to(self, max_pixels: int) -> Iterator[None]:
        """No warnings, and an error for anything larger than `max_pixels`, inside containers too.

        Pillow raises beyond twice its limit and only warns below that, so half of ours is the right setting.
        Where different limits overlap, Pillow gets the largest; `_check_size` holds each image to its own.
        """
        with self._lock:
            if not self._limits:
                self._before.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
                self._before.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            self._limits.append(max_pixels)
            Image.MAX_IMAGE_PIXELS = (max(self._limits) + 1) // 2
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(max_pixels)
                if self._limits:
                    Image.MAX_IMAGE_PIXELS = (max(self._limits) + 1) // 2
                else:
                    self._before.close()


_pillow = _PillowSettings()
