"""Constants for classes: where they must lead, and that what is promised is what comes out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.shifts import GRID, Pixels, _along, fit, miou

RARE = 2


def noisy(seed: int, shares: tuple[float, ...] = (0.7, 0.25, 0.05), noise: float = 3.0) -> Pixels:
    """Pixels whose logits are the true log-probabilities: one Gaussian a class, so that Bayes' rule is known."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(len(shares), 20_000, p=shares).astype(np.uint8)
    seen = 3 * np.eye(len(shares))[labels] + rng.normal(0, noise, (len(labels), len(shares)))
    return Pixels((seen * 3 / noise**2 + np.log(shares)).astype(np.float32), labels)


def test_a_rare_class_is_let_win_and_what_is_fitted_holds_elsewhere() -> None:
    pixels, others = noisy(1), noisy(2)
    shifts = fit(pixels)
    assert shifts[RARE] > shifts[:RARE].max() + 0.3  # only differences matter
    for kind in (pixels, others):
        before, after = kind.iou(), kind.iou(shifts)
        assert after[RARE] > before[RARE] + 0.01
        assert miou(after) > miou(before) + 0.005


def test_what_a_loss_with_weights_overdid_is_taken_back() -> None:
    plain, added = noisy(1), np.array([0.0, 1.0, 3.0])
    weighted = Pixels(plain.logits + added.astype(np.float32), plain.labels)
    shifts = fit(weighted)
    assert shifts[RARE] < shifts[0] - 1
    assert miou(weighted.iou(shifts)) == pytest.approx(miou(plain.iou(fit(plain))), abs=2e-4)
    assert miou(weighted.iou(shifts)) > miou(weighted.iou()) + 0.05


@pytest.mark.parametrize("k", [0, 1, 2])
def test_every_step_of_the_grid_is_what_it_would_be(k: int) -> None:
    """Against counting anew at each."""
    pixels = noisy(3)
    scores = _along(pixels.logits, pixels.labels, pixels.logits[:, k], k).mean(axis=1)
    for step in range(0, len(GRID), 25):
        shifts: NDArray[np.float64] = np.zeros(3)
        shifts[k] = GRID[step]
        assert scores[step] == pytest.approx(miou(pixels.iou(shifts)), abs=2e-4)


def test_a_class_that_no_label_has_keeps_its_place_among_the_others() -> None:
    three = noisy(3)
    fourth = three.logits[:, :1] - 1  # predicted, and wrong wherever it is
    shifts = fit(Pixels(np.concatenate([three.logits, fourth], axis=1), three.labels))
    assert shifts[3] == 0
    np.testing.assert_allclose(shifts[:3], fit(three))  # nothing is gained at its cost
    assert shifts[three.labels].mean() == pytest.approx(0)


def test_what_is_right_already_is_left_alone() -> None:
    labels = np.arange(9, dtype=np.uint8) % 3
    sure = Pixels(20 * np.eye(3, dtype=np.float32)[labels], labels)
    np.testing.assert_array_equal(fit(sure), np.zeros(3))
    np.testing.assert_array_equal(sure.iou(), np.ones(3))


def test_one_class_alone_is_fitted_where_labels_tell_only_whether_a_pixel_is_of_it() -> None:
    plain = noisy(1)
    overdone = Pixels(plain.logits + np.array([0, 2, 0], np.float32), plain.labels)
    told = Pixels(overdone.logits, np.where(plain.labels == 1, 1, 255).astype(np.uint8))
    shifts = fit(told, [1])
    assert shifts[1] < -1
    assert (shifts[0], shifts[2]) == (0, 0)
    np.testing.assert_array_equal(fit(overdone, [1]), shifts)  # what the others are changes nothing
    np.testing.assert_array_equal(np.isnan(told.iou()), [True, False, True])
    assert told.iou(shifts)[1] == overdone.iou(shifts)[1] > told.iou()[1] + 0.05
    assert told.iou(shifts)[1] >= max(told.iou(np.array([0, step, 0]))[1] for step in GRID) - 2e-4


def test_iou_by_hand() -> None:
    logits = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    pixels = Pixels(logits, np.array([0, 1, 1, 1], np.uint8))
    np.testing.assert_allclose(pixels.iou(), [1 / 2, 2 / 3, np.nan])
    np.testing.assert_allclose(pixels.iou(np.array([-2.0, 0, 0])), [0, 3 / 4, np.nan])
    assert miou(pixels.iou()) == pytest.approx(7 / 12)
