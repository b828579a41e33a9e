"""What a training that goes on may be told otherwise: where files lie, and nothing that decides what comes out."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from segserve.errors import UsageError
from training import journal
from training.distributed import Processes
from training.same_options import require

DATA = ["data/rooms/dataset.toml", "data/rooms_filled/dataset.toml"]


def provenance(**options: object) -> Mapping[str, str]:
    told = {"data": DATA, "pretrained_from": "runs/base/best.safetensors", "base_lr": 0.01} | options
    return {"options": json.dumps(told), "precision": "float32"}


@pytest.mark.parametrize(
    "options",
    [
        {"data": ["/mnt/rooms/dataset.toml", "/mnt/rooms_filled/dataset.toml"]},
        {"data": ["dataset.toml", "../rooms_filled/dataset.toml"]},
        {"pretrained_from": "/home/me/runs/base/best.safetensors"},
    ],
)
def test_files_may_lie_elsewhere(options: dict[str, object]) -> None:
    require(Path("last"), provenance(), provenance(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": DATA[::-1]}, r"data was \['data/rooms/dataset.toml'"),
        ({"data": DATA[:1]}, "data was"),
        ({"data": ["data/rooms/dataset.toml", "data/rooms/dataset.toml"]}, "data was"),
        ({"pretrained_from": "runs/other/best.safetensors"}, "pretrained_from was"),
        ({"pretrained_from": None}, "is None"),
        ({"base_lr": 0.02}, r"^last was trained with other options: base_lr was 0.01, is 0.02$"),
        ({"preset": "folder/pspnet18"}, "preset was None"),
    ],
)
def test_other_files_and_other_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        require(Path("last"), provenance(), provenance(**options))


def test_the_command_is_recorded_whatever_the_names_of_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--data", "k\udcfcche/dataset.toml"])
    told = journal.provenance("{}", [], Processes(0, 1, torch.device("cpu")), torch.float32)
    assert told["command"].encode("utf-8").endswith(rb"--data 'k\udcfcche/dataset.toml'")
