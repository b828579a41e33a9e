"""Files that are all structure and no picture are refused early; files as cameras and programs write them are not."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from segserve import jpeg_scans, limited_file
from segserve.errors import BadImage, ImageTooLarge
from segserve.image import decode
from tests.images import photo, png, saved

MB = 1_000_000


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def inserted(data: bytes, position: int, piece: bytes, num_bytes: int = 4 * MB) -> bytes:
    return data[:position] + piece * (num_bytes // len(piece)) + data[position:]


def raw_tiff(rows: int, order: str = "<", big: bool = False) -> bytes:
    """8 x rows pixels of 1 bit, uncompressed, each row a strip; all strips are the same byte."""
    entry, number, offset = ("HHQ", "Q", 8) if big else ("HHI", "I", 8)
    fields = [(256, 4, 1, 8), (257, 4, 1, rows), (258, 4, 1, 1), (259, 4, 1, 1), (262, 4, 1, 1)]
    size = struct.calcsize("<" + number)
    start = 16 if big else 8
    directory = start + (8 if big else 2) + 9 * (4 + 2 * size) + size
    wide = 16 if big else 4
    fields += [(273, wide, rows, directory), (277, 4, 1, 1), (278, 4, 1, 1)]
    fields += [(279, wide, rows, directory + size * rows)]
    head = {"<": b"II", ">": b"MM"}[order]
    head += struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, offset)
    body = struct.pack(order + ("Q" if big else "H"), len(fields))
    for tag, kind, count, value in fields:
        body += struct.pack(order + entry + number, tag, kind, count, value)
    body += struct.pack(order + number, 0)
    return head + body + struct.pack(order + number, start) * rows + struct.pack(order + number, 1) * rows


def hostile() -> dict[str, bytes]:
    jpeg, gif = saved(photo(), "JPEG"), saved(Image.fromarray(photo()).quantize(4), "GIF")
    behind_palette = 13 + 3 * 4
    plain_png = saved(photo(), "PNG")
    profile = png_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * MB))
    profiles = inserted(plain_png, 33, profile, 20 * len(profile))
    return {
        "png chunks": inserted(plain_png, 33, png_chunk(b"aaAa", b"")),
        "png empty pixels": inserted(plain_png, plain_png.index(b"IDAT") - 4, png_chunk(b"IDAT", b"")),
        "png profiles": profiles,
        "ico of a png with profiles": struct.pack("<HHHBBBBHHII", 0, 1, 1, 24, 16, 0, 0, 1, 32, len(profiles), 22)
        + profiles,
        "jpeg comments": inserted(jpeg, 2, b"\xff\xfe\0\x02"),
        "jpeg filling": inserted(jpeg, 2, b"\xff"),
        "gif comments": inserted(gif, behind_palette, b"!\xfe\x01a\0"),
        "gif junk": inserted(gif, behind_palette, b"x"),
        "bmp of runs": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 1078, 40, 8000, 8000, 1, 8, 1, 0, 0, 0, 256, 0)
        + bytes(1024)
        + b"\1\0" * MB,
        "ppm header of comments": b"P6\n" + b"#a\n" * MB + b"8 8 255\n" + bytes(192),
        "tiff strips": raw_tiff(70_000),
        "tiff strips, big end first": raw_tiff(70_000, ">"),
        "tiff strips, BigTIFF": raw_tiff(70_000, "<", big=True),
    }  # fmt: skip


@pytest.mark.parametrize("name", hostile())
def test_what_keeps_pillow_busy_without_a_picture_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        limited_file, "MAX_READS", 100_000
    )  # in proportion to 4 MB, so that the tests are quick
    with pytest.raises(
        BadImage, match=r"too many small pieces|colour profiles|segments|cut into 70,000 pieces"
    ):
        decode(hostile()[name])


def test_slow_ppms_are_limited_in_bytes() -> None:
    values = np.arange(12, dtype=np.uint8)
    small = b"P3 2 2 255\n" + b" ".join(b"%d" % value for value in values)
    np.testing.assert_array_equal(decode(small).ravel(), values)
    odd_depth = b"P6 2000 700 200\n" + bytes(3 * 2000 * 700)
    for large in (b"P3 2000 1000 255\n" + b"1 " * (3 * MB), odd_depth):
        with pytest.raises(ImageTooLarge, match="save it as PNG"):
            decode(large)
    assert decode(b"P6 2000 700 255\n" + bytes(3 * 2000 * 700)).shape == (700, 2000, 3)  # no slow decoder


def test_large_jpeg_2000s_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """While Pillow decodes one, no other thread of the worker goes on."""
    data = saved(photo(), "JPEG2000")
    monkeypatch.setattr(limited_file, "MAX_J2K_BYTES", len(data))
    assert decode(data).shape == (16, 24, 3)
    message = (
        rf"JPEG 2000 may have {len(data):,} bytes, this has {len(data) + 1:,}; save it as JPEG, WebP or PNG"
    )
    with pytest.raises(ImageTooLarge, match=message) as raised:
        decode(data + b"\0")
    assert raised.value.status == 413
    noise = np.random.default_rng(0).bytes(limited_file.MAX_J2K_BYTES)
    assert decode(saved(photo(), "PNG") + noise).shape == (16, 24, 3)  # of others it is no limit


def test_comments_in_a_text_ppm_are_few() -> None:
    with pytest.raises(BadImage, match="256 comments"):
        decode(b"P3\n8 8\n255\n" + b"#a\n" * 1000)
    assert decode(b"P2\n#a\n2 1\n255\n#b\n7 #c\n8\n").tolist() == [[[7] * 3, [8] * 3]]


def test_usual_files_come_nowhere_near_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 900, 3), np.uint8)
    monkeypatch.setattr(limited_file, "MAX_READS", 2_000)
    for file_format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "ICO"):
        image = Image.fromarray(noise[:200, :200] if file_format == "ICO" else noise)
        assert decode(saved(image, file_format)).size > 0
    frames = [Image.fromarray(noise[n : n + 100]) for n in range(50)]
    animation = saved(frames[0], "PNG", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode(animation), noise[:100])
    striped = decode(raw_tiff(1_500))
    assert striped.shape == (1_500, 8, 3)
    assert (striped == striped[0]).all()


def test_a_profile_and_text_are_fine() -> None:
    profile = png_chunk(b"iCCP", b"k\0\0" + zlib.compress(b"\0" * 3000))
    text = b"".join(png_chunk(b"tEXt", b"k%d\0words" % n) for n in range(300))
    data = png(1, 1, 8, 0, b"\0\x07")
    assert decode(data[:33] + profile + text + data[33:]).tolist() == [[[7, 7, 7]]]


def test_a_limited_file_reads_like_any_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limited_file, "MAX_READS", 3)
    file = limited_file.LimitedFile(b"abcdef")
    assert isinstance(file, io.BytesIO)
    assert (file.read(2), file.read(), file.read(1)) == (b"ab", b"cdef", b"")
    with pytest.raises(BadImage, match="save it anew"):
        file.read(1)


def test_a_jpegs_segments_are_counted_before_pillow_sees_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "open", None)
    with pytest.raises(BadImage, match="1,000 segments"):
        decode(saved_with_comments())
    assert jpeg_scans.count(b"\x89PNG" + b"\xff\xda" * 10) == 0


def saved_with_comments() -> bytes:
    return inserted(saved(photo(), "JPEG"), 2, b"\xff\xfe\0\x02")
