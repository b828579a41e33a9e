"""The options of a training, checked before anything is read or written.

    python -m training.train --help

The docstrings below are that help.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segserve.errors import UsageError
from training.distributed import Precision
from training.machines import Machines
from training.options import LossOptions, PasteOptions, WeightOptions, changed
from training.transforms import Augmentation

Preset = Literal["pspnet18", "pspnet50", "pspnet101", "pspnet_lite0"]


@dataclass(frozen=True)
class TrainConfig:
    """Options of one training."""

    data: tuple[Path, ...]
    """Dataset descriptions (TOML) with equal class lists. Their splits "train" are joined; "val" is of the first."""
    out: Path
    """Folder for checkpoints and metrics."""
    repeat: tuple[int, ...] = ()
    """How often an epoch has the images of each of --data, such as 1 20: a small source beside a large one."""
    root: Path | None = None
    """Folder that paths in the descriptions are relative to, if not the description's own."""
    preset: Preset = "pspnet50"
    """The network."""
    pretrained: bool = False
    """Start the backbone from ImageNet weights (pspnet_lite0 has them)."""
    pretrained_from: Path | None = None
    """Start from this checkpoint, of training.import_checkpoint or of another training: all of it where the classes are
    the same (the model in service, and new photos), its align_corners too; else its trunk."""
    align_corners: tyro.conf.DisallowNone[bool | None] = None
    """How maps are upsampled, in training and in serving. Left out: as the heads that --pretrained-from brings were
    trained, else on."""
    epochs: int = 100
    """Passes over the data; the learning rate falls to 0 over them."""
    batch_size: int = 16
    """Images a step, over all processes."""
    base_lr: float = 0.01
    """First learning rate of the backbone; new layers get ten times as much."""
    weight_decay: float = 1e-4
    """L2 penalty."""
    dropout: float = 0.1
    """Share of the channels that is dropped before each classifier."""
    crop_height: int = 473
    """Height of the training crops in pixels."""
    crop_width: int = 473
    """Width of the training crops in pixels."""
    input_height: int | None = None
    """Height of the images that the model will be served with (default: as the crops)."""
    input_width: int | None = None
    """Width, likewise."""
    precision: Precision = "auto"
    """What convolutions compute in; auto: bf16 where the hardware has it, else fp16 on GPUs, else fp32. Weights stay
    in fp32; fp64 is for proofs: in fp32 rounding alone makes two ways to add up the same gradients drift apart."""
    workers: int = 2
    """Processes that load and augment, for each training process; 0: none."""
    seed: int = 0
    """Of weights, order, augmentation and dropout."""
    limit: int | None = None
    """Use only so many images of each split (to try something)."""
    loss: Annotated[LossOptions, tyro.conf.arg(name="")] = field(default_factory=LossOptions)
    weights: Annotated[WeightOptions, tyro.conf.arg(name="")] = field(default_factory=WeightOptions)
    augmentation: Annotated[Augmentation, tyro.conf.arg(name="")] = field(default_factory=Augmentation)
    paste: Annotated[PasteOptions, tyro.conf.arg(name="")] = field(default_factory=PasteOptions)
    resume: bool = False
    """Go on from OUT/last.safetensors. The options must be those that it was started with."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print the last epoch's line of metrics.jsonl on standard output at the end; all else goes to standard error."""
    machines: Annotated[Machines, tyro.conf.arg(name="")] = field(default_factory=Machines)
    """How the machines work."""

    def __post_init__(self) -> None:
        if not self.data:
            raise UsageError("--data names no dataset description")
        least: dict[str, float] = {
            "epochs": 1,
            "batch_size": 2,
            "crop_height": 33,
            "crop_width": 33,
            "workers": 0,
        }
        for name, value in (least | {"input_height": 33, "input_width": 33, "limit": 1, "seed": 0}).items():
            if (got := getattr(self, name)) is not None and got < value:
                raise UsageError(f"--{name.replace('_', '-')} {got}: expected {value} or more")
        if self.repeat and (len(self.repeat) != len(self.data) or min(self.repeat) < 1):
            raise UsageError(
                f"--repeat {' '.join(map(str, self.repeat))}: expected {len(self.data)} numbers of 1 or more, one for "
                "each of --data"
            )
        if self.loss.ohem and self.machines.accumulate > 1:
            raise UsageError(
                f"--ohem with --accumulate {self.machines.accumulate}: which pixels of a step are hard is known only "
                "after all of its micro-batches; use more processes, or a smaller --batch-size"
            )
        if self.pretrained and self.pretrained_from is not None:
            raise UsageError("--pretrained and --pretrained-from are two trunks: give one of them")
        for name, value in (
            ("warmup", self.weights.warmup_epochs),
            ("coarse", self.weights.coarse_epochs),
        ):
            if value > self.epochs:
                raise UsageError(f"--{name}-epochs {value:g} is more than --epochs {self.epochs}")
        if self.base_lr <= 0 or self.weight_decay < 0 or not 0 <= self.dropout < 1:
            raise UsageError("expected base_lr > 0, weight_decay >= 0 and dropout from 0 to below 1")

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width that the model will be served with."""
        return self.input_height or self.crop_height, self.input_width or self.crop_width

    def scores(self, epoch: int) -> bool:
        """Whether this epoch (0, 1 ...) is evaluated."""
        return (epoch + 1) % self.weights.validate_every == 0 or epoch + 1 == self.epochs

    def recorded(self) -> str:
        """The options that decide what comes out, as JSON: those that a resumed training must share.

        `align_corners` must be decided by then (`training.run.Run` does it): it was an option with a default once.
        """
        groups = (self.loss, self.weights, self.augmentation, self.paste)
        left_out = {
            "out",
            "root",
            "workers",
            "resume",
            "as_json",
            "loss",
            "weights",
            "augmentation",
            "paste",
            "machines",
        }
        # what is not used, so that trainings from before there was such an option can be resumed; so do the groups
        left_out |= {name for name in ("pretrained_from", "repeat") if not getattr(self, name)}
        options = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        for group in groups:
            options |= changed(group)
        options |= self.machines.recorded()
        return json.dumps(options, default=str, sort_keys=True)
