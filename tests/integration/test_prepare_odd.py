"""training.prepare on folders as other tools leave them: turned photos, names that are not UTF-8, links, no photo."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segserve.errors import CheckFailed, UsageError
from tests.images import stored_with_orientation
from training import prepare
from training.data import load_dataset
from training.prepare_options import Format, PrepareConfig

NOT_UTF8 = os.fsdecode(b"k\xfcche")
ESCAPED = r"k\udcfcche"


def save(path: Path, seed: int, orientation: int = 1) -> None:
    """A photo of 40x30 as it is seen, different for each seed."""
    exif = Image.Exif()
    exif[274] = orientation
    cells = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    pixels = np.asarray(Image.fromarray(cells).resize((40, 30), Image.Resampling.BICUBIC))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(stored_with_orientation(pixels, orientation)).save(path, exif=exif)


def config(root: Path, label_format: Format, **changed: Any) -> PrepareConfig:
    return PrepareConfig(root, label_format, root.parent / "out", workers=1, **changed)


def index_pairs(root: Path, names: list[str]) -> Path:
    """Photos of one class each, as index PNGs."""
    for seed, name in enumerate(names):
        save(root / "images" / f"{name}.jpg", seed)
        label = root / "labels" / f"{name}.png"
        label.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((30, 40), np.uint8)).save(label)
    (root / "names.txt").write_text("wall\n")
    return root / "names.txt"


@pytest.mark.parametrize("as_stored", [False, True])
def test_outlines_have_no_size_that_tells_of_a_turn(tmp_path: Path, as_stored: bool) -> None:
    """YOLO's shares fit a photo lying on its side as well, so it is there to be looked at, unless the user knows."""
    root = tmp_path / "data"
    (root / "labels").mkdir(parents=True)
    for number, orientation in enumerate((1, 6, 8, 3)):
        save(root / "images" / f"{number}.jpg", number, orientation)
        (root / "labels" / f"{number}.txt").write_text("0 0 0 1 0 1 0.5 0 0.5\n")
    (root / "data.yaml").write_text("names: [wall]\n")
    prepare.main(config(root, "yolo", labels_as_stored=as_stored))
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    turned = [] if as_stored else ["1.jpg", "2.jpg", "3.jpg"]
    assert sorted(Path(note["file"]).name for note in notes) == turned
    assert all("--labels-as-stored" in note["note"] for note in notes)


@pytest.mark.parametrize("as_json", [False, True])
def test_names_that_are_not_utf8_are_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    names = index_pairs(tmp_path / "data", ["a", "b", "c", NOT_UTF8])
    stray = tmp_path / "data" / "labels" / f"{NOT_UTF8}2.png"
    stray.write_bytes(b"")
    prepare.main(config(tmp_path / "data", "index", names=names, max_left_out=0.5, as_json=as_json))
    out = tmp_path / "out"
    with (out / "left_out.csv").open(encoding="utf-8") as file:
        listed = {Path(row["file"]).name: (row["kind"], row["reason"]) for row in csv.DictReader(file)}
    assert listed[f"{ESCAPED}.jpg"] == (
        "bad name",
        "its name is not UTF-8; rename it, and its label likewise",
    )
    assert {name: kind for name, (kind, _) in listed.items()} == {
        f"{ESCAPED}.jpg": "bad name",
        f"{ESCAPED}2.png": "no image",
    }
    assert len(load_dataset(out / "dataset.toml", "train").samples) == 2
    assert len(list((out / "images").iterdir())) == 3
    printed = capsys.readouterr().out
    if as_json:
        assert [Path(bad["file"]).name for bad in json.loads(printed)["left_out"]] == list(listed)
    else:
        assert f"bad name: {tmp_path}/data/images/{ESCAPED}.jpg: its name is not UTF-8" in printed


def test_folders_may_be_named_in_another_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only names in the lists of a dataset must be UTF-8; where it lies is the user's business."""
    root = tmp_path / NOT_UTF8 / "data"
    names = index_pairs(root, ["a", "b", "c"])
    (root / "labels" / "c.png").unlink()
    prepare.main(config(root, "index", names=names, max_left_out=0.5))
    printed = capsys.readouterr().out
    assert f"no label: {tmp_path}/{ESCAPED}/data/images/c.jpg: expected {tmp_path}/{ESCAPED}/data" in printed
    assert f"{tmp_path}/{ESCAPED}/out/dataset.toml is what" in printed
    assert len(load_dataset(root.parent / "out" / "dataset.toml", "train").samples) == 1


def test_links_to_photos_that_are_called_otherwise(tmp_path: Path) -> None:
    """What DVC and git-annex leave: the dataset has the photos, not links into their store."""
    root, store = tmp_path / "data", tmp_path / "store"
    for number in range(3):
        save(store / f"{number}.jpg", number)
        store.joinpath(f"{number}.jpg").rename(store / f"0f3a{number}")
        root.mkdir(exist_ok=True)
        (root / f"{number}.jpg").symlink_to(store / f"0f3a{number}")
        shape = {"label": "wall", "points": [[0, 0], [40, 0], [40, 10]]}
        table = {"imagePath": f"{number}.jpg", "imageHeight": 30, "imageWidth": 40, "shapes": [shape]}
        (root / f"{number}.json").write_text(json.dumps(table))
    prepare.main(config(root, "labelme"))
    assert json.loads((tmp_path / "out" / "report.json").read_text())["left_out"] == []
    photos = sorted((tmp_path / "out" / "images").iterdir())
    assert [path.name for path in photos] == ["0.jpg", "1.jpg", "2.jpg"]
    assert not any(path.is_symlink() for path in photos)


def test_a_folder_without_photos_is_no_bad_data(tmp_path: Path) -> None:
    root = tmp_path / "data"
    for folder in ("images", "labels"):
        (root / folder).mkdir(parents=True)
    (root / "names.txt").write_text("wall\n")
    with pytest.raises(UsageError, match=r"no image \(\.bmp.*--images"):
        prepare.main(config(root, "index", names=root / "names.txt"))


def test_masks_of_0_and_255_whose_classes_have_no_values(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = index_pairs(tmp_path / "data", ["a", "b", "c"])
    for path in (tmp_path / "data" / "labels").iterdir():
        Image.fromarray(np.repeat(np.array([0, 255], np.uint8), 15 * 40).reshape(30, 40)).save(path)
    names.write_text("wall\nfloor\n")
    first = config(tmp_path / "data", "index", names=names)
    prepare.main(first)
    assert "no label has floor, and 255 is ignored: if it is a class" in capsys.readouterr().out
    names.write_text("0 wall\n255 floor\n")
    prepare.main(dataclasses.replace(first, out=tmp_path / "second"))
    assert "is ignored" not in capsys.readouterr().out
    values = load_dataset(tmp_path / "second" / "dataset.toml", "val")
    assert np.unique(values.read(values.samples[0])[1]).tolist() == [0, 1]


def test_a_camera_that_stands_still_in_both_splits_of_the_source(tmp_path: Path) -> None:
    root = tmp_path / "data"
    index_pairs(root, ["train/a", "train/b", "val/a", "val/b"])
    for name in "ab":
        (root / "images" / "train" / f"{name}.jpg").write_bytes(
            (root / "images" / "val" / f"{name}.jpg").read_bytes()
        )
    with pytest.raises(CheckFailed, match=r"2 of 4 were bad.*--keep-duplicates keeps what looks alike"):
        prepare.main(config(root, "index", names=root / "names.txt"))
