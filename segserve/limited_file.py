"""A file of a client as Pillow reads it, and what is looked at before: files that are all structure and no picture.

Pillow goes through chunks, segments, blocks and strips in Python, one at a time, and keeps some of them. 33 MB of empty
ones (all below the limit on bytes) took 8 to 47 s and up to 1.4 GB: PNG chunks, colour profiles that unpack to 1 MB
each, JPEG comments, GIF comments, TIFF strips of one byte. No photo has a thousandth of that many. So such loops are
counted where they all come by, at `read`, and some formats are looked at first. (JPEG: segserve.jpeg_scans.) So are
those whose decoder makes more pixels than the picture has (TIFF, AVIF), or keeps Python's lock (JPEG 2000).
"""

from __future__ import annotations

import io
import struct
from typing import Final

from PIL import Image

from segserve import avif_size
from segserve.errors import BadImage, ImageTooLarge

MAX_SIDE: Final = 65_535
"""Pixels of a row or a column, as a JPEG can have. The tables for resizing and for the mask are as long as a side:
for a single row of 64 megapixels, a PNG of 8 kB, they took 1.8 GB."""
HEAVY_MODES: Final = frozenset(("I", "F"))
"""Pillow's modes of 32 bits a sample, into which it also decodes PGM of 16 bits and TIFF of 16 signed ones."""
HEAVY_SHARE: Final = 4
"""What is heavy to decode may have a quarter of the pixels: 64 megapixels took 1.2 GB as JPEG 2000, 1.3 as floats."""
MAX_READS: Final = 1_000_000
"""Some 2 s at the most. A PNG of 33 MB in the usual pieces of 8 KB takes 17,000."""
MAX_PROFILES: Final = 16
"""In a PNG, which has one at the most. Each can unpack to 1 MB, in 2 ms."""
MAX_TIFF_STRIPS: Final = 65_536
"""Or tiles. Uncompressed ones take Pillow 7 us each."""
USUAL_TILE: Final = 1024
"""Pixels of a side of a TIFF's tile, up to which every picture may be padded to whole tiles, also a small one: 256 and
512 are usual. For larger tiles, what they hold together has to be within the limit on pixels."""
MAX_J2K_BYTES: Final = 8_000_000
"""Of a JPEG 2000: Pillow decodes it with Python's lock held, 0.2 s for a MB, in which the whole worker stands still."""
MAX_PPM_BYTES: Final = 4_000_000
"""Of a PPM, PGM or PBM that Pillow decodes in Python, 0.7 s for a MB: as text, or of a depth other than 8 and 16."""
MAX_PPM_COMMENTS: Final = 256
"""In one that is written as text: Pillow copies a block of 1 MB for each."""

_PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
_ICO_SIGNATURE: Final = b"\0\0\1\0"
_PYTHON_PPM: Final = frozenset(("ppm", "ppm_plain"))
_WIDTH, _HEIGHT, _STRIP_OFFSETS, _SAMPLES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS = (
    256, 257, 273, 277, 322, 323, 324,
)  # fmt: skip


class LimitedFile(io.BytesIO):
    """A file in memory that gives up after MAX_READS calls of `read`."""

    def __init__(self, data: bytes | bytearray) -> None:
        super().__init__(data)
        self._reads_left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        """Raises: BadImage when the file has been read from too often."""
        self._reads_left -= 1
        if self._reads_left < 0:
            raise BadImage("the image is cut into too many small pieces; save it anew and send that")
        return super().read(size)


def check(data: bytes | bytearray) -> None:
    """Raises: BadImage for a file that would keep Pillow busy before the first pixel."""
    if data[:8] == _PNG_SIGNATURE or data[:4] == _ICO_SIGNATURE:  # an ICO may hold PNGs
        if data.count(b"iCCP") > MAX_PROFILES:
            raise BadImage(
                f"the file has more than {MAX_PROFILES} colour profiles; save it anew and send that"
            )
    elif data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        _check_tiff(data)


def check_size(image: Image.Image, max_pixels: int) -> None:
    """What the header declares. Raises: BadImage for no pixel, ImageTooLarge for more than are allowed."""
    width, height = image.size
    if width < 1 or height < 1:
        raise BadImage(f"the image declares {width} x {height} pixels; send one with at least one pixel")
    if width * height > max_pixels:
        raise ImageTooLarge(too_large(width * height, max_pixels))
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(
            f"the image declares {width:,} x {height:,} pixels, {MAX_SIDE:,} a side are allowed; scale it down and "
            "send it again"
        )
    heavy = image.format == "JPEG2000" or image.mode in HEAVY_MODES
    if heavy and width * height > max_pixels // HEAVY_SHARE:
        raise ImageTooLarge(
            f"the image declares {width * height:,} pixels, {max_pixels // HEAVY_SHARE:,} are allowed as JPEG 2000 or "
            "where a sample is decoded to 32 bits; scale it down, or save it as PNG or JPEG of 8 bits"
        )


