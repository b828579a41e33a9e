"""Remapping, duplicates, splits: the stages of training.prepare that see no files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import CheckFailed, DatasetError, UsageError
from segserve.labels import IGNORE_LABEL, ROOM_CLASSES
from training import duplicates, remap, splits
from training.label_sets import NotThese
from training.pairs import Checked
from training.sources.index_png import ADE20K_NAMES
from training.sources.item import UNLABELLED, BadPair, read_names

NAMES = {0: "wall", 1: "rug", 5: "floor"}


# --- remapping ----------------------------------------------------------------------------------------------


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


# --- duplicates ---------------------------------------------------------------------------------------------


def picture(seed: int) -> Image.Image:
    """Something smooth with structure."""
    cells = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((240, 180), Image.Resampling.BICUBIC)


def saved_anew(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.resize((101, 77)).save(file, "JPEG", quality=40)
    return Image.open(file)


def test_duplicates_are_found_and_others_not() -> None:
    pictures = [picture(seed) for seed in range(40)]
    pictures += [saved_anew(picture(3)), picture(7).transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    found = duplicates.links([duplicates.fingerprint(image) for image in pictures])
    assert found == [(3, 40), (7, 41)]


def test_nearly_white_photos_are_not_all_the_same() -> None:
    """One faint object each, elsewhere on white: small differences, and all that there is."""
    photos = []
    for left in (20, 60, 110):
        pixels = np.full((100, 160, 3), 250, np.uint8)
        pixels[40:60, left : left + 20] = 225
        photos.append(duplicates.fingerprint(Image.fromarray(pixels)))
    assert duplicates.links(photos) == []
    assert duplicates.links([*photos, photos[1]]) == [(1, 3)]


def test_pairs_in_different_blocks_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 2)
    fingerprints = [duplicates.fingerprint(picture(seed)) for seed in (0, 1, 2, 0, 3, 1, 0)]
    assert duplicates.links(fingerprints) == [(0, 3), (0, 6), (1, 5)]


def drifting(scenes: int, frames: int) -> list[duplicates.Fingerprint]:
    """Frames of cameras that turn slowly, mixed: near ones are alike, far ones are not; every third is mirrored."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(scenes):
        plain, mirrored = (int.from_bytes(rng.bytes(8)) for _ in range(2))
        thumbnail = rng.uniform(40, 215, (16, 16, 3))
        for frame in range(frames):
            thumbnail += rng.normal(0, 3.5, thumbnail.shape)
            pixels = thumbnail.clip(0, 255).astype(np.uint8)
            found.append(
                duplicates.Fingerprint(mirrored, plain, pixels[:, ::-1])
                if frame % 3 == 0
                else duplicates.Fingerprint(plain, mirrored, pixels)
            )
    return [found[index] for index in rng.permutation(len(found))]


@pytest.mark.parametrize("block", [4, 256])
def test_links_tell_what_all_pairs_tell(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    """Groups, and who shows the same as one of a higher rank; also where likeness goes from one to the next."""
    for name in ("BLOCK", "WINDOW", "AT_ONCE"):
        monkeypatch.setattr(duplicates, name, block)
    prints = drifting(scenes=4, frames=12)
    count = len(prints)
    ranks = np.random.default_rng(1).integers(0, 3, count).tolist()
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count)]
    pairs = [(i, j) for i, j in pairs if duplicates.links([prints[i], prints[j]])]

    def outranked(links: list[tuple[int, int]]) -> set[int]:
        return {i for i, j in [*links, *((j, i) for i, j in links)] if ranks[i] < ranks[j]}

    found = duplicates.links(prints, ranks)
    joined = duplicates.groups(count, pairs)
    assert len(set(joined)) == 4
    assert 4 * 11 < len(pairs) < 4 * 12 * 11 // 2  # not all of a scene are alike
    assert set(found) < set(pairs)
    assert duplicates.groups(count, found) == joined
    assert outranked(found) == outranked(pairs)


def test_thousands_of_the_same_are_a_link_each() -> None:
    """As a camera that stands still takes them; half of them are in another split."""
    one = duplicates.fingerprint(picture(0))
    found = duplicates.links([one] * 2000, [0] * 1000 + [1] * 1000)
    assert len(found) <= 3 * 1000
    assert len({low for low, high in found if low < 1000 <= high}) == 1000
    assert duplicates.groups(2000, found) == [0] * 2000


def test_groups_are_joined_through_others() -> None:
    assert duplicates.groups(6, [(4, 2), (5, 4), (0, 1)]) == [0, 0, 2, 3, 2, 2]


# --- splits -------------------------------------------------------------------------------------------------


def checked(*names: str, given: Sequence[str | None] = ()) -> list[Checked]:
    """Pairs, of which only names and splits matter here."""
    flat = duplicates.Fingerprint(0, 0, np.zeros((16, 16, 3), np.uint8))
    given = given or [None] * len(names)
    return [
        Checked(name, Path(name), split, Path(name), Path(name), (1,), 0, flat, None)
        for name, split in zip(names, given, strict=True)
    ]


def names_in(split: splits.Split) -> dict[str, list[str]]:
    return {name: [pair.name for pair in members] for name, members in split.members.items()}


CLIPS = [f"clip{clip}_{frame}" for clip in range(10) for frame in range(10)]


def made(seed: int, same: Sequence[tuple[int, int]] = ()) -> dict[str, list[str]]:
    pairs = checked(*CLIPS)
    keys = splits.group_keys(re.compile(r"^(clip\d+)_"), pairs)
    return names_in(splits.make(pairs, keys, same, {"val": 0.2, "test": 0.1}, seed))


