"""What stands in which kind of rendered room: the tables behind `rooms_scene`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from training import rooms_furniture as furniture
from training import rooms_objects as objects
from training import rooms_tables as tables
from training.rooms_look import Look
from training.rooms_mesh import Group

Chances = tuple[tuple[str, float], ...]
"""Names of pieces, each with the chance that it is there. "any" is any piece, "set" a table with its chairs."""


@dataclass(frozen=True)
class Theme:
    weight: float
    along: Chances  # by the walls
    free: Chances


THEMES = (
    Theme(
        0.27,
        (("bed", 1), ("bedside", 0.8), ("bedside", 0.4), ("cabinet", 0.7), ("cabinet", 0.3), ("armchair", 0.3),
         ("desk", 0.3), ("plant", 0.4)),
        (("chair", 0.4), ("bed", 0.15), ("boxes", 0.4)),
    ),
    Theme(
        0.27,
        (("sofa", 1), ("television", 0.5), ("bookcase", 0.6), ("sofa", 0.4), ("cabinet", 0.5), ("floor_lamp", 0.4),
         ("plant", 0.6), ("plant", 0.4)),
        (("coffee", 0.8), ("armchair", 0.7), ("armchair", 0.4), ("boxes", 0.4)),
    ),
    Theme(
        0.16,
        (("cabinet", 0.7), ("bookcase", 0.3), ("plant", 0.6), ("kitchen", 0.4), ("plant", 0.4)),
        (("set", 1), ("chair", 0.3), ("person", 0.1)),
    ),
    Theme(
        0.12,
        (("desk", 1), ("bookcase", 0.7), ("desk", 0.4), ("cabinet", 0.5), ("plant", 0.6)),
        (("chair", 0.9), ("chair", 0.5), ("boxes", 0.4), ("person", 0.1)),
    ),
    Theme(0.08, (("kitchen", 1), ("kitchen", 0.6), ("cabinet", 0.4), ("plant", 0.2)), (("set", 0.6), ("person", 0.2))),
    Theme(0.03, (("bathtub", 1), ("bathtub", 0.8), ("cabinet", 0.5)), ()),
    Theme(0.07, (("plant", 0.3), ("any", 0.8)), (("any", 0.9), ("any", 0.3))),
)  # fmt: skip
BUILD: dict[str, Callable[[Group, Look], tuple[float, float]]] = {
    "bed": furniture.bed,
    "sofa": furniture.sofa,
    "armchair": furniture.armchair,
    "chair": furniture.chair,
    "desk": tables.desk,
    "plant": tables.plant,
    "table": tables.table,
    "coffee": lambda g, k: tables.table(g, k, True),
    "bedside": objects.bedside,
    "cabinet": objects.cabinet,
    "bookcase": objects.bookcase,
    "television": objects.television,
    "floor_lamp": objects.floor_lamp,
    "boxes": objects.boxes,
    "thing": objects.thing,
    "bathtub": objects.bathtub,
    "person": objects.person,
    "kitchen": objects.kitchen,
}
CLASS_OF = {"armchair": "chair", "desk": "table", "coffee": "table"}
OPEN = {"chair", "table", "coffee", "desk", "floor_lamp", "person"}
"""Light passes under these."""
ANYWHERE: Chances = (("thing", 0.6), ("thing", 0.4), ("thing", 0.3), ("cabinet", 0.4), ("person", 0.1))
"""What may stand in any room besides."""
ANY = ("bed", "sofa", "armchair", "chair", "table", "plant", "desk")
FAVOURED = {
    "bed": 3.5,
    "sofa": 3.0,
    "armchair": 2.0,
    "chair": 2.5,
    "table": 2.5,
    "coffee": 2.0,
    "plant": 2.5,
    "desk": 2.0,
}
"""How often the camera looks at a piece, against 1 for all others."""
TALL = {"cabinet", "bookcase", "kitchen", "television", "floor_lamp", "person"}
"""Pieces that do not stand in front of windows and pictures."""
