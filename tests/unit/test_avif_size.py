"""The pixels of an AVIF are those of the AV1 data inside, whatever the container says of them."""

from __future__ import annotations

import contextlib
import struct
import time

import numpy as np
import pytest
from PIL import Image

from segserve import avif_size
from segserve.errors import BadImage, ImageTooLarge
from segserve.image import decode
from tests.images import photo, saved

LARGE = 600


def declaring(data: bytes, width: int, height: int) -> bytes:
    """With every size that the container names replaced: those of items, and those of tracks."""
    changed = bytearray(data)
    for kind, behind, one in ((b"ispe", 8, 1), (b"tkhd", 92, 1 << 16)):
        at = changed.find(kind)
        while at >= 0:
            changed[at + behind : at + behind + 8] = struct.pack(">II", width * one, height * one)
            at = changed.find(kind, at + 1)
    return bytes(changed)


def box(kind: bytes, *bodies: bytes) -> bytes:
    body = b"".join(bodies)
    return struct.pack(">I", 8 + len(body)) + kind + body


def located(iloc: bytes, payload: bytes, *more: bytes, infe: bytes = b"\2\0\0\0\0\1\0\0av01\0") -> bytes:
    """An AVIF of one item as far as its data can be found; they start at byte 24."""
    iinf = box(b"iinf", bytes(4), b"\0\1", box(b"infe", infe))
    meta = box(b"meta", bytes(4), iinf, box(b"iloc", iloc), *more)
    return box(b"ftyp", b"avif", bytes(4)) + box(b"mdat", payload) + meta


