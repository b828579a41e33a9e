"""The compiled part of `segserve.mask`, which says what it does and why it may. Nothing here is run as Python.

No memory is taken and nothing raises, so the machine code needs neither numba's run-time nor Python's, and a server
loads it from a file (`segserve.native`). The arithmetic is float32 in the order written: no fast-math.
"""

from __future__ import annotations

import numpy as np
from numba.np.numpy_support import carray
from numpy.typing import NDArray

from segserve.jit import fma, inner, kernel, pointer, widen
from segserve.mask import CHUNK

Bits = NDArray[np.float32] | NDArray[np.uint16]
Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

_ONE = np.float32(1)
_INFINITY = np.float32(np.inf)
# Four roundings of 2^-24 each on either side; below the smallest normal float there is no relative error to speak of.
_NEAR, _TINY = np.float32(1e-6), np.float32(1e-30)
_UNSURE = -1


@kernel(nogil=True, error_model="numpy")
def fill_float32(
    logits: int, num_classes: int, height: int, width: int, rows: int, columns: int, row_starts: int,
    column_starts: int, photo_height: int, photo_width: int, scratch: int, labels: int,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Addresses of C-contiguous arrays, and their sizes; the arrays are those of `_fill`."""
    values = carray(pointer(logits), (num_classes, height, width), np.float32)
    _fill_at(values, rows, columns, row_starts, column_starts, photo_height, photo_width, scratch, labels)


@kernel(nogil=True, error_model="numpy")
def fill_float16(
    logits: int, num_classes: int, height: int, width: int, rows: int, columns: int, row_starts: int,
    column_starts: int, photo_height: int, photo_width: int, scratch: int, labels: int,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """As `fill_float32`, of logits whose bits are read as float16."""
    values = carray(pointer(logits), (num_classes, height, width), np.uint16)
    _fill_at(values, rows, columns, row_starts, column_starts, photo_height, photo_width, scratch, labels)


@inner
def _fill_at(
    logits_chw: Bits, rows: int, columns: int, row_starts: int, column_starts: int, photo_height: int,
    photo_width: int, scratch: int, labels: int,
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """The arrays at those addresses, given to `_fill`."""
    _, height, width = logits_chw.shape
    _fill(
        logits_chw,
        carray(pointer(rows), (photo_height,), np.float32),
        carray(pointer(columns), (photo_width,), np.float32),
        carray(pointer(row_starts), (height + 1,), np.int32),
        carray(pointer(column_starts), (width + 1,), np.int32),
        scratch,
        carray(pointer(labels), (photo_height, photo_width), np.uint8),
    )


@inner
def _fill(
    logits_chw: Bits, rows: Floats, columns: Floats, row_starts: Ints, column_starts: Ints, scratch: int,
    labels: NDArray[np.uint8],
) -> None:  # pragma: no cover - compiled  # fmt: skip
    """Walk the rows of the logit grid and fill the band of photo rows that lies in each."""
    num_classes, height, width = logits_chw.shape
    winners = carray(pointer(scratch), (height, width), np.int32)
    scratch += 4 * height * width
    sides = carray(pointer(scratch), (2, num_classes, width), np.float32)
    scratch += 8 * num_classes * width
    ends = carray(pointer(scratch), (2, num_classes, CHUNK), np.float32)
    scratch += 8 * num_classes * CHUNK
    floors = carray(pointer(scratch), (width,), np.float32)
    second = carray(pointer(scratch + 4 * width), (width,), np.float32)
    mixed = carray(pointer(scratch + 8 * width), (width,), np.int32)
    scratch += 12 * width
    candidates = carray(pointer(scratch), (num_classes,), np.int32)
    best = carray(pointer(scratch + 4 * num_classes), (CHUNK,), np.float32)
    best_class = carray(pointer(scratch + 4 * (num_classes + CHUNK)), (CHUNK,), np.int32)

    for y in range(height):
        _winners(logits_chw, y, winners[y], floors, second)
    for y in range(height):
        y_from, y_to = row_starts[y], row_starts[y + 1]
        if y_from == y_to:
            continue
        below = min(y + 1, height - 1)
        num_mixed = _uniform(winners[y], winners[below], column_starts, labels[y_from], mixed)
        for i in range(y_from + 1, y_to):
            for j in range(labels.shape[1]):
                labels[i, j] = labels[y_from, j]
        if num_mixed == 0:
            continue
        _widen_sides(logits_chw, y, below, sides, floors)
        for m in range(num_mixed):
            x = mixed[m]
            count = _candidates(sides, floors[x], winners[y], winners[below], x, candidates)
            for start in range(column_starts[x], column_starts[x + 1], CHUNK):
                stop = min(start + CHUNK, column_starts[x + 1])
                _ends(sides, x, columns[start:stop], candidates[:count], ends)
                block = labels[y_from:y_to, start:stop]
                _block(rows[y_from:y_to], y, candidates[:count], ends, best, best_class, block)


@inner
def _winners(
    logits_chw: Bits, y: int, winners: Ints, best: Floats, second: Floats
) -> None:  # pragma: no cover - compiled
    """The best class at each point of a row of the grid, or _UNSURE where a lower class is so near that, between two
    such points, rounding may make both equal: then the lower one wins. A higher class never gains by rounding."""
    num_classes, _, width = logits_chw.shape
    for x in range(width):
        best[x], second[x], winners[x] = widen(logits_chw[0, y, x]), -_INFINITY, 0
    for n in range(1, num_classes):
        for x in range(width):
            value = widen(logits_chw[n, y, x])
            better = value > best[x]
            second[x] = best[x] if better else second[x]
            best[x] = value if better else best[x]
            winners[x] = n if better else winners[x]
    for x in range(width):
        if not best[x] - second[x] > _NEAR * abs(best[x]) + _TINY:
            winners[x] = _UNSURE


@inner
def _uniform(
    above: Ints, below: Ints, column_starts: Ints, labels: NDArray[np.uint8], mixed: Ints
) -> int:  # pragma: no cover - compiled
    """Fill the cells of a row whose corners agree, for one row of pixels; list the others, and return how many."""
    count, last = 0, above.size - 1
    for x in range(above.size):
        start, stop, right = column_starts[x], column_starts[x + 1], min(x + 1, last)
        if start == stop:
            continue
        winner = above[x]
        if winner == _UNSURE or not (winner == above[right] == below[x] == below[right]):
            mixed[count] = x
            count += 1
        else:
            for j in range(start, stop):
                labels[j] = winner
    return count


@inner
def _widen_sides(
    logits_chw: Bits, y: int, below: int, sides: Floats, floors: Floats
) -> None:  # pragma: no cover - compiled
    """A row of the grid and the one below as float32, and for each cell what the best class has everywhere in it."""
    num_classes, _, width = logits_chw.shape
    for x in range(width):
        floors[x] = -_INFINITY
    for n in range(num_classes):
        upper, lower = sides[0, n], sides[1, n]
        for x in range(width):
            upper[x], lower[x] = widen(logits_chw[n, y, x]), widen(logits_chw[n, below, x])
        for x in range(width - 1):
            least = min(min(upper[x], upper[x + 1]), min(lower[x], lower[x + 1]))
            floors[x] = max(floors[x], least)
        floors[width - 1] = max(floors[width - 1], min(upper[width - 1], lower[width - 1]))
    for x in range(width):
        floors[x] -= abs(floors[x]) * _NEAR + _TINY


@inner
def _candidates(
    sides: Floats, floor: np.float32, above: Ints, below: Ints, x: int, out: Ints
) -> int:  # pragma: no cover - compiled
    """The classes that can win in cell x, in rising order, and how many.

    They reach `floor` at a corner, and no corner's winner is better than they are at all four.
    """
    right = min(x + 1, above.size - 1)
    corners = above[x], above[right], below[x], below[right]
    count = 0
    for n in range(sides.shape[1]):
        a, b, c, d = sides[0, n, x], sides[0, n, right], sides[1, n, x], sides[1, n, right]
        if max(max(a, b), max(c, d)) < floor:
            continue
        beaten = False
        for k in corners:
            if k in (n, _UNSURE):
                continue
            near = _NEAR if n < k else np.float32(0)
            e, f, g, h = sides[0, k, x], sides[0, k, right], sides[1, k, x], sides[1, k, right]
            beaten = beaten or (
                e - a > near * abs(e) + _TINY
                and f - b > near * abs(f) + _TINY
                and g - c > near * abs(g) + _TINY
                and h - d > near * abs(h) + _TINY
            )
        if not beaten:
            out[count] = n
            count += 1
    if count == 0:  # every logit is NaN: say something, parity has refused such a model
        out[0], count = 0, 1
    return count


@inner
def _ends(
    sides: Floats, x: int, columns: Floats, candidates: Ints, ends: Floats
) -> None:  # pragma: no cover - compiled
    """Interpolate along the upper and the lower side of cell x, for each candidate and column."""
    right = min(x + 1, sides.shape[2] - 1)
    for k in range(candidates.size):
        n = candidates[k]
        a, b, c, d = sides[0, n, x], sides[0, n, right], sides[1, n, x], sides[1, n, right]
        top, bottom = ends[0, k], ends[1, k]
        for j in range(columns.size):
            across = min(columns[j] - np.float32(x), _ONE)
            top[j] = fma(_ONE - across, a, across * b)
            bottom[j] = fma(_ONE - across, c, across * d)


@inner
def _block(
    rows: Floats,
    y: int,
    candidates: Ints,
    ends: Floats,
    best: Floats,
    best_class: Ints,
    labels: NDArray[np.uint8],
) -> None:  # pragma: no cover - compiled
    """Interpolate from the upper to the lower side and take the best candidate, the lowest of equals."""
    width = labels.shape[1]
    for i in range(rows.size):
        down = min(rows[i] - np.float32(y), _ONE)
        up = _ONE - down
        for j in range(width):
            best[j], best_class[j] = fma(up, ends[0, 0, j], down * ends[1, 0, j]), candidates[0]
        for k in range(1, candidates.size):
            n, top, bottom = candidates[k], ends[0, k], ends[1, k]
            for j in range(width):
                value = fma(up, top[j], down * bottom[j])
                better = value > best[j]
                best[j] = value if better else best[j]
                best_class[j] = n if better else best_class[j]
        for j in range(width):
            labels[i, j] = best_class[j]
