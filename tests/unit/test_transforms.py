"""Augmentation keeps photo and label together, pads with the ignore label and is a function of its generator."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import UsageError
from training import transforms
from training.transforms import Augmentation, Placement

IGNORE = 255
STILL = Augmentation(1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0)
GEOMETRIC = Augmentation(blur_probability=0, brightness=0, contrast=0, saturation=0, hue_degrees=0)
COLOURS = np.array([[250, 10, 20], [20, 240, 30], [30, 20, 230], [240, 230, 20], [10, 220, 240]], np.uint8)


def painted(height: int, width: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A label map of large blocks without any symmetry, and a photo in which the colour tells the class."""
    cells = np.random.default_rng(seed).integers(0, len(COLOURS), (4, 5), dtype=np.uint8)
    label = np.asarray(Image.fromarray(cells).resize((width, height), Image.Resampling.NEAREST))
    return COLOURS[label], label


def interior(label: NDArray[np.uint8], margin: int) -> NDArray[np.bool_]:
    """Pixels whose neighbourhood of `margin` pixels lies in the crop and has one label."""
    windows = np.lib.stride_tricks.sliding_window_view(label, (2 * margin + 1, 2 * margin + 1))
    return np.pad(windows.min(axis=(2, 3)) == windows.max(axis=(2, 3)), margin)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(40, 260),
    width=st.integers(40, 260),
    crop=st.integers(48, 130),
)
def test_photo_and_label_stay_aligned(seed: int, height: int, width: int, crop: int) -> None:
    photo, label = painted(height, width)
    rng = np.random.default_rng(seed)
    got, got_label = transforms.augment(rng, photo, label, crop, crop + 17, GEOMETRIC, IGNORE)
    assert got.shape == (crop, crop + 17, 3)
    assert got_label.shape == (crop, crop + 17)
    assert got.dtype == got_label.dtype == np.uint8
    # bilinear enlargement blends over half of the scale on each side of an edge, the rotation over one pixel more
    inside = interior(got_label, 1 + math.ceil(max(1.0, min(crop / height, (crop + 17) / width))))
    classes = got_label[inside]
    expected = np.vstack([COLOURS, np.zeros((251, 3), np.uint8)])
    expected[IGNORE] = transforms.PADDING
    difference = np.abs(got[inside].astype(int) - expected[classes])
    assert difference.max(initial=0) <= 2, "a pixel's colour is not the colour of its label"


def test_every_kind_of_placement_occurs_and_pads_with_ignore() -> None:
    photo, label = painted(120, 160)
    padded = cropped = 0
    for seed in range(30):
        rng = np.random.default_rng(seed)
        got, got_label = transforms.augment(rng, photo, label, 90, 120, GEOMETRIC, IGNORE)
        outside = interior(got_label, 2) & (got_label == IGNORE)
        assert (got[outside] == transforms.PADDING).all()
        padded += bool(outside.any())
        cropped += not outside.any()
    assert padded >= 5
    assert cropped >= 5


def test_nothing_to_do_returns_photo_and_label_unchanged() -> None:
    photo, label = painted(90, 120)
    got, got_label = transforms.augment(np.random.default_rng(1), photo, label, 90, 120, STILL, IGNORE)
    np.testing.assert_array_equal(got, photo)
    np.testing.assert_array_equal(got_label, label)


def test_flip_mirrors_both() -> None:
    photo, label = painted(90, 120)
    limits = replace(STILL, flip_probability=1)
    got, got_label = transforms.augment(np.random.default_rng(1), photo, label, 90, 120, limits, IGNORE)
    np.testing.assert_array_equal(got, photo[:, ::-1])
    np.testing.assert_array_equal(got_label, label[:, ::-1])


@pytest.mark.parametrize("angle_degrees", [-10.0, 10.0])
def test_rotation_turns_around_the_centre_and_fills_corners(angle_degrees: float) -> None:
    label = np.zeros((101, 101), np.uint8)
    label[50, 50:] = 1  # a ray from the centre to the right
    placement = Placement(101, 101, 101, 101, 0, 0, math.radians(angle_degrees), flip=False)
    got = transforms.place_label(label, placement, 101, 101, IGNORE)
    assert [got[0, 0], got[0, 100], got[100, 0], got[100, 100]] == [IGNORE] * 4
    rows, columns = np.nonzero(got == 1)
    far = columns > 80
    measured = math.degrees(math.atan2(float(np.mean(rows[far] - 50)), float(np.mean(columns[far] - 50))))
    assert measured == pytest.approx(angle_degrees, abs=0.7)  # clockwise where y points down
    photo = np.full((101, 101, 3), 200, np.uint8)
    seen, origin = transforms.visible_content(photo, placement, 101, 101)
    turned = transforms.place_photo(seen, origin, placement, 101, 101)
    assert (turned[0, 0] == transforms.PADDING).all()
    assert (turned[50, 50] == 200).all()


