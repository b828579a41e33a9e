"""training.rebalance on a network one of whose classes was made to win everywhere, or to lose: it comes back."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from segserve.labels import IGNORE_LABEL
from tests.integration.painted import CLASSES, COLOURS, paint
from training import pspnet
from training.checkpoint import CheckpointMeta, load_checkpoint, save_checkpoint
from training.data import load_dataset
from training.evaluate import evaluate
from training.evaluated_model import load_segmenter
from training.rebalance import RebalanceConfig, main

BOX = 2
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(run_here: Run) -> Run:
    return functools.partial(run_here, RebalanceConfig, main)


@pytest.fixture(scope="module")
def description(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("painted") / "painted", val=6)


def knows_colours(folder: Path, too_much: float) -> Path:
    """A checkpoint whose classifier was solved for the painted colours, `too_much` added to the logits of the boxes."""
    torch.manual_seed(0)
    mean, std = pspnet.normalisation("pspnet_lite0")
    model = pspnet.build("pspnet_lite0", len(CLASSES), pretrained=True).eval()
    plain = torch.from_numpy(((COLOURS - np.array(mean)) / np.array(std)).astype(np.float32))
    images_nchw = plain[:, :, None, None].expand(-1, -1, 64, 80)
    with torch.no_grad():
        features = model.head[:-1](model.pyramid(model.backbone(images_nchw)[1])).mean((2, 3))
        weights = torch.linalg.lstsq(
            torch.cat([features, torch.ones(3, 1)], 1), 4 * torch.eye(3), driver="gelsd"
        ).solution
        classifier = cast(nn.Conv2d, model.head[-1])
        assert classifier.bias is not None
        classifier.weight.copy_(weights[:-1].T[:, :, None, None])
        classifier.bias.copy_(weights[-1] + too_much * torch.eye(3)[BOX])
    meta = CheckpointMeta(
        "pspnet_lite0", CLASSES, IGNORE_LABEL, mean, std, model.align_corners, 60, 80, 3, {"miou": 0.1}, {"seed": "0"}
    )  # fmt: skip
    path = folder / f"model{too_much:g}.safetensors"
    save_checkpoint(path, model.state_dict(), meta, half=True)
    return path


def served_miou(checkpoint: Path, description: Path) -> float:
    dataset = load_dataset(description, "val")
    return evaluate(load_segmenter(checkpoint), dataset, dataset.samples).scores().miou


@pytest.mark.parametrize("too_much", [2.5, -2.5])
def test_a_class_that_wins_too_often_or_too_seldom_comes_back(
    run: Run, description: Path, tmp_path: Path, too_much: float
) -> None:
    checkpoint, out = knows_colours(tmp_path, too_much), tmp_path / "out" / "rebalanced.safetensors"
    code, told, err = run(checkpoint, "--data", description, "--out", out, "--json")
    assert code == 0, err
    found = json.loads(told)
    shifts = np.array([found["classes"][name]["shift"] for name in CLASSES])
    assert np.sign(shifts[BOX] - shifts[:BOX].mean()) == -np.sign(too_much)
    # every labelled pixel was looked at, so what is promised is what is served
    assert served_miou(checkpoint, description) == pytest.approx(found["miou"][0], abs=1e-3)
    assert served_miou(out, description) == pytest.approx(found["miou"][1], abs=1e-3)
    assert found["miou"][1] > found["miou"][0] + 0.05
    assert found["held_out_miou"][1] > found["held_out_miou"][0]
    old, before = load_checkpoint(checkpoint, cast=False)
    new, after = load_checkpoint(out, cast=False)
    np.testing.assert_allclose(new["head.3.bias"] - old["head.3.bias"], shifts, atol=1e-6)
    assert all(torch.equal(new[name], old[name]) for name in old if name != "head.3.bias")
    assert (after.metrics, after.provenance["seed"]) == ({}, "0")
    assert json.loads(after.provenance["rebalanced"])["held_out_miou"] == found["held_out_miou"]
    assert dataclasses.replace(after, metrics=before.metrics, provenance=before.provenance) == before


def test_one_class_alone_also_where_labels_tell_only_whether_a_pixel_is_of_it(
    run: Run, description: Path, tmp_path: Path
) -> None:
    checkpoint = knows_colours(tmp_path, -2.5)
    masks = paint(tmp_path / "masks", val=6)  # the same pictures, with boxes and what is none
    masks.write_text(masks.read_text() + '[partial]\n254 = ["box"]\n')
    for file in (masks.parent / "val" / "labels").iterdir():
        label = np.array(Image.open(file))
        Image.fromarray(np.where(label < BOX, 254, label).astype(np.uint8)).save(file)
    found = {}
    for data in (description, masks):
        out = tmp_path / data.parent.name / "out.safetensors"
        code, told, err = run(checkpoint, "--data", data, "--classes", "box", "--out", out, "--json")
        assert code == 0, err
        found[data] = json.loads(told)
        box = found[data]["classes"]["box"]
        assert box["shift"] > 1
        assert [found[data]["classes"][name]["shift"] for name in ("wall", "floor")] == [0, 0]
        assert found[data]["miou"] == box["iou"]
        assert box["iou"][1] > box["iou"][0] + 0.05
        dataset = load_dataset(data, "val")
        served = evaluate(load_segmenter(out), dataset, dataset.samples).scores().class_iou[BOX]
        assert served == pytest.approx(box["iou"][1], abs=1e-3)
    assert found[masks]["classes"]["box"] == found[description]["classes"]["box"]
    assert found[masks]["classes"]["wall"]["iou"] == [None, None]
    assert found[masks]["fitted"] == ["box"]


def test_without_a_gain_on_the_other_half_nothing_is_written(
    run: Run, description: Path, tmp_path: Path
) -> None:
    checkpoint, out = knows_colours(tmp_path, 2.5), tmp_path / "once.safetensors"
    assert run(checkpoint, "--data", description, "--out", out)[0] == 0
    code, told, err = run(out, "--data", description, "--out", tmp_path / "twice.safetensors")
    assert code == 1
    assert "bring nothing on the other" in err
    assert "mIoU, fitted on the other half" in told
    assert not (tmp_path / "twice.safetensors").exists()


def test_what_cannot_be_done_is_said(run: Run, description: Path, tmp_path: Path) -> None:
    checkpoint, out = knows_colours(tmp_path, 0), tmp_path / "x.safetensors"
    one, others = paint(tmp_path / "one", val=1), paint(tmp_path / "others", classes=("a", "b", "c"))
    partial = paint(tmp_path / "partial")
    partial.write_text(partial.read_text() + '[partial]\n254 = ["floor"]\n')
    blank = paint(tmp_path / "blank", val=2)
    Image.new("L", (80, 60), 255).save(blank.parent / "val" / "labels" / "0.png")
    alone = paint(tmp_path / "alone", val=2)
    Image.new("L", (80, 60), 0).save(alone.parent / "val" / "labels" / "0.png")
    for what, data, to, names, words in (
        (checkpoint, description, checkpoint, "", "it stays as it is"),
        (tmp_path, description, out, "", "expected checkpoints"),
        (checkpoint, one, out, "", "1 images with labelled pixels, expected two or more"),
        (checkpoint, blank, out, "", "1 images with labelled pixels, expected two or more"),
        (
            checkpoint,
            partial,
            out,
            "",
            "tell of floor alone where it is and where not: name these with --classes",
        ),
        (checkpoint, partial, out, "box", "tell of floor alone where it is and where not: name these"),
        (checkpoint, description, out, "carpet", "--classes carpet: expected some of wall, floor, box"),
        (checkpoint, alone, out, "floor", "floor is not labelled in both halves"),
        (checkpoint, others, out, "", "the model has"),
    ):
        code, _, err = run(what, "--data", data, "--out", to, *(["--classes", names] if names else []))
        assert code == 2
        assert words in err
    assert not out.exists()
