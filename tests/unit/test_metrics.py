"""The confusion matrix against counting pixel by pixel, the ignore label, absent classes, and adding up."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from segserve.errors import UsageError
from training.metrics import ConfusionMatrix


def brute_force(
    labels: NDArray[np.uint8], predictions: NDArray[np.uint8], num_classes: int, ignore: int
) -> list[float]:
    """Per-class IoU by sets of pixel positions."""
    valid = {i for i, value in enumerate(labels.flat) if value != ignore}
    found = []
    for c in range(num_classes):
        is_label = {i for i in valid if labels.flat[i] == c}
        is_predicted = {i for i in valid if predictions.flat[i] == c}
        union = is_label | is_predicted
        found.append(len(is_label & is_predicted) / len(union) if union else math.nan)
    return found


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), num_classes=st.integers(1, 12), ignore=st.sampled_from([12, 20, 255]))
def test_iou_is_that_of_sets_of_pixels(seed: int, num_classes: int, ignore: int) -> None:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, (5, 7), dtype=np.uint8)
    labels[rng.random(labels.shape) < 0.3] = ignore
    predictions = rng.integers(0, num_classes, (5, 7), dtype=np.uint8)
    matrix = ConfusionMatrix(num_classes, ignore)
    matrix.update(labels, predictions)
    scores = matrix.scores()
    expected = brute_force(labels, predictions, num_classes, ignore)
    np.testing.assert_allclose(scores.class_iou, expected)
    assert scores.miou == pytest.approx(np.nanmean(expected))
    valid = labels != ignore
    assert scores.allacc == pytest.approx((labels == predictions)[valid].mean())
    assert matrix.counts.sum() == valid.sum()


def test_known_figures_ignored_pixels_and_absent_classes() -> None:
    labels = np.array([[0, 0, 0, 1], [1, 1, 255, 255]])
    predictions = np.array([[0, 0, 1, 1], [1, 2, 0, 3]])
    matrix = ConfusionMatrix(4)
    matrix.update(labels, predictions)
    scores = matrix.scores()
    # 0: 2 of 3; 1: 2 of {3 labelled, 3 predicted, 2 shared}; 2: predicted, never labelled; 3: only where ignored
    np.testing.assert_allclose(scores.class_iou, [2 / 3, 2 / 4, 0, math.nan])
    np.testing.assert_allclose(scores.class_accuracy, [2 / 3, 2 / 3, math.nan, math.nan])
    np.testing.assert_allclose(scores.class_share, [0.5, 0.5, 0, 0])
    assert scores.miou == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    assert scores.macc == pytest.approx(2 / 3)
    assert scores.allacc == pytest.approx(4 / 6)


def test_updates_add_up_whatever_the_order_and_shape() -> None:
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 5, (2, 6, 8, 9))
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(labels, predictions)
    for label, prediction in reversed(list(zip(labels, predictions, strict=True))):
        parts.update(label.ravel(), prediction.ravel())
    np.testing.assert_array_equal(whole.counts, parts.counts)
    assert whole.counts.dtype == np.int64


def test_small_dtypes_do_not_overflow() -> None:
    labels = np.full((3, 3), 199, np.uint8)
    matrix = ConfusionMatrix(200)
    matrix.update(labels, labels)  # 199 * 200 + 199 does not fit uint8
    assert matrix.counts[199, 199] == 9


def test_nothing_counted_is_nan_not_zero_and_json_has_null() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.full((2, 2), 255), np.zeros((2, 2), int))
    scores = matrix.scores()
    assert all(math.isnan(value) for value in scores.summary().values())
    written = json.loads(json.dumps(scores.as_json(("a", "b")), allow_nan=False))
    assert written["miou"] is None
    assert written["classes"]["a"] == {"iou": None, "accuracy": None, "share": None}


def test_json_names_the_classes() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]))
    written = matrix.scores().as_json(("wall", "floor"))
    assert written["classes"] == {
        "wall": {"iou": pytest.approx(2 / 3), "accuracy": pytest.approx(2 / 3), "share": 0.75},
        "floor": {"iou": 0.5, "accuracy": 1.0, "share": 0.25},
    }


@pytest.mark.parametrize(
    ("labels", "predictions", "message"),
    [
        ([0, 1], [0, 2], "predictions from 0 to 2"),
        ([0, 3], [0, 1], "labels from 0 to 3"),
        ([0, -1], [0, 1], "labels from -1 to 0"),
        ([0, 1], [0, 255], "predictions from 0 to 255"),
        ([0, 1], [0], "one shape"),
    ],
)
def test_values_outside_the_classes_are_refused(
    labels: list[int], predictions: list[int], message: str
) -> None:
    matrix = ConfusionMatrix(2)
    with pytest.raises(UsageError, match=message):
        matrix.update(np.array(labels), np.array(predictions))
    assert matrix.counts.sum() == 0


def test_ignore_label_must_not_be_a_class() -> None:
    with pytest.raises(UsageError, match="ignore_label 3"):
        ConfusionMatrix(4, 3)


def test_all_reduce_without_processes_changes_nothing() -> None:
    matrix = ConfusionMatrix(2)
    matrix.update(np.array([0, 1]), np.array([0, 0]))
    matrix.all_reduce()
    np.testing.assert_array_equal(matrix.counts, [[1, 0], [1, 0]])
