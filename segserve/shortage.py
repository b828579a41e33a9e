"""Whether a decoder failed for want of memory: then the server has to say so, and the image is not to blame.

Only some decoders say it. With too little memory Pillow calls a progressive JPEG or a JPEG 2000 a "broken data stream",
says of a WebP "could not create decoder object" or "failed to read next frame", and of an AVIF "Decoding of color
planes failed": just what it says of a torn file. So after any error it is tried whether there is memory for a picture
of that size.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
from PIL import Image

from segserve.errors import RequestError

BYTES_PER_PIXEL: Final = 16
"""What the most wasteful decoder takes (WebP without loss)."""


@contextmanager
def told_apart(pixels: int) -> Iterator[None]:
    """Around a decoder. Raises: MemoryError in the place of its error, if there is no memory for so many pixels."""
    try:
        yield
    except (RequestError, MemoryError, Image.DecompressionBombError):
        raise
    except Exception as error:
        if "out of memory" in str(error).lower() or not _there_is_memory(pixels * BYTES_PER_PIXEL):
            raise MemoryError(str(error)) from error
        raise


def webp_pixels(data: bytes | bytearray) -> int:
    """Of a WebP, whose decoder takes memory for the whole picture before anybody can ask it for the size; else 0.

    RFC 9649, 2.4 to 2.7: an extended file, one without loss, one with loss.
    """
    kind = data[12:16] if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else b""
    if kind == b"VP8X":
        return (1 + int.from_bytes(data[24:27], "little")) * (1 + int.from_bytes(data[27:30], "little"))
    if kind == b"VP8L":
        sides = int.from_bytes(data[21:25], "little")
        return (1 + (sides & 0x3FFF)) * (1 + (sides >> 14 & 0x3FFF))
    if kind == b"VP8 ":
        sides = int.from_bytes(data[26:30], "little")
        return (sides & 0x3FFF) * (sides >> 16 & 0x3FFF)
    return 0


def _there_is_memory(num_bytes: int) -> bool:
    """As an allocation that nobody writes into: it costs nothing, and is refused where a decoder's is."""
    try:
        np.empty(num_bytes, np.uint8)
    except MemoryError:
        return False
    return True
