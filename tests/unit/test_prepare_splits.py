"""Duplicates, splits: the stages of training.prepare that see no files."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segserve.errors import CheckFailed, UsageError
from training import duplicates, splits
from training.pairs import Checked

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
