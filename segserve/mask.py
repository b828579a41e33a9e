"""Network-stride logits -> label map at the photo's own resolution, without full-resolution logits.

Bilinear interpolation is a convex combination of a cell's four corners. So where one class wins at all four, it wins
throughout the cell; elsewhere only classes whose best corner reaches the best class's worst corner can win anywhere in
it. Most cells of a label map are of the first kind, and the others have two or three candidates: this is what makes
masks cheap next to the network, with the result of upsampling everything and taking argmax.

The result is torch's to the last bit of every interpolated logit, so ties fall as they do there:
`functional.interpolate(logits_nchw.float(), size, mode="bilinear", align_corners=...).argmax(1)`, on a processor with
fused multiply-add and for contiguous logits_nchw. (torch has a second kernel, for channels_last, 3 classes, or outputs
of height + width <= 128. It sums in another order; labels differ only where two classes come out as good as equal.)
16-bit logits count as the same numbers in 32 bits: torch's own 16-bit interpolation would round every result.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from segserve.geometry import Geometry
from segserve.jit import kernel

Bits = NDArray[np.float32] | NDArray[np.uint16]
"""float32, or the bits of float16, which numba can't handle on a CPU."""

_ONE = np.float32(1)
_CHUNK = 64  # columns of a cell that are interpolated at a time: what they need stays in the first-level cache
# Four roundings of 2^-24 each on either side; below the smallest normal float there is no relative error to speak of.
_NEAR, _TINY = np.float32(1e-6), np.float32(1e-30)
_UNSURE = -1


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
    _, height, width = logits_chw.shape
    rows, columns = geometry.rows(height, align_corners), geometry.columns(width, align_corners)
    labels = np.empty((geometry.photo_height, geometry.photo_width), np.uint8)
    bits: Bits
    if logits_chw.dtype == np.float16:
        bits = np.ascontiguousarray(logits_chw).view(np.uint16)
    else:
        bits = np.ascontiguousarray(logits_chw, dtype=np.float32)
    _fill(bits, rows, columns, labels)
    return labels


@intrinsic
def _fma(context: Any, a: Any, b: Any, c: Any) -> Any:  # pragma: no cover - compiled
    """a * b + c, rounded once: what the compiler makes of such an expression in torch's kernel."""
    single = types.float32
    return single(single, single, single), lambda _, builder, __, values: builder.fma(*values)


@intrinsic
def _float(context: Any, value: Any) -> Any:  # pragma: no cover - compiled
    """float32 as it is, or from the bits of a float16: one instruction, and exact."""
    from llvmlite import ir

    def widen(_: Any, builder: Any, signature: Any, values: Any) -> Any:
        if signature.args[0] == types.float32:
            return values[0]
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return types.float32(value), widen


@kernel(nogil=True)
def _fill(
    logits_chw: Bits, rows: NDArray[np.float32], columns: NDArray[np.float32], labels: NDArray[np.uint8]
) -> None:  # pragma: no cover - compiled
    """Walk the rows of the logit grid and fill the band of photo rows that lies in each."""
    num_classes, height, width = logits_chw.shape
    winners = _winners(logits_chw)
    row_starts, column_starts = _starts(rows, height), _starts(columns, width)
    mixed, counts = np.empty(width, np.int64), np.empty(width, np.int64)
    candidates = np.empty((width, num_classes), np.int64)
    top, bottom = np.empty((num_classes, _CHUNK), np.float32), np.empty((num_classes, _CHUNK), np.float32)
    for y in range(height):
        y_from, y_to = row_starts[y], row_starts[y + 1]
        if y_from == y_to:
            continue
        below = min(y + 1, height - 1)
        num_mixed = 0
        for x in range(width):
            if column_starts[x] == column_starts[x + 1]:
                continue
            winner, right = winners[y, x], min(x + 1, width - 1)
            if (
                winner == winners[y, right]
                and winner == winners[below, x]
                and winner == winners[below, right]
                and winner != _UNSURE
            ):
                labels[y_from, column_starts[x] : column_starts[x + 1]] = winner
            else:
                mixed[num_mixed] = x
                num_mixed += 1
        for i in range(y_from + 1, y_to):
            labels[i] = labels[y_from]
        _candidates(logits_chw, y, below, mixed[:num_mixed], candidates, counts)
        for m in range(num_mixed):
            x = mixed[m]
            for start in range(column_starts[x], column_starts[x + 1], _CHUNK):
                stop = min(start + _CHUNK, column_starts[x + 1])
                chosen = candidates[m, : counts[m]]
                _sides(logits_chw, y, below, x, columns[start:stop], chosen, top, bottom)
                _block(
                    rows[y_from:y_to], np.float32(y), chosen, top, bottom, labels[y_from:y_to, start:stop]
                )


