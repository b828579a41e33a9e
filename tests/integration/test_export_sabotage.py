"""Exports that would serve something else than the checkpoint: each must be refused, by the comparison itself.

These are the mistakes that a conversion makes: channels in the other order, another mean, one layer's weight wrong,
another align_corners, on either side of the artefact.
"""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from export import accuracy, parity
from export.package import package
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from export.to_torchscript import to_torchscript
from segserve import parity_report as report
from segserve.engines.onnx import OnnxEngine
from segserve.errors import CheckFailed
from segserve.labels import ROOM_CLASSES
from segserve.segmenter import Segmenter
from segserve.spec import ModelSpec, sha256_file
from tests.integration.conftest import compare_small
from training.checkpoint import load_model

WRITERS = {"onnx": ("model.onnx", to_onnx), "torchscript": ("model.pt", to_torchscript)}


class SwappedChannels(ServedNet):
    def forward(self, images_nhwc: Tensor) -> Tensor:
        return super().forward(images_nhwc.flip(3))


def channel_order(served: ServedNet) -> None:
    served.__class__ = SwappedChannels


def mean(served: ServedNet) -> None:
    served.mean += 3


def weight(served: ServedNet) -> None:
    layer = served.get_submodule("net.backbone.c4.0.0")
    assert isinstance(layer, nn.Conv2d)
    with torch.no_grad():
        layer.weight[0] *= 1.05


def align_corners(served: ServedNet) -> None:
    served.net.pyramid.align_corners = not served.net.pyramid.align_corners  # type: ignore[union-attr]


Sabotage = Callable[[ServedNet], None]

LOGIT_OFF = r"room-\S+ \(.*\): a logit of class \w+ is off by"


def named(reason: str) -> bool:
    """Whether a reason tells the picture and a class."""
    return "room-" in reason and any(
        re.search(rf"(class|vanished:).*\b{name}\b", reason) for name in ROOM_CLASSES
    )


@pytest.fixture
def folder(tiny_build: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the good build, to spoil. It is compared on smaller pictures than usual, to save time."""
    compare_small(monkeypatch)
    return Path(shutil.copytree(tiny_build, tmp_path / "build"))


def only(folder: Path, engine: str) -> ModelSpec:
    """The folder's spec, reduced to one artefact, whose digest is that of the file as it is now."""
    spec = ModelSpec.load(folder / "model_spec.json")
    (artefact,) = (a for a in spec.artefacts if a.engine == engine)
    artefact = dataclasses.replace(artefact, sha256=sha256_file(folder / artefact.file))
    spec = dataclasses.replace(spec, artefacts=(artefact,), engine=engine)
    spec.save(folder / "model_spec.json")
    return spec


def compared(folder: Path) -> dict[str, Any]:
    """A new parity report for the folder, saved there."""
    checked = parity.check(folder / "tiny.safetensors", folder)
    report.save(checked, folder / "parity.json")
    return checked


@pytest.mark.parametrize(
    ("engine", "sabotage"),
    [
        ("torchscript", channel_order),
        ("torchscript", mean),
        ("torchscript", weight),
        ("torchscript", align_corners),
        ("onnx", align_corners),
    ],
)
def test_a_sabotaged_artefact_is_refused(folder: Path, engine: str, sabotage: Sabotage) -> None:
    net, meta = load_model(folder / "tiny.safetensors")
    served = ServedNet(net, meta.mean, meta.std).eval()
    sabotage(served)
    file, write = WRITERS[engine]
    write(served, folder / file)
    assert_refused(folder, engine)


def test_a_sabotaged_onnx_file_is_refused(folder: Path) -> None:
    """One weight of the file as it stands."""
    model = onnx.load(folder / "model.onnx")
    kernels = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4 and tensor.dims[2] == 3]
    values = numpy_helper.to_array(kernels[0]).copy()
    values[0] *= 1.05
    kernels[0].CopyFrom(numpy_helper.from_array(values, kernels[0].name))
    onnx.save_model(model, folder / "model.onnx")
    assert_refused(folder, "onnx")


def assert_refused(folder: Path, engine: str) -> None:
    """By the comparison, which names pictures and classes, and by the packaging after it."""
    only(folder, engine)

    with pytest.raises(CheckFailed, match=r"no report on \w+ with this"):
        package(folder)
    checked = compared(folder)
    assert checked["passed"] is False
    (entry,) = checked["artefacts"]
    assert not entry["problems"]
    assert all(named(reason) for reason in entry["failures"])
    assert any(re.search(LOGIT_OFF, reason) for reason in entry["failures"])
    with pytest.raises(CheckFailed, match=LOGIT_OFF):
        package(folder)
    assert not list(folder.glob("package-*"))


