"""Every way in which a photo can be stored comes out as the same upright RGB."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin, TiffTags

from segserve.errors import ImageFormatNotServed
from segserve.image import SERVED_FORMATS, decode
from tests.images import assert_close, photo, png, saved, stored_with_orientation, tiff

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
        (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom", "CR3"),
        (b"IIRO\x08\0\0\0", "ORF"),
        (b"IIU\0\x18\0\0\0", "RW2"),
        (b'<?xml version="1.0"?>\n<!-- drawn -->\n<SVG xmlns="http://www.w3.org/2000/svg"/>', "SVG"),
        (b"\xff\x0a" + b"\0" * 30, "JPEG XL"),
        (b"P7\nWIDTH 1\nHEIGHT 1\nDEPTH 3\nMAXVAL 255\nTUPLTYPE RGB\nENDHDR\n\1\2\3", "PAM"),
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


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
@pytest.mark.parametrize("orientation", [None, 6])
@pytest.mark.parametrize(
    ("kind", "python_type"), [(TiffTags.BYTE, bytes), (TiffTags.ASCII, str), (TiffTags.SIGNED_BYTE, tuple)]
)
def test_a_tiff_is_turned_as_its_exif_says_whatever_its_xmp_is_made_of(
    kind: int, python_type: type, orientation: int | None, compression: str | None
) -> None:
    """Pillow looks there for an orientation where EXIF has none, or takes it out after turning, and expects bytes."""
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[700] = b"<x:xmpmeta/>"
    if orientation is not None:
        tags[0x0112] = orientation
    stored = stored_with_orientation(photo(), orientation or 1)
    data = saved(stored, "TIFF", tiffinfo=tags, compression=compression)
    data = data.replace(struct.pack("<HH", 700, TiffTags.BYTE), struct.pack("<HH", 700, kind))
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image.info["xmp"], python_type)
    assert_close(decode(data), photo())


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


@pytest.mark.parametrize(("depth", "transparent"), [(1, 0), (2, 1), (2, 3), (4, 8), (4, 15), (8, 200)])
def test_a_transparent_grey_of_few_bits_lies_on_white(depth: int, transparent: int) -> None:
    step, per_byte = 255 // (2**depth - 1), 8 // depth
    values = [0, transparent, 2**depth - 1, 0, 0, 0, 0, 0]
    packed = sum(value << 8 * 8 // per_byte - depth * (n + 1) for n, value in enumerate(values))
    rows = b"\0" + packed.to_bytes(8 // per_byte, "big")
    expected = [255 if value == transparent else value * step for value in values]
    assert_close(decode(png(8, 1, depth, 0, rows, (b"tRNS", struct.pack(">H", transparent)))), grey(expected))


def test_a_transparent_colour_of_16_bits_lies_on_white() -> None:
    colours = [(0x1234, 0x5678, 0x9ABC), (0x1200, 0x56FF, 0x9ABC), (0x1334, 0x5678, 0x9ABC)]
    rows = b"\0" + b"".join(struct.pack(">HHH", *colour) for colour in colours)
    transparent = (b"tRNS", struct.pack(">HHH", *colours[0]))
    white = [255] * 3
    assert_close(decode(png(3, 1, 16, 2, rows, transparent)), [[white, white, [0x13, 0x56, 0x9A]]])


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
    assert_close(decode(integers("<i1", 2, -128, -1, 0, 100, 127)), grey([0, 0, 0, 100, 127]))
    assert_close(decode(integers("<u1", 1, 0, 100, 128, 255)), grey([0, 100, 128, 255]))
    undeclared = np.array([0, 2**31, 2**32 - 2], "<u4").tobytes()
    assert_close(decode(tiff(3, 1, undeclared, {258: 32})), grey([0, 128, 255]))  # unsigned, by TIFF 6.0
