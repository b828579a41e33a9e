"""Rendered rooms: the same bytes for the same seed, exact labels, a geometry that can be checked by hand."""

from __future__ import annotations

import io
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve import cli
from segserve.errors import UsageError
from segserve.labels import ROOM_CLASSES
from training import rooms, rooms_shell
from training.data import load_dataset
from training.rooms_furniture import LABEL
from training.rooms_look import Look
from training.rooms_mesh import Group, Model
from training.rooms_raster import Camera, look, rasterise
from training.rooms_shade import Lighting, shade, shadow_camera
from training.rooms_shapes import unit_shape
from training.rooms_texture import Kind, surface
from training.rooms_themes import BUILD
from training.rooms_view import compose

WALL, FLOOR, CEILING = LABEL["wall"], LABEL["floor"], LABEL["ceiling"]
ROOM_M = (4.0, 5.0, 2.5)


def test_same_seed_same_bytes_other_seed_other_room() -> None:
    image, label = rooms.render(11, 96, 128)
    again, label_again = rooms.render(11, 96, 128)
    other, label_other = rooms.render(12, 96, 128)
    assert image.dtype == label.dtype == np.uint8
    assert image.shape == (96, 128, 3)
    assert label.shape == (96, 128)
    np.testing.assert_array_equal(image, again)
    np.testing.assert_array_equal(label, label_again)
    assert (image != other).mean() > 0.5
    assert (label != label_other).mean() > 0.1


def test_portrait_and_demo_photo_sizes() -> None:
    for height, width in ((1000, 750), (61, 47)):
        image, label = rooms.render(3, height, width)
        assert image.shape == (height, width, 3)
        assert label.shape == (height, width)
        assert image.std() > 5


@pytest.fixture(scope="module")
def label_maps() -> NDArray[np.uint8]:
    """Label maps of the first hundred rooms, at the samples that lie at pixel corners."""
    maps = []
    for seed in range(100):
        scene = compose(seed, 60, 80)
        ids, _, _ = rasterise(scene.triangles.corners, scene.camera, 60, 80)
        assert (ids >= 0).all(), f"room {seed} has holes"
        maps.append(scene.triangles.label[ids])
    return np.stack(maps)


def test_every_class_is_common(label_maps: NDArray[np.uint8]) -> None:
    assert label_maps.max() < len(ROOM_CLASSES)
    counts = np.stack([np.bincount(m.ravel(), minlength=len(ROOM_CLASSES)) for m in label_maps])
    shares = counts.sum(0) / counts.sum()
    named = dict(zip(ROOM_CLASSES, shares.round(3).tolist(), strict=True))
    assert ((counts > 40).sum(0) >= 8).all(), named
    assert (shares > 0.005).all(), named
    assert 0.45 < shares[[WALL, FLOOR, CEILING]].sum() < 0.7, named


def plain_room() -> Model:
    """An empty box room made of the parts that every room is made of."""
    model = Model()
    draw = Look(model, np.random.default_rng(0))
    base = Group(model, (0, 0, 0), 0.0, WALL)
    width, depth, height = ROOM_M
    paint = draw.plain((0.5, 0.5, 0.5))
    base.box((width / 2, depth / 2, -0.05), (width, depth, 0.1), paint, FLOOR)
    base.box((width / 2, depth / 2, height + 0.05), (width, depth, 0.1), paint, CEILING)
    for wall in rooms_shell.walls_of(base, width, depth, height):
        wall.layer(paint, 0, height, 0, rooms_shell.THICK_M)
    return model


@pytest.mark.parametrize("yaw", [0.0, 0.7, 2.5, -1.6])
@pytest.mark.parametrize("pitch", [-0.5, 0.0, 0.4])
def test_surfaces_are_where_the_rays_of_a_known_camera_meet_them(yaw: float, pitch: float) -> None:
    height, width, focal = 90, 120, 70.0
    eye = np.array([1.5, 2.0, 1.4])
    camera = Camera(eye, look(eye, yaw, pitch, 0.1), focal, width / 2, height / 2)
    # the rasteriser's samples lie at whole numbers
    triangles = plain_room().triangles()
    ids, nearness, _ = rasterise(triangles.corners, camera, height, width)
    y, x = np.mgrid[:height, :width]
    rays = np.stack([(x - width / 2) / focal, (y - height / 2) / focal, np.ones((height, width))], -1)
    rays = rays @ camera.turn  # to world axes
    rays[rays == 0] = 1e-12
    far = np.where(rays > 0, (np.array(ROOM_M) - eye) / rays, -eye / rays)
    axis = far.argmin(-1)
    expected = np.where(axis < 2, WALL, np.where(rays[..., 2] > 0, CEILING, FLOOR))
    two_nearest = np.sort(far, -1)
    certain = two_nearest[..., 1] - two_nearest[..., 0] > 1e-6
    np.testing.assert_array_equal(triangles.label[ids][certain], expected[certain])
    np.testing.assert_allclose(1 / nearness[certain], far.min(-1)[certain], rtol=1e-6)


def test_ceiling_is_above_floor_in_every_column(label_maps: NDArray[np.uint8]) -> None:
    columns = 0
    for seed, label in enumerate(label_maps):
        for column in label.T:
            ceiling, floor = np.flatnonzero(column == CEILING), np.flatnonzero(column == FLOOR)
            if len(ceiling) and len(floor):
                columns += 1
                assert ceiling.max() < floor.min(), f"room {seed}"
    assert columns > 300