def obu(kind: int, bits: str) -> bytes:
    body = int(bits.ljust(-(-len(bits) // 8) * 8, "0"), 2).to_bytes(-(-len(bits) // 8), "big")
    return bytes([kind << 3 | 2, len(body)]) + body


def sequence_header(width: int, height: int, full: bool = False, tools: str = "0" + "0" * 8 + "11") -> bytes:
    """An OBU: the short header of a still picture, or one with all that may stand before the size, and behind it."""
    bits = "000" + "1" + "1" + "00000"
    if full:
        bits = "000" + "0" + "0"
        bits += "1" + "0" * 64 + "0" + "1" + "00101" + "0" * 37 + "01000"  # timing: 6 bits a delay, 9 a time
        bits += "1" + "00001"  # display delays, two operating points
        bits += "0" * 12 + "01000" + "1" + "1" + "0" * 13 + "1" + "0000"
        bits += "0" * 12 + "00111" + "0" + "0"
    bits += "1101" * 2 + f"{width - 1:014b}{height - 1:014b}"
    return b"\x12\0" + obu(1, bits + tools if full else bits)


@pytest.mark.parametrize("animated", [False, True])
def test_a_container_cannot_make_a_large_picture_small(animated: bool) -> None:
    frames = [Image.new("RGB", (LARGE, LARGE), colour) for colour in ("red", "green")]
    data = saved(frames[0], "AVIF", save_all=animated, append_images=frames[1:] if animated else [])
    message = r"picture inside the AVIF has 360,000 pixels, 359,999 are allowed; scale it down"
    with pytest.raises(ImageTooLarge, match=message) as raised:
        decode(declaring(data, 16, 16), max_pixels=LARGE * LARGE - 1)
    assert raised.value.status == 413
    assert decode(data, max_pixels=LARGE * LARGE).shape == (LARGE, LARGE, 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_first_frame_of_a_track_is_found(mode: str) -> None:
    frames = [Image.new(mode, (LARGE, LARGE), colour) for colour in ("red", "green")]
    data = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    only_tracks = data.replace(b"meta", b"skip", 1)
    with pytest.raises(ImageTooLarge, match="360,000 pixels"):
        avif_size.check(only_tracks, LARGE * LARGE - 1)
    avif_size.check(only_tracks, LARGE * LARGE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_honest_ones_are_measured_exactly(mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 53, 4), np.uint8)
    data = saved(Image.fromarray(noise).convert(mode), "AVIF")
    assert decode(data, max_pixels=37 * 53).shape == (37, 53, 3)
    with pytest.raises(ImageTooLarge):
        avif_size.check(data, 37 * 53 - 1)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("version", [0, 1, 2])
def test_wherever_the_data_lie_they_are_found(version: int, full: bool) -> None:
    payload = sequence_header(9_000, 8_000, full)
    head = bytes([version, 0, 0, 0, 0x44, 0x40])
    number = ">I" if version == 2 else ">H"
    item = struct.pack(number, 1) * 2 + (b"\0\0" if version else b"")
    halves = struct.pack(">IIII", 3, 7, 10, len(payload) - 7)  # behind the base, 21
    data = located(head + item + struct.pack(">HIH", 0, 21, 2) + halves, payload)
    with pytest.raises(ImageTooLarge, match="72,000,000 pixels"):
        avif_size.check(data, 71_999_999)
    avif_size.check(data, 72_000_000)


ID_OF_8_BITS = "1" + "0011" + "010"
ORDER = "1" + "00"
SHOWN_KEY = "0" + "00" + "1" + "111111111" + "0"
HIDDEN_KEY = "0" + "00" + "0" + "1" + "0" + "0"
SWITCH = "0" + "11" + "1" + "111111111" + "0"


@pytest.mark.parametrize(
    ("tools", "frame", "own"),
    [
        ("0" + "0" * 8 + "11", SHOWN_KEY + "0" + "1", True),
        ("0" + "0" * 8 + "11", SHOWN_KEY + "0" + "0" + "1", False),
        ("0" + "0" * 8 + "11", SHOWN_KEY + "1" + "1" + "0", False),
        ("0" + "0" * 8 + "11", HIDDEN_KEY + "1" + "0" + "1", True),
        ("0" + "0" * 8 + "00", SHOWN_KEY + "1", True),
        ("0" + "0" * 8 + "0100", SHOWN_KEY + "0" + "1", False),
        ("0" + "0" * 7 + ORDER + "11", SHOWN_KEY + "0" + "1", True),
        (ID_OF_8_BITS + "0" * 8 + "11", SHOWN_KEY + "0" + "1" * 8 + "0" * 8, False),
        (ID_OF_8_BITS + "0" * 8 + "11", SHOWN_KEY + "0" + "0" * 8 + "1", True),
        ("0" + "0" * 8 + "11", SWITCH + "0", True),
        ("0" + "0" * 8 + "11", "1" * 60, False),  # a frame that is shown again
    ],
)
@pytest.mark.parametrize("kind", [3, 6])
def test_a_frame_with_a_size_of_its_own_counts_as_the_largest(
    tools: str, frame: str, own: bool, kind: int
) -> None:
    payload = sequence_header(9, 9, True, tools) + obu(2, "0") + obu(kind, frame)
    iloc = b"\0\0\0\0\x44\0" + struct.pack(">HHHHII", 1, 1, 0, 1, 24, len(payload))
    if not own:
        avif_size.check(located(iloc, payload), 81)
        return
    with pytest.raises(ImageTooLarge, match="268,435,456 pixels"):
        avif_size.check(located(iloc, payload), 64_000_000)


def test_data_inside_the_directory_are_found() -> None:
    payload = sequence_header(9_000, 8_000)
    iloc = b"\1\0\0\0\x44\0" + struct.pack(">HHHHHII", 1, 1, 1, 0, 1, 0, len(payload))
    data = located(iloc, b"", box(b"idat", payload))
    with pytest.raises(ImageTooLarge, match="72,000,000 pixels"):
        avif_size.check(data, 64_000_000)
    not_coded = located(iloc, b"", box(b"idat", payload), infe=b"\2\0\0\0\0\1\0\0Exif\0")
    avif_size.check(not_coded, 64_000_000)


def test_many_pictures_may_not_be_too_large_together() -> None:
    payload = sequence_header(100, 100) * 5
    iloc = b"\0\0\0\0\x44\0" + struct.pack(">HHHHII", 1, 1, 0, 1, 24, len(payload))
    avif_size.check(located(iloc, payload), 12_500)
    with pytest.raises(ImageTooLarge, match="5 pictures inside the AVIF have 50,000 pixels together, 49,996"):
        avif_size.check(located(iloc, payload), 12_499)


@pytest.mark.parametrize(
    "data",
    [
        located(b"\0\0\0\0\x44\0" + struct.pack(">HHHHII", 1, 1, 0, 1, 24, 4_000_000), b"\x12\0" * 2_000_000),
        located(b"\0\0\0\0\x44\0" + struct.pack(">HHHH", 1, 1, 0, 9) + struct.pack(">II", 24, 2_000_000) * 9,
                bytes(2_000_000)),
        box(b"ftyp", b"avif", bytes(4)) + box(b"free") * 500_000,
    ],
    ids=["obus", "data that are used often", "boxes"],
)  # fmt: skip
def test_files_that_are_all_structure_are_refused_soon(data: bytes) -> None:
    started_s = time.thread_time()
    with pytest.raises(BadImage, match="too many pieces; save it anew"):
        avif_size.check(data, 64_000_000)
    assert time.thread_time() - started_s < 2


def test_boxes_in_boxes_without_end() -> None:
    data = b""
    for _ in range(3_000):
        data = box(b"moov", data)
    avif_size.check(box(b"ftyp", b"avif") + data, 1_000)  # nothing to find, and no RecursionError


def test_damaged_structure_is_left_to_the_decoder() -> None:
    """Whatever bytes are changed or missing."""
    random = np.random.default_rng(0)
    frames = [Image.fromarray(photo()), Image.fromarray(photo()[::-1])]
    whole = saved(frames[0], "AVIF", save_all=True, append_images=frames[1:])
    for data in (whole, saved(photo(), "AVIF"), located(bytes(14), sequence_header(9, 9, full=True))):
        for _ in range(500):
            damaged = bytearray(data)
            for position in random.integers(0, len(data), 3):
                damaged[position] = random.integers(256)
            del damaged[random.integers(len(data) // 2, 2 * len(data)) :]
            with contextlib.suppress(BadImage, ImageTooLarge):
                avif_size.check(damaged, 1_000)


def test_its_processor_time_is_that_of_its_thread() -> None:
    """By which a file that takes too long is told from a machine that has no time (segserve.decode_pool)."""
    data = saved(np.random.default_rng(0).integers(0, 256, (900, 1200, 3), np.uint8), "AVIF", speed=10)
    process_s, thread_s = time.process_time(), time.thread_time()
    decode(data)
    process_s, thread_s = time.process_time() - process_s, time.thread_time() - thread_s
    assert thread_s > 0.8 * process_s
