"""What the doctor must not take for an explanation: a network that sees nothing, and the luck of a few photos.

Of a floor and the rest, "the rest is unlabelled" would make a network right that answers floor, or nothing else.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from segserve.labels import IGNORE_LABEL, ROOM_CLASSES
from tests.patients import Pixels, converted, file
from tests.sabotage import IMAGENET, Sabotage, bgr, both, scaled
from training.assumptions import Counts, Pipeline
from training.checkpoint import load_model
from training.diagnosis import diagnose
from training.patient import Patient
from training.pspnet import build
from training.rooms import render

SIZE, COUNT, FIRST = (144, 192), 4, 70_000_000
FLOOR, WALL = ROOM_CLASSES.index("floor"), ROOM_CLASSES.index("wall")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rooms(repo_root: Path) -> Patient:
    """The demo model with photos and their exact labels."""
    model, meta = load_model(repo_root / "model_store/demo/rooms.safetensors")
    pairs = [render(FIRST + seed, *SIZE) for seed in range(COUNT + 1)]
    meta = replace(meta, input_height=SIZE[0], input_width=SIZE[1])
    return Patient(model, meta, [file(image) for image, _ in pairs], [label for _, label in pairs])


@pytest.fixture(scope="module")
def floors(rooms: Patient) -> Patient:
    """A model of floor and the rest, made of the demo model's two outputs."""
    state = {name: value for name, value in rooms.model.state_dict().items() if not name.startswith("aux")}
    for name in ("head.3.weight", "head.3.bias"):
        state[name] = torch.stack([torch.zeros_like(state[name][0]), state[name][FLOOR] - state[name][WALL]])
    model = build(rooms.meta.preset, 2).eval()
    model.load_state_dict(state, strict=False)
    meta = replace(rooms.meta, classes=("background", "floor"))
    patient = Patient(model, meta, rooms.photos[:COUNT], [])
    return replace(
        patient, expected=[drawn(mask, at) for at, mask in enumerate(patient.masks(Pipeline.of(meta)))]
    )


def drawn(mask: Pixels, seed: int) -> Pixels:
    """As if people had: every tenth piece of it is of the other class."""
    other = np.random.default_rng(seed).random((SIZE[0] // 12, SIZE[1] // 12)) < 0.1
    return mask ^ other.repeat(12, axis=0).repeat(12, axis=1).astype(np.uint8)


WRONG: dict[str, tuple[Sabotage, set[str]]] = {
    "divided by 255": (scaled(1 / 255), {"pixel scale"}),
    "times 255": (scaled(255), {"pixel scale"}),
    "BGR and ImageNet's mean": (both(bgr, IMAGENET), {"channel order", "mean and std"}),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_floor_that_is_no_longer_found_is_no_offset_of_the_masks(floors: Patient, name: str) -> None:
    """Where no floor is left, masks that are "one too high" would agree by 100 %: background would not count."""
    sabotage, kinds = WRONG[name]
    original = replace(floors, expected=floors.masks(Pipeline.of(floors.meta)))
    found = diagnose(converted(original, sabotage), references=True)
    assert set(found.kinds) == kinds, found.words()
    assert found.mended > 0.999


def test_a_model_of_two_classes_is_not_made_right_by_blinding_it(floors: Patient) -> None:
    found = diagnose(floors, references=False)
    assert found.kinds == (), found.words()
    assert found.healthy


def test_one_of_two_classes_may_be_too_high(floors: Patient) -> None:
    shifted = [label + np.uint8(1) for label in floors.expected]
    found = diagnose(replace(floors, expected=shifted), references=False)
    assert found.kinds == ("label offset",), found.words()


@pytest.mark.parametrize("taken", [(3, 4), (0, 1, 4)])
def test_a_few_photos_on_which_something_else_does_better_by_luck(
    rooms: Patient, taken: tuple[int, ...]
) -> None:
    """On these BGR and a sofa for the bed gain 7 to 16 points of mIoU; on others they lose."""
    kept = Patient(
        rooms.model, rooms.meta, [rooms.photos[at] for at in taken], [rooms.expected[at] for at in taken]
    )
    found = diagnose(kept, references=False)
    assert found.kinds == (), found.words()
    assert found.healthy


def test_labels_one_too_high_are_no_other_order_of_the_classes(rooms: Patient) -> None:
    """Which fits a few photos a little better: it is the best of 11! of them."""
    shifted = [label + np.uint8(1) for label in rooms.expected]
    found = diagnose(replace(rooms, expected=shifted), references=False)
    assert found.kinds == ("label offset",), found.words()


@pytest.mark.parametrize("rows", [2, 50])
def test_masks_one_too_high_whose_zeros_are_unlabelled(
    rooms: Patient, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many these are, and without asking the network again."""
    asked, real = set[Pipeline](), Patient.counts

    def counts(patient: Patient, pipeline: Pipeline) -> Counts:
        asked.add(pipeline)
        return real(patient, pipeline)

    high = [mask + np.uint8(1) for mask in rooms.masks(Pipeline.of(rooms.meta))]
    for mask in high:
        mask[:rows] = 0
    monkeypatch.setattr(Patient, "counts", counts)
    found = diagnose(replace(rooms, expected=high), references=True)
    assert (found.kinds, found.mended) == (("label offset",), 1)
    assert len(asked) == 1


@pytest.mark.parametrize("references", [False, True])
def test_labels_of_one_class_are_not_held_against_the_model(rooms: Patient, references: bool) -> None:
    """Floors alone, and a model that has them right; one that answers floor everywhere would, too."""
    floors = [
        np.where(mask == FLOOR, mask, np.uint8(IGNORE_LABEL)) for mask in rooms.masks(Pipeline.of(rooms.meta))
    ]
    found = diagnose(replace(rooms, expected=floors), references=references)
    assert (found.kinds, found.healthy, found.as_is) == ((), True, 1)
    assert ("Only one class is labelled" in found.words()) is not references
    high = [np.where(mask == FLOOR, np.uint8(FLOOR + 1), mask) for mask in floors]
    found = diagnose(replace(rooms, expected=high), references=references)
    assert (found.kinds, found.mended) == (("label offset",), 1), found.words()


def test_a_network_that_sees_nothing_is_not_well(rooms: Patient) -> None:
    torch.manual_seed(0)
    random = replace(rooms, model=build(rooms.meta.preset, len(ROOM_CLASSES)).eval())
    found = diagnose(random, references=False)
    assert (found.kinds, found.healthy) == ((), False)
    assert "none of the usual assumptions explains it: mIoU" in found.words()
    assert f"The commonest class everywhere would have {100 * found.blind:.2f} %" in found.words()
    assert "Not tried: an input of another size than 192x144" in found.words()
