"""A random room: its size, openings and furniture, all drawn from one generator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training import rooms_objects as objects
from training import rooms_openings as openings
from training import rooms_shell as shell
from training.rooms_furniture import LABEL, OTHER
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group, Model, rotation
from training.rooms_themes import ANY, ANYWHERE, BUILD, CLASS_OF, TALL, THEMES

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """A footprint: centre, half extents along x and y, where its front looks, what it is."""

    x: float
    y: float
    half_x: float
    half_y: float
    front: tuple[float, float]
    name: str


class Room:
    """Furnishes a room step by step; `pieces` is what stands on the floor so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.model = Model()
        self.look = Look(self.model, rng)
        self.width, self.depth, self.height = self.size()
        self.base = Group(self.model, (0, 0, 0), 0.0, shell.WALL)
        self.walls = shell.walls_of(self.base, self.width, self.depth, self.height)
        self.pieces: list[Piece] = []
        self.windows: list[tuple[shell.Wall, shell.Opening]] = []
        self.lamps: list[tuple[Array, Array]] = []  # where, colour

    def size(self) -> tuple[float, float, float]:
        """Width, depth and height in metres."""
        u = self.look.uniform
        return u(2.6, 6.5), u(2.8, 7.0), u(2.3, 3.2)

    def build(self) -> None:
        odds = np.array([theme.weight for theme in THEMES])
        theme = THEMES[self.rng.choice(len(THEMES), p=odds / odds.sum())]
        self._shell()
        for name, chance in theme.along:
            if self.look.chance(chance):
                self.stand(self._pick(name), at_wall=True)
        for name, chance in theme.free:
            if self.look.chance(chance):
                if name == "set":
                    self._dining_set()
                else:
                    self.stand(self._pick(name), at_wall=False)
        for name, chance in ANYWHERE:
            if self.look.chance(chance):
                self.stand(name, at_wall=self.look.chance(0.4))
        for wall in self.walls:
            for _ in range(int(self.rng.integers(1, 5))):
                x = wall.free(self.look, 0.7)
                if x is not None:
                    objects.on_wall(Group(self.model, tuple(self.on(wall, x)), wall.group.yaw, OTHER),
                                    self.look, 1.2, self.look.uniform(1.3, 1.9))  # fmt: skip
                    wall.take(x - 0.6, x + 0.6)

    def _pick(self, name: str) -> str:
        return str(self.rng.choice(ANY)) if name == "any" else name

    @staticmethod
    def on(wall: shell.Wall, x: float) -> Array:
        c, s = np.cos(wall.group.yaw), np.sin(wall.group.yaw)
        return np.add(wall.group.at, [c * x, s * x, 0.0])

    # --- walls, floor, ceiling ------------------------------------------------------------------------------

    def _shell(self) -> None:
        look, u = self.look, self.look.uniform
        floor, paint, roof = look.floor(), look.wall(), look.ceiling()
        accent = look.wall() if look.chance(0.3) else paint
        w, d, h = self.width, self.depth, self.height
        self.base.box(
            (w / 2, d / 2, -0.05), (w + 0.4, d + 0.4, 0.1), floor, shell.FLOOR, origin=(u(0, 3), u(0, 3), 0)
        )
        self.headroom = shell.ceiling(self.base, look, w, d, h, roof)
        outside = look.outside(u(0.6, 4.0))
        self.base.box((w / 2, d / 2, 0), (90, 90, 40), outside, shell.WINDOW, casts=False)
        style = look.rng.random()
        white = look.plain(hsv(0.1, 0.03, u(0.75, 0.97)))
        trim = white if look.chance(0.6) else look.wood()
        lower, half = (look.wall() if look.chance(0.5) else white), u(0.8, 1.3)
        skirting = u(0.05, 0.16)
        for wall in self.walls:
            self._openings(wall, outside, floor, paint)
            wall.layer(accent if wall is self.walls[0] else paint, 0, h, 0, shell.THICK_M)
            if style < 0.12:
                wall.layer(lower, 0, half, -0.015, 0)
                wall.layer(trim, half, half + 0.06, -0.03, 0)
            if look.chance(0.85):
                wall.layer(trim, 0, skirting, -0.02, 0)
            if 0.12 < style < 0.35:
                wall.layer(trim, h - 0.1, h, -0.05, 0)
        if look.chance(0.2):  # a projecting chimney breast, pillar or corner
            wall, sx, sy = self.walls[int(self.rng.integers(4))], u(0.3, 1.5), u(0.15, 0.6)
            x = wall.free(look, sx)
            if x is not None:
                wall.group.box((x, -sy / 2, h / 2), (sx, sy, h), paint, shell.WALL)
                wall.take(x - sx / 2, x + sx / 2, stands=True)
                self._note(wall, x, sx, sy, "pillar")
        if look.chance(0.35):  # a rug is floor
            shape = "box" if look.chance(0.8) else "cylinder"
            at, size = (w * u(0.3, 0.7), d * u(0.3, 0.7), 0.006), (u(1.0, 2.6), u(0.8, 2.0), 0.012)
            self.base.add(shape, at, size, look.cloth(0.7), shell.FLOOR, tilt=(0, 0, u(-0.4, 0.4)))

    def _openings(
        self, wall: shell.Wall, outside: int, floor: int, paint: int, pick: float | None = None
    ) -> None:
        """Windows, doors or nothing; `pick`, from 0 to 1, says which, and is drawn if left out."""
        look, u = self.look, self.look.uniform
        pick = look.rng.random() if pick is None else pick
        if pick < 0.42:  # windows
            sill, high = (0.05, u(2.0, 2.2)) if look.chance(0.25) else (u(0.4, 1.1), u(1.9, 2.25))
            for _ in range(int(look.rng.integers(1, 3))):
                w = u(0.7, min(2.6, wall.length * 0.7))
                x = wall.free(look, w + 0.4)
                if x is not None:
                    o = shell.Opening(x - w / 2, x + w / 2, sill, high)
                    wall.openings.append(o)
                    wall.take(x - w / 2 - 0.2, x + w / 2 + 0.2, stands=sill < 0.3)
                    openings.window(wall, look, o, outside)
                    self.windows.append((wall, o))
        elif pick < 0.73:
            for _ in range(1 if look.chance(0.75) else 2):
                w, h = (u(0.72, 1.0) if look.chance(0.85) else u(1.2, 1.6)), u(1.95, 2.15)
                x = wall.free(look, w + 0.3)
                if x is None:
                    continue
                if look.chance(0.3):
                    openings.doorway(
                        wall,
                        look,
                        x,
                        w,
                        h,
                        floor if look.chance(0.6) else look.floor(),
                        paint if look.chance(0.6) else look.wall(),
                    )
                else:
                    openings.door(wall, look, x, w, h)

    # --- furniture ------------------------------------------------------------------------------------------

    def _note(self, wall: shell.Wall, x: float, w: float, d: float, name: str) -> None:
        at, c, s = self.on(wall, x), np.cos(wall.group.yaw), np.sin(wall.group.yaw)
        half = (abs(c) * w / 2 + abs(s) * d / 2, abs(s) * w / 2 + abs(c) * d / 2)
        self.pieces.append(Piece(at[0] + s * d / 2, at[1] - c * d / 2, *half, (s, -c), name))

    def _clear(self, x: float, y: float, hx: float, hy: float, gap: float = 0.03) -> bool:
        inside = hx + 0.03 <= x <= self.width - hx - 0.03 and hy + 0.03 <= y <= self.depth - hy - 0.03
        return inside and all(
            abs(x - p.x) > hx + p.half_x + gap or abs(y - p.y) > hy + p.half_y + gap for p in self.pieces
        )

    def stand(self, name: str, at_wall: bool, near: tuple[float, float, float] | None = None) -> Piece | None:
        """Build a piece, find it a place, move it there; or drop it where there is none.

        near: exact x, y and yaw instead of a random place."""
        start = len(self.model.parts)
        label = LABEL.get(CLASS_OF.get(name, name), OTHER)
        w, d = BUILD[name](Group(self.model, (0.0, 0.0, 0.0), 0.0, label), self.look)
        for _ in range(14):
            place = near or (self._by_a_wall(name, w, d) if at_wall else self._anywhere())
            if place is None:
                continue
            x, y, yaw = place
            c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
            hx, hy = c * w / 2 + s * d / 2, s * w / 2 + c * d / 2
            if self._clear(x, y, hx, hy, -0.2 if near else 0.03):
                self._move(start, rotation(0, 0, yaw), np.array([x, y, 0.0]))
                self.pieces.append(Piece(x, y, hx, hy, (float(np.sin(yaw)), float(-np.cos(yaw))), name))
                return self.pieces[-1]
        del self.model.parts[start:]
        return None

    def _by_a_wall(self, name: str, w: float, d: float) -> tuple[float, float, float] | None:
        wall = self.walls[int(self.rng.integers(4))]
        along = wall.free(self.look, w, low=name not in TALL)
        if along is None:
            return None
        if name in TALL:
            wall.take(along - w / 2, along + w / 2)
        yaw, out, at = wall.group.yaw, d / 2 + self.look.uniform(0.04, 0.15), self.on(wall, along)
        return at[0] + np.sin(yaw) * out, at[1] - np.cos(yaw) * out, yaw

    def _anywhere(self) -> tuple[float, float, float]:
        u = self.look.uniform
        return u(0.3, self.width - 0.3), u(0.3, self.depth - 0.3), u(-np.pi, np.pi)

    def _move(self, start: int, turn: Array, at: Array) -> None:
        parts = self.model.parts
        for i in range(start, len(parts)):
            shape, own, place, size, material, label, origin, casts = parts[i]
            parts[i] = (shape, turn @ own, turn @ place + at, size, material, label, origin, casts)

    def _dining_set(self) -> None:
        table = self.stand("table", at_wall=False)
        if table is None:
            return
        chair_seed = int(self.rng.integers(2**31))
        kept = self.rng
        for side in range(int(self.rng.integers(2, 9))):
            yaw = np.arctan2(table.front[0], -table.front[1]) + (side % 4) * np.pi / 2
            dx, dy = float(np.sin(yaw)), float(-np.cos(yaw))
            reach = min(table.half_x / max(abs(dx), 1e-3), table.half_y / max(abs(dy), 1e-3)) + 0.1
            slide = kept.uniform(-0.3, 0.3) * (1 if side < 4 else 2)
            where = (
                table.x + dx * reach - dy * slide,
                table.y + dy * reach + dx * slide,
                yaw + np.pi + kept.uniform(-0.2, 0.2),
            )
            # all chairs of a set are drawn with the same numbers
            self.look = Look(self.model, np.random.default_rng(chair_seed))
            self.stand("chair", at_wall=False, near=where)
        self.look = Look(self.model, kept)
