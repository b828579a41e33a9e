"""Files that are not opened: what they are is said, and following the advice makes a file that can be imported."""

from __future__ import annotations

import argparse
import ast
import pickle
import re
import shlex
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from segserve.errors import CheckpointError
from tests.foreign_nets import MMSeg, random_weights
from training.checkpoint import load_checkpoint
from training.import_checkpoint import ImportConfig, main

pytestmark = pytest.mark.usefixtures("one_thread")
State = dict[str, Tensor]
ARGS = argparse.Namespace(lr=0.1)


@pytest.fixture(scope="module")
def state() -> State:
    return {name: t.contiguous() for name, t in random_weights(MMSeg(18, 5, 8)).state_dict().items()}


def imported(path: Path, **options: Any) -> State:
    out = path.with_name("out.safetensors")
    main(ImportConfig((path,), out, input_height=41, input_width=49, **options))
    return load_checkpoint(out)[0]


def refused(path: Path) -> str:
    """What is said of it, and nothing else is: neither warnings nor torch's advice."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        with pytest.raises(CheckpointError) as error:
            imported(path)
    said = str(error.value)
    assert not [one for one in warned if issubclass(one.category, UserWarning)]
    assert "weights_only`" not in said
    assert "Re-running" not in said
    assert len(said.splitlines()) == 1
    return said


def follow(said: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the command that a message ends with, as it is."""
    command = said[said.index('python -c "') :].replace("python", shlex.quote(sys.executable), 1)
    return subprocess.run(command, shell=True, check=False, cwd=folder, capture_output=True, text=True)


def require_weights(said: str, made: Path, state: State) -> None:
    """The command of the message makes that file, and it has these weights."""
    done = follow(said, made.parent)
    assert done.returncode == 0, done.stderr
    assert torch.equal(imported(made)["head.3.bias"], state["decode_head.conv_seg.bias"])


STRIPPED: dict[str, Callable[[State], object]] = {
    "ema": lambda s: {"ema": s, "args": ARGS},
    "names beside": lambda s: {"model": {"name": "pspnet"}, "model_state_dict": s, "args": ARGS},
    "arrays": lambda s: {"state_dict": {name: t.numpy() for name, t in s.items()}},
    "nested": lambda s: {"model": {"state_dict": s}, "args": ARGS},
}


@pytest.mark.parametrize("kind", STRIPPED)
def test_what_is_stripped_keeps_the_weights(tmp_path: Path, state: State, kind: str) -> None:
    torch.save(STRIPPED[kind](state), tmp_path / "full.pth")
    said = refused(tmp_path / "full.pth")
    assert "holds more than tensors" in said
    require_weights(said, tmp_path / "full-weights.pth", state)


def test_what_is_stripped_can_still_be_chosen_from(tmp_path: Path, state: State) -> None:
    averaged = {name: tensor * 2 for name, tensor in state.items()}
    adam = {"state": {0: {"exp_avg": torch.ones(3)}}}
    torch.save(
        {"teacher": averaged, "student": state, "optimizer": adam, "args": ARGS}, tmp_path / "full.pth"
    )
    assert follow(refused(tmp_path / "full.pth"), tmp_path).returncode == 0
    assert set(torch.load(tmp_path / "full-weights.pth", weights_only=True)) == {"teacher", "student", "meta"}
    got = imported(tmp_path / "full-weights.pth", take="teacher")
    assert torch.equal(got["head.3.bias"], averaged["decode_head.conv_seg.bias"])


def program(said: str) -> str:
    """The program of the command that a message ends with."""
    return shlex.split(said[said.index('python -c "') :])[2]


@pytest.mark.parametrize("kind", STRIPPED)
def test_stripping_works_where_it_was_trained_long_ago(
    tmp_path: Path, state: State, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Python 3.6, and torch before 1.13, whose load gives what it doesn't know to the unpickler."""
    torch.save(STRIPPED[kind](state), tmp_path / "full.pth")
    text, load = program(refused(tmp_path / "full.pth")), torch.load
    ast.parse(text, feature_version=(3, 6))

    def of_old(path: str, map_location: str | None = None, pickle_module: Any = pickle, **more: Any) -> Any:
        if more:
            raise TypeError(f"Unpickler() got an unexpected keyword argument {next(iter(more))!r}")
        return load(path, map_location=map_location, pickle_module=pickle_module, weights_only=False)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "load", of_old)
        patch.chdir(tmp_path)
        exec(text, {})
    assert torch.equal(
        imported(tmp_path / "full-weights.pth")["head.3.bias"], state["decode_head.conv_seg.bias"]
    )


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_a_best_score_of_numpys_is_no_reason_to_refuse(tmp_path: Path, state: State, module: str) -> None:
    """mmcv 0.x with save_best."""
    meta = {"hook_msgs": {"best_score": np.float64(0.7), "best_ckpt": "best.pth"}, "epoch": np.int64(3)}
    torch.save(
        {"meta": meta, "state_dict": state}, tmp_path / "best.pth", _use_new_zipfile_serialization=False
    )
    content = (tmp_path / "best.pth").read_bytes()
    (tmp_path / "best.pth").write_bytes(re.sub(rb"numpy\._?core\.multiarray", module.encode(), content))
    assert torch.equal(imported(tmp_path / "best.pth")["head.3.bias"], state["decode_head.conv_seg.bias"])
    torch.save({"meta": {"score": np.str_("a")}, "state_dict": state}, tmp_path / "best.pth")
    assert "could run a program (it asks for numpy.dtype)" in refused(tmp_path / "best.pth")


