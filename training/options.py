"""Groups of options of a training, each its own frozen dataclass: what to minimise, how weights move, what is pasted.

    python -m training.train … --class-weights balanced --ohem 0.7 --pairs wall:floor,floor:ceiling
    python -m training.train … --optimizer adamw --base-lr 2e-4 --warmup-epochs 2 --ema 0.999

The docstrings below are the help of training.train. Every default is the plain training: cross-entropy and SGD.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from segserve.errors import UsageError

Optimizer = Literal["sgd", "adamw"]


DEFAULT_KEEP = 1 / 16
DEFAULT_PASTE = 0.5


@dataclass(frozen=True)
class LossOptions:
    """What is minimised."""

    class_weights: str = "none"
    """none; balanced: rare classes count more (training/class_weights.py); or a file that training.evaluate --json
    wrote: classes that it misses count more."""
    ohem: float = 0.0
    """Leave out pixels whose class got a higher probability than this, such as 0.7; 0: leave out none."""
    ohem_keep: float = DEFAULT_KEEP
    """With --ohem: the least share of each image's pixels that is kept, its hardest."""
    pairs: str = ""
    """Pairs of classes to be told apart better, such as wall:floor,floor:ceiling."""
    pairs_from: Path | None = None
    """Instead: the three pairs that cost most mIoU in a file that training.evaluate --json wrote."""
    pair_weight: float = 1.0
    """Of the loss within the pairs, beside the cross-entropy."""

    def __post_init__(self) -> None:
        if not 0 <= self.ohem < 1:
            raise UsageError(
                f"--ohem {self.ohem}: expected a probability from 0 (off) to below 1, such as 0.7"
            )
        if not 0 < self.ohem_keep <= 1:
            raise UsageError(f"--ohem-keep {self.ohem_keep}: expected a share above 0, at most 1")
        if self.ohem_keep != DEFAULT_KEEP and not self.ohem:
            raise UsageError("--ohem-keep says how much of the hard pixels is kept at least: give --ohem too")
        if self.pair_weight != 1 and not (self.pairs or self.pairs_from):
            raise UsageError("--pair-weight weighs the loss within pairs: give --pairs or --pairs-from too")
        if self.pairs and self.pairs_from is not None:
            raise UsageError("--pairs and --pairs-from both name the pairs: give one of them")
        if not self.pair_weight > 0:
            raise UsageError(
                f"--pair-weight {self.pair_weight}: expected more than 0 (without pairs there is none)"
            )


@dataclass(frozen=True)
class WeightOptions:
    """How the weights move, and which are kept."""

    optimizer: Optimizer = "sgd"
    """sgd with momentum 0.9 as in the paper; or adamw, with about a fiftieth of its learning rate."""
    warmup_epochs: float = 0.0
    """Over so many epochs the learning rate rises from a tenth of what the schedule says."""
    ema: float = 0.0
    """Evaluate and ship a moving average of the weights with this decay a step, such as 0.999; 0: the weights."""
    coarse_epochs: int = 0
    """Train the first so many epochs at half the network's resolution, several times as fast (training/coarse.py)."""
    validate_every: int = 1
    """Score only every so many epochs, and the last one: the best of these is kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.ema < 1:
            raise UsageError(f"--ema {self.ema}: expected a decay from 0 (off) to below 1, such as 0.999")
        if self.coarse_epochs < 0:
            raise UsageError(f"--coarse-epochs {self.coarse_epochs}: expected 0 or more")
        if self.warmup_epochs < 0:
            raise UsageError(f"--warmup-epochs {self.warmup_epochs}: expected 0 or more")
        if self.validate_every < 1:
            raise UsageError(f"--validate-every {self.validate_every}: expected 1 or more")


@dataclass(frozen=True)
class PasteOptions:
    """Which objects of one crop are laid over another (training/paste.py)."""

    paste: tuple[str, ...] = ()
    """Classes that are objects, such as bed chair sofa table plant: those of one photo are laid over another."""
    paste_probability: float = DEFAULT_PASTE
    """With --paste: the share of crops for which another is drawn (and read), from those of all --data; its objects, if
    it has any, are laid over them. Balanced class weights count files, not what is pasted."""

    def __post_init__(self) -> None:
        if not 0 < self.paste_probability <= 1:
            raise UsageError(
                f"--paste-probability {self.paste_probability}: expected more than 0, at most 1 (without --paste "
                "nothing is laid over anything)"
            )
        if self.paste_probability != DEFAULT_PASTE and not self.paste:
            raise UsageError("--paste-probability says how often objects are pasted: give --paste too")


def changed(group: Any) -> dict[str, Any]:
    """The options of a group that differ from their defaults, by name.

    Only those are recorded in checkpoints, so that trainings from before there was an option can be resumed.
    """
    return {
        field.name: value for field in fields(group) if (value := getattr(group, field.name)) != field.default
    }
