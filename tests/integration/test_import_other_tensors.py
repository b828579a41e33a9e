"""Tensors that are no weights as PyTorch has them, names beside those that are known, and options that contradict."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segserve.errors import CheckpointError, UsageError
from tests.foreign_nets import CSAIL, Classifier, MMSeg, Semseg, random_weights
from training.checkpoint import CheckpointMeta, load_checkpoint
from training.import_checkpoint import ImportConfig, main

pytestmark = pytest.mark.usefixtures("one_thread")
State = dict[str, Tensor]
CONFIG = """model = dict(
    backbone=dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=dict(type='SyncBN', eps=0.001)),
    decode_head=dict(align_corners=False))
"""


def imported(content: object, folder: Path, **options: Any) -> tuple[State, CheckpointMeta]:
    torch.save(content, folder / "theirs.pth")
    out = folder / "out.safetensors"
    main(ImportConfig((folder / "theirs.pth",), out, input_height=41, input_width=49, **options))
    return load_checkpoint(out)


def semseg(classes: int = 5) -> State:
    return dict(random_weights(Semseg(18, classes, 8)).state_dict())


def mmseg() -> State:
    return dict(random_weights(MMSeg(18, 5, 8)).state_dict())


def prefixed(prefix: str, state: State) -> State:
    return {prefix + name: tensor for name, tensor in state.items()}


# --- what the configuration says ----------------------------------------------------------------------------


def test_the_files_epsilon_is_taken_unless_an_option_says_otherwise(tmp_path: Path) -> None:
    content = {"state_dict": mmseg(), "meta": {"config": CONFIG}}
    assert imported(content, tmp_path)[1].bn_eps == 1e-3
    assert imported(content, tmp_path, bn_eps=1e-4)[1].bn_eps == 1e-4
    assert imported(mmseg(), tmp_path)[1].bn_eps == 1e-5


def test_a_file_that_says_no_mean_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = {"state_dict": mmseg(), "meta": {"config": CONFIG}}
    said = "the file's configuration does not say mean and std: taken are ImageNet's"
    _, meta = imported(content, tmp_path)
    assert said in " ".join(capsys.readouterr().out.split())
    assert meta.mean == (123.675, 116.28, 103.53)
    assert meta.layout is not None
    assert meta.layout.contracted is False
    imported(content, tmp_path, mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0))
    imported(mmseg(), tmp_path)
    content["meta"] = {"cfg": CONFIG + "data_preprocessor = dict(bgr_to_rgb=True)"}
    _, meta = imported(content, tmp_path)
    assert (meta.mean, meta.std) == ((0, 0, 0), (1, 1, 1))
    assert said not in " ".join(capsys.readouterr().out.split())


def test_a_files_mean_is_believed_in_any_scale(tmp_path: Path) -> None:
    """It is what was done in training; an option of this kind is a slip."""
    text = CONFIG + "data_preprocessor = dict(mean=[0.4, 0.5, 0.6], std=[0.1, 0.2, 0.3])"
    _, meta = imported({"state_dict": mmseg(), "meta": {"cfg": text}}, tmp_path)
    assert (meta.mean, meta.std) == ((0.6, 0.5, 0.4), (0.3, 0.2, 0.1))


# --- options ------------------------------------------------------------------------------------------------

UNIT = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WHOLE = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}


@pytest.mark.parametrize(
    ("given", "scale", "said"),
    [
        (UNIT, 255, "--std 0.229 0.224 0.225 is of pixels of 0 to 1.*: add --pixel-scale 1"),
        (WHOLE, 1, "--mean 123.675 .* are of pixels of 0 to 255.*say --pixel-scale 255"),
        ({**UNIT, "mean": WHOLE["mean"]}, 1, "say --pixel-scale 255"),
    ],
)
def test_mean_and_std_of_the_other_scale_are_refused(given: dict[str, Any], scale: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ImportConfig((Path("a.pth"),), Path("b.safetensors"), pixel_scale=scale, **given)
    fits: dict[str, Any] = UNIT if scale == 1 else WHOLE
    ImportConfig((Path("a.pth"),), Path("b.safetensors"), pixel_scale=scale, **fits)
    none: Any = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    ImportConfig((Path("a.pth"),), Path("b.safetensors"), pixel_scale=scale, **none)


# --- tensors ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [semseg, mmseg, lambda: dict(random_weights(Classifier(18, 8)).state_dict())]
)
def test_kernels_in_tensorflows_order_are_told(tmp_path: Path, make: Callable[[], State]) -> None:
    turned = {name: t.permute(2, 3, 1, 0) if t.dim() == 4 else t for name, t in make().items()}
    with pytest.raises(CheckpointError, match="in TensorFlow's order") as refused:
        imported(turned, tmp_path)
    assert "permute(3, 2, 0, 1)" in str(refused.value)
    assert "--bn-eps 0.001" in str(refused.value)
    assert "Its padding 'same' pads otherwise" in str(refused.value)
    back = {name: t.permute(3, 2, 0, 1) if t.dim() == 4 else t for name, t in turned.items()}
    imported(back, tmp_path)


def test_a_stem_of_three_channels_is_not_taken_for_turned(tmp_path: Path) -> None:
    net = MMSeg(18, 5, 6)  # half of 6 in the stem: its first kernel is 3 x 3 x 3 x 3
    assert net.backbone.stem[0].weight.shape == (3, 3, 3, 3)  # type: ignore[union-attr, index]
    imported(dict(random_weights(net).state_dict()), tmp_path)


def test_a_head_with_several_biases_is_not_binary(tmp_path: Path) -> None:
    state = semseg()
    state["cls.4.weight"] = state["cls.4.weight"][:1]
    with pytest.raises(CheckpointError, match=r"another shape: .*cls\.4\.bias \(5,\) instead of \(1,\)"):
        imported(state, tmp_path)


def quantised(tensor: Tensor) -> Tensor:
    return torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor", "ignore:TypedStorage")
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (quantised, r"no floating-point numbers.*: cls\.4\.weight \(qint8\): import the float checkpoint"),
        (lambda t: t.to(torch.int8), r"cls\.4\.weight \(int8\): import the float checkpoint"),
        (lambda t: t.mean(), r"a single number where a weight was expected: cls\.4\.weight"),
    ],
)  # fmt: skip
def test_tensors_of_other_kinds_are_refused(
    tmp_path: Path, change: Callable[[Tensor], Tensor], said: str
) -> None:
    state = semseg()
    state["cls.4.weight"] = change(state["cls.4.weight"])
    with pytest.raises(CheckpointError, match=said):
        imported(state, tmp_path)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "prefix", ["backbone._orig_mod.", "_orig_mod.backbone.", "module.backbone._orig_mod."]
)
def test_a_part_that_was_compiled_is_the_same_part(tmp_path: Path, prefix: str) -> None:
    plain, _ = imported(mmseg(), tmp_path)
    outer = prefix.partition("backbone.")[0]
    compiled = {
        prefix + name.removeprefix("backbone.") if name.startswith("backbone.") else outer + name: tensor
        for name, tensor in mmseg().items()
    }
    got, _ = imported(compiled, tmp_path)
    assert got.keys() == plain.keys()
    assert all(torch.equal(got[name], plain[name]) for name in plain)


def trunk() -> State:
    state = dict(random_weights(Classifier(18, 8)).state_dict())
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def csail() -> State:
    return dict(random_weights(CSAIL(18, 5, 8)).state_dict())


LOSS = {"loss_fn.weight": torch.ones(5)}
BESIDE: dict[str, tuple[Callable[[], State], str]] = {
    "Lightning": (
        lambda: prefixed("model.", semseg()) | LOSS,
        "semseg's names are under 'model.'; beside them: loss_fn.weight. Save those alone",
    ),
    "averages": (
        lambda: prefixed("model.", semseg()) | prefixed("ema_model.", semseg()),
        "semseg's names are under 'model.'; semseg's names are under 'ema_model.'; beside them: nothing. Save one of",
    ),
    "wrapped twice": (
        lambda: prefixed("module.", prefixed("segmentor.", mmseg()) | LOSS),
        "mmseg's names are under 'segmentor.'; beside them: loss_fn.weight. Save those alone",
    ),
    "mmpretrain": (
        lambda: prefixed("backbone.", trunk()) | {"head.fc.weight": torch.ones(2), "head.fc.bias": torch.ones(2)},
        "torchvision's names are under 'backbone.'; beside them: head.fc.bias, head.fc.weight. Save those alone",
    ),
    "csail": (
        lambda: csail() | LOSS,
        "csail's names are under 'encoder.' and 'decoder.'; beside them: loss_fn.weight. Save those alone",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BESIDE)
def test_names_beside_those_that_are_known_are_told(tmp_path: Path, kind: str) -> None:
    make, expected = BESIDE[kind]
    state_dict = make()
    with pytest.raises(CheckpointError, match="none of the known networks") as refused:
        imported(state_dict, tmp_path)
    said = str(refused.value)
    assert expected in said
    program = said.split("import that: ")[1]
    exec(
        program.replace("'alone.pth'", "path"),
        {"torch": torch, "state_dict": state_dict, "path": tmp_path / "a"},
    )
    _, meta = imported(torch.load(tmp_path / "a", weights_only=True), tmp_path)
    assert meta.provenance["imported_from"] == re.search(r"(\w+)'s names", expected)[1]  # type: ignore[index]


def test_an_encoder_beside_other_things_is_not_called_csails(tmp_path: Path) -> None:
    encoder = {name: tensor for name, tensor in csail().items() if name.startswith("encoder.")}
    with pytest.raises(
        CheckpointError, match=r"; torchvision's names are under 'encoder\.'; beside them: loss"
    ):
        imported(encoder | LOSS, tmp_path)


def test_names_of_nobody_are_told_as_before(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"a\.b\.weight… .* expected a PSPNet of semseg, mmseg or csail"
    ):
        imported({"a.b.weight": torch.ones(2)}, tmp_path)
