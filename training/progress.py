"""How far a training has come inside an epoch, and what it has cost so far: what the checkpoint keeps of it.

The order of the images and their augmentation follow from (seed, epoch), dropout from (seed, epoch, step, process): no
state of a random number generator is needed to go on at any step.

    training |= progress.tensors()
    progress = Progress.of(checkpoint.load_training(path))
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass

import torch
from torch import Tensor

_STEP, _LOSSES, _SPENT = "progress/step", "progress/losses", "progress/spent"


@dataclass(frozen=True)
class Spent:
    """What a training has cost, in all its parts that were saved."""

    images: float = 0.0
    """Trained on."""
    training_s: float = 0.0
    """Time for the steps of training alone."""
    wall_s: float = 0.0
    """All time, evaluation and saving included."""
    gpu_joules: float = 0.0
    """Of all GPUs; nan: not known."""
    cpu_joules: float = 0.0
    """Of all CPU packages; nan: not known."""

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Progress:
    """`step`: steps made in the epoch that is not complete. `losses`: their sums (main, auxiliary) of whole batches."""

    step: int = 0
    losses: tuple[float, float] = (0.0, 0.0)
    spent: Spent = Spent()

    def tensors(self) -> dict[str, Tensor]:
        """For `save_checkpoint(training=...)`."""
        return {
            _STEP: torch.tensor(self.step),
            _LOSSES: torch.tensor(self.losses, dtype=torch.float64),
            _SPENT: torch.tensor(astuple(self.spent), dtype=torch.float64),
        }

    @classmethod
    def of(cls, training: Mapping[str, Tensor]) -> Progress:
        """The inverse; checkpoints from before there was any of this were written after whole epochs."""
        if _STEP not in training:
            return cls()
        main, aux = training[_LOSSES].tolist()
        return cls(int(training[_STEP]), (main, aux), Spent(*training[_SPENT].tolist()))
