"""The doctor's minute: how many photos it looks at, and when it has seen enough."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from segserve.image import ORIENTATION_TAG
from training import doctor, pspnet
from training.assumptions import Pipeline
from training.checkpoint import load_model, save_checkpoint
from training.diagnosis import diagnose
from training.doctor import DoctorConfig, admit
from training.layout import Layout
from training.meta import CheckpointMeta
from training.patient import Patient

SIZE, COUNT, CLASSES = 65, 3, ("wall", "floor", "ceiling", "sofa", "other")
NARROW = Layout(stem=(8,), width=8, pyramid=8, head=8, aux=8)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    net = pspnet.build("pspnet18", len(CLASSES), layout=NARROW)
    meta = CheckpointMeta(
        "pspnet18", CLASSES, 255, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), True, SIZE, SIZE,
        epoch=0, metrics={}, layout=NARROW, bn_eps=1e-5, provenance={},
    )  # fmt: skip
    save_checkpoint(tmp_path / "net.safetensors", net.state_dict(), meta)
    return tmp_path / "net.safetensors"


@pytest.fixture
def admitted(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Patient]:
    """Photos 0 to 2, of which 1 is the largest and 2 has a mask of most classes; one look takes `look_s`."""
    rng = np.random.default_rng(0)

    def admit_with(look_s: float, kind: str, turned: int | None = None) -> Patient:
        for folder in ("photos", "masks"):
            (tmp_path / folder).mkdir()
        for index in range(COUNT):
            side, exif = (200 if index == 1 else SIZE), Image.Exif()
            if index == turned:
                exif[ORIENTATION_TAG] = 6
            photo = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
            photo.save(tmp_path / f"photos/{index}.png", exif=exif)
            mask: NDArray[np.uint8] = np.full((side, side), index, np.uint8)
            mask[:2] = np.arange(2)[:, None] * (index == 2)
            Image.fromarray(mask).save(tmp_path / f"masks/{index}.png")
        clock = iter([0.0, look_s])
        monkeypatch.setattr("training.doctor.time.perf_counter", lambda: next(clock))
        wanted: dict[str, Any] = {kind: tmp_path / "masks"}
        return admit(DoctorConfig(checkpoint, tmp_path / "photos", **wanted))

    return admit_with


def sides(patient: Patient) -> list[int]:
    return [len(expected) for expected in patient.expected]


def test_a_fast_network_looks_at_all_photos(admitted: Callable[..., Patient]) -> None:
    assert sides(admitted(0.001, "reference_masks")) == [SIZE, 200, SIZE]


def test_where_a_look_takes_long_one_of_the_originals_masks_is_enough(
    admitted: Callable[..., Patient],
) -> None:
    patient = admitted(doctor.BUDGET_S, "reference_masks")
    assert [sorted(np.unique(mask)) for mask in patient.expected] == [[0, 1, 2]], "that of the most classes"


def test_a_photo_that_lies_on_its_side_goes_before_many_classes(admitted: Callable[..., Patient]) -> None:
    patient = admitted(doctor.BUDGET_S, "reference_masks", turned=0)
    assert patient.turned()
    assert [mask[-1, -1] for mask in patient.expected] == [0]


def test_labels_that_people_drew_are_never_fewer_than_two(admitted: Callable[..., Patient]) -> None:
    assert len(admitted(doctor.BUDGET_S, "labels").photos) == doctor.FEWEST == 2


def test_what_is_timed_is_the_largest_photo(
    admitted: Callable[..., Patient], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not the network's time alone: large photos of a small network take longer to decode and to count."""
    asked, counts = list[int](), Patient.counts

    def count(self: Patient, pipeline: Pipeline) -> Any:
        asked.append(len(self.expected[0]))
        return counts(self, pipeline)

    monkeypatch.setattr(Patient, "counts", count)
    admitted(doctor.BUDGET_S, "labels")
    assert asked == [200]


@pytest.mark.parametrize("wrong", ["channel order", "stride position"])
def test_what_explains_every_pixel_ends_the_search(checkpoint: Path, wrong: str, tmp_path: Path) -> None:
    model, meta = load_model(checkpoint)
    if wrong == "stride position":
        layout = replace(NARROW, width=4)
        model = pspnet.build("pspnet50", len(CLASSES), layout=layout).eval()
        meta = replace(meta, preset="pspnet50", layout=layout)
    rng = np.random.default_rng(1)
    Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).resize((SIZE, SIZE)).save(tmp_path / "0.png")
    patient = Patient(model, meta, [(tmp_path / "0.png").read_bytes()], [])
    now = Pipeline.of(meta)
    assert now.layout is not None
    meant = {
        "channel order": replace(now, bgr=True),
        "stride position": replace(now, layout=replace(now.layout, stride_in="1x1")),
    }[wrong]
    found = diagnose(replace(patient, expected=patient.masks(meant)), references=True)
    assert found.kinds == (wrong,)
    assert found.mended == 1
    tried = [
        one.kind for one in found.tries if one.kind not in ("label offset", "ignore label", "class order")
    ]
    assert tried[-1] == wrong
    assert tried.count(wrong) == 1
