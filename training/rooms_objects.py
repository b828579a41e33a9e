"""Everything in the rendered rooms that is neither room nor a class of its own: cupboards, shelves, pictures,
lamps, screens, people. All of it is "other". The same frames and footprints as in `rooms_furniture`."""

from __future__ import annotations

import numpy as np

from training.rooms_furniture import LABEL, Footprint
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group
from training.rooms_tables import on_top, table_lamp
from training.rooms_texture import Kind


def cabinet(g: Group, look: Look) -> Footprint:
    u = look.uniform
    w, d, high = u(0.5, 1.8), u(0.35, 0.6), u(0.5, 1.1) if look.chance(0.55) else u(1.6, 2.2)
    columns, rows = (
        max(1, round(w / u(0.4, 0.7))),
        1 if high > 1.3 and look.chance(0.6) else int(look.rng.integers(1, 5)),
    )
    front = look.front(w / columns, high / rows)
    foot = u(0.0, 0.15)
    g.box((0, 0, foot + high / 2), (w, d, high), front, origin=(w / 2, 0, high / 2))
    g.box((0, 0, foot / 2), (w * 0.95, d * 0.9, foot + 0.01), look.plain(hsv(0, 0, 0.15)))
    g.box((0, 0, foot + high), (w * 1.03, d * 1.03, 0.03), look.wood())
    if high < 1.2:
        on_top(g, look, w, d, foot + high + 0.015)
    return w, d


def bedside(g: Group, look: Look) -> Footprint:
    u = look.uniform
    w, d, high = u(0.35, 0.55), u(0.35, 0.45), u(0.4, 0.65)
    g.box((0, 0, high / 2), (w, d, high), look.front(w, high / 2), origin=(w / 2, 0, high / 2))
    if look.chance(0.75):
        table_lamp(g, look, 0, 0, high)
    return w, d


def bookcase(g: Group, look: Look) -> Footprint:
    u = look.uniform
    w, d, shelves = u(0.6, 1.8), u(0.25, 0.36), int(look.rng.integers(3, 7))
    high, wood = shelves * 0.33, look.wood()
    for side in (-1, 1):
        g.box((side * (w / 2 - 0.015), 0, high / 2), (0.03, d, high), wood)
    g.box((0, d / 2 - 0.01, high / 2), (w, 0.015, high), wood)
    for i in range(shelves + 1):
        z = i * 0.33
        g.box((0, 0, z + 0.01), (w, d, 0.025), wood)
        if i < shelves and look.chance(0.85):
            material, wide = (
                (look.books(), w - 0.08) if look.chance(0.75) else (look.clutter(), w * u(0.2, 0.6))
            )
            g.box((0, 0.04, z + 0.15), (wide, d * 0.7, u(0.2, 0.28)), material, origin=(0, 0, 0.12))
    return w, d


def kitchen(g: Group, look: Look) -> Footprint:
    """A row of units: fronts, a worktop (a table by its class), cupboards above, perhaps a fridge."""
    u = look.uniform
    w, d, unit = u(1.6, 3.2), 0.6, u(0.4, 0.6)
    front, top = (
        look.front(unit, u(0.25, 0.8)),
        look.wood() if look.chance(0.4) else look.plain(look.paint_colour(), gloss=0.5),
    )
    g.box((0, 0.02, 0.44), (w, d - 0.04, 0.86), front, origin=(w / 2, 0, 0.43))
    g.box((0, 0, 0.89), (w, d, 0.04), top, LABEL["table"])
    if look.chance(0.75):
        g.box((0, 0.12, 1.75), (w, 0.34, 0.7), front, origin=(w / 2, 0, 0.35))
    on_top(g, look, w, d, 0.91, 8)
    if look.chance(0.6):
        fridge = look.plain(hsv(0, 0, u(0.3, 0.97)), gloss=0.5)
        tall = u(1.5, 1.9)
        g.box((w / 2 + 0.32, 0, tall / 2), (0.6, d, tall), fridge)
        g.box((w / 2 + 0.1, -d / 2 - 0.02, 1.2), (0.03, 0.03, 0.4), look.metal())
        return w + 1.3, d
    return w, d


