"""Logits at single points of a photo, where the label map of all its pixels would be too much."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def at_points(
    logits_chw: NDArray[np.float32],
    rows: NDArray[np.float32],
    columns: NDArray[np.float32],
    classes: NDArray[np.uint8] | None = None,
) -> NDArray[np.float64]:
    """Bilinear values at points of the map, (C, n), or of one of `classes` at each, (n,).

    rows, columns: (n,), from 0; points past the last row or column are on it.
    """
    which = slice(None) if classes is None else classes
    _, height, width = logits_chw.shape
    y, x = np.minimum(rows, height - 1, dtype=np.float64), np.minimum(columns, width - 1, dtype=np.float64)
    top, left = y.astype(np.int64), x.astype(np.int64)
    bottom, right = np.minimum(top + 1, height - 1), np.minimum(left + 1, width - 1)
    down, across = y - top, x - left
    upper = (1 - across) * logits_chw[which, top, left] + across * logits_chw[which, top, right]
    lower = (1 - across) * logits_chw[which, bottom, left] + across * logits_chw[which, bottom, right]
    values: NDArray[np.float64] = (1 - down) * upper + down * lower
    return values
