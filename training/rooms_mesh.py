"""Meshes for the rendered rooms: a few unit shapes, placed many times, become one array of triangles.

Everything is metric. World axes: x to the right, y into the room, z up. Unit shapes span -0.5 … 0.5 on each
axis, so that `size` is a shape's extent in metres. Textures are laid on by box projection in metres.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.rooms_shapes import unit_shape

Array = NDArray[np.float64]
Vector = tuple[float, float, float]
Part = tuple[str, Array, Array, Array, int, int, Array, bool]
"""shape, rotation, centre, size, material, label, texture origin, whether it throws a shadow"""


@dataclass(frozen=True)
class Triangles:
    """One array row a triangle."""

    corners: Array  # (T, 3, 3) world positions
    normals: Array  # (T, 3, 3) unit, per corner
    uv: Array  # (T, 3, 2) metres
    material: NDArray[np.int64]  # (T,)
    label: NDArray[np.uint8]  # (T,)
    smooth_group: NDArray[np.int64]  # (T,) faces that need no anti-aliasing against each other
    casts: NDArray[np.bool_]  # (T,) whether it throws a shadow


@dataclass
class Model:
    """Parts in the order in which they were added; `triangles` makes the arrays at the end, all at once."""

    parts: list[Part] = field(default_factory=list)
    materials: list[Array] = field(default_factory=list)
    along: set[int] = field(default_factory=set)

    def material(self, row: Array, along: bool = False) -> int:
        """Store a material; `along` turns its grain to the long side of each part."""
        self.materials.append(row)
        if along:
            self.along.add(len(self.materials) - 1)
        return len(self.materials) - 1

    def triangles(self) -> Triangles:
        out: list[tuple[Array, ...]] = []
        for shape in dict.fromkeys(part[0] for part in self.parts):
            rows = [(index, part) for index, part in enumerate(self.parts) if part[0] == shape]
            out.append(_instances(shape, rows, self.along))
        joined = [np.concatenate(column) for column in zip(*out, strict=True)]
        corners, normals, uv, material, label, group, casts = joined
        return Triangles(
            corners,
            normals,
            uv,
            material.astype(np.int64),
            label.astype(np.uint8),
            group.astype(np.int64),
            casts.astype(np.bool_),
        )


def _instances(shape: str, rows: list[tuple[int, Part]], along: set[int]) -> tuple[Array, ...]:
    corners, normals, axes = unit_shape(shape)
    index = np.array([i for i, _ in rows])
    turn = np.stack([p[1] for _, p in rows])
    at = np.stack([p[2] for _, p in rows])
    size = np.stack([p[3] for _, p in rows])
    material = np.array([p[4] for _, p in rows])
    label = np.array([p[5] for _, p in rows])
    origin = np.stack([p[6] for _, p in rows])
    casts = np.array([p[7] for _, p in rows])
    count, faces = len(rows), len(corners)
    local = corners[None] * size[:, None, None, :]
    world = np.einsum("kij,kntj->knti", turn, local) + at[:, None, None, :]
    leaning = normals[None] / np.maximum(size, 1e-6)[:, None, None, :]
    leaning = np.einsum("kij,kntj->knti", turn, leaning)
    leaning /= np.maximum(np.linalg.norm(leaning, axis=3, keepdims=True), 1e-12)
    # box projection: drop the axis that the face looks along; wood runs along the longer of the other two
    dropped = np.repeat(axes[None], count, 0)
    u_axis = np.where(dropped == 0, 1, 0)
    v_axis = np.where(dropped == 2, 1, 2)
    extent = np.take_along_axis(size, u_axis, 1) < np.take_along_axis(size, v_axis, 1)
    swap = extent & np.isin(material, list(along))[:, None]
    u_axis, v_axis = np.where(swap, v_axis, u_axis), np.where(swap, u_axis, v_axis)
    placed = local + origin[:, None, None, :]
    pick = [
        np.take_along_axis(placed, np.repeat(axis[:, :, None, None], 3, 2), 3)[..., 0]
        for axis in (u_axis, v_axis)
    ]
    facing = axes + 3 * (normals.mean(1)[np.arange(faces), axes] > 0)
    per_face = [np.repeat(x, faces) for x in (material, label, casts)]
    group = (index[:, None] * 8 + (facing[None] if shape == "box" else 0) + np.zeros((1, faces))).ravel()
    return (
        world.reshape(-1, 3, 3),
        leaning.reshape(-1, 3, 3),
        np.stack(pick, -1).reshape(-1, 3, 2),
        per_face[0],
        per_face[1],
        group,
        per_face[2],
    )


@dataclass(frozen=True)
class Group:
    """A local frame for one piece of furniture: floor point under its centre, front towards -y."""

    model: Model
    at: Vector
    yaw: float
    label: int

    def add(
        self,
        shape: str,
        centre: Vector,
        size: Vector,
        material: int,
        label: int | None = None,
        *,
        tilt: Vector = (0.0, 0.0, 0.0),
        origin: Vector | None = None,
        casts: bool = True,
    ) -> None:
        """Add a unit shape scaled to `size` around `centre`, turned by `tilt` (radians around x, y, z)."""
        own = rotation(0, 0, self.yaw)
        at = own @ np.array(centre, float) + np.array(self.at, float)
        turn = own @ rotation(*tilt) if any(tilt) else own
        label = self.label if label is None else label
        uv0 = np.array(origin if origin is not None else (at[0] * 0.7, at[1] * 0.7, at[2]), float)
        self.model.parts.append((shape, turn, at, np.array(size, float), material, label, uv0, casts))

    def box(self, centre: Vector, size: Vector, material: int, label: int | None = None, **k: object) -> None:
        self.add("box", centre, size, material, label, **k)  # type: ignore[arg-type]


def rotation(around_x: float, around_y: float, around_z: float) -> Array:
    """Rotate around x first, then y, then z."""
    (cx, cy, cz), (sx, sy, sz) = (
        np.cos([around_x, around_y, around_z]),
        np.sin([around_x, around_y, around_z]),
    )
    return np.array(
        [
            [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
            [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
            [-sy, cy * sx, cy * cx],
        ]
    )
