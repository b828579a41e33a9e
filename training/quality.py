"""Two things that mIoU hides: how sharp the boundaries are, and whether the model knows when it is wrong.

boundary = BoundaryScore(num_classes); boundary.update(label, mask); boundary.f_score()
calibration = Calibration(); calibration.update(confidence, mask == label, label != ignore_label)
calibration.error()
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segserve.labels import IGNORE_LABEL

TOLERANCE = 0.0075
"""Of the diagonal: how far a boundary may lie beside the true one (Csurka et al., BMVC 2013)."""
MAX_SIDE = 1024
"""Larger maps are looked at in every second, third … row and column: distances over 12 megapixels take seconds."""
BINS = 15
"""Of confidence, of equal width, as in Guo et al., arXiv:1706.04599."""


class BoundaryScore:
    """Boundary F1 of each class, over all images together.

    Precision: the share of predicted boundary pixels with a true one of the class near; recall: the other way round.
    Where one side is the image's edge or an ignored pixel there is no boundary.
    """

    def __init__(self, num_classes: int, ignore_label: int = IGNORE_LABEL) -> None:
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.counts: NDArray[np.int64] = np.zeros((num_classes, 4), np.int64)
        """Of each class: predicted boundary pixels, those near a true one, true ones, those near a predicted one."""

    def update(self, label: NDArray[np.uint8], mask: NDArray[np.uint8]) -> None:
        """Count one image: label and mask, uint8 (H, W)."""
        step = max(1, math.ceil(max(label.shape) / MAX_SIDE))
        label, mask = label[::step, ::step], mask[::step, ::step]
        near = max(1.0, TOLERANCE * math.hypot(*label.shape))
        pixels = np.bincount(label.ravel(), minlength=256) + np.bincount(mask.ravel(), minlength=256)
        for k in np.flatnonzero(pixels[: self.num_classes]):
            box = _box((label == k) | (mask == k), math.ceil(near))
            counted = label[box] != self.ignore_label
            true, found = _boundary(label[box] == k, counted), _boundary(mask[box] == k, counted)
            self.counts[k] += (found.sum(), _near(found, true, near), true.sum(), _near(true, found, near))

    def f_scores(self) -> tuple[float, ...]:
        """One for each class, 0 to 1; nan for a class without a boundary."""
        return tuple(_f1(*row) for row in self.counts.tolist())

    def f_score(self) -> float:
        """Mean over the classes that have boundaries; nan if there are none."""
        scores = [score for score in self.f_scores() if not math.isnan(score)]
        return float(np.mean(scores)) if scores else math.nan


class Calibration:
    """Confidence against truth: of the pixels given 80 %, are 80 % right?"""

    def __init__(self) -> None:
        self.pixels: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.right: NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.confidence: NDArray[np.float64] = np.zeros(BINS, np.float64)

    def update(
        self, confidence: NDArray[np.float32], right: NDArray[np.bool_], counted: NDArray[np.bool_]
    ) -> None:
        """All (H, W): probability of the chosen class, 0 to 1; whether it is the label; whether there is a label."""
        values, hits = confidence[counted], right[counted]
        bins = np.clip(np.ceil(values * BINS).astype(np.int64) - 1, 0, BINS - 1)  # (0, 1/15], (1/15, 2/15] …
        self.pixels += np.bincount(bins, minlength=BINS)
        self.right += np.bincount(bins[hits], minlength=BINS)
        self.confidence += np.bincount(bins, weights=values, minlength=BINS)

    def error(self) -> float:
        """Expected calibration error, 0 to 1: mean distance of confidence and accuracy over the pixels; nan if none."""
        total = int(self.pixels.sum())
        return float(np.abs(self.right - self.confidence).sum() / total) if total else math.nan

    def bins(self) -> list[dict[str, float]]:
        """Of each bin that has pixels: mean confidence, accuracy, share of all pixels."""
        used = [k for k in range(BINS) if self.pixels[k]]
        return [
            {
                "confidence": float(self.confidence[k] / self.pixels[k]),
                "accuracy": float(self.right[k] / self.pixels[k]),
                "share": float(self.pixels[k] / self.pixels.sum()),
            }
            for k in used
        ]


def _box(some: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns of a map that have some, and `margin` more on each side: a class is often a small part of it."""
    rows, columns = np.flatnonzero(some.any(axis=1)), np.flatnonzero(some.any(axis=0))
    return (
        slice(max(0, rows[0] - margin), rows[-1] + 1 + margin),
        slice(max(0, columns[0] - margin), columns[-1] + 1 + margin),
    )


def _boundary(of_class: NDArray[np.bool_], counted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of the class with a neighbour (above, below, left, right) that is of another and counts."""
    edge = np.zeros_like(of_class)
    for here, there in (
        (np.s_[1:], np.s_[:-1]), (np.s_[:-1], np.s_[1:]),
        (np.s_[:, 1:], np.s_[:, :-1]), (np.s_[:, :-1], np.s_[:, 1:]),
    ):  # fmt: skip
        edge[here] |= of_class[here] & ~of_class[there] & counted[here] & counted[there]
    return edge


def _near(some: NDArray[np.bool_], others: NDArray[np.bool_], distance: float) -> int:
    """How many of `some` have one of `others` within `distance` pixels."""
    if not (some.any() and others.any()):
        return 0
    return int((ndimage.distance_transform_edt(~others)[some] <= distance).sum())


def _f1(found: int, found_near: int, true: int, true_near: int) -> float:
    if not found + true:
        return math.nan
    precision, recall = found_near / max(found, 1), true_near / max(true, 1)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0
