"""SIGTERM: the machine is taken away (spot instances, Slurm, Kubernetes), or torchrun starts all processes anew. SIGHUP
and the first Ctrl-C: whoever started it goes, or has seen enough.

The training makes the step under way, saves and ends with exit code 75: EX_TEMPFAIL of sysexits.h, "try again later",
which torchrun takes for a failure to be restarted (--max-restarts) and a batch system can be told to requeue on.

    with Watch(processes) as watch:
        goes_on = decide_to_go_on(config)
        with alone(config.out, processes):
            if watch.asked(): ...
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import IO, Any

import torch
import torch.distributed as dist

from segserve.errors import UsageError
from training import distributed
from training.checkpoint import BEST, LAST, SHIPPED, load_checkpoint
from training.config import TrainConfig
from training.distributed import Processes

GO_ON = "All is saved: go on with the same command and --resume"
SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
STDERR = 2
SAVING = b"\nsaving at the end of the step or evaluation under way; Ctrl-C again does not wait for that\n"
LOCK = ".lock"  # in OUT, for as long as a training writes there; a file that stays after it is no lock


class Watch:
    """Notes a signal while it is entered (in the main thread: elsewhere Python takes no handler)."""

    def __init__(self, processes: Processes) -> None:
        self.processes, self.noted, self.name = processes, False, "a signal"  # to another process
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Watch:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, before in self._before.items():
            if before is not None:  # not Python's, of a program that this runs in
                signal.signal(number, before)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            signal.signal(number, self._before[number])  # who asks twice does not want to wait
            if self.processes.is_main:
                with suppress(OSError):  # nobody reads it
                    os.write(STDERR, SAVING)
        self.noted, self.name = True, signal.Signals(number).name

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
    again = config.machines.resume_if_there or started_again()
    if there and not (config.resume or again):
        raise UsageError(
            f"{config.out} already holds a training: --resume it, or choose another --out; under torchrun on several "
            "nodes give --resume-if-there, as it does not count as a restart that a node went or came"
        )
    kept = [name for name in (BEST, SHIPPED) if (config.out / name).exists()]
    if kept and not (there or config.resume):  # nor by a restart: it would begin anew
        raise UsageError(
            f"{config.out} holds {kept[0]} of a training, which this one would replace; without {LAST} it can't be "
            "resumed: choose another --out"
        )
    return config.resume or (again and there)


def started_again() -> bool:
    """Whether torchrun started any of the processes anew: the same answer in all, which must all call it.

    Each agent counts for its own processes, and only those that failed: where a node went or came, those that are
    started anew on the others may be counted nowhere.
    """
    count = torch.tensor([int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))])
    if dist.is_initialized():
        dist.all_reduce(count, dist.ReduceOp.MAX)
    return bool(count.item())


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


@contextmanager
def alone(out: Path, processes: Processes) -> Iterator[None]:
    """No other training writes to `out` meanwhile. Raises UsageError, in all processes, while one does."""
    file, holder = _lock(out / LOCK) if processes.is_main else (None, "")
    try:
        if distributed.join_sum(torch.tensor([int(bool(holder))])).item():
            raise UsageError(
                f"another training writes to {out}{f' ({holder})' if holder else ''}: wait for its end, or end it, "
                "or choose another --out"
            )
        yield
    finally:
        if file is not None:
            file.close()


def _lock(path: Path) -> tuple[IO[str], str]:
    """The file, to be kept open, and who has locked it: empty if this process did.

    Not with flock(2), which processes that load images inherit: after a SIGKILL they live some seconds longer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+", encoding="utf-8")
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN):
            return file, ""  # a file system without locks, as some that several machines share
        file.seek(0)
        return file, file.read().strip() or "process unknown"
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file, ""
