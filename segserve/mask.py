"""Network-stride logits -> label map at the photo's own resolution, without full-resolution logits.

Bilinear interpolation is a convex combination of a cell's four corners. So where one class wins at all four, it wins
throughout the cell; elsewhere only classes whose best corner reaches the best class's worst corner can win anywhere in
it. Most cells of a label map are of the first kind, and the others have two or three candidates: this is what makes
masks cheap next to the network, with the result of upsampling everything and taking argmax.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segserve.geometry import Geometry
from segserve.jit import kernel


def label_map(logits_chw: NDArray[np.float32], geometry: Geometry, align_corners: bool) -> NDArray[np.uint8]:
    """The class of every pixel of the photo, bars removed.

    Args:
        logits_chw: float32 (num_classes, h, w), num_classes at most 255.
        geometry: how the photo lay in the network's input.
        align_corners: how the weights were trained to be upsampled.

    Returns: uint8 (photo_height, photo_width). Ties go to the lowest class, as in argmax.
    """
    _, height, width = logits_chw.shape
    rows, columns = geometry.rows(height, align_corners), geometry.columns(width, align_corners)
    labels = np.empty((geometry.photo_height, geometry.photo_width), np.uint8)
    cells_hwc = np.ascontiguousarray(logits_chw.transpose(1, 2, 0), dtype=np.float32)
    _fill(cells_hwc, rows, columns, labels)
    return labels


@kernel(nogil=True)
def _fill(
    cells_hwc: NDArray[np.float32],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> None:  # pragma: no cover - compiled
    """Walk the cells of the logit grid and fill the block of photo pixels that lies in each."""
    height, width, _ = cells_hwc.shape
    row_starts, column_starts = _starts(rows, height), _starts(columns, width)
    candidates = np.empty(cells_hwc.shape[2], np.int64)
    for y in range(height):
        y_from, y_to = row_starts[y], row_starts[y + 1]
        if y_from == y_to:
            continue
        below = min(y + 1, height - 1)
        for x in range(width):
            x_from, x_to = column_starts[x], column_starts[x + 1]
            if x_from == x_to:
                continue
            right = min(x + 1, width - 1)
            a, b = cells_hwc[y, x], cells_hwc[y, right]
            c, d = cells_hwc[below, x], cells_hwc[below, right]
            count = _candidates(a, b, c, d, candidates)
            if count == 1:
                labels[y_from:y_to, x_from:x_to] = candidates[0]
                continue
            for i in range(y_from, y_to):
                down = rows[i] - np.float32(y)
                up = np.float32(1) - down
                for j in range(x_from, x_to):
                    across = columns[j] - np.float32(x)
                    back = np.float32(1) - across
                    best, best_class = np.float32(-np.inf), candidates[0]
                    for k in range(count):
                        n = candidates[k]
                        value = up * (back * a[n] + across * b[n]) + down * (back * c[n] + across * d[n])
                        if value > best:
                            best, best_class = value, n
                    labels[i, j] = best_class


@kernel(nogil=True)
def _starts(positions: NDArray[np.float32], size: int) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """starts[k] ... starts[k + 1] are the pixels whose position lies in cell k (positions never decrease)."""
    starts = np.zeros(size + 1, np.int64)
    for position in positions:
        starts[int(position) + 1] += 1
    return np.cumsum(starts)


@kernel(nogil=True)
def _candidates(
    a: NDArray[np.float32],
    b: NDArray[np.float32],
    c: NDArray[np.float32],
    d: NDArray[np.float32],
    out: NDArray[np.int64],
) -> int:  # pragma: no cover - compiled
    """Classes that can win somewhere in the cell, in rising order; returns how many."""
    floor = np.float32(-np.inf)
    for n in range(a.size):
        floor = max(floor, min(min(a[n], b[n]), min(c[n], d[n])))
    # rounding may lift a class by a few ulps inside the cell: keep near misses, they cost nothing
    floor -= abs(floor) * np.float32(1e-6)
    count = 0
    for n in range(a.size):
        if max(max(a[n], b[n]), max(c[n], d[n])) >= floor:
            out[count] = n
            count += 1
    if count == 0:  # every logit is NaN: say something, parity has refused such a model
        out[0], count = 0, 1
    return count
