"""A random room: its size, openings, furniture, camera and light, all drawn from one generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training import rooms_furniture as furniture
from training import rooms_objects as objects
from training import rooms_shell as shell
from training.rooms_look import Look, hsv
from training.rooms_mesh import Group, Model, Triangles, rotation
from training.rooms_raster import Camera, look
from training.rooms_shade import Lighting, shadow_camera

Array = NDArray[np.float64]
Build = Callable[[Group, Look], tuple[float, float]]


@dataclass(frozen=True)
class Piece:
    """A footprint: centre, half extents along x and y, where its front looks, what it is."""

    x: float
    y: float
    half_x: float
    half_y: float
    front: tuple[float, float]
    name: str


@dataclass(frozen=True)
class Scene:
    triangles: Triangles
    materials: Array
    camera: Camera
    light: Lighting


# what stands along the walls, what stands free; each with the chance that it is there
THEMES: dict[str, tuple[float, tuple[tuple[str, float], ...], tuple[tuple[str, float], ...]]] = {
    "bedroom": (0.27, (("bed", 1), ("bedside", 0.7), ("cabinet", 0.5), ("armchair", 0.3), ("desk", 0.3), ("plant", 0.4)), (("chair", 0.4), ("bed", 0.15), ("boxes", 0.3))),
    "living": (0.25, (("sofa", 1), ("television", 0.4), ("bookcase", 0.4), ("sofa", 0.4), ("cabinet", 0.35), ("floor_lamp", 0.4), ("plant", 0.6), ("plant", 0.3)), (("coffee", 0.7), ("armchair", 0.6), ("armchair", 0.3), ("boxes", 0.3))),
    "dining": (0.17, (("cabinet", 0.6), ("cabinet", 0.3), ("plant", 0.6), ("kitchen", 0.3), ("plant", 0.3)), (("set", 1), ("chair", 0.3))),
    "office": (0.12, (("desk", 1), ("bookcase", 0.6), ("desk", 0.4), ("cabinet", 0.4), ("plant", 0.6)), (("chair", 0.9), ("chair", 0.5), ("boxes", 0.3))),
    "kitchen": (0.06, (("kitchen", 1), ("kitchen", 0.5), ("plant", 0.2)), (("set", 0.6), ("person", 0.2))),
    "bathroom": (0.03, (("bathtub", 1), ("bathtub", 0.8), ("cabinet", 0.4)), ()),
    "bare": (0.10, (("plant", 0.3), ("any", 0.7)), (("any", 0.8), ("any", 0.2))),
}  # fmt: skip
BUILD: dict[str, Build] = {
    "bed": furniture.bed, "sofa": furniture.sofa, "armchair": furniture.armchair, "chair": furniture.chair,
    "desk": furniture.desk, "plant": furniture.plant, "table": furniture.table,
    "coffee": lambda g, k: furniture.table(g, k, True), "bedside": objects.bedside, "cabinet": objects.cabinet,
    "bookcase": objects.bookcase, "television": objects.television, "floor_lamp": objects.floor_lamp,
    "boxes": objects.boxes, "bathtub": objects.bathtub, "person": objects.person, "kitchen": objects.kitchen,
}  # fmt: skip
CLASS_OF = {"armchair": "chair", "desk": "table", "coffee": "table"}
OPEN = {"chair", "table", "coffee", "desk", "floor_lamp", "person"}  # light passes under these


class Room:
    """Furnishes a room step by step; `pieces` is what stands on the floor so far."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.model = Model()
        self.look = Look(self.model, rng)
        u = self.look.uniform
        self.width, self.depth, self.height = u(2.6, 6.5), u(2.8, 7.0), u(2.3, 3.2)
        self.base = Group(self.model, (0, 0, 0), 0.0, shell.WALL)
        self.walls = shell.walls_of(self.base, self.width, self.depth, self.height)
        self.pieces: list[Piece] = []
        self.windows: list[tuple[shell.Wall, shell.Opening]] = []

    def build(self) -> None:
        names = list(THEMES)
        odds = np.array([THEMES[n][0] for n in names])
        _, along, free = THEMES[names[self.rng.choice(len(names), p=odds / odds.sum())]]
        self._shell()
        for name, chance in along:
            if self.look.chance(chance):
                self.stand(self._any(name), at_wall=True)
        for name, chance in free:
            if self.look.chance(chance):
                if name == "set":
                    self._dining_set()
                else:
                    self.stand(self._any(name), at_wall=False)
        if self.look.chance(0.06):
            self.stand("person", at_wall=False)
        for wall in self.walls:
            for _ in range(int(self.rng.integers(0, 4))):
                x = wall.free(self.look, 0.7)
                if x is not None:
                    objects.on_wall(Group(self.model, tuple(self._at(wall, x)), wall.group.yaw, furniture.OTHER),
                                    self.look, 1.2, self.look.uniform(1.3, 1.9))  # fmt: skip
                    wall.taken.append((x - 0.6, x + 0.6))

    def _any(self, name: str) -> str:
        return (
            str(self.rng.choice(["bed", "sofa", "armchair", "chair", "table", "plant", "desk"]))
            if name == "any"
            else name
        )

    @staticmethod
    def _at(wall: shell.Wall, x: float) -> Array:
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
        shell.ceiling(self.base, look, w, d, h, roof)
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
                wall.taken.append((x - sx / 2, x + sx / 2))
                self._note(wall, x, sx, sy, "pillar")
        if look.chance(0.35):  # a rug is floor
            size = (u(1.0, 2.6), u(0.8, 2.0), 0.012)
            rug = look.cloth(0.7)
            self.base.add("box" if look.chance(0.8) else "cylinder", (w * u(0.3, 0.7), d * u(0.3, 0.7), 0.006), size, rug,
                          shell.FLOOR, tilt=(0, 0, u(-0.4, 0.4)))  # fmt: skip

    def _openings(self, wall: shell.Wall, outside: int, floor: int, paint: int) -> None:
        look, u = self.look, self.look.uniform
        pick = look.rng.random()
        if pick < 0.42:  # windows
            sill, high = (0.05, u(2.0, 2.2)) if look.chance(0.25) else (u(0.4, 1.1), u(1.9, 2.25))
            for _ in range(int(look.rng.integers(1, 3))):
                w = u(0.7, min(2.6, wall.length * 0.7))
                x = wall.free(look, w + 0.4)
                if x is not None:
                    o = shell.Opening(x - w / 2, x + w / 2, sill, high)
                    wall.openings.append(o)
                    if sill < 0.3:
                        wall.taken.append((x - w / 2 - 0.2, x + w / 2 + 0.2))
                    shell.window(wall, look, o, outside)
                    self.windows.append((wall, o))
                    if sill >= 0.3 and all(abs((a + b) / 2 - x) > 1e-3 for a, b in wall.taken):
                        wall.taken.append((x - w / 2, x + w / 2))
        elif pick < 0.8:
            for _ in range(1 if look.chance(0.75) else 2):
                w, h = (u(0.72, 1.0) if look.chance(0.85) else u(1.2, 1.6)), u(1.95, 2.15)
                x = wall.free(look, w + 0.3)
                if x is None:
                    continue
                if look.chance(0.3):
                    shell.doorway(
                        wall,
                        look,
                        x,
                        w,
                        h,
                        floor if look.chance(0.6) else look.floor(),
                        paint if look.chance(0.6) else look.wall(),
                    )
                else:
                    shell.door(wall, look, x, w, h)

    # --- furniture ------------------------------------------------------------------------------------------

    def _note(self, wall: shell.Wall, x: float, w: float, d: float, name: str) -> None:
        at, c, s = self._at(wall, x), np.cos(wall.group.yaw), np.sin(wall.group.yaw)
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
        label = furniture.LABEL.get(CLASS_OF.get(name, name), furniture.OTHER)
        w, d = BUILD[name](Group(self.model, (0.0, 0.0, 0.0), 0.0, label), self.look)
        for _ in range(14):
            if near is not None:
                x, y, yaw = near
            elif at_wall:
                wall = self.walls[int(self.rng.integers(4))]
                along = wall.free(self.look, w) if name not in ("desk", "sofa", "bed", "armchair", "plant") else (
                    self.look.uniform(w / 2, wall.length - w / 2) if wall.length > w else None)  # fmt: skip
                if along is None:
                    continue
                yaw = wall.group.yaw
                out = d / 2 + self.look.uniform(0.04, 0.15)
                at = self._at(wall, along)
                x, y = at[0] + np.sin(yaw) * out, at[1] - np.cos(yaw) * out
                if any(
                    a < along + w / 2 and b > along - w / 2 and self._doorlike(wall, a, b)
                    for a, b in wall.taken
                ):
                    continue
            else:
                x, y = self.look.uniform(0.3, self.width - 0.3), self.look.uniform(0.3, self.depth - 0.3)
                yaw = self.look.uniform(-np.pi, np.pi)
            c, s = abs(np.cos(yaw)), abs(np.sin(yaw))
            hx, hy = c * w / 2 + s * d / 2, s * w / 2 + c * d / 2
            if self._clear(x, y, hx, hy, -0.2 if near else 0.03):
                self._move(start, rotation(0, 0, yaw), np.array([x, y, 0.0]))
                if at_wall and near is None:
                    wall.taken.append((along - w / 2, along + w / 2))
                self.pieces.append(Piece(x, y, hx, hy, (float(np.sin(yaw)), float(-np.cos(yaw))), name))
                return self.pieces[-1]
        del self.model.parts[start:]
        return None

    def _doorlike(self, wall: shell.Wall, a: float, b: float) -> bool:
        return not any(o.low > 0.3 and abs((o.left + o.right) - (a + b)) < 0.2 for o in wall.openings)

    def _move(self, start: int, turn: Array, at: Array) -> None:
        parts = self.model.parts
        for i in range(start, len(parts)):
            shape, own, place, *rest = parts[i]
            parts[i] = (shape, turn @ own, turn @ place + at, *rest)

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
            self.stand("chair", at_wall=False, near=(where[0], where[1], where[2] + np.pi))
        self.look = Look(self.model, kept)

    # --- camera and light -----------------------------------------------------------------------------------

    def camera(self, height: int, width: int) -> Camera:
        u = self.look.uniform
        wanted = [p for p in self.pieces if p.name != "pillar"]
        best, best_score = None, -1e9
        for _ in range(10):
            eye = np.array([u(0.25, self.width - 0.25), u(0.25, self.depth - 0.25), u(0.8, 2.0)])
            target = np.array([self.width * u(0.2, 0.8), self.depth * u(0.2, 0.8), u(0.4, 1.5)])
            anchor = (
                wanted[int(self.rng.integers(len(wanted)))] if wanted and self.look.chance(0.75) else None
            )
            if anchor is not None:
                away, turn = u(1.0, 4.0), u(-1.1, 1.1)
                c, s = np.cos(turn), np.sin(turn)
                fx, fy = anchor.front
                eye[0] = np.clip(anchor.x + (c * fx - s * fy) * away, 0.25, self.width - 0.25)
                eye[1] = np.clip(anchor.y + (s * fx + c * fy) * away, 0.25, self.depth - 0.25)
                target = np.array([anchor.x + u(-0.5, 0.5), anchor.y + u(-0.5, 0.5), u(0.3, 1.3)])
            far = float(np.hypot(*(target - eye)[:2]))
            score = min(far, 2.5) + u(0, 0.5)
            for p in self.pieces:
                gap = max(abs(eye[0] - p.x) - p.half_x, abs(eye[1] - p.y) - p.half_y)
                score -= 8 * max(0.0, 0.45 - gap) + 3 * (gap < 0)
            if score > best_score:
                best, best_score = (eye, target), score
        assert best is not None
        eye, target = best
        d = target - eye
        yaw = np.arctan2(-d[0], d[1]) + u(-0.12, 0.12)
        pitch = np.clip(np.arctan2(d[2], max(np.hypot(d[0], d[1]), 0.3)) + u(-0.1, 0.22), -0.9, 0.3)
        focal = max(height, width) / 2 / np.tan(np.radians(u(42, 92)) / 2)
        centre = (width / 2 + width * u(-0.03, 0.03), height / 2 + height * u(-0.03, 0.03))
        return Camera(eye, look(eye, yaw, float(pitch), float(self.rng.normal(0, 0.03))), focal, *centre)

    def light(self, camera: Camera) -> Lighting:
        u, rng = self.look.uniform, self.rng
        size = np.array([self.width, self.depth, self.height])
        rows: list[tuple[Array, Array, Array]] = []
        middle, none = size * [0.5, 0.5, 0.4], np.zeros(3)
        kind = rng.random()
        warm = np.array(hsv(u(0.06, 0.14), u(0.0, 0.4), 1.0))
        softness = u(0.6, 5.0)
        if self.windows and kind < 0.35:  # sun through a window
            wall, _ = self.windows[int(rng.integers(len(self.windows)))]
            out = rotation(0, 0, wall.group.yaw + u(-0.9, 0.9)) @ np.array([0.0, 1.0, 0.0])
            out = np.append(out[:2] * np.cos(alt := u(0.3, 0.95)), np.sin(alt))
            main = shadow_camera(
                middle + out * 40, middle, 2 * np.arctan(float(np.linalg.norm(size)) / 2 / 39)
            )
            rows.append((main.at, np.array(hsv(0.12, u(0.05, 0.35), 1.0)) * u(1.5, 6.0), none))
            softness = u(0.4, 1.2)
        elif kind < 0.5:  # a flash on the camera
            at = np.add(camera.at, [u(-0.15, 0.15), u(-0.15, 0.15), u(0.02, 0.2)])
            forward = camera.turn[2]
            main = shadow_camera(at, at + forward, 2.2)
            rows.append((at, np.ones(3) * u(0.8, 2.5), none))
        else:
            at = np.array([self.width * u(0.25, 0.75), self.depth * u(0.25, 0.75), self.height - u(0.1, 0.7)])
            main = shadow_camera(at, at * [1, 1, 0] + [u(-0.5, 0.5), u(0.01, 0.5), 0], 2.5)
            rows.append((at, warm * u(0.6, 2.2), none))
        for wall, o in self.windows:
            inward = rotation(0, 0, wall.group.yaw) @ np.array([0.0, -1.0, 0.0])
            at = self._at(wall, (o.left + o.right) / 2) - inward * 0.5 + [0, 0, (o.low + o.high) / 2]
            strength = u(0.2, 2.0) * (o.right - o.left)
            rows.append((at, np.array(hsv(u(0.5, 0.62), u(0, 0.25), 1.0)) * strength, inward))
        for _ in range(int(rng.integers(0, 3))):
            at = np.array([self.width * u(0.1, 0.9), self.depth * u(0.1, 0.9), u(0.8, 2.2)])
            rows.append((at, np.array(hsv(0.09, u(0.1, 0.5), 1.0)) * u(0.05, 0.5), none))
        ambient = np.array(hsv(u(0, 1), u(0, 0.12), 1.0)) * u(0.1, 0.6)
        lights = np.array([np.concatenate(row) for row in rows])
        return Lighting(lights, ambient, size, self._floor_ao(), main, softness)

    def _floor_ao(self, cells: int = 96) -> Array:
        """How much of the sky of light each floor point sees past the furniture."""
        y, x = np.meshgrid(
            np.linspace(0, self.depth, cells), np.linspace(0, self.width, cells), indexing="ij"
        )
        out = np.ones((cells, cells))
        for p in self.pieces:
            d = np.hypot(np.maximum(abs(x - p.x) - p.half_x, 0), np.maximum(abs(y - p.y) - p.half_y, 0))
            out *= 1 - (0.45 if p.name in OPEN else 0.8) * np.exp(-d / 0.13)
        return out


def compose(seed: int, height: int, width: int) -> Scene:
    """The scene of a seed as seen by its camera in a picture of height x width pixels."""
    room = Room(np.random.default_rng([seed, 7]))
    room.build()
    camera = room.camera(height, width)
    return Scene(room.model.triangles(), np.array(room.model.materials), camera, room.light(camera))
