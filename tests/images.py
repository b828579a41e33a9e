"""Photos for tests of the decoder, and files that Pillow can't write, written by hand."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

UInt8 = NDArray[np.uint8]


def photo(height: int = 16, width: int = 24) -> UInt8:
    """Four quadrants of different colours, so that no flip or turn maps it onto itself."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2, : width // 2] = (250, 10, 10)
    pixels[: height // 2, width // 2 :] = (10, 250, 10)
    pixels[height // 2 :, : width // 2] = (10, 10, 250)
    pixels[height // 2 :, width // 2 :] = (200, 200, 60)
    return pixels


def saved(image: Image.Image | UInt8, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(file, file_format, **options)
    return file.getvalue()


def png(
    width: int, height: int, depth: int, colour_type: int, rows: bytes, *chunks: tuple[bytes, bytes]
) -> bytes:
    """A PNG written by hand: for what Pillow can't write. `rows` are raw scan lines with their filter bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0))
    middle = b"".join(chunk(kind, body) for kind, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + header + middle + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(width: int, height: int, pixels: bytes, tags: dict[int, int]) -> bytes:
    """A little-endian grey TIFF of one strip, written by hand."""
    data_offset = 8
    fields = {
        256: width,
        257: height,
        259: 1,
        262: 1,
        273: data_offset,
        277: 1,
        278: height,
        279: len(pixels),
    } | tags
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(fields.items()))
    ifd = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
    padding = b"\0" * (len(pixels) % 2)
    return b"II*\0" + struct.pack("<I", data_offset + len(pixels) + len(padding)) + pixels + padding + ifd


def stored_with_orientation(upright: UInt8, orientation: int) -> UInt8:
    """The pixels that a camera stores, by the definition in the EXIF standard (where row 0, column 0 are seen)."""
    turned = upright.swapaxes(0, 1)
    return np.ascontiguousarray(
        {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: turned,
            6: turned[::-1],
            7: turned[::-1, ::-1],
            8: turned[:, ::-1],
        }[orientation]
    )


def assert_close(got: UInt8, expected: NDArray[Any] | Sequence[Any], tolerance: int = 0) -> None:
    wanted = np.asarray(expected)
    assert got.dtype == np.uint8
    assert got.shape == wanted.shape
    assert np.abs(got.astype(int) - wanted.astype(int)).max() <= tolerance
