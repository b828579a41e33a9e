"""Boundaries, calibration, confusions; IoU and calibration against torchmetrics, which was written by others."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from training import quality
from training.confusions import pairs, svg
from training.label_sets import NotThese
from training.metrics import ConfusionMatrix
from training.quality import TOLERANCE, BoundaryScore, Calibration, _boundary


@pytest.fixture(scope="module")
def labelled() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels with ignored pixels, and predictions that are right two times in three; class 4 is never labelled."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 4, (3, 40, 50)).astype(np.uint8)
    found = np.where(rng.random(label.shape) < 0.66, label, rng.integers(0, 5, label.shape)).astype(np.uint8)
    label[rng.random(label.shape) < 0.1] = 255
    return label, found


def test_figures_are_those_of_torchmetrics(labelled: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    from torchmetrics.classification import (
        MulticlassAccuracy,
        MulticlassConfusionMatrix,
        MulticlassJaccardIndex,
    )

    label, found = labelled
    matrix = ConfusionMatrix(5)
    matrix.update(label, found)
    scores = matrix.scores()
    arguments = torch.from_numpy(found).long(), torch.from_numpy(label).long()
    theirs = MulticlassConfusionMatrix(5, ignore_index=255)(*arguments)
    np.testing.assert_array_equal(matrix.counts, theirs.numpy())
    iou = MulticlassJaccardIndex(5, average=None, ignore_index=255)(*arguments)
    np.testing.assert_allclose(scores.class_iou, iou.numpy(), atol=1e-6)
    assert scores.miou == pytest.approx(float(iou.mean()), abs=1e-6)
    micro = MulticlassAccuracy(5, average="micro", ignore_index=255)(*arguments)
    assert scores.allacc == pytest.approx(float(micro), abs=1e-6)
    recall = MulticlassAccuracy(5, average=None, ignore_index=255)(*arguments)
    np.testing.assert_allclose(scores.class_accuracy[:4], recall.numpy()[:4], atol=1e-6)
    assert math.isnan(scores.class_accuracy[4])  # torchmetrics says 0 where nothing is labelled


def test_calibration_error_is_that_of_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    generator = torch.Generator().manual_seed(5)
    shown = torch.softmax(3 * torch.randn(4000, 6, generator=generator), dim=1)
    target = torch.randint(0, 6, (4000,), generator=generator)
    target[:2000] = shown[:2000].argmax(dim=1)
    best = shown.max(dim=1)
    mine = Calibration()
    for half in (slice(0, 1500), slice(1500, None)):
        hits = (best.indices == target)[half].numpy()
        mine.update(best.values[half].numpy(), hits, np.ones(len(hits), bool))
    theirs = multiclass_calibration_error(shown, target, num_classes=6, n_bins=15, norm="l1")
    assert mine.error() == pytest.approx(float(theirs), abs=1e-5)
    assert mine.error() > 0.05
    assert sum(row["share"] for row in mine.bins()) == pytest.approx(1)


def test_a_model_that_knows_has_no_calibration_error() -> None:
    calibration = Calibration()
    right = np.arange(1000) < 800
    calibration.update(np.full(1000, 0.8, np.float32), right, np.ones(1000, bool))
    assert calibration.error() == pytest.approx(0, abs=1e-6)
    calibration.update(np.full(1000, 0.8, np.float32), right, np.zeros(1000, bool))  # ignored pixels
    assert calibration.bins() == [pytest.approx({"confidence": 0.8, "accuracy": 0.8, "share": 1.0}, rel=1e-5)]
    assert math.isnan(Calibration().error())


def boundary_f1(label: NDArray[np.uint8], mask: NDArray[np.uint8]) -> tuple[float, ...]:
    score = BoundaryScore(2)
    score.update(label, mask)
    return score.f_scores()


def halves(height: int, width: int, edge: int) -> NDArray[np.uint8]:
    made = np.zeros((height, width), np.uint8)
    made[:, edge:] = 1
    return made


def test_a_boundary_counts_as_found_within_the_tolerance() -> None:
    truth = halves(300, 400, 200)  # diagonal 500: 3.75 pixels
    assert boundary_f1(truth, truth) == (1, 1)
    assert boundary_f1(truth, halves(300, 400, 203)) == (1, 1)
    assert boundary_f1(truth, halves(300, 400, 204)) == (0, 0)
    half = truth.copy()
    half[150:] = halves(150, 400, 260)  # the lower half is wrong, and has a step of its own
    assert 0.3 < boundary_f1(truth, half)[0] < 0.6


@pytest.mark.parametrize("seed", range(6))
def test_boundaries_are_those_of_whole_maps_for_every_class(seed: int) -> None:
    """Counted in the box of each class that is there, as a plain computation counts them."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 7, (5, 6)) * rng.integers(0, 2, (5, 6))
    label = np.kron(cells, np.ones((40, 50))).astype(np.uint8)
    mask = np.roll(label, rng.integers(0, 6, 2), (0, 1))
    mask[60:90, 140:], mask[180:, 280:], label[20:30, 100:] = int(rng.integers(7)), 8, 255
    score = BoundaryScore(9)
    score.update(label, mask)
    near, counted = max(1.0, TOLERANCE * math.hypot(*label.shape)), label != 255
    for k in range(9):
        true, found = (_boundary(values == k, counted) for values in (label, mask))
        to_true, to_found = (
            ndimage.distance_transform_edt(~edge) if edge.any() else np.full(label.shape, np.inf)
            for edge in (true, found)
        )
        expected = [found.sum(), (to_true[found] <= near).sum(), true.sum(), (to_found[true] <= near).sum()]
        assert score.counts[k].tolist() == expected
    assert score.counts[7].sum() == 0


