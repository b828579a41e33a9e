"""Several looks at one photo, fused: mirrored, at other scales, through sliding windows; the probabilities of classes.

    whole = look_at(photo_hwc, segmenter, Ways())                              # one look, as it is served
    looks = list(look_at(photo_hwc, segmenter, Ways(flip=True)))
    mask, confidence = fuse(looks, *photo_hwc.shape[:2], segmenter.spec.align_corners)

Test-time augmentation as in section 5.1 of the PSPNet paper (arXiv:1612.01105): the softmax of each look is brought to
the photo's size and averaged. Serving does none of it; this says what it would gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from segserve.engines import Logits
from segserve.errors import UsageError
from segserve.geometry import Geometry
from segserve.image import Photo
from segserve.resize import to_input
from segserve.segmenter import Segmenter

STRIP_VALUES = 1 << 24
"""Probabilities that are held at a time, so that 150 classes of a 12-megapixel photo do not take 7 GB."""
OVERLAP = 1 / 3
"""Of neighbouring windows, as in the paper's own code."""


@dataclass(frozen=True)
class Ways:
    """How the network looks at a photo."""

    scales: tuple[float, ...] = (1.0,)
    """Sizes of the network's input, the model's own being 1."""
    flip: bool = False
    """Mirrored as well."""
    sliding: bool = False
    """At scales above 1: windows of the model's own input size, one after another, instead of a larger input."""

    def __post_init__(self) -> None:
        if not self.scales or not all(0.25 <= scale <= 4 for scale in self.scales):
            raise UsageError(f"--scales {self.scales}: expected one or more from 0.25 to 4")
        if self.sliding and max(self.scales) <= 1:
            raise UsageError(
                "--sliding changes nothing at scales up to 1: give --scales with a larger one, such as 2"
            )

    @property
    def as_served(self) -> bool:
        """One look at the whole photo."""
        return self == Ways()


@dataclass(frozen=True)
class Look:
    """Logits (num_classes, h, w) of a part of the photo; `geometry` is that of the part, which lies at (top, left)."""

    logits_chw: Logits
    geometry: Geometry
    top: int = 0
    left: int = 0


def look_at(photo_hwc: NDArray[np.uint8], segmenter: Segmenter, ways: Ways) -> Iterator[Look]:
    """Every look at a photo, uint8 (H, W, 3) upright RGB. Raises: EngineError if an input size does not suit."""
    for scale in ways.scales:
        height, width = (
            _side(side, scale) for side in (segmenter.spec.input.height, segmenter.spec.input.width)
        )
        parts = [(0, 0, *photo_hwc.shape[:2])]
        if ways.sliding and scale > 1:
            parts = windows(photo_hwc.shape[0], photo_hwc.shape[1], (height, width), scale)
            height, width = segmenter.spec.input.height, segmenter.spec.input.width
        for top, left, bottom, right in parts:
            part = np.ascontiguousarray(photo_hwc[top:bottom, left:right])
            photo = Photo(Image.fromarray(part), None, part.shape[0], part.shape[1])
            input_hwc, geometry = to_input(photo, height, width)
            yield Look(segmenter.engine(input_hwc[None])[0], geometry, top, left)
            if ways.flip:
                mirrored = segmenter.engine(np.ascontiguousarray(input_hwc[None, :, ::-1]))[0]
                yield Look(mirrored[..., ::-1], geometry, top, left)


def windows(
    photo_height: int, photo_width: int, size: tuple[int, int], scale: float
) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right) of parts that cover a photo whose letterboxed copy would fill `size` (height, width).

    Each part is what an input that is `scale` times smaller than `size` holds; neighbours overlap by a third.
    """
    per_input = max(photo_height / size[0], photo_width / size[1])  # photo pixels for each pixel of the input
    rows = _starts(photo_height, max(1, round(size[0] / scale * per_input)))
    columns = _starts(photo_width, max(1, round(size[1] / scale * per_input)))
    return [(top, left, bottom, right) for top, bottom in rows for left, right in columns]


def fuse(
    looks: Sequence[Look], height: int, width: int, align_corners: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """The class of each pixel, uint8 (height, width), and its mean probability, float32 (height, width), 0 to 1."""
    num_classes = looks[0].logits_chw.shape[0]
    mask, confidence = np.empty((height, width), np.uint8), np.empty((height, width), np.float32)
    step = max(1, STRIP_VALUES // (num_classes * width))
    for top in range(0, height, step):
        bottom = min(height, top + step)
        total, count = torch.zeros(num_classes, bottom - top, width), torch.zeros(bottom - top, width)
        for look in looks:
            _add(look, total, count, top, align_corners)
        best = (total / count).max(dim=0)
        mask[top:bottom], confidence[top:bottom] = best.indices.byte().numpy(), best.values.numpy()
    return mask, confidence


def _add(look: Look, total: torch.Tensor, count: torch.Tensor, top: int, align_corners: bool) -> None:
    """Add the probabilities of a look to the strip of the photo that begins at row `top`."""
    begin = max(look.top, top)
    end = min(look.top + look.geometry.photo_height, top + total.shape[1])
    if begin >= end:
        return
    logits = torch.from_numpy(np.ascontiguousarray(look.logits_chw)).float()
    rows = look.geometry.rows(logits.shape[1], align_corners)[begin - look.top : end - look.top]
    columns = look.geometry.columns(logits.shape[2], align_corners)
    shown = torch.softmax(_between(_between(logits, rows, 1), columns, 2), dim=0)
    across = slice(look.left, look.left + look.geometry.photo_width)
    total[:, begin - top : end - top, across] += shown
    count[begin - top : end - top, across] += 1


def _between(values: torch.Tensor, positions: NDArray[np.float32], dim: int) -> torch.Tensor:
    """Linear interpolation along one axis."""
    last = values.shape[dim] - 1
    low = np.minimum(positions.astype(np.int64), last)
    weight = torch.from_numpy(positions - low.astype(np.float32)).clamp(0, 1)
    high = torch.from_numpy(np.minimum(low + 1, last))
    shape = [1] * values.dim()
    shape[dim] = -1
    return torch.lerp(
        values.index_select(dim, torch.from_numpy(low)), values.index_select(dim, high), weight.reshape(shape)
    )


def _side(side: int, scale: float) -> int:
    """As far past a multiple of the network's stride as the model's own side is.

    With align_corners the last cell of a map is laid on the last pixel. Where that is right for the own size, such as
    473 = 8 * 59 + 1, it stays right.
    """
    past = side % 8
    return side if scale == 1 else 8 * max(1, round((side - past) * scale / 8)) + past


def _starts(whole: int, part: int) -> list[tuple[int, int]]:
    """Where the windows begin and end along one side."""
    if part >= whole:
        return [(0, whole)]
    number = 1 + int(np.ceil((whole - part) / (part * (1 - OVERLAP))))
    return [
        (start, start + part) for start in np.linspace(0, whole - part, number).round().astype(int).tolist()
    ]
