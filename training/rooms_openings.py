"""Windows, doors and doorways of the rendered rooms, put into a `rooms_shell.Wall`."""

from __future__ import annotations

import numpy as np

from training.rooms_look import Look, hsv, scaled
from training.rooms_mesh import Group
from training.rooms_shell import CEILING, DOOR, FLOOR, THICK_M, WALL, WINDOW, Opening, Wall
from training.rooms_texture import Kind


def window(wall: Wall, look: Look, o: Opening, outside: int) -> None:
    """Frame, bars, sill, perhaps a curtain or a blind, and what lies outside; all of it is "window"."""
    g, u = wall.group, look.uniform
    w, h, x, z = o.right - o.left, o.high - o.low, (o.left + o.right) / 2, (o.low + o.high) / 2
    frame = look.plain(hsv(0.1, 0.03, u(0.75, 0.97))) if look.chance(0.7) else look.wood()
    bar, deep = u(0.03, 0.08), THICK_M * u(0.3, 0.8)
    for side in (-1, 1):
        g.box((x + side * (w / 2 - bar / 2), deep, z), (bar, 0.05, h), frame, WINDOW)
        g.box((x, deep, z + side * (h / 2 - bar / 2)), (w, 0.05, bar), frame, WINDOW)
    for i in range(1, int(look.rng.integers(1, 4)) if w < 1.6 else int(look.rng.integers(2, 5))):
        g.box((o.left + w * i / max(2, round(w / 0.7)), deep, z), (bar * 0.9, 0.04, h), frame, WINDOW)
    for i in range(1, int(look.rng.integers(1, 4))):
        g.box((x, deep, o.low + h * i / 3), (w, 0.03, bar * 0.6), frame, WINDOW)
    if look.chance(0.5):
        trim = u(0.05, 0.12)
        for side in (-1, 1):
            g.box((x + side * (w + trim) / 2, -0.01, z), (trim, 0.03, h + 2 * trim), frame, WINDOW)
            g.box((x, -0.01, z + side * (h + trim) / 2), (w, 0.03, trim), frame, WINDOW)
    elif o.low > 0.2:
        g.box((x, -0.02, o.low - 0.02), (w + 0.1, 0.16, 0.04), frame, WINDOW)
    g.box((x, 3.0, z), (22, 0.02, 12), outside, WINDOW, casts=False, origin=(0, 0, z))
    covering = look.rng.random()
    if covering < 0.4:
        cloth, rod = look.cloth(0.35), min(o.high + 0.15, wall.height - 0.03)
        low = 0.03 if look.chance(0.7) or o.low < 0.3 else o.low - 0.12
        each = w * u(0.15, 0.5)
        for side in (-1, 1):
            at = (x + side * (w / 2 + 0.12 - each / 2), -0.15, (rod + low) / 2)
            g.add("curtain", at, (each, 0.1, rod - low), cloth, WINDOW)
        if look.chance(0.6):
            g.add(
                "cylinder",
                (x, -0.15, rod),
                (0.03, 0.03, w + 0.5),
                look.metal(),
                WINDOW,
                tilt=(0, np.pi / 2, 0),
            )
        wall.take(o.left - 0.25, o.right + 0.25)
    elif covering < 0.58:
        drop = h * u(0.2, 1.0)
        colour = hsv(u(0.05, 0.15), u(0, 0.25), u(0.6, 0.95))
        slats = look.keep(
            Kind.STRIPES,
            colour,
            scaled(colour, 0.55),
            size=(u(0.025, 0.06), 1),
            line=0.012,
            angle=np.pi / 2,
            glow=u(0.0, 0.9),
        )
        g.box(
            (x, deep - 0.05, o.high - drop / 2), (w - 0.03, 0.01, drop), slats, WINDOW, casts=look.chance(0.5)
        )


def door(wall: Wall, look: Look, x: float, w: float, h: float) -> None:
    """A closed door on the wall, with panels, frame and handle."""
    g, u = wall.group, look.uniform
    trim = u(0.05, 0.12)
    leaf = (
        look.wood()
        if look.chance(0.55)
        else look.plain(look.paint_colour() if look.chance(0.4) else hsv(0.1, 0.04, 0.93), gloss=u(0, 0.3))
    )
    frame = leaf if look.chance(0.5) else look.plain(hsv(0.1, 0.04, u(0.6, 0.95)))
    g.box((x, -0.012, h / 2), (w, 0.024, h), leaf, DOOR)
    for side in (-1, 1):
        g.box((x + side * (w + trim) / 2, -0.02, (h + trim) / 2), (trim, 0.04, h + trim), frame, DOOR)
        g.box(
            (x + side * (w / 2 - 0.003), -0.0245, h / 2), (0.006, 0.004, h), look.plain(hsv(0, 0, 0.1)), DOOR
        )
    g.box((x, -0.02, h + trim / 2), (w, 0.04, trim), frame, DOOR)
    panels(g, look, x, -0.024, w, h, leaf)
    wall.take(x - w / 2 - trim, x + w / 2 + trim, stands=True)