def test_the_same_artefact_unspoilt_passes(folder: Path) -> None:
    (folder / "tiny.mar").unlink()
    only(folder, "torchscript")
    assert compared(folder)["passed"] is True
    assert package(folder) == folder / "tiny.mar"


def test_masks_made_with_the_wrong_align_corners_are_refused(folder: Path) -> None:
    spec = only(folder, "torchscript")
    dataclasses.replace(spec, align_corners=not spec.align_corners).save(folder / "model_spec.json")
    checked = compared(folder)
    assert "the spec says align_corners is False, the checkpoint True" in checked["spec_failures"]
    # and the masks give it away by themselves: the logits are right, the labels are not
    failures = checked["artefacts"][0]["failures"]
    assert all(named(reason) for reason in failures)
    assert any("of the labels agree" in reason for reason in failures)
    assert any("loses" in reason and "points of IoU" in reason for reason in failures)
    assert not any(re.search(LOGIT_OFF, reason) for reason in failures)
    with pytest.raises(CheckFailed, match="align_corners"):
        package(folder)


@pytest.mark.parametrize("field", ["mean", "std"])
def test_a_spec_with_other_normalisation_is_refused(folder: Path, field: str) -> None:
    spec = only(folder, "torchscript")
    numbers = (99.0, 99.0, 99.0)
    other = dataclasses.replace(spec.input, **{field: numbers})  # type: ignore[arg-type]
    dataclasses.replace(spec, input=other).save(folder / "model_spec.json")
    assert any("the spec says input is" in reason for reason in compared(folder)["spec_failures"])
    with pytest.raises(CheckFailed, match="the spec says input is"):
        package(folder)


def test_a_spec_with_another_input_size_is_refused(folder: Path) -> None:
    spec = only(folder, "torchscript")
    other = dataclasses.replace(spec.input, height=spec.input.height + 8)
    dataclasses.replace(spec, input=other).save(folder / "model_spec.json")
    checked = compared(folder)
    assert any("room-97x131.jpg" in problem for problem in checked["artefacts"][0]["problems"])
    assert checked["passed"] is False


def test_pixels_that_reach_the_artefact_in_another_order_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mistake is in the server's own path: the artefact and the spec are right."""
    only(folder, "torchscript")
    logits = Segmenter.logits

    def swapped(self: Segmenter, prepared: Any) -> Any:
        if self.engine.name == "torchscript":
            prepared = [dataclasses.replace(p, input_hwc=p.input_hwc[..., ::-1].copy()) for p in prepared]
        return logits(self, prepared)

    monkeypatch.setattr(Segmenter, "logits", swapped)
    checked = compared(folder)
    assert any(re.search(LOGIT_OFF, reason) for reason in checked["artefacts"][0]["failures"])


@pytest.mark.parametrize(("batch", "names"), [(1, "room-49x55"), (2, "room-49x55, room-49x55-mirrored")])
def test_an_artefact_that_breaks_at_one_size_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, batch: int, names: str
) -> None:
    """For instance because its graph was specialised for the other batch size there."""
    only(folder, "torchscript")
    logits = Segmenter.logits

    def failing(self: Segmenter, prepared: Any) -> Any:
        at = len(prepared), *prepared[0].input_hwc.shape[:2]
        if self.engine.name == "torchscript" and at == (batch, 49, 55):
            raise RuntimeError("out of memory")
        return logits(self, prepared)

    monkeypatch.setattr(Segmenter, "logits", failing)
    (problem,) = compared(folder)["artefacts"][0]["problems"]
    assert problem == f"{names} (input size, batch of {batch}): out of memory"
    with pytest.raises(CheckFailed, match="out of memory"):
        package(folder)


def test_a_lower_precision_that_raises_when_called_is_told_in_the_report(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(engine: OnnxEngine, images_nhwc: object) -> None:
        raise RuntimeError("no kernel for this processor")

    spec = only(folder, "onnx")
    lower = dataclasses.replace(spec.artefacts[0], precision="int8")
    dataclasses.replace(spec, artefacts=(lower,), engine=lower.name).save(folder / "model_spec.json")
    monkeypatch.setattr(accuracy, "ROOMS", 2)
    monkeypatch.setattr(OnnxEngine, "__call__", answer)
    checked = compared(folder)
    (entry,) = checked["artefacts"]
    assert (entry["passed"], entry["accuracy"], entry["summary"]) == (False, None, {})
    assert re.fullmatch(r"rendered rooms \(.*\): no kernel for this processor", entry["problems"][-1])
    assert "what the precision costs each class was not measured" in entry["failures"]
