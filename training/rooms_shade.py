"""Light on the rendered rooms: one shading per pixel, nine where surfaces meet, shadows of one main light.

`shade` also makes the label map: the label of a pixel is that of the surface at its centre, always.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segserve.jit import kernel
from training.rooms_mesh import Triangles
from training.rooms_raster import Camera, look, rasterise
from training.rooms_texture import GLOSS, GLOW, paint

Array = NDArray[np.float64]
SHADOW_SIZE = 384
SWIRL = np.stack([np.cos(np.arange(32) * np.pi / 16), np.sin(np.arange(32) * np.pi / 16)], 1)


@dataclass(frozen=True)
class Lighting:
    """lights: (L, 9) rows of position, colour (linear RGB), facing (unit vector, or zero where it shines all
    round). The first one throws shadows. ambient: RGB from above; floor_ao: (N, N) over the floor, 0 … 1."""

    lights: Array
    ambient: Array
    room_size: Array  # width, depth, height in metres
    floor_ao: Array
    shadow_camera: Camera
    softness: float  # samples of the shadow map


def shadow_camera(at: Array, towards: Array, field_of_view: float) -> Camera:
    """The first light's view. field_of_view in radians."""
    d = towards - at
    yaw, pitch = np.arctan2(-d[0], d[1]), np.arctan2(d[2], np.hypot(d[0], d[1]))
    focal = SHADOW_SIZE / 2 / np.tan(field_of_view / 2)
    return Camera(at, look(at, yaw, pitch, 0.0), focal, SHADOW_SIZE / 2, SHADOW_SIZE / 2)


