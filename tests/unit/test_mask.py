"""Label maps equal torch's upsample + argmax, ties included; letterbox bars never reach the photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from segserve.geometry import Geometry
from segserve.mask import label_map

Logits = NDArray[np.float32]

# Where torch's kernel fuses multiply and add, as this one does everywhere.
exact = pytest.mark.skipif(
    torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="torch rounds twice on this processor"
)


def smooth(rng: np.random.Generator, num_classes: int, height: int, width: int) -> Logits:
    """Logits with regions, as a network gives them, rather than noise."""
    coarse = torch.from_numpy(rng.normal(size=(1, num_classes, 5, 6)).astype(np.float32)) * 4
    fine: Logits = functional.interpolate(coarse, (height, width), mode="bicubic")[0].numpy()
    return fine


def upsampled(logits_chw: Logits, height: int, width: int, align: bool) -> torch.Tensor:
    logits = torch.from_numpy(logits_chw)[None]
    return functional.interpolate(logits, (height, width), mode="bilinear", align_corners=align)[0]


def torch_labels(logits_chw: Logits, height: int, width: int, align: bool) -> NDArray[np.uint8]:
    return upsampled(logits_chw, height, width, align).argmax(0).numpy().astype(np.uint8)


def without_bars(height: int, width: int) -> Geometry:
    return Geometry(height, width, 480, 480, 0, 0, 480, 480)


def some_size(rng: np.random.Generator, num_classes: int) -> tuple[int, int]:
    """Of a photo: mostly larger than the map, sometimes smaller; never where torch uses its other kernel."""
    most = 700 if num_classes < 20 else 260
    while True:
        height, width = (int(side) for side in rng.integers(1, most, 2))
        if height + width > 128:
            return height, width


@exact
@pytest.mark.parametrize("num_classes", [1, 2, 11, 150, 255])
@pytest.mark.parametrize("kind", ["smooth", "noise", "halves", "whole", "few levels", "all equal"])
@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_every_pixel_equals_torch(num_classes: int, kind: str, dtype: type[np.floating]) -> None:
    """Six sizes each way of aligning; in the last four kinds, ties and near ties are everywhere."""
    rng = np.random.default_rng(num_classes)
    for case in range(12):
        map_height, map_width = (int(side) for side in rng.integers(1, 62, 2))
        logits_chw = smooth(rng, num_classes, map_height, map_width)
        if kind == "noise":
            logits_chw = rng.normal(size=logits_chw.shape).astype(np.float32)
        step = {"halves": 0.5, "whole": 1.0, "few levels": 4.0, "all equal": 1e6}.get(kind)
        if step is not None:
            logits_chw = np.round(logits_chw / step) * np.float32(step)
        logits_chw = (logits_chw - 3).astype(dtype)
        photo = some_size(rng, num_classes)
        got = label_map(logits_chw, without_bars(*photo), case % 2 == 0)
        expected = torch_labels(logits_chw.astype(np.float32), *photo, case % 2 == 0)
        np.testing.assert_array_equal(got, expected, f"{logits_chw.shape} to {photo}")


@exact
def test_a_large_photo_equals_torch() -> None:
    """Cells wider than what the kernel does at a time, and a map of one row, one column, one point."""
    rng = np.random.default_rng(7)
    for size, photo in (
        ((9, 8), (700, 1201)),
        ((1, 5), (333, 900)),
        ((6, 1), (1000, 257)),
        ((1, 1), (1, 300)),
    ):
        logits_chw = rng.normal(size=(12, *size)).astype(np.float32)
        for align in (True, False):
            got = label_map(logits_chw, without_bars(*photo), align)
            np.testing.assert_array_equal(got, torch_labels(logits_chw, *photo, align))


@pytest.mark.parametrize("align", [True, False])
@pytest.mark.parametrize(
    ("num_classes", "photo"), [(3, (300, 401)), (11, (64, 64)), (150, (33, 40)), (5, (1, 1))]
)
def test_torch_s_other_kernel_differs_in_rounding_only(
    num_classes: int, photo: tuple[int, int], align: bool
) -> None:
    """For 3 classes and small outputs: where a label differs, torch's own values are equal but for rounding."""
    rng = np.random.default_rng(num_classes)
    for step in (None, 0.5):
        logits_chw = smooth(rng, num_classes, 30, 31)
        if step is not None:
            logits_chw = (np.round(logits_chw / step) * step).astype(np.float32)
        values = upsampled(logits_chw, *photo, align).numpy()
        got = label_map(logits_chw, without_bars(*photo), align)
        ours = np.take_along_axis(values, got[None].astype(np.int64), 0)[0]
        assert (values.max(0) - ours <= 2e-6 * np.abs(values).max()).all()
        assert np.count_nonzero(got != values.argmax(0)) <= got.size * 0.02


def test_other_layouts_and_types_count_as_the_same_numbers() -> None:
    logits_chw = smooth(np.random.default_rng(3), 11, 20, 30)
    expected = label_map(logits_chw, without_bars(200, 210), True)
    channels_last = np.ascontiguousarray(logits_chw.transpose(1, 2, 0)).transpose(2, 0, 1)
    assert not channels_last.flags.c_contiguous
    np.testing.assert_array_equal(label_map(channels_last, without_bars(200, 210), True), expected)
    in_a_batch = np.stack([logits_chw * 0, logits_chw])[1]
    np.testing.assert_array_equal(label_map(in_a_batch, without_bars(200, 210), True), expected)


def test_ties_go_to_the_lowest_class() -> None:
    logits_chw = np.zeros((4, 6, 6), np.float32)
    assert not label_map(logits_chw, Geometry.letterbox(50, 50, 48, 48), True).any()
    logits_chw[1:3] = 1.0
    assert (label_map(logits_chw, Geometry.letterbox(50, 50, 48, 48), True) == 1).all()


def test_logits_that_are_no_numbers_give_some_class() -> None:
    for value in (np.nan, np.inf, -np.inf):
        logits_chw = np.full((5, 6, 7), value, np.float32)
        assert label_map(logits_chw, Geometry.letterbox(50, 60, 48, 48), True).max() < 5


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


@exact
@pytest.mark.parametrize("align", [True, False])
def test_a_letterbox_is_undone_as_documented(align: bool) -> None:
    """Photo pixel -> content -> map by the formulas, in float64, and torch's own sampling there."""
    geometry = Geometry.letterbox(300, 600, 384, 384)
    assert (geometry.top, geometry.content_height) == (96, 192)
    logits_chw = smooth(np.random.default_rng(1), 9, 48, 48)
    labels = label_map(logits_chw, geometry, align)
    rows = torch.arange(300, dtype=torch.float64)
    # photo row -> input row -> map row, as documented
    map_rows = (
        96 * 47 / 383 + rows * (191 / 299 * 47 / 383) if align else (rows + 0.5) * 192 / 300 / 8 + 12 - 0.5
    )
    columns = torch.arange(600, dtype=torch.float64)
    map_columns = columns * 47 / 599 if align else (columns + 0.5) * 48 / 600 - 0.5
    grid = torch.stack(torch.meshgrid(map_columns * 2 / 47 - 1, map_rows * 2 / 47 - 1, indexing="xy"), dim=-1)
    sampled = functional.grid_sample(
        torch.from_numpy(logits_chw)[None].double(), grid[None], padding_mode="border", align_corners=True
    )
    assert np.count_nonzero(labels != sampled[0].argmax(0).numpy()) <= 2