@pytest.mark.parametrize("crop", [(120, 160), (64, 48), (200, 300)])
def test_scale_one_is_the_letterbox_that_is_served(crop: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for height, width in ((100, 400), (400, 100), (333, 250)):
        placement = transforms.draw_placement(rng, height, width, *crop, STILL, input_size=(120, 160))
        scale = min(120 / height, 160 / width)
        assert (placement.content_height, placement.content_width) == (
            round(height * scale),
            round(width * scale),
        )
        rooms = crop[0] - placement.content_height, crop[1] - placement.content_width
        for offset, room in zip((placement.top, placement.left), rooms, strict=True):
            assert min(0, room) <= offset <= max(0, room)


def test_scale_one_is_the_letterbox_to_the_crop_if_no_other_size_is_given() -> None:
    placement = transforms.draw_placement(np.random.default_rng(0), 100, 400, 120, 160, STILL)
    assert (placement.content_height, placement.content_width) == (40, 160)


def test_large_photo_is_shrunk_without_aliasing() -> None:
    stripes = np.zeros((800, 800, 3), np.uint8)
    stripes[:, ::2] = 255
    label = np.zeros((800, 800), np.uint8)
    got, _ = transforms.augment(np.random.default_rng(0), stripes, label, 100, 100, STILL, IGNORE)
    assert np.abs(got[2:-2, 2:-2].astype(int) - 127).max() <= 8  # even grey, no stripes of another frequency


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 3000), (3000, 1), (7, 2)])
def test_photos_of_any_shape(height: int, width: int) -> None:
    photo = np.full((height, width, 3), 90, np.uint8)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        got, label = transforms.augment(
            rng, photo, np.zeros((height, width), np.uint8), 64, 48, GEOMETRIC, IGNORE
        )
        assert got.shape == (64, 48, 3)
        assert set(np.unique(label)) <= {0, IGNORE}


def test_colour_leaves_label_and_padding_alone_and_stays_in_range() -> None:
    photo, label = painted(60, 160)
    limits = replace(STILL, brightness=0.3, contrast=0.3, saturation=0.3, hue_degrees=10)
    first, first_label = transforms.augment(np.random.default_rng(3), photo, label, 160, 160, limits, IGNORE)
    second, second_label = transforms.augment(
        np.random.default_rng(4), photo, label, 160, 160, limits, IGNORE
    )
    for got, got_label in ((first, first_label), (second, second_label)):
        outside = got_label == IGNORE
        assert (got[outside] == transforms.PADDING).all()
        assert outside.sum() == 100 * 160
    assert (first[first_label != IGNORE].mean(0) != second[second_label != IGNORE].mean(0)).all()


@pytest.mark.parametrize(
    ("changed", "check"),
    [
        ({"brightness": 1.0}, lambda pixel, was: np.ptp(pixel / was) < 0.05),  # one factor for all channels
        ({"saturation": 1.0}, lambda pixel, was: abs((pixel - was) @ transforms.LUMA) < 2),  # grey stays
    ],
)  # fmt: skip
def test_colour_formulas(changed: dict[str, float], check: object) -> None:
    assert callable(check)
    colour = np.array([100, 120, 90], np.uint8)
    photo = Image.fromarray(np.tile(colour, (8, 8, 1)))
    for seed in range(10):
        got = transforms.jitter_colour(np.random.default_rng(seed), photo, replace(STILL, **changed))
        pixel = np.asarray(got)[4, 4].astype(float)
        assert check(pixel, colour.astype(float))


@pytest.mark.parametrize(
    "one", [{"brightness": 0.5}, {"contrast": 0.5}, {"saturation": 0.5}, {"hue_degrees": 40.0}]
)
def test_each_colour_option_changes_a_photo_and_by_chance(one: dict[str, float]) -> None:
    photo, _ = painted(16, 20)
    limits = replace(STILL, **one)
    shots = [
        np.asarray(transforms.jitter_colour(np.random.default_rng(seed), Image.fromarray(photo), limits))
        for seed in range(5)
    ]
    assert all(np.abs(shot.astype(int) - photo).max() > 0 for shot in shots)
    assert max(np.abs(shot.astype(int) - photo).max() for shot in shots) > 30
    assert len({shot.tobytes() for shot in shots}) == 5


def test_grey_has_no_hue_or_saturation_to_change() -> None:
    photo = Image.fromarray(np.full((8, 8, 3), 77, np.uint8))
    limits = replace(STILL, saturation=1.0, hue_degrees=90)
    got = np.asarray(transforms.jitter_colour(np.random.default_rng(5), photo, limits))
    assert np.abs(got.astype(int) - 77).max() <= 1


def test_blur_spreads_a_point_and_keeps_its_energy() -> None:
    photo = np.zeros((31, 31, 3), np.uint8)
    photo[15, 15] = 255
    limits = replace(STILL, blur_probability=1, blur_sigma_max=2.0)
    got = np.asarray(transforms.blur(np.random.default_rng(2), Image.fromarray(photo), limits)).astype(int)
    assert 0 < got[15, 15, 0] < 255
    assert got[15, 14, 0] > 0
    assert got[..., 0].sum() == pytest.approx(255, rel=0.1)


def test_same_generator_same_crop() -> None:
    photo, label = painted(120, 160)
    crops = [
        transforms.augment(np.random.default_rng(seed), photo, label, 64, 64, Augmentation(), IGNORE)
        for seed in (9, 9, 10)
    ]
    np.testing.assert_array_equal(crops[0][0], crops[1][0])
    np.testing.assert_array_equal(crops[0][1], crops[1][1])
    assert (crops[0][0] != crops[2][0]).any()


@pytest.mark.parametrize(
    "wrong", [{"scale_min": 0.0}, {"scale_min": 3.0}, {"flip_probability": 1.5}, {"rotation_degrees": 90.0}]
)
def test_wrong_ranges_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong)).split("_")[0]):
        Augmentation(**wrong)
