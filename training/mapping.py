"""Tensors of another repository's network -> our state dict and the layout that makes it the same function.

    net = convert(tensors, source, Choices("3x3", None, ()))

Complete or refused: what is missing, left over or of another shape is named, and nothing is guessed.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from segserve.errors import CheckpointError
from training import pspnet
from training.backbones import RESNETS, BasicBlock, Bottleneck
from training.checkpoint import AUX
from training.foreign import Source, stem, their_name
from training.layout import Layout, StrideIn

COUNTER = "num_batches_tracked"  # of batch norms; old files lack it, and inference does not read it
SHOWN = 6
THRESHOLD = 0.3  # mmseg's, of a binary head that is given none


@dataclass(frozen=True)
class Choices:
    """What no tensor shows. `contracted` None: as the source does. `threshold`: of a binary head, None: mmseg's."""

    stride_in: StrideIn
    contracted: bool | None
    multi_grid: tuple[int, ...]
    threshold: float | None = None


@dataclass(frozen=True)
class Mapped:
    """Our state dict (float32; only the trunk's for a ResNet, num_classes 0), and the names that were left out.

    `threshold`: of the sigmoid whose one output became two; None: there was none.
    """

    preset: str
    layout: Layout
    num_classes: int
    state: dict[str, Tensor]
    left_out: tuple[str, ...]
    threshold: float | None


