"""Label maps equal torch's upsample + argmax; letterbox bars never reach the photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from segserve.geometry import Geometry
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
