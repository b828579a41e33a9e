"""Datasets: descriptions and files are checked with errors that name the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import DatasetError
from training.data import load_dataset, read_image, read_label

DESCRIPTION = """
name = "tiny"
classes = ["left", "right", "spot"]
ignore_values = [11]
[splits.train]
images = "photos"
labels = "maps"
[splits.listed]
images = "photos"
labels = "maps"
list = "listed.txt"
"""


def write_label(path: Path, label: NDArray[np.uint8]) -> None:
    Image.fromarray(label).save(path)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """The description of three photos of 40 x 30, class 1 to the right, one ignored pixel."""
    for folder in ("photos", "maps"):
        (tmp_path / folder).mkdir()
    label = np.zeros((30, 40), np.uint8)
    label[:, 20:] = 1
    label[0, 0] = 11
    for number, stem in enumerate("bac"):
        photo = np.random.default_rng(number).integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(photo).save(tmp_path / "photos" / f"{stem}.png")
        write_label(tmp_path / "maps" / f"{stem}.png", label)
    (tmp_path / "photos" / "notes.txt").write_text("not an image")
    (tmp_path / "photos" / ".hidden.png").write_text("not an image either")
    (tmp_path / "listed.txt").write_text("c\n\na\n")
    path = tmp_path / "dataset.toml"
    path.write_text(DESCRIPTION)
    return path


def test_loads_every_image_in_order_with_its_label(tiny: Path) -> None:
    dataset = load_dataset(tiny, "train")
    assert (dataset.name, dataset.split, dataset.num_classes, dataset.ignore_label) == (
        "tiny",
        "train",
        3,
        255,
    )
    assert [sample.image.name for sample in dataset.samples] == ["a.png", "b.png", "c.png"]
    photo, label = dataset.read(dataset.samples[1])
    np.testing.assert_array_equal(
        photo, np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    )
    assert label[0, 0] == 255  # was 11
    assert np.bincount(label.ravel())[[0, 1]].tolist() == [599, 600]


def test_list_chooses_and_orders(tiny: Path) -> None:
    assert [sample.label.stem for sample in load_dataset(tiny, "listed").samples] == ["c", "a"]


def test_description_elsewhere_with_root(tiny: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = tiny.rename(elsewhere / "d.toml")
    assert len(load_dataset(moved, "train", root=tmp_path).samples) == 3
    with pytest.raises(DatasetError, match=r"no folder .*photos; give the folder"):
        load_dataset(moved, "train")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "tiny"', "", r"missing keys \['name'\]"),
        ('name = "tiny"', 'name = "tiny"\ncolour = 1', r"unknown keys \['colour'\]"),
        ('name = "tiny"', "name = 3", "name is 3"),
        ('name = "tiny"', "name = ", "not TOML"),
        ('["left", "right", "spot"]', '"left"', "expected a list of names"),
        ('["left", "right", "spot"]', '["left", "left"]', "different names"),
        ('["left", "right", "spot"]', "[]", "0 classes"),
        ("[11]", "[2]", "ignored value 2"),
        ("[11]", "[256]", "ignored value 256"),
        ("[11]", "11", "ignore_values is 11"),
        ("[11]", "[true]", "ignored value True"),
        ("ignore_values = [11]", "ignore_label = 0", "ignored value 0"),
        ('labels = "maps"\n[splits.listed]', "[splits.listed]", r"splits.train: missing keys \['labels'\]"),
        ('labels = "maps"\n[splits.listed]', 'labels = "mops"\n[splits.listed]', "no folder .*mops"),
        ('labels = "maps"\n[splits.listed]', "labels = 1\n[splits.listed]", "expected a table of text"),
        ("[splits.train]", "[splits.other]", r"no split 'train' \(splits there: other, listed\)"),
        ('images = "photos"\nlabels = "maps"\n[splits.listed]', 'images = "."\nlabels = "maps"\n[splits.listed]',
         "no images in"),
    ],
)  # fmt: skip
def test_wrong_description(tiny: Path, old: str, new: str, message: str) -> None:
    assert old in DESCRIPTION
    tiny.write_text(DESCRIPTION.replace(old, new, 1))
    with pytest.raises(DatasetError, match=message):
        load_dataset(tiny, "train")


def test_missing_files_are_named(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"nothing\.toml: cannot be read"):
        load_dataset(tmp_path / "nothing.toml", "train")
    (tmp_path / "listed.txt").write_text("c\nd\n")
    with pytest.raises(DatasetError, match="1 of 2 stems have no image, first 'd'"):
        load_dataset(tiny, "listed")
    (tmp_path / "listed.txt").unlink()
    with pytest.raises(DatasetError, match=r"listed\.txt: the list"):
        load_dataset(tiny, "listed")
    (tmp_path / "maps" / "b.png").unlink()
    with pytest.raises(
        DatasetError, match=r"1 of 3 images have no label, first .*b\.png: expected .*maps.*b\.png"
    ):
        load_dataset(tiny, "train")


def test_two_images_of_one_stem(tiny: Path, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "photos" / "a.jpg")
    with pytest.raises(DatasetError, match=r"a\.jpg and a\.png would share one label"):
        load_dataset(tiny, "train")


def palette_png(path: Path) -> None:
    image = Image.frombytes("P", (2, 2), bytes([0, 1, 2, 255]))
    image.putpalette(list(range(256)) * 3)
    image.save(path)


def grey_png(path: Path) -> None:
    write_label(path, np.array([[0, 1], [2, 255]], np.uint8))


@pytest.mark.parametrize("write", [palette_png, grey_png])
def test_label_kinds(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path / "label.png")
    assert read_label(tmp_path / "label.png", 3, 255).tolist() == [[0, 1], [2, 255]]


def test_label_values_outside_the_classes_are_named(tiny: Path, tmp_path: Path) -> None:
    label = np.zeros((30, 40), np.uint8)
    label[3, 3:5] = (7, 42)
    write_label(tmp_path / "maps" / "a.png", label)
    dataset = load_dataset(tiny, "train")
    with pytest.raises(
        DatasetError, match=r"a\.png: label values \[7, 42\] are neither a class \(0 to 2\) nor ignored"
    ):
        dataset.read(dataset.samples[0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (Image.new("RGB", (2, 2)), "mode RGB"),
        (Image.new("1", (2, 2)), "mode 1"),
        (Image.new("I;16", (2, 2)), "mode I;16"),
    ],
)
def test_labels_that_are_no_index_maps(tmp_path: Path, image: Image.Image, message: str) -> None:
    image.save(tmp_path / "label.png")
    with pytest.raises(DatasetError, match=rf"label\.png: .*{message}"):
        read_label(tmp_path / "label.png", 2, 255)


def test_grey_of_four_bits_would_change_classes(tmp_path: Path) -> None:
    """Pillow cannot write such a file, but reads value 1 in it as 17."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 2, 1, 4, 0, 0, 0, 0)
    png = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0\x01"))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "label.png").write_bytes(png)
    with pytest.raises(DatasetError, match="grey of 4 bits, expected 8"):
        read_label(tmp_path / "label.png", 200, 255)