def test_label_is_that_of_the_pixel_centre_and_only_the_image_is_smooth() -> None:
    model = Model()
    glow = [model.material(surface(Kind.PLAIN, (v, v, v), glow=1.0)) for v in (0.0, 1.0)]
    base = Group(model, (0, 0, 0), 0.0, WALL)
    base.box((0, 6, 0), (30, 0.1, 30), glow[0], WALL)
    base.box((0, 5, 0), (2, 0.1, 2), glow[1], FLOOR, tilt=(0, 0.3, 0))
    height, width, eye = 64, 64, np.zeros(3)
    camera = Camera(eye, look(eye, 0, 0, 0), 70.0, width / 2, height / 2)
    light = Lighting(
        np.zeros((1, 9)),
        np.ones(3),
        np.ones(3) * 9,
        np.ones((4, 4)),
        shadow_camera(np.array([0.1, 0, 3]), eye, 1.0),
        1.0,
    )
    image, label = shade(model.triangles(), np.array(model.materials), camera, light, height, width)
    y, x = np.mgrid[:height, :width] + 0.5
    ray_x, ray_z = (x - width / 2) / 70 * 4.95, -(y - height / 2) / 70 * 4.95  # where it meets y = 4.95
    along = ray_x * np.cos(0.3) - ray_z * np.sin(0.3)
    up = ray_x * np.sin(0.3) + ray_z * np.cos(0.3)
    inside = (abs(along) < 1) & (abs(up) < 1)
    np.testing.assert_array_equal(label, np.where(inside, FLOOR, WALL))
    grey = image[..., 0]
    edge = (grey > 0.01) & (grey < 0.99)
    assert 40 < edge.sum() < 300
    assert abs(grey.sum() - (2 * 70 / 4.95) ** 2) < 15  # pixels that the square covers


@pytest.mark.parametrize("name", sorted(BUILD))
def test_furniture_stands_on_the_floor_within_its_footprint(name: str) -> None:
    for seed in range(6):
        model = Model()
        draw = Look(model, np.random.default_rng(seed))
        width, depth = BUILD[name](Group(model, (0, 0, 0), 0.0, LABEL["other"]), draw)
        corners = model.triangles().corners
        leaves = model.triangles().label == LABEL["plant"]
        solid = corners if leaves.all() else corners[~leaves]
        assert -0.03 < solid[..., 2].min() < 0.04, f"{name} {seed} floats or sinks"
        middle = np.abs((solid.reshape(-1, 3).min(0) + solid.reshape(-1, 3).max(0)) / 2)
        assert middle[0] < width, f"{name} {seed} lies beside its footprint"
        assert middle[1] < depth, f"{name} {seed} lies beside its footprint"


@pytest.mark.parametrize("shape", ["box", "rounded", "cushion", "ball", "cylinder", "pot", "shade"])
def test_closed_shapes_have_unit_size_and_normals_that_point_outwards(shape: str) -> None:
    corners, normals, _ = unit_shape(shape)
    np.testing.assert_allclose(corners.reshape(-1, 3).min(0), -0.5, atol=0.02)
    np.testing.assert_allclose(corners.reshape(-1, 3).max(0), 0.5, atol=0.02)
    assert ((corners.mean(1) * normals.mean(1)).sum(-1) > 0).all()


def test_no_two_splits_share_a_room() -> None:
    count = rooms.SPLIT_SPAN - 1
    spans = [
        (rooms.seed_of(seed, split, 0), rooms.seed_of(seed, split, count))
        for seed in range(4)
        for split in ("train", "val")
    ]
    assert all(first[1] < second[0] for first, second in pairwise(spans))


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def dataset_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("rooms") / "one"
    assert rooms.main(rooms.RoomsConfig(out, train=3, val=2, seed=4, height=48, width=64, workers=1)) == 0
    return out


def test_dataset_loads_and_holds_what_render_makes(dataset_folder: Path) -> None:
    seen: set[bytes] = set()
    for split, count in (("train", 3), ("val", 2)):
        dataset = load_dataset(dataset_folder / "dataset.toml", split)
        assert dataset.classes == ROOM_CLASSES
        assert len(dataset.samples) == count
        for index, sample in enumerate(dataset.samples):
            image, label = dataset.read(sample)
            expected_image, expected_label = rooms.render(rooms.seed_of(4, split, index), 48, 64)
            np.testing.assert_array_equal(label, expected_label)
            np.testing.assert_array_equal(image, through_jpeg(expected_image))
            seen.add(label.tobytes())
    assert len(seen) == 5


def through_jpeg(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=rooms.JPEG_QUALITY, subsampling=0)
    return np.asarray(Image.open(buffer))


def test_processes_write_the_same_bytes_as_one(dataset_folder: Path, tmp_path: Path) -> None:
    rooms.main(rooms.RoomsConfig(tmp_path / "two", train=3, val=2, seed=4, height=48, width=64, workers=2))
    assert files(tmp_path / "two") == files(dataset_folder)


def test_a_folder_that_is_not_empty_is_refused(
    dataset_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files(dataset_folder)
    with pytest.raises(UsageError, match="not an empty folder"):
        rooms.RoomsConfig(dataset_folder)
    monkeypatch.setattr("sys.argv", ["rooms", "--out", str(dataset_folder)])
    with pytest.raises(SystemExit) as stopped:
        cli.run(rooms.RoomsConfig, rooms.main)
    assert stopped.value.code == 2
    assert "not an empty folder" in capsys.readouterr().err
    assert files(dataset_folder) == before
