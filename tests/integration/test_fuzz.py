"""Whatever is sent, the answer is one of those documented, never a 500, and never another one's.

By default the same examples each time, for about half a minute. To look for new ones, for as long as wanted:

    FUZZ=50 python -m pytest tests/integration/test_fuzz.py    # 50 times as many, random ones
"""

from __future__ import annotations

import os
import struct
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from segserve.reply import Reply
from segserve.request import CONTENT_TYPES, Request
from segserve.segmenter import Segmenter
from segserve.service import Service
from tests.images import photo, saved
from tests.integration.conftest import ColourEngine
from tests.specs import make_spec

FUZZ = int(os.environ.get("FUZZ", "0"))
DOCUMENTED = {200, 400, 406, 413, 415, 422}
MAX_PIXELS = 300_000
LONGEST_S = 60.0
"""For one of these small files, on a machine with other things to do: no promise of speed, but nothing hangs."""

pytestmark = pytest.mark.timeout(900 * max(1, FUZZ))


def fuzz(examples: int) -> settings:
    return settings(
        max_examples=examples * max(1, FUZZ),
        derandomize=FUZZ == 0,
        database=None,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


@cache
def service() -> Service:
    segmenter = Segmenter(make_spec(), ColourEngine(), MAX_PIXELS)
    return Service(segmenter, 1_000_000, threads=2, decode_timeout_s=LONGEST_S)


def rle_bmp() -> bytes:
    """What Pillow can read and not write: 4 rows of runs, literals, a jump and an end."""
    runs = b"\x18\x01\0\0" + b"\0\x04\1\2\3\4\x14\2\0\0" + b"\0\2\4\0\x10\3\0\0" + b"\x18\2\0\1"
    header = struct.pack(
        "<IHHIIiiHHIIiiII", 1078 + len(runs), 0, 0, 1078, 40, 24, 4, 1, 8, 1, len(runs), 0, 0, 256, 0
    )
    return b"BM" + header + bytes(range(256)) * 4 + runs


@cache
def seeds() -> dict[str, bytes]:
    """Real files of every served format, and of the ways in which one can be written."""
    noise = np.random.default_rng(3).integers(0, 256, (40, 56, 3), np.uint8)
    image = Image.fromarray(photo(40, 56) // 2 + noise // 2)
    again = image.rotate(180)
    grey16 = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 257)
    rgba = image.convert("RGBA")
    rgba.putalpha(Image.fromarray(noise[:, :, 1]))
    exif = Image.Exif()
    exif[0x0112] = 6
    several: dict[str, Any] = {"save_all": True, "append_images": [again]}
    files = {
        "jpeg": saved(image, "JPEG", exif=exif),
        "jpeg progressive": saved(image, "JPEG", progressive=True),
        "jpeg cmyk": saved(image.convert("CMYK"), "JPEG"),
        "mpo": saved(image, "MPO", **several),
        "png": saved(image, "PNG", exif=exif),
        "png animated": saved(image, "PNG", **several),
        "png palette": saved(image.quantize(16), "PNG", transparency=bytes(range(16))),
        "png 16": saved(grey16, "PNG"),
        "webp": saved(image, "WEBP", exif=exif),
        "webp lossless": saved(rgba, "WEBP", lossless=True),
        "webp animated": saved(image, "WEBP", **several),
        "avif": saved(image, "AVIF", exif=exif),
        "avif alpha": saved(rgba, "AVIF"),
        "gif": saved(image.quantize(16), "GIF", **several),
        "bmp": saved(image, "BMP"),
        "bmp rle": rle_bmp(),
        "jpeg 2000": saved(image, "JPEG2000"),
        "jpeg 2000 tiles": saved(image, "JPEG2000", tile_size=(16, 16), irreversible=True, no_jp2=True),
        "ppm": saved(image, "PPM"),
        "pgm 16": saved(grey16, "PPM"),
        "ppm text": b"P3\n# a comment\n3 2\n255\n" + b" ".join(b"%d" % n for n in range(0, 180, 10)),
        "ppm odd depth": b"P6 4 2 200\n" + bytes(range(24)),
        "pbm": b"P4 9 3\n\xff\x80\0\0\xaa\x80",
        "ico": saved(image, "ICO", sizes=[(16, 16), (32, 32)]),
        "ico of bmp": saved(image, "ICO", sizes=[(16, 16)], bitmap_format="bmp"),
    }
    for compression in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"):
        files[f"tiff {compression}"] = saved(image, "TIFF", compression=compression)
    files["tiff pages"] = saved(grey16, "TIFF", save_all=True, append_images=[grey16])
    files["tiff group4"] = saved(image.convert("1"), "TIFF", compression="group4")
    return files


NEIGHBOUR = Request({"body": saved(photo(50, 70), "PNG"), "format": "npy"})


@cache
def neighbours_answer() -> bytes:
    [reply] = service().answer([NEIGHBOUR])
    assert reply.status == 200
    return reply.body


def answer(request: Request) -> Reply:
    """The reply to it, in a batch with an innocent neighbour."""
    before, reply, after = service().answer([NEIGHBOUR, request, NEIGHBOUR])
    assert reply.status in DOCUMENTED, (reply.status, reply.body)
    for neighbour in (before, after):
        assert (neighbour.status, neighbour.body) == (200, neighbours_answer())
    if reply.status != 200:
        assert reply.content_type == "application/json"
        assert b'"message": "' in reply.body
    return reply


@pytest.mark.parametrize("name", seeds())
def test_the_files_themselves_are_fine(name: str) -> None:
    reply = answer(Request({"body": seeds()[name]}))
    assert (reply.status, reply.content_type) == (200, "image/png"), reply.body


# --- files --------------------------------------------------------------------------------------------------

EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A real file after up to four accidents."""
    data = bytearray(seeds()[draw(st.sampled_from(sorted(seeds())))])
    for _ in range(draw(st.integers(1, 4))):
        # headers decide what code runs: half of the accidents happen there
        last = max(0, len(data) - 1)
        at = draw(st.integers(0, min(last, 96)) | st.integers(0, last))
        match draw(st.sampled_from(("flip", "byte", "number", "cut", "drop", "repeat", "noise", "splice"))):
            case "flip" if data:
                data[at] ^= 1 << draw(st.integers(0, 7))
            case "byte" if data:
                data[at] = draw(st.integers(0, 255))
            case "number":
                order = draw(st.sampled_from(("<", ">")))
                data[at : at + 4] = struct.pack(order + "I", draw(st.sampled_from(EXTREMES)))
            case "cut":
                del data[at:]
            case "drop":
                del data[at : at + draw(st.integers(1, 64))]
            case "repeat":
                data[at:at] = bytes(data[at : at + draw(st.integers(1, 200))]) * draw(st.integers(1, 30))
            case "noise":
                data[at:at] = draw(st.binary(min_size=1, max_size=64))
            case "splice":
                other = seeds()[draw(st.sampled_from(sorted(seeds())))]
                data[at:] = other[draw(st.integers(0, len(other))) :]
            case _:
                pass
    return bytes(data)


@fuzz(examples=2500)
@given(data=mutated(), answer_format=st.sampled_from(sorted(CONTENT_TYPES)))
def test_mutated_files(data: bytes, answer_format: str) -> None:
    assert answer(Request({"body": data, "format": answer_format})).status in {200, 400, 413, 415}


@fuzz(examples=500)
@given(
    start=st.sampled_from(
        [b"", *sorted({data[:length] for data in seeds().values() for length in (4, 12, 40)})]
    ),
    rest=st.binary(max_size=400),
)
def test_noise_behind_the_first_bytes_of_a_file(start: bytes, rest: bytes) -> None:
    answer(Request({"body": start + rest}))


# --- fields and headers -------------------------------------------------------------------------------------

SURROGATES = st.text(st.characters(exclude_categories=()), max_size=30)
LONG = st.builds(lambda piece, times: piece * times, st.text(min_size=1, max_size=3), st.integers(1, 50_000))
WORDS = st.sampled_from(
    ["png", "json", "npy", "overlay", "image/png", "application/json", "*/*", "image/*", "wall", "FLOOR",
     "\u017f", "\u0130", ",", ";", "q=0", "q=1e999", "q=nan", "q=-1", ";;;,,,", "gzip", "identity;q=0", "*",
     "\0", "\r\n", "a" * 5000]
)  # fmt: skip
TEXTS = (
    st.lists(WORDS | SURROGATES, max_size=6).map(",".join) | st.lists(WORDS, max_size=4).map(";".join) | LONG
)
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | SURROGATES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(SURROGATES, inner, max_size=3),
    max_leaves=10,
)
VALUES = (
    TEXTS | TEXTS.map(lambda text: text.encode("utf-8", "surrogatepass")) | st.binary(max_size=40) | NESTED
)
FIELDS = st.dictionaries(
    st.sampled_from(["format", "classes", "accept", "body", "data", "", "Format"]) | SURROGATES,
    VALUES | st.binary(max_size=40).map(bytearray),
    max_size=5,
)
HEADERS = st.dictionaries(
    st.sampled_from(["accept", "accept-encoding", "content-type", "url_path"]) | SURROGATES, TEXTS, max_size=5
)


@fuzz(examples=1000)
@given(fields=FIELDS, headers=HEADERS, image=st.none() | st.sampled_from(["body", "data"]))
def test_fields_and_headers_of_any_kind(
    fields: dict[str, object], headers: dict[str, str], image: str | None
) -> None:
    if image is not None:
        fields[image] = NEIGHBOUR.fields["body"]
    reply = answer(Request(fields, headers))
    # headers go out as they are
    assert all(f"{name}: {value}".isascii() for name, value in reply.headers.items())
    assert all(value.isprintable() for value in reply.headers.values())


@pytest.mark.parametrize("body", ["\ud800", ["\ud800"], {}, {"a": None}, 7, True, "P1 1 1 1"])
def test_a_body_that_is_json_or_text(body: object) -> None:
    assert answer(Request({"body": body})).status == (200 if body == "P1 1 1 1" else 400)


@pytest.mark.parametrize("wanted", [["png"], {"a": {"b": [1]}}, 7, 1.5, True, b"\xff\xfe", "png\0", "\ud800"])
def test_a_format_and_classes_that_are_no_words(wanted: object) -> None:
    image = NEIGHBOUR.fields["body"]
    assert answer(Request({"body": image, "format": wanted})).status == 406
    assert answer(Request({"body": image, "classes": wanted})).status == 422
