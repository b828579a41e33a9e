"""What the doctor says to do about it is followed literally here, and has to make the network that was meant.

The networks are imported ones, random and narrow: agreement with the original's masks needs no network that segments.
"""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tyro
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from segserve.errors import UsageError
from tests.foreign_nets import MMSeg, random_weights
from training.assumptions import Pipeline
from training.checkpoint import load_model
from training.diagnosis import diagnose
from training.doctor import _pairs
from training.finding import Diagnosis
from training.import_checkpoint import ImportConfig, main
from training.patient import Patient

SIZE, COUNT = 65, 3
Pixels = NDArray[np.uint8]
Import = Callable[..., Patient]
RGB_MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
UNIT = {name: tuple(x / 255**2 for x in values) for name, values in (("mean", RGB_MEAN), ("std", STD))}
pytestmark = pytest.mark.usefixtures("one_thread")


def photos(height: int = SIZE, width: int = SIZE) -> list[bytes]:
    rng, made = np.random.default_rng(0), []
    for _ in range(COUNT):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(file := io.BytesIO(), "PNG")
        made.append(file.getvalue())
    return made


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """A first convolution so small that pixels needn't be divided by a deviation."""
    state = dict(random_weights(MMSeg(18, 5, 8)).state_dict())
    return state | {"backbone.stem.0.weight": state["backbone.stem.0.weight"] / 25}


@pytest.fixture
def imported(tmp_path: Path, weights: dict[str, Tensor]) -> Import:
    """Import with these options, or with a command line's."""
    torch.save({"state_dict": weights}, tmp_path / "theirs.pth")

    def of(line: str = "", **options: Any) -> Patient:
        out = tmp_path / "out.safetensors"
        common = f"{tmp_path}/theirs.pth --out {out} --input-height {SIZE} --input-width {SIZE} "
        config = tyro.cli(ImportConfig, args=shlex.split(common + line))
        main(replace(config, **options))
        return Patient(*load_model(out), photos(), [])

    return of


def masks(patient: Patient) -> list[Pixels]:
    return patient.masks(Pipeline.of(patient.meta))


def seen(patient: Patient, expected: list[Pixels]) -> Diagnosis:
    return diagnose(replace(patient, expected=expected), references=True)


MEANT: dict[str, dict[str, Any]] = {
    "bgr, ImageNet's": {"channel_order": "bgr"},
    "bgr, Caffe's mean": {"channel_order": "bgr", "mean": RGB_MEAN[::-1], "std": (1.0,) * 3},
    "the older CSAIL's": {"channel_order": "bgr", "mean": (102.9801, 115.9465, 122.7717), "std": (1.0,) * 3},
    "rgb, none": {"mean": (0.0,) * 3, "std": (1.0,) * 3},
    "rgb": {},
    "mean for 0 to 1, fed 0 to 255": {**UNIT, "pixel_scale": 1},
    "corners": {"align_corners": True},
}
MADE: dict[str, dict[str, Any]] = {
    "defaults": {},
    "explicit mean": {"mean": RGB_MEAN, "std": STD},
    "bgr, mean in the wrong order": {"channel_order": "bgr", "mean": RGB_MEAN, "std": (1.0,) * 3},
    "bgr": {"channel_order": "bgr"},
    "mean for 0 to 1": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "pixel_scale": 1},
}


@pytest.mark.parametrize(
    ("made", "meant"),
    [
        ("defaults", "bgr, Caffe's mean"),
        ("defaults", "the older CSAIL's"),
        ("defaults", "corners"),
        ("explicit mean", "bgr, ImageNet's"),
        ("bgr, mean in the wrong order", "bgr, Caffe's mean"),
        ("bgr", "rgb"),
        ("mean for 0 to 1", "bgr, ImageNet's"),
        ("mean for 0 to 1", "rgb, none"),
        ("explicit mean", "mean for 0 to 1, fed 0 to 255"),
        ("mean for 0 to 1", "mean for 0 to 1, fed 0 to 255"),
    ],
)
def test_its_options_make_the_network_that_was_meant(imported: Import, made: str, meant: str) -> None:
    expected = masks(imported(**MEANT[meant]))
    found = seen(imported(**MADE[made]), expected)
    assert found.mended == 1, found.words()
    assert f"Import it again with {found.advice} and the other options as before." in found.words()
    again = seen(imported(**{**MADE[made], **of_line(found.advice)}), expected)
    assert again.healthy, again.words()


def of_line(advice: str) -> dict[str, Any]:
    """The options that a command line gives, to replace those before."""
    line = ["x.pth", "--out", "y.safetensors"]
    plain, given = (tyro.cli(ImportConfig, args=[*line, *more]) for more in ([], shlex.split(advice)))
    changed = {name: value for name, value in vars(given).items() if value != vars(plain)[name]}
    return changed | ({"pixel_scale": 255} if "--pixel-scale 255" in advice else {})


