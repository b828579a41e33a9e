"""Outlines to pixels: a pixel belongs to a polygon if its centre is inside (even-odd rule).

Pillow's polygon also paints every pixel that the outline touches: 13 % too many for objects of 15 pixels.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def fill(values: NDArray[np.int32], outline_xy: NDArray[np.float64], value: int) -> None:
    """Paint one polygon in place.

    Args: values (H, W); outline_xy (N, 2) in pixels, 0 and W being the outer edges of the first and last column.

    Each row of pixel centres is cut by the edges; between the first and second cut is inside, and so on: a cumulative
    count of the cuts left of a pixel, of which only whether it is odd matters.
    """
    inside = inside_polygon(outline_xy, values.shape[0], values.shape[1])
    values[inside] = value


def inside_polygon(outline_xy: NDArray[np.float64], height: int, width: int) -> NDArray[np.bool_]:
    """bool (height, width)."""
    starts, ends = outline_xy, np.roll(outline_xy, -1, axis=0)
    cuts = np.zeros((height, width + 1), np.int32)
    for (x0, y0), (x1, y1) in zip(starts.tolist(), ends.tolist(), strict=True):
        if y0 == y1:
            continue
        low, high = min(y0, y1), max(y0, y1)
        # rows whose centre, row + 0.5, is in [low, high): an end point counts for one of its two edges
        first, last = max(0, int(np.ceil(low - 0.5))), min(height, int(np.ceil(high - 0.5)))
        rows = np.arange(first, last)
        x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
        columns = np.clip(np.ceil(x - 0.5), 0, width).astype(np.intp)
        cuts[rows, columns] += 1
    return (np.cumsum(cuts[:, :width], axis=1) & 1).astype(np.bool_)


def area(outline_xy: NDArray[np.float64]) -> float:
    """Of a polygon (N, 2), by the shoelace formula; square of the unit of the points."""
    x, y = outline_xy.T
    return abs(float(x @ np.roll(y, -1) - y @ np.roll(x, -1))) / 2
