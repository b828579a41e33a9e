"""Procedural surfaces for the rendered rooms: planks, tiles, fabrics, wallpapers, books, a view outside.

A material is one row of floats, so that numba can evaluate it a pixel at a time. Colours are linear RGB.
`foot` is the width in metres that a pixel covers on the surface: lines and grain finer than it fade out.

No other file's kernel calls the ones here: numba's cache watches only the file of the function that is cached,
and would not see a change in this one.
"""

from __future__ import annotations

from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from segserve.jit import kernel

Array = NDArray[np.float64]
Colour = tuple[float, float, float]

SMOOTH, FINE, WOOD, VEINS = 0, 1, 2, 3  # layers of the noise bank
BANK_SIZE = 256
GLOSS, GLOW = 17, 18  # columns of a material


class Kind(IntEnum):
    PLAIN = 0
    PLANKS = 1
    TILES = 2
    FABRIC = 3
    STRIPES = 4
    PLAID = 5
    DAMASK = 6
    DOTS = 7
    PAINTING = 8
    OUTSIDE = 9
    BOOKS = 10
    STONE = 11
    BASKET = 12
    FRONT = 13
    CLUTTER = 14


def surface(
    kind: Kind,
    a: Colour,
    b: Colour = (0.0, 0.0, 0.0),
    c: Colour = (0.0, 0.0, 0.0),
    *,
    size: tuple[float, float] = (1.0, 1.0),
    line: float = 0.0,
    tone: float = 0.0,
    grain: tuple[int, float, float] = (SMOOTH, 0.0, 1.0),
    gloss: float = 0.0,
    glow: float = 0.0,
    seed: float = 0.0,
    angle: float = 0.0,
    shift: float = 0.0,
    checker: float = 0.0,
) -> Array:
    """One material. size, line: pattern period and line width in metres; tone: how much cells differ;
    grain: noise layer, amplitude, extent in metres; gloss 0 … 1; glow: light that it gives off."""
    layer, amplitude, extent = grain
    return np.array(
        [kind, *a, *b, *c, *size, line, tone, layer, amplitude, extent, gloss, glow, seed, np.cos(angle),
         np.sin(angle), shift, checker]
    )  # fmt: skip


@cache
def noise_bank() -> NDArray[np.float32]:
    """Four tileable noises, float32 (4, 256, 256), mean 0, deviation 1, cut at ±2.5."""
    rng = np.random.default_rng(20240229)
    fy, fx = np.meshgrid(np.fft.fftfreq(BANK_SIZE), np.fft.fftfreq(BANK_SIZE), indexing="ij")
    radius = np.sqrt(fx**2 + fy**2) + 1e-9
    along = np.sqrt((fx * 14) ** 2 + fy**2) + 1e-9
    filters = (radius**-1.7, radius**-0.35, along**-1.1 * (fx**2 < 0.01), radius**-1.6)
    layers = []
    for index, weights in enumerate(filters):
        weights = weights.copy()
        weights[0, 0] = 0
        layer = np.fft.ifft2(np.fft.fft2(rng.standard_normal((BANK_SIZE, BANK_SIZE))) * weights).real
        layer /= layer.std()
        if index == VEINS:
            layer = np.exp(-np.abs(layer) * 5)
        layer = (layer - layer.mean()) / layer.std()
        layers.append(np.clip(layer, -2.5, 2.5))
    return np.stack(layers).astype(np.float32)


@kernel(error_model="numpy")
def noise(bank, layer, x, y):  # type: ignore[no-untyped-def]
    """Bilinear look-up, one tile a unit."""
    x, y = x * 256.0, y * 256.0
    x0, y0 = np.floor(x), np.floor(y)
    fx, fy = x - x0, y - y0
    i, j = int(x0) & 255, int(y0) & 255
    i1, j1 = (i + 1) & 255, (j + 1) & 255
    top = bank[layer, j, i] * (1 - fx) + bank[layer, j, i1] * fx
    low = bank[layer, j1, i] * (1 - fx) + bank[layer, j1, i1] * fx
    return top * (1 - fy) + low * fy


@kernel(error_model="numpy")
def dice(i, j, seed):  # type: ignore[no-untyped-def]
    """A number in 0 … 1 for a cell."""
    h = (int(i) * 374761393 + int(j) * 668265263 + int(seed * 1e6) * 974711) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFF) / 65535.0


@kernel(error_model="numpy")
def cover(distance, half, foot):  # type: ignore[no-untyped-def]
    """How much of a pixel a line of half-width `half` covers when its middle is `distance` away."""
    part = min(max((half - distance) / foot + 0.5, 0.0), 1.0)
    return part * min(1.0, 2 * half / foot)


