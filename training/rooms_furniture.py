"""Beds and seats for the rendered rooms, built from unit shapes. Each piece stands on its frame's floor point with
its front towards -y, and returns its footprint (width, depth) in metres."""

from __future__ import annotations

import numpy as np

from segserve.labels import ROOM_CLASSES
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group

Footprint = tuple[float, float]
LABEL = {name: index for index, name in enumerate(ROOM_CLASSES)}
OTHER = LABEL["other"]


def legs(
    g: Group, w: float, d: float, height: float, thick: float, material: int, shape: str = "box"
) -> None:
    for x in (-1, 1):
        for y in (-1, 1):
            at = (x * (w / 2 - thick / 2), y * (d / 2 - thick / 2), height / 2)
            g.add(shape, at, (thick, thick, height), material)


def bed(g: Group, look: Look) -> Footprint:
    u = look.uniform
    w, d, low, thick = u(0.9, 2.0), u(1.95, 2.15), u(0.12, 0.35), u(0.16, 0.32)
    frame, sheet, cover = look.wood(), look.plain(hsv(u(0, 1), u(0, 0.2), u(0.7, 0.95))), look.cloth(0.5)
    if look.chance(0.2):
        frame = look.cloth(0)
    if look.chance(0.6):
        legs(g, w, d, low, 0.08, frame)
        g.box((0, 0, low), (w, d, 0.1), frame)
    else:
        g.box((0, 0, low / 2 + 0.02), (w, d, low), frame)
    top = low + thick
    g.add("rounded", (0, 0.02, low + thick / 2), (w * 0.97, d * 0.97, thick), sheet)
    long = u(0.45, 0.85) * d  # the cover hangs over the mattress at the foot and on both sides
    drop = thick * u(0.5, 1.2)
    if look.chance(0.85):
        at = (0.0, -d / 2 + long / 2 - 0.03, top - drop / 2 + 0.035)
        g.add("rounded", at, (w * 1.03, long, drop + 0.05), cover)
        if look.chance(0.4):
            g.add(
                "rounded",
                (0, -d / 2 + long, top + 0.03),
                (w * 1.02, 0.35, 0.09),
                sheet if look.chance(0.5) else cover,
            )
        if look.chance(0.3):
            g.add(
                "rounded", (0, -d / 2 + 0.4, top + 0.025), (w * 1.05, u(0.3, 0.6), 0.1), look.cloth(), OTHER
            )
    head = u(0.7, 1.3)
    if look.chance(0.8):
        if look.chance(0.4):
            g.add("rounded", (0, d / 2 + 0.05, head / 2), (w * 1.05, 0.1, head), look.cloth(0.2), OTHER)
        else:
            g.box((0, d / 2 + 0.03, head / 2), (w * 1.02, 0.06, head), frame)
        if look.chance(0.3):
            g.box((0, -d / 2 - 0.02, top * 0.55), (w * 1.02, 0.05, top * 1.15), frame)
    places = [0.0] if w < 1.2 else [-w / 4, w / 4]
    for row in range(int(look.rng.integers(1, 3))):
        material = look.cloth(0.5) if look.chance(0.4) else look.plain(hsv(u(0, 1), u(0, 0.15), 0.93))
        for x in places:
            at = (x + u(-0.05, 0.05), d / 2 - 0.22 - row * 0.22, top + 0.15)
            size = (u(0.5, 0.7), u(0.16, 0.24), u(0.35, 0.5))
            g.add("pillow", at, size, material, OTHER, tilt=(-u(0.4, 1.1), 0, u(-0.1, 0.1)))
    return w, d + 0.15


def sofa(g: Group, look: Look, seats: int | None = None) -> Footprint:
    """Also the armchair: a sofa with one seat, with whatever label the frame has."""
    u = look.uniform
    seats = seats or int(look.rng.integers(2, 4))
    each, arm, depth = u(0.55, 0.75), u(0.1, 0.28), u(0.8, 1.05)
    w, seat, back, lift = seats * each + 2 * arm, u(0.38, 0.48), u(0.7, 1.0), u(0.03, 0.16)
    cloth = look.cloth(0.2)
    cushion = cloth if look.chance(0.7) else look.cloth(0.3)
    round_ = "rounded" if look.chance(0.75) else "box"
    legs(g, w * 0.96, depth * 0.94, lift + 0.02, 0.06, look.wood())
    g.add(round_, (0, 0, lift + (seat - lift) * 0.35), (w, depth, (seat - lift) * 0.7), cloth)
    lean = u(0.05, 0.25)
    g.add(
        round_,
        (0, depth / 2 - 0.1, (lift + back) / 2),
        (w, 0.2, back - lift),
        cloth,
        tilt=(-lean * 0.5, 0, 0),
    )
    high = u(seat + 0.08, min(back, 0.68))
    for side in (-1, 1):
        if look.chance(0.95):
            g.add(
                round_,
                (side * (w / 2 - arm / 2), -0.02, (lift + high) / 2),
                (arm, depth * 0.97, high - lift),
                cloth,
            )
            if look.chance(0.15):
                g.add(
                    "cylinder",
                    (side * (w / 2 - arm / 2), -0.02, high),
                    (arm * 1.2, arm * 1.2, depth),
                    cloth,
                    tilt=(np.pi / 2, 0, 0),
                )
    soft = "rounded" if look.chance(0.6) else "cushion"
    for i in range(seats):
        x = (i - (seats - 1) / 2) * each
        g.add(soft, (x, -0.08, seat - 0.03), (each * 0.99, depth * 0.78, u(0.14, 0.2)), cushion)
        at = (x, depth / 2 - 0.26, seat + (back - seat) * 0.5)
        g.add(soft, at, (each * 0.97, 0.2, (back - seat) * 1.05), cushion, tilt=(-lean, 0, 0))
    for _ in range(int(look.rng.integers(0, 4)) if seats > 1 else int(look.chance(0.25))):
        x, s = u(-0.45, 0.45) * seats * each, u(0.32, 0.5)
        g.add(
            "pillow",
            (x, depth / 2 - 0.42, seat + s / 2),
            (s, 0.16, s),
            look.cloth(0.6),
            OTHER,
            tilt=(-0.35, u(-0.3, 0.3), u(-0.2, 0.2)),
        )
    if seats > 1 and look.chance(0.12):  # a corner piece
        g.add(round_, (w / 2 - each / 2, -depth * 0.8, seat / 2), (each * 1.1, depth * 0.9, seat), cloth)
    return w, depth


