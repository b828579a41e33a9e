"""Weights of classes in the loss: from how rare they are, or from how much of them a trained model missed.

    weights = balanced(pixel_counts([dataset], processes))
    weights = from_report(Path("out/report/report.json"), dataset.classes)

Only ratios matter, because the loss is divided by the sum of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from segserve.errors import UsageError
from training import distributed
from training.data import Dataset
from training.distributed import Processes
from training.report_file import Report

MOST_BALANCED = 10.0
"""Times the weight of the commonest class; ENet's own formula goes up to 35 times."""
LEAST_REPORT, MOST_REPORT = 0.5, 3.0
"""Of the mean."""


def pixel_counts(datasets: Sequence[Dataset], processes: Processes) -> NDArray[np.int64]:
    """Labelled pixels of each class, int64 (num_classes,). Each process reads its share of the label files.

    Raises DatasetError for a label that cannot be read.
    """
    num_classes = datasets[0].num_classes
    counts = np.zeros(num_classes, np.int64)
    mine = [
        (dataset, sample.label)
        for dataset in datasets
        for sample in dataset.samples[processes.rank :: processes.world_size]
    ]
    console = Console(stderr=True)
    quiet = not (console.is_terminal and processes.is_main)
    for dataset, path in track(mine, "pixels of each class", console=console, disable=quiet):
        label = dataset.read_label_file(path)
        counts += np.bincount(label.ravel(), minlength=256)[:num_classes]
    joined = distributed.join_sum(torch.from_numpy(counts).to(processes.device))
    result: NDArray[np.int64] = joined.cpu().numpy()
    return result


def balanced(counts: NDArray[np.int64]) -> tuple[float, ...]:
    """1 / ln(1.02 + share of the pixels), as in ENet (Paszke et al., arXiv:1606.02147, section 5.2).

    Scaled so that the commonest class has 1, and at most MOST_BALANCED. Inverse frequencies would give the rarest
    class of CamVid 100 times the weight of the commonest, and paint it over its neighbours.
    Raises UsageError if there is no labelled pixel at all.
    """
    if not counts.sum():
        raise UsageError("--class-weights balanced: the training labels hold no labelled pixel")
    weights = 1 / np.log(1.02 + counts / counts.sum())
    weights = np.minimum(weights / weights.min(), MOST_BALANCED)
    return tuple(weights.tolist())


def from_report(path: Path, classes: Sequence[str]) -> tuple[float, ...]:
    """A class counts as much as its misses cost it: the share of its union that was labelled so and taken for others.

    With IoU = hits / union and accuracy = hits / labelled, that share is (labelled - hits) / union
    = IoU (1 / accuracy - 1). Pixels of others that were taken for the class cost IoU as well, but a larger weight
    would only add to those. The shares are divided by their mean, and clipped to LEAST_REPORT and MOST_REPORT;
    classes that the report has no figures for get 1.

    Raises UsageError for a file that is no such report, or of other classes.
    """
    report = Report.read(path, classes)
    missed = np.array([_missed(iou, accuracy) for iou, accuracy in report.scores])
    known = ~np.isnan(missed)
    if not (mean := float(missed[known].mean()) if known.any() else 0.0):
        return (1.0,) * len(classes)  # nothing is missed
    weights = np.where(known, np.clip(missed / mean, LEAST_REPORT, MOST_REPORT), 1.0)
    return tuple(weights.tolist())


def _missed(iou: float, accuracy: float) -> float:
    """nan for a class that was not labelled; all of a class without a hit."""
    return 1.0 if accuracy == 0 else iou * (1 / accuracy - 1)
