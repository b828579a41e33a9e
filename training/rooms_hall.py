"""Large rooms for the renderer: aisles between shelves, corridors, halls with groups of furniture, pillars.

    python -m training.rooms --halls --out data/halls --train 600 --val 50 --seed 1

A room of `rooms_scene` ends after seven metres and is seen from standing or sitting height. Photographs are not always
so: the far end of an aisle is twenty metres away, and what stands close before a low camera is cut by the lower edge,
where otherwise there is floor.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training import rooms_shell as shell
from training.rooms_furniture import OTHER, Footprint
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group
from training.rooms_raster import Camera, look
from training.rooms_scene import Piece, Room

Array = NDArray[np.float64]
KINDS, ODDS = ("aisles", "corridor", "open"), (0.35, 0.2, 0.45)
SEATS = ("armchair", "armchair", "sofa", "chair")


class Hall(Room):
    """A room of `KINDS`, lit by lamps all over its ceiling; `kind` says which."""

    def size(self) -> tuple[float, float, float]:
        u = self.look.uniform
        self.kind = str(self.rng.choice(KINDS, p=ODDS))
        if self.kind == "corridor":
            return u(1.5, 3.2), u(8, 22), u(2.3, 3.4)
        return u(4.5, 13), u(8, 24), u(2.6, 6)

    def build(self) -> None:
        self._shell()
        u = self.look.uniform
        lamp = hsv(u(0.08, 0.6), u(0, 0.15), 1.0)
        rows = int(np.clip(self.depth / 4, 2, 5))
        for x in (0.5,) if self.width < 5 else (0.25, 0.75):
            for row in range(rows):
                at = np.array([self.width * x, self.depth * (row + 0.5) / rows, self.height - 0.3])
                self.lamps.append((at, np.array(lamp) * u(0.5, 2.5)))
        {"aisles": self._aisles, "corridor": self._along_the_walls, "open": self._groups}[self.kind]()

    def _openings(
        self, wall: shell.Wall, outside: int, floor: int, paint: int, pick: float | None = None
    ) -> None:
        """As many windows, or doors, as a long wall has room for. Not both: the next room would be seen through the
        windows, and the garden through the doorway."""
        pick = self.look.rng.random() if pick is None else pick
        for _ in range(max(1, int(wall.length / self.look.uniform(3, 6)))):
            super()._openings(wall, outside, floor, paint, pick)

    def _along_the_walls(self) -> None:
        for _ in range(int(self.rng.integers(0, 6))):
            name = str(self.rng.choice(["cabinet", "bookcase", "chair", "plant", "thing", "boxes", "person"]))
            self.stand(name, at_wall=True)

    def _aisles(self) -> None:
        """Shelves in rows along the room, then some things that stand about."""
        u = self.look.uniform
        deep, aisle, high = u(0.4, 1.1), u(1.1, 2.8), u(1.5, min(3.2, self.height - 0.2))
        x = u(0.0, 1.0) + deep / 2
        while x + deep / 2 < self.width:
            start, end = self.depth * u(0.05, 0.3), self.depth * u(0.6, 0.98)
            group = Group(self.model, (x, (start + end) / 2, 0.0), np.pi / 2, OTHER)
            rack(group, self.look, end - start, deep, high)
            self.pieces.append(
                Piece(x, (start + end) / 2, deep / 2, (end - start) / 2, (1.0, 0.0), "bookcase")
            )
            x += deep + aisle
        for name in ("boxes", "person", "thing", "cabinet", "table", "chair"):
            if self.look.chance(0.4):
                self.stand(name, at_wall=False)

    def _groups(self) -> None:
        """Pillars; seats around low tables, and tables with chairs; the rest by the walls."""
        u = self.look.uniform
        if self.look.chance(0.5):
            side, material = u(0.2, 0.6), self.look.wall()
            for x in (0.3, 0.7):
                for y in np.arange(0.2, 0.9, u(0.2, 0.5)):
                    at = self.width * x, self.depth * float(y)
                    self.base.box((*at, self.height / 2), (side, side, self.height), material, shell.WALL)
                    self.pieces.append(Piece(*at, side / 2, side / 2, (0.0, -1.0), "pillar"))
        for _ in range(int(self.rng.integers(1, 6))):
            if self.look.chance(0.3):
                self._dining_set()
            else:
                self._seats()
        self._along_the_walls()
        for name in ("plant", "thing", "cabinet", "person", "boxes"):
            if self.look.chance(0.5):
                self.stand(name, at_wall=self.look.chance(0.5))

    def _seats(self) -> None:
        middle = self.stand("coffee", at_wall=False)
        if middle is None:
            return
        name, u = str(self.rng.choice(SEATS)), self.look.uniform
        for _ in range(int(self.rng.integers(1, 5))):
            yaw, away = u(-np.pi, np.pi), u(0.9, 1.6) + max(middle.half_x, middle.half_y)
            at = middle.x - np.sin(yaw) * away, middle.y + np.cos(yaw) * away
            self.stand(name, at_wall=False, near=(*at, yaw))


def rack(g: Group, look: Look, length: float, deep: float, high: float) -> Footprint:
    """Open shelves on both sides of a board, metre by metre full of books or goods."""
    u = look.uniform
    frame, board = look.metal() if look.chance(0.5) else look.wood(), look.wood()
    goods = [look.books() if look.chance(0.5) else look.clutter() for _ in range(6)]
    shelves = int(look.rng.integers(3, 7))
    step, metres = high / shelves, max(1, round(length))
    g.box((0, 0, high / 2), (length, 0.02, high), board)
    for i in range(shelves + 1):
        g.box((0, 0, max(0.02, i * step)), (length, deep, 0.03), board)
    for k in range(metres + 1):
        x = (k / metres - 0.5) * length
        for y in (-deep / 2, deep / 2):
            g.box((x, y, high / 2), (0.05, 0.05, high), frame)
        for i in range(shelves):
            for side in (-1, 1):
                if k < metres and look.chance(0.85):
                    full = u(0.5, 0.95)
                    at = (x + length / metres / 2, side * deep * 0.24, i * step + 0.03 + step * full / 2)
                    size = (length / metres * u(0.6, 0.98), deep * u(0.3, 0.46), step * full)
                    g.box(at, size, goods[int(look.rng.integers(6))], origin=(0, 0, 0.12))
    return length, deep


def camera_of(hall: Hall, height: int, width: int) -> Camera:
    """Low or standing, mostly along the hall; now and then close behind a piece, which the lower edge then cuts."""
    u = hall.look.uniform
    behind = [p for p in hall.pieces if p.name not in ("pillar", "bookcase")]
    best, best_score = (np.zeros(3), 0.0), -1e9
    for _ in range(12):
        eye = np.array([u(0.3, hall.width - 0.3), hall.depth * u(0.03, 0.6), u(0.3, 1.8)])
        yaw = u(-0.5, 0.5) if hall.look.chance(0.75) else u(-np.pi, np.pi)
        if behind and hall.look.chance(0.4):
            piece = behind[int(hall.rng.integers(len(behind)))]
            away = u(0.2, 0.6) + float(np.hypot(piece.half_x, piece.half_y))
            eye[0] = np.clip(piece.x + np.sin(yaw) * away, 0.3, hall.width - 0.3)
            eye[1] = np.clip(piece.y - np.cos(yaw) * away, 0.3, hall.depth - 0.3)
            eye[2] = u(0.8, 1.5)
        score = u(0, 0.5) + min(_ahead(hall, eye, yaw), 4.0)
        for p in hall.pieces:
            gap = max(abs(eye[0] - p.x) - p.half_x, abs(eye[1] - p.y) - p.half_y)
            score -= 8 * max(0.0, 0.15 - gap)
        if score > best_score:
            best, best_score = (eye, yaw), score
    eye, yaw = best
    eye[2] = min(eye[2], hall.headroom.at(eye[0]) - 0.2)
    pitch = u(-0.35, 0.12) if eye[2] > 0.7 else u(-0.1, 0.2)
    focal = max(height, width) / 2 / np.tan(np.radians(u(50, 95)) / 2)
    centre = (width / 2 + width * u(-0.03, 0.03), height / 2 + height * u(-0.03, 0.03))
    return Camera(eye, look(eye, yaw, pitch, float(hall.rng.normal(0, 0.02))), focal, *centre)


def _ahead(hall: Hall, eye: Array, yaw: float) -> float:
    """Metres from the eye to the wall that it looks at."""
    along = np.array([-np.sin(yaw), np.cos(yaw)])
    ends = np.where(along > 0, [hall.width, hall.depth], 0.0) - eye[:2]
    return float((ends / np.where(abs(along) > 1e-6, along, 1e-6)).min())