@kernel(nogil=True)
def _winners(logits_chw: Bits) -> NDArray[np.int16]:  # pragma: no cover - compiled
    """The best class at each point of the grid, or _UNSURE where a lower class is so near that, between two such
    points, rounding may make both equal: then the lower one wins. A higher class never gains by rounding."""
    num_classes, height, width = logits_chw.shape
    winners = np.empty((height, width), np.int16)
    best, second = np.empty(width, np.float32), np.empty(width, np.float32)
    for y in range(height):
        row = winners[y]
        for x in range(width):
            best[x], second[x], row[x] = _float(logits_chw[0, y, x]), np.float32(-np.inf), 0
        for n in range(1, num_classes):
            for x in range(width):
                value = _float(logits_chw[n, y, x])
                better = value > best[x]
                second[x] = best[x] if better else second[x]
                best[x] = value if better else best[x]
                row[x] = n if better else row[x]
        for x in range(width):
            if not best[x] - second[x] > _NEAR * abs(best[x]) + _TINY:
                row[x] = _UNSURE
    return winners


@kernel(nogil=True)
def _starts(positions: NDArray[np.float32], size: int) -> NDArray[np.int64]:  # pragma: no cover - compiled
    """starts[k] ... starts[k + 1] are the pixels whose position lies in cell k (positions never decrease)."""
    starts = np.zeros(size + 1, np.int64)
    for position in positions:
        starts[min(int(position), size - 1) + 1] += 1
    return np.cumsum(starts)


@kernel(nogil=True)
def _candidates(
    logits_chw: Bits,
    y: int,
    below: int,
    mixed: NDArray[np.int64],
    out: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:  # pragma: no cover - compiled
    """For each cell of a row that is listed in `mixed`: the classes that can win in it, in rising order."""
    num_classes, _, width = logits_chw.shape
    floors = np.full(mixed.size, np.float32(-np.inf))
    for n in range(num_classes):
        upper, lower = logits_chw[n, y], logits_chw[n, below]
        for m in range(mixed.size):
            x = mixed[m]
            right = min(x + 1, width - 1)
            a, b, c, d = _float(upper[x]), _float(upper[right]), _float(lower[x]), _float(lower[right])
            floors[m] = max(floors[m], min(min(a, b), min(c, d)))
    for m in range(mixed.size):
        floors[m] -= abs(floors[m]) * _NEAR + _TINY
        counts[m] = 0
    for n in range(num_classes):
        upper, lower = logits_chw[n, y], logits_chw[n, below]
        for m in range(mixed.size):
            x = mixed[m]
            right = min(x + 1, width - 1)
            a, b, c, d = _float(upper[x]), _float(upper[right]), _float(lower[x]), _float(lower[right])
            if max(max(a, b), max(c, d)) >= floors[m]:
                out[m, counts[m]] = n
                counts[m] += 1
    for m in range(mixed.size):
        if counts[m] == 0:  # every logit is NaN: say something, parity has refused such a model
            out[m, 0], counts[m] = 0, 1


@kernel(nogil=True)
def _sides(
    logits_chw: Bits,
    y: int,
    below: int,
    x: int,
    columns: NDArray[np.float32],
    candidates: NDArray[np.int64],
    top: NDArray[np.float32],
    bottom: NDArray[np.float32],
) -> None:  # pragma: no cover - compiled
    """Interpolate along the upper and the lower side of a cell, for each candidate."""
    right = min(x + 1, logits_chw.shape[2] - 1)
    for k in range(candidates.size):
        n = candidates[k]
        a, b = _float(logits_chw[n, y, x]), _float(logits_chw[n, y, right])
        c, d = _float(logits_chw[n, below, x]), _float(logits_chw[n, below, right])
        for j in range(columns.size):
            across = min(columns[j] - np.float32(x), _ONE)
            top[k, j] = _fma(_ONE - across, a, across * b)
            bottom[k, j] = _fma(_ONE - across, c, across * d)


@kernel(nogil=True)
def _block(
    rows: NDArray[np.float32],
    y: np.float32,
    candidates: NDArray[np.int64],
    top: NDArray[np.float32],
    bottom: NDArray[np.float32],
    labels: NDArray[np.uint8],
) -> None:  # pragma: no cover - compiled
    """Interpolate between the sides and take the best candidate, the lowest of equals."""
    best, winner = np.empty(_CHUNK, np.float32), np.empty(_CHUNK, np.int32)
    for i in range(rows.size):
        down = min(rows[i] - y, _ONE)
        up = _ONE - down
        for j in range(labels.shape[1]):
            best[j], winner[j] = _fma(up, top[0, j], down * bottom[0, j]), candidates[0]
        for k in range(1, candidates.size):
            n = np.int32(candidates[k])
            for j in range(labels.shape[1]):
                value = _fma(up, top[k, j], down * bottom[k, j])
                better = value > best[j]
                best[j] = value if better else best[j]
                winner[j] = n if better else winner[j]
        for j in range(labels.shape[1]):
            labels[i, j] = winner[j]
