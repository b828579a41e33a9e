"""What is no image, too large or broken is refused with advice, takes no memory and leaves no trace."""

from __future__ import annotations

import struct
import subprocess
import sys
import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segserve.errors import BadImage, ImageTooLarge, RequestError
from segserve.image import _pillow, _PillowSettings, decode
from tests.images import photo, png, saved, tiff

# --- what is refused ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty"),
        (b"\0", "not an image"),
        (b"just some words", "not an image; send one of JPEG"),
        (b"<!DOCTYPE html><html></html>", "HTML"),
        (b"\xff\xd8\xff", "JPEG image is corrupt"),
        (b"\x89PNG\r\n\x1a\n", "PNG image is corrupt"),
        (b"II*\0", "TIFF image is corrupt"),
        (b"BM" + b"\0" * 60, "BMP image is corrupt"),
        (b"RIFF\x10\0\0\0WEBPVP8 " + b"\0" * 8, "WEBP image is corrupt"),
        (b"P5 0 5 255\n", "PPM|at least one pixel"),
    ],
)
def test_what_is_not_an_image(data: bytes, message: str) -> None:
    with pytest.raises(BadImage, match=message) as raised:
        decode(data)
    assert raised.value.status == 400
    assert "send" in str(raised.value)


@pytest.mark.parametrize(
    "file_format", ["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "AVIF", "JPEG2000", "PPM"]
)
def test_a_file_cut_in_half(file_format: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    data = saved(noise, file_format)
    with pytest.raises(BadImage, match="corrupt or cut short"):
        decode(data[: len(data) // 2])


def test_the_pixel_limit_is_exact() -> None:
    data = saved(photo(10, 10), "PNG")
    assert decode(data, max_pixels=100).shape == (10, 10, 3)
    for limit in (99, 50, 1):
        with pytest.raises(ImageTooLarge, match=rf"100 pixels, {limit} are allowed; scale it down"):
            decode(data, max_pixels=limit)


def test_odd_limits_are_exact_too() -> None:
    data = saved(photo(9, 11), "PNG")
    assert decode(data, max_pixels=99).shape == (9, 11, 3)
    with pytest.raises(ImageTooLarge, match="99 pixels, 98 are"):
        decode(data, max_pixels=98)


def test_a_larger_limit_elsewhere_lifts_nobody_elses() -> None:
    header_only = png(10, 10, 8, 2, b"")
    with _pillow.limited_to(10**9), pytest.raises(ImageTooLarge, match="100 pixels, 99 are"):
        decode(header_only, max_pixels=99)  # before any pixel is looked for: there is none


def huge_files() -> dict[str, bytes]:
    """Small files that declare gigapixels."""
    inner = png(60_000, 60_000, 8, 2, b"")
    ico = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(inner), 22) + inner
    tiles = {258: 8, 322: 60_000, 323: 60_000, 324: 8, 325: 4}
    gif = b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0x80, 0, 0) + b"\0" * 6 + b"," + b"\0" * 4
    return {
        "png": inner,
        "bmp": b"BM"
        + struct.pack("<IHHIIiiHHII", 54, 0, 0, 54, 40, 60_000, 60_000, 1, 24, 0, 0)
        + b"\0" * 16,
        "ppm": b"P6 60000 60000 255\n" + b"\0" * 100,
        "pbm": b"P4 600000 600000\n" + b"\0" * 100,
        "tiff": tiff(60_000, 60_000, b"\0" * 4, {258: 8}),
        "small tiff of huge tiles": tiff(16, 16, b"\0" * 4, tiles),
        "small ico of a huge png": ico,
        "gif": gif + struct.pack("<HHB", 65535, 65535, 0) + b"\x02\x02\x4c\x01\0;",
    }


@pytest.mark.parametrize("name", sorted(huge_files()))
def test_declared_gigapixels_are_refused_from_the_header(name: str) -> None:
    with pytest.raises(RequestError) as raised:
        decode(huge_files()[name])
    assert raised.value.status == 413


def test_refusals_take_no_memory(tmp_path: Path) -> None:
    """In a process of its own, because Pillow's memory shows up nowhere but in the size of the process."""
    pytest.importorskip("resource")
    for name, data in huge_files().items():
        (tmp_path / name).write_bytes(data)
    text = zlib.compress(b"\0" * 200_000_000, 9)
    (tmp_path / "text").write_bytes(png(1, 1, 8, 0, b"\0\0", (b"zTXt", b"k\0\0" + text)))
    (tmp_path / "ok.png").write_bytes(saved(photo(), "PNG"))
    code = """
import resource, sys
from pathlib import Path
from segserve.errors import RequestError
from segserve.image import decode
folder = Path(sys.argv[1])
decode((folder / "ok.png").read_bytes())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(folder.iterdir()):
    if path.name != "ok.png":
        try:
            decode(path.read_bytes())
        except RequestError:
            continue
        sys.exit(f"{path.name} was decoded")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert int(ended.stdout) < 16 * 1024  # KiB


# --- Pillow's process-wide settings ---------------------------------------------------------------------------


def test_nothing_is_printed_or_warned(capfd: pytest.CaptureFixture[str]) -> None:
    paletted = Image.fromarray(photo()).quantize(4)
    assert decode(saved(paletted, "PNG", transparency=bytes([255, 128]))).shape == (16, 24, 3)
    big_enough_to_warn = png(20_000, 5_000, 1, 0, (b"\0" + b"\0" * 2500) * 5_000)
    assert decode(big_enough_to_warn, max_pixels=100_000_000).shape == (5_000, 20_000, 3)
    with pytest.raises(BadImage):
        decode(b"II*\0\x08\0\0\0\xff\xff" + b"\0" * 20)
    assert capfd.readouterr() == ("", "")


def test_overlapping_decodes_restore_what_was_there() -> None:
    before = (Image.MAX_IMAGE_PIXELS, list(warnings.filters))
    pillow = _PillowSettings()
    first, second = ExitStack(), ExitStack()
    first.enter_context(pillow.limited_to(100))
    assert Image.MAX_IMAGE_PIXELS == 50
    second.enter_context(pillow.limited_to(1001))
    assert Image.MAX_IMAGE_PIXELS == 501
    warnings.warn("silenced", stacklevel=1)
    first.close()  # the one that changed the settings ends before the other
    assert Image.MAX_IMAGE_PIXELS == 501
    warnings.warn("silenced", stacklevel=1)
    second.close()
    assert (Image.MAX_IMAGE_PIXELS, list(warnings.filters)) == before


# --- anything at all ------------------------------------------------------------------------------------------

SEEDS = [
    saved(photo(), "PNG"),
    saved(Image.fromarray(photo()).quantize(4), "PNG", transparency=bytes([0, 128])),
    saved(photo(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0"),
    saved(photo(), "JPEG", progressive=True),
    saved(photo(), "GIF"),
    saved(photo(), "BMP"),
    saved(photo(), "WEBP", lossless=True),
    saved(photo(), "TIFF", compression="tiff_lzw"),
    saved(photo(), "TIFF"),
    saved(photo(), "ICO", sizes=[(16, 16)]),
    saved(photo(), "PPM"),
    saved(photo(), "JPEG2000"),
    saved(photo(), "AVIF"),
]


@settings(max_examples=400, deadline=None)
@given(
    seed=st.sampled_from(SEEDS),
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 255)), min_size=1, max_size=6),
    cut=st.none() | st.integers(0, 2**16),
)
def test_only_request_errors_escape_from_mutated_files(
    seed: bytes, edits: list[tuple[int, int]], cut: int | None
) -> None:
    data = bytearray(seed)
    for position, value in edits:
        # headers decide what code runs: half of the edits go there
        data[position % (64 if position % 2 else len(data)) % len(data)] = value
    if cut is not None:
        del data[cut % len(data) :]
    check_answer(data)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_only_request_errors_escape_from_noise(data: bytes) -> None:
    check_answer(data)


def check_answer(data: bytes | bytearray) -> None:
    refusal = None
    try:
        decoded = decode(data, max_pixels=1_000_000)
    except RequestError as error:
        refusal = error
    if refusal is not None:
        assert str(refusal)
        assert 400 <= refusal.status < 500
    else:
        assert decoded.dtype == np.uint8
        assert decoded.ndim == 3
        assert decoded.shape[2] == 3
        assert 0 < decoded.shape[0] * decoded.shape[1] <= 1_000_000
