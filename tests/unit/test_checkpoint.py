"""A checkpoint comes back as it was written, or not at all."""

from __future__ import annotations

import math
import os
import pickle
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from segserve.errors import CheckpointError
from training import pspnet
from training.checkpoint import (
    AUX,
    CheckpointMeta,
    load_checkpoint,
    load_model,
    load_training,
    save_checkpoint,
)

pytestmark = pytest.mark.usefixtures("one_thread")

META = CheckpointMeta(
    preset="pspnet_lite0",
    classes=("wall", "floor", "Türe"),
    ignore_label=255,
    mean=(127.0, 127.0, 127.0),
    std=(128.0, 128.0, 128.0),
    align_corners=True,
    input_height=97,
    input_width=129,
    epoch=3,
    metrics={"miou": 0.25, "iou of a class that never occurred": math.nan},
    provenance={"command": "python -m training.train"},
)


@pytest.fixture
def state() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 4, 3, 3, generator=generator)
    return {
        "conv.weight": weight.contiguous(memory_format=torch.channels_last),
        "norm.running_var": torch.full((8,), 1e6),  # beyond float16
        "norm.num_batches_tracked": torch.tensor(7),
    }


def test_everything_comes_back(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "new folder" / "last.safetensors"
    momentum = {"momentum/conv.weight": torch.ones(8, 4, 3, 3), "scaler/scale": torch.tensor(2.0)}
    save_checkpoint(path, state, META, training=momentum)
    loaded, meta = load_checkpoint(path)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[name], state[name]) for name in state)
    assert all(torch.equal(tensor, momentum[name]) for name, tensor in load_training(path).items())
    assert load_training(path).keys() == momentum.keys()
    assert math.isnan(meta.metrics["iou of a class that never occurred"])
    assert replace(meta, metrics={}) == replace(META, metrics={})
    assert sorted(p.name for p in path.parent.iterdir()) == ["last.json", "last.safetensors"]


def test_the_readable_copy_is_not_needed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, state, META)
    assert (
        CheckpointMeta.from_json((tmp_path / "best.json").read_text(encoding="utf-8")).classes == META.classes
    )
    (tmp_path / "best.json").unlink()
    assert load_checkpoint(path)[1].classes == META.classes


def test_half_precision_keeps_vectors_whole(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, state, META, half=True)
    stored = safetensors.torch.load_file(path)
    assert stored["conv.weight"].dtype == torch.float16
    loaded, _ = load_checkpoint(path)
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32, torch.int64}
    assert torch.equal(loaded["conv.weight"], state["conv.weight"].half().float())
    assert torch.equal(loaded["norm.running_var"], state["norm.running_var"])


def test_half_precision_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"conv\.weight does not fit float16"):
        save_checkpoint(tmp_path / "m.safetensors", {"conv.weight": torch.full((2, 2), 1e5)}, META, half=True)
    assert list(tmp_path.iterdir()) == []


def test_torn_anywhere_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    whole = tmp_path / "whole.safetensors"
    save_checkpoint(whole, state, META)
    data = whole.read_bytes()
    torn = tmp_path / "torn.safetensors"
    header_end = 8 + int.from_bytes(data[:8], "little")
    for length in (0, 1, 8, 9, header_end - 1, header_end, header_end + 1, len(data) // 2, len(data) - 1):
        torn.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"torn\.safetensors"):
            load_checkpoint(torn)
    torn.write_bytes(data + b"\0")
    with pytest.raises(CheckpointError, match=r"torn\.safetensors"):
        load_checkpoint(torn)


def test_a_flipped_bit_anywhere_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, state, META)
    data = path.read_bytes()
    header_end = 8 + int.from_bytes(data[:8], "little")
    # spaces after the header are alignment: the last byte that means something is its closing brace
    meaningful = data.rindex(b"}", 0, header_end) + 1
    positions = [*range(0, meaningful, 7), *range(header_end, len(data), 31), len(data) - 1]
    for position in positions:
        damaged = bytearray(data)
        damaged[position] ^= 0x04
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"model\.safetensors"):
            load_checkpoint(path)


def test_swapped_description_is_refused(tmp_path: Path, state: dict[str, Tensor]) -> None:
    """Well-formed, right tensors, but classes in another order than when it was written."""
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, state, META)
    with safetensors.safe_open(str(path), framework="pt") as file:
        header = dict(file.metadata())
    header["segserve"] = header["segserve"].replace('"wall", "floor"', '"floor", "wall"')
    safetensors.torch.save_file({name: t.contiguous() for name, t in state.items()}, path, header)
    with pytest.raises(CheckpointError, match="SHA-256 differs"):
        load_checkpoint(path)


