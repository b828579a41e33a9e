"""What every label format comes down to: a list of pairs, and a way to read the label of one as source values.

A source value is a number that the format or this package gave a class; `Source.names` says which. Pixels that the
source says nothing about are `UNLABELLED`. What the values become is the business of `training.remap`.
"""

from __future__ import annotations

import functools
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segserve.errors import DatasetError, UsageError
from training.description import IMAGE_SUFFIXES, shown

UNLABELLED: Final = -1
MAX_SOURCE_VALUE: Final = 65_535

Kind = Literal[
    "no label", "no image", "unreadable image", "unreadable label", "size", "unknown value", "empty", "same name",
    "bad name", "duplicate", "group",
]  # fmt: skip
"""Why a pair is left out."""

_WHAT = "images?|imgs?|photos?|labels?"
_SPLIT = re.compile(
    rf"(?:(?:{_WHAT})[_-]?)*(train|val|test)(ing|id|idation)?[_-]?\d*(?:[_-]?(?:{_WHAT}))*[_-]?\d*",
    re.IGNORECASE,
)


class BadPair(Exception):
    """A pair that can't be used; ends in the list of what was left out, never with the user as an error."""

    def __init__(self, kind: Kind, reason: str) -> None:
        super().__init__(kind, reason)
        self.kind, self.reason = kind, reason


@dataclass(frozen=True)
class Item:
    """An image and where its label is."""

    name: str  # unique in the dataset; its files are called so
    image: Path
    label: Path
    split: str | None  # the one that the source puts it in
    annotations: tuple[dict[str, Any], ...] = ()  # COCO: the image's own, because one file has those of all
    size: tuple[int, int] | None = None  # COCO: height, width as the file says


@dataclass(frozen=True)
class LeftOut:
    """A pair, or half of one, that the dataset goes without."""

    file: Path
    kind: Kind
    reason: str


def other_suffix(image: Path) -> LeftOut:
    """An image file that training would not find."""
    suffixes = ", ".join(sorted(IMAGE_SUFFIXES))
    return LeftOut(image, "bad name", f"expected one that ends in {suffixes}; rename or convert it")


class Source(Protocol):
    """A label format with its class names. Sent to other processes, so it can be pickled."""

    @property
    def names(self) -> Mapping[int, str]:
        """Source value → class name."""

    @property
    def sized(self) -> bool:
        """Whether labels have a size of their own, which `read` compares with the image's."""

    def read(self, item: Item, height: int, width: int) -> NDArray[np.int32]:
        """Source values (height, width) of an image of that size. Raises BadPair."""


@dataclass(frozen=True)
class Found:
    """What a folder holds."""

    source: Source
    items: tuple[Item, ...]
    left_out: tuple[LeftOut, ...]


def check_size(item: Item, label_height: int, label_width: int, height: int, width: int) -> None:
    """Raises BadPair."""
    if (label_height, label_width) != (height, width):
        raise BadPair("size", f"label is {label_width}x{label_height}, image {width}x{height}")


def split_of(path: Path) -> str | None:
    """The split that a relative path names: `train/a.jpg`, `images/validation/a.jpg`, `images_val/…`."""
    for part in path.parts[:-1]:
        if match := _SPLIT.fullmatch(part):
            return match[1].lower()
    return None


def images_below(folder: Path) -> Iterator[Path]:
    """Image files in a folder and the folders in it, in order. Raises UsageError: no such folder."""
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; name the folders of images and labels below the data's own")
    yield from (path for path in _below(folder) if path.suffix.lower() in IMAGE_SUFFIXES)


def label_finder() -> Callable[[Path], Path]:
    """From the path that a label should have to the one that it has: its suffix may be in capitals.

    Each folder is listed once, because looking for thousands of labels one by one would list it thousands of times.
    """

    @functools.cache
    def listed(folder: Path, suffix: str) -> dict[str, Path]:
        # of a.PNG and a.png the second stays, which is the usual one
        files = sorted(folder.iterdir()) if folder.is_dir() else []
        return {file.stem: file for file in files if file.suffix.lower() == suffix}

    return lambda usual: listed(usual.parent, usual.suffix).get(usual.stem, usual)


def files_below(folder: Path, suffix: str) -> list[Path]:
    """Files in a folder and the folders in it, in order, whose suffix may be in capitals."""
    return [path for path in _below(folder) if path.suffix.lower() == suffix] if folder.is_dir() else []


