"""Read a dataset's description, a small TOML file, and find the files that it names.

    name = "camvid"
    classes = ["Sky", "Building"]    # label value = index
    ignore_label = 255               # what ignored pixels become (255 if left out)
    ignore_values = [11]             # label values in the files that are ignored as well (optional)
    [partial]                        # optional: label values that say only what a pixel is not
    254 = ["Sky"]                    # any class but these; see training/label_sets.py
    [splits.train]
    images = "train"                 # folder; every image in it has a label of the same stem, .png, in `labels`
    labels = "train_labels"
    list = "train.txt"               # optional: only these stems, one a line

Paths are relative to the folder of the TOML file, or to `--root` where a command has it. Everything is checked
before the first image is read, so that a long run does not end at a file that was missing from the start.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segserve.errors import DatasetError
from segserve.labels import IGNORE_LABEL
from training import label_sets

IMAGE_SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})


@dataclass(frozen=True)
class Sample:
    """One photo and its label map."""

    image: Path
    label: Path


@dataclass(frozen=True)
class Labels:
    """What the values in the label files mean."""

    name: str  # of the dataset
    classes: tuple[str, ...]
    ignore_label: int
    ignore_values: tuple[int, ...]
    partial: label_sets.Partial


def read(description: Path) -> dict[str, Any]:
    """The TOML table, its keys checked. Raises DatasetError."""
    try:
        table = tomllib.loads(description.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise DatasetError(
            f"{description}: cannot be read ({error.strerror}); it should be a TOML file"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{description}: not TOML: {error}") from error
    optional = {"ignore_label", "ignore_values", "partial"}
    _check_keys(table, {"name", "classes", "splits"}, optional, str(description))
    return table


def labels(table: dict[str, Any], where: Path) -> Labels:
    """Classes and ignored values. Raises DatasetError."""
    name, classes = table["name"], table["classes"]
    ignore_label, ignore_values = table.get("ignore_label", IGNORE_LABEL), table.get("ignore_values", [])
    if not isinstance(name, str) or not name:
        raise DatasetError(f"{where}: name is {name!r}, expected text")
    if not isinstance(classes, list) or not all(isinstance(item, str) and item for item in classes):
        raise DatasetError(f"{where}: classes is {classes!r}, expected a list of names")
    if not 1 <= len(classes) <= 255 or len(set(classes)) != len(classes):
        raise DatasetError(f"{where}: {len(classes)} classes, expected 1 to 255 different names")
    if not isinstance(ignore_values, list):
        raise DatasetError(f"{where}: ignore_values is {ignore_values!r}, expected a list of label values")
    for value in (ignore_label, *ignore_values):
        if type(value) is not int or not len(classes) <= value <= 255:
            raise DatasetError(
                f"{where}: ignored value {value!r}, expected an integer from {len(classes)} "
                f"(0 to {len(classes) - 1} are classes) to 255"
            )
    ignored = {ignore_label, *ignore_values}
    partial = label_sets.read(table.get("partial", {}), classes, ignored, str(where))
    return Labels(name, tuple(classes), ignore_label, tuple(ignore_values), partial)


def samples(table: dict[str, Any], split: str, root: Path, where: Path) -> tuple[Sample, ...]:
    """The files of a split, in the order of the list or of their names. Raises DatasetError."""
    splits = table["splits"]
    if not isinstance(splits, dict) or split not in splits:
        known = ", ".join(splits) if isinstance(splits, dict) else "none"
        raise DatasetError(f"{where}: no split '{split}' (splits there: {known})")
    entry, place = splits[split], f"{where}, splits.{split}"
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise DatasetError(f"{place}: expected a table of text: images, labels and, optionally, list")
    _check_keys(entry, {"images", "labels"}, {"list"}, place)
    return _find(root, entry, place)


def is_photo(path: Path) -> bool:
    """By its name. macOS puts a hidden file beside every one that it copies: "._a.jpg", which is none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def shown(text: object) -> str:
    """As every file and terminal takes it: file names that are not UTF-8 with backslash escapes."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def _find(root: Path, entry: dict[str, str], where: str) -> tuple[Sample, ...]:
    images_folder, labels_folder = root / entry["images"], root / entry["labels"]
    for folder in (images_folder, labels_folder):
        if not folder.is_dir():
            raise DatasetError(f"{where}: no folder {folder}; give the folder of the data as root")
    images: dict[str, Path] = {}
    for path in sorted(images_folder.iterdir()):
        if is_photo(path):
            if path.stem in images:
                raise DatasetError(
                    f"{where}: {images[path.stem]} and {path.name} would share one label; remove one"
                )
            images[path.stem] = path
    stems = _read_list(root / entry["list"], images) if "list" in entry else list(images)
    found = tuple(Sample(images[stem], labels_folder / f"{stem}.png") for stem in stems)
    if not found:
        raise DatasetError(
            f"{where}: no images in {images_folder} (looked for {', '.join(sorted(IMAGE_SUFFIXES))})"
        )
    unlabelled = [sample for sample in found if not sample.label.is_file()]
    if unlabelled:
        first = unlabelled[0]
        raise DatasetError(
            f"{where}: {len(unlabelled)} of {len(found)} images have no label, "
            f"first {first.image}: expected {first.label}"
        )
    return found


def _read_list(path: Path, images: dict[str, Path]) -> list[str]:
    try:
        stems = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: the list of stems cannot be read: {error}") from error
    missing = [stem for stem in stems if stem not in images]
    if missing:
        raise DatasetError(
            f"{path}: {len(missing)} of {len(stems)} stems have no image, first '{missing[0]}'"
        )
    return stems


def _check_keys(table: dict[str, Any], needed: set[str], optional: set[str], where: str) -> None:
    missing, unknown = sorted(needed - set(table)), sorted(set(table) - needed - optional)
    if missing or unknown:
        raise DatasetError(
            f"{where}: missing keys {missing}, unknown keys {unknown}; "
            f"expected {sorted(needed)}, optionally {sorted(optional)}"
        )
