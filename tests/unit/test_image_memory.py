"""Small files whose few or many pixels would take far more memory than the limit is there for; and if there is none."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from segserve import shortage
from segserve.errors import BadImage, ImageTooLarge
from segserve.image import decode
from tests.images import photo, png, saved, tiff

NEVER_THERE = 1 << 50
"""Bytes a pixel."""


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


@pytest.mark.parametrize(
    "message", ["out of memory when reading image file", "Pixel allocation failed: Out of memory"]
)
def test_nor_if_it_is_pillow_that_says_so(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_memory(*_: object, **__: object) -> None:
        raise OSError(message)

    monkeypatch.setattr(PngImageFile, "load", no_memory)
    with pytest.raises(MemoryError, match=message):
        decode(saved(photo(), "PNG"))


AMBIGUOUS = [
    ("broken data stream when reading image file", "JPEG"),
    ("broken data stream when reading image file", "JPEG2000"),
    ("failed to read next frame", "WEBP"),
    ("Failed to decode image: Decoding of color planes failed", "AVIF"),
]


@pytest.mark.parametrize(("message", "file_format"), AMBIGUOUS)
def test_nor_if_pillow_would_say_the_same_of_a_torn_file(
    message: str, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(message)

    data = saved(photo(), file_format)
    with Image.open(io.BytesIO(data)) as image:
        monkeypatch.setattr(type(image), "load", fails)
    with pytest.raises(BadImage, match=rf"the {file_format} image is corrupt or cut short \({message}\)"):
        decode(data)
    monkeypatch.setattr(shortage, "BYTES_PER_PIXEL", NEVER_THERE)
    with pytest.raises(MemoryError, match=message):
        decode(data)


def test_nor_a_webp_for_which_no_decoder_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError("could not create decoder object")

    data = saved(photo(), "WEBP")
    monkeypatch.setattr(Image, "open", fails)
    with pytest.raises(
        BadImage, match=r"WEBP image is corrupt or cut short \(could not create decoder object"
    ):
        decode(data)
    monkeypatch.setattr(shortage, "BYTES_PER_PIXEL", NEVER_THERE)
    with pytest.raises(MemoryError, match="could not create decoder object"):
        decode(data)


@pytest.mark.parametrize(
    "options", [{}, {"lossless": True}, {"exif": b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"}]
)
def test_pixels_of_every_kind_of_webp(options: dict[str, object]) -> None:
    data = saved(photo(16, 24), "WEBP", **options)
    assert shortage.webp_pixels(data) == shortage.webp_pixels(bytearray(data)) == 16 * 24
    assert all(shortage.webp_pixels(data[:cut]) <= 16 * 24 for cut in range(len(data)))
    assert shortage.webp_pixels(saved(photo(), "PNG")) == 0


@pytest.mark.parametrize(
    ("file_format", "options"),
    [("JPEG", {"progressive": True}), ("WEBP", {}), ("WEBP", {"lossless": True}), ("AVIF", {}), ("JPEG2000", {}),
     ("PNG", {})],
)  # fmt: skip
def test_a_whole_photo_is_never_called_corrupt_however_little_memory_there_is(
    file_format: str, options: dict[str, object], tmp_path: Path
) -> None:
    """In processes that may have so many MB more than they have when they begin."""
    pytest.importorskip("resource")
    (tmp_path / "photo").write_bytes(saved(photo(1_000, 1_500), file_format, **options))
    (tmp_path / "small").write_bytes(saved(photo(), file_format, **options))
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", SHORT_OF_MEMORY, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    outcomes = ended.stdout.split("\n")[:-1]
    assert set(outcomes) == {"MemoryError", "decoded"}, outcomes
    assert (outcomes[0], outcomes[-1]) == ("MemoryError", "decoded")


SHORT_OF_MEMORY = """
import os, resource, sys
from pathlib import Path
from segserve.image import decode
folder = Path(sys.argv[1])
data = (folder / "photo").read_bytes()
decode((folder / "small").read_bytes())
for more in range(0, 64, 2):
    if (child := os.fork()) == 0:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + more * 1_000_000
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        try:
            decode(data)
            outcome = "decoded"
        except Exception as error:
            outcome = type(error).__name__
        os.write(1, outcome.encode() + b"\\n")
        os._exit(0)
    os.waitpid(child, 0)
"""
