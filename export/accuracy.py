"""What a lower precision costs, class by class: IoU of the checkpoint and of an artefact on the same pictures.

Rendered rooms come with exact labels, for checkpoints whose classes are those of the rooms, or more: where such a one
sees a class that rooms don't label, a rug on what they call floor, it is taken at its word. For other checkpoints there
is no truth to measure by, and their own labels stand in for it, which is stricter: they then score 100, and every pixel
that changes counts.

    pictures = accuracy_pictures(reference)
    class_costs.drops(figures(segmenter, pictures))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from export.cases import prepare
from segserve.labels import ROOM_CLASSES
from segserve.segmenter import Segmenter
from training.metrics import ConfusionMatrix
from training.rooms import render

ROOMS = 32
FIRST_SEED = 91_000_000  # neither trained on nor calibrated with


@dataclass(frozen=True)
class AccuracyPicture:
    """A network input, uint8 (height, width, 3), its true labels and the checkpoint's, uint8 (height, width)."""

    input_hwc: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    expected: NDArray[np.uint8]


def accuracy_pictures(
    reference: Segmenter, on_step: Callable[[], None] = lambda: None
) -> list[AccuracyPicture]:
    """ROOMS rendered rooms of the served size."""
    height, width = reference.spec.input.height, reference.spec.input.width
    true_labels = room_labels(reference.spec.classes)
    made = []
    for seed in range(FIRST_SEED, FIRST_SEED + ROOMS):
        image, label = render(seed, height, width)
        expected = labels_of(image, reference)
        truth = expected
        if true_labels is not None:
            truth = np.where(np.isin(expected, true_labels), true_labels[label], expected)
        made.append(AccuracyPicture(image, truth, expected))
        on_step()
    return made


def figures(
    segmenter: Segmenter, pictures: Sequence[AccuracyPicture], on_step: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """For parity.json: pixels compared and agreeing, and for each class the counts that both IoUs are made of."""
    classes = segmenter.spec.classes
    ours, theirs = ConfusionMatrix(len(classes)), ConfusionMatrix(len(classes))
    knows_rooms = room_labels(classes) is not None
    agreeing = pixels = 0
    for picture in pictures:
        labels = labels_of(picture.input_hwc, segmenter)
        agreeing, pixels = agreeing + int((labels == picture.expected).sum()), pixels + labels.size
        ours.update(picture.truth, labels)
        theirs.update(picture.truth, picture.expected)
        on_step()
    return {
        "truth": "rendered labels" if knows_rooms else "the checkpoint's labels",
        "pixels": pixels,
        "agreeing": agreeing,
        "classes": {
            name: {
                "true_pixels": int(theirs.counts[k].sum()),
                "checkpoint": [int(theirs.counts[k, k]), _union(theirs, k), int(theirs.counts[:, k].sum())],
                "artefact": [int(ours.counts[k, k]), _union(ours, k), int(ours.counts[:, k].sum())],
            }
            for k, name in enumerate(classes)
        },
    }


def room_labels(classes: tuple[str, ...]) -> NDArray[np.uint8] | None:
    """uint8 (number of room classes,): the checkpoint's label of each class of the rooms; None if it lacks one."""
    if not set(ROOM_CLASSES) <= set(classes):
        return None
    return np.array([classes.index(name) for name in ROOM_CLASSES], np.uint8)


def labels_of(input_hwc: NDArray[np.uint8], segmenter: Segmenter) -> NDArray[np.uint8]:
    """The label map of a network input, at its own size."""
    prepared = prepare(input_hwc, segmenter)
    return segmenter.labels(segmenter.logits([prepared])[0], prepared)


def _union(matrix: ConfusionMatrix, k: int) -> int:
    counts = matrix.counts
    return int(counts[k].sum() + counts[:, k].sum() - counts[k, k])