def panels(
    g: Group, look: Look, x: float, y: float, w: float, h: float, leaf: int, tilt: float = 0.0
) -> None:
    u, metal = look.uniform, look.metal()
    side = 1 if look.chance(0.5) else -1
    columns, rows = int(look.rng.integers(1, 3)), int(look.rng.integers(0, 4))
    glass = look.keep(Kind.PLAIN, hsv(0.55, 0.1, u(0.5, 0.95)), gloss=0.8) if look.chance(0.12) else leaf
    dark = look.plain(hsv(0.07, 0.2, 0.25)) if glass == leaf else leaf
    for i in range(columns):
        for j in range(rows):
            pw, ph = w * 0.76 / columns - 0.04, h * 0.82 / rows - 0.06
            at_x, at_z = x + (i - (columns - 1) / 2) * (pw + 0.06), h * 0.07 + (j + 0.5) * h * 0.86 / rows
            g.box((at_x, y, at_z), (pw, 0.008, ph), dark, DOOR)
            g.box((at_x, y - 0.004, at_z), (pw - 0.014, 0.012, ph - 0.014), glass, DOOR)
    if look.chance(0.5):
        g.add("ball", (x + side * w * 0.42, y - 0.05, 1.0), (0.06, 0.06, 0.06), metal, DOOR)
    else:
        g.box((x + side * w * 0.37, y - 0.05, 1.02), (0.12, 0.02, 0.022), metal, DOOR)
        g.box((x + side * w * 0.42, y - 0.012, 1.0), (0.04, 0.02, 0.2), metal, DOOR)


def doorway(wall: Wall, look: Look, x: float, w: float, h: float, floor: int, paint: int) -> None:
    """An opening with a frame, often an open leaf, and a piece of the next room, labelled as what it is."""
    g, u = wall.group, look.uniform
    wall.openings.append(Opening(x - w / 2, x + w / 2, 0.0, h))
    wall.take(x - w / 2 - 0.15, x + w / 2 + 0.15, stands=True)
    frame, trim, deep, wide = (
        look.plain(hsv(0.1, 0.04, u(0.6, 0.95))),
        u(0.06, 0.12),
        u(1.2, 3.5),
        w + u(0.1, 1.0),
    )
    if look.chance(0.85):
        for side in (-1, 1):
            g.box(
                (x + side * (w + trim) / 2, THICK_M / 2, (h + trim) / 2),
                (trim, THICK_M + 0.04, h + trim),
                frame,
                DOOR,
            )
        g.box((x, THICK_M / 2, h + trim / 2), (w, THICK_M + 0.04, trim), frame, DOOR)
    y = THICK_M + deep / 2
    g.box(
        (x, (THICK_M + deep) / 2, -0.05),
        (wide, THICK_M + deep, 0.1),
        floor,
        FLOOR,
        origin=(u(0, 3), u(0, 3), 0),
    )
    g.box((x, y, wall.height), (wide, deep, 0.1), paint, CEILING, casts=False)
    g.box((x, THICK_M + deep, wall.height / 2), (wide, 0.1, wall.height), paint, WALL, casts=False)
    for side in (-1, 1):
        g.box((x + side * wide / 2, y, wall.height / 2), (0.06, deep, wall.height), paint, WALL, casts=False)
    if look.chance(0.65):
        side, turn = (1 if look.chance(0.5) else -1), u(1.0, 1.9)
        leaf = look.wood() if look.chance(0.5) else frame
        yaw = g.yaw + (np.pi + turn if side > 0 else -turn)
        c, s = np.cos(g.yaw), np.sin(g.yaw)
        hinge = x + side * (w / 2 - 0.02)
        at = (g.at[0] + c * hinge + s * 0.03, g.at[1] + s * hinge - c * 0.03, 0.0)
        own = Group(g.model, at, yaw, DOOR)
        own.box((w / 2 - 0.03, 0, h / 2), (w - 0.05, 0.035, h - 0.02), leaf)
        panels(own, look, w / 2 - 0.03, -0.02, w * 0.94, h, leaf)
