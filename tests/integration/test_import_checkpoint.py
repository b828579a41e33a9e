# mypy: disable-error-code="operator, union-attr, no-untyped-call"
"""Every source's network, rebuilt from its own description with random weights, answers like what is imported from it.

The original gets what its repository feeds it: its own scale, channel order and normalisation. The import gets a
photo's bytes, on the served path.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from export.fold import fold
from export.served_net import ServedNet
from segserve.errors import CheckpointError, UsageError
from tests.foreign_habits import (
    MEAN,
    Pixels,
    fed_255,
    fed_caffe,
    fed_unit,
    save_csail,
    save_mmseg,
    save_semseg,
)
from tests.foreign_nets import CSAIL, Classifier, MMSeg, Semseg, random_weights
from training import pspnet
from training.checkpoint import load_checkpoint, load_model
from training.config import TrainConfig
from training.import_checkpoint import ImportConfig, main
from training.start import start
from training.torch_engine import checkpoint_segmenter

SIZE = (73, 97)  # no side a multiple of 8, both 8 n + 1, which semseg asks for
pytestmark = pytest.mark.usefixtures("one_thread")


def photo() -> Pixels:
    """Smooth colours with edges, uint8 (H, W, 3)."""
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (7, 9, 3), np.uint8))
    return np.array(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC))


CAFFE = {
    "channel_order": "bgr", "mean": (103.53, 116.28, 123.675), "std": (50.0, 50.0, 50.0), "stride_in": "1x1",
}  # fmt: skip
CASES = {
    "semseg R50": (lambda: Semseg(50, 5, 8), save_semseg, fed_255, True, {}),
    "semseg R101": (lambda: Semseg(101, 5, 4), save_semseg, fed_255, True, {}),
    "semseg R50, 7x7 stem": (lambda: Semseg(50, 5, 8, deep_stem=False), save_semseg, fed_255, True, {}),
    "mmseg R50 V1c": (lambda: MMSeg(50, 5, 8), save_mmseg, fed_255, False, {}),
    "mmseg R18 V1c": (lambda: MMSeg(18, 5, 8), save_mmseg, fed_255, False, {}),
    "mmseg R50, caffe": (lambda: MMSeg(50, 5, 8, caffe=True), save_mmseg, fed_caffe, False, CAFFE),
    "csail R50": (lambda: CSAIL(50, 5, 8), save_csail, fed_unit, False, {}),
    "csail R18": (lambda: CSAIL(18, 5, 8), save_csail, fed_unit, False, {}),
}  # fmt: skip


def imported(files: tuple[Path, ...], **options: Any) -> Path:
    out = files[0].with_name("out.safetensors")
    main(ImportConfig(files, out, input_height=SIZE[0], input_width=SIZE[1], **options))
    return out


def spread_classes(net: nn.Module, images: Tensor) -> None:
    """Scale the classifier so that every class wins somewhere: one class alone would agree with anything."""
    with torch.inference_mode():
        deviation, mean = torch.std_mean(net(images), dim=(0, 2, 3))
    last = next(
        module
        for name, module in net.named_modules()
        if isinstance(module, nn.Conv2d) and module.out_channels == 5 and not re.search("aux|deepsup", name)
    )
    factor = 3 / deviation
    last.weight.data *= factor.reshape(-1, 1, 1, 1)
    last.bias.data = (last.bias.data - mean) * factor


@pytest.mark.parametrize("case", CASES)
def test_it_answers_like_the_original(case: str, tmp_path: Path) -> None:
    make, save, fed, corners, options = CASES[case]
    net, rgb = random_weights(make()), photo()
    spread_classes(net, fed(rgb))
    with torch.inference_mode():
        logits = net(fed(rgb))
        labels = F.interpolate(logits, SIZE, mode="bilinear", align_corners=corners).argmax(1)[0]
    assert len(labels.unique()) >= 4

    path = imported(save(net, tmp_path), **options)
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "PNG")
    segmenter = checkpoint_segmenter(path)
    got = segmenter.engine(rgb[None])
    assert np.abs(got - logits.numpy()).max() < 1e-4
    assert np.array_equal(got.argmax(1), logits.argmax(1).numpy())
    assert np.array_equal(segmenter.segment(file.getvalue()), labels.numpy())

    model, meta = load_model(path)  # as it is exported: folded, with its normalisation inside
    served = ServedNet(fold(model), meta.mean, meta.std).eval()
    with torch.inference_mode():
        assert (served(torch.from_numpy(rgb[None])) - logits).abs().max() < 1e-4


@pytest.mark.parametrize("deep_stem", [False, True])
def test_a_classifier_becomes_a_trunk_to_train_from(tmp_path: Path, deep_stem: bool) -> None:
    net = random_weights(Classifier(50, 8, deep_stem=deep_stem))
    assert isinstance(net, Classifier)
    torch.save(net.state_dict(), tmp_path / "resnet50.pth")
    path = imported((tmp_path / "resnet50.pth",))
    with pytest.raises(CheckpointError, match="trunk without heads"):
        load_model(path)
    meta = load_checkpoint(path)[1]
    assert meta.provenance["left_out"] == "fc.bias, fc.weight"

    config = TrainConfig((tmp_path / "data.toml",), tmp_path / "run", preset="pspnet50", pretrained_from=path)
    begin = start(config)
    model = pspnet.build("pspnet50", 4, layout=begin.layout).eval()
    assert begin.fill(model, config, ("a", "b", "c", "d")) == f"trunk of {path}"
    images = fed_255(photo())
    with torch.inference_mode():
        trunk = model.backbone
        got = trunk.layer2(trunk.layer1(trunk.stem(images)))
        assert (got - net.features(images)).abs().max() < 1e-4
    assert begin.mean == pytest.approx([255 * value for value in MEAN])


def change(edit: Callable[[dict[str, Tensor]], object], folder: Path) -> tuple[Path]:
    state = random_weights(MMSeg(18, 5, 8)).state_dict()
    edit(state)
    torch.save({"state_dict": state}, folder / "changed.pth")
    return (folder / "changed.pth",)


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        (
            lambda s: s.pop("backbone.layer3.1.bn2.running_var"),
            r"1 missing: backbone\.layer3\.1\.bn2\.running_var",
        ),
        (
            lambda s: s.update({"backbone.extra.weight": torch.ones(2)}),
            r"1 left over: backbone\.extra\.weight",
        ),
        (
            lambda s: s.update({"decode_head.bottleneck.bn.bias": torch.ones(3)}),
            r"another shape: decode_head\.bottleneck\.bn\.bias \(3,\) instead of \(20,\)",
        ),
        (lambda s: s["backbone.stem.0.weight"].fill_(torch.nan), r"not a number: backbone\.stem"),
        (lambda s: s.pop("auxiliary_head.conv_seg.bias"), r"missing: auxiliary_head\.conv_seg\.bias"),
        (lambda s: s.pop("backbone.layer4.1.conv1.weight"), r"\(2, 2, 2, 1\) blocks of the kind BasicBlock"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_written(
    tmp_path: Path, edit: Callable[[dict[str, Tensor]], object], named: str
) -> None:
    with pytest.raises(CheckpointError, match=named):
        imported(change(edit, tmp_path))
    assert not (tmp_path / "out.safetensors").exists()


def test_without_the_auxiliary_head_it_can_be_served(tmp_path: Path) -> None:
    def drop(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith("auxiliary_head")]:
            del state[name]

    model, meta = load_model(imported(change(drop, tmp_path)))
    assert not hasattr(model, "aux")
    assert meta.classes == ("class 0", "class 1", "class 2", "class 3", "class 4")


def test_a_file_that_could_run_code_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "full.pth"
    torch.save({"state_dict": {}, "args": Path("x")}, path)
    with pytest.raises(
        CheckpointError, match=r"more than tensors.*strip it where it was trained.*full-weights\.pth"
    ):
        imported((path,))
    path.write_bytes(b"no pickle")
    with pytest.raises(CheckpointError, match="copy it again"):
        imported((path,))
    torch.save([1], path)
    with pytest.raises(CheckpointError, match="expected a state dict"):
        imported((path,))
    torch.save({"a.weight": torch.ones(1)}, path)
    with pytest.raises(CheckpointError, match=r"none of the known networks: a\.weight"):
        imported((path,))


class Odd(nn.Module):
    """A class that the weights-only unpickler does not know."""

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.state = state

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return self.state


@pytest.mark.parametrize("kind", ["container", "mmseg 1.x", "network in a container", "network", "bare"])
def test_the_way_out_makes_a_file_that_can_be_imported(tmp_path: Path, kind: str) -> None:
    state = {name: value.contiguous() for name, value in random_weights(MMSeg(18, 5, 8)).state_dict().items()}
    args = Path("x")  # as argparse's Namespace: more than tensors
    content: object = {
        "container": {"model": state, "optimizer": {"state": {}}, "epoch": 3, "args": args},
        "mmseg 1.x": {
            "state_dict": state, "message_hub": args, "meta": {"dataset_meta": {"classes": ("a", "b", "c", "d", "e")}},
        },
        "network in a container": {"model": Odd(state), "args": args},
        "network": Odd(state),
        "bare": {**state, "args": args},
    }[kind]  # fmt: skip
    path = tmp_path / "full.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="more than tensors") as refused:
        imported((path,))
    command = str(refused.value).split("then import the result: ")[1]
    python = command.replace("python -c", f"{shlex.quote(sys.executable)} -c", 1)
    repo_root = Path(__file__).parents[2]
    subprocess.run(
        python, shell=True, check=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(repo_root)}
    )
    made = tmp_path / "out" / "out.safetensors"
    made.parent.mkdir()
    (tmp_path / "full-weights.pth").rename(made.parent / "full-weights.pth")
    _, meta = load_model(imported((made.parent / "full-weights.pth",)))
    assert meta.classes[0] == ("a" if kind == "mmseg 1.x" else "class 0")


def test_classes_are_named_checked_and_rearranged(tmp_path: Path) -> None:
    files = save_mmseg(random_weights(MMSeg(18, 5, 8)), tmp_path)
    before = checkpoint_segmenter(imported(files))
    assert before.spec.classes == ("a", "b", "c", "d", "e")
    order = tmp_path / "order.txt"
    order.write_text("e\na\nb\nc\nd\n")
    after = checkpoint_segmenter(imported(files, order=order))
    rgb = photo()[None]
    assert np.array_equal(after.engine(rgb), before.engine(rgb)[:, [4, 0, 1, 2, 3]])
    assert after.spec.classes == ("e", "a", "b", "c", "d")
    order.write_text("a\nb\nc\nd\n")
    with pytest.raises(
        UsageError, match="4 names, the classifier 5 outputs; if output 0 stands for unlabelled"
    ):
        imported(files, classes=order)


def test_what_weights_do_not_say_is_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = save_mmseg(random_weights(MMSeg(50, 5, 8, caffe=True)), tmp_path)
    path = imported(
        files, as_json=True, channel_order="bgr", mean=(0.4, 0.45, 0.5), std=(0.2, 0.2, 0.25), pixel_scale=1,
        stride_in="1x1", bn_eps=1e-3, multi_grid=(1, 2, 4),
    )  # fmt: skip
    said = json.loads(capsys.readouterr().out)
    assert said["mean"] == pytest.approx([127.5, 114.75, 102.0])
    assert said["std"] == pytest.approx([63.75, 51, 51])
    assert said["align_corners"] is False
    assert said["bn_eps"] == 1e-3
    assert (said["layout"]["stride_in"], said["layout"]["contracted"]) == ("1x1", True)
    assert said["provenance"]["imported_from"] == "mmseg"
    model = load_model(path)[0]
    assert {m.eps for m in model.modules() if isinstance(m, nn.BatchNorm2d)} == {1e-3}
    last = [block.conv2[0].dilation[0] for block in model.backbone.layer4]
    assert last == [1, 2, 4]
