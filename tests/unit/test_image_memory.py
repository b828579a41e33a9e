"""Small files whose few or many pixels would take far more memory than the limit is there for; and if there is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from segserve.errors import ImageTooLarge
from segserve.image import decode
from tests.images import photo, png, saved, tiff


def row(width: int, height: int) -> bytes:
    """A black PNG of 1 bit."""
    return png(width, height, 1, 0, (b"\0" + bytes((width + 7) // 8)) * height)


@pytest.mark.parametrize(("width", "height"), [(65_536, 1), (1, 65_536), (64_000_000, 1)])
def test_a_side_longer_than_any_jpegs_is_refused(width: int, height: int) -> None:
    message = rf"{width:,} x {height:,} pixels, 65,535 a side are allowed; scale it down"
    with pytest.raises(ImageTooLarge, match=message) as raised:
        decode(row(width, height))
    assert raised.value.status == 413


def test_the_longest_side_is_decoded() -> None:
    for width, height in ((65_535, 1), (1, 65_535)):
        assert decode(row(width, height)).shape == (height, width, 3)


def floats(width: int, height: int) -> bytes:
    return tiff(width, height, np.ones(width * height, "<f4").tobytes(), {258: 32, 339: 3})


def integers(width: int, height: int) -> bytes:
    return tiff(width, height, np.full(width * height, 255, "<i4").tobytes(), {258: 32, 339: 2})


def signed(width: int, height: int) -> bytes:
    """Pillow loads it into 32 bits."""
    return tiff(width, height, np.full(width * height, 255, "<i2").tobytes(), {258: 16, 339: 2})


def jpeg_2000(width: int, height: int) -> bytes:
    return saved(np.full((height, width, 3), 255, np.uint8), "JPEG2000")


def pgm(width: int, height: int) -> bytes:
    """Pillow loads it into 32 bits."""
    return b"P5 %d %d 65535\n" % (width, height) + b"\xff\xff" * width * height


@pytest.mark.parametrize("made", [floats, integers, signed, jpeg_2000, pgm])
def test_what_is_heavy_to_decode_may_have_a_quarter_of_the_pixels(made: object) -> None:
    assert callable(made)
    assert (decode(made(10, 10), max_pixels=403) == 255).all()
    message = (
        r"110 pixels, 100 are allowed as JPEG 2000 or where a sample is decoded to 32 bits; scale it down, or"
    )
    with pytest.raises(ImageTooLarge, match=message) as raised:
        decode(made(11, 10), max_pixels=403)
    assert raised.value.status == 413
    with pytest.raises(ImageTooLarge, match=r"110 pixels, 109 are allowed; scale it down"):
        decode(made(11, 10), max_pixels=109)


def test_all_others_may_have_all_of_them() -> None:
    grey = Image.fromarray(np.full((10, 11), 65_535, np.uint16))
    for data in (saved(photo(10, 11), "PNG"), saved(photo(10, 11), "JPEG"), saved(photo(10, 11), "WEBP"),
                 saved(grey, "PNG"), saved(grey, "TIFF")):  # fmt: skip
        assert decode(data, max_pixels=110).shape == (10, 11, 3)


@pytest.mark.parametrize("where", ["open", "load", "getexif"])
def test_a_server_short_of_memory_does_not_blame_the_image(
    where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise MemoryError

    data = saved(photo(), "PNG")
    monkeypatch.setattr(Image if where == "open" else PngImageFile, where, no_memory)
    with pytest.raises(MemoryError):
        decode(data)


def test_nor_if_it_is_pillow_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError("out of memory when reading image file")

    monkeypatch.setattr(PngImageFile, "load", no_memory)
    with pytest.raises(MemoryError, match="out of memory"):
        decode(saved(photo(), "PNG"))
