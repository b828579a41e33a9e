"""A JPEG decoded at a fraction of its size is the same photo, and no less an error where it is one."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segserve import jpeg_scans
from segserve.engines import Engine
from segserve.errors import BadImage, ImageTooLarge, RequestError
from segserve.image import decode, read
from segserve.resize import to_input
from segserve.segmenter import Segmenter
from tests.images import UInt8, assert_close, photo, saved
from tests.specs import make_spec

SMALL = (16, 24)  # an input for which the pictures below are reduced


def smooth(height: int, width: int) -> UInt8:
    """Ramps of light in different directions, one a channel."""
    y, x = np.mgrid[0:height, 0:width]
    ramps = [x / width, y / height, (x + y) / (height + width)]
    return (np.stack(ramps, axis=2) * 255).astype(np.uint8)


def jpeg(height: int = 160, width: int = 240, mode: str = "RGB", **options: Any) -> bytes:
    return saved(Image.fromarray(smooth(height, width)).convert(mode), "JPEG", quality=95, **options)


VARIANTS = {
    "baseline": jpeg(),
    "4:4:4": jpeg(subsampling=0),
    "progressive": jpeg(progressive=True),
    "restarts": jpeg(restart_marker_blocks=4),
    "grey": jpeg(mode="L"),
    "CMYK": jpeg(mode="CMYK"),
}


@pytest.mark.parametrize(
    ("height", "width", "input_size", "reduced"),
    [
        (960, 1280, (240, 320), 2),
        (640, 854, (240, 320), 2),
        (640, 853, (240, 320), 1),  # fewer than 4/3 of the columns that the network sees would be left
        (1920, 2560, (240, 320), 4),
        (3840, 5120, (240, 320), 8),
        (300, 400, (240, 320), 1),
        (30, 40, (240, 320), 1),
        (639, 639, (240, 320), 1),
        (960, 960, (240, 320), 2),
        (16, 5000, (64, 64), 8),
        (1, 5000, (64, 64), 1),
    ],
)
def test_no_more_pixels_than_the_input_needs(
    height: int, width: int, input_size: tuple[int, int], reduced: int
) -> None:
    data = saved(Image.new("RGB", (width, height), (10, 200, 30)), "JPEG")
    got = read(data, input_size=input_size)
    assert (got.height, got.width, got.reduced) == (height, width, reduced)
    assert got.upright().shape == (-(-height // reduced), -(-width // reduced), 3)
    assert read(data).reduced == 1


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("input_size", [(16, 24), (20, 20), (40, 30)])
def test_the_input_is_that_of_the_whole_photo(name: str, input_size: tuple[int, int]) -> None:
    reduced = read(VARIANTS[name], input_size=input_size)
    assert reduced.reduced in (4, 8)
    whole, placed = to_input(read(VARIANTS[name]), *input_size)
    small, placed_alike = to_input(reduced, *input_size)
    assert placed == placed_alike
    assert_close(small, whole, tolerance=2)


@pytest.mark.parametrize(("height", "width"), [(161, 241), (163, 243), (165, 245), (167, 247)])
def test_sides_that_are_no_multiple_of_the_reduction_move_nothing(height: int, width: int) -> None:
    """The ramps' last rows and columns would show a shift by a part of a pixel: a step is 6 to 10 levels here."""
    data = jpeg(height, width, subsampling=0)
    reduced = read(data, input_size=SMALL)
    assert reduced.reduced == 4
    whole, _ = to_input(read(data), *SMALL)
    small, _ = to_input(reduced, *SMALL)
    assert_close(small, whole, tolerance=2)


def test_the_first_picture_of_several_is_reduced() -> None:
    pictures = [Image.fromarray(photo(160, 240)), Image.new("RGB", (240, 160))]
    data = saved(pictures[0], "MPO", quality=100, subsampling=0, save_all=True, append_images=pictures[1:])
    assert Image.open(io.BytesIO(data)).format == "MPO"
    got = read(data, input_size=SMALL)
    assert got.reduced == 4
    assert_close(got.upright(), photo(40, 60), tolerance=3)


# --- errors -------------------------------------------------------------------------------------------------


def outcome(data: bytes, input_size: tuple[int, int] | None) -> str:
    try:
        read(data, input_size=input_size)
    except RequestError as error:
        return f"{error.status}: {error}"
    return "decoded"


@pytest.mark.parametrize("name", VARIANTS)
def test_a_file_cut_anywhere_is_the_same_error(name: str) -> None:
    data = VARIANTS[name]
    assert outcome(data, SMALL) == outcome(data, None) == "decoded"
    for end in {*range(len(data) - 40, len(data)), *range(3, len(data), len(data) // 50)}:
        cut = data[:end]
        assert outcome(cut, SMALL) == outcome(cut, None)
        assert outcome(cut, SMALL).startswith("400: the JPEG image is corrupt or cut short"), end


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(VARIANTS)),
    edits=st.lists(st.tuples(st.integers(2, 2**16), st.integers(0, 255)), min_size=1, max_size=4),
)
def test_a_damaged_file_is_refused_at_every_size_or_at_none(name: str, edits: list[tuple[int, int]]) -> None:
    data = bytearray(VARIANTS[name])
    for position, value in edits:
        data[position % len(data)] = value
    whole = outcome(bytes(data), None)
    # a damaged header may declare other sides, so that there is nothing to reduce: the same must hold
    assert (outcome(bytes(data), SMALL) == "decoded") == (whole == "decoded")


def test_limits_are_those_of_the_whole_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(160, 240, progressive=True)
    with pytest.raises(ImageTooLarge, match="38,400 pixels, 38,399 are"):
        read(data, max_pixels=38_399, input_size=SMALL)
    monkeypatch.setattr(jpeg_scans, "MAX_SCANNED_PIXELS", 160 * 240 * 3)
    with pytest.raises(BadImage, match="goes over its 38,400 pixels more than 3 times"):
        read(data, input_size=SMALL)


# --- the served path ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "reduced"), [(80, False), (640, True)])
def test_a_kept_photo_has_all_pixels_and_changes_nothing_else(height: int, reduced: bool) -> None:
    segmenter = Segmenter(make_spec(), cast("Engine", None))  # nothing is inferred here
    data = jpeg(height, 80)
    assert (read(data, input_size=(64, 64)).reduced > 1) == reduced
    without, kept = segmenter.prepare(data), segmenter.prepare(data, with_photo=True)
    assert without.photo is None
    np.testing.assert_array_equal(kept.photo, decode(data))
    np.testing.assert_array_equal(kept.input_hwc, without.input_hwc)
    assert kept.geometry == without.geometry
    assert (kept.geometry.photo_height, kept.geometry.photo_width) == (height, 80)


def test_decoding_side_by_side_changes_nothing() -> None:
    """Good, broken and too large files under two limits, in more threads than cores."""
    files = [*VARIANTS.values(), jpeg()[:-700], b"words", saved(photo(), "PNG"), jpeg(320, 240)]
    jobs = [(data, limit) for data in files * 6 for limit in (50_000, 10**6)]

    def attempt(job: tuple[bytes, int]) -> bytes | str:
        try:
            return read(job[0], job[1], SMALL).upright().tobytes()
        except RequestError as error:
            return str(error)

    before = Image.MAX_IMAGE_PIXELS
    alone = [attempt(job) for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(attempt, jobs)) == alone
    assert before == Image.MAX_IMAGE_PIXELS
    assert sum(isinstance(answer, str) for answer in alone) == 6 * 5
