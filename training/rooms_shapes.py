"""The unit shapes that everything in the rendered rooms is made of; -0.5 … 0.5 on each axis, the leaf excepted."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@cache
def unit_shape(name: str) -> tuple[Array, Array, NDArray[np.int64]]:
    """Corners (F,3,3), normals (F,3,3) and the axis that each face looks along (F,)."""
    corners, normals = {
        "box": lambda: _cube_sphere(1, np.inf),
        "rounded": lambda: _cube_sphere(6, 8.0),
        "cushion": lambda: _cube_sphere(6, 3.2),
        "ball": lambda: _cube_sphere(6, 2.0),
        "pillow": _pillow,
        "cylinder": lambda: _cylinder(1.0),
        "pot": lambda: _cylinder(0.7),
        "shade": lambda: _cylinder(1.0, 0.6),
        "curtain": _curtain,
        "leaf": _leaf,
    }[name]()
    axes = np.abs(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])).argmax(1)
    return corners, normals, axes


def _cube_sphere(cells: int, power: float) -> tuple[Array, Array]:
    """A cube's faces as a grid, pushed onto the superellipsoid |x|^p + |y|^p + |z|^p = 1."""
    grid = np.sin(np.linspace(-1, 1, cells + 1) * np.pi / 2)
    u, v = np.meshgrid(grid, grid, indexing="ij")
    corners, flat = [], []
    for axis in range(3):
        for side in (-1.0, 1.0):
            face = np.full((*u.shape, 3), side)
            face[..., (axis + 1) % 3], face[..., (axis + 2) % 3] = u, v
            corners.append(_grid_triangles(face))
            normal = np.zeros(3)
            normal[axis] = side
            flat.append(np.broadcast_to(normal, corners[-1].shape))
    points = np.concatenate(corners)
    if np.isinf(power):
        return points / 2, np.concatenate(flat)
    points = points / (np.abs(points) ** power).sum(-1, keepdims=True) ** (1 / power)
    normals = np.sign(points) * np.abs(points) ** (power - 1)
    return points / 2, normals


def _grid_triangles(points: Array) -> Array:
    a, b, c, d = points[:-1, :-1], points[1:, :-1], points[1:, 1:], points[:-1, 1:]
    return np.concatenate(
        [np.stack([a, b, c], 2).reshape(-1, 3, 3), np.stack([a, c, d], 2).reshape(-1, 3, 3)]
    )


def _cylinder(bottom: float, top: float = 1.0, sides: int = 18) -> tuple[Array, Array]:
    angle = np.linspace(0, 2 * np.pi, sides + 1)
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) / 2
    low = np.column_stack([ring * bottom, np.full(sides + 1, -0.5)])
    high = np.column_stack([ring * top, np.full(sides + 1, 0.5)])
    side = _grid_triangles(np.stack([low, high], 1))
    out = side.copy()
    out[..., 2] = (bottom - top) / 2 if bottom != top else 0.0
    caps, up = [], []
    for edge, z in ((low, -1.0), (high, 1.0)):
        centre = np.broadcast_to([0, 0, z / 2], (sides, 3))
        caps.append(np.stack([centre, edge[:-1], edge[1:]], 1))
        up.append(np.broadcast_to([0.0, 0, z], (sides, 3, 3)))
    return np.concatenate([side, *caps]), np.concatenate([out, *up])


def _surface(height: Callable[[Array, Array], Array], cells_u: int, cells_v: int) -> tuple[Array, Array]:
    """An open sheet (u, f(u, v), v) with normals from differences."""
    u, v = np.meshgrid(
        np.linspace(-0.5, 0.5, cells_u + 1), np.linspace(-0.5, 0.5, cells_v + 1), indexing="ij"
    )
    f = height(u, v)
    points = np.stack([u, f, v], -1)
    du, dv = np.gradient(f, 1 / cells_u, 1 / cells_v)
    normals = np.stack([-du, np.full_like(f, 1.0), -dv], -1)
    return _grid_triangles(points), _grid_triangles(normals)


def _curtain() -> tuple[Array, Array]:
    return _surface(lambda u, v: 0.35 * np.sin(u * 2 * np.pi * 6) * (0.75 + 0.5 * v), 48, 2)


def _pillow() -> tuple[Array, Array]:
    """Two bulging sheets that meet at the seam."""

    def bulge(u: Array, v: Array) -> Array:
        inner: Array = (1 - (2 * u) ** 4) * (1 - (2 * v) ** 4)
        return np.sqrt(np.maximum(inner, 0)) * 0.5

    front, n_front = _surface(bulge, 6, 6)
    back = front * [1, -1, 1]
    return np.concatenate([front, back]), np.concatenate([n_front, n_front * [1, -1, 1]])


def _leaf() -> tuple[Array, Array]:
    """A pointed blade from y = 0 to y = 1 (the only shape not centred), arching down, creased in the middle."""
    t = np.linspace(0, 1, 6)
    half = 0.5 * np.sin(np.pi * np.minimum(0.08 + 0.92 * t, 1.0)) ** 0.8
    rise = 0.5 * (t - 1.6 * t**2)
    spine = np.stack([0 * t, t, rise], 1)
    left, right = (
        spine + np.stack([-half, 0 * t, half * 0.3], 1),
        spine + np.stack([half, 0 * t, half * 0.3], 1),
    )
    corners = np.concatenate(
        [_grid_triangles(np.stack([left, spine], 1)), _grid_triangles(np.stack([spine, right], 1))]
    )
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals *= np.where(normals[:, 2:] < 0, -1.0, 1.0)
    return corners, np.repeat(normals[:, None], 3, 1)
