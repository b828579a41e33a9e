"""The photo lies centred in the network's input, and what is found there comes back to its place."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from segserve.geometry import Geometry
from segserve.image import Photo, read
from segserve.mask import label_map
from segserve.resize import PAD_VALUE, to_input
from tests.images import UInt8, assert_close, photo, saved, stored_with_orientation


def by_pillow(pixels: UInt8, height: int, width: int) -> UInt8:
    """Pillow's resize of the upright pixels, centred on grey."""
    placed = Geometry.letterbox(pixels.shape[0], pixels.shape[1], height, width)
    bottom, right = placed.top + placed.content_height, placed.left + placed.content_width
    size = (placed.content_width, placed.content_height)
    result = np.full((height, width, 3), PAD_VALUE, np.uint8)
    content = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    result[placed.top : bottom, placed.left : right] = np.asarray(content)
    return result


@pytest.mark.parametrize("size", [(64, 64), (40, 90), (90, 40), (16, 24), (101, 83), (200, 300), (1, 1)])
def test_the_filter_is_pillows(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (101, 83, 3), np.uint8)
    input_hwc, _ = to_input(read(saved(noise, "PNG")), *size)
    np.testing.assert_array_equal(input_hwc, by_pillow(noise, *size))


def test_a_photo_of_the_inputs_own_size_is_not_touched() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (31, 47, 3), np.uint8)
    input_hwc, _ = to_input(read(saved(noise, "PNG")), 31, 47)
    np.testing.assert_array_equal(input_hwc, noise)


@settings(deadline=None)
@given(
    value=st.integers(0, 255),
    sides=st.tuples(*[st.integers(1, 90)] * 4),
    reduced=st.sampled_from([1, 2, 4, 8]),
)
def test_an_even_surface_stays_even(value: int, sides: tuple[int, int, int, int], reduced: int) -> None:
    """Whatever the sizes, and to the last row and column of a reduced photo."""
    height, width, input_height, input_width = sides
    size = (-(-width // reduced), -(-height // reduced))
    even = Photo(Image.new("RGB", size, (value, 0, 255)), None, height, width, reduced)
    input_hwc, placed = to_input(even, input_height, input_width)
    bottom, right = placed.top + placed.content_height, placed.left + placed.content_width
    content = input_hwc[placed.top : bottom, placed.left : right]
    assert (content == (value, 0, 255)).all()
    assert (input_hwc == PAD_VALUE).all(axis=2).sum() >= input_height * input_width - content.size // 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "TIFF"])
def test_a_photo_stored_on_its_side_gives_the_same_input(file_format: str, orientation: int) -> None:
    """Turned after the resize, so that the last bit may differ; the JPEG is large enough to be reduced."""
    upright = np.asarray(Image.fromarray(photo(40, 56)).resize((560, 400), Image.Resampling.BICUBIC))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 100, "subsampling": 0} if file_format == "JPEG" else {}
    stored = read(
        saved(stored_with_orientation(upright, orientation), file_format, exif=exif, **options),
        input_size=(150, 160),
    )
    assert (stored.height, stored.width) == (400, 560)
    assert stored.reduced == (2 if file_format == "JPEG" else 1)
    input_hwc, _ = to_input(stored, 150, 160)
    assert_close(input_hwc, by_pillow(upright, 150, 160), tolerance=5 if file_format == "JPEG" else 1)


@pytest.mark.parametrize("align", [True, False])
def test_photo_maps_back_onto_itself(align: bool) -> None:
    """A step in the photo comes back at the same place, in x and in y, through padding and scale."""
    step = np.zeros((400, 1000, 3), np.uint8)
    step[250:, :] = 255
    input_hwc, geometry = to_input(read(saved(step, "PNG")), 256, 320)
    grey = input_hwc[..., 0].astype(np.float32)
    # a "network" of stride 1: the input's own brightness as the logits of class 1
    content = slice(geometry.top, geometry.top + geometry.content_height)
    assert geometry.content_height == 128
    grey[: content.start], grey[content.stop :] = 0, 255
    labels = label_map(np.stack([np.full_like(grey, 127.0), grey]), geometry, align)
    edge = np.argmax(labels[:, 500])
    assert abs(int(edge) - 250) <= 2


def test_letterbox_centres_and_pads() -> None:
    input_hwc, geometry = to_input(read(saved(np.full((100, 200, 3), 9, np.uint8), "PNG")), 64, 64)
    assert (geometry.top, geometry.left, geometry.content_height, geometry.content_width) == (16, 0, 32, 64)
    assert (input_hwc[16:48] == 9).all()
    assert (input_hwc[:16] == PAD_VALUE).all()
    assert (input_hwc[48:] == PAD_VALUE).all()


def test_extreme_shapes_keep_a_pixel() -> None:
    input_hwc, geometry = to_input(read(saved(np.full((1, 5000, 3), 7, np.uint8), "PNG")), 64, 48)
    assert geometry.content_height == 1
    assert (input_hwc == 7).any()
    assert label_map(np.zeros((3, 8, 6), np.float32), geometry, True).shape == (1, 5000)
