"""What a lower precision is measured by: the rooms' own labels where the checkpoint has their classes, else its own."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from export import accuracy
from segserve.labels import ROOM_CLASSES
from segserve.segmenter import Prepared, Segmenter
from tests.specs import make_spec
from training.rooms import render

SIDE = 64


class Constant:
    """In the place of a Segmenter: the same class everywhere."""

    def __init__(self, classes: tuple[str, ...], name: str) -> None:
        self.spec = make_spec(classes=classes, palette=((0, 0, 0),) * len(classes))
        self.label = classes.index(name)

    def logits(self, prepared: list[Prepared]) -> list[None]:
        return [None] * len(prepared)

    def labels(self, logits: None, prepared: Prepared) -> NDArray[np.uint8]:
        return np.full((SIDE, SIDE), self.label, np.uint8)


def measured(classes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A checkpoint that sees walls alone, an artefact that sees floors alone, two rooms."""
    monkeypatch.setattr(accuracy, "ROOMS", 2)
    wall, floor = (cast(Segmenter, Constant(classes, name)) for name in ("wall", "floor"))
    return accuracy.figures(floor, accuracy.accuracy_pictures(wall))


@pytest.mark.parametrize("classes", [ROOM_CLASSES, ("lamp", *reversed(ROOM_CLASSES), "rug")])
def test_the_labels_of_rooms_are_the_truth_in_whatever_order_the_classes_are(
    classes: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = measured(classes, monkeypatch)
    labels = [render(accuracy.FIRST_SEED + n, SIDE, SIDE)[1] for n in range(2)]
    wall, floor = (
        sum(int((label == ROOM_CLASSES.index(name)).sum()) for label in labels) for name in ("wall", "floor")
    )
    total = 2 * SIDE * SIDE
    assert (found["truth"], found["pixels"], found["agreeing"]) == ("rendered labels", total, 0)
    assert found["classes"]["wall"] == {
        "true_pixels": wall, "checkpoint": [wall, total, total], "artefact": [0, wall, 0],
    }  # fmt: skip
    assert found["classes"]["floor"]["artefact"] == [floor, total, total]
    assert sum(counts["true_pixels"] for counts in found["classes"].values()) == total


def test_a_class_that_rooms_do_not_label_is_the_checkpoints_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rug lies on what the rooms call floor: an artefact that no longer sees it must not gain by that."""
    classes = (*ROOM_CLASSES, "rug")
    monkeypatch.setattr(accuracy, "ROOMS", 2)
    rug, floor = (cast(Segmenter, Constant(classes, name)) for name in ("rug", "floor"))
    found = accuracy.figures(floor, accuracy.accuracy_pictures(rug))
    total = 2 * SIDE * SIDE
    assert found["classes"]["rug"] == {
        "true_pixels": total, "checkpoint": [total, total, total], "artefact": [0, total, 0],
    }  # fmt: skip
    assert found["classes"]["floor"]["artefact"] == [0, total, total]


def test_without_the_rooms_classes_the_checkpoint_stands_in_for_the_truth(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = measured(("wall", "floor", "sky"), monkeypatch)
    total = 2 * SIDE * SIDE
    assert found["truth"] == "the checkpoint's labels"
    assert found["classes"]["wall"] == {
        "true_pixels": total, "checkpoint": [total, total, total], "artefact": [0, total, 0],
    }  # fmt: skip
