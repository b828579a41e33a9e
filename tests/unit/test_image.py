"""Every way in which a photo can be stored comes out as the same upright RGB; whatever else comes in is refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import BadImage, ImageFormatNotServed, ImageTooLarge, RequestError
from segserve.image import SERVED_FORMATS, _PillowSettings, decode

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


# --- formats ------------------------------------------------------------------------------------------------

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 100, "subsampling": 0},
    "MPO": {
        "quality": 100,
        "subsampling": 0,
        "save_all": True,
        "append_images": [Image.new("RGB", (24, 16))],
    },
    "PNG": {},
    "WEBP": {"lossless": True},
    "TIFF": {},
    "GIF": {},
    "BMP": {},
    "AVIF": {"quality": 100, "subsampling": "4:4:4"},
    "JPEG2000": {},
    "PPM": {},
    "ICO": {},
}


def test_every_served_format_is_tested() -> None:
    assert set(SAVE_OPTIONS) == SERVED_FORMATS


@pytest.mark.parametrize("file_format", sorted(SAVE_OPTIONS))
@pytest.mark.parametrize("as_type", [bytes, bytearray])
def test_served_format(file_format: str, as_type: type[bytes] | type[bytearray]) -> None:
    size = 16 if file_format == "ICO" else 24
    pixels = photo(16, size)
    decoded = decode(as_type(saved(pixels, file_format, **SAVE_OPTIONS[file_format])))
    assert_close(decoded, pixels, tolerance=3 if file_format in ("JPEG", "MPO", "AVIF") else 0)
    assert decoded.flags.c_contiguous
    assert decoded.flags.writeable


@pytest.mark.parametrize("compression", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_tiff_compressions(compression: str | None) -> None:
    assert_close(decode(saved(photo(), "TIFF", compression=compression)), photo())


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (saved(photo(), "PCX"), "PCX"),
        (saved(photo(), "TGA"), "TGA"),
        (saved(photo(), "SGI"), "SGI"),
        (saved(photo(), "QOI"), "QOI"),
        (saved(photo(), "DDS"), "DDS"),
        (saved(photo(), "EPS"), "PostScript"),
        (saved(photo(), "PDF"), "PDF"),
        (saved(photo(), "ICNS"), "ICNS"),
        (b"8BPS\0\1" + b"\0" * 40, "Photoshop"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic", "HEIC"),
        (b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "video"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<SVG xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xff\x0a" + b"\0" * 30, "JPEG XL"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_format_that_is_not_served_is_named(head: bytes, name: str) -> None:
    with pytest.raises(ImageFormatNotServed, match=rf"{name}.*is not served; send one of JPEG"):
        decode(head)


# --- orientation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF", "TIFF lzw"])
def test_orientation_is_applied_once(file_format: str, orientation: int) -> None:
    file_format, _, compression = file_format.partition(" ")
    options = dict(SAVE_OPTIONS[file_format])
    if compression:
        options["compression"] = "tiff_lzw"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = stored_with_orientation(photo(), orientation)
    decoded = decode(saved(stored, file_format, exif=exif, **options))
    assert_close(decoded, photo(), tolerance=3 if file_format in ("JPEG", "AVIF") else 0)


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_mean_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert_close(decode(saved(photo(), "PNG", exif=exif)), photo())


def test_damaged_exif_does_not_cost_the_picture() -> None:
    assert_close(decode(saved(photo(), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")), photo())
    assert_close(decode(saved(photo(), "PNG", exif=b"Exif\0\0this is no TIFF header")), photo())


# --- modes --------------------------------------------------------------------------------------------------


def test_grey_and_bilevel() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert_close(decode(saved(Image.fromarray(ramp), "PNG")), np.repeat(ramp[:, :, None], 3, axis=2))
    checks = np.indices((8, 8)).sum(axis=0) % 2 * 255
    bilevel = Image.fromarray(checks.astype(np.uint8)).convert("1", dither=Image.Dither.NONE)
    for file_format in ("PNG", "TIFF", "BMP", "PPM"):
        assert_close(decode(saved(bilevel, file_format)), np.repeat(checks[:, :, None], 3, axis=2))


def test_palette() -> None:
    paletted = Image.fromarray(photo()).quantize(8)
    for file_format in ("PNG", "GIF", "BMP", "TIFF"):
        assert_close(decode(saved(paletted, file_format)), photo(), tolerance=1)


def test_cmyk_of_adobe_is_not_inverted() -> None:
    red = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    expected = np.full((16, 16, 3), (255, 0, 0))
    assert_close(decode(saved(red, "JPEG", quality=100)), expected, tolerance=3)
    assert_close(decode(saved(red, "TIFF")), expected)
    assert b"Adobe" in saved(red, "JPEG")


def test_lab() -> None:
    lab = Image.new("LAB", (4, 4), (138, 209, 198))  # L 54, a +81, b +70: sRGB red
    assert_close(decode(saved(lab, "TIFF")), np.full((4, 4, 3), (255, 0, 0)), tolerance=6)


def test_transparency_lies_on_white() -> None:
    alpha = np.array([[0, 51, 255]], np.uint8)
    colour = np.full((1, 3, 3), (200, 100, 0), np.uint8)
    expected = [[[255, 255, 255], [244, 224, 204], [200, 100, 0]]]
    rgba = Image.fromarray(np.dstack([colour, alpha]))
    assert_close(decode(saved(rgba, "PNG")), expected)
    assert_close(decode(saved(rgba, "TIFF")), expected)
    assert_close(decode(saved(rgba, "WEBP", lossless=True, exact=True)), expected)
    grey_alpha = Image.fromarray(np.dstack([np.full((1, 3), 100, np.uint8), alpha]))
    assert_close(decode(saved(grey_alpha, "PNG")), [[[255] * 3, [224] * 3, [100] * 3]])


def test_a_transparent_colour_lies_on_white() -> None:
    two = np.array([[[10, 20, 30], [40, 50, 60]]], np.uint8)
    assert_close(decode(saved(two, "PNG", transparency=(10, 20, 30))), [[[255] * 3, [40, 50, 60]]])
    grey = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert_close(decode(saved(grey, "PNG", transparency=7)), [[[255] * 3, [9] * 3]])
    paletted = Image.new("P", (2, 1))
    paletted.putpalette([10, 20, 30, 40, 50, 60])
    paletted.putpixel((1, 0), 1)
    for file_format in ("PNG", "GIF"):
        assert_close(decode(saved(paletted, file_format, transparency=0)), [[[255] * 3, [40, 50, 60]]])
    translucent = saved(paletted, "PNG", transparency=bytes([255, 51]))
    assert_close(decode(translucent), [[[10, 20, 30], [212, 214, 216]]])


def test_first_of_several_frames() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    for file_format in ("GIF", "PNG", "TIFF", "WEBP", "MPO"):
        options = {"lossless": True} if file_format == "WEBP" else {}
        data = saved(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
        assert_close(decode(data), np.full((8, 8, 3), (255, 0, 0)), tolerance=3)


# --- more than 8 bits -----------------------------------------------------------------------------------------


def grey(values: Sequence[int]) -> NDArray[np.int_]:
    return np.repeat(np.array([values])[:, :, None], 3, axis=2)


def test_16_bit_grey_is_scaled() -> None:
    values = np.array([[0, 128, 257 * 100, 257 * 100 + 128, 257 * 100 + 129, 65535]], np.uint16)
    expected = grey([0, 0, 100, 100, 101, 255])
    image = Image.fromarray(values.astype(np.int32)).convert("I;16")
    assert image.mode == "I;16"
    for file_format in ("PNG", "TIFF"):
        assert_close(decode(saved(image, file_format)), expected)
    big_endian = values.astype(">u2").tobytes()
    assert_close(decode(b"P5 6 1 65535\n" + big_endian), expected)
    flat = Image.new("I;16", (8, 8), 257 * 77)
    assert_close(decode(saved(flat, "JPEG2000")), np.full((8, 8, 3), 77))


def test_16_bit_grey_with_a_transparent_value() -> None:
    rows = b"\0" + struct.pack(">HHH", 0, 257 * 9, 257 * 9 + 1)
    assert_close(decode(png(3, 1, 16, 0, rows, (b"tRNS", struct.pack(">H", 257 * 9)))), grey([0, 255, 9]))


@pytest.mark.parametrize(("colour_type", "alpha"), [(2, b""), (6, b"\xff\xff")], ids=["RGB", "RGBA"])
def test_16_bit_colour(colour_type: int, alpha: bytes) -> None:
    samples = [
        struct.pack(">HHH", 257 * r, 257 * g, 257 * b) + alpha for r, g, b in ((1, 2, 3), (255, 128, 0))
    ]
    assert_close(decode(png(2, 1, 16, colour_type, b"\0" + b"".join(samples))), [[[1, 2, 3], [255, 128, 0]]])


def test_12_bit_tiff_is_scaled_by_its_own_white() -> None:
    packed = bytes([0xFF, 0xF8, 0x00])  # 4095, 2048
    assert_close(decode(tiff(2, 1, packed, {258: 12})), grey([255, 128]))


def test_inverted_16_bit_tiff() -> None:
    values = np.array([[0, 257 * 100, 65535]], "<u2").tobytes()
    assert_close(decode(tiff(3, 1, values, {258: 16, 262: 0})), grey([255, 155, 0]))


def test_samples_that_declare_no_white() -> None:
    def floats(*values: float) -> bytes:
        return tiff(len(values), 1, np.array(values, "<f4").tobytes(), {258: 32, 339: 3})

    assert_close(decode(floats(0, 0.25, 1)), grey([0, 64, 255]))
    assert_close(decode(floats(0, 100, 200)), grey([0, 100, 200]))
    assert_close(decode(floats(0, 300, 600)), grey([0, 128, 255]))
    assert_close(decode(floats(np.nan, -5, 1, np.inf)), grey([0, 0, 255, 255]))
    assert_close(decode(floats(0, 0)), grey([0, 0]))
    assert_close(decode(floats(-2, -1)), grey([0, 0]))

    def integers(dtype: str, sample_format: int, *values: int) -> bytes:
        array = np.array(values, dtype)
        return tiff(len(values), 1, array.tobytes(), {258: 8 * array.itemsize, 339: sample_format})

    assert_close(decode(integers("<i4", 2, -7, 100, 255)), grey([0, 100, 255]))
    assert_close(decode(integers("<i2", 2, -7, 15000, 30000)), grey([0, 128, 255]))
    assert_close(decode(integers("<u4", 1, 0, 2**31, 2**32 - 2)), grey([0, 128, 255]))


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
    if name != "small tiff of huge tiles":  # libtiff finds its offsets missing first
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