def floor_lamp(g: Group, look: Look) -> Footprint:
    u = look.uniform
    high, metal = u(1.3, 1.8), look.metal()
    g.add("cylinder", (0, 0, 0.015), (0.28, 0.28, 0.03), metal)
    g.add("cylinder", (0, 0, high / 2), (0.025, 0.025, high), metal)
    lit = look.plain(hsv(0.1, u(0.05, 0.4), 1.0), glow=u(0.7, 2.0) if look.chance(0.7) else 0.0)
    g.add("shade", (0, 0, high), (0.4, 0.4, u(0.2, 0.4)), lit, casts=False)
    return 0.3, 0.3


def boxes(g: Group, look: Look) -> Footprint:
    u = look.uniform
    s = u(0.2, 0.5)
    material = look.plain(hsv(0.08, 0.4, 0.65)) if look.chance(0.4) else look.cloth(0.4)
    shape = ("box", "rounded", "cylinder", "cushion")[look.rng.integers(4)]
    g.add(shape, (0, 0, s * 0.4), (s, s * u(0.7, 1.4), s * 0.8), material)
    return s, s


def thing(g: Group, look: Look) -> Footprint:
    """Something that no class is made for: a few shapes on top of and beside one another."""
    u, rng = look.uniform, look.rng
    shapes = ("box", "rounded", "cylinder", "ball", "cushion", "pot", "shade")
    s, top = u(0.25, 0.9), 0.0
    materials = [
        look.cloth(0.4),
        look.plain(look.cloth_colour(), gloss=u(0, 1)),
        look.wood(),
        look.clutter(),
        look.metal(),
    ]
    for i in range(int(rng.integers(2, 8))):
        w, d, h = u(0.2, 1.0) * s, u(0.2, 1.0) * s, u(0.1, 0.7) * s
        if i == 0:
            w, d = max(w, 0.5 * s), max(d, 0.5 * s)
        x, y = (0.0, 0.0) if i == 0 else (u(-0.3, 0.3) * s, u(-0.3, 0.3) * s)
        z = top if look.chance(0.6) else 0.0
        g.add(
            shapes[rng.integers(7)],
            (x, y, z + h / 2),
            (w, d, h),
            materials[rng.integers(5)],
            tilt=(0, 0, u(-1, 1)),
        )
        top = max(top, z + h * 0.95)
    return s, s


def bathtub(g: Group, look: Look) -> Footprint:
    white = look.plain(hsv(0.1, 0.03, 0.93), gloss=0.8)
    if look.chance(0.5):
        g.add("rounded", (0, 0, 0.28), (1.7, 0.75, 0.56), white)
        g.add("rounded", (0, 0, 0.52), (1.5, 0.55, 0.1), look.plain(hsv(0.5, 0.05, 0.75), gloss=0.5))
        return 1.7, 0.75
    g.add("ball", (0, -0.1, 0.32), (0.38, 0.5, 0.3), white)
    g.add("pot", (0, -0.05, 0.16), (0.28, 0.36, 0.32), white)
    g.add("rounded", (0, 0.22, 0.58), (0.42, 0.2, 0.4), white)
    g.add("rounded", (0, -0.1, 0.44), (0.38, 0.46, 0.04), white)
    return 0.45, 0.7