def shade(
    triangles: Triangles, materials: Array, camera: Camera, light: Lighting, height: int, width: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Rasterise at twice the resolution, pixel centres included, and shade.

    camera: in pixels of the picture. Returns: linear RGB float32 (height, width, 3), labels uint8 (height,
    width).
    """
    # samples lie at pixel corners, edges and centres: sample 2 i + 1 is the centre of pixel i
    fine = Camera(camera.at, camera.turn, camera.focal * 2, camera.centre_x * 2, camera.centre_y * 2)
    ids, near, inverses = rasterise(triangles.corners, fine, 2 * height + 1, 2 * width + 1)
    casting = np.ascontiguousarray(triangles.corners[triangles.casts])
    s = light.shadow_camera
    shadow = rasterise(casting, s, SHADOW_SIZE, SHADOW_SIZE)[1].astype(np.float32)

    mixed = np.zeros((height, width), np.bool_)
    count = _find_mixed(ids, triangles.smooth_group, mixed)
    where = np.empty((count, 4), np.int32)  # pixel y, pixel x, sample y, sample x
    weight, foot = np.empty((2, count), np.float32)
    uv = np.empty((count, 2), np.float32)
    position, normal, ray = np.empty((3, count, 3), np.float32)
    turn = np.ascontiguousarray(fine.turn)
    _gather(ids, near, mixed, inverses, triangles.uv, triangles.normals, turn, fine.at, fine.focal, fine.centre_x,
            fine.centre_y, where, weight, foot, uv, position, normal, ray)  # fmt: skip
    index = triangles.material[ids[where[:, 2], where[:, 3]]]
    colour = paint(materials, index, uv, foot)
    image = np.zeros((height, width, 3), np.float32)
    _light(where, weight, position, normal, ray, colour, materials[:, GLOSS][index], materials[:, GLOW][index],
           light.lights, light.ambient, light.room_size, light.floor_ao, shadow, s.at,
           np.ascontiguousarray(s.turn), s.focal, light.softness, image)  # fmt: skip
    label: NDArray[np.uint8] = triangles.label[ids[1::2, 1::2]]
    return image, label


@kernel(error_model="numpy")
def _find_mixed(ids, groups, mixed):  # type: ignore[no-untyped-def]
    """Mark the pixels in which surfaces meet; returns how many samples are to be shaded."""
    height, width = mixed.shape
    count = 0
    for y in range(height):
        for x in range(width):
            middle = groups[ids[2 * y + 1, 2 * x + 1]]
            for j in range(3):
                for i in range(3):
                    if groups[ids[2 * y + j, 2 * x + i]] != middle:
                        mixed[y, x] = True
            count += 9 if mixed[y, x] else 1
    return count


@kernel(error_model="numpy")
def _gather(ids, near, mixed, inverses, uvs, normals, turn, eye, focal, cx, cy, where, weight, foot, uv, position,  # type: ignore[no-untyped-def]
            normal, ray):  # fmt: skip
    """Position, normal and texture coordinates of every sample."""
    height, width = mixed.shape
    k = 0
    for y in range(height):
        for x in range(width):
            for j in range(3):
                for i in range(3):
                    if not mixed[y, x] and (i != 1 or j != 1):
                        continue
                    sy, sx = 2 * y + j, 2 * x + i
                    where[k, 0], where[k, 1], where[k, 2], where[k, 3] = y, x, sy, sx
                    weight[k] = (2 - abs(i - 1)) * (2 - abs(j - 1)) / 16 if mixed[y, x] else 1.0
                    t, depth = ids[sy, sx], 1.0 / near[sy, sx]
                    dx, dy = (sx - cx) / focal, (sy - cy) / focal
                    uv[k] = 0.0
                    nx, ny, nz = 0.0, 0.0, 0.0
                    for c in range(3):
                        b = (inverses[t, c, 0] * dx + inverses[t, c, 1] * dy + inverses[t, c, 2]) * depth
                        uv[k, 0] += b * uvs[t, c, 0]
                        uv[k, 1] += b * uvs[t, c, 1]
                        nx += b * normals[t, c, 0]
                        ny += b * normals[t, c, 1]
                        nz += b * normals[t, c, 2]
                    length = np.sqrt(dx * dx + dy * dy + 1)
                    for c in range(3):
                        r = turn[0, c] * dx + turn[1, c] * dy + turn[2, c]
                        position[k, c] = eye[c] + r * depth
                        ray[k, c] = r / length
                    facing = nx * ray[k, 0] + ny * ray[k, 1] + nz * ray[k, 2]
                    size = np.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
                    if facing > 0:  # seen from behind: leaves, curtains
                        size = -size
                    normal[k, 0], normal[k, 1], normal[k, 2] = nx / size, ny / size, nz / size
                    foot[k] = depth * 2.0 / focal / max(abs(facing / size), 0.12)
                    k += 1


@kernel(error_model="numpy")
def _light(where, weight, position, normal, ray, colour, gloss, glow, lights, ambient, room, floor_ao, shadow, s_eye,  # type: ignore[no-untyped-def]
           s_turn, s_focal, softness, image):  # fmt: skip
    """Add every sample's light to its pixel."""
    for k in range(len(where)):
        y, x, w = where[k, 0], where[k, 1], weight[k]
        if glow[k] > 0:
            for c in range(3):
                image[y, x, c] += w * min(colour[k, c] * glow[k], 6.0)
            continue
        px, py, pz = position[k, 0], position[k, 1], position[k, 2]
        nx, ny, nz = normal[k, 0], normal[k, 1], normal[k, 2]
        rx, ry, rz = ray[k, 0], ray[k, 1], ray[k, 2]
        ao = _open_share(px, py, pz, nx, ny, nz, room, floor_ao)
        up = (0.75 + 0.25 * nz) * ao
        lr, lg, lb, shine = ambient[0] * up, ambient[1] * up, ambient[2] * up, 0.0
        for i in range(len(lights)):
            lx, ly, lz = lights[i, 0] - px, lights[i, 1] - py, lights[i, 2] - pz
            far = np.sqrt(lx * lx + ly * ly + lz * lz) + 1e-6
            lx, ly, lz = lx / far, ly / far, lz / far
            lit = (nx * lx + ny * ly + nz * lz + 0.15) / 1.15
            if lit <= 0:
                continue
            if lights[i, 6] != 0 or lights[i, 7] != 0 or lights[i, 8] != 0:
                lit *= max(-(lights[i, 6] * lx + lights[i, 7] * ly + lights[i, 8] * lz), 0.0)
            if far < 30:  # the sun is farther and does not fall off
                lit /= 0.35 + 0.25 * far * far
            if i == 0:
                lit *= _lit(px + nx * 0.02, py + ny * 0.02, pz + nz * 0.02, where[k, 2], where[k, 3], shadow, s_eye,
                            s_turn, s_focal, softness)  # fmt: skip
            lit *= 0.5 + 0.5 * ao
            lr += lit * lights[i, 3]
            lg += lit * lights[i, 4]
            lb += lit * lights[i, 5]
            if gloss[k] > 0:  # Blinn's half vector
                hx, hy, hz = lx - rx, ly - ry, lz - rz
                h = (nx * hx + ny * hy + nz * hz) / np.sqrt(hx * hx + hy * hy + hz * hz)
                if h > 0.7:  # Schlick's stand-in for h to the power of `sharp`
                    sharp = 60 + 540 * gloss[k]
                    shine += lit * h / (sharp - sharp * h + h) * gloss[k] * 1.5 * lights[i, 4]
        image[y, x, 0] += w * min(colour[k, 0] * lr + shine, 6.0)
        image[y, x, 1] += w * min(colour[k, 1] * lg + shine, 6.0)
        image[y, x, 2] += w * min(colour[k, 2] * lb + shine, 6.0)


@kernel(error_model="numpy")
def _open_share(px, py, pz, nx, ny, nz, room, floor_ao):  # type: ignore[no-untyped-def]
    """How much ambient light reaches a point: less in the room's corners and near furniture on the floor."""
    ao = 1.0
    for k in range(2):
        p, n = (px, abs(nx)) if k == 0 else (py, abs(ny))
        near = min(max(p, 0.0), max(room[k] - p, 0.0))
        if near < 1.2 and n < 0.99:
            ao *= 1 - 0.35 * (1 - n) * np.exp(-near / 0.25)
    if abs(nz) < 0.99:
        if pz < 0.7:
            ao *= 1 - (1 - abs(nz)) * 0.4 * np.exp(-max(pz, 0.0) / 0.14)
        if pz > room[2] - 1.2:
            ao *= 1 - (1 - abs(nz)) * 0.25 * np.exp(-max(room[2] - pz, 0.0) / 0.25)
    if pz < 0.06 and nz > 0.5:
        n = len(floor_ao) - 1
        fx = min(max(px / room[0] * n, 0.0), n - 1e-6)
        fy = min(max(py / room[1] * n, 0.0), n - 1e-6)
        i, j = int(fx), int(fy)
        fx, fy = fx - i, fy - j
        top = floor_ao[j, i] * (1 - fx) + floor_ao[j, i + 1] * fx
        ao *= top * (1 - fy) + (floor_ao[j + 1, i] * (1 - fx) + floor_ao[j + 1, i + 1] * fx) * fy
    return ao


@kernel(error_model="numpy")
def _lit(px, py, pz, sx, sy, shadow, eye, turn, focal, softness):  # type: ignore[no-untyped-def]
    """Share of the first light that reaches a point: four look-ups in the shadow map, turned per sample so
    that the picture's own averaging makes a soft edge of them."""
    dx, dy, dz = px - eye[0], py - eye[1], pz - eye[2]
    z = turn[2, 0] * dx + turn[2, 1] * dy + turn[2, 2] * dz
    if z < 0.05:
        return 1.0
    size = len(shadow)
    x = (turn[0, 0] * dx + turn[0, 1] * dy + turn[0, 2] * dz) / z * focal + size / 2
    y = (turn[1, 0] * dx + turn[1, 1] * dy + turn[1, 2] * dz) / z * focal + size / 2
    swirl = SWIRL[(sx * 7 + sy * 13) & 31]
    c, s = swirl[0] * softness, swirl[1] * softness
    lit = 0.0
    for k in range(4):
        reach = 1.0 if k < 2 else 0.45
        ox, oy = (c * reach, s * reach) if k % 2 == 0 else (-s * reach, c * reach)
        if k == 1 or k == 2:
            ox, oy = -ox, -oy
        i, j = int(np.floor(x + ox)), int(np.floor(y + oy))
        if i < 0 or j < 0 or i >= size or j >= size or shadow[j, i] * (z - 0.04) <= 1.0:
            lit += 0.25
    return lit
