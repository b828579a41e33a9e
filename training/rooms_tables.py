"""Tables, what lies on them, and plants. The same frames and footprints as in `rooms_furniture`."""

from __future__ import annotations

import numpy as np

from training.rooms_furniture import LABEL, OTHER, Footprint, legs
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group


def table(g: Group, look: Look, low: bool | None = None) -> Footprint:
    """Dining table, or coffee table where `low`."""
    u = look.uniform
    low = look.chance(0.35) if low is None else low
    high = u(0.32, 0.5) if low else u(0.7, 0.78)
    w, d, thick = u(0.7, 1.3) if low else u(0.8, 2.2), u(0.5, 0.9) if low else u(0.7, 1.05), u(0.02, 0.06)
    top = look.wood() if look.chance(0.75) else look.plain(look.paint_colour(), gloss=u(0.2, 0.8))
    leg = top if look.chance(0.6) else look.metal()
    if look.chance(0.3):  # round
        w = d = u(0.6, 1.4)
        g.add("cylinder", (0, 0, high - thick / 2), (w, d, thick), top)
        if look.chance(0.5):
            g.add("cylinder", (0, 0, high / 2), (0.1, 0.1, high - thick), leg)
            g.add("cylinder", (0, 0, 0.02), (w * 0.5, d * 0.5, 0.04), leg)
        else:
            legs(g, w * 0.7, d * 0.7, high - thick, 0.05, leg)
    else:
        g.box((0, 0, high - thick / 2), (w, d, thick), top)
        style = look.rng.integers(4)
        if style < 2:
            legs(g, w * 0.94, d * 0.92, high - thick, u(0.03, 0.1), leg, "box" if style else "cylinder")
            if look.chance(0.6):
                g.box((0, 0, high - thick - 0.05), (w * 0.88, d * 0.84, 0.1), top)
        else:
            for side in (-1, 1):
                g.box(
                    (side * w * 0.42, 0, high / 2),
                    (0.05, d * (0.85 if style == 2 else 0.2), high - thick),
                    leg,
                )
                g.box((side * w * 0.42, 0, 0.02), (0.08, d * 0.8, 0.04), leg)
        if low and look.chance(0.4):
            g.box((0, 0, high * 0.35), (w * 0.86, d * 0.8, 0.03), top)
    if look.chance(0.12):  # a cloth over it, hanging down
        g.box((0, 0, high - 0.1), (w * 1.02, d * 1.02, 0.22), look.cloth(0.6))
    on_top(g, look, w, d, high)
    return w, d


def desk(g: Group, look: Look) -> Footprint:
    u = look.uniform
    w, d, high = u(1.0, 1.7), u(0.55, 0.75), u(0.7, 0.76)
    wood = look.wood()
    g.box((0, 0, high - 0.02), (w, d, 0.035), wood)
    if look.chance(0.5):
        g.box((w / 2 - 0.22, 0, high / 2), (0.4, d * 0.92, high - 0.04), look.front(0.4, high / 3))
        legs(g, w * 0.97, d * 0.95, high - 0.03, 0.04, wood)
    else:
        for side in (-1, 1):
            g.box((side * (w / 2 - 0.03), 0, high / 2), (0.035, d * 0.95, high - 0.03), wood)
        g.box((0, d * 0.4, high * 0.7), (w * 0.95, 0.02, high * 0.5), wood)
    dark = look.plain(hsv(0.6, 0.1, u(0.03, 0.25)), gloss=0.5)
    if look.chance(0.7):
        x, screen = u(-0.3, 0.3) * w, look.clutter() if look.chance(0.5) else dark
        g.box((x, 0.12, high + 0.27), (0.5, 0.04, 0.32), dark, OTHER)
        g.box((x, 0.097, high + 0.27), (0.46, 0.008, 0.28), screen, OTHER)
        g.box((x, 0.14, high + 0.06), (0.06, 0.04, 0.12), dark, OTHER)
        g.box((x, -d * 0.25, high + 0.012), (0.42, 0.14, 0.02), look.clutter(), OTHER)
    on_top(g, look, w, d, high)
    return w, d