def test_classes_that_are_not_there_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []

    def noted(of_class: NDArray[np.bool_], _counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        sizes.append(of_class.shape)
        return of_class

    monkeypatch.setattr(quality, "_boundary", noted)
    label = np.zeros((300, 400), np.uint8)
    label[100:110, 50:60] = 149
    BoundaryScore(150).update(label, label)
    assert sizes == [(300, 400)] * 2 + [(18, 18)] * 2  # and four pixels on each side


def test_the_edge_of_the_image_and_of_ignored_pixels_is_no_boundary() -> None:
    truth = halves(300, 400, 200)
    truth[:, 190:210] = 255
    assert all(math.isnan(score) for score in boundary_f1(truth, truth[:, :1] * np.ones((1, 400), np.uint8)))
    assert math.isnan(BoundaryScore(2).f_score())


def counted(counts: NDArray[np.int64]) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts += counts
    return matrix


def test_pairs_are_ordered_by_what_they_cost() -> None:
    counts = np.array([[90, 10, 0], [0, 100, 0], [4, 0, 6]])
    first, second = pairs(counted(counts))
    assert (first.first, first.second, first.pixels) == (0, 2, 4)  # fewer pixels, but of a small class
    assert (second.first, second.second) == (0, 1)
    assert second.share == pytest.approx(10 / 210)
    before = (90 / 104 + 100 / 110 + 6 / 10) / 3
    assert first.miou_points == pytest.approx(100 * ((94 - 4) / 100 + 100 / 110 + 1 - 3 * before) / 3)
    assert pairs(counted(np.diag([3, 4]))) == []


def test_a_class_that_is_not_there_is_no_dear_pair() -> None:
    """One pixel is taken for plant, which no label has: mended, plant would be out of the mean."""
    dearest, last = pairs(counted(np.array([[900, 99, 1], [99, 900, 0], [0, 0, 0]])))
    assert (dearest.first, dearest.second) == (0, 1)
    assert (last.first, last.second) == (0, 2)
    assert 0 < last.miou_points < 0.1 < dearest.miou_points


def test_what_pixels_are_not_counts_in_what_a_pair_costs() -> None:
    """254: not floor. Half of these pixels are taken for floor, and stay so when the pair is mended."""
    matrix = ConfusionMatrix(2, 255, (NotThese(254, (1,)),))
    matrix.update(np.array([1] * 100 + [254] * 1000), np.array([1] * 90 + [0] * 10 + [1, 0] * 500))
    assert matrix.scores().miou == pytest.approx(90 / 600)
    [pair] = pairs(matrix)
    assert pair.miou_points == pytest.approx(100 * (100 - 90) / 600)
    assert pair.share == pytest.approx(10 / 1100)


def test_the_matrix_as_a_picture_shows_shares_of_the_label() -> None:
    picture = svg(np.array([[30, 10], [0, 0]]), ("floor", "<wall>"))
    assert picture.startswith("<svg")
    assert picture.endswith("</svg>")
    for text in (">75</text>", ">25</text>", "&lt;wall&gt;"):
        assert text in picture
    assert picture.count("<rect") == 3  # the ground and one row: "wall" has no pixels
