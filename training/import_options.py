"""Options of `training.import_checkpoint`, and what a file's own configuration says in their place."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from segserve.errors import UsageError
from training.foreign_file import Read
from training.import_size import SMALLEST_INPUT
from training.layout import StrideIn

BN_EPS = 1e-5  # torch's, and of all the sources'


@dataclass(frozen=True)
class ImportConfig:
    """Options of the command."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The file of weights (.pth, .pt, .safetensors), or all its parts; of CSAIL the encoder's and the decoder's."""
    out: Path
    """Checkpoint to write (.safetensors)."""
    source: Annotated[
        Literal["semseg", "mmseg", "csail", "torchvision", "auto"], tyro.conf.arg(name="from")
    ] = "auto"
    """Whose network it is; auto: by the names of its tensors. timm's ResNets come with torchvision."""
    take: str = ""
    """Key under which the file has the weights, such as ema, or model.ema for a mapping within one. Left out: the usual
    ones, and no moving average where there are plain weights."""
    classes: Path | None = None
    """Names of the outputs in their order: a text file, a line each, or a dataset description (.toml)."""
    order: Path | None = None
    """Rearrange the outputs by name into the order of this file (as --classes). Those that it does not name are left
    out, such as one for the background."""
    mean: tuple[float, float, float] | None = None
    """Mean that was subtracted, in the source's channel order and scale. Left out: as mmseg's file says, else
    ImageNet's."""
    std: tuple[float, float, float] | None = None
    """What was divided by, likewise."""
    pixel_scale: Literal[255, 1] = 255
    """Scale of --mean and --std: 255 for pixels of 0 to 255, 1 for 0 to 1."""
    channel_order: Literal["rgb", "bgr"] | None = None
    """Order in which the source fed its channels; bgr is turned round inside the first convolution. Left out, here
    and below: as mmseg's file says, else rgb."""
    align_corners: bool | None = None
    """How maps are upsampled. Left out: as mmseg's file says, else as the source's repository does."""
    bn_eps: float | None = None
    """Epsilon of the batch norms. Left out: as mmseg's file says, else 1e-5."""
    stride_in: StrideIn | None = None
    """Convolution of a bottleneck that has the stride: 1x1 in networks that came from Caffe. Left out: 3x3."""
    contracted: bool | None = None
    """Whether the first block of a dilated stage has half its dilation. Left out: as the source's repository."""
    multi_grid: tuple[int, ...] = ()
    """Dilation of each block of the last stage, if they differ."""
    input_height: int | None = None
    """Height of the images that the model will be served with. Left out: of the crops that mmseg's file says it was
    trained with, else 473."""
    input_width: int | None = None
    """Width, likewise."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print what was recorded as JSON."""

    def __post_init__(self) -> None:
        if not self.files:
            raise UsageError("no file given: expected one, or all the parts of a network")
        if self.out.suffix != ".safetensors":
            raise UsageError(f"--out {self.out}: expected a name that ends in .safetensors")
        if self.out.resolve() in {path.resolve() for path in self.files}:
            raise UsageError(f"--out {self.out} is the file to read, which would be lost: give another name")
        for option, side in (("height", self.input_height), ("width", self.input_width)):
            if side is not None and side < SMALLEST_INPUT:
                raise UsageError(f"--input-{option} {side}: expected {SMALLEST_INPUT} or more")
        if self.bn_eps is not None and self.bn_eps <= 0:
            raise UsageError("--bn-eps must be above 0")
        self._require_one_scale()

    def _require_one_scale(self) -> None:
        """Mean and std are both given, of pixels of --pixel-scale, or neither is."""
        if (self.mean is None) != (self.std is None) or (self.pixel_scale == 1 and self.mean is None):
            raise UsageError("--mean and --std belong together, and --pixel-scale is theirs: give both")
        if self.mean is None or self.std is None:
            return
        if min(self.std) <= 0:
            raise UsageError("--std must be above 0")
        if self.pixel_scale == 255 and max(self.std) < 1:
            raise UsageError(
                f"--std {_words(self.std)} is of pixels of 0 to 1, and --pixel-scale is 255: add --pixel-scale 1"
            )
        if self.pixel_scale == 1 and max(*self.mean, *self.std) > 1:
            raise UsageError(
                f"--mean {_words(self.mean)} --std {_words(self.std)} are of pixels of 0 to 255, and --pixel-scale is "
                "1: leave it out, or say --pixel-scale 255"
            )


def _words(values: tuple[float, ...]) -> str:
    return " ".join(f"{value:g}" for value in values)


def with_habits(config: ImportConfig, content: Read) -> ImportConfig:
    """The options, and where they say nothing, what the file's own configuration does, but for mean and std."""
    said = content.habits
    return replace(
        config,
        channel_order=config.channel_order or said.channel_order or "rgb",
        align_corners=said.align_corners if config.align_corners is None else config.align_corners,
        stride_in=config.stride_in or said.stride_in or "3x3",
        contracted=said.contracted if config.contracted is None else config.contracted,
        multi_grid=config.multi_grid or said.multi_grid or (),
        bn_eps=config.bn_eps or said.bn_eps or BN_EPS,
    )