def test_foreign_safetensors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"weight": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not a checkpoint of training\.train"):
        load_checkpoint(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError, match="no checkpoint at"):
            load_checkpoint(path)


class Bomb:
    """Leaves a trace if it is ever unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.trace),)


def test_a_pickle_is_refused_without_being_opened(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(Bomb(trace)))
    torch.save(Bomb(trace), tmp_path / "zip.pth")
    for name in ("bare.pth", "zip.pth"):
        with pytest.raises(CheckpointError, match="pickled PyTorch file"):
            load_checkpoint(tmp_path / name)
    assert not trace.exists()
    pickle.loads((tmp_path / "bare.pth").read_bytes())
    assert trace.exists()  # the bomb is a live one


def test_interrupted_write_leaves_the_old_file(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    save_checkpoint(path, state, META)

    def fail(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", fail)
    newer = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*no space left"):
        save_checkpoint(path, newer, replace(META, epoch=4))
    loaded, meta = load_checkpoint(path)
    assert meta.epoch == 3
    assert torch.equal(loaded["conv.weight"], state["conv.weight"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["last.json", "last.safetensors"]


def test_what_killed_writers_left_is_removed(tmp_path: Path, state: dict[str, Tensor]) -> None:
    with subprocess.Popen(["true"]) as ended:
        pass
    mine, others = f".last.safetensors.{ended.pid}.tmp", f".best.safetensors.{ended.pid}.tmp"
    living = f".last.safetensors.{os.getppid()}.tmp"
    for name in (mine, others, living, ".last.safetensors.txt.tmp"):
        (tmp_path / name).write_bytes(b"half")
    save_checkpoint(tmp_path / "last.safetensors", state, META)
    expected = {others, living, ".last.safetensors.txt.tmp", "last.json", "last.safetensors"}
    assert {path.name for path in tmp_path.iterdir()} == expected


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"classes": ()}, "classes"),
        ({"std": (1.0, 0.0, 1.0)}, "std"),
        ({"mean": (1.0, 2.0)}, "mean"),
        ({"input_height": 0}, "input_height"),
        ({"ignore_label": 256}, "ignore_label"),
        ({"ignore_label": 0}, "ignore_label"),  # a class
        ({"align_corners": 1}, "align_corners"),
        ({"provenance": {"seed": 1}}, "provenance"),
    ],
)
def test_a_description_that_makes_no_sense_is_named(change: dict[str, Any], named: str) -> None:
    with pytest.raises(CheckpointError, match=rf"{named}="):
        replace(META, **change)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("not JSON", "cannot be read"),
        ("[]", "cannot be read"),
        ("{}", "schema"),
        ('{"schema": 2}', "schema is not 1"),
        ('{"schema": 1, "preset": "x"}', "missing or unknown"),
    ],
)
def test_a_description_of_another_kind_is_refused(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        CheckpointMeta.from_json(text)


def test_model_with_and_without_auxiliary_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = pspnet.build("pspnet_lite0", 3).eval()
    images = torch.rand(1, 3, 33, 41)
    with torch.no_grad():
        expected = model(images)
    served = {name: tensor for name, tensor in model.state_dict().items() if not name.startswith(AUX)}
    for name, state in (("full", model.state_dict()), ("served", served)):
        save_checkpoint(tmp_path / f"{name}.safetensors", state, META)
        loaded, _ = load_model(tmp_path / f"{name}.safetensors")
        assert not loaded.training
        with torch.no_grad():
            assert torch.equal(loaded(images), expected)
    assert not hasattr(loaded, "aux")  # rather than one that nobody trained
    with pytest.raises(CheckpointError, match="no training state"):
        load_training(tmp_path / "full.safetensors")


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = pspnet.build("pspnet_lite0", 3).state_dict()
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, state, replace(META, classes=("wall", "floor")))
    with pytest.raises(CheckpointError, match=r"head\.3\.bias has shape \(3,\), expected \(2,\)"):
        load_model(path)
    save_checkpoint(path, {name: t for name, t in state.items() if name != "head.3.bias"}, META)
    with pytest.raises(CheckpointError, match=r"head\.3\.bias is missing"):
        load_model(path)
    save_checkpoint(path, state | {"extra": torch.zeros(1)}, META)
    with pytest.raises(CheckpointError, match="extra is not in the model"):
        load_model(path)
    save_checkpoint(path, state, replace(META, preset="unet"))
    with pytest.raises(CheckpointError, match="preset 'unet' is not one of"):
        load_model(path)
