"""How the ResNet PSPNets of different repositories differ from each other, as data that a checkpoint can carry.

    net = pspnet.build("pspnet50", 19, align_corners=False, layout=Layout(stem=(32, 32, 64), contracted=True))

Two networks of one depth can have tensors of the same names and shapes and still be different functions: nothing in
the weights tells where a stride or a dilation was. The defaults are this repository's own networks, which are those
of the paper's PyTorch code.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from segserve.errors import CheckpointError

StrideIn = Literal["3x3", "1x1"]
Second = Literal["block", "stage", "none"]


@dataclass(frozen=True)
class Layout:
    """Of a ResNet trunk, pyramid and heads. Raises CheckpointError where it makes no network."""

    stem: tuple[int, ...] = (64, 64, 128)
    """Output channels of the stem's 3x3 convolutions; a single number stands for one of 7x7."""
    width: int = 64
    """Channels inside the first stage's blocks; each later stage has twice as many."""
    stride_in: StrideIn = "3x3"
    """Which convolution of a bottleneck halves the map: 3x3 (PyTorch's) or the first 1x1 (Caffe's)."""
    contracted: bool = False
    """Whether the first block of a dilated stage has half of the stage's dilation."""
    multi_grid: tuple[int, ...] = ()
    """Dilation of each block of the last stage, where they differ from one another; empty: they do not."""
    second: Second = "block"
    """Dilation of the second convolution of a basic block (ResNet-18): as its first has it, as the rest of the stage
    has it where the first block has half, or none."""
    pyramid: int | None = None
    """Channels of each level of the pyramid; None: a quarter of the trunk's."""
    head: int = 512
    """Channels between the pyramid and the classifier."""
    aux: int = 256
    """Channels of the auxiliary head."""

    def __post_init__(self) -> None:
        counts = (*self.stem, self.width, self.head, self.aux, *self.multi_grid)
        counts += () if self.pyramid is None else (self.pyramid,)
        if (
            len(self.stem) not in (1, 3)
            or not all(type(count) is int and count > 0 for count in counts)
            or not isinstance(self.contracted, bool)
            or self.stride_in not in get_args(StrideIn)
            or self.second not in get_args(Second)
        ):
            raise CheckpointError(f"no network has this layout: {self}")

    def as_json(self) -> dict[str, Any]:
        """For the checkpoint's description."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: object) -> Layout:
        """The inverse of `as_json`. Raises CheckpointError for anything else."""
        if not isinstance(content, Mapping) or set(content) != {field.name for field in fields(cls)}:
            raise CheckpointError(f"the network's layout cannot be read: {content!r}")
        lists = {name: tuple(content[name]) for name in ("stem", "multi_grid")}
        return cls(**{**content, **lists})

    def dilations(self, depth: int, dilation: int, *, last: bool) -> list[tuple[int, int]]:
        """Of the first and second 3x3 convolution of each of a stage's `depth` blocks (bottlenecks have one).

        Raises CheckpointError for a multi-grid of another length.
        """
        first = [dilation // 2 if self.contracted and dilation > 1 else dilation, *[dilation] * (depth - 1)]
        if last and self.multi_grid:
            first = list(self.multi_grid)
        if len(first) != depth:
            raise CheckpointError(
                f"multi-grid {self.multi_grid} names {len(first)} blocks; the last stage has {depth}"
            )
        second = {"block": first, "stage": [dilation] * depth, "none": [1] * depth}[self.second]
        return list(zip(first, second, strict=True))