def convert(tensors: dict[str, Tensor], source: Source, choices: Choices) -> Mapped:
    """Raises CheckpointError with all that does not fit."""
    _refuse_kinds(tensors)
    _refuse_turned(tensors, source)
    given, threshold = tensors, choices.threshold or THRESHOLD
    tensors = _two_outputs(given, source, threshold)
    preset = find_preset(tensors, source)
    layout = find_layout(tensors, source, choices, preset)
    num_classes = _channels(tensors, source.head[2]) if source.head else 0
    with torch.device("meta"):  # shapes only
        own = pspnet.build(preset, max(1, num_classes), layout=layout).state_dict()
    if source.head is None:
        own = {name: tensor for name, tensor in own.items() if name.startswith("backbone.")}
    elif source.aux and not any(name.startswith(source.aux[0]) for name in tensors):
        own = {name: tensor for name, tensor in own.items() if not name.startswith(AUX)}
    stem_names = stem(tensors, source)
    names = {ours: their_name(ours, source, stem_names) for ours in own}
    left = {name for name in tensors if not name.endswith(COUNTER)} - set(names.values())
    left_out = {name for name in left if re.match(source.left_out, name)}
    _refuse(own, names, tensors, left - left_out)
    counter = torch.zeros((), dtype=torch.long)
    state = {
        # a copy each: what shares memory cannot be written to one safetensors file
        ours: (tensors.get(theirs, counter) if ours.endswith(COUNTER) else tensors[theirs].float()).clone()
        for ours, theirs in names.items()
    }
    broken = [name for name, tensor in state.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise CheckpointError(f"weights that are infinite or not a number: {', '.join(broken[:SHOWN])}")
    binary = None if tensors is given else threshold
    return Mapped(preset, layout, num_classes, state, tuple(sorted(left_out)), binary)


def _refuse_kinds(tensors: dict[str, Tensor]) -> None:
    """Raises CheckpointError for tensors that are no weights as PyTorch has them, whatever their names."""
    kinds = {name: tensor for name, tensor in tensors.items() if not name.endswith(COUNTER)}
    odd = [name for name, tensor in kinds.items() if not tensor.is_floating_point()]
    if odd:
        shown = ", ".join(f"{name} ({str(kinds[name].dtype).removeprefix('torch.')})" for name in odd[:SHOWN])
        raise CheckpointError(
            f"{len(odd)} tensors are no floating-point numbers, as quantised weights are: {shown}"
            f"{'…' * (len(odd) > SHOWN)}: import the float checkpoint that they were made of"
        )
    if single := [name for name, tensor in kinds.items() if tensor.dim() == 0]:
        raise CheckpointError(
            f"a single number where a weight was expected: {', '.join(single[:SHOWN])}: the file is not whole, or of "
            "another network"
        )


def _refuse_turned(tensors: dict[str, Tensor], source: Source) -> None:
    """Raises CheckpointError for kernels as TensorFlow has them, which are told by the first one's three channels."""
    name = f"{stem(tensors, source)[0]}.weight"
    shape = tuple(tensors[name].shape)
    if len(shape) != 4 or shape[0] != shape[1] or shape[0] not in (3, 7) or shape[2] != 3:
        return
    if shape[3] != 3:  # else it looks the same either way
        raise CheckpointError(
            "the kernels are in TensorFlow's order (height, width, in, out), expected (out, in, height, width): "
            f"{name} is {shape}. Turn each with permute(3, 2, 0, 1), save it again, and say --bn-eps 0.001, which is "
            "TensorFlow's. Its padding 'same' pads otherwise at stride 2: what was trained with it is another function"
        )


def _two_outputs(tensors: dict[str, Tensor], source: Source, threshold: float) -> dict[str, Tensor]:
    """A binary head, whose one output goes through a sigmoid, as two outputs of which the larger one wins.

    The first is 0 everywhere and the second theirs, less the value at which the sigmoid is at the threshold. Raises
    CheckpointError where nobody says the threshold: the only output of this repository's networks would always win.
    """
    classifier = source.head[2] if source.head else ""
    weight, bias = tensors.get(f"{classifier}.weight"), tensors.get(f"{classifier}.bias")
    if weight is None or weight.shape[0] != 1 or (bias is not None and bias.shape[0] != 1):
        return tensors
    if source.name != "mmseg":
        raise CheckpointError(
            f"{classifier} has one output, expected one for each class: every pixel would be of the only class. If it "
            "is a sigmoid's, give the file a second output: zeros first, then theirs, with the threshold's logit "
            "taken off its bias"
        )
    changed = dict(tensors)
    for name in (classifier, source.aux[2] if source.aux else ""):
        weight, bias = changed.get(f"{name}.weight"), changed.get(f"{name}.bias")
        if weight is not None and bias is not None and weight.shape[0] == bias.shape[0] == 1:
            moved = bias.float() - math.log(threshold / (1 - threshold))
            changed[f"{name}.weight"] = torch.cat([torch.zeros_like(weight), weight])
            changed[f"{name}.bias"] = torch.cat([torch.zeros_like(moved), moved])
    return changed


def find_preset(tensors: dict[str, Tensor], source: Source) -> str:
    """By the number of blocks in each stage and their kind. Raises CheckpointError for a network not among ours."""
    pattern = re.compile(re.escape(source.trunk) + r"layer([1-4])\.(\d+)\.conv1\.weight")
    blocks = {(int(found[1]), int(found[2])) for name in tensors if (found := pattern.fullmatch(name))}
    depths = tuple(sum(stage == number for stage, _ in blocks) for number in (1, 2, 3, 4))
    block = Bottleneck if f"{source.trunk}layer1.0.conv3.weight" in tensors else BasicBlock
    for preset, shape in RESNETS.items():
        if shape == (block, depths):
            return preset
    raise CheckpointError(
        f"a ResNet with {depths} blocks of the kind {block.__name__}; known: "
        + ", ".join(f"{preset} {kind.__name__} {known}" for preset, (kind, known) in RESNETS.items())
    )


def find_layout(tensors: dict[str, Tensor], source: Source, choices: Choices, preset: str) -> Layout:
    """Widths from the tensors, the rest from the source's habits and the choices. Raises CheckpointError."""
    layout = Layout(
        stem=tuple(_channels(tensors, name) for name in stem(tensors, source)[::2]),
        width=_channels(tensors, f"{source.trunk}layer1.0.conv1"),
        stride_in=choices.stride_in,
        contracted=source.contracted if choices.contracted is None else choices.contracted,
        multi_grid=choices.multi_grid,
        second=source.second,
        pyramid=_channels(tensors, source.level[0].format(0)) if source.level else None,
        head=_channels(tensors, source.head[0]) if source.head else Layout.head,
        aux=_channels(tensors, source.aux[0], Layout.aux) if source.aux else Layout.aux,
    )
    if preset == "pspnet18" and choices.stride_in != "3x3":
        raise CheckpointError("--stride-in 1x1 is for bottlenecks; the blocks of a ResNet-18 have no 1x1")
    return layout


def _channels(tensors: dict[str, Tensor], name: str, default: int | None = None) -> int:
    tensor = tensors.get(f"{name}.weight")
    if tensor is None and default is not None:
        return default
    if tensor is None:
        raise CheckpointError(f"{name}.weight is missing: the file is not whole, or of another network")
    return int(tensor.shape[0])


def _refuse(
    own: dict[str, Tensor], names: dict[str, str], tensors: dict[str, Tensor], left: set[str]
) -> None:
    wanted = {theirs: own[ours].shape for ours, theirs in names.items() if not ours.endswith(COUNTER)}
    missing = sorted(wanted.keys() - tensors.keys())
    shapes = sorted(
        f"{name} {tuple(tensors[name].shape)} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    )
    found = {"missing": missing, "left over": sorted(left), "of another shape": shapes}
    told = [
        f"{len(names)} {what}: {', '.join(names[:SHOWN])}{'…' if len(names) > SHOWN else ''}"
        for what, names in found.items()
        if names
    ]
    if told:
        pooled = any(re.search(r"downsample\.2\.", name) for name in tensors)
        hint = " Shortcuts with average pooling (ResNet-D, V1d) are not supported." if pooled else ""
        raise CheckpointError(f"nothing was imported, because tensors are {'; '.join(told)}.{hint}")
