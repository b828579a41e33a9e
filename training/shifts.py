"""Which constant, added to the logits of each class, makes mIoU largest on pixels whose labels are known?

    pixels = Pixels(logits, labels)
    shifts = fit(pixels)
    miou(pixels.iou()), miou(pixels.iou(shifts))

While one class's constant rises, pixels go over to it one after the other, each from the class that led there. Sorted
into the steps of a grid at which they do, they give the IoU of all classes at every step at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

GRID = np.arange(-100, 101) / 20
"""Nats; a factor of 150 either way is more than any loss weighs classes."""
LEAST_GAIN = 1e-5
"""Of mIoU, for a change to be worth it: 0.001 points."""
MAX_ROUNDS = 20


@dataclass(frozen=True)
class Pixels:
    """logits float32 (n, num_classes); labels uint8 (n,): classes, or a value above them for "none of the fitted"."""

    logits: NDArray[np.float32]
    labels: NDArray[np.uint8]

    @classmethod
    def joined(cls, parts: Sequence[Pixels]) -> Pixels:
        return cls(np.concatenate([p.logits for p in parts]), np.concatenate([p.labels for p in parts]))

    def __getitem__(self, some: slice) -> Pixels:
        return Pixels(self.logits[some], self.labels[some])

    @property
    def num_classes(self) -> int:
        return int(self.logits.shape[1])

    def iou(self, shifts: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Of each class, 0 to 1, with these constants added; nan for classes that no label has."""
        logits = self.logits if shifts is None else self.logits + shifts.astype(np.float32)
        predicted = logits.argmax(1)
        return _iou(
            self._count(self.labels[predicted == self.labels]),
            self._count(self.labels),
            self._count(predicted),
        )

    def _count(self, labels: NDArray[np.integer]) -> NDArray[np.int64]:
        return np.bincount(labels, minlength=self.num_classes)[: self.num_classes]


def _iou(
    hits: NDArray[np.int64], labelled: NDArray[np.int64], predicted: NDArray[np.int64]
) -> NDArray[np.float64]:
    """hits, predicted: (..., num_classes); labelled (num_classes,). nan where nothing is labelled."""
    union = np.where(labelled > 0, labelled + predicted - hits, 1)
    return np.where(labelled > 0, hits / union, np.nan)


def miou(iou: NDArray[np.float64], only: Sequence[int] = ()) -> float:
    """Over the classes that are labelled; training.metrics also counts those that are predicted alone, as 0.

    only: of these classes, where there are any.
    """
    return float(np.nanmean(iou[list(only)] if only else iou))


def fit(pixels: Pixels, only: Sequence[int] = ()) -> NDArray[np.float64]:
    """The constants, float64 (num_classes,): 0 for classes that no label has, and 0 on average over labelled pixels.

    only: constants for these classes, for the mean of their IoU alone; 0 for all others.

    Classes without a label are left out of the fit: there they could only be wrong, and what others gained against them
    would take them from photos that have them.
    """
    if only:
        return _ascend(pixels, only)
    present, labels = np.unique(pixels.labels, return_inverse=True)
    shifts = np.zeros(pixels.num_classes)
    found = _ascend(Pixels(pixels.logits[:, present], labels.astype(np.uint8)), range(len(present)))
    shifts[present] = found - found @ np.bincount(labels) / len(labels)
    return shifts


def _ascend(pixels: Pixels, classes: Sequence[int]) -> NDArray[np.float64]:
    """Constants on GRID for these classes, each of them labelled, and for the mean of their IoU."""
    shifts = np.zeros(pixels.num_classes)
    logits, of_these = pixels.logits.copy(), list(classes)
    best = miou(pixels.iou(), of_these)
    for _ in range(MAX_ROUNDS):
        began = best
        for k in of_these:
            scores = np.nanmean(_along(logits, pixels.labels, pixels.logits[:, k], k)[:, of_these], axis=1)
            # of steps that are about as good, the one nearest to no constant at all
            good = np.flatnonzero(scores > scores.max() - LEAST_GAIN)
            step = good[np.abs(GRID[good]).argmin()]
            if scores[step] > best + LEAST_GAIN:
                best, shifts[k] = float(scores[step]), GRID[step]
                logits[:, k] = pixels.logits[:, k] + np.float32(GRID[step])
        if best - began <= LEAST_GAIN:
            break
    return shifts


def _along(
    logits: NDArray[np.float32], labels: NDArray[np.uint8], own: NDArray[np.float32], k: int
) -> NDArray[np.float64]:
    """IoU with each constant of GRID for class k, (len(GRID), num_classes); `own`: its logits, others in `logits`."""
    num_classes, steps = logits.shape[1], len(GRID)
    others = logits.copy()
    others[:, k] = -np.inf
    rival = others.argmax(1)
    margin = others[np.arange(len(rival)), rival] - own
    step = np.searchsorted(GRID, margin, side="left")  # from here on the pixel is k's; `steps`: never
    # what k has gained and every other class lost by each step
    gone = _counted(step, rival, steps, num_classes)
    hits_gone = _counted(step[rival == labels], rival[rival == labels], steps, num_classes)
    predicted = np.bincount(rival, minlength=num_classes) - gone
    hits = np.bincount(rival[rival == labels], minlength=num_classes) - hits_gone
    is_k = labels == k
    predicted[:, k] = gone.sum(1)
    hits[:, k] = np.cumsum(np.bincount(step[is_k], minlength=steps + 1)[:steps])
    return _iou(hits, np.bincount(labels, minlength=num_classes)[:num_classes], predicted)


def _counted(
    step: NDArray[np.int64], classes: NDArray[np.int64], steps: int, num_classes: int
) -> NDArray[np.int64]:
    """How many pixels of each class have changed by each step, (steps, num_classes)."""
    changed = np.bincount(step * num_classes + classes, minlength=(steps + 1) * num_classes)
    return np.cumsum(changed.reshape(steps + 1, num_classes)[:steps], axis=0)