def test_stripping_fails_where_nothing_is_left(tmp_path: Path) -> None:
    torch.save({"weights": "elsewhere.pth", "epoch": torch.tensor(3), "args": ARGS}, tmp_path / "full.pth")
    done = follow(refused(tmp_path / "full.pth"), tmp_path)
    assert done.returncode == 1
    assert "no weights found under its keys: weights, epoch, args" in done.stderr
    assert not (tmp_path / "full-weights.pth").exists()


@pytest.mark.parametrize("old", [True, False])
def test_pickles_of_another_protocol_are_not_damaged(tmp_path: Path, state: State, old: bool) -> None:
    torch.save(
        {"state_dict": state, "args": ARGS}, tmp_path / "full.pth", pickle_protocol=4,
        _use_new_zipfile_serialization=not old,
    )  # fmt: skip
    said = refused(tmp_path / "full.pth")
    assert "torch.load('full.pth'" in said
    assert follow(said, tmp_path).returncode == 0
    assert imported(tmp_path / "full-weights.pth")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_that_torch_did_not_write(tmp_path: Path, state: State, protocol: int) -> None:
    with (tmp_path / "net.pkl").open("wb") as file:
        pickle.dump({"model": {name: t.numpy() for name, t in state.items()}}, file, protocol=protocol)
    said = refused(tmp_path / "net.pkl")
    assert "was not pickled as torch does" in said
    assert "pickle.load(open('net.pkl', 'rb')" in said
    require_weights(said, tmp_path / "net-weights.pth", state)


def test_arrays_of_numpy(tmp_path: Path, state: State) -> None:
    np.savez(tmp_path / "net.npz", **{name: t.numpy() for name, t in state.items()})  # type: ignore[arg-type]
    said = refused(tmp_path / "net.npz")
    assert "is arrays of NumPy, expected tensors of PyTorch" in said
    require_weights(said, tmp_path / "net-weights.pth", state)


class Tiny(nn.Module):
    """Enough for a program."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.cls.weight


def test_programs_of_torchscript(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(Tiny(), torch.ones(1)), tmp_path / "net.pt")  # type: ignore[no-untyped-call]
    said = refused(tmp_path / "net.pt")
    assert "is a TorchScript program, expected a state dict" in said
    assert "save net.state_dict()" in said
    done = follow(said, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "cls.weight" in torch.load(tmp_path / "net-weights.pth", weights_only=True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html>\n<html>", "is a web page, not the file: download it again"),
        (b"\xef\xbb\xbf\r\n <html>", "is a web page, not the file: download it again"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), r"is HDF5, as Keras .*permute\(3, 2, 0, 1\)"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS.*git lfs pull"),
        (b"no pickle", r"no whole file of weights \(it begins with b'no pickl'\): copy it again"),
        (b"", r"no whole file of weights \(.*\): copy it again"),
    ],
)
@pytest.mark.parametrize("name", ["net.pth", "net.safetensors"])
def test_what_else_it_is(tmp_path: Path, content: bytes, said: str, name: str) -> None:
    (tmp_path / name).write_bytes(content)
    got = refused(tmp_path / name)
    if name == "net.safetensors" and b"no pickle" in content:
        said = "no whole file of weights .*: copy it again"
    assert re.search(said, got), got


def test_what_a_file_of_weights_is_named_does_not_matter(tmp_path: Path, state: State) -> None:
    save_file(state, tmp_path / "net.pth")
    torch.save(state, tmp_path / "net.safetensors")
    for name in ("net.pth", "net.safetensors"):
        assert torch.equal(imported(tmp_path / name)["head.3.bias"], state["decode_head.conv_seg.bias"])
    half = (tmp_path / "net.pth").read_bytes()[:100_000]
    (tmp_path / "net.pth").write_bytes(half)
    assert re.search(
        r"no whole file of weights \(.*(header|incomplete).*\): copy it again", refused(tmp_path / "net.pth")
    )


def test_half_a_file_is_said_to_be(tmp_path: Path, state: State) -> None:
    for old in (True, False):
        path = tmp_path / "net.pth"
        torch.save(state, path, _use_new_zipfile_serialization=not old)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        assert refused(path).endswith("copy it again")
    path.write_bytes(b"\x80\x02}q\x00")
    assert refused(path).endswith(r"(it begins with b'\x80\x02}q\x00'): copy it again")
