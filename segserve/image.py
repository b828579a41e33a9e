"""Bytes → upright RGB uint8: the one decoder of training, evaluation, parity and serving.

Try it on a file: `python -c "import sys, segserve.image as i; print(i.decode(open(sys.argv[1],'rb').read()).shape)" X`

- A JPEG that is much larger than what the network sees of it is decoded at a half, a quarter or an eighth of its
  size: libjpeg then inverts smaller cosine transforms and never makes the pixels that a resize would only average.
  Every file that would be an error at its full size is one at a reduced size too: the same data are gone through.
- Orientation: turned upright as EXIF (or XMP) says, in every format that carries it. Pillow turns TIFFs itself.
- Of several frames or pages the first is used.
- Transparency, more than 8 bits, CMYK: `segserve.pixels`.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from segserve import jpeg_scans, limited_file, shortage
from segserve.errors import BadImage, ImageFormatNotServed, ImageTooLarge, RequestError
from segserve.formats import (
    OPENED_FORMATS,
    SAFE_KIND,
    SERVED_FORMATS,
    SERVED_NAMES,
    camera_raw,
    looks_like_markup,
    not_served,
    refusal,
    served_by_signature,
)
from segserve.geometry import Geometry
from segserve.pixels import scale_transparent_colour, to_rgb

__all__ = ["MAX_PIXELS", "SERVED_FORMATS", "Photo", "decode", "read"]

MAX_PIXELS: Final = 64_000_000
"""Default limit: the largest photo that a phone or camera commonly makes. On its way to an answer, each image of a
batch takes up to 16 bytes a pixel (WebP of any kind, any overlay): 1 GB. PNGs take 4 to 12, a reduced JPEG 1."""

OVERSAMPLING: Final = (4, 3)
"""A reduced JPEG has at least 4/3 of the rows and columns that the network sees. `python -m benchmarks.decode` shows
what that changes: hardly more labels than random last bits of the input do, mostly fewer."""

ORIENTATION_TAG: Final = 0x0112
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS: Final = frozenset(_TURNS[orientation] for orientation in (5, 6, 7, 8))

# Pillow remarks on odd files through its loggers; a client's odd file is no event in the server's log.
logging.getLogger("PIL").setLevel(logging.CRITICAL)


@dataclass(frozen=True)
class Photo:
    """A decoded photo as it lies in its file: not turned yet, because a resized one is turned at less cost.

    `rgb` has 1/reduced of the file's rows and columns, rounded up. `height` and `width` are those of the upright
    photo at its full size.
    """

    rgb: Image.Image
    turn: Image.Transpose | None
    height: int
    width: int
    reduced: int = 1

    @property
    def sideways(self) -> bool:
        """Whether turning it upright swaps height and width."""
        return self.turn in _SIDEWAYS

    def upright(self) -> NDArray[np.uint8]:
        """The pixels that there are, turned: uint8 (height / reduced, width / reduced, 3), C-contiguous, writable."""
        return np.array(self.rgb if self.turn is None else self.rgb.transpose(self.turn))


def decode(data: bytes | bytearray, max_pixels: int = MAX_PIXELS) -> NDArray[np.uint8]:
    """All pixels of an image file, upright: uint8 (height, width, 3), RGB, C-contiguous, writable.

    Args and errors as those of `read`.
    """
    return read(data, max_pixels).upright()


def read(
    data: bytes | bytearray, max_pixels: int = MAX_PIXELS, input_size: tuple[int, int] | None = None
) -> Photo:
    """Decode an image file, with as many pixels as its letterboxed copy of `input_size` needs; all if that is None.

    Args: data is the file's bytes; max_pixels is compared with width x height as the header declares them,
    before any pixel is decoded or memory for one is taken; input_size is (height, width).

    Raises: BadImage (empty, not an image, truncated or corrupt: Pillow's reason is in the message),
    ImageFormatNotServed, ImageTooLarge, MemoryError. Nothing else, whatever the bytes are.
    """
    if not data:
        raise BadImage("the image is empty (0 bytes); send the bytes of an image file as the request body")
    with _pillow.limited_to(max_pixels):
        try:
            return _read(data, max_pixels, input_size)
        except (RequestError, MemoryError):
            raise
        except Image.DecompressionBombError as error:
            pixels = re.search(r"\d+", str(error))
            message = limited_file.too_large(int(pixels[0]) if pixels else -1, max_pixels)
            raise ImageTooLarge(message) from error
        except Exception as error:  # Pillow raises some twenty types on corrupt files: no list stays complete
            raise BadImage(_corrupt(data, error)) from error


def _read(data: bytes | bytearray, max_pixels: int, input_size: tuple[int, int] | None) -> Photo:
    """As `read`, but with Pillow's errors."""
    limited_file.check(data)
    scans = jpeg_scans.count(data)
    with _open(data, max_pixels) as image, shortage.told_apart(image.width * image.height):
        if image.format in ("JPEG", "MPO"):
            jpeg_scans.check(scans, image.width * image.height)
            return _read_jpeg(image, input_size)
        limited_file.check_opened(image, data, max_pixels)
        scale_transparent_colour(image)
        # a TIFF may have text or numbers there, on which Pillow fails: it looks for an orientation in the bytes
        if not isinstance(image.info.get("xmp", b""), bytes):
            del image.info["xmp"]
        image.load()
        limited_file.check_size(image, max_pixels)  # an ICO's real size is known only now
        return _as_stored(to_rgb(image), _turn(image), image.size)


def _read_jpeg(image: Image.Image, input_size: tuple[int, int] | None) -> Photo:
    turn, (width, height), reduced = _turn(image), image.size, 1
    if input_size is not None:
        upright = (width, height) if turn in _SIDEWAYS else (height, width)
        placed = Geometry.letterbox(*upright, *input_size)
        wanted = (placed.content_width, placed.content_height)
        if turn in _SIDEWAYS:
            wanted = wanted[::-1]
        # Pillow takes the smallest of 1/1, 1/2, 1/4 and 1/8 that is no smaller than this
        more, than = OVERSAMPLING
        drafted = image.draft(None, (-(-wanted[0] * more // than), -(-wanted[1] * more // than)))
        if drafted is not None:
            _, (_, _, reduced_width, _) = drafted  # a fraction, as 341.5 of 683 columns
            reduced = round(width / reduced_width)
    image.load()
    return _as_stored(to_rgb(image), turn, (width, height), reduced)


def _as_stored(
    rgb: Image.Image, turn: Image.Transpose | None, stored_size: tuple[int, int], reduced: int = 1
) -> Photo:
    """Args: stored_size is (width, height) in the file."""
    width, height = stored_size[::-1] if turn in _SIDEWAYS else stored_size
    return Photo(rgb, turn, height, width, reduced)


def _open(data: bytes | bytearray, max_pixels: int) -> Image.Image:
    """Parse the header only."""
    try:
        with shortage.told_apart(min(shortage.webp_pixels(data), max_pixels)):
            image = Image.open(limited_file.LimitedFile(data), formats=OPENED_FORMATS)
    except UnidentifiedImageError as error:
        if (reason := refusal(data)) is not None:
            raise ImageFormatNotServed(reason) from error
        raise
    if (name := camera_raw(data, getattr(image, "tag_v2", {}))) is not None:
        raise ImageFormatNotServed(not_served(name))
    limited_file.check_size(image, max_pixels)
    return image


def _corrupt(data: bytes | bytearray, error: Exception) -> str:
    name = served_by_signature(data)
    if name is not None and isinstance(error, UnidentifiedImageError):
        return (
            f"the {name} image is corrupt or cut short (its header is not valid), or of a kind that is not served; "
            f"send it again whole, or save it anew as {SAFE_KIND}"
        )
    if name is not None:
        return f"the {name} image is corrupt or cut short ({str(error) or type(error).__name__}); send it again whole"
    hint = " but HTML or XML: was a page sent in place of the picture?" if looks_like_markup(data) else ""
    return f"this is not an image{hint}; send one of {SERVED_NAMES}"


def _turn(image: Image.Image) -> Image.Transpose | None:
    """What EXIF asks for; a loaded TIFF's is gone, because Pillow applies it while loading."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except MemoryError:
        raise
    except Exception:  # damaged metadata does not make the picture unusable
        return None
    return _TURNS.get(orientation) if isinstance(orientation, int) else None


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
        Where different limits overlap, Pillow gets the largest; `limited_file.check_size` holds each image to its own.
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
