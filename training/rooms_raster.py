"""Triangles to a z-buffer, with numba: exact visibility, which is what makes the rooms' labels exact.

Homogeneous rasterisation (Olano and Greer, "Triangle scan conversion using 2D homogeneous coordinates", 1997):
for a ray d through a sample, M⁻¹d with M = [v0 v1 v2] gives the barycentric coordinates divided by the depth.
They are affine in the sample's position, so triangles that pass the camera need no clipping.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segserve.jit import kernel

Array = NDArray[np.float64]
NEAR_M = 0.02


@dataclass(frozen=True)
class Camera:
    """A pinhole: camera axes are x right, y down, z forward; `turn` takes world vectors to them."""

    at: Array  # (3,) metres
    turn: Array  # (3, 3)
    focal: float  # samples
    centre_x: float
    centre_y: float

    def to_camera(self, points: Array) -> Array:
        out: Array = (points - self.at) @ self.turn.T
        return out

    def project(self, points: Array) -> Array:
        """World (…, 3) to sample positions (…, 2); only for points in front of the camera."""
        p = self.to_camera(points)
        out: Array = p[..., :2] / p[..., 2:] * self.focal + np.array([self.centre_x, self.centre_y])
        return out


def look(at: Array, yaw: float, pitch: float, roll: float) -> Array:
    """World to camera rotation. yaw 0 looks along +y and grows to the left; pitch > 0 looks up; radians."""
    forward = np.array([-np.sin(yaw) * np.cos(pitch), np.cos(yaw) * np.cos(pitch), np.sin(pitch)])
    right = np.array([np.cos(yaw), np.sin(yaw), 0.0])
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    return np.stack([c * right + s * down, c * down - s * right, forward])


def rasterise(
    corners: Array, camera: Camera, height: int, width: int
) -> tuple[NDArray[np.int32], Array, Array]:
    """Returns: ids int32 (height, width), -1 where nothing is; 1 / depth float64 (height, width), 0 where
    nothing is; the triangles' inverse matrices float64 (T, 3, 3)."""
    ids = np.full((height, width), -1, np.int32)
    nearness = np.zeros((height, width))
    inverses = np.zeros((len(corners), 3, 3))
    local = np.ascontiguousarray(camera.to_camera(corners))
    _fill(local, camera.focal, camera.centre_x, camera.centre_y, ids, nearness, inverses)
    return ids, nearness, inverses


@kernel(error_model="numpy")
def _fill(local, focal, cx, cy, ids, nearness, inverses):  # type: ignore[no-untyped-def]
    height, width = ids.shape
    for t in range(len(local)):
        v = local[t]
        x0, x1, y0, y1 = _bounds(v, focal, cx, cy, width, height)
        if x0 > x1 or y0 > y1:
            continue
        m = inverses[t]
        if not _invert(v, m):
            continue
        ax = m[:, 0] / focal
        for y in range(y0, y1 + 1):
            dy = (y - cy) / focal
            lo, hi = float(x0), float(x1)
            c0 = m[0, 1] * dy + m[0, 2] - ax[0] * cx
            c1 = m[1, 1] * dy + m[1, 2] - ax[1] * cx
            c2 = m[2, 1] * dy + m[2, 2] - ax[2] * cx
            lo, hi = _cut(ax[0], c0, lo, hi)
            lo, hi = _cut(ax[1], c1, lo, hi)
            lo, hi = _cut(ax[2], c2, lo, hi)
            slope, constant = ax[0] + ax[1] + ax[2], c0 + c1 + c2
            for x in range(int(np.ceil(lo)), int(np.floor(hi)) + 1):
                near = slope * x + constant
                if near > nearness[y, x] and near < 1 / 0.02:
                    nearness[y, x] = near
                    ids[y, x] = t


@kernel(error_model="numpy")
def _cut(a, c, lo, hi):  # type: ignore[no-untyped-def]
    """Keep of lo … hi where a x + c >= 0, a hair wider so that neighbours leave no gap."""
    if abs(a) < 1e-14:
        if c < 0:
            return 1.0, 0.0
    elif a > 0:
        lo = max(lo, -c / a - 1e-6)
    else:
        hi = min(hi, -c / a + 1e-6)
    return lo, hi


@kernel(error_model="numpy")
def _bounds(v, focal, cx, cy, width, height):  # type: ignore[no-untyped-def]
    """Box around the part of the triangle that is in front of the near plane; empty if there is none."""
    x0, x1, y0, y1 = 1e9, -1e9, 1e9, -1e9
    for i in range(3):
        j = (i + 1) % 3
        if v[i, 2] >= NEAR_M:
            x, y = v[i, 0] / v[i, 2], v[i, 1] / v[i, 2]
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
        if (v[i, 2] >= NEAR_M) != (v[j, 2] >= NEAR_M):
            s = (NEAR_M - v[i, 2]) / (v[j, 2] - v[i, 2])
            x = (v[i, 0] + s * (v[j, 0] - v[i, 0])) / NEAR_M
            y = (v[i, 1] + s * (v[j, 1] - v[i, 1])) / NEAR_M
            x0, x1, y0, y1 = min(x0, x), max(x1, x), min(y0, y), max(y1, y)
    if x0 > x1:
        return 1, 0, 1, 0
    left = int(max(0.0, np.floor(min(x0 * focal + cx, 1e6))))
    right = int(min(width - 1.0, np.ceil(max(x1 * focal + cx, -1.0))))
    top = int(max(0.0, np.floor(min(y0 * focal + cy, 1e6))))
    bottom = int(min(height - 1.0, np.ceil(max(y1 * focal + cy, -1.0))))
    return left, right, top, bottom


@kernel(error_model="numpy")
def _invert(v, out):  # type: ignore[no-untyped-def]
    for i in range(3):
        a, b = v[(i + 1) % 3], v[(i + 2) % 3]
        out[i, 0] = a[1] * b[2] - a[2] * b[1]
        out[i, 1] = a[2] * b[0] - a[0] * b[2]
        out[i, 2] = a[0] * b[1] - a[1] * b[0]
    det = out[0, 0] * v[0, 0] + out[0, 1] * v[0, 1] + out[0, 2] * v[0, 2]
    if abs(det) < 1e-14:
        return False
    out /= det
    return True
