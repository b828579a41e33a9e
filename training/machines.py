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

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise UsageError(f"--accumulate {self.accumulate}: expected 1 or more")

    def recorded(self) -> dict[str, object]:
        """What a resumed training must share, less what is at its default: older checkpoints don't know of it."""
        return {"accumulate": self.accumulate} if self.accumulate > 1 else {}
