"""Let a class win only where it is likelier than all others together: a model whose floor is right.

    python -m training.majority runs/rooms/model.safetensors --classes floor --out runs/rooms/floor.safetensors

The likeliest class of a pixel may have a third of the probability and ten others the rest. Who asks which class it is
gets the best answer so; who asks where the floor is gets floor that is none in two of three such pixels. It is so above
all in photos unlike those that were trained on, where belief is spread. After this command a class of --classes has a
pixel from one half of the probability on, or another class has it; what the others have among themselves stays. Nothing
is fitted, so it needs no labels and holds for photos that nobody has seen.

The rule is part of the network from here on, evaluated, exported and served with it, and takes 0.05 of 360 ms
(pspnet_lite0, 288x384, one core). Its probabilities are no frequencies any more. `training.rebalance` comes first if at
all; a training that goes on from the checkpoint (--pretrained-from) starts without the rule.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import tyro

from segserve import cli
from segserve.errors import UsageError
from training.checkpoint import load_checkpoint, require_another, save_checkpoint


@dataclass(frozen=True)
class MajorityConfig:
    """Options of the command."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint (.safetensors); model.safetensors of a training, too."""
    classes: tuple[str, ...]
    """These classes need a majority, each for itself."""
    out: Path
    """The checkpoint to write."""

    def __post_init__(self) -> None:
        require_another(self.checkpoint, self.out)
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise UsageError(f"--classes {' '.join(self.classes)}: expected one class or more, each once")


def main(config: MajorityConfig) -> None:
    """Write it. Raises UsageError for a class that is none, or of a trunk; CheckpointError."""
    state, meta = load_checkpoint(config.checkpoint, cast=False)
    if unknown := [name for name in config.classes if name not in meta.classes]:
        raise UsageError(
            f"--classes {unknown[0]}: expected some of {', '.join(meta.classes) or 'no class (it is a trunk)'}"
        )
    if len(meta.classes) < 3:
        raise UsageError(
            f"{config.checkpoint} has the classes {', '.join(meta.classes)}: with two the likelier has the majority "
            "anyway; nothing is written"
        )
    # its metrics are those of the network without the rule
    save_checkpoint(config.out, state, dataclasses.replace(meta, metrics={}, majority=config.classes))
    print(f"{config.out}: {', '.join(config.classes)} from one half of the probability on")


if __name__ == "__main__":
    cli.run(MajorityConfig, main)
