"""Files as people really have them: without counters, wrapped, in other containers, halves, with a background."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from segserve.errors import CheckpointError, UsageError
from tests.foreign_habits import save_csail, save_mmseg, save_semseg
from tests.foreign_nets import CSAIL, Classifier, MMSeg, Semseg, random_weights
from training.checkpoint import CheckpointMeta, load_checkpoint
from training.class_names import arrange, read_names
from training.foreign import unwrap
from training.import_checkpoint import ImportConfig, main
from training.mapping import COUNTER
from training.torch_engine import checkpoint_segmenter

pytestmark = pytest.mark.usefixtures("one_thread")


def imported(*files: Path, **options: Any) -> Path:
    out = files[0].with_name("out.safetensors")
    main(ImportConfig(files, out, input_height=41, input_width=49, **options))
    return out


def loaded(content: object, folder: Path, **options: Any) -> tuple[dict[str, Tensor], CheckpointMeta]:
    """What is imported of a file that holds `content`."""
    torch.save(content, folder / "theirs.pth")
    return load_checkpoint(imported(folder / "theirs.pth", **options))


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def mmseg() -> dict[str, Tensor]:
    return dict(random_weights(MMSeg(18, 5, 8)).state_dict())


def save_classifier(net: nn.Module, folder: Path) -> tuple[Path, ...]:
    torch.save(net.state_dict(), folder / "resnet18.pth")
    return (folder / "resnet18.pth",)


def without_counters(path: Path) -> None:
    content = torch.load(path, weights_only=True)
    state = content.get("state_dict", content)
    for name in [name for name in state if name.endswith(COUNTER)]:
        del state[name]
    torch.save(content, path)


@pytest.mark.parametrize(
    ("make", "save"),
    [
        (lambda: Semseg(18, 5, 8), save_semseg),
        (lambda: MMSeg(18, 5, 8), save_mmseg),
        (lambda: CSAIL(18, 5, 8), save_csail),
        (lambda: Classifier(18, 8), save_classifier),
    ],
)
def test_files_from_before_batch_norms_counted(
    tmp_path: Path,
    make: Callable[[], nn.Module],
    save: Callable[[nn.Module, Path], tuple[Path, ...]],
) -> None:
    """torchvision's first weights, and what was converted from Caffe."""
    files = save(random_weights(make()), tmp_path)
    expected, _ = load_checkpoint(imported(*files))
    for path in files:
        without_counters(path)
    got, _ = load_checkpoint(imported(*files))
    assert sum(name.endswith(COUNTER) for name in got) > 10
    assert same(got, expected)


def test_counters_that_are_one_tensor_become_one_each(tmp_path: Path) -> None:
    state, one = mmseg(), torch.tensor(7)
    state |= {name: one for name in state if name.endswith(COUNTER)}
    got, _ = loaded(state, tmp_path)
    assert {int(tensor) for name, tensor in got.items() if name.endswith(COUNTER)} == {7}


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.module.", "module._orig_mod.", "module.module.", "model.", "net.", "model._orig_mod.net."],
)  # fmt: skip
def test_wrappers_are_taken_off_however_they_are_nested(tmp_path: Path, prefix: str) -> None:
    plain, _ = loaded(mmseg(), tmp_path)
    got, meta = loaded({"state_dict": {prefix + name: t for name, t in mmseg().items()}}, tmp_path)
    assert same(got, plain)
    assert meta.provenance["taken_from"] == "state_dict"


def test_an_averaged_model_of_torch(tmp_path: Path) -> None:
    net = random_weights(MMSeg(18, 5, 8))
    averaged = AveragedModel(net).state_dict()
    assert "n_averaged" in averaged
    got, _ = loaded(averaged, tmp_path)
    assert same(got, loaded(net.state_dict(), tmp_path)[0])


@pytest.mark.parametrize(
    "names",
    [("model.a", "model.b", "criterion.weight"), ("net.a", "a"), ("encoder.conv1.weight", "decoder.conv1.weight")],
)  # fmt: skip
def test_what_is_no_wrapper_stays(names: tuple[str, ...]) -> None:
    tensors = {name: torch.tensor(number) for number, name in enumerate(names)}
    assert unwrap(tensors) == tensors


@pytest.mark.parametrize(
    "container", ["model_state", "model_state_dict", "state_dict_ema", "ema_state_dict", "model_ema"]
)
def test_containers_and_which_was_taken(tmp_path: Path, container: str) -> None:
    plain, meta = loaded(mmseg(), tmp_path)
    assert meta.provenance["taken_from"] == "the top of the file"
    got, meta = loaded({"epoch": 3, "model": {"depth": 18}, container: mmseg()}, tmp_path)
    assert same(got, plain)
    assert meta.provenance["taken_from"] == container


