"""The tiles and strips of a TIFF: what is decoded of them is what the picture needs, and hardly more."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
import pytest
from PIL import Image

from segserve.errors import BadImage, ImageTooLarge
from segserve.image import decode
from tests.images import photo, saved

Field = tuple[int, int | Sequence[int]]
RAW, DEFLATE = 1, 8


def written(fields: list[Field], data: bytes) -> bytes:
    """A TIFF of these tags, in their order. Offsets (273, 324) count from the start of `data`, which comes last."""
    directory_end = 8 + 2 + 12 * len(fields) + 4
    data_at = directory_end + sum(4 * len(value) for _, value in fields if isinstance(value, Sequence))
    entries, outside = b"", b""
    for tag, value in fields:
        values = [value] if isinstance(value, int) else list(value)
        numbers = struct.pack(f"<{len(values)}I", *(data_at * (tag in (273, 324)) + v for v in values))
        entries += struct.pack("<HHI", tag, 4, len(values))
        if len(values) == 1:
            entries += numbers
        else:
            entries += struct.pack("<I", directory_end + len(outside))
            outside += numbers
        if not isinstance(value, int) and len(values) == 1:
            outside += bytes(4)  # its place was counted
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries + bytes(4) + outside + data


def grey(width: int, height: int, compression: int) -> list[Field]:
    return [(256, width), (257, height), (258, 8), (259, compression), (262, 1)]


def tiled(width: int, height: int, across: int, down: int, grey_value: int = 128) -> bytes:
    """All tiles are the same block of the file."""
    count = -(-width // across) * -(-height // down)
    block = zlib.compress(bytes([grey_value]) * (across * down), 9)
    tiles: list[Field] = [
        (277, 1), (322, across), (323, down), (324, [0] * count), (325, [len(block)] * count),
    ]  # fmt: skip
    return written(grey(width, height, DEFLATE) + tiles, block)


@pytest.mark.parametrize(
    ("size", "tile"),
    [((16, 16), (9_008, 9_008)), ((16, 160), (1_000_000, 16))],
    ids=["one huge tile", "ten wide ones that are the same block"],
)
def test_tiles_far_larger_than_the_picture_are_refused(size: tuple[int, int], tile: tuple[int, int]) -> None:
    """The data are whole: what refuses them is their size alone."""
    data = tiled(*size, *tile)
    assert len(data) < 500_000
    message = rf"tiles of the TIFF, {tile[0]:,} x {tile[1]:,} each, hold [0-9,]+ pixels, 64,000,000 are allowed; save"
    with pytest.raises(ImageTooLarge, match=message) as raised:
        decode(data)
    assert raised.value.status == 413
    decoded = decode(data, max_pixels=2_000_000_000)
    assert decoded.shape == (*size[::-1], 3)
    assert (decoded == 128).all()


@pytest.mark.parametrize("side", [16, 256, 512, 1024])
def test_usual_tiles_pad_any_picture(side: int) -> None:
    for width, height in ((1, 1), (17, 30), (520, 260)):
        decoded = decode(tiled(width, height, side, side), max_pixels=width * height)
        assert decoded.shape == (height, width, 3)
        assert (decoded == 128).all()


def with_first_as_slong8(data: bytes, tags: Sequence[int]) -> bytes:
    """The first entry of each tag as one signed number of 8 bytes, which only BigTIFF has, but libtiff takes."""
    changed, left = bytearray(data), set(tags)
    for position in range(10, 10 + 12 * int.from_bytes(data[8:10], "little"), 12):
        tag, _, _, value = struct.unpack_from("<HHII", data, position)
        if tag in left:
            left.remove(tag)
            struct.pack_into("<HHII", changed, position, tag, 17, 1, len(changed))
            changed += struct.pack("<q", value)
    return bytes(changed)


def test_two_sizes_of_a_tile_are_refused() -> None:
    """Pillow sees the small one, since it does not know the type of the first, and libtiff decodes the huge one."""
    block = zlib.compress(bytes(9_008 * 9_008), 9)
    tiles: list[Field] = [(322, 9_008), (322, 16), (323, 9_008), (323, 16), (324, 0), (325, len(block))]
    plain = written([*grey(16, 16, DEFLATE), *tiles], block)
    hidden = with_first_as_slong8(plain, (322, 323))
    with Image.open(io.BytesIO(hidden)) as image:
        assert (image.tag_v2[322], image.tag_v2[323]) == (16, 16)  # type: ignore[attr-defined]
    for data in (plain, hidden):
        with pytest.raises(BadImage, match="size of its tiles twice; save it anew"):
            decode(data)


def test_strips_that_lie_on_one_another_are_refused() -> None:
    """20,000 of them, which are all the same 8 MB, took 13 s."""
    width, height, count = 40, 20, 1_000
    strips: list[Field] = [(273, [0] * count), (277, 1), (278, height - 1), (279, [width] * count)]
    data = written(grey(width, height, RAW) + strips, bytes(width * height))
    with pytest.raises(BadImage, match=r"TIFF hold 400,000 pixels, but it has only 800; save it anew"):
        decode(data)


def test_usual_strips_and_planes_are_fine() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (50, 40, 3), np.uint8)
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate"):
        data = saved(Image.fromarray(pixels), "TIFF", compression=compression, tiffinfo={278: 7})
        np.testing.assert_array_equal(decode(data), pixels)
    planes: list[Field] = [(273, [0, 2000, 4000]), (277, 3), (278, 50), (279, [2000] * 3), (284, 2)]
    head: list[Field] = [(256, 40), (257, 50), (258, [8, 8, 8]), (259, RAW), (262, 2)]
    data = written(head + planes, pixels.transpose(2, 0, 1).tobytes())
    np.testing.assert_array_equal(decode(data), pixels)


def test_a_sideways_photo_is_measured_as_it_is_stored() -> None:
    data = saved(photo(8, 2000), "TIFF", tiffinfo={274: 6})
    assert decode(data, max_pixels=16_000).shape == (2000, 8, 3)