def person(g: Group, look: Look) -> Footprint:
    u = look.uniform
    skin, shirt, trousers = (
        look.plain(hsv(0.06, u(0.25, 0.6), u(0.35, 0.9))),
        look.cloth(0.3),
        look.cloth(0.1),
    )
    tall = u(0.85, 1.08)
    for side in (-1, 1):
        g.add("rounded", (side * 0.1 * tall, 0, 0.42 * tall), (0.17, 0.19, 0.86 * tall), trousers)
        g.add("rounded", (side * 0.1 * tall, -0.06, 0.04), (0.11, 0.27, 0.08), trousers)
        swing = u(-0.9, 0.2)
        at = (side * 0.25 * tall, np.sin(swing) * 0.25, (1.38 - 0.28 * np.cos(swing)) * tall)
        g.add("rounded", at, (0.1, 0.11, 0.6 * tall), shirt, tilt=(swing, 0, side * 0.1))
        hand = (side * 0.25 * tall, np.sin(swing) * 0.6, (1.38 - 0.62 * np.cos(swing)) * tall)
        g.add("ball", hand, (0.09, 0.09, 0.13), skin)
    g.add("rounded", (0, 0, 1.15 * tall), (0.42 * tall, 0.24, 0.66 * tall), shirt)
    g.add("ball", (0, -0.01, 1.62 * tall), (0.18, 0.21, 0.26), skin)
    g.add("ball", (0, 0.02, 1.67 * tall), (0.2, 0.23, 0.22), look.plain(hsv(0.07, 0.5, u(0.05, 0.5))))
    return 0.6, 0.5


def television(g: Group, look: Look) -> Footprint:
    u = look.uniform
    w, low = u(0.8, 1.5), u(0.35, 0.6)
    g.box(
        (0, 0, low / 2), (w * 1.15, 0.42, low), look.front(w * 1.15 / 3, low), origin=(w * 0.575, 0, low / 2)
    )
    dark = look.plain(hsv(0.6, 0.1, u(0.02, 0.12)), gloss=0.9)
    g.box((0, 0.02, low + 0.08 + w * 0.28), (w, 0.05, w * 0.57), dark)
    g.box((0, 0, low + 0.03), (w * 0.3, 0.2, 0.06), dark)
    if look.chance(0.35):
        g.box((0, -0.008, low + 0.08 + w * 0.28), (w * 0.95, 0.002, w * 0.52), look.picture())
    return w * 1.15, 0.42


def on_wall(g: Group, look: Look, width: float, z: float) -> None:
    """A picture, mirror, shelf, clock or radiator around (0, 0, z) on the wall plane y = 0."""
    u, kind = look.uniform, look.rng.integers(8)
    frame = look.wood() if look.chance(0.6) else look.metal()
    if kind <= 4:
        w, h = min(width, u(0.2, 1.2)), u(0.25, 0.9)
        inside = (
            look.picture() if kind < 4 else look.plain(hsv(0.55, 0.08, u(0.3, 0.9)), gloss=1.0, rough=0.25)
        )
        g.box((0, -0.015, z), (w, 0.03, h), frame)
        b = u(0.01, 0.07)
        if look.chance(0.4):
            g.box((0, -0.031, z), (w - b, 0.004, h - b), look.plain(hsv(0.1, 0.03, 0.95)))
            b *= 2.5
        g.box((0, -0.034, z), (max(w - 2 * b, 0.05), 0.004, max(h - 2 * b, 0.05)), inside)
    elif kind == 5:
        w = min(width, u(0.5, 1.4))
        g.box((0, -0.11, z), (w, 0.22, 0.03), frame)
        on_top(Group(g.model, _front(g, 0.1), g.yaw, g.label), look, w, 0.18, z + 0.015, 6)
    elif kind == 6:
        g.add(
            "cylinder",
            (0, -0.02, z + 0.3),
            (0.3, 0.3, 0.04),
            look.plain(hsv(0, 0, 0.9)),
            tilt=(np.pi / 2, 0, 0),
        )
    else:
        w = min(width, u(0.5, 1.2))
        ribs = look.keep(
            Kind.PLANKS,
            hsv(0.1, 0.03, 0.9),
            hsv(0.1, 0.03, 0.8),
            size=(3.0, 0.06),
            line=0.02,
            angle=np.pi / 2,
        )
        g.box((0, -0.07, 0.4), (w, 0.08, 0.55), ribs)


def _front(g: Group, by: float) -> tuple[float, float, float]:
    return g.at[0] + by * float(np.sin(g.yaw)), g.at[1] - by * float(np.cos(g.yaw)), g.at[2]
