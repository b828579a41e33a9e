"""The processes that load images: a wrong photo or label is told in words, and they end with the training."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny_pspnet
from tests.integration import tiny_training
from tests.integration.conftest import RunHere
from tests.integration.painted import config, environment, metrics, options, paint
from training import journal, train
from training.batches import TrainBatches, val_batches
from training.config import TrainConfig
from training.data import load_dataset
from training.distributed import Processes
from training.machines import Machines

pytestmark = pytest.mark.usefixtures("one_thread")


def spoilt(folder: Path, split: str, number: int) -> Path:
    """A dataset with one label of a value that it does not name."""
    description = paint(folder)
    label = np.zeros((60, 80), np.uint8)
    label[30, 40] = 77
    Image.fromarray(label).save(folder / split / "labels" / f"{number}.png")
    return description


@pytest.mark.parametrize("workers", [0, 2])
def test_a_wrong_label_is_one_line(workers: int, tmp_path: Path, run_here: RunHere) -> None:
    given = options(spoilt(tmp_path / "spoilt", "train", 3), tmp_path / "out", workers=workers)
    before = multiprocessing.active_children()
    code, _, err = run_here(TrainConfig, tiny_training.main, *given)
    assert code == 2
    assert err.startswith(f"error: {tmp_path / 'spoilt' / 'train' / 'labels' / '3.png'}: label values [77]")
    assert err.count("\n") == 1
    assert set(multiprocessing.active_children()) <= set(before)


def test_a_wrong_first_label_of_the_validation_is_told_before_an_epoch(
    tmp_path: Path, run_here: RunHere
) -> None:
    given = options(spoilt(tmp_path / "spoilt", "val", 0), tmp_path / "out", workers=2)
    code, _, err = run_here(TrainConfig, tiny_training.main, *given)
    assert code == 2
    assert err.startswith(f"error: {tmp_path / 'spoilt' / 'val' / 'labels' / '0.png'}: label values [77]")
    assert not (tmp_path / "out" / "last.safetensors").exists()


def test_an_error_that_nobody_expects_ends_the_command(
    painted: Path, tmp_path: Path, repo_root: Path
) -> None:
    """In the second epoch, when all processes that load are there."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.tiny_training", *options(painted, tmp_path, workers=2)],
        cwd=repo_root, env=environment() | {"STOP_AT": "3", "HOW": "raise"}, capture_output=True, text=True,
        timeout=150,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "RuntimeError: made up"
    assert [line["epoch"] for line in metrics(tmp_path)] == [1]


def test_images_per_second_are_those_of_all_processes_and_micro_batches(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_pspnet.register(monkeypatch)
    chosen = config(
        painted, out=tmp_path, preset=tiny_pspnet.PRESET, epochs=1, batch_size=8, machines=Machines(accumulate=2)
    )  # fmt: skip
    train_data, val = load_dataset(painted, "train"), load_dataset(painted, "val")
    second = Processes(1, 2, torch.device("cpu"))
    assert TrainBatches(chosen, second, [train_data]).size == 8
    validation = val_batches(chosen, second, val)
    assert (validation.size, validation.loader.batch_size) == (4, 2)  # its 2 and the other's

    shown: list[int] = []

    class Bar(journal.Bar):
        def step(self) -> None:
            shown.append(self.batch_size)

    monkeypatch.setattr(journal, "Bar", Bar)
    train.main(chosen)
    assert shown == [8, 4]