@kernel(error_model="numpy")
def edge(x, period):  # type: ignore[no-untyped-def]
    """Distance to the nearest multiple of `period`."""
    f = x / period - np.floor(x / period)
    return min(f, 1 - f) * period


@kernel(error_model="numpy")
def mixing(m, kind, u, v, foot, bank):  # type: ignore[no-untyped-def]
    """Weights of the colours b and c (a takes the rest), a factor on the brightness, and the two noise
    coordinates (cells shift their grain)."""
    su, sv, line, tone, seed = m[10], m[11], m[12], m[13], m[19]
    wb, wc, shade, gu, gv = 0.0, 0.0, 1.0, u, v
    if kind == 1 or kind == 12:  # planks; basket weave turns them in every other cell
        if kind == 12:
            cell = su
            if (int(np.floor(u / cell)) + int(np.floor(v / cell))) & 1:
                u, v = v, u
            gu, gv = u, v
        row = np.floor(v / sv)
        moved = u + dice(row, 7, seed) * su * (1.0 if kind == 1 else 0.0)
        col = np.floor(moved / su)
        wb = dice(row, col, seed) * tone
        shade = 1 + (dice(col, row, seed + 0.3) - 0.5) * 0.5 * tone
        seam = max(cover(edge(v, sv), line / 2, foot), cover(edge(moved, su), line / 2, foot))
        shade *= 1 - 0.7 * seam
        gu, gv = gu + 7.3 * dice(col, row, seed), gv + 3.1 * dice(row, col, seed + 0.1)
    elif kind == 2:  # tiles, bricks
        row = np.floor(v / sv)
        moved = u + m[22] * su * (int(row) & 1)
        col = np.floor(moved / su)
        grout = max(cover(edge(v, sv), line / 2, foot), cover(edge(moved, su), line / 2, foot))
        shade = 1 + (dice(row, col, seed) - 0.5) * tone * (1 - grout)
        if m[23] > 0 and (int(row) + int(col)) & 1:
            wc = 1 - grout
        wb = grout
        gu, gv = gu + 0.37 * dice(col, row, seed), gv + 0.73 * dice(row, col, seed)
    elif kind == 3:  # fabric, carpet
        fade = min(1.0, line / (2 * foot)) if line > 0 else 0.0
        if line > 0:
            shade = 1 + tone * fade * np.sin(u / line * 6.283) * np.sin(v / line * 6.283)
    elif kind == 4:  # stripes
        wb = cover(edge(u, su), line / 2, foot)
    elif kind == 5:  # plaid
        wb = 0.5 * cover(edge(u, su), line / 2, foot) + 0.5 * cover(edge(v, sv), line / 2, foot)
        wc = 0.4 * cover(edge(u + su * 0.37, su), line / 9, foot)
        wc += 0.4 * cover(edge(v + sv * 0.37, sv), line / 9, foot)
    elif kind == 6:  # damask: noise mirrored within each period looks like a drawn ornament
        row = np.floor(v / sv)
        x = u / su + 0.5 * (int(row) & 1)
        x = abs(x - np.floor(x) - 0.5)
        y = abs(v / sv - row - 0.5)
        t = noise(bank, 0, x * 0.4 + seed, y * 0.4 + 0.17) + 0.7 * noise(bank, 0, x * 1.3, y * 1.3 + seed)
        sharp = min(4.0, su * 0.25 / foot)
        wb = min(max((t - tone) * sharp + 0.5, 0.0), 1.0)
    elif kind == 7:  # dots
        x, y = edge(u, su), edge(v + sv * 0.5 * (int(np.floor(u / su + 0.5)) & 1), sv)
        wb = cover(np.sqrt(x * x + y * y), line / 2, foot)
    elif kind == 8:  # a painting or poster
        t = noise(bank, 0, u * 0.35 / su + seed, v * 0.35 / sv + seed * 3)
        s = noise(bank, 0, u * 0.8 / su + seed * 5, v * 0.8 / sv)
        wb = min(max(t * 3 * line + 0.5, 0.0), 1.0)
        wc = min(max(s * 3 * line, 0.0), 1.0) * (1 - wb)
        shade = 1 + tone * noise(bank, 1, u / su * 0.5, v / sv * 0.5)
    elif kind == 9:  # outside: c is the sky, b trees or houses, a the ground; v is the height over the floor
        hill = line + 1.6 * noise(bank, 0, u * 0.04 + seed, seed)
        wb = min(max((v - line * 0.3) * 2, 0.0), 1.0)
        wc = min(max((v - hill) * 3, 0.0), 1.0)
        wb *= 1 - wc
        shade = 1 + (1 - wc) * 0.45 * noise(bank, 1, u * 0.05, v * 0.05)
    elif kind == 10:  # books
        shelf = np.floor(v / sv)
        place = u / su + 0.3 * np.sin(np.floor(u / su * 0.31) + seed)
        col = np.floor(place)
        top = 0.6 + 0.35 * dice(col, shelf, seed)
        wb = dice(col, shelf, seed + 0.2)
        wc = dice(shelf, col, seed + 0.7) * (1 - wb)
        shade = 0.35 + 0.9 * dice(col, shelf, seed + 0.5)
        shade *= 1 - 0.6 * cover(edge(place, 1.0) * su, 0.0025, foot)
        if v / sv - shelf > top or dice(np.floor(u / su / 6), shelf, seed + 0.9) < 0.2:
            shade = 0.06
    elif kind == 11:  # flagstones: cells around jittered points
        x, y = u / su, v / su
        near, second, pick = 9.0, 9.0, 0.0
        for dj in range(-1, 2):
            for di in range(-1, 2):
                i, j = np.floor(x) + di, np.floor(y) + dj
                dx, dy = i + dice(i, j, seed) - x, j + dice(j, i, seed + 0.4) - y
                d = np.sqrt(dx * dx + dy * dy)
                if d < near:
                    near, second, pick = d, near, dice(i, j, seed + 0.8)
                elif d < second:
                    second = d
        wb = cover((second - near) * su * 0.5, line / 2, foot)
        shade = 1 + (pick - 0.5) * tone * (1 - wb)
    elif kind == 13:  # fronts of cupboards and drawers: a gap around each, a knob
        x, y = edge(u, su), edge(v, sv)
        d = min(x, y)
        shade = 1 - 0.75 * cover(d, line / 2, foot)
        shade *= 1 - 0.25 * tone * cover(abs(d - 0.05), 0.006, foot)
        left = u / su - np.floor(u / su)
        k = np.sqrt(((left - 0.88) * su) ** 2 + ((v / sv - np.floor(v / sv) - 0.55) * sv) ** 2)
        wb = cover(k, 0.014, foot)
    elif kind == 14:  # clutter: keys, packets, screens
        i, j = np.floor(u / su), np.floor(v / sv)
        wb = dice(i, j, seed)
        wc = dice(j, i, seed + 0.6) * (1 - wb)
        shade = 0.4 + 0.9 * dice(i, j, seed + 0.3)
        shade *= 1 - 0.6 * max(cover(edge(u, su), line, foot), cover(edge(v, sv), line, foot))
    return wb, wc, shade, gu, gv


