"""Outlines (YOLO, COCO, labelme): each is read to the pixels that it describes, and what is wrong in a file is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segserve import encode
from segserve.errors import DatasetError, UsageError
from tests.label_sources import HEIGHT, WIDTH, bad, box, one_photo, values_of
from training.sources import coco, rle, yolo
from training.sources.item import Found
from training.sources.polygons import inside_polygon


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return one_photo(tmp_path)


def test_a_pixel_is_inside_by_its_centre() -> None:
    square = np.array([(2.0, 3.0), (7.0, 3.0), (7.0, 5.0), (2.0, 5.0)])
    assert np.argwhere(inside_polygon(square, 8, 10)).tolist() == [
        [y, x] for y in (3, 4) for x in range(2, 7)
    ]
    half = inside_polygon(np.array([(0.0, 0.0), (100.0, 0.0), (0.0, 100.0)]), 100, 100)
    assert half.sum() == 100 * 99 // 2  # the centres on the diagonal are outside
    beyond = inside_polygon(np.array([(-5.0, -5.0), (50.0, -5.0), (50.0, 50.0), (-5.0, 50.0)]), 8, 10)
    assert beyond.all()


def yolo_found(root: Path, text: str) -> Found:
    (root / "labels" / "a.txt").write_text(text)
    (root / "data.yaml").write_text("names:\n- bed\n- plant\n")
    return yolo.find(root, None)


def test_yolo_paints_the_small_over_the_large(root: Path) -> None:
    plant, bed = "1 0.1 0 0.2 0 0.2 0.5 0.1 0.5\n", "0 0 0 0.5 0 0.5 1 0 1\n"
    expected = box(0, 0, 10, 0, 12)
    expected[:6, 2:4] = 1
    for text in (plant + bed, bed + "\n" + plant):
        assert np.array_equal(values_of(yolo_found(root, text)), expected)


@pytest.mark.parametrize(
    ("line", "kind", "said"),
    [
        ("0 0.5 0.5 0.1 0.1", "unreadable label", "a box"),
        ("2 0 0 1 0 1 1", "unknown value", "class 2"),
        ("0 0 0 1 0 1", "unreadable label", "5 coordinates"),
        ("0 0 0 1 0 640 640", "unreadable label", "outside"),
        ("0 0 0 1 0 1 nan", "unreadable label", "outside"),
        ("0 a b c d e f", "unreadable label", "not numbers"),
    ],
)
def test_yolo_lines_that_are_none(root: Path, line: str, kind: str, said: str) -> None:
    found = bad(yolo_found(root, f"0 0 0 1 0 1 1\n{line}\n"))
    assert found.kind == kind
    assert "line 2" in found.reason
    assert said in found.reason


def test_yolo_labels_with_a_byte_order_mark(root: Path) -> None:
    assert np.array_equal(values_of(yolo_found(root, "\ufeff0 0 0 0.5 0 0.5 1 0 1\n")), box(0, 0, 10, 0, 12))


def test_yolo_labels_in_capitals(root: Path) -> None:
    expected = box(0, 0, 10, 0, 12)
    yolo_found(root, "0 0 0 0.5 0 0.5 1 0 1\n")
    (root / "labels" / "a.txt").rename(root / "labels" / "a.TXT")
    (root / "labels" / "b.TXT").write_text("")
    found = yolo.find(root, None)
    assert np.array_equal(values_of(found), expected)
    assert [(half.file.name, half.kind) for half in found.left_out] == [("b.TXT", "no image")]


def test_yolo_needs_folders_of_images(root: Path) -> None:
    """What lies beside them is told, and where all does, the layout is."""
    (root / "train").mkdir()
    (root / "images" / "a.jpg").rename(root / "train" / "b.jpg")
    with pytest.raises(UsageError, match=r"but 1 elsewhere, as train/b\.jpg; expected …/images/NAME\.jpg"):
        yolo_found(root, "")
    (root / "train" / "b.jpg").unlink()
    with pytest.raises(UsageError, match="no image in a folder images/; expected"):
        yolo_found(root, "")


def test_yolo_photos_outside_are_listed(root: Path) -> None:
    """With their labels; without one they are a training's plots."""
    for name in ("b.jpg", "results.jpg"):
        (root / name).write_bytes((root / "images" / "a.jpg").read_bytes())
    (root / "b.txt").write_text("")
    found = yolo_found(root, "")
    assert [item.image.name for item in found.items] == ["a.jpg"]
    ((file, kind, reason),) = ((half.file, half.kind, half.reason) for half in found.left_out)
    assert (file, kind) == (root / "b.jpg", "no label")
    assert "not in a folder images/: expected …/images/NAME.jpg beside" in reason


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths_are_the_encoders(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.kron(rng.integers(0, 3, (5, 7)), np.ones((9, 13))).astype(np.uint8)
    for value, encoded in enumerate(encode.rles(labels, range(3))):
        assert np.array_equal(rle.decode(encoded["counts"], *labels.shape), labels == value)


def coco_found(root: Path, annotations: list[dict[str, Any]], **image: object) -> Found:
    table = {
        "images": [{"id": 7, "file_name": "a.jpg", "height": HEIGHT, "width": WIDTH, **image}],
        "annotations": [{"id": 1, "image_id": 7, **annotation} for annotation in annotations],
        "categories": [{"id": 3, "name": "bed"}, {"id": 90, "name": "plant"}],
    }
    (root / "coco.json").write_text(json.dumps(table))
    return coco.find(root, ["images"], ["coco.json"])


def test_coco_polygons_and_run_lengths(root: Path) -> None:
    small = {"category_id": 90, "segmentation": [[2, 1, 5, 1, 5, 4, 2, 4], [6, 1, 8, 1, 8, 4, 6, 4]]}
    counts = [HEIGHT * 1, HEIGHT * 11, HEIGHT * 8]  # down the columns: 1 to 11
    crowd = {"category_id": 3, "iscrowd": 1, "segmentation": {"size": [HEIGHT, WIDTH], "counts": counts}}
    expected = box(3, 1, 12, 0, HEIGHT)
    expected[1:4, 2:5] = expected[1:4, 6:8] = 90
    assert np.array_equal(values_of(coco_found(root, [small, crowd])), expected)


@pytest.mark.parametrize(
    ("annotation", "kind"),
    [
        ({"category_id": 4, "segmentation": [[0, 0, 1, 0, 1, 1]]}, "unknown value"),
        ({"category_id": 3, "segmentation": []}, "unreadable label"),
        ({"category_id": 3, "segmentation": [[0, 0, 1]]}, "unreadable label"),
        ({"category_id": 3, "segmentation": [["x"] * 6]}, "unreadable label"),
        ({"category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [3]}}, "unreadable label"),
        ({"category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "\x01"}}, "unreadable label"),
        (
            {"category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": "o" * 40 + "0"}},
            "unreadable label",
        ),
        (
            {"category_id": 3, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [10**30]}},
            "unreadable label",
        ),
        ({"category_id": 3, "segmentation": [[10**400, 0, 1, 0, 1, 1]]}, "unreadable label"),
        ({"category_id": 3, "segmentation": {"size": [1, 1], "counts": [1]}}, "size"),
    ],
)
def test_coco_annotations_that_are_none(root: Path, annotation: dict[str, Any], kind: str) -> None:
    assert bad(coco_found(root, [annotation])).kind == kind


def test_coco_of_other_images(root: Path) -> None:
    assert bad(coco_found(root, [], height=WIDTH, width=HEIGHT)).kind == "size"
    found = coco_found(root, [{"category_id": 3}], file_name="b.jpg", id=8)
    assert [(half.file.name, half.kind) for half in found.left_out] == [
        ("b.jpg", "no image"),
        ("coco.json", "no image"),
        ("a.jpg", "no label"),
    ]
    (root / "coco.json").write_text("{}")
    with pytest.raises(UsageError, match="images"):
        coco.find(root, ["images"], ["coco.json"])


def test_coco_objects_are_painted_by_size_wherever_they_are(root: Path) -> None:
    """Also one without a pixel, and one that is the photo's last."""
    boxes = [(19, 20, 11, 12), (0, 20, 0, 12), (3, 9, 2, 7), (4, 5, 3, 4)]
    outlines = [[[x0, y0, x1, y0, x1, y1, x0, y1]] for x0, x1, y0, y1 in boxes]
    ids = [90, 3, 90, 3]
    found = coco_found(
        root,
        [{"category_id": 3, "segmentation": [[1.1, 1.1, 1.2, 1.1, 1.2, 1.2]]}]
        + [{"category_id": one, "segmentation": outline} for one, outline in zip(ids, outlines, strict=True)],
    )
    expected = box(3, 0, WIDTH, 0, HEIGHT)
    expected[11, 19] = expected[2:7, 3:9] = 90
    expected[3, 4] = 3
    assert np.array_equal(values_of(found), expected)


def test_coco_files_that_share_a_folder_of_images(root: Path) -> None:
    outline = [[0, 0, 20, 0, 20, 12, 0, 12]]
    for name, file in (("a", "train.json"), ("b", "instances_val2017.json")):
        (root / "images" / f"{name}.jpg").write_bytes((root / "images" / "a.jpg").read_bytes())
        coco_found(root, [{"category_id": 3, "segmentation": outline}], file_name=f"{name}.jpg")
        (root / "coco.json").rename(root / file)
    (root / "images" / "c.jpg").write_bytes((root / "images" / "a.jpg").read_bytes())
    found = coco.find(root, ["images", "images"], ["train.json", "instances_val2017.json"])
    assert [(item.name, item.split) for item in found.items] == [("a", "train"), ("b", "val")]
    ((file, kind, reason),) = ((half.file.name, half.kind, half.reason) for half in found.left_out)
    assert (file, kind, reason) == ("c.jpg", "no label", "not in train.json, instances_val2017.json")


@pytest.mark.parametrize("named", ["{images}/a.jpg", "../images/a.jpg", ".\\a.jpg", "./a.jpg"])
def test_coco_images_named_by_whole_paths_or_as_on_windows(root: Path, named: str) -> None:
    found = coco_found(root, [], file_name=named.format(images=root / "images"))
    assert [(item.name, item.image) for item in found.items] == [("a", root / "images" / "a.jpg")]
    assert found.left_out == ()


def test_coco_images_that_training_would_not_find(root: Path) -> None:
    (root / "images" / "a.jpg").rename(root / "images" / "a.jfif")
    found = coco_found(root, [], file_name="a.jfif")
    ((file, kind, reason),) = ((half.file.name, half.kind, half.reason) for half in found.left_out)
    assert (file, kind) == ("a.jfif", "bad name")
    assert "ends in .bmp, .jpeg, .jpg" in reason


def test_coco_images_that_are_listed_twice_keep_all_their_annotations(root: Path) -> None:
    """In one file, as where jobs were merged, and in two, as COCO has things and stuff apart."""
    halves = ([[0, 0, 10, 0, 10, 12, 0, 12]], [[10, 0, 20, 0, 20, 12, 10, 12]])
    expected = box(3, 0, 10, 0, HEIGHT)
    expected[:, 10:] = 90
    tables = []
    for number, (category, outline) in enumerate(zip((3, 90), halves, strict=True)):
        coco_found(root, [{"image_id": number, "category_id": category, "segmentation": outline}], id=number)
        (root / "coco.json").rename(root / f"{number}.json")
        tables.append(json.loads((root / f"{number}.json").read_text()))
    two = coco.find(root, ["images", "images"], ["0.json", "1.json"])
    for key in ("images", "annotations"):
        tables[0][key] += tables[1][key]
    (root / "coco.json").write_text(json.dumps(tables[0]))
    for found in (two, coco.find(root, ["images"], ["coco.json"])):
        assert found.left_out == ()
        assert np.array_equal(values_of(found), expected)


def test_coco_entries_that_are_there_twice_are_one(root: Path) -> None:
    coco_found(root, [{"category_id": 3, "segmentation": [[0, 0, 20, 0, 20, 12, 0, 12]]}])
    table = json.loads((root / "coco.json").read_text())
    table["images"] *= 2
    (root / "coco.json").write_text(json.dumps(table))
    found = coco.find(root, ["images"], ["coco.json"])
    assert found.left_out == ()
    assert [len(item.annotations) for item in found.items] == [1]
    table["images"][1] = {**table["images"][0], "file_name": "b.jpg"}
    (root / "coco.json").write_text(json.dumps(table))
    with pytest.raises(DatasetError, match=r"image 7 is a\.jpg and b\.jpg"):
        coco.find(root, ["images"], ["coco.json"])


def test_coco_categories_of_one_id_are_refused(root: Path) -> None:
    coco_found(root, [])
    text = (root / "coco.json").read_text().replace('"id": 90', '"id": 3')
    (root / "coco.json").write_text(text)
    with pytest.raises(DatasetError, match="category 3 is 'bed' and 'plant'"):
        coco.find(root, ["images"], ["coco.json"])


def test_coco_categories_of_one_name_are_one_class(root: Path) -> None:
    coco_found(root, [{"category_id": 91, "segmentation": [[0, 0, 20, 0, 20, 12, 0, 12]]}])
    table = json.loads((root / "coco.json").read_text())
    table["categories"].append({"id": 91, "name": "bed"})
    (root / "coco.json").write_text(json.dumps(table))
    found = coco.find(root, ["images"], ["coco.json"])
    assert found.source.names == {3: "bed", 90: "plant"}
    assert (values_of(found) == 3).all()


def test_runs_whose_sum_wraps_around() -> None:
    """In 64 bits these are as many pixels as there are; painted, they would need all memory."""
    with pytest.raises(ValueError, match="expected 0 to 6 pixels"):
        rle.decode([2**62, 2**62, 2**62, 2**62, 6], 2, 3)
