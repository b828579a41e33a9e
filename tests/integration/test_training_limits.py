"""What a training cannot do is said before it begins, or as soon as it is known, and not after days.

Where a GPU decides, its part is played: none has run this.
"""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.utils.data import get_worker_info

from segserve.errors import Interrupted, UsageError
from tests import tiny_pspnet
from tests.integration.painted import config, paint
from training import distributed, train
from training.batches import MOST_LOGITS, val_size
from training.checkpoint import load_checkpoint
from training.data import TrainSamples
from training.distributed import Processes
from training.machines import Machines
from training.options import WeightOptions
from training.run import Run

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny_pspnet.register(monkeypatch)


def test_one_class_is_nothing_to_learn(tmp_path: Path) -> None:
    """Its probability is 1 everywhere: a loss of 0, and an mIoU of 100 % that nobody must believe."""
    description = paint(tmp_path / "data")
    text = description.read_text()
    start, end = text.index("classes ="), text.index("]", text.index("classes ="))
    description.write_text(f'{text[:start]}classes = ["floor"{text[end:]}')
    with pytest.raises(UsageError, match="has one class, floor: there is nothing to tell it from"):
        train.main(config(description, out=tmp_path / "out", preset=tiny_pspnet.PRESET))


def test_a_process_that_loads_and_is_killed_is_told(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the kernel does where memory is full, or shared memory, of which containers have little."""

    def killed(*_: object) -> Any:
        assert get_worker_info() is not None
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setattr(TrainSamples, "__getitem__", killed)
    chosen = config(painted, out=tmp_path, preset=tiny_pspnet.PRESET, workers=1)
    with pytest.raises(
        UsageError, match=r"DataLoader worker .*: it loaded photos; .*--workers 1, .*--shm-size"
    ):
        train.main(chosen)


@pytest.mark.parametrize(
    ("chosen", "classes", "size"),
    [
        ({}, 150, 4),
        ({"input_height": 194, "input_width": 194}, 150, 1),  # as many pixels as four crops of 97, and one
        ({"machines": Machines(accumulate=2)}, 150, 2),
        ({"crop_height": 1024, "crop_width": 1024, "batch_size": 16}, 150, 13),  # 2.5e9 logits, for 16
    ],
)
def test_what_is_evaluated_at_once_is_no_more_than_what_is_trained(
    painted: Path, tmp_path: Path, chosen: dict[str, Any], classes: int, size: int
) -> None:
    options = {"crop_height": 97, "crop_width": 97, "batch_size": 4} | chosen
    given = config(painted, out=tmp_path, **options)
    assert val_size(given, Processes(0, 1, CPU), classes) == size


def test_logits_that_cuda_cannot_count_are_refused(painted: Path, tmp_path: Path) -> None:
    given = config(painted, out=tmp_path, crop_height=473, crop_width=473, batch_size=64)
    gpu = Processes(0, 1, torch.device("cuda", 0))
    with pytest.raises(
        UsageError, match="64 images a GPU of 150 classes at 473x473 are 2,147,798,400 logits"
    ):
        train.require_countable(given, gpu, 150)
    for fits in (
        (given, Processes(0, 1, CPU), 150),
        (given, Processes(0, 2, gpu.device), 150),
        (given, gpu, 149),
    ):
        train.require_countable(*fits)
    assert np.iinfo(np.int32).max == MOST_LOGITS


def test_a_fine_step_is_tried_before_the_coarse_ones_and_changes_nothing(
    painted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, strides = WeightOptions(coarse_epochs=1), list[bool]()
    chosen = config(
        painted, out=tmp_path / "plain", preset=tiny_pspnet.PRESET, epochs=2, dropout=0.3, weights=weights
    )
    train.main(chosen)
    real = Run.gradients

    def as_on_a_gpu(run: Run, epoch: int) -> None:
        run.fine_untried = run.fine_untried or not strides
        learn(run, epoch)

    def seen(run: Run, *batch: torch.Tensor) -> torch.Tensor:
        assert run.coarse is not None
        strides.append(run.coarse.on)
        return real(run, *batch)

    learn = Run.learn
    monkeypatch.setattr(Run, "learn", as_on_a_gpu)
    monkeypatch.setattr(Run, "gradients", seen)
    train.main(replace(chosen, out=tmp_path / "tried"))
    assert strides[:3] == [False, True, True], "one fine step, then the coarse epoch"
    plain, tried = (
        load_checkpoint(tmp_path / folder / "last.safetensors")[0] for folder in ("plain", "tried")
    )
    assert plain.keys() == tried.keys()
    assert all(torch.equal(plain[key], tried[key]) for key in plain)


@pytest.mark.parametrize(
    ("device", "error", "left"),
    [
        ("cpu", ValueError, True),
        ("cuda", ValueError, False),
        ("cuda", Interrupted, True),
        ("cuda", None, True),
    ],
)
def test_a_process_that_fails_alone_does_not_wait_for_the_others(
    monkeypatch: pytest.MonkeyPatch, device: str, error: type[Exception] | None, left: bool
) -> None:
    """NCCL's end waits for those that wait for this process, and its error would never be told."""
    ended: list[bool] = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: device == "cuda")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(dist, "init_process_group", lambda _: None)
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: ended.append(True))
    if error is None:
        with distributed.start() as processes:
            assert processes.device.type == device
    else:
        with pytest.raises(error), distributed.start():
            raise error("made up")
    assert bool(ended) is left
