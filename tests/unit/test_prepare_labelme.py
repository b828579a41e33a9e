"""Labels as labelme writes them: shapes, masks, what is damaged or early."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.label_sources import HEIGHT, WIDTH, bad, box, one_photo, values_of
from training.sources import labelme
from training.sources.item import Found


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return one_photo(tmp_path)


def labelme_found(root: Path, *shapes: dict[str, Any], **changed: object) -> Found:
    table = {"imagePath": "..\\images\\a.jpg", "imageHeight": HEIGHT, "imageWidth": WIDTH, "shapes": shapes}
    (root / "labels" / "a.json").write_text(json.dumps({**table, **changed}))
    return labelme.find(root, None)


def test_labelme_shapes(root: Path) -> None:
    mask = io.BytesIO()
    Image.fromarray(np.eye(3, dtype=np.uint8) * 255).save(mask, "PNG")
    shapes: list[dict[str, Any]] = [
        {"label": "wall", "shape_type": "rectangle", "points": [[18, 10], [2, 0]]},
        {"label": "floor", "shape_type": "polygon", "points": [[2, 8], [20, 8], [20, 12], [2, 12]]},
        {"label": "dot", "shape_type": "circle", "points": [[10, 4], [10, 6]]},
        {
            "label": "dot",
            "shape_type": "mask",
            "points": [[3, 1], [5, 3]],
            "mask": base64.b64encode(mask.getvalue()).decode(),
        },
    ]
    found = labelme_found(root, *shapes)
    assert found.source.names == {0: "dot", 1: "floor", 2: "wall"}
    expected = box(2, 2, 18, 0, 8)
    expected[8:, 2:] = 1
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    expected[(x - 10) ** 2 + (y - 4) ** 2 < 4] = 0
    expected[[1, 2, 3], [3, 4, 5]] = 0
    assert np.array_equal(values_of(found), expected)
    assert found.left_out == ()


def test_labelme_rectangle_of_four_corners(root: Path) -> None:
    corners = {"label": "wall", "shape_type": "rectangle", "points": [[2, 1], [18, 1], [18, 8], [2, 8]]}
    assert np.array_equal(values_of(labelme_found(root, corners)), box(0, 2, 18, 1, 8))
    assert "a rectangle of 3 points" in bad(labelme_found(root, {**corners, "points": [[1, 1]] * 3})).reason


@pytest.mark.parametrize("json_suffix", [".json", ".JSON"])
def test_labelme_photos_that_are_links(root: Path, json_suffix: str) -> None:
    """DVC and git-annex keep photos elsewhere, under names that are hashes."""
    (root / "images" / "a.jpg").rename(root / "0f3a")
    (root / "images" / "a.jpg").symlink_to(root / "0f3a")
    wall = {"label": "wall", "points": [[0, 0], [20, 0], [20, 12], [0, 12]]}
    labelme_found(root, wall)
    (root / "labels" / "a.json").rename(root / "labels" / f"a{json_suffix}")
    found = labelme.find(root, None)
    assert [item.image for item in found.items] == [root / "images" / "a.jpg"]
    assert found.left_out == ()
    assert np.array_equal(values_of(found), box(0, 0, 20, 0, 12))


@pytest.mark.parametrize(
    "changed", [{"imageHeight": None, "imageWidth": None}, {"imagePath": "../images/a.jpg"}]
)
def test_labelme_files_of_early_versions_and_of_windows_editors(root: Path, changed: dict[str, Any]) -> None:
    """They have no size, or begin with a byte order mark."""
    labelme_found(root, {"label": "wall", "points": [[0, 0], [20, 0], [20, 12], [0, 12]]}, **changed)
    file = root / "labels" / "a.json"
    file.write_text("\ufeff" + file.read_text(), encoding="utf-8")
    found = labelme.find(root, None)
    assert found.left_out == ()
    assert (values_of(found) == 0).all()


def test_labelme_files_that_were_renamed_with_their_photos(root: Path) -> None:
    """b.json names a.jpg still, which is another photo now; nobody sees it in labelme, which shows the one inside."""
    wall = {"label": "wall", "points": [[0, 0], [20, 0], [20, 12], [0, 12]]}
    labelme_found(root, wall, imagePath="a.jpg")
    (root / "labels" / "a.json").rename(root / "images" / "b.json")
    (root / "images" / "b.JPG").write_bytes((root / "images" / "a.jpg").read_bytes())
    found = labelme.find(root, None)
    assert found.items == ()
    assert [(half.file.name, half.kind) for half in found.left_out][:1] == [("b.json", "bad name")]
    assert "it names a.jpg, beside it is b.JPG" in found.left_out[0].reason


def test_labelme_files_beside_another_picture_of_their_name(root: Path) -> None:
    """Such as a depth map or a preview, which has not the size that the file tells."""
    wall = {"label": "wall", "points": [[0, 0], [20, 0], [20, 12], [0, 12]]}
    labelme_found(root, wall, imagePath="a.jpg")
    (root / "labels" / "a.json").rename(root / "images" / "b.json")
    with Image.open(root / "images" / "a.jpg") as photo:
        photo.resize((5, 3)).save(root / "images" / "b.png")
    found = labelme.find(root, None)
    assert [(item.name, item.image.name) for item in found.items] == [("images__b", "a.jpg")]
    assert [(half.file.name, half.kind) for half in found.left_out] == [("b.png", "no label")]


def test_labelme_photos_that_training_would_not_find(root: Path) -> None:
    (root / "images" / "a.jpg").rename(root / "images" / "a.gif")
    wall = {"label": "wall", "points": [[0, 0], [20, 0], [20, 12], [0, 12]]}
    found = labelme_found(root, wall, imagePath="../images/a.gif")
    assert found.items == ()
    ((file, kind, reason),) = ((half.file.name, half.kind, half.reason) for half in found.left_out)
    assert (file, kind) == ("a.gif", "bad name")
    assert "ends in .bmp, .jpeg, .jpg" in reason


def test_labelme_masks_that_are_damaged(root: Path) -> None:
    """Pillow tells of a chunk whose name was damaged with a SyntaxError."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300), dtype=np.uint8)).save(file, "PNG")
    whole = file.getvalue()
    second = whole.rindex(b"IDAT")
    assert second > whole.index(b"IDAT")
    for damaged in (whole[:second] + b"\x01DAT" + whole[second + 4 :], whole[:100], b""):
        text = base64.b64encode(damaged).decode()
        shape = {"label": "wall", "shape_type": "mask", "points": [[0, 0], [299, 299]], "mask": text}
        found = bad(labelme_found(root, shape))
        assert found.kind == "unreadable label"
        assert "a mask that is not a readable PNG" in found.reason


def test_labelme_files_that_are_none(root: Path) -> None:
    point = {"label": "wall", "shape_type": "point", "points": [[1, 1]]}
    assert "a point of 1 points" in bad(labelme_found(root, point)).reason
    assert bad(labelme_found(root, point, imageHeight=1)).kind == "size"
    assert bad(labelme_found(root, point, imageHeight=float("inf"))).kind == "unreadable label"
    (root / "labels" / "b.json").write_text('{"imagePath": "none.jpg", "shapes": []}')
    (root / "labels" / "c.json").write_text("[]")
    found = labelme_found(root, {**point, "points": "?"})
    assert bad(found).kind == "unreadable label"
    assert [(half.file.name, half.kind) for half in found.left_out] == [
        ("b.json", "no image"),
        ("c.json", "unreadable label"),
    ]
