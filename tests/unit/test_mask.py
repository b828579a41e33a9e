"""Label maps equal torch's upsample + argmax; letterbox bars never reach the photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from segserve.geometry import PAD_VALUE, Geometry, to_input
from segserve.mask import label_map


def smooth_logits(num_classes: int, height: int, width: int, seed: int) -> NDArray[np.float32]:
    """Logits with regions, as a network gives them, rather than noise."""
    coarse = torch.randn(1, num_classes, 5, 6, generator=torch.Generator().manual_seed(seed)) * 4
    fine = functional.interpolate(coarse, (height, width), mode="bicubic")[0]
    return fine.numpy()


def torch_labels(logits_chw: NDArray[np.float32], height: int, width: int, align: bool) -> NDArray[np.uint8]:
    logits = torch.from_numpy(logits_chw)[None]
    full = functional.interpolate(logits, (height, width), mode="bilinear", align_corners=align)
    return full.argmax(1)[0].numpy().astype(np.uint8)


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("photo", [(480, 480), (721, 721), (33, 33), (1, 1)])
@pytest.mark.parametrize("num_classes", [1, 2, 11, 150])
def test_equals_torch(num_classes: int, photo: tuple[int, int], align: bool) -> None:
    logits_chw = smooth_logits(num_classes, 47, 47, seed=num_classes)
    geometry = Geometry.letterbox(*photo, 376, 376)
    got = label_map(logits_chw, geometry, align)
    assert got.shape == photo
    # float32 may be summed in another order: a handful of pixels on a boundary, no more
    assert np.count_nonzero(got != torch_labels(logits_chw, *photo, align)) <= got.size * 1e-5


@pytest.mark.parametrize("align", [True, False])
def test_noise_has_no_uniform_cells_and_still_agrees(align: bool) -> None:
    logits_chw = np.random.default_rng(0).normal(size=(20, 12, 12)).astype(np.float32)
    got = label_map(logits_chw, Geometry.letterbox(96, 96, 96, 96), align)
    assert np.count_nonzero(got != torch_labels(logits_chw, 96, 96, align)) <= 1


def test_ties_go_to_the_lowest_class() -> None:
    logits_chw = np.zeros((4, 6, 6), np.float32)
    assert not label_map(logits_chw, Geometry.letterbox(50, 50, 48, 48), True).any()
    logits_chw[1:3] = 1.0
    assert (label_map(logits_chw, Geometry.letterbox(50, 50, 48, 48), True) == 1).all()


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize("photo", [(300, 600), (600, 300), (200, 600)])
def test_bars_are_cut_off(photo: tuple[int, int], align: bool) -> None:
    """Class 1 fills the bars' cells only: none of it may show but at the very border of the content."""
    geometry = Geometry.letterbox(*photo, 384, 384)
    logits_chw = np.zeros((2, 48, 48), np.float32)
    rows = slice(-(-geometry.top // 8) + 1, (geometry.top + geometry.content_height) // 8 - 1)
    columns = slice(-(-geometry.left // 8) + 1, (geometry.left + geometry.content_width) // 8 - 1)
    logits_chw[1] = 1.0
    logits_chw[:, rows, columns] = np.array([1.0, 0.0], np.float32)[:, None, None]
    labels = label_map(logits_chw, geometry, align)
    middle = labels[photo[0] // 5 : -photo[0] // 5, photo[1] // 5 : -photo[1] // 5]
    assert (middle == 0).all()


@pytest.mark.parametrize("align", [True, False])
def test_photo_maps_back_onto_itself(align: bool) -> None:
    """A step in the photo comes back at the same place, in x and in y, through padding and scale."""
    photo = np.zeros((400, 1000, 3), np.uint8)
    photo[250:, :] = 255
    input_hwc, geometry = to_input(photo, 256, 320)
    grey = input_hwc[..., 0].astype(np.float32)
    # a "network" of stride 1: the input's own brightness as the logits of class 1
    content = slice(geometry.top, geometry.top + geometry.content_height)
    assert geometry.content_height == 128
    grey[: content.start], grey[content.stop :] = 0, 255
    labels = label_map(np.stack([np.full_like(grey, 127.0), grey]), geometry, align)
    edge = np.argmax(labels[:, 500])
    assert abs(int(edge) - 250) <= 2


def test_letterbox_centres_and_pads() -> None:
    photo = np.full((100, 200, 3), 9, np.uint8)
    input_hwc, geometry = to_input(photo, 64, 64)
    assert (geometry.top, geometry.left, geometry.content_height, geometry.content_width) == (16, 0, 32, 64)
    assert (input_hwc[16:48] == 9).all()
    assert (input_hwc[:16] == PAD_VALUE).all()
    assert (input_hwc[48:] == PAD_VALUE).all()


def test_extreme_shapes_keep_a_pixel() -> None:
    input_hwc, geometry = to_input(np.full((1, 5000, 3), 7, np.uint8), 64, 48)
    assert geometry.content_height == 1
    assert (input_hwc == 7).any()
    assert label_map(np.zeros((3, 8, 6), np.float32), geometry, True).shape == (1, 5000)
