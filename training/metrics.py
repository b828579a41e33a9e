"""Segmentation metrics from one confusion matrix, as the PSPNet paper and the benchmarks define them.

Counts are added up over all images (and processes) before any ratio is taken: the mean of per-image IoU is
another figure and is not comparable with published ones.

    matrix = ConfusionMatrix(num_classes, ignore_label)
    matrix.update(labels, predictions)
    matrix.scores().miou

Labels may be partial (training/label_sets.py). A pixel that is said not to be of some classes counts in the union of
each of these that is predicted there, and as a wrong pixel; if another class is predicted it counts as a right one.
Then a class that no pixel is said to be or not to be has no figure, as nobody knows how often it is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed
from numpy.typing import NDArray

from segserve.errors import UsageError
from segserve.labels import IGNORE_LABEL
from training.label_sets import NotThese


@dataclass(frozen=True)
class Scores:
    """All in 0..1. A class that is in neither labels nor predictions is nan and left out of the means."""

    miou: float  # mean of class_iou
    macc: float  # mean of class_accuracy
    allacc: float  # correct pixels / labelled pixels
    class_iou: tuple[float, ...]  # intersection / union
    class_accuracy: tuple[
        float, ...
    ]  # intersection / labelled pixels (recall); nan also where a class is not labelled
    class_share: tuple[float, ...]  # labelled pixels of the class / all labelled pixels

    def summary(self) -> dict[str, float]:
        """The three figures that are compared."""
        return {"miou": self.miou, "macc": self.macc, "allacc": self.allacc}

    def as_json(self, classes: Sequence[str]) -> dict[str, object]:
        """The same for JSON, which has no nan: null instead."""
        rows = zip(classes, self.class_iou, self.class_accuracy, self.class_share, strict=True)
        return {name: _none_if_nan(value) for name, value in self.summary().items()} | {
            "classes": {
                name: {
                    "iou": _none_if_nan(iou),
                    "accuracy": _none_if_nan(accuracy),
                    "share": _none_if_nan(share),
                }
                for name, iou, accuracy, share in rows
            }
        }


class ConfusionMatrix:
    """`counts` int64 (num_classes, num_classes): pixels with label = row that were predicted as column."""

    def __init__(
        self, num_classes: int, ignore_label: int = IGNORE_LABEL, not_these: Sequence[NotThese] = ()
    ) -> None:
        if num_classes < 1 or 0 <= ignore_label < num_classes:
            raise UsageError(
                f"num_classes {num_classes}, ignore_label {ignore_label}: it must not be a class"
            )
        self.num_classes, self.ignore_label = num_classes, ignore_label
        self.not_these = tuple(not_these)
        self.counts: NDArray[np.int64] = np.zeros((num_classes, num_classes), np.int64)
        self.told: NDArray[np.int64] = np.zeros((len(self.not_these), num_classes), np.int64)
        """Pixels that are said not to be of the classes of `not_these[row]`, predicted as column."""

    def update(self, labels: NDArray[np.integer], predictions: NDArray[np.integer]) -> None:
        """Count one or many label maps; both of one shape, any number of dimensions.

        Pixels whose label is `ignore_label` are left out. Raises UsageError on other values outside the classes:
        a prediction of no class would otherwise vanish from the union, and a label too.
        """
        if labels.shape != predictions.shape:
            raise UsageError(f"labels {labels.shape} and predictions {predictions.shape}: expected one shape")
        counted = labels != self.ignore_label
        for row, item in enumerate(self.not_these):
            here = labels == item.value
            counted &= ~here
            self.told[row] += np.bincount(predictions[here], minlength=self.num_classes)
        label, predicted = labels[counted].astype(np.int64), predictions[counted].astype(np.int64)
        for values, what in ((label, "labels"), (predicted, "predictions")):
            if values.size and not 0 <= values.min() <= values.max() < self.num_classes:
                raise UsageError(
                    f"{what} from {values.min()} to {values.max()}, expected 0 to {self.num_classes - 1}"
                    f" or, for labels, {self.ignore_label}"
                )
        cells = np.bincount(label * self.num_classes + predicted, minlength=self.num_classes**2)
        self.counts += cells.reshape(self.counts.shape)

    def all_reduce(self, device: torch.device | None = None) -> None:
        """Add up over the processes of torch.distributed; nothing to do where it is not in use.

        device: where the backend reduces (NCCL: this process's GPU); the CPU if left out.
        """
        if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        both = np.concatenate([self.counts, self.told])
        total = torch.from_numpy(both).to(device or torch.device("cpu"))
        torch.distributed.all_reduce(total)
        self.counts, self.told = np.split(total.cpu().numpy(), [self.num_classes])

    def scores(self) -> Scores:
        """The metrics of what was counted so far; all nan if nothing was."""
        hits = np.diag(self.counts).astype(np.float64)
        labelled, predicted = self.counts.sum(axis=1), self.counts.sum(axis=0)
        wrong, judged = np.zeros(self.num_classes, np.int64), labelled > 0
        for item, told in zip(self.not_these, self.told, strict=True):
            wrong[list(item.classes)] += told[list(item.classes)]
            judged[list(item.classes)] |= told.any()
        all_pixels = labelled.sum() + self.told.sum()
        iou = _ratio(hits, labelled + predicted + wrong - hits)
        if self.told.any():
            iou[~judged] = np.nan
        accuracy = _ratio(hits, labelled)
        share = _ratio(labelled.astype(np.float64), np.full(self.num_classes, all_pixels))
        return Scores(
            miou=_mean(iou),
            macc=_mean(accuracy),
            allacc=float((hits.sum() + self.told.sum() - wrong.sum()) / all_pixels)
            if all_pixels
            else math.nan,
            class_iou=tuple(iou.tolist()),
            class_accuracy=tuple(accuracy.tolist()),
            class_share=tuple(share.tolist()),
        )


def _ratio(part: NDArray[np.float64], whole: NDArray[np.number]) -> NDArray[np.float64]:
    ratio = np.full(part.shape, np.nan)
    np.divide(part, whole, out=ratio, where=whole > 0)
    return ratio


def _mean(values: NDArray[np.float64]) -> float:
    return float(np.nanmean(values)) if not np.isnan(values).all() else math.nan


def _none_if_nan(value: float) -> float | None:
    return None if math.isnan(value) else value
