"""A class that wins only against all others together: the rule itself, its checkpoint, and its way to an export."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image

from export.fold import fold
from segserve.errors import CheckpointError, UsageError
from training import majority, pspnet, rebalance
from training.checkpoint import CheckpointMeta, load_checkpoint, load_model, save_checkpoint
from training.decision import Majority
from training.majority import MajorityConfig

CLASSES = ("wall", "floor", "ceiling", "chair", "other")


def logits(seed: int = 0, spread: float = 1.5) -> torch.Tensor:
    return torch.randn(2, len(CLASSES), 13, 17, generator=torch.Generator().manual_seed(seed)) * spread


def checkpoint(path: Path, classes: tuple[str, ...] = CLASSES) -> Path:
    torch.manual_seed(3)
    model = pspnet.build("pspnet18", len(classes)).eval()
    next(model.head[-1].parameters()).data *= 30  # so that classes differ from pixel to pixel
    mean, std = pspnet.normalisation("pspnet18")
    meta = CheckpointMeta("pspnet18", classes, 255, mean, std, True, 64, 96, 3, {"miou": 0.5}, {"seed": "3"})
    save_checkpoint(path, model.state_dict(), meta)
    return path


@pytest.mark.parametrize("label", range(len(CLASSES)))
def test_one_half_of_the_probability_decides(label: int) -> None:
    before = logits()
    share = before.softmax(dim=1)[:, label]
    after = Majority([label], len(CLASSES))(before)
    assert torch.equal(after.argmax(1) == label, share > 0.5)
    lost = (before.argmax(1) == label) & (share < 0.5)
    assert 0.02 < lost.float().mean() < 0.5  # it is about something
    # the others have among themselves what they had
    others = [n for n in range(len(CLASSES)) if n != label]
    assert torch.equal(after[:, others], before[:, others])


def test_several_classes_each_for_itself() -> None:
    before = logits(1)
    after = Majority([1, 3], len(CLASSES))(before)
    for label in (1, 3):
        alone = Majority([label], len(CLASSES))(before)
        assert torch.equal(after[:, label], alone[:, label])
    assert torch.equal(after[:, [0, 2, 4]], before[:, [0, 2, 4]])


def test_far_logits_stay_numbers() -> None:
    far = torch.tensor([3e4, -3e4, 6e4, 0.0, -6e4]).reshape(1, 5, 1, 1).half()
    after = Majority([1, 2], 5)(far)
    assert after.dtype == torch.float32
    assert torch.isfinite(after).all()
    assert after.argmax(1).item() == 2


def test_the_checkpoint_says_so_and_the_model_does_so(tmp_path: Path) -> None:
    plain, made = checkpoint(tmp_path / "plain.safetensors"), tmp_path / "floor.safetensors"
    majority.main(MajorityConfig(plain, ("floor",), made))
    state, meta = load_checkpoint(made)
    assert meta.majority == ("floor",)
    assert meta.metrics == {}
    assert meta.provenance == {"seed": "3"}
    assert load_checkpoint(plain)[1].majority is None
    assert state.keys() == load_checkpoint(plain)[0].keys()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        expected = Majority([1], len(CLASSES))(load_model(plain)[0](images))
        got = load_model(made)[0](images)
        folded = fold(load_model(made)[0])(images)
    assert torch.equal(got, expected)
    torch.testing.assert_close(folded, expected, rtol=1e-3, atol=1e-3)
    assert (expected - load_model(plain)[0](images)).abs().max() > 0.01


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    plain, out = checkpoint(tmp_path / "plain.safetensors"), tmp_path / "out.safetensors"
    with pytest.raises(UsageError, match="--classes flor: expected some of wall, floor"):
        majority.main(MajorityConfig(plain, ("flor",), out))
    with pytest.raises(UsageError, match="it stays as it is"):
        MajorityConfig(plain, ("floor",), plain)
    with pytest.raises(UsageError, match="each once"):
        MajorityConfig(plain, ("floor", "floor"), out)
    two = checkpoint(tmp_path / "two.safetensors", ("floor", "rest"))
    with pytest.raises(UsageError, match="has the majority"):
        majority.main(MajorityConfig(two, ("floor",), out))
    assert not out.exists()
    with pytest.raises(CheckpointError, match=r"no checkpoint at .*no\.safetensors"):
        majority.main(MajorityConfig(tmp_path / "no.safetensors", ("floor",), out))


def test_a_description_with_a_class_that_is_none_is_refused(tmp_path: Path) -> None:
    _, meta = load_checkpoint(checkpoint(tmp_path / "plain.safetensors"))
    assert CheckpointMeta.from_json(dataclasses.replace(meta, majority=("floor",)).to_json()).majority == (
        "floor",
    )
    for wrong in ((), ("sky",), ("floor", "floor")):
        with pytest.raises(CheckpointError, match="majority"):
            dataclasses.replace(meta, majority=wrong)


def test_rebalance_comes_first(tmp_path: Path) -> None:
    made = tmp_path / "floor.safetensors"
    majority.main(MajorityConfig(checkpoint(tmp_path / "plain.safetensors"), ("floor",), made))
    folder = tmp_path / "data"
    (folder / "val").mkdir(parents=True)
    names = ", ".join(f'"{name}"' for name in CLASSES)
    (folder / "dataset.toml").write_text(
        f'name = "d"\nclasses = [{names}]\nignore_label = 255\n[splits.val]\nimages = "val"\nlabels = "val"\n'
    )
    Image.new("L", (8, 8)).save(folder / "val" / "0.png")
    with pytest.raises(UsageError, match=r"rebalance the checkpoint that training\.majority was given"):
        rebalance.main(rebalance.RebalanceConfig(made, folder / "dataset.toml", tmp_path / "o.safetensors"))
