"""Source classes to those of the dataset, by tables and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segserve.errors import DatasetError, UsageError
from segserve.labels import IGNORE_LABEL, ROOM_CLASSES
from training import remap
from training.label_sets import NotThese
from training.sources.index_png import ADE20K_NAMES
from training.sources.item import UNLABELLED, BadPair, read_names

NAMES = {0: "wall", 1: "rug", 5: "floor"}


def table(tmp_path: Path, text: str) -> Path:
    (tmp_path / "table.toml").write_text(text)
    return tmp_path / "table.toml"


def values(*numbers: int) -> NDArray[np.int32]:
    return np.array([numbers], np.int32)


def test_a_table_joins_classes(tmp_path: Path) -> None:
    path = table(
        tmp_path,
        'classes = ["floor", "other"]\nrest = "other"\n[map]\nrug = "floor"\nfloor = "floor"\n',
    )
    made = remap.read(path, NAMES, ["wall"])
    assert made.apply(values(1, 5, 0, UNLABELLED)).tolist() == [[0, 0, IGNORE_LABEL, IGNORE_LABEL]]
    assert remap.read(path, NAMES, []).apply(values(0)).tolist() == [[1]]


def test_unlabelled_may_be_a_class(tmp_path: Path) -> None:
    text = 'classes = ["floor", "other"]\nrest = "ignore"\nunlabelled = "other"\n[map]\nfloor = "floor"\n'
    made = remap.read(table(tmp_path, text), NAMES, [])
    assert made.apply(values(5, UNLABELLED, 0)).tolist() == [[0, 1, IGNORE_LABEL]]


@pytest.mark.parametrize("value", [2, 6, 7, 65_535])
def test_values_without_a_class_are_named(value: int) -> None:
    with pytest.raises(BadPair, match=f"2 pixels of values without a class: {value}'"):
        remap.plain(NAMES, []).apply(values(0, value, value))


def test_labelmes_own_name_of_what_does_not_count(tmp_path: Path) -> None:
    names = {0: "__ignore__", 1: "wall"}
    made = remap.plain(names, [])
    assert made.classes == ("wall",)
    assert made.apply(values(0, 1)).tolist() == [[IGNORE_LABEL, 0]]
    text = 'classes = ["wall", "other"]\nrest = "other"\nunlabelled = "other"\n[map]\nwall = "wall"\n'
    made = remap.read(table(tmp_path, text), names, [])
    assert made.apply(values(0, 1, UNLABELLED)).tolist() == [[IGNORE_LABEL, 0, 1]]


def test_plain_classes_leave_no_gap() -> None:
    made = remap.plain({**NAMES, 9: "void"}, ["void", "11"])
    assert made.classes == ("wall", "rug", "floor")
    assert made.apply(values(0, 1, 5, 9, 11)).tolist() == [[0, 1, 2, IGNORE_LABEL, IGNORE_LABEL]]
    with pytest.raises(UsageError, match="ceiling"):
        remap.plain(NAMES, ["ceiling"])


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ('classes = ["floor"]\n[map]\nfloor = "floor"\n', UsageError, r"\['wall', 'rug'\]"),
        ('classes = ["floor"]\nrest = "ignore"\n[map]\nflor = "floor"\n', UsageError, r"\['flor'\]"),
        ('classes = ["floor"]\nrest = "ignore"\n[map]\nfloor = "flor"\n', DatasetError, r"\['flor'\]"),
        ('classes = ["floor"]\nrest = "others"\n[map]\n', DatasetError, "others"),
        ('classes = ["floor"]\n', DatasetError, "expected classes, map"),
        ('classes = ["ignore"]\n[map]\n', DatasetError, "without 'ignore'"),
        ('classes = ["floor"]\nrest = "ignore"\n[map]\nfloor = 0\n', DatasetError, "text"),
        ('classes = ["floor"]\nrest = "not flor"\n[map]\n', DatasetError, "flor"),
        ('classes = ["floor"]\nrest = "not floor"\n[map]\n', DatasetError, "leaves 0 of 1"),
        ("classes =", DatasetError, "not TOML"),
        ('classes = ["a"]\nunlabelled = 0\n[map]\n', DatasetError, "expected text"),
        ('classes = ["a"]\nrest = 3\n[map]\n', DatasetError, "expected text"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, text: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        remap.read(table(tmp_path, text), NAMES, [])


def test_the_tables_in_the_repository_make_rooms(repo_root: Path) -> None:
    ade = {value + 1: name for value, name in read_names(ADE20K_NAMES).items()}
    folder = repo_root / "training" / "remaps"
    rooms = remap.read(folder / "ade20k150_rooms.toml", ade, [])
    assert len(ade) == 150
    assert rooms.classes == ROOM_CLASSES
    # positions in SceneParse150's list: wall, floor, ceiling, bed, windowpane, door, table, chair, sofa, armchair
    label_of = {value: ROOM_CLASSES[rooms.labels[value]] for value in (1, 4, 6, 8, 9, 15, 16, 20, 24, 31, 37)}
    assert list(label_of.values()) == [
        "wall", "floor", "ceiling", "bed", "window", "door", "table", "chair", "sofa", "chair", "other",
    ]  # fmt: skip
    floors = remap.read(folder / "floors_rooms.toml", read_names(folder / "floors.txt"), [])
    assert floors.apply(values(0, 255)).tolist() == [[254, 1]]
    assert floors.not_these == (NotThese(254, (1,)),)
    furniture = dict(enumerate(["bed", "chair", "plant pot", "sofa", "swivelchair", "table"]))
    assert remap.read(folder / "furniture_rooms.toml", furniture, []).apply(values(-1, 0, 4)).tolist() == [
        [255, 5, 6]
    ]
    rest = remap.read(folder / "furniture_rooms_rest.toml", furniture, [])
    assert rest.apply(values(-1, 0, 4)).tolist() == [[254, 5, 6]]
    assert [ROOM_CLASSES[k] for k in rest.not_these[0].classes] == ["bed", "chair", "sofa", "table", "plant"]
