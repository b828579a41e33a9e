"""What an import says of the size of its input and of what fed the network, and what it says of trunks and heads."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import tyro
from torch import Tensor

from segserve.errors import CheckpointError
from tests.foreign_nets import Classifier, MMSeg, Semseg, random_weights
from training.checkpoint import CheckpointMeta, load_checkpoint, load_model
from training.config import TrainConfig
from training.import_checkpoint import ImportConfig, main

pytestmark = pytest.mark.usefixtures("one_thread")
State = dict[str, Tensor]
VALUES = "mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375]"
BACKBONE = "backbone=dict(type='ResNetV1c', strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4))"
CITYSCAPES = f"""crop_size = (512, 1024)
data_preprocessor = dict({VALUES}, bgr_to_rgb=True, size=(512, 1024))
model = dict(
    {BACKBONE},
    data_preprocessor=dict(mean=[90., 91., 92.], std=[1., 2., 3.], bgr_to_rgb=False, size=(512, 1024)),
    test_cfg=dict(crop_size=(769, 769), mode='slide', stride=(513, 513)))
test_pipeline = [dict(type='Resize', scale=(2048, 1024), keep_ratio=True)]
"""


def imported(content: object, folder: Path, **options: Any) -> tuple[State, CheckpointMeta]:
    torch.save(content, folder / "theirs.pth")
    main(ImportConfig((folder / "theirs.pth",), folder / "out.safetensors", **options))
    return load_checkpoint(folder / "out.safetensors")


def mmseg(text: str = "") -> dict[str, object]:
    state = random_weights(MMSeg(18, 5, 8)).state_dict()
    return {"state_dict": state, "meta": {"cfg": text}}


def trunk() -> State:
    return dict(random_weights(Classifier(18, 8)).state_dict())


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_the_models_own_values_are_taken_and_vouched_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, meta = imported(mmseg(CITYSCAPES), tmp_path)
    assert (meta.mean, meta.std) == ((92, 91, 90), (3, 2, 1))
    assert meta.provenance["fed"].startswith("bgr")
    assert "file says itself: contracted False, channel_order bgr, mean (90.0, 91.0, 92.0)" in told(capsys)


def test_what_cannot_be_told_is_not_vouched_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unknown = CITYSCAPES.replace(
        "data_preprocessor=dict(mean=[90", "data_preprocessor=mine, other=dict(mean=[90"
    )
    assert unknown != CITYSCAPES
    _, meta = imported(mmseg(unknown), tmp_path)
    assert meta.mean == (123.675, 116.28, 103.53)
    assert "mean" not in meta.provenance["file_says"]
    assert "channel_order" not in meta.provenance["file_says"]
    assert meta.provenance["file_leaves_open"] == "data_preprocessor"
    said = told(capsys)
    assert (
        "does not say mean and std: taken are ImageNet's (--mean, --std), nor channel order: taken is RGB "
        "(--channel-order) the file's configuration leaves open which of these holds, and none was taken: "
        "data_preprocessor"
    ) in said
    imported(mmseg(unknown), tmp_path, channel_order="bgr", mean=(1.0,) * 3, std=(1.0,) * 3)
    assert "does not say" not in told(capsys)


def test_the_size_of_its_crops_is_taken_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, meta = imported(mmseg(CITYSCAPES), tmp_path)
    assert (meta.input_height, meta.input_width) == (512, 1024)
    assert meta.provenance["input_size"].startswith(
        "512 x 1024, as trained: the file's configuration has crops"
    )
    said = told(capsys)
    assert (
        "input 512 x 1024 (height x width), as trained: the file's configuration has crops of 512 x 1024"
        in said
    )
    assert "another: --input-height, --input-width" in said
    assert "its own test slides windows over the photo (mode slide); here the whole photo" in said


def test_options_go_before_the_files_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, meta = imported(mmseg(CITYSCAPES), tmp_path, input_height=41, input_width=49)
    assert (meta.input_height, meta.input_width) == (41, 49)
    assert "input 41 x 49 (height x width), as the options say; the file's configuration has crops" in told(
        capsys
    )
    line = f"{tmp_path}/theirs.pth --out {tmp_path}/out.safetensors --input-width 100"
    main(tyro.cli(ImportConfig, args=shlex.split(line)))
    meta = load_checkpoint(tmp_path / "out.safetensors")[1]
    assert (meta.input_height, meta.input_width) == (512, 100)


def test_every_import_says_its_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, meta = imported(dict(random_weights(Semseg(18, 5, 8)).state_dict()), tmp_path)
    assert (meta.input_height, meta.input_width) == (473, 473)
    assert (
        "input 473 x 473 (height x width), as semseg has it, because nobody says it; another: --input-height, "
        "--input-width"
    ) in told(capsys)


def test_what_is_said_of_a_trunk_helps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imported(trunk(), tmp_path)
    said = told(capsys)
    assert "training.doctor" not in said, "it refuses trunks"
    assert "input 473 x 473 is not used: a training has its own (--crop-height, --input-height)" in said
    assert "left out, as no segmentation needs it: fc.bias, fc.weight" in said
    command = re.search(r"python -m training\.train (.*)$", said)
    assert command is not None
    config = tyro.cli(TrainConfig, args=shlex.split(command[1]))
    assert (config.preset, config.pretrained_from) == ("pspnet18", tmp_path / "out.safetensors")


def torchvisions(kind: str) -> State:
    """fcn_resnet or deeplabv3_resnet."""
    conv, norm = torch.ones(4, 8, 3, 3), torch.ones(4)
    first = {"fcn": {"classifier.0.weight": conv}, "deeplab": {"classifier.0.convs.0.0.weight": conv}}[kind]
    head = first | {"classifier.1.weight": norm, "classifier.4.weight": torch.ones(5, 4, 1, 1)}
    aux = {"aux_classifier.0.weight": conv, "aux_classifier.4.weight": torch.ones(5, 4, 1, 1)}
    body = {f"backbone.{name}": t for name, t in trunk().items() if not name.startswith("fc.")}
    return body | head | aux


@pytest.mark.parametrize("kind", ["fcn", "deeplab"])
@pytest.mark.parametrize("wrapper", ["", "module."])
def test_a_trunk_of_torchvisions_segmentation_is_dilated(tmp_path: Path, kind: str, wrapper: str) -> None:
    state_dict = {wrapper + name: t for name, t in torchvisions(kind).items()}
    with pytest.raises(CheckpointError, match=r"torchvision's names are under 'backbone\.'") as refused:
        imported(state_dict, tmp_path)
    options, program = (
        str(refused.value).split("import it with ")[1].split(". Save those alone and import that: ")
    )
    path = tmp_path / "alone.pth"
    exec(program.replace("'alone.pth'", "path"), {"torch": torch, "state_dict": state_dict, "path": path})
    line = f"{path} --out {tmp_path}/alone.safetensors {options}"
    main(tyro.cli(ImportConfig, args=shlex.split(line)))
    layout = load_checkpoint(tmp_path / "alone.safetensors")[1].layout
    assert layout is not None
    assert layout.dilations(2, 4, last=True)[0][0] == 2, "the first block keeps the dilation before it"


def test_a_classifier_beside_a_trunk_is_not_called_dilated(tmp_path: Path) -> None:
    body = {f"backbone.{name}": t for name, t in trunk().items() if not name.startswith("fc.")}
    with pytest.raises(CheckpointError, match=r"Save those alone") as refused:
        imported(
            body | {"classifier.4.weight": torch.ones(5, 4), "classifier.4.bias": torch.ones(5)}, tmp_path
        )
    assert "--contracted" not in str(refused.value)


def test_auxiliary_heads_in_a_list_are_left_out_with_a_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = dict(random_weights(MMSeg(18, 5, 8)).state_dict())
    plain, _ = imported(state, tmp_path)
    for number in range(2):
        heads = [name for name in state if name.startswith("auxiliary_head.conv")]
        state |= {name.replace("head.", f"head.{number}.", 1): state[name] for name in heads}
    state = {name: t for name, t in state.items() if not name.startswith("auxiliary_head.conv")}
    capsys.readouterr()
    got, meta = imported(state, tmp_path)
    assert "left out, as no segmentation needs it: auxiliary_head.0, auxiliary_head.1" in told(capsys)
    assert "auxiliary_head.0.conv_seg.bias" in meta.provenance["left_out"]
    assert got.keys() == {name for name in plain if not name.startswith("aux.")}
    assert all(torch.equal(got[name], plain[name]) for name in got)
    assert not hasattr(load_model(tmp_path / "out.safetensors")[0], "aux")
    with pytest.raises(CheckpointError, match=r"1 left over: auxiliary_head\.extra\.weight"):
        imported(state | {"auxiliary_head.extra.weight": torch.ones(2)}, tmp_path)


def test_half_a_deep_stem_is_still_not_whole(tmp_path: Path) -> None:
    state = dict(random_weights(Semseg(18, 5, 8)).state_dict())
    del state["layer0.3.weight"]
    with pytest.raises(CheckpointError, match=r"layer0\.3\.weight is missing: the file is not whole"):
        imported(state, tmp_path)
