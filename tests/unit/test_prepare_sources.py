"""Labels as PNGs, and what all formats share: read to the pixels they describe, and what is wrong in a file is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import DatasetError
from segserve.labels import IGNORE_LABEL
from tests.images import png
from tests.label_sources import HEIGHT, WIDTH, bad, one_photo, values_of
from training import remap
from training.sources import colour_png, index_png, yolo
from training.sources.item import UNLABELLED, Found, Item, split_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return one_photo(tmp_path)


# --- index and colour PNGs ----------------------------------------------------------------------------------


def index_found(root: Path, label: NDArray[Any] | bytes, names: str = "wall\nfloor\n") -> Found:
    file = root / "labels" / "a.png"
    if isinstance(label, bytes):
        file.write_bytes(label)
    else:
        Image.fromarray(label).save(file)
    (root / "names.txt").write_text(names)
    return index_png.find(root, ["images"], ["labels"], root / "names.txt")


def test_index_values_and_the_usual_ignored_one(root: Path) -> None:
    label = np.ones((HEIGHT, WIDTH), np.uint8)
    label[0, :5] = 255
    values = values_of(index_found(root, label))
    assert (values[0, :5] == UNLABELLED).all()
    assert (values[1:] == 1).all()


def test_255_that_is_ignored_by_name_is_so_whatever_unlabelled_pixels_become(root: Path) -> None:
    index_found(root, np.full((HEIGHT, WIDTH), 255, np.uint8))
    table = root / "table.toml"
    table.write_text('classes = ["other"]\nunlabelled = "other"\nrest = "other"\n[map]\n')
    for ignored, label in (((), 0), (("255",), IGNORE_LABEL)):
        found = index_png.find(root, ["images"], ["labels"], root / "names.txt", ignored)
        made = remap.read(table, found.source.names, ignored)
        assert (made.apply(values_of(found)) == label).all()


def test_names_with_and_without_values_are_refused(root: Path) -> None:
    """By their places all classes would be others."""
    label = np.zeros((HEIGHT, WIDTH), np.uint8)
    for names, said in (
        ("id name\n0 wall\n1 floor\n", "'0 wall' begins with a value and 'id name' does not"),
        ("floor\n2 seater sofa\n", "'2 seater sofa' begins with a value and 'floor' does not; number all"),
    ):
        with pytest.raises(DatasetError, match=said):
            index_found(root, label, names)


def test_a_name_makes_255_a_class(root: Path) -> None:
    found = index_found(root, np.full((HEIGHT, WIDTH), 255, np.uint8), "0 not floor\n255 floor\n")
    assert found.source.names == {0: "not floor", 255: "floor"}
    assert (values_of(found) == 255).all()


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_grey_of_few_bits_is_not_stretched(root: Path, depth: int) -> None:
    in_row = -(-WIDTH * depth // 8)
    rows = (b"\0" + bytes([1 << (8 - depth)]) + b"\0" * (in_row - 1)) * HEIGHT
    values = values_of(index_found(root, png(WIDTH, HEIGHT, depth, 0, rows)))
    assert (values[:, 0] == 1).all()
    assert (values[:, 1:] == 0).all()


def test_16_bits_and_grey_as_rgb(root: Path) -> None:
    assert (values_of(index_found(root, np.full((HEIGHT, WIDTH), 1000, np.uint16))) == 1000).all()
    assert (values_of(index_found(root, np.ones((HEIGHT, WIDTH, 3), np.uint8))) == 1).all()


def test_colours_of_16_bits_are_refused_not_cut_to_8(root: Path) -> None:
    rows = (b"\0" + b"\0\2" * 3 * WIDTH) * HEIGHT  # each pixel is 2, which Pillow would make 0
    found = index_found(root, png(WIDTH, HEIGHT, 16, 2, rows))
    assert "16 bits a colour" in bad(found).reason
    (root / "palette.txt").write_text("0 0 0 wall\n")
    assert (
        "16 bits a colour" in bad(colour_png.find(root, ["images"], ["labels"], root / "palette.txt")).reason
    )


def test_colours_are_no_index(root: Path) -> None:
    colours = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    colours[0, 0] = (1, 2, 3)
    assert "--format colour" in bad(index_found(root, colours)).reason


def test_sizes_and_broken_files_are_told(root: Path) -> None:
    found = bad(index_found(root, np.zeros((WIDTH, HEIGHT), np.uint8)))
    assert (found.kind, found.reason) == ("size", "label is 12x20, image 20x12")
    assert bad(index_found(root, b"\x89PNG\r\n\x1a\nrest")).kind == "unreadable label"


def test_halves_of_pairs_are_listed(root: Path) -> None:
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / "labels" / "b.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(root / "images" / "a.png")
    found = index_found(root, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert [(half.file.name, half.kind) for half in found.left_out] == [
        ("b.png", "no image"),
        ("a.png", "same name"),
    ]


@pytest.mark.parametrize("images", [".", "images"])
def test_labels_beside_the_images_are_no_images(root: Path, images: str) -> None:
    folder = "labels" if images == "." else images
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / folder / "a.png")
    if images == ".":
        (root / "images" / "a.jpg").rename(root / "a.jpg")
    (root / "names.txt").write_text("wall\nfloor\n")
    found = index_png.find(root, [images], [folder], root / "names.txt")
    assert [item.image.name for item in found.items] == ["a.jpg"]
    assert found.left_out == ()


@pytest.mark.parametrize("images", ["images", "."])
def test_suffixes_in_capitals(root: Path, images: str) -> None:
    """As cameras and Windows write them; of IMG0.PNG and IMG0.png, the usual one is the label."""
    labels = "labels" if images == "images" else "."
    (root / "images" / "a.jpg").unlink()
    for name in ("IMG0", "IMG1"):
        Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / images / f"{name}.JPG")
        Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / labels / f"{name}.PNG")
    for name in ("IMG1.png", "IMG2.PNG"):
        (root / labels / name).write_bytes((root / labels / "IMG0.PNG").read_bytes())
    (root / "names.txt").write_text("wall\n")
    found = index_png.find(root, [images], [labels], root / "names.txt")
    assert [(item.image.name, item.label.name) for item in found.items] == [
        ("IMG0.JPG", "IMG0.PNG"),
        ("IMG1.JPG", "IMG1.png"),
    ]
    second = "no image" if images == "images" else "same name"  # beside photos, it could be one
    assert sorted((half.file.name, half.kind) for half in found.left_out) == [
        ("IMG1.PNG", second),
        ("IMG2.PNG", "no image"),
    ]


def test_a_photo_whose_label_has_its_name_but_for_capitals(root: Path) -> None:
    (root / "images" / "a.jpg").unlink()
    Image.fromarray(np.zeros((HEIGHT, WIDTH, 3), np.uint8)).save(root / "a.PNG")
    Image.fromarray(np.zeros((HEIGHT, WIDTH), np.uint8)).save(root / "a.png")
    (root / "names.txt").write_text("wall\n")
    found = index_png.find(root, ["."], ["."], root / "names.txt")
    assert [(item.image.name, item.label.name) for item in found.items] == [("a.PNG", "a.png")]


def test_labels_in_a_linked_folder_are_found(root: Path) -> None:
    (root / "labels").rename(root / "elsewhere")
    (root / "labels").symlink_to("elsewhere")
    assert (values_of(index_found(root, np.ones((HEIGHT, WIDTH), np.uint8))) == 1).all()


def test_linked_folders_inside_are_gone_through_and_circles_end(root: Path, tmp_path_factory: Any) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for folder in ("images", "labels"):
        (elsewhere / folder).mkdir()
        (root / folder / "house").symlink_to(elsewhere / folder)
        (elsewhere / folder / "round").symlink_to(root / folder)
    Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(elsewhere / "images" / "b.jpg")
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(elsewhere / "labels" / "b.png")
    found = index_found(root, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert [item.name for item in found.items] == ["a", "house__b"]
    assert found.left_out == ()


def test_what_macs_leave_beside_files_is_no_label(root: Path) -> None:
    for folder, suffix in (("images", "jpg"), ("labels", "png")):
        (root / folder / f"._a.{suffix}").write_bytes(b"Mac OS X")
        (root / folder / ".ipynb_checkpoints").mkdir()
        (root / folder / ".ipynb_checkpoints" / f"a.{suffix}").write_bytes(b"old")
    found = index_found(root, np.zeros((HEIGHT, WIDTH), np.uint8))
    assert [item.name for item in found.items] == ["a"]
    assert found.left_out == ()


def test_ade20k_counts_from_one(tmp_path: Path) -> None:
    for folder in ("images", "annotations"):
        (tmp_path / folder / "training").mkdir(parents=True)
    Image.fromarray(np.zeros((1, 4, 3), np.uint8)).save(tmp_path / "images" / "training" / "a.jpg")
    label = np.array([[0, 1, 4, 150]], np.uint8)
    Image.fromarray(label).save(tmp_path / "annotations" / "training" / "a.png")
    found = index_png.find_ade20k(tmp_path, ["images"], ["annotations"])
    (item,) = found.items
    assert (item.name, item.split) == ("training__a", "train")
    unlabelled, *values = found.source.read(item, 1, 4)[0].tolist()
    assert unlabelled == UNLABELLED
    assert [found.source.names[value] for value in values] == ["wall", "floor", "flag"]


def test_colours(root: Path) -> None:
    label = np.full((HEIGHT, WIDTH, 3), (0, 0, 200), np.uint8)
    label[3:] = (10, 20, 30)
    label[0] = (1, 1, 1)
    Image.fromarray(label).save(root / "labels" / "a.png")
    palette = root / "palette.txt"
    palette.write_text("# street\n10 20 30\tRoad\n0,0,200 Sky\n1 1 1 Road\n")
    found = colour_png.find(root, ["images"], ["labels"], palette)
    assert found.source.names == {0: "Road", 1: "Sky"}
    values = values_of(found)
    assert values[:, 0].tolist() == [0, 1, 1, *[0] * (HEIGHT - 3)]

    label[0, :2] = (7, 8, 9)
    Image.fromarray(label).save(root / "labels" / "a.png")
    assert (bad(found).kind, "2 pixels" in bad(found).reason, "7 8 9" in bad(found).reason) == (
        "unknown value",
        True,
        True,
    )


@pytest.mark.parametrize("text", ["10 20 Road", "10 20 300 Road", "1 1 1 a\n1 1 1 b", ""])
def test_a_palette_that_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "palette.txt").write_text(text)
    with pytest.raises(DatasetError, match=r"palette\.txt"):
        colour_png.read_palette(tmp_path / "palette.txt")


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train/images/a.jpg", "train"),
        ("images/validation/a.jpg", "val"),
        ("valid/images/a.jpg", "val"),
        ("val2017/a.jpg", "val"),
        ("test_images/a.jpg", "test"),
        ("images_train/a.jpg", "train"),
        ("Labels-Val2017/a.png", "val"),
        ("my_train/a.jpg", None),
        ("train_images_2017/a.jpg", "train"),
        ("train2017_images/a.jpg", "train"),
        ("val_images2/a.jpg", "val"),
        ("test_images_labels/a.jpg", "test"),
        ("trainer/a.jpg", None),
        ("train.jpg", None),
    ],
)
def test_folders_name_splits(path: str, split: str | None) -> None:
    assert split_of(Path(path)) == split


def house_photos(root: Path, *houses: str, names: tuple[str, ...] = ("0", "1")) -> None:
    for house in houses:
        for name in names:
            for folder, suffix in (("images", "jpg"), ("labels", "txt")):
                (root / house / folder).mkdir(parents=True, exist_ok=True)
                (root / house / folder / f"{name}.{suffix}").write_bytes(b"")
    (root / "data.yaml").write_text("names: {0: bed}\n")


def test_a_folder_for_each_house_tells_equal_names_apart(tmp_path: Path) -> None:
    """Also those that only one house has, so that --group can name the house."""
    house_photos(tmp_path, "h1", "h2/ground")
    house_photos(tmp_path, "h1", names=("only",))
    found = yolo.find(tmp_path, None)
    assert found.left_out == ()
    assert [(item.name, item.image.relative_to(tmp_path).as_posix()) for item in found.items] == [
        ("h1__0", "h1/images/0.jpg"), ("h1__1", "h1/images/1.jpg"), ("h1__only", "h1/images/only.jpg"),
        ("h2__ground__0", "h2/ground/images/0.jpg"), ("h2__ground__1", "h2/ground/images/1.jpg"),
    ]  # fmt: skip


def test_houses_in_splits_and_houses_in_one_another(tmp_path: Path) -> None:
    house_photos(tmp_path / "a", "h1/train", "h2/train", "h1/val", names=("0",))
    found = yolo.find(tmp_path / "a", None)
    assert [item.name for item in found.items] == ["h1__0", "0", "h2__0"]
    assert [item.split for item in found.items] == ["train", "val", "train"]
    house_photos(tmp_path / "b", "h1", "h1/h2", names=("0",))
    (tmp_path / "b" / "h1" / "images" / "0.png").write_bytes(b"")
    found = yolo.find(tmp_path / "b", None)
    assert [item.name for item in found.items] == ["h2__0", "0"]
    assert [(half.file.name, half.kind) for half in found.left_out] == [("0.png", "same name")]


def test_equal_names_in_two_splits_stay_apart(root: Path) -> None:
    for split in ("train", "val"):
        for folder in ("images", "labels"):
            (root / split / folder).mkdir(parents=True)
        Image.fromarray(np.zeros((2, 2, 3), np.uint8)).save(root / split / "images" / "1.jpg")
        (root / split / "labels" / "1.txt").write_text("")
    (root / "images" / "a.jpg").unlink()
    (root / "data.yaml").write_text("names: {0: bed}\n")
    items: tuple[Item, ...] = yolo.find(root, None).items
    assert [(item.name, item.split) for item in items] == [("train__1", "train"), ("val__1", "val")]