def _below(folder: Path, above: tuple[os.stat_result, ...] = ()) -> list[Path]:
    """Files in a folder and the folders in it, linked ones too, in order. Hidden ones, as Macs leave them, are none.

    Raises UsageError for a folder that can't be read.
    """
    try:
        above = (*above, folder.stat())
        paths = [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise UsageError(f"{folder}: cannot be read ({error.strerror})") from error
    found = [path for path in paths if path.is_file()]
    for path in paths:
        # a link to a folder above it would have no end
        if path.is_dir() and not any(os.path.samestat(path.stat(), one) for one in above):
            found += _below(path, above)
    return sorted(found)


def unique(items: list[Item]) -> tuple[list[Item], list[LeftOut]]:
    """Items with different names. Splits that use the same ones get theirs before them, and so do folders; of a.jpg and
    a.png in the same place, which would share a label, the first stays. The lists of names are UTF-8, so the names must
    be."""
    items = _with_folders(items)
    splits: dict[str, set[str | None]] = {}
    for item in items:
        splits.setdefault(item.name, set()).add(item.split)
    kept: dict[str, Item] = {}
    left_out: list[LeftOut] = []
    for item in items:
        name = item.name.strip()  # a list of names, one a line, knows no spaces around them
        if len(splits[item.name]) > 1 and item.split:
            name = f"{item.split}__{name}"
        if shown(name) != name:
            reason = "its name is not UTF-8; rename it, and its label likewise"
            left_out.append(LeftOut(item.image, "bad name", reason))
        elif name in kept:
            left_out.append(LeftOut(item.image, "same name", f"has the name of {kept[name].image}"))
        else:
            kept[name] = replace(item, name=name)
    return list(kept.values()), left_out


def _with_folders(items: list[Item]) -> list[Item]:
    """Where folders of a split have the same names (h1/images/0.jpg, h2/images/0.jpg), what differs in the folders goes
    before the names (h1__0): of all in the split, so that --group can tell houses by it."""
    folders: defaultdict[tuple[str, str | None], set[tuple[str, ...]]] = defaultdict(set)
    for item in items:
        folders[item.name, item.split].add(_folder(item))
    for split in {split for (_, split), found in folders.items() if len(found) > 1}:
        mine = set().union(*(found for (_, its), found in folders.items() if its == split))
        start = _shared(mine)
        end = _shared({folder[start:][::-1] for folder in mine})
        before = {folder: "__".join([*folder[start : len(folder) - end], ""]) for folder in mine}
        items = [
            replace(item, name=before[_folder(item)] + item.name) if item.split == split else item
            for item in items
        ]
    return items


def _folder(item: Item) -> tuple[str, ...]:
    """Where the image is, without what its name tells already."""
    parts = item.image.with_suffix("").parts
    inside = (count for count in range(1, len(parts)) if "__".join(parts[-count:]) == item.name)
    return parts[: -next(inside, 1)]


def _shared(paths: set[tuple[str, ...]]) -> int:
    """How many parts all of them begin with."""
    return next(
        (n for n, parts in enumerate(zip(*paths, strict=False)) if len(set(parts)) > 1), min(map(len, paths))
    )


def read_text(path: Path) -> str:
    """Raises UsageError: for the files that the user names as options."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not text in UTF-8: {error}") from error


def read_names(path: Path) -> dict[int, str]:
    """Class names, one a line; the value is the line's number from 0, or stands before the name: `255 floor`."""
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    numbered = [re.fullmatch(r"(\d+)[\s,:]+(.+)", line) for line in lines]
    if any(numbered) and not all(numbered):
        valued, stray = (
            lines[next(n for n, match in enumerate(numbered) if match)],
            lines[numbered.index(None)],
        )
        raise DatasetError(
            f"{path}: {valued!r} begins with a value and {stray!r} does not; number all lines, as `0 {stray}`, or none"
        )
    if lines and all(numbered):
        names = {int(match[1]): match[2] for match in numbered if match}
    else:
        names = dict(enumerate(lines))
    check_names(names, len(lines), path)
    return names


def check_names(names: Mapping[int, str], count: int, path: Path) -> None:
    """Raises DatasetError: none, the same name or value twice, values beyond 65535."""
    if not names or len(names) < count or len(set(names.values())) < len(names):
        raise DatasetError(f"{path}: expected class names, each with its own value, got {count} lines")
    if max(names) > MAX_SOURCE_VALUE:
        raise DatasetError(f"{path}: value {max(names)}, expected 0 to {MAX_SOURCE_VALUE}")
