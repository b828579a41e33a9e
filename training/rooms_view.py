"""Camera and light for a rendered room, and the scene that they make together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.rooms_hall import Hall
from training.rooms_hall import camera_of as hall_camera
from training.rooms_look import hsv
from training.rooms_mesh import Triangles, rotation
from training.rooms_raster import Camera, look
from training.rooms_scene import Room
from training.rooms_shade import Lighting, shadow_camera
from training.rooms_themes import FAVOURED, OPEN

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    triangles: Triangles
    materials: Array
    camera: Camera
    light: Lighting


def compose(seed: int, height: int, width: int, *, hall: bool = False) -> Scene:
    """The scene of a seed as seen by its camera in a picture of height x width pixels."""
    rng = np.random.default_rng([seed, 7])
    room = Hall(rng) if hall else Room(rng)
    room.build()
    camera = hall_camera(room, height, width) if isinstance(room, Hall) else camera_of(room, height, width)
    return Scene(room.model.triangles(), np.array(room.model.materials), camera, light_of(room, camera))


def camera_of(room: Room, height: int, width: int) -> Camera:
    """Somewhere in the room, more often than not towards a piece of furniture, out of everything solid."""
    u = room.look.uniform
    wanted = [p for p in room.pieces if p.name != "pillar"]
    odds = np.array([FAVOURED.get(p.name, 1.0) for p in wanted])
    best, best_score = None, -1e9
    for _ in range(10):
        eye = np.array([u(0.25, room.width - 0.25), u(0.25, room.depth - 0.25), u(0.8, 2.0)])
        target = np.array([room.width * u(0.2, 0.8), room.depth * u(0.2, 0.8), u(0.4, 1.5)])
        anchor = None
        if wanted and room.look.chance(0.8):
            anchor = wanted[int(room.rng.choice(len(wanted), p=odds / odds.sum()))]
        if anchor is not None:
            away, turn = u(0.9, 3.6) + max(anchor.half_x, anchor.half_y) * 0.7, u(-1.1, 1.1)
            c, s = np.cos(turn), np.sin(turn)
            fx, fy = anchor.front
            eye[0] = np.clip(anchor.x + (c * fx - s * fy) * away, 0.25, room.width - 0.25)
            eye[1] = np.clip(anchor.y + (s * fx + c * fy) * away, 0.25, room.depth - 0.25)
            target = np.array([anchor.x + u(-0.5, 0.5), anchor.y + u(-0.5, 0.5), u(0.3, 1.3)])
        eye[2] = min(eye[2], room.headroom.at(eye[0]) - 0.2)
        far = float(np.hypot(*(target - eye)[:2]))
        score = min(far, 2.5) + u(0, 0.5)
        for p in room.pieces:
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
    return Camera(eye, look(eye, yaw, float(pitch), float(room.rng.normal(0, 0.03))), focal, *centre)


def light_of(room: Room, camera: Camera) -> Lighting:
    """Sun through a window, a flash or a lamp as the main light; then the windows, other lamps, the ambient light."""
    u, rng = room.look.uniform, room.rng
    size = np.array([room.width, room.depth, room.height])
    rows: list[tuple[Array, Array, Array]] = []
    middle, none = size * [0.5, 0.5, 0.4], np.zeros(3)
    kind = rng.random()
    warm = np.array(hsv(u(0.06, 0.14), u(0.0, 0.4), 1.0))
    softness = u(0.6, 5.0)
    if room.windows and kind < 0.35:  # sun through a window
        wall, _ = room.windows[int(rng.integers(len(room.windows)))]
        out = rotation(0, 0, wall.group.yaw + u(-0.9, 0.9)) @ np.array([0.0, 1.0, 0.0])
        out = np.append(out[:2] * np.cos(alt := u(0.3, 0.95)), np.sin(alt))
        main = shadow_camera(middle + out * 40, middle, 2 * np.arctan(float(np.linalg.norm(size)) / 2 / 39))
        rows.append((main.at, np.array(hsv(0.12, u(0.05, 0.35), 1.0)) * u(1.5, 6.0), none))
        softness = u(0.4, 1.2)
    elif kind < 0.5:  # a flash on the camera
        at = np.add(camera.at, [u(-0.15, 0.15), u(-0.15, 0.15), u(0.02, 0.2)])
        forward = camera.turn[2]
        main = shadow_camera(at, at + forward, 2.2)
        rows.append((at, np.ones(3) * u(0.8, 2.5), none))
    else:
        at = np.array([room.width * u(0.25, 0.75), room.depth * u(0.25, 0.75), room.height - u(0.1, 0.7)])
        main = shadow_camera(at, at * [1, 1, 0] + [u(-0.5, 0.5), u(0.01, 0.5), 0], 2.5)
        rows.append((at, warm * u(0.6, 2.2), none))
    for wall, o in room.windows:
        inward = rotation(0, 0, wall.group.yaw) @ np.array([0.0, -1.0, 0.0])
        at = room.on(wall, (o.left + o.right) / 2) - inward * 0.5 + [0, 0, (o.low + o.high) / 2]
        strength = u(0.2, 2.0) * (o.right - o.left)
        rows.append((at, np.array(hsv(u(0.5, 0.62), u(0, 0.25), 1.0)) * strength, inward))
    for _ in range(int(rng.integers(0, 3))):
        at = np.array([room.width * u(0.1, 0.9), room.depth * u(0.1, 0.9), u(0.8, 2.2)])
        rows.append((at, np.array(hsv(0.09, u(0.1, 0.5), 1.0)) * u(0.05, 0.5), none))
    rows += [(at, colour, none) for at, colour in room.lamps]
    ambient = np.array(hsv(u(0, 1), u(0, 0.12), 1.0)) * u(0.1, 0.6)
    lights = np.array([np.concatenate(row) for row in rows])
    return Lighting(lights, ambient, size, _floor_ao(room), main, softness)


def _floor_ao(room: Room, cells: int = 96) -> Array:
    """How much of the sky of light each floor point sees past the furniture."""
    y, x = np.meshgrid(np.linspace(0, room.depth, cells), np.linspace(0, room.width, cells), indexing="ij")
    out = np.ones((cells, cells))
    for p in room.pieces:
        d = np.hypot(np.maximum(abs(x - p.x) - p.half_x, 0), np.maximum(abs(y - p.y) - p.half_y, 0))
        out *= 1 - (0.45 if p.name in OPEN else 0.8) * np.exp(-d / 0.13)
    return out
