"""The rooms themselves: walls with openings, windows, doors, doorways, ceilings.

A wall has its own frame: x along the wall, z up, the room on the side y < 0, its surface at y = 0.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from training.rooms_furniture import LABEL, OTHER
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group

THICK_M = 0.16
WALL, FLOOR, CEILING = LABEL["wall"], LABEL["floor"], LABEL["ceiling"]
WINDOW, DOOR = LABEL["window"], LABEL["door"]


@dataclass(frozen=True)
class Opening:
    left: float
    right: float
    low: float
    high: float


@dataclass
class Wall:
    """Intervals along the wall: `taken`, where nothing else should hang; `blocked`, where nothing should stand."""

    group: Group
    length: float
    height: float
    openings: list[Opening] = field(default_factory=list)
    taken: list[tuple[float, float]] = field(default_factory=list)
    blocked: list[tuple[float, float]] = field(default_factory=list)

    def take(self, left: float, right: float, *, stands: bool = False) -> None:
        self.taken.append((left, right))
        if stands:
            self.blocked.append((left, right))

    def free(self, look: Look, width: float, *, low: bool = False) -> float | None:
        """The middle of a random free stretch of `width`, or None. low: it may stand under what hangs."""
        for _ in range(12):
            if self.length <= width + 0.05:
                return None
            x = look.uniform(width / 2, self.length - width / 2)
            if all(x + width / 2 < a or x - width / 2 > b for a, b in (self.blocked if low else self.taken)):
                return x
        return None

    def layer(self, material: int, low: float, high: float, front: float, back: float) -> None:
        """A sheet from `low` to `high` that leaves the openings out."""
        at = 0.0
        for o in [*sorted(self.openings, key=lambda o: o.left), Opening(self.length, self.length, 0, 0)]:
            pieces = [
                (at, o.left, low, high),
                (o.left, o.right, low, min(high, o.low)),
                (o.left, o.right, max(low, o.high), high),
            ]
            for x0, x1, z0, z1 in pieces:
                if x1 - x0 > 1e-6 and z1 - z0 > 1e-6:
                    centre = ((x0 + x1) / 2, (front + back) / 2, (z0 + z1) / 2)
                    self.group.box(centre, (x1 - x0, back - front, z1 - z0), material, WALL, origin=centre)
            at = o.right


def walls_of(model_group: Group, width: float, depth: float, height: float) -> list[Wall]:
    """North (y = depth), east, south, west, each with its frame."""
    m = model_group.model
    quarter = np.pi / 2
    return [
        Wall(Group(m, (0, depth, 0), 0.0, WALL), width, height),
        Wall(Group(m, (width, depth, 0), -quarter, WALL), depth, height),
        Wall(Group(m, (width, 0, 0), 2 * quarter, WALL), width, height),
        Wall(Group(m, (0, 0, 0), quarter, WALL), depth, height),
    ]


@dataclass(frozen=True)
class Headroom:
    """Height over the floor, less where the ceiling slopes down to `low` at one end of the x axis."""

    height: float
    low: float
    start: float
    end: float

    def at(self, x: float) -> float:
        share = min(max((x - self.start) / (self.end - self.start), 0.0), 1.0)
        return self.low + share * (self.height - self.low)


def ceiling(g: Group, look: Look, width: float, depth: float, height: float, material: int) -> Headroom:
    """Flat; sometimes with beams, a slope, or lamps (which are "other")."""
    u = look.uniform
    middle = (width / 2, depth / 2)
    g.box((*middle, height + 0.05), (width + 0.4, depth + 0.4, 0.1), material, CEILING)
    if look.chance(0.12):
        wood = look.wood()
        for y in np.arange(u(0.2, 0.8), depth, u(0.6, 1.2)):
            g.box((width / 2, float(y), height - 0.08), (width, 0.14, 0.18), wood, CEILING)
    room = Headroom(height, height, 0.0, width)
    if look.chance(0.1):
        along, low = u(1.0, 2.2), height - u(0.6, 1.3)
        rise = np.arctan2(height - low, along)
        length = float(np.hypot(along, height - low)) + 0.6
        side = look.chance(0.5)
        at = (along / 2 if side else width - along / 2, depth / 2, (low + height) / 2 + 0.02)
        g.box(at, (length, depth, 0.04), material, CEILING, tilt=(0, -rise if side else rise, 0))
        room = Headroom(height, low, 0.0 if side else width, along if side else width - along)
    pick = look.rng.random()
    lit = look.plain(hsv(0.12, u(0, 0.3), 1.0), glow=u(0.8, 3.0) if look.chance(0.7) else 0.0)
    x, y = width * u(0.3, 0.7), depth * u(0.3, 0.7)
    if pick < 0.25:
        g.add("cylinder", (x, y, height - 0.04), (u(0.2, 0.5), u(0.2, 0.5), 0.08), lit, OTHER, casts=False)
    elif pick < 0.45:
        drop, s = u(0.3, 1.1), u(0.2, 0.5)
        g.add("cylinder", (x, y, height - drop / 2), (0.012, 0.012, drop), look.metal(), OTHER, casts=False)
        g.add(
            "shade" if look.chance(0.5) else "ball",
            (x, y, height - drop),
            (s, s, s * 0.7),
            lit,
            OTHER,
            casts=False,
        )
    elif pick < 0.55:
        for k in np.arange(u(0.4, 1.0), depth, 1.5):
            g.box((x, float(k), height - 0.005), (1.2, 0.3, 0.02), lit, OTHER, casts=False)
    return room
