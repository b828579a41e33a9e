"""`python -m training.train` with the tiny preset, and places where a test can get hold of it.

    STOP_AT=3 python -m tests.integration.tiny_training --data painted.toml --out out

STOP_AT: before that step (counted over all epochs of this process), end as HOW says: "kill" (SIGKILL), "term" (SIGTERM
to itself, as a launcher would send it; also "int", "hup"), "raise" (an exception that nobody expects), or "hold": make
the file HELD and wait to be killed.

ROOT_OF_1: where the second of several processes has its images, as on a machine with disks of its own.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from segserve import cli
from tests import tiny_pspnet
from training import train
from training.config import TrainConfig
from training.run import Run


def stop_at(patch: pytest.MonkeyPatch, number: int, how: str) -> None:
    """Have Run.step stop as the head of this file says."""
    step, made = Run.step, 0

    def stopping(run: Run, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal made
        made += 1
        if made == number:
            if how == "hold":
                Path(os.environ["HELD"]).touch()
                while True:
                    time.sleep(0.1)
            if how == "raise":
                raise RuntimeError("made up")
            os.kill(os.getpid(), signal.Signals[f"SIG{how.upper()}"])
        return step(run, images, labels)

    patch.setattr(Run, "step", stopping)


class Killed(BaseException):
    """In the place of SIGKILL, within one process."""


def train_until_killed(config: TrainConfig, number: int) -> None:
    """Train in this process, and raise Killed in place of that step (1, 2 ...), which ends here."""
    step, made = Run.step, 0

    def dying(run: Run, images: Tensor, labels: Tensor) -> Tensor:
        nonlocal made
        made += 1
        if made == number:
            raise Killed
        return step(run, images, labels)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "step", dying)
        with pytest.raises(Killed):
            train.main(config)


def main(config: TrainConfig) -> None:
    """Train."""
    with pytest.MonkeyPatch.context() as patch:
        tiny_pspnet.register(patch)
        if number := os.environ.get("STOP_AT"):
            stop_at(patch, int(number), os.environ["HOW"])
        if (root := os.environ.get("ROOT_OF_1")) and os.environ["RANK"] == "1":
            config = replace(config, root=Path(root))
        train.main(replace(config, preset=tiny_pspnet.PRESET))  # type: ignore[arg-type]


if __name__ == "__main__":
    cli.run(TrainConfig, main)
