"""Conversions are spoiled on purpose, each in one way (or two), and the doctor has to name what was done.

The demo model really segments; its own masks before the sabotage are the reference, and the rendered rooms' exact
labels stand for those that people draw. Where a stride or a dilation is misplaced, the network is a narrow ResNet-50.
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segserve.errors import UsageError
from segserve.labels import IGNORE_LABEL, ROOM_CLASSES
from tests.patients import Pixels, converted, expecting_itself, file
from tests.sabotage import IMAGENET, Sabotage, bgr, both, described, other_eps, permute, scaled
from training import doctor, pspnet
from training.assumptions import RESIZES, Pipeline, Resize
from training.checkpoint import load_checkpoint, load_model, save_checkpoint
from training.diagnosis import diagnose
from training.doctor import DoctorConfig, _label, _pairs, main
from training.finding import Diagnosis
from training.layout import Layout
from training.meta import CheckpointMeta
from training.patient import Patient, _resized
from training.rooms import render

COUNT, PHOTO, INPUT = 2, (120, 160), (96, 128)
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def rooms() -> list[tuple[Pixels, Pixels]]:
    return [render(70_000_000 + seed, *PHOTO) for seed in range(COUNT)]


@pytest.fixture(scope="module")
def demo(repo_root: Path, rooms: list[tuple[Pixels, Pixels]]) -> Patient:
    """The model as it is; it expects its own masks."""
    model, meta = load_model(repo_root / "model_store/demo/rooms.safetensors")
    return expecting_itself(model, replace(meta, input_height=INPUT[0], input_width=INPUT[1]), rooms)


@pytest.fixture(scope="module")
def resnet(rooms: list[tuple[Pixels, Pixels]]) -> Patient:
    """ResNet-50, an eighth as wide, random but with a classifier that gives every class some pixels."""
    torch.manual_seed(1)
    layout = Layout(stem=(8, 8, 16), width=8, head=32, aux=16)
    model = pspnet.build("pspnet50", 5, align_corners=False, layout=layout).eval()
    patient = expecting_itself(
        model,
        CheckpointMeta(
            "pspnet50", ("a", "b", "c", "d", "e"), IGNORE_LABEL, *pspnet.normalisation("pspnet50"), False, *INPUT,
            epoch=0, metrics={}, provenance={}, layout=layout,
        ),
        rooms,
    )  # fmt: skip
    images = torch.from_numpy(np.stack([image for image, _ in rooms])).permute(0, 3, 1, 2).float()
    last = model.head[-1]
    assert isinstance(last, nn.Conv2d)
    assert last.bias is not None
    with torch.no_grad():
        deviation, mean = torch.std_mean(model((images - 118) / 58), dim=(0, 2, 3))
        last.bias.copy_((last.bias - mean) / deviation)
        last.weight.div_(deviation.reshape(-1, 1, 1, 1))
    return expecting_itself(model, patient.meta, rooms)


OF_THE_DEMO: dict[str, tuple[Sabotage, set[str]]] = {
    "BGR weights": (bgr, {"channel order"}),
    "ImageNet's mean and std": (IMAGENET, {"mean and std"}),
    "mean and std for 0 to 1": (scaled(1 / 255), {"pixel scale"}),
    "align_corners": (described(align_corners=False), {"align_corners"}),
    "batch norm epsilon": (other_eps, {"bn eps"}),
    "class order": (permute, {"class order"}),
    "BGR and ImageNet's mean": (both(bgr, IMAGENET), {"channel order", "mean and std"}),
    "class order and scale": (both(permute, scaled(255)), {"class order", "pixel scale"}),
}


def with_references(patient: Patient) -> Diagnosis:
    return diagnose(patient, references=True)


def test_the_untouched_model_is_well(demo: Patient) -> None:
    found = with_references(demo)
    assert (found.as_is, found.mended, found.kinds, found.healthy) == (1, 1, (), True)
    assert found.words() == "nothing is wrong: agreement 100.00 %."


@pytest.mark.parametrize("name", OF_THE_DEMO)
def test_a_spoiled_conversion_is_named(demo: Patient, name: str) -> None:
    sabotage, kinds = OF_THE_DEMO[name]
    found = with_references(converted(demo, sabotage))
    assert set(found.kinds) == kinds, found.words()
    assert found.as_is < 0.999 <= found.mended


@pytest.mark.parametrize(
    ("change", "kind"), [({"stride_in": "1x1"}, "stride position"), ({"contracted": True}, "dilation")]
)
def test_a_misplaced_stride_or_dilation_is_named(resnet: Patient, change: dict[str, Any], kind: str) -> None:
    assert resnet.meta.layout is not None
    layout = replace(resnet.meta.layout, **change)
    wrong = pspnet.build("pspnet50", 5, align_corners=False, layout=layout).eval()
    wrong.load_state_dict(resnet.model.state_dict())
    spoiled = Patient(wrong, replace(resnet.meta, layout=layout), resnet.photos, resnet.expected)
    found = with_references(spoiled)
    assert found.kinds == (kind,), found.words()
    assert found.as_is < 0.99 < found.mended


@pytest.mark.parametrize(
    "resize", [way for way in RESIZES if way != "stretched"]
)  # photos have the input's shape
def test_another_resize_filter_is_named(demo: Patient, resize: Resize) -> None:
    masks = demo.masks(replace(Pipeline.of(demo.meta), resize=resize))
    found = with_references(Patient(demo.model, demo.meta, demo.photos, masks))
    assert found.kinds == ("resize filter",), found.words()
    assert f"({resize})" in found.words()
    assert found.mended == 1


def test_areas_are_weighed_as_opencv_does() -> None:
    """Three pixels to two cells: the one in the middle belongs to both by halves."""
    line = np.array([[[10], [40], [100]]], np.uint8).repeat(3, axis=2)
    np.testing.assert_array_equal(_resized(line, (1, 2), "area")[0, :, 0], [20, 80])


def test_a_forgotten_exif_orientation_is_named(demo: Patient, rooms: list[tuple[Pixels, Pixels]]) -> None:
    """Upright photos are stored lying on their side; the reference is of the pixels as stored."""
    stored = [np.ascontiguousarray(np.rot90(image)) for image, _ in rooms]
    as_stored = Patient(demo.model, demo.meta, [file(image) for image in stored], [])
    expected = as_stored.masks(Pipeline.of(demo.meta))
    found = with_references(Patient(demo.model, demo.meta, [file(image, 6) for image in stored], expected))
    assert found.kinds == ("EXIF",), found.words()
    assert found.mended == 1


# --- against labels as people draw them: the masks are made once, only the labels differ --------------------


@pytest.fixture(scope="module")
def labelled(demo: Patient) -> Patient:
    """Larger photos: on thumbnails the model is so poor that its errors hide what is wrong."""
    large = [render(71_000_000 + seed, 144, 192) for seed in range(2)]
    meta = replace(demo.meta, input_height=144, input_width=192)
    return Patient(demo.model, meta, [file(image) for image, _ in large], [label for _, label in large])


def test_labels_that_fit_are_left_alone(labelled: Patient) -> None:
    found = diagnose(labelled, references=False)
    assert found.kinds == ()
    assert found.healthy
    assert found.as_is > 0.15
    assert found.words().startswith("no usual assumption is surely wrong: mIoU")


def test_an_offset_of_the_labels_is_named(labelled: Patient) -> None:
    shifted = [label + np.uint8(1) for label in labelled.expected]
    found = diagnose(replace(labelled, expected=shifted), references=False)
    assert found.kinds == ("label offset",), found.words()
    assert "one too high" in found.words()
    assert np.array_equal(found.read_labels(shifted[0]), labelled.expected[0])


def test_unlabelled_pixels_that_count_are_named(labelled: Patient) -> None:
    void = [label.copy() for label in labelled.expected]
    for label in void:
        label[: label.shape[0] // 3] = len(ROOM_CLASSES)
    found = diagnose(replace(labelled, expected=void), references=False)
    assert found.kinds == ("ignore label",), found.words()
    assert "label values 11 are unlabelled" in found.words()


class Unpredicting(Patient):
    """A network that has one output less than its description has classes."""

    def masks(self, pipeline: Pipeline) -> list[Pixels]:
        return Patient(self.model, replace(self.meta, classes=ROOM_CLASSES), self.photos, []).masks(pipeline)


@pytest.mark.parametrize(("name", "kinds"), [("unlabelled", ("ignore label",)), ("stairs", ())])
def test_a_class_that_is_missed_is_no_ignore_label_unless_it_is_called_so(
    labelled: Patient, name: str, kinds: tuple[str, ...]
) -> None:
    labels = [label.copy() for label in labelled.expected]
    for label in labels:
        label[: label.shape[0] // 3] = len(ROOM_CLASSES)
    meta = replace(labelled.meta, classes=(*ROOM_CLASSES, name))
    found = diagnose(Unpredicting(labelled.model, meta, labelled.photos, labels), references=False)
    assert found.kinds == kinds, found.words()
    if not kinds:
        assert found.healthy
        assert "ignore label" in {one.kind for one in found.tries}  # told in the table


def test_with_labels_too_a_wrong_network_is_told_from_wrong_labels(labelled: Patient) -> None:
    found = diagnose(converted(labelled, scaled(1 / 255)), references=False)
    assert found.kinds == ("pixel scale",), found.words()


# --- the command --------------------------------------------------------------------------------------------


def test_the_command_shows_what_it_found(
    demo: Patient, repo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "BUDGET_S", 900)  # both photos, however slow the machine is at the moment
    state, _ = load_checkpoint(repo_root / "model_store/demo/rooms.safetensors")
    mean, std = pspnet.normalisation("pspnet50")
    save_checkpoint(tmp_path / "wrong.safetensors", state, replace(demo.meta, mean=mean, std=std))
    for folder in ("photos", "masks"):
        (tmp_path / folder).mkdir()
    for index, (photo, mask) in enumerate(zip(demo.photos[:2], demo.expected[:2], strict=True)):
        (tmp_path / f"photos/{index}.png").write_bytes(photo)
        Image.fromarray(mask).save(tmp_path / f"masks/{index}.png")
    config = DoctorConfig(
        tmp_path / "wrong.safetensors", tmp_path / "photos", reference_masks=tmp_path / "masks",
        out=tmp_path / "out", as_json=True,
    )  # fmt: skip
    assert main(config) == 1
    said = json.loads(capsys.readouterr().out)
    assert [one["kind"] for one in said["found"]] == ["mean and std"]
    page = (tmp_path / "out/doctor.html").read_text(encoding="utf-8")
    assert page.count("<img") == 8
    assert "mean and std: the checkpoint says" in page
    with pytest.raises(UsageError, match=r"none of the 2 photos .* has a PNG of its name"):
        main(replace(config, reference_masks=tmp_path))
    with pytest.raises(UsageError, match="give --labels or --reference-masks"):
        replace(config, reference_masks=None)


def test_labels_of_fewer_bits_keep_their_values(tmp_path: Path) -> None:
    """As tools that shrink PNGs write them: grey of 4 bits, which Pillow would stretch to 0 … 255."""
    rows = b"\x00\x01\x23" * 2  # no filter; the values 0 to 3
    header = struct.pack(">IIBBBBB", 4, 2, 4, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    png = b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + png)
    np.testing.assert_array_equal(_label(tmp_path / "a.png"), [[0, 1, 2, 3]] * 2)


def test_photos_and_labels_may_share_a_folder(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "b.JPG", "b.PNG", "c.png"):
        (tmp_path / name).write_bytes(b"")
    found = [(photo.name, label.name) for photo, label in _pairs(tmp_path, tmp_path)]
    assert found == [("a.jpg", "a.png"), ("b.JPG", "b.PNG")]