def test_who_said_bgr_is_not_told_to_say_bgr(imported: Import) -> None:
    expected = masks(imported())
    patient = imported(channel_order="bgr")
    words = seen(patient, expected).words()
    assert "trained on RGB, and imported as if on BGR" in words
    assert "--channel-order rgb --mean 123.675 116.28 103.53 --std 58.395 57.12 57.375" in words
    own = replace(patient, meta=replace(patient.meta, provenance={}))  # as training.train writes it
    words = seen(own, expected).words()
    assert words.startswith("channel order: the network was trained on BGR: turn round")
    assert "--" not in words
    assert "mport" not in words


def test_a_cause_that_explains_a_part_is_said_to(imported: Import) -> None:
    expected = [mask.copy() for mask in masks(imported(align_corners=True))]
    for mask in expected:
        mask[:3] = (mask[:3] + np.random.default_rng(1).integers(0, 5, (3, SIZE), np.uint8)) % 5
    found = seen(imported(), expected)
    assert found.kinds == ("align_corners",), found.words()
    left, before = (f"{100 * (1 - score):.2f} %" for score in (found.mended, found.as_is))
    assert f"That explains only a part: {left} of the pixels still differ, of {before}." in found.words()
    assert "To see how far that goes, import it again with --align-corners True" in found.words()
    assert "Not tried: an input of another size than 65x65" in found.words()
    assert "several scales, another output stride, TensorFlow's same padding." in found.words()
    assert "other weights" not in found.words()


def test_other_weights_of_the_file_are_told_where_nothing_explains_it(
    tmp_path: Path, imported: Import, weights: dict[str, Tensor]
) -> None:
    name = "decode_head.conv_seg.weight"
    averaged = weights | {name: weights[name].flip(1)}
    torch.save({"state_dict": weights, "ema": averaged}, tmp_path / "theirs.pth")
    expected = masks(imported(take="ema"))
    said = "also held other weights (taken: state_dict, not ema): "
    assert said in seen(imported(), expected).words()
    assert seen(imported("--take ema"), expected).words() == "nothing is wrong: agreement 100.00 %."


def test_masks_of_another_size_are_told(imported: Import) -> None:
    patient = replace(imported(), photos=photos(60, 90))
    good = masks(patient)
    assert seen(patient, good).words() == "nothing is wrong: agreement 100.00 %."
    half = [np.asarray(Image.fromarray(mask).resize((45, 30), Image.Resampling.NEAREST)) for mask in good]
    words = seen(patient, [*half[:2], good[2]]).words()
    assert (
        "2 of 3 masks or labels are not of their photo's size (such as 45x30 for a photo of 90x60)" in words
    )


@pytest.mark.parametrize("order", ["cabed", "bcde"])
def test_what_order_rearranged_is_expected(imported: Import, tmp_path: Path, order: str) -> None:
    """The original's masks have the original's numbers; those of outputs that were left out count for nothing."""
    original = masks(imported())
    for name, names in (("names", "abcde"), ("order", order)):
        (tmp_path / f"{name}.txt").write_text("\n".join(names))
    patient = imported(classes=tmp_path / "names.txt", order=tmp_path / "order.txt")
    found = seen(patient, original)
    assert found.healthy, found.words()
    assert "which --order rearranged at the import" in found.words()
    number = {old: order.find(name) % 256 for old, name in enumerate("abcde")}  # -1, not there: 255
    assert found.read_labels(np.arange(5, dtype=np.uint8)).tolist() == list(number.values())
    labels = diagnose(replace(patient, expected=original), references=False)
    assert not labels.kinds or "labels in the original's order are then expected" in labels.words()
    own = seen(patient, masks(patient))  # who rearranged the masks too
    assert own.words() == "nothing is wrong: agreement 100.00 %."


@pytest.mark.parametrize("references", [False, True])
def test_labels_without_a_label_are_refused(imported: Import, references: bool) -> None:
    blank = [np.full((SIZE, SIZE), 255, np.uint8)] * COUNT
    with pytest.raises(UsageError, match="no pixel of the 3 masks or labels is labelled: all are 255"):
        diagnose(replace(imported(), expected=blank), references=references)


def test_counts_are_kept_and_masks_are_not(imported: Import, monkeypatch: pytest.MonkeyPatch) -> None:
    patient = imported()
    patient = replace(patient, expected=masks(patient))
    first = patient.counts(Pipeline.of(patient.meta))
    monkeypatch.setattr(Patient, "masks", None)
    assert patient.counts(Pipeline.of(patient.meta)) is first
    kept = [value for name, value in vars(patient).items() if name not in ("photos", "expected")]
    assert not any(
        isinstance(inner, list) for value in kept if isinstance(value, dict) for inner in value.values()
    )
    assert not replace(patient)._counts, "other labels, other counts"


def test_hidden_files_of_a_mac_are_no_photos(tmp_path: Path) -> None:
    for name in ("a.jpg", "a.png", "._a.jpg", "._a.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert [photo.name for photo, _ in _pairs(tmp_path, tmp_path)] == ["a.jpg"]