def test_plain_weights_come_before_averaged_ones(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    averaged = {name: tensor * 2 for name, tensor in mmseg().items()}
    got, meta = loaded({"state_dict_ema": averaged, "state_dict": mmseg()}, tmp_path)
    assert meta.provenance["taken_from"] == "state_dict, not state_dict_ema"
    assert "weights from state_dict, not state_dict_ema\n" in capsys.readouterr().out
    assert same(got, loaded(mmseg(), tmp_path)[0])


def test_csails_encoder_alone_is_not_taken_for_a_classifier(tmp_path: Path) -> None:
    encoder, decoder = save_csail(random_weights(CSAIL(50, 5, 8)), tmp_path)
    for source in ("auto", "csail"):
        with pytest.raises(
            CheckpointError, match=r"CSAIL's encoder alone. Expected its decoder\.pth beside it"
        ):
            imported(encoder, source=source)
    assert not (tmp_path / "out.safetensors").exists()
    _, meta = load_checkpoint(imported(encoder, source="torchvision", contracted=True))
    assert meta.layout is not None
    assert (meta.classes, len(meta.layout.stem), meta.layout.contracted) == ((), 3, True)
    assert load_checkpoint(imported(encoder, decoder))[1].provenance["imported_from"] == "csail"
    other = {
        "conv_last.weight": torch.ones(5, 8, 1, 1),
        "conv_last.bias": torch.ones(5),
    }  # CSAIL's decoder c1
    with pytest.raises(CheckpointError, match="conv_last"):  # named, and not said to be missing
        loaded(torch.load(encoder, weights_only=True) | other, tmp_path)
    classifier = torch.load(encoder, weights_only=True)  # CSAIL's own ImageNet weights have this stem and fc
    got, meta = loaded(classifier | {"fc.weight": torch.ones(2, 2), "fc.bias": torch.ones(2)}, tmp_path)
    assert meta.provenance["imported_from"] == "torchvision"
    assert "backbone.stem.2.0.weight" in got


def test_outputs_that_the_order_does_not_name_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """5 outputs, of which the first stands for the background."""
    files = save_mmseg(random_weights(MMSeg(18, 5, 8)), tmp_path)
    names, order = tmp_path / "names.txt", tmp_path / "order.txt"
    names.write_text("[background]\na\nb\nc\nd\n")
    before = checkpoint_segmenter(imported(*files, classes=names))
    state, meta = load_checkpoint(tmp_path / "out.safetensors")
    assert meta.provenance["outputs_left_out"] == "nothing"
    order.write_text("d\na\nb\n")
    after = checkpoint_segmenter(imported(*files, classes=names, order=order))
    rgb = np.random.default_rng(0).integers(0, 256, (1, 41, 49, 3), np.uint8)
    assert np.abs(after.engine(rgb) - before.engine(rgb)[:, [4, 1, 2]]).max() < 1e-5
    got, meta = load_checkpoint(tmp_path / "out.safetensors")
    assert meta.classes == ("d", "a", "b")
    assert meta.provenance["outputs_left_out"] == "[background], c"
    assert meta.provenance["class_order"] == "rearranged as in order.txt"
    assert "outputs that --order leaves out: [background], c" in capsys.readouterr().out
    for name in ("head.3.weight", "head.3.bias", "aux.3.weight", "aux.3.bias"):
        assert torch.equal(got[name], state[name][[4, 1, 2]])


def test_an_order_that_fits_no_output_is_refused(tmp_path: Path) -> None:
    (order := tmp_path / "order.txt").write_text("a\nlamp\n")
    files = save_mmseg(random_weights(MMSeg(18, 5, 8)), tmp_path)
    with pytest.raises(
        UsageError, match=r"--order names \['lamp'\], which are no outputs .*: a, b, c, d, e$"
    ):
        imported(*files, order=order)
    with pytest.raises(UsageError, match=r"it has: none, as it is a trunk without heads"):
        imported(*save_classifier(random_weights(Classifier(18, 8)), tmp_path), order=order)
    with pytest.raises(UsageError, match=r"cannot tell outputs of one name apart, \['a'\]"):
        arrange({}, ("a", "b", "a"), ("a", "b"))


def test_names_from_windows_have_no_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfwall\r\nfloor\r\n")
    assert read_names(tmp_path / "names.txt") == ("wall", "floor")