def armchair(g: Group, look: Look) -> Footprint:
    return sofa(g, look, 1)


def chair(g: Group, look: Look) -> Footprint:
    u = look.uniform
    if look.chance(0.25):
        return swivel_chair(g, look)
    w, d, seat, back, thick = u(0.4, 0.52), u(0.4, 0.52), u(0.42, 0.5), u(0.75, 1.1), u(0.025, 0.05)
    frame = look.wood() if look.chance(0.7) else look.metal()
    soft = look.cloth() if look.chance(0.5) else frame
    shape = "cylinder" if look.chance(0.4) else "box"
    legs(g, w, d, seat, thick, frame, shape)
    if look.chance(0.4):
        for side in (-1, 1):
            g.box((side * (w / 2 - thick / 2), 0, seat * 0.4), (thick * 0.7, d, thick * 0.7), frame)
    g.add(
        "rounded" if soft != frame else "box",
        (0, 0, seat),
        (w, d, 0.04 if soft == frame else u(0.05, 0.1)),
        soft,
    )
    lean, tall = u(0.05, 0.25), back - seat
    style = look.rng.integers(4)

    def behind(z: float) -> tuple[float, float]:  # a point of the leaning back, z above the seat
        return d / 2 - 0.02 + z * np.sin(lean), seat + z * np.cos(lean)

    y, z = behind(tall / 2)
    for side in (-1, 1):
        g.add(shape, (side * (w / 2 - thick / 2), y, z), (thick, thick, tall), frame, tilt=(-lean, 0, 0))
    if style == 0:
        g.add("rounded", (0, y, z + tall * 0.08), (w * 0.92, 0.06, tall * 0.8), soft, tilt=(-lean, 0, 0))
    elif style == 1:
        for i in range(5):
            g.add(shape, ((i - 2) * w * 0.16, y, z), (0.018, 0.018, tall), frame, tilt=(-lean, 0, 0))
    if style != 0:
        for part in (0.35, 0.62, 0.93) if style == 2 else (0.93,) if style == 1 else (0.75,):
            y, z = behind(tall * part)
            g.add(
                "box", (0, y, z), (w, 0.025, tall * (0.12 if style < 3 else 0.42)), frame, tilt=(-lean, 0, 0)
            )
    if look.chance(0.25):
        for side in (-1, 1):
            g.box((side * w / 2, 0, seat + 0.2), (0.04, d, 0.03), frame)
            g.box((side * w / 2, -d / 2 + 0.03, seat + 0.1), (0.03, 0.03, 0.2), frame)
    return w, d


def swivel_chair(g: Group, look: Look) -> Footprint:
    u = look.uniform
    black = look.plain(hsv(0, 0, u(0.05, 0.7)), gloss=0.3)
    cloth, seat = look.cloth(0.1), u(0.42, 0.52)
    for i in range(5):
        a = i * 2 * np.pi / 5 + 0.3
        g.box((0.15 * np.cos(a), 0.15 * np.sin(a), 0.08), (0.3, 0.04, 0.03), black, tilt=(0, 0.12, a))
        g.add("ball", (0.29 * np.cos(a), 0.29 * np.sin(a), 0.03), (0.06, 0.06, 0.06), black)
    g.add("cylinder", (0, 0, seat / 2 + 0.04), (0.05, 0.05, seat - 0.08), black)
    g.add("rounded", (0, 0, seat), (u(0.45, 0.52), u(0.45, 0.52), u(0.06, 0.12)), cloth)
    tall = u(0.4, 0.75)
    g.add("rounded", (0, 0.27, seat + 0.12 + tall / 2), (u(0.4, 0.5), 0.09, tall), cloth, tilt=(-0.15, 0, 0))
    g.box((0, 0.25, seat + 0.08), (0.06, 0.03, 0.3), black)
    if look.chance(0.6):
        for side in (-1, 1):
            g.box((side * 0.27, 0.03, seat + 0.2), (0.06, 0.28, 0.035), black)
            g.box((side * 0.27, 0.03, seat + 0.1), (0.03, 0.05, 0.2), black)
    return 0.6, 0.6
