"""Halls of the renderer: exact, repeatable, and what rooms are not: long, full of shelves, seen from low down."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training import rooms
from training.rooms_furniture import LABEL, OTHER
from training.rooms_hall import KINDS, Hall
from training.rooms_raster import rasterise
from training.rooms_scene import Room
from training.rooms_view import compose

COUNT = 40


@pytest.fixture(scope="module")
def halls() -> list[Hall]:
    built = []
    for seed in range(COUNT):
        hall = Hall(np.random.default_rng([seed, 7]))
        hall.build()
        built.append(hall)
    return built


def test_they_are_longer_than_rooms(halls: list[Hall]) -> None:
    room = Room(np.random.default_rng(0))
    assert min(hall.depth for hall in halls) > 7.0 >= room.depth
    assert {hall.kind for hall in halls} == set(KINDS)
    assert all(hall.width < 3.3 for hall in halls if hall.kind == "corridor")


def test_aisles_have_shelves_with_floor_between(halls: list[Hall]) -> None:
    gaps: list[float] = []
    for hall in halls:
        rows = sorted((p for p in hall.pieces if p.name == "bookcase" and p.half_y > 1.0), key=lambda p: p.x)
        if hall.kind == "aisles":
            assert rows
            gaps += [b.x - b.half_x - a.x - a.half_x for a, b in pairwise(rows)]
            assert all(p.x - p.half_x >= 0 and p.x + p.half_x <= hall.width for p in rows)
    assert len(gaps) > 10
    assert min(gaps) > 1.0


def test_no_wall_has_windows_and_doorways(halls: list[Hall]) -> None:
    """Through a window one would see the next room, which stands behind the doorway, and the other way round."""
    kinds = [{opening.low > 0 for opening in wall.openings} for hall in halls for wall in hall.walls]
    assert kinds.count({True}) > COUNT // 2
    assert kinds.count({False}) > COUNT // 10
    assert kinds.count({True, False}) == 0
    assert any(len(wall.openings) > 3 for hall in halls for wall in hall.walls)


def test_what_stands_in_the_middle_does_not_hide_in_something_else(halls: list[Hall]) -> None:
    """Chairs of a group may reach into their table's box by 20 cm, as chairs do."""
    for seed, hall in enumerate(halls):
        for i, a in enumerate(hall.pieces):
            for b in hall.pieces[:i]:
                if "pillar" in (a.name, b.name):
                    continue
                apart = max(abs(a.x - b.x) - a.half_x - b.half_x, abs(a.y - b.y) - a.half_y - b.half_y)
                assert apart > -0.25, f"hall {seed}: {a.name} in {b.name}"


def test_every_pixel_has_a_label_and_most_pictures_show_the_floor() -> None:
    floors, low = [], 0
    for seed in range(COUNT):
        scene = compose(seed, 60, 80, hall=True)
        ids, _, _ = rasterise(scene.triangles.corners, scene.camera, 60, 80)
        assert (ids >= 0).all(), f"hall {seed} has holes"
        label = scene.triangles.label[ids]
        floors.append((label == LABEL["floor"]).mean())
        low += scene.camera.at[2] < 0.8
    assert np.mean(np.array(floors) > 0.02) > 0.8
    assert low >= COUNT // 8  # a room's camera is never lower


def test_shelves_are_other_and_not_wall() -> None:
    shares = []
    for seed in range(COUNT):
        hall = Hall(np.random.default_rng([seed, 7]))
        if hall.kind == "aisles":
            _, label = rooms.render(seed, 48, 64, hall=True)
            shares.append((label == OTHER).mean())
    assert np.median(shares) > 0.25


def test_the_command_renders_halls_and_rooms_stay_what_they_were(tmp_path: Path) -> None:
    for halls in (True, False):
        out = tmp_path / str(halls)
        config = rooms.RoomsConfig(out, train=1, val=1, seed=4, height=48, width=64, halls=halls, workers=1)
        assert rooms.main(config) == 0
        expected = rooms.render(rooms.seed_of(4, "val", 0), 48, 64, hall=halls)[1]
        np.testing.assert_array_equal(np.asarray(Image.open(out / "val_labels" / "000000.png")), expected)
    again, _ = rooms.render(7, 48, 64, hall=True)
    same, _ = rooms.render(7, 48, 64, hall=True)
    room, _ = rooms.render(7, 48, 64)
    np.testing.assert_array_equal(again, same)
    assert (again != room).mean() > 0.5
