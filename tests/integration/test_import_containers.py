"""Files with several networks' weights, or with one's in an unusual place, or in parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from segserve.errors import CheckpointError
from tests.foreign_nets import CSAIL, Classifier, MMSeg, random_weights
from training.checkpoint import CheckpointMeta, load_checkpoint
from training.import_checkpoint import ImportConfig, main

pytestmark = pytest.mark.usefixtures("one_thread")
State = dict[str, Tensor]


def loaded(folder: Path, *contents: object, **options: Any) -> tuple[State, CheckpointMeta]:
    """What is imported of files that hold these."""
    files = [folder / f"part{number}.pth" for number in range(len(contents))]
    for path, content in zip(files, contents, strict=True):
        torch.save(content, path)
    main(ImportConfig(tuple(files), folder / "out.safetensors", input_height=41, input_width=49, **options))
    return load_checkpoint(folder / "out.safetensors")


@pytest.fixture(scope="module")
def state() -> State:
    return dict(random_weights(MMSeg(18, 5, 8)).state_dict())


@pytest.fixture(scope="module")
def averaged(state: State) -> State:
    return {name: tensor * 2 for name, tensor in state.items()}


def stem(weights: State) -> Tensor:
    """The first of theirs or of ours, by which networks are told apart."""
    ours = weights.get("backbone.stem.0.0.weight")
    return weights["backbone.stem.0.weight"] if ours is None else ours


ADAM = {
    "state": {0: {"step": torch.ones(()), "exp_avg": torch.ones(3)}},
    "exp_avg": {"backbone.layer1.0.conv1.weight": torch.ones(3)},  # as some keep it, by name
}


@pytest.mark.parametrize("keys", ["ema", "module", "model.state_dict", "trainer.best.net"])
def test_weights_are_found_under_any_key(tmp_path: Path, state: State, keys: str) -> None:
    content: dict[str, Any] = {}
    inner = content
    for key in keys.split(".")[:-1]:
        inner[key] = inner = {}
    inner[keys.split(".")[-1]] = state
    content |= {"epoch": torch.tensor(3), "optimizer": ADAM, "loss": {"weight": torch.ones(5)}}
    got, meta = loaded(tmp_path, content)
    assert meta.provenance["taken_from"] == keys
    assert torch.equal(stem(got), stem(state))


def test_take_chooses_and_the_rest_is_named(tmp_path: Path, state: State, averaged: State) -> None:
    content = {"ema": {"module": averaged}, "state_dict": state, "state_dict_ema": averaged}
    got, meta = loaded(tmp_path, content)
    assert torch.equal(stem(got), stem(state))
    assert meta.provenance["taken_from"] == "state_dict, not ema.module, state_dict_ema"
    for take in ("state_dict_ema", "ema.module"):
        got, meta = loaded(tmp_path, content, take=take)
        assert torch.equal(stem(got), stem(averaged))
        assert meta.provenance["taken_from"].startswith(f"{take}, not ")
    with pytest.raises(
        CheckpointError, match=r"--take ema: .*expected one of ema\.module, state_dict, state_dict"
    ):
        loaded(tmp_path, content, take="ema")
    with pytest.raises(CheckpointError, match=r"no weights under that; .* at its top .*: leave --take out"):
        loaded(tmp_path, state, take="ema")


def test_nothing_is_guessed_among_names_that_are_not_known(
    tmp_path: Path, state: State, averaged: State
) -> None:
    content = {"teacher": averaged, "student": state}
    with pytest.raises(
        CheckpointError, match=r"weights of several networks: teacher, student; .* as in --take teacher"
    ):
        loaded(tmp_path, content)
    got, meta = loaded(tmp_path, content, take="student")
    assert torch.equal(stem(got), stem(state))
    assert meta.provenance["taken_from"] == "student, not teacher"


def test_a_file_without_weights_is_told_its_keys(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no weights in it.*\(keys: epoch, optimizer\)"):
        loaded(tmp_path, {"epoch": 3, "optimizer": ADAM})


@pytest.mark.parametrize("place", ["", "model"])
def test_an_encoder_and_a_decoder_are_one_network(tmp_path: Path, place: str) -> None:
    net: Any = random_weights(CSAIL(18, 5, 8))
    parts = {part: getattr(net, part).state_dict() for part in ("encoder", "decoder")}
    plain, _ = loaded(tmp_path, *parts.values())
    both = {"epoch": 3, place: parts} if place else {"epoch": 3, **parts}
    got, meta = loaded(tmp_path, both)
    assert meta.provenance["imported_from"] == "csail"
    assert meta.provenance["taken_from"] == f"{place}.encoder+decoder".lstrip(".")
    assert all(torch.equal(got[name], plain[name]) for name in plain)


def test_a_network_in_three_files(tmp_path: Path, state: State) -> None:
    names = sorted(state)
    parts = [{name: state[name] for name in names[start::3]} for start in range(3)]
    got, meta = loaded(tmp_path, *parts)
    plain, _ = loaded(tmp_path, state)
    assert all(torch.equal(got[name], plain[name]) for name in plain)
    assert meta.provenance["files"].count("sha256") == 3
    parts[2][names[0]] = state[names[0]]
    with pytest.raises(CheckpointError, match=f"part2.pth has {names[0]} as the part before it has"):
        loaded(tmp_path, *parts)


def test_a_trunk_has_no_use_for_the_names_of_classes(tmp_path: Path) -> None:
    trunk = random_weights(Classifier(18, 8)).state_dict()
    _, meta = loaded(tmp_path, {"state_dict": trunk, "meta": {"CLASSES": ("cat", "dog", "dog")}})
    assert (meta.classes, meta.provenance["imported_from"]) == ((), "torchvision")