@kernel(error_model="numpy")
def albedo(m, u, v, foot, bank):  # type: ignore[no-untyped-def]
    """The surface's colour at (u, v) metres: linear red, green, blue."""
    kind = int(m[0])
    u, v = u * m[20] - v * m[21] + m[19] * 3.7, u * m[21] + v * m[20] + m[19] * 1.9 * (kind != 9)
    if kind == 13 or kind == 10:
        u, v = u - m[19] * 3.7, v - m[19] * 1.9
    wb, wc, shade, gu, gv = mixing(m, kind, u, v, foot, bank)
    if m[15] > 0:
        fade = 1.0 / (1.0 + (foot * 60.0 / m[16]) ** 2) if m[14] == 1 else 1.0 / (1.0 + foot * 8.0 / m[16])
        shade *= max(0.05, 1 + m[15] * fade * noise(bank, int(m[14]), gu / m[16], gv / m[16]))
    shade = max(shade, 0.02)
    wa = max(0.0, 1 - wb - wc)
    r = (wa * m[1] + wb * m[4] + wc * m[7]) * shade
    g = (wa * m[2] + wb * m[5] + wc * m[8]) * shade
    b = (wa * m[3] + wb * m[6] + wc * m[9]) * shade
    return r, g, b


@kernel(error_model="numpy")
def _paint(materials, index, uv, foot, bank, out):  # type: ignore[no-untyped-def]
    for k in range(len(index)):
        r, g, b = albedo(materials[index[k]], uv[k, 0], uv[k, 1], foot[k], bank)
        out[k, 0], out[k, 1], out[k, 2] = r, g, b


def paint(
    materials: Array, index: NDArray[np.int64], uv: NDArray[np.float32], foot: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Colours of n samples. materials: (M, 24) rows of `surface`; index: (n,) rows; uv: (n, 2) metres; foot:
    (n,) metres. Returns: linear RGB (n, 3)."""
    out = np.empty((len(index), 3), np.float32)
    _paint(materials, index, uv, foot, noise_bank(), out)
    return out
