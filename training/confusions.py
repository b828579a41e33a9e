"""Which classes are taken for which, what each pair costs, and the confusion matrix as a picture (SVG).

for pair in pairs(matrix)[:5]: print(classes[pair.first], classes[pair.second], pair.miou_points)
Path("confusion.svg").write_text(svg(matrix.counts, classes))
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.metrics import ConfusionMatrix

CELL, MARGIN = 34, 130


@dataclass(frozen=True)
class Pair:
    """Two classes that are taken for each other."""

    first: int
    second: int
    pixels: int
    """Of either that were taken for the other."""
    share: float
    """Of all labelled pixels, those of which is only known what they are not included."""
    miou_points: float
    """What mIoU would gain, in points of 100, if these pixels were right; the mean being of the same classes as before:
    without the only pixels that were taken for a class that is not there, that class would be out of it."""


def pairs(matrix: ConfusionMatrix) -> list[Pair]:
    """All pairs that were confused, the dearest first."""
    found, before, total = (
        [],
        np.array(matrix.scores().class_iou),
        int(matrix.counts.sum() + matrix.told.sum()),
    )
    counted = ~np.isnan(before)
    for first in range(matrix.num_classes):
        for second in range(first + 1, matrix.num_classes):
            pixels = int(matrix.counts[first, second] + matrix.counts[second, first])
            if pixels:
                after = np.nan_to_num(_mended(matrix, first, second).scores().class_iou)
                gain = float((after - before)[counted].mean())
                found.append(Pair(first, second, pixels, pixels / total, 100 * gain))
    return sorted(found, key=lambda pair: pair.miou_points, reverse=True)


def _mended(matrix: ConfusionMatrix, first: int, second: int) -> ConfusionMatrix:
    """With the pixels of the two classes that were taken for each other in the right place."""
    mended = copy.copy(matrix)
    mended.counts = counts = matrix.counts.copy()
    for label, predicted in ((first, second), (second, first)):
        counts[label, label] += counts[label, predicted]
        counts[label, predicted] = 0
    return mended


def as_json(found: Sequence[Pair], classes: Sequence[str]) -> list[dict[str, Any]]:
    """Pairs with the names of their classes, as reports have them."""
    return [
        {
            "classes": [classes[pair.first], classes[pair.second]],
            "share": pair.share,
            "miou_points": pair.miou_points,
        }
        for pair in found
    ]


def svg(counts: NDArray[np.int64], classes: Sequence[str]) -> str:
    """Rows are labels, columns predictions; each cell is the share of the label's pixels in %, dark is much."""
    size = CELL * len(classes)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {MARGIN + size + 8} {MARGIN + size + 8}" '
        f'width="{MARGIN + size + 8}" font-family="system-ui, sans-serif" font-size="12">',
        f'<rect width="{MARGIN + size + 8}" height="{MARGIN + size + 8}" fill="#fff"/>',
    ]
    for row, name in enumerate(classes):
        middle = MARGIN + CELL * row + CELL / 2
        parts.append(f'<text x="{MARGIN - 8}" y="{middle + 4}" text-anchor="end">{escape(name)}</text>')
        turned = f'transform="rotate(-60 {middle} {MARGIN - 8})"'
        parts.append(f'<text x="{middle}" y="{MARGIN - 8}" {turned}>{escape(name)}</text>')
        labelled = int(counts[row].sum())
        columns = range(len(classes) if labelled else 0)
        parts += [_cell(row, column, counts[row, column] / labelled) for column in columns]
    return "".join([*parts, "</svg>"])


def _cell(row: int, column: int, share: float) -> str:
    x, y = MARGIN + CELL * column, MARGIN + CELL * row
    red, green, blue = (43, 108, 176) if row == column else (192, 57, 43)  # right is blue, wrong is red
    strength = share**0.5  # a confusion of some per cent shall be seen
    colour = ",".join(f"{255 - strength * (255 - part):.0f}" for part in (red, green, blue))
    text = f"{100 * share:.0f}" if share >= 0.005 else ""
    ink = "#fff" if strength > 0.65 else "#222"
    return (
        f'<rect x="{x}" y="{y}" width="{CELL - 1}" height="{CELL - 1}" fill="rgb({colour})"/>'
        f'<text x="{x + CELL / 2}" y="{y + CELL / 2 + 4}" text-anchor="middle" fill="{ink}">{text}</text>'
    )