def too_large(pixels: int, max_pixels: int) -> str:
    """The message."""
    return (
        f"the image declares {pixels:,} pixels, {max_pixels:,} are allowed; scale it down and send it again"
    )


def check_opened(image: Image.Image, data: bytes | bytearray, max_pixels: int) -> None:
    """Raises: ImageTooLarge or BadImage for a picture that its decoder would be busy with, or would stop all others."""
    if image.format == "TIFF":
        _check_pieces(image, max_pixels)
    elif image.format == "AVIF":
        avif_size.check(data, max_pixels)
    elif image.format == "JPEG2000" and len(data) > MAX_J2K_BYTES:
        raise ImageTooLarge(
            f"a JPEG 2000 may have {MAX_J2K_BYTES:,} bytes, this has {len(data):,}; save it as JPEG, WebP or PNG of "
            "8 bits and send that"
        )
    elif _PYTHON_PPM & {tile.codec_name for tile in getattr(image, "tile", ())}:
        _check_python_ppm(data)


def _check_python_ppm(data: bytes | bytearray) -> None:
    if len(data) > MAX_PPM_BYTES:
        raise ImageTooLarge(
            f"a PPM written as text, or of an unusual depth, may have {MAX_PPM_BYTES:,} bytes, this has "
            f"{len(data):,}; save it as PNG"
        )
    if data.count(b"#") > MAX_PPM_COMMENTS and data[:2] in (b"P1", b"P2", b"P3"):
        raise BadImage(f"the PPM has more than {MAX_PPM_COMMENTS} comments; save it anew and send that")


def _check_pieces(image: Image.Image, max_pixels: int) -> None:
    """Of a TIFF: tiles are decoded whole, whatever part of them lies in the picture; strips may lie on one another."""
    tags = getattr(image, "tag_v2", {})
    width, height = tags[_WIDTH], tags[_HEIGHT]
    across, down = tags.get(_TILE_WIDTH), tags.get(_TILE_HEIGHT)
    if isinstance(across, int) and isinstance(down, int) and across > 0 and down > 0:
        padded = -(-width // across) * across * -(-height // down) * down
        if padded > max(max_pixels, (width + USUAL_TILE) * (height + USUAL_TILE)):
            raise ImageTooLarge(
                f"the tiles of the TIFF, {across:,} x {down:,} each, hold {padded:,} pixels, {max_pixels:,} are "
                "allowed; save it with smaller tiles or without any"
            )
    pieces = (tile.extents for tile in getattr(image, "tile", ()) if tile.extents)
    drawn = sum(max(0, right - left) * max(0, lower - upper) for left, upper, right, lower in pieces)
    if drawn > width * height * tags.get(_SAMPLES, 1):  # each sample may have pieces of its own
        raise BadImage(
            f"the strips or tiles of the TIFF hold {drawn:,} pixels, but it has only {width * height:,}; save it anew "
            "and send that"
        )


def _check_tiff(data: bytes | bytearray) -> None:
    """The first directory, classic or BigTIFF. What it does not find its way in, Pillow refuses by itself."""
    order, big = "<" if data[:1] == b"I" else ">", 43 in data[2:4]
    start, counted, entry = ("Q", "Q", "HHQQ") if big else ("I", "H", "HHII")
    try:
        [position] = struct.unpack_from(order + start, data, 8 if big else 4)
        [count] = struct.unpack_from(order + counted, data, position)
        position += struct.calcsize(order + counted)
        seen = set()
        for _ in range(min(count, 65_535)):
            tag, _, values, _ = struct.unpack_from(order + entry, data, position)
            position += struct.calcsize(order + entry)
            if tag in (_STRIP_OFFSETS, _TILE_OFFSETS) and values > MAX_TIFF_STRIPS:
                raise BadImage(
                    f"the TIFF is cut into {values:,} pieces, {MAX_TIFF_STRIPS:,} are allowed; save it anew"
                )
            if tag in seen:
                # Pillow takes the first that it can use (it skips types that it does not know, as SLONG8), libtiff the
                # first of all: what is checked would not be what is decoded
                raise BadImage("the TIFF declares the size of its tiles twice; save it anew and send that")
            seen |= {tag} & {_TILE_WIDTH, _TILE_HEIGHT}
    except struct.error:
        return
