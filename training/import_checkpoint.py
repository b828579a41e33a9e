"""Take over a PSPNet, or a ResNet to start a training from, that another repository trained.

    python -m training.import_checkpoint train_epoch_100.pth --from semseg --out ade.safetensors --classes names.txt
    python -m training.import_checkpoint encoder.pth decoder.pth --from csail --out csail.safetensors
    python -m training.import_checkpoint resnet50.pth --from torchvision --out trunk.safetensors

Every tensor finds its place or nothing is written. What the tensors do not say (normalisation, align_corners, where
strides and dilations are) is taken as the source's repository has it, or from the options; all of it is recorded in
the checkpoint and honoured by training, export and serving. `training.doctor` checks it against photos.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.console import Console

from segserve import cli
from segserve.errors import UsageError
from segserve.labels import IGNORE_LABEL
from segserve.spec import sha256_file
from training import mapping
from training.checkpoint import save_checkpoint
from training.class_names import arrange, read_names
from training.foreign_file import Read, read
from training.layout import StrideIn
from training.meta import CheckpointMeta
from training.pspnet import normalisation

SMALLEST_INPUT = 33


@dataclass(frozen=True)
class ImportConfig:
    """Options of the command."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """The file of weights (.pth, .pt, .safetensors); of CSAIL the encoder's and the decoder's."""
    out: Path
    """Checkpoint to write (.safetensors)."""
    source: Annotated[
        Literal["semseg", "mmseg", "csail", "torchvision", "auto"], tyro.conf.arg(name="from")
    ] = "auto"
    """Whose network it is; auto: by the names of its tensors. timm's ResNets come with torchvision."""
    classes: Path | None = None
    """Names of the outputs in their order: a text file, a line each, or a dataset description (.toml)."""
    order: Path | None = None
    """Rearrange the outputs by name into the order of this file (as --classes). Those that it does not name are left
    out, such as one for the background."""
    mean: tuple[float, float, float] | None = None
    """Mean that was subtracted, in the source's channel order and scale. Left out: ImageNet's."""
    std: tuple[float, float, float] | None = None
    """What was divided by, likewise."""
    pixel_scale: Literal[255, 1] = 255
    """Scale of --mean and --std: 255 for pixels of 0 to 255, 1 for 0 to 1."""
    channel_order: Literal["rgb", "bgr"] = "rgb"
    """Order in which the source fed its channels; bgr is turned round inside the first convolution."""
    align_corners: bool | None = None
    """How maps are upsampled. Left out: as the source's repository does."""
    bn_eps: float = 1e-5
    """Epsilon of the batch norms."""
    stride_in: StrideIn = "3x3"
    """Convolution of a bottleneck that has the stride: 1x1 in networks that came from Caffe."""
    contracted: bool | None = None
    """Whether the first block of a dilated stage has half its dilation. Left out: as the source's repository."""
    multi_grid: tuple[int, ...] = ()
    """Dilation of each block of the last stage, if they differ."""
    input_height: int = 473
    """Height of the images that the model will be served with."""
    input_width: int = 473
    """Width, likewise."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print what was recorded as JSON."""

    def __post_init__(self) -> None:
        if not self.files or len(self.files) > 2:
            raise UsageError(f"{len(self.files)} files given: expected one, or of csail encoder and decoder")
        if self.out.suffix != ".safetensors":
            raise UsageError(f"--out {self.out}: expected a name that ends in .safetensors")
        if (self.mean is None) != (self.std is None) or (self.pixel_scale == 1 and self.mean is None):
            raise UsageError("--mean and --std belong together, and --pixel-scale is theirs: give both")
        if min(self.input_height, self.input_width) < SMALLEST_INPUT:
            raise UsageError(f"--input-height and --input-width: expected {SMALLEST_INPUT} or more")
        if self.bn_eps <= 0 or (self.std is not None and min(self.std) <= 0):
            raise UsageError("--bn-eps and --std must be above 0")


