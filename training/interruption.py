"""SIGTERM: the machine is taken away (spot instances, Slurm, Kubernetes), or torchrun starts all processes anew.

The training makes the step under way, saves and ends with exit code 75: EX_TEMPFAIL of sysexits.h, "try again later",
which torchrun takes for a failure to be restarted (--max-restarts) and a batch system can be told to requeue on.

    with Watch(processes) as watch:
        goes_on = decide_to_go_on(config)
        if watch.asked(): ...
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist

from segserve.errors import UsageError
from training import distributed
from training.checkpoint import load_checkpoint
from training.config import TrainConfig
from training.distributed import Processes
from training.run import BEST, LAST, SHIPPED

GO_ON = "All is saved: go on with the same command and --resume"


class Watch:
    """Notes a SIGTERM while it is entered (in the main thread: elsewhere Python takes no handler)."""

    def __init__(self, processes: Processes) -> None:
        self.processes, self.noted = processes, False
        self._before: Any = None

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        self.noted = True

    def asked(self) -> bool:
        """Whether any process was asked to end: the same answer in all, which must call it equally often."""
        if self.processes.world_size == 1:
            return self.noted
        noted = torch.tensor(
            [self.noted], dtype=torch.int32
        )  # on the CPU: reading it must not wait for the GPU
        dist.all_reduce(noted, dist.ReduceOp.MAX)
        return bool(noted.item())


def decide_to_go_on(config: TrainConfig) -> bool:
    """Whether to resume. Raises UsageError where a training is in the way or not all processes see it."""
    there = (config.out / LAST).exists()
    check_shared(config.out, there)
    # torchrun counts how often it started this process's group anew
    again = config.machines.resume_if_there or int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) > 0
    if there and not (config.resume or again):
        raise UsageError(f"{config.out} already holds a training: --resume it, or choose another --out")
    kept = [name for name in (BEST, SHIPPED) if (config.out / name).exists()]
    if kept and not (there or config.resume):  # nor by a restart: it would begin anew
        raise UsageError(
            f"{config.out} holds {kept[0]} of a training, which this one would replace; without {LAST} it can't be "
            "resumed: choose another --out"
        )
    return config.resume or (again and there)


def as_begun(config: TrainConfig) -> TrainConfig:
    """The options of a training that goes on, with the align_corners that it began with where they leave it open.

    What it started from does not decide that anew: trainings from before heads brought theirs had it on by default.
    Raises CheckpointError.
    """
    config = replace(config, resume=True)
    if config.align_corners is not None or config.pretrained_from is None:
        return config
    _, meta = load_checkpoint(config.out / LAST)
    return replace(config, align_corners=meta.align_corners)


def check_shared(out: Path, *values: int) -> None:
    """Raises UsageError, in all processes, where `values` that are read from `out` are not the same in all."""
    if not distributed.all_equal(values):
        raise UsageError(
            f"{out / LAST} is not the same for every process: --out must be on a file system that all machines share"
        )