def on_top(g: Group, look: Look, w: float, d: float, high: float, most: int = 4) -> None:
    """Things lying about: boxes, books, bowls, bottles, a lamp, flowers."""
    u = look.uniform
    for _ in range(int(look.rng.integers(0, most + 1))):
        x, y, kind = u(-0.4, 0.4) * w, u(-0.38, 0.38) * d, look.rng.integers(6)
        colour = look.plain(look.cloth_colour(), gloss=u(0, 0.6))
        if kind <= 1:
            sx, sy, sz = u(0.08, 0.3), u(0.08, 0.22), u(0.01, 0.12)
            g.box(
                (x, y, high + sz / 2),
                (sx, sy, sz),
                look.clutter() if look.chance(0.3) else colour,
                OTHER,
                tilt=(0, 0, u(-1, 1)),
            )
        elif kind == 2:
            s = u(0.15, 0.32)
            g.add("pot", (x, y, high + s * 0.2), (s, s, s * 0.4), colour, OTHER)
            for _ in range(4):
                g.add(
                    "ball",
                    (x + u(-0.3, 0.3) * s, y + u(-0.3, 0.3) * s, high + s * 0.42),
                    (0.08, 0.08, 0.08),
                    look.plain(look.cloth_colour()),
                    OTHER,
                )
        elif kind == 3:
            s = u(0.05, 0.1)
            g.add("cylinder", (x, y, high + s), (s, s, 2 * s), colour, OTHER)
            g.add("cylinder", (x, y, high + 2.4 * s), (s * 0.4, s * 0.4, s), colour, OTHER)
        elif kind == 4 and look.chance(0.5):
            table_lamp(g, look, x, y, high)
        elif kind == 5 and look.chance(0.6):
            s = u(0.08, 0.14)
            g.add("pot", (x, y, high + s / 2), (s, s, s), colour, LABEL["plant"])
            foliage(g, look, (x, y, high + s), u(0.12, 0.3), bush=True)


def table_lamp(g: Group, look: Look, x: float, y: float, z: float) -> None:
    u = look.uniform
    s, base = u(0.2, 0.4), look.plain(look.cloth_colour(), gloss=0.5)
    g.add("ball", (x, y, z + s * 0.4), (s * 0.45, s * 0.45, s * 0.8), base, OTHER)
    lit = look.plain(hsv(0.1, u(0.05, 0.4), 1.0), glow=u(0.7, 2.2) if look.chance(0.7) else 0.0)
    g.add("shade", (x, y, z + s * 1.1), (s, s, s * 0.75), lit, OTHER, casts=False)


def foliage(g: Group, look: Look, at: tuple[float, float, float], size: float, bush: bool) -> None:
    """Leaves around a point, `size` metres long; a bush is rounder than a rosette. At most 90 leaves."""
    u, rng = look.uniform, look.rng
    tints = [look.foliage() for _ in range(2)]
    slim = u(0.1, 0.25) if not bush else u(0.25, 0.6)
    droop = u(0.2, 1.0)
    for _ in range(int(rng.integers(40, 90)) if bush else int(rng.integers(12, 36))):
        yaw, rise = u(0, 2 * np.pi), u(-0.3, 1.4) if bush else u(0.3, 1.45)
        long = size * (u(0.25, 0.5) if bush else u(0.6, 1.0))
        r = size * 0.75 * float(rng.random() ** 0.5) if bush else 0.02
        up = r * np.sin(rise) + (size * 0.5 if bush else 0.0)
        x, y = at[0] - np.sin(yaw) * r * np.cos(rise), at[1] + np.cos(yaw) * r * np.cos(rise)
        g.add("leaf", (x, y, at[2] + up), (long * slim, long, long * droop), tints[rng.integers(2)],
              LABEL["plant"], tilt=(rise * (0.6 if bush else 1.0), u(-0.5, 0.5), yaw))  # fmt: skip


def plant(g: Group, look: Look) -> Footprint:
    u = look.uniform
    s, high = u(0.22, 0.45), u(0.2, 0.45)
    pot = look.plain(look.cloth_colour() if look.chance(0.5) else hsv(0.04, 0.6, 0.6), gloss=u(0, 0.5))
    g.add("pot" if look.chance(0.7) else "rounded", (0, 0, high / 2), (s, s, high), pot)
    style, soil = look.rng.integers(3), look.plain(hsv(0.08, 0.5, 0.2))
    g.add("cylinder", (0, 0, high + 0.003), (s * 0.85, s * 0.85, 0.01), soil)
    if style == 0:
        foliage(g, look, (0, 0, high), u(0.5, 1.3), bush=False)
    elif style == 1:
        foliage(g, look, (0, 0, high), u(0.3, 0.6), bush=True)
    else:
        stem = u(0.3, 1.0)
        g.add("cylinder", (0, 0, high + stem / 2), (0.04, 0.04, stem), look.wood())
        foliage(g, look, (0, 0, high + stem - 0.1), u(0.3, 0.7), bush=look.chance(0.6))
    return s, s