def rgb_255(config: ImportConfig, values: tuple[float, float, float] | None, index: int) -> tuple[float, ...]:
    """mean (index 0) or std (1) as the checkpoint has it: RGB, of pixels from 0 to 255."""
    if values is None:
        return normalisation("pspnet50")[index]
    scaled = tuple(value * (255 / config.pixel_scale) for value in values)
    return scaled[::-1] if config.channel_order == "bgr" else scaled


def describe(
    config: ImportConfig, content: Read, net: mapping.Mapped, names: tuple[str, ...], dropped: tuple[str, ...]
) -> CheckpointMeta:
    """The description: what serving must know as fields, where it comes from as provenance."""
    source = content.source
    mean, std = rgb_255(config, config.mean, 0), rgb_255(config, config.std, 1)
    given = config.align_corners
    return CheckpointMeta(
        net.preset, names, IGNORE_LABEL, (mean[0], mean[1], mean[2]), (std[0], std[1], std[2]),
        source.align_corners if given is None else given, config.input_height, config.input_width,
        epoch=0, metrics={}, layout=net.layout, bn_eps=config.bn_eps,
        provenance={
            "imported_from": source.name,
            "files": ", ".join(f"{path.name} sha256 {sha256_file(path)}" for path in config.files),
            "taken_from": content.taken_from,
            "fed": f"{config.channel_order}, normalised for pixels of 0 to {config.pixel_scale}; here: rgb, 0 to 255",
            "class_order": "as in the file" if config.order is None else f"rearranged as in {config.order.name}",
            "outputs_left_out": ", ".join(dropped) or "nothing",
            "left_out": ", ".join(net.left_out) or "nothing",
        },
    )  # fmt: skip


def main(config: ImportConfig) -> None:
    content = read(config.files, config.source)
    choices = mapping.Choices(config.stride_in, config.contracted, config.multi_grid)
    net = mapping.convert(content.tensors, content.source, choices)
    state = dict(net.state)
    if config.channel_order == "bgr":
        first = "backbone.stem.0.0.weight"
        state[first] = state[first].flip(1)
    names = theirs = class_names(config, content, net.num_classes)
    if config.order is not None:
        names, state = arrange(state, names, read_names(config.order))
    meta = describe(config, content, net, names, tuple(name for name in theirs if name not in names))
    save_checkpoint(config.out, state, meta)
    tell(config, meta, net)


def class_names(config: ImportConfig, content: Read, count: int) -> tuple[str, ...]:
    """As many names as the classifier has outputs: of the option, of the file, or numbers. Raises UsageError."""
    names = content.classes if config.classes is None else read_names(config.classes)
    where = config.classes or config.files[0]
    if not names:
        return tuple(f"class {index}" for index in range(count))
    if len(names) != count:
        hint = (
            "; if output 0 stands for unlabelled pixels, name it in the first line (--order can leave it out)"
        )
        one_less = len(names) == count - 1
        raise UsageError(
            f"{where} has {len(names)} names, the classifier {count} outputs{hint if one_less else ''}"
        )
    return names


def tell(config: ImportConfig, meta: CheckpointMeta, net: mapping.Mapped) -> None:
    """What was taken for granted, because no file of weights says it."""
    if config.as_json:
        print(json.dumps({"out": str(config.out), "tensors": len(net.state)} | json.loads(meta.to_json())))
        return
    console = Console()
    what = f"{len(meta.classes)} classes" if meta.classes else "a trunk, for --pretrained-from"
    console.print(f"{config.out}: {meta.preset} of {meta.provenance['imported_from']}, {what}")
    console.print(f"  weights from {meta.provenance['taken_from']}", highlight=False)
    if (dropped := meta.provenance["outputs_left_out"]) != "nothing":
        console.print(f"  outputs that --order leaves out: {dropped}", markup=False, highlight=False)
    console.print(
        f"  mean {meta.mean}, std {meta.std} (RGB, 0 to 255); source fed {config.channel_order.upper()}"
    )
    console.print(f"  align_corners {meta.align_corners}, bn_eps {meta.bn_eps}, {meta.layout}")
    console.print("  The weights do not say these; check them: python -m training.doctor --help")


if __name__ == "__main__":
    cli.run(ImportConfig, main)