@pytest.mark.parametrize("cut", [0, 5, 40, 60])
def test_torn_files(tiny: Path, tmp_path: Path, cut: int) -> None:
    whole = (tmp_path / "maps" / "a.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[:cut])
    with pytest.raises(DatasetError, match=r"torn\.png: not a readable PNG"):
        read_label(tmp_path / "torn.png", 3, 255)
    with pytest.raises(DatasetError, match=r"torn\.png"):
        read_image(tmp_path / "torn.png")
    with pytest.raises(DatasetError, match=r"gone\.png: cannot be read"):
        read_image(tmp_path / "gone.png")


def test_label_of_another_size(tiny: Path, tmp_path: Path) -> None:
    write_label(tmp_path / "maps" / "a.png", np.zeros((30, 41), np.uint8))
    dataset = load_dataset(tiny, "train")
    with pytest.raises(DatasetError, match=r"a\.png: label is 41x30, its image .*a\.png 40x30"):
        dataset.read(dataset.samples[0])


def test_turned_photo_needs_a_label_for_the_upright_image(tiny: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    (tmp_path / "photos" / "a.png").unlink()
    Image.new("RGB", (30, 40)).save(tmp_path / "photos" / "a.jpg", exif=exif)
    dataset = load_dataset(tiny, "train")
    photo, label = dataset.read(dataset.samples[0])
    assert photo.shape[:2] == label.shape == (30, 40)
    write_label(tmp_path / "maps" / "a.png", np.zeros((40, 30), np.uint8))
    with pytest.raises(
        DatasetError, match="EXIF orientation turns it, so the label must be drawn for the upright"
    ):
        dataset.read(dataset.samples[0])


# --- the evaluation data ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "split", "count", "num_classes"),
    [("camvid", "train", 367, 11), ("camvid", "val", 101, 11), ("rooms_mini", "val", 12, 11)],
)
def test_shared_datasets(
    shared_data: Path, repo_root: Path, name: str, split: str, count: int, num_classes: int
) -> None:
    dataset = load_dataset(repo_root / "training" / "datasets" / f"{name}.toml", split, shared_data / name)
    assert (len(dataset.samples), dataset.num_classes) == (count, num_classes)
    assert list(dataset.classes) == (shared_data / name / "classes.txt").read_text().split()[:num_classes]
    for sample in dataset.samples[:: max(1, count // 12)]:
        photo, label = dataset.read(sample)
        assert photo.shape[:2] == label.shape
        assert set(np.unique(label)) <= {*range(num_classes), 255}
