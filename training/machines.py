"""Options of a training that say how the machines work, not what is learnt: memory, interruptions, logs, costs.

    python -m training.train --data rooms.toml --out runs/rooms --accumulate 4 --save-every-steps 200 --tensorboard

They are a part of `training.config.TrainConfig`; the docstrings below are their help.
"""

from __future__ import annotations

from dataclasses import dataclass

from segserve.errors import UsageError


@dataclass(frozen=True)
class Machines:
    """How the machines work."""

    accumulate: int = 1
    """Make each step from so many micro-batches, one after the other: batch_size stays the size of a step, of which
    batch_size / (processes * this) images are on a device at once. Loss and gradient are those of the whole batch, but
    batch norm sees micro-batches (of all processes), so the result is not that of a device with more memory."""
    deterministic: bool = False
    """The same bits in each run on the same machines (slower on GPUs)."""
    save_every_steps: int | None = None
    """Write last.safetensors also after every so many steps of an epoch, not only at its end and before an evaluation.
    SIGTERM saves in any case, after the step under way, and ends with exit code 75."""
    resume_if_there: bool = False
    """Go on from OUT/last.safetensors if it is there, else start: for launchers that give the same command again
    (Slurm, SageMaker). torchrun on several nodes needs it too: when a node goes or comes it starts all processes anew,
    but does not count that as a restart. Processes that it restarts after a failure do so in any case."""
    price_per_hour: float | None = None
    """What all machines together cost an hour; metrics.jsonl and the last line then say what the training cost."""
    tensorboard: bool = False
    """Write OUT/tensorboard for TensorBoard: losses, learning rate, mIoU, each class, a few predictions."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise UsageError(f"--accumulate {self.accumulate}: expected 1 or more")
        if self.save_every_steps is not None and self.save_every_steps < 1:
            raise UsageError(f"--save-every-steps {self.save_every_steps}: expected 1 or more")
        if self.price_per_hour is not None and not self.price_per_hour >= 0:
            raise UsageError(f"--price-per-hour {self.price_per_hour}: expected 0 or more")

    def recorded(self) -> dict[str, object]:
        """What a resumed training must share, less what is at its default: older checkpoints don't know of it."""
        return {"accumulate": self.accumulate} if self.accumulate > 1 else {}