def test_no_group_is_in_two_splits() -> None:
    found = made(0)
    clips = {split: {name.split("_")[0] for name in names} for split, names in found.items()}
    assert {split: len(names) for split, names in found.items()} == {"train": 70, "val": 20, "test": 10}
    assert {split: len(members) for split, members in clips.items()} == {"train": 7, "val": 2, "test": 1}


def test_splits_follow_the_seed() -> None:
    found = {split: {name.split("_")[0] for name in names} for split, names in made(1).items()}
    assert found == {
        "train": {"clip0", "clip1", "clip3", "clip4", "clip5", "clip6", "clip7"},
        "val": {"clip2", "clip9"},
        "test": {"clip8"},
    }  # on every machine and with every version of Python
    assert len({tuple(made(seed)["val"]) for seed in range(5)}) > 1


def test_duplicates_join_groups() -> None:
    for seed in range(5):
        found = made(seed, same=[(0, 95), (42, 31)])
        for one, other in (("clip0", "clip9"), ("clip4", "clip3")):
            home = [split for split, names in found.items() if f"{one}_0" in names]
            assert [split for split, names in found.items() if f"{other}_0" in names] == home


def test_one_group_cannot_be_split() -> None:
    pairs = checked("clip_1", "clip_2")
    with pytest.raises(CheckFailed, match="1 groups of 2 pairs"):
        splits.make(pairs, ["clip", "clip"], [], {"val": 0.1, "test": 0.0}, 0)
    with pytest.raises(CheckFailed, match="choose a --group"):
        splits.make(pairs, ["clip", "clip"], [(0, 1)], {"val": 0.1, "test": 0.0}, 0)
    said = r"2 look like others, as clip_1 and clip_2 .*--keep-duplicates"
    with pytest.raises(CheckFailed, match=said) as caught:
        splits.make(pairs, ["clip_1", "clip_2"], [(0, 1)], {"val": 0.1, "test": 0.0}, 0)
    assert "--group" not in str(caught.value)  # nor would splits by hand help: one would be left out
    assert names_in(splits.make(pairs, ["a", "b"], [], {"val": 1.0, "test": 0.0}, 0)) == {
        "val": ["clip_1", "clip_2"]
    }


def test_given_splits_are_kept_and_what_they_share_leaves_train() -> None:
    pairs = checked(
        "a1", "a2", "b1", "c1", "d1", "e1", given=["train", "val", "train", "train", "val", "test"]
    )
    found = splits.keep(pairs, splits.group_keys(re.compile("^."), pairs), [(2, 4), (3, 5)])
    assert names_in(found) == {"val": ["a2", "d1"], "test": ["e1"]}
    assert [(pair.name, bad.kind) for pair, bad in found.left_out] == [
        ("a1", "group"),
        ("b1", "duplicate"),
        ("c1", "duplicate"),
    ]
    assert "shows the same as d1, which is in val" in found.left_out[1][1].reason


def test_a_house_whose_photos_have_the_same_names_in_two_splits_is_one_house() -> None:
    pairs = checked(
        "train__h1_0", "val__h1_0", "train__h2_0", "b__images_val__h3_0", given=["train", "val"] * 2
    )
    keys = splits.group_keys(re.compile("^(.+)_"), pairs)
    assert keys == ["h1", "h1", "h2", "b__h3"]
    found = splits.keep(pairs, keys, [])
    assert names_in(found) == {"train": ["train__h2_0"], "val": ["val__h1_0", "b__images_val__h3_0"]}


@pytest.mark.parametrize(
    ("pattern", "keys"),
    [
        (r"^(?:train|val)__(h\d)", ["h1", "h1"]),  # written for the whole names
        ("^[^_]+__([^_]+)", ["h1", "h1"]),
        ("^([^_]+)__", ["h1", "h1"]),  # the split alone is no house
        ("^(.+)_", ["h1__test1_", "h1__test1_"]),  # nor is every folder that is called like one a split
        (r"_(\d+)$", ["0", "1"]),
    ],
)
def test_expressions_on_names_with_the_splits_folder(pattern: str, keys: list[str]) -> None:
    pairs = checked("train__h1__test1__0", "val__h1__test1__1", given=["train", "val"])
    assert splits.group_keys(re.compile(pattern), pairs) == keys


@pytest.mark.parametrize(
    ("pattern", "names", "keys"),
    [
        ("([a-z]+)", ("train_images__kitchen_01", "val_images__kitchen_02"), ["kitchen"] * 2),
        (r"^(\w+?)_", ("images_train__kitchen_01", "images_val__kitchen_02"), ["kitchen"] * 2),
        (r"(\d+)", ("train2017__12_0001", "val2017__13_0002"), ["12", "13"]),
        ("^(b?)", ("train__b_1", "val__c_2"), ["b", None]),
    ],
)
def test_no_part_of_the_splits_folder_is_a_house(
    pattern: str, names: tuple[str, str], keys: list[str | None]
) -> None:
    pairs = checked(*names, given=["train", "val"])
    if None in keys:
        with pytest.raises(UsageError, match=f"1 of 2 names, as '{names[1]}'"):
            splits.group_keys(re.compile(pattern), pairs)
    else:
        assert splits.group_keys(re.compile(pattern), pairs) == keys


def test_a_group_expression_must_match_every_name() -> None:
    with pytest.raises(UsageError, match="1 of 2 names, as 'other'"):
        splits.group_keys(re.compile(r"(\d+)"), checked("1", "other"))
