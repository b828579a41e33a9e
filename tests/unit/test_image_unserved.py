"""Whole files of a kind that is not served are told so, not that they are torn: camera raws, unusual samples."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from segserve.errors import BadImage, ImageFormatNotServed
from segserve.image import decode
from tests.images import assert_close, photo, saved, tiff

GREY = np.arange(6, dtype=np.uint8) * 40


def small(**tags: int) -> bytes:
    """A grey TIFF of 3 x 2 pixels with these tags, `t254=1`, as well."""
    return tiff(3, 2, GREY.tobytes(), {258: 8} | {int(tag[1:]): value for tag, value in tags.items()})


def cr2() -> bytes:
    """Its first directory has a JPEG that fills the picture, and no tag that says what the file is."""
    jpeg = saved(photo(), "JPEG")
    fields = {256: 24, 257: 16, 258: 8, 259: 6, 273: 0, 279: len(jpeg)}
    fields[273] = 16 + 2 + 12 * len(fields) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    directory = struct.pack("<H", len(fields)) + entries + struct.pack("<I", 0)
    return b"II*\0\x10\0\0\0CR\x02\0" + b"\0" * 4 + directory + jpeg


# --- camera raws ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (small(t50706=0x401), "DNG"),
        (small(t254=1, t50706=0x401, t330=8), "DNG"),
        (small(t50706=0x401, t262=32803), "DNG"),  # what the camera saw comes first: Pillow does not open it
        (small(t254=1, t330=8), "NEF"),
        (cr2(), "CR2"),
    ],
)
def test_a_camera_raw_is_not_answered_with_a_mask_of_its_preview(data: bytes, name: str) -> None:
    with pytest.raises(
        ImageFormatNotServed, match=rf"camera raw \({name}.*is not served; send one of JPEG"
    ) as raised:
        decode(data)
    assert raised.value.status == 415


def test_an_ordinary_tiff_is_served_whatever_else_it_holds() -> None:
    expected = np.repeat(GREY.reshape(2, 3, 1), 3, axis=2)
    assert_close(decode(small(t254=0, t330=8)), expected)  # smaller copies of itself
    assert_close(decode(small(t254=1)), expected)
    assert_close(decode(small(t254=2, t330=8)), expected)  # a page
    assert_close(decode(with_thumbnail(small())), expected)


def with_thumbnail(data: bytes) -> bytes:
    """A second directory, of one pixel of the first."""
    fields = {254: 1, 256: 1, 257: 1, 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: 1, 279: 1, 330: 8}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields.items())
    whole = data[:-4] + struct.pack("<I", len(data)) + struct.pack("<H", len(fields)) + entries + b"\0" * 4
    with Image.open(io.BytesIO(whole)) as image:
        assert image.n_frames == 2  # type: ignore[attr-defined]
    return whole


# --- samples --------------------------------------------------------------------------------------------------


def colour(dtype: str, sample_format: int) -> bytes:
    """A whole TIFF of 3 x 2 pixels in colour."""
    pixels = np.ones((2, 3, 3), dtype)
    tags = {258: 8 * pixels.itemsize, 262: 2, 277: 3, 339: sample_format}
    return tiff(3, 2, pixels.tobytes(), tags)


@pytest.mark.parametrize(("dtype", "sample_format"), [("<f4", 3), ("<u4", 1), ("<i4", 2), ("<f2", 3)])
def test_a_tiff_of_other_samples_is_not_called_torn(dtype: str, sample_format: int) -> None:
    with pytest.raises(
        ImageFormatNotServed, match="this kind of TIFF is not served, or its header"
    ) as raised:
        decode(colour(dtype, sample_format))
    assert raised.value.status == 415
    assert "save it anew as PNG or JPEG of 8 bits" in str(raised.value)
    assert "corrupt" not in str(raised.value)


def jpeg_of_bits(bits: int) -> bytes:
    """A JPEG whose header says so, with an EXIF segment before that."""
    data = bytearray(saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"))
    data[data.index(b"\xff\xc0") + 4] = bits
    return bytes(data)


def test_a_jpeg_of_12_bits_is_not_called_torn() -> None:
    with pytest.raises(ImageFormatNotServed, match="JPEG of 12 bits a sample is not served, or its header"):
        decode(jpeg_of_bits(12))


def test_a_header_that_says_nothing_may_be_torn_or_of_another_kind() -> None:
    for data in (jpeg_of_bits(0), jpeg_of_bits(12)[:20], colour("<f4", 3)[:120], b"II+\0" + b"\xff" * 12):
        with pytest.raises(BadImage, match="corrupt or cut short") as raised:
            decode(data)
        assert raised.value.status == 400
    with pytest.raises(
        BadImage, match="or of a kind that is not served; send it again whole, or save it anew"
    ):
        decode(jpeg_of_bits(0))
