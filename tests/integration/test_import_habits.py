"""What files hold besides weights: mmseg's configuration, moving averages, a loss's tensors, binary heads, names."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from segserve.errors import CheckpointError, UsageError
from tests.foreign_habits import fed_255, save_csail, save_mmseg
from tests.foreign_nets import CSAIL, MMSeg, Semseg, random_weights
from training.checkpoint import CheckpointMeta, load_checkpoint
from training.foreign_config import habits
from training.import_checkpoint import ImportConfig, main
from training.torch_engine import checkpoint_segmenter

pytestmark = pytest.mark.usefixtures("one_thread")
SIZE = (41, 49)
CONFIG_0X = """norm_cfg = dict(type='SyncBN', requires_grad=True)
model = dict(
    type='EncoderDecoder',
    backbone=dict(
        type='ResNetV1c',
        depth=50,
        dilations=(1, 1, 2, 4),
        strides=(1, 2, 1, 1),
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        style='pytorch',
        contract_dilation=True),
    decode_head=dict(type='PSPHead', pool_scales=(1, 2, 3, 6), num_classes=5, align_corners=True),
    auxiliary_head=dict(type='FCNHead', align_corners=True))
img_norm_cfg = dict(
    mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
"""
# keys in the order of the alphabet, as mmengine writes them
CONFIG_1X = """data_preprocessor = dict(
    bgr_to_rgb=False,
    mean=[
        103.53,
        116.28,
        123.675,
    ],
    std=[1.0, 1.0, 2.0])
model = dict(
    auxiliary_head=dict(align_corners=False),
    backbone=dict(
        contract_dilation=False, dilations=(1, 1, 2, 4), multi_grid=(1, 2), strides=(1, 2, 1, 1), style='caffe'),
    decode_head=dict(align_corners=True, threshold=0.4))
"""


def imported(content: object, folder: Path, **options: Any) -> tuple[dict[str, Tensor], CheckpointMeta]:
    torch.save(content, folder / "theirs.pth")
    out = folder / "out.safetensors"
    main(ImportConfig((folder / "theirs.pth",), out, input_height=SIZE[0], input_width=SIZE[1], **options))
    return load_checkpoint(out)


def mmseg(classes: int = 5) -> dict[str, Tensor]:
    return dict(random_weights(MMSeg(18, classes, 8)).state_dict())


def test_what_mmsegs_configuration_says_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, meta = imported({"meta": {"config": CONFIG_0X}, "state_dict": mmseg()}, tmp_path)
    assert meta.align_corners is True
    assert meta.provenance["file_says"].startswith(
        "align_corners True, contracted True, stride_in 3x3, channel_"
    )
    assert "of these the file says itself: align_corners True" in capsys.readouterr().out
    _, meta = imported({"meta": {"config": CONFIG_0X}, "state_dict": mmseg()}, tmp_path, align_corners=False)
    assert meta.align_corners is False, "the option counts for more"
    _, meta = imported({"meta": {}, "state_dict": mmseg()}, tmp_path)
    assert (meta.align_corners, meta.provenance["file_says"]) == (False, "nothing")


def test_mean_and_order_of_the_configuration(tmp_path: Path) -> None:
    text = CONFIG_1X.replace("caffe", "pytorch")  # blocks of a ResNet-18 have no 1x1
    state = mmseg()
    got, meta = imported({"meta": {"cfg": text}, "state_dict": state}, tmp_path)
    assert (meta.mean, meta.std, meta.align_corners) == ((123.675, 116.28, 103.53), (2.0, 1.0, 1.0), True)
    assert meta.layout is not None
    assert (meta.layout.contracted, meta.layout.multi_grid) == (False, (1, 2))
    assert meta.provenance["fed"].startswith("bgr")
    assert torch.equal(got["backbone.stem.0.0.weight"], state["backbone.stem.0.weight"].flip(1))
    # an order that contradicts the file's turns no means round
    _, meta = imported({"meta": {"cfg": text}, "state_dict": state}, tmp_path, channel_order="rgb")
    assert meta.mean == (123.675, 116.28, 103.53)
    assert meta.provenance["fed"].startswith("rgb")


def test_the_styles_of_bottlenecks() -> None:
    said = habits(CONFIG_1X)
    assert (said.stride_in, said.threshold, said.channel_order) == ("1x1", 0.4, "bgr")
    assert habits("") == habits("mean=[e, e], std=0, multi_grid=None, style=None, to_rgb=x, threshold=None")


@pytest.mark.parametrize(
    ("built", "said"),
    [
        ("strides=(1, 2, 1, 1)", "strides=(1, 2, 2, 2)"),
        ("dilations=(1, 1, 2, 4)", "dilations=(1, 1, 1, 2)"),
        ("pool_scales=(1, 2, 3, 6)", "pool_scales=(1, 2, 4, 8)"),
    ],
)
def test_a_network_of_another_stride_is_refused(tmp_path: Path, built: str, said: str) -> None:
    """Its tensors fit, and make another function."""
    wrong = CONFIG_0X.replace(built, said)
    assert wrong != CONFIG_0X
    name, numbers = re.sub(r"[()]", "", said).split("=")
    with pytest.raises(
        CheckpointError, match=rf"configuration says {name} {numbers}, expected .*another function"
    ):
        imported({"meta": {"config": wrong}, "state_dict": mmseg()}, tmp_path)
    assert not (tmp_path / "out.safetensors").exists()


def test_the_way_out_keeps_the_configuration(tmp_path: Path) -> None:
    content = {"meta": {"cfg": CONFIG_0X}, "state_dict": mmseg(), "message_hub": Path("x")}
    with pytest.raises(CheckpointError, match="more than tensors") as refused:
        imported(content, tmp_path)
    command = str(refused.value).split("then import the result: ")[1]
    python = command.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
    subprocess.run(python, shell=True, check=True, cwd=tmp_path)
    made = torch.load(tmp_path / "theirs-weights.pth", weights_only=True)
    assert imported(made, tmp_path)[1].align_corners is True


def test_csails_batch_norms_keep_sums_that_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net: Any = random_weights(CSAIL(18, 5, 8))
    assert "bn1._tmp_running_mean" in net.encoder.state_dict()
    out = tmp_path / "out.safetensors"
    main(ImportConfig(save_csail(net, tmp_path), out, input_height=SIZE[0], input_width=SIZE[1]))
    left_out = load_checkpoint(out)[1].provenance["left_out"]
    assert "bn1._running_iter, bn1._tmp_running_mean, bn1._tmp_running_var" in left_out
    assert re.search(r" and \d+ more$", left_out)
    said = " ".join(capsys.readouterr().out.split())
    assert "--channel-order bgr --mean 102.9801 115.9465 122.7717 --std 1 1 1" in said


def beside(kind: str) -> tuple[dict[str, Tensor], list[str]]:
    """A state dict with more than weights in it, and the names of what is more."""
    state = mmseg()
    if kind == "mmcv's averages":
        averages = {f"ema_{name.replace('.', '_')}": tensor * 2 for name, tensor in state.items()}
        return state | averages, sorted(averages)[:3]
    wrapped = {f"module.{name}": tensor for name, tensor in state.items()}
    name = {
        "mmengine's averages": "steps",
        "a loss": "module.criterion.weight",
        "CSAIL's loss": "crit.weight",
    }[kind]
    return wrapped | {name: torch.tensor(3)}, [name]


@pytest.mark.parametrize("kind", ["mmcv's averages", "mmengine's averages", "a loss", "CSAIL's loss"])
def test_what_lies_beside_the_weights_is_left_out_and_recorded(tmp_path: Path, kind: str) -> None:
    plain, _ = imported(mmseg(), tmp_path)
    state, names = beside(kind)
    got, meta = imported({"ema_state_dict": state}, tmp_path)
    assert all(torch.equal(got[name], plain[name]) for name in plain)
    assert meta.provenance["left_out"].startswith(", ".join(names))


def test_a_moving_average_of_nothing_is_left_over(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="1 left over: ema_backbone_other_weight"):
        imported(mmseg() | {"ema_backbone_other_weight": torch.ones(2)}, tmp_path)


def test_a_file_to_resume_from_that_calls_it_net(tmp_path: Path) -> None:
    _, meta = imported({"net": random_weights(Semseg(18, 5, 8)).state_dict()}, tmp_path)
    assert (meta.provenance["imported_from"], meta.provenance["taken_from"]) == ("semseg", "net")


@pytest.mark.parametrize(("config", "threshold"), [("", 0.3), ("decode_head=dict(threshold=0.6)", 0.6)])
def test_a_binary_head_becomes_two_outputs(tmp_path: Path, config: str, threshold: float) -> None:
    """mmseg: class 1 where the sigmoid of the only output, upsampled, is above the threshold."""
    net: Any = random_weights(MMSeg(18, 1, 8))
    rgb = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    last = net.decode_head.conv_seg
    with torch.inference_mode():
        deviation, mean = torch.std_mean(net(fed_255(rgb)))
        last.weight.data /= deviation
        last.bias.data = (last.bias.data - mean) / deviation
        large = F.interpolate(net(fed_255(rgb)), SIZE, mode="bilinear", align_corners=False)
        expected = (large.sigmoid() > threshold)[0, 0].numpy()
    assert 0.05 < expected.mean() < 0.95
    meta = {"config": config, "CLASSES": ("background", "floor")}
    _, said = imported({"meta": meta, "state_dict": net.state_dict()}, tmp_path)
    assert said.classes == ("background", "floor")
    assert said.provenance["made_of_one_output"] == f"class 1 above {threshold}"
    engine = checkpoint_segmenter(tmp_path / "out.safetensors").engine(rgb[None])
    upsampled = F.interpolate(torch.from_numpy(engine), SIZE, mode="bilinear", align_corners=False)
    assert (upsampled.argmax(1)[0].numpy() == expected).mean() > 0.999


def test_a_binary_head_whose_threshold_nobody_knows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cls\.4 has one output, expected one for each class"):
        imported(dict(random_weights(Semseg(18, 1, 8)).state_dict()), tmp_path)


@pytest.mark.parametrize(
    ("names", "said"),
    [(("a", "b", "a", "c", "d"), r"names \['a'\] twice"), (("a", "", "b", "c", "d"), "without a name")],
)
def test_names_in_the_file_are_checked_too(tmp_path: Path, names: tuple[str, ...], said: str) -> None:
    content = {"meta": {"CLASSES": names}, "state_dict": mmseg()}
    with pytest.raises(UsageError, match=f"{said}.*give them with --classes"):
        imported(content, tmp_path)
    (good := tmp_path / "names.txt").write_text("a\nb\nc\nd\ne\n")
    assert imported(content, tmp_path, classes=good)[1].classes == ("a", "b", "c", "d", "e")


def test_the_source_is_not_written_over(tmp_path: Path) -> None:
    (path := tmp_path / "theirs.safetensors").write_bytes(b"weights")
    (tmp_path / "link.safetensors").symlink_to(path)
    for out in (path, tmp_path / "." / "theirs.safetensors", tmp_path / "link.safetensors"):
        with pytest.raises(UsageError, match="is the file to read, which would be lost: give another name"):
            ImportConfig((path,), out)


def test_an_order_is_recorded_by_number(tmp_path: Path) -> None:
    (order := tmp_path / "order.txt").write_text("d\na\nb\n")
    files = save_mmseg(random_weights(MMSeg(18, 5, 8)), tmp_path)
    config = ImportConfig(files, tmp_path / "out.safetensors", order=order, input_height=41, input_width=49)
    main(config)
    assert load_checkpoint(config.out)[1].provenance["outputs_taken"] == "3, 0, 1 of 5"
    main(replace(config, order=None))
    assert "outputs_taken" not in load_checkpoint(config.out)[1].provenance
