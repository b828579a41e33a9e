"""Network-stride logits -> label map at the photo's own resolution, without full-resolution logits.

Bilinear interpolation is a convex combination of a cell's four corners. So where one class wins at all four, it wins
throughout the cell; elsewhere only classes whose best corner reaches the best class's worst corner can win anywhere in
it. Most cells of a label map are of the first kind, and the others have two or three candidates: this is what makes
masks cheap next to the network, with the result of upsampling everything and taking argmax.

The result is torch's to the last bit of every interpolated logit, so ties fall as they do there:
`functional.interpolate(logits_nchw.float(), size, mode="bilinear", align_corners=...).argmax(1)`, on a processor with
fused multiply-add and for contiguous logits_nchw. (torch has a second kernel, for channels_last, 3 classes, or outputs
of height + width <= 128; and a build without fused multiply-add. They round in other places, so labels differ where two
classes are equal but for rounding, and nowhere else.) 16-bit logits count as the same numbers in 32 bits: torch's own
16-bit interpolation rounds every result to 11 bits.

With a letterbox, "size" is that of the content: see `segserve.geometry`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segserve import native
from segserve.geometry import Geometry

CHUNK = 64
"""Columns of a cell that are interpolated at a time: what they need stays in the first-level cache."""


def label_map(
    logits_chw: NDArray[np.float32] | NDArray[np.float16], geometry: Geometry, align_corners: bool
) -> NDArray[np.uint8]:
    """The class of every pixel of the photo, bars removed.

    Args:
        logits_chw: float32 or float16 (num_classes, h, w), num_classes at most 255.
        geometry: how the photo lay in the network's input.
        align_corners: how the weights were trained to be upsampled.

    Returns: uint8 (photo_height, photo_width). Ties go to the lowest class, as in argmax.
    """
    half = logits_chw.dtype == np.float16
    contiguous = np.ascontiguousarray(logits_chw, dtype=np.float16 if half else np.float32)
    num_classes, height, width = contiguous.shape
    rows, columns = geometry.rows(height, align_corners), geometry.columns(width, align_corners)
    row_starts, column_starts = _starts(rows, height), _starts(columns, width)
    labels = np.empty((geometry.photo_height, geometry.photo_width), np.uint8)
    # winners; two rows of logits; their ends; floors, second and mixed; candidates; best and its class
    scratch = np.empty(
        height * width + 2 * num_classes * (width + CHUNK) + 3 * width + num_classes + 2 * CHUNK, np.int32
    )
    fill = native.function("fill_float16" if half else "fill_float32")
    fill(
        contiguous.ctypes.data, num_classes, height, width, rows.ctypes.data, columns.ctypes.data,
        row_starts.ctypes.data, column_starts.ctypes.data, *labels.shape, scratch.ctypes.data, labels.ctypes.data,
    )  # fmt: skip
    return labels


def _starts(positions: NDArray[np.float32], size: int) -> NDArray[np.int32]:
    """starts[k] ... starts[k + 1] are the pixels whose position lies in cell k, or past the last (they never fall)."""
    starts: NDArray[np.int32] = np.searchsorted(positions, np.arange(size + 1)).astype(np.int32)
    starts[-1] = positions.size
    return starts
