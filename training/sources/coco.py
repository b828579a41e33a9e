"""COCO: a JSON file with the polygons and run lengths of a folder of images.

COCO doesn't order what overlaps, so larger objects are painted first and smaller ones over them. A crowd is painted
as its class. Annotations without an outline (boxes alone) make the image a bad one, listed with the reason.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from segserve.errors import DatasetError, UsageError
from training.description import IMAGE_SUFFIXES
from training.sources import rle
from training.sources.index_png import found
from training.sources.item import (
    UNLABELLED,
    BadPair,
    Found,
    Item,
    LeftOut,
    check_names,
    check_size,
    images_below,
    other_suffix,
    read_text,
    split_of,
    unique,
)
from training.sources.polygons import inside_polygon


@dataclass(frozen=True)
class CocoSource:
    """Source value = category id, the first one of a name."""

    sized: ClassVar[bool] = True  # the file says how large each image is
    names: Mapping[int, str]
    of_id: Mapping[int, int]  # category id → source value

    def read(self, item: Item, height: int, width: int) -> NDArray[np.int32]:
        if item.size is not None:
            check_size(item, *item.size, height, width)
        values = np.full((height, width), UNLABELLED, np.int32)
        found = ((*_cropped(self._mask(one, height, width)), one["category_id"]) for one in item.annotations)
        for box, inside, category in sorted(found, key=lambda one: -int(one[1].sum())):
            values[box][inside] = self.of_id[category]
        return values

    def _mask(self, annotation: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
        where = f"annotation {annotation['id']}"
        if (category := annotation["category_id"]) not in self.of_id:
            raise BadPair(
                "unknown value", f"{where}: category {category!r}, which the file does not describe"
            )
        shape = annotation["segmentation"]
        try:
            if isinstance(shape, dict):
                if list(shape["size"]) != [height, width]:
                    raise BadPair("size", f"{where}: runs of {shape['size']}, image {[height, width]}")
                return rle.decode(shape["counts"], height, width)
            if isinstance(shape, list) and shape:
                return _polygons(shape, height, width)
        except (ValueError, LookupError, TypeError, ArithmeticError) as error:
            raise BadPair("unreadable label", f"{where}: {error}") from error
        raise BadPair("unreadable label", f"{where}: no outline, only a box")


def _cropped(mask: NDArray[np.bool_]) -> tuple[tuple[slice, slice], NDArray[np.bool_]]:
    """The box around its pixels, and what is in that: a photo of 24 megapixels may have a hundred objects."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(rows):
        return (slice(0), slice(0)), mask[:0, :0]
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    return box, mask[box].copy()


def _polygons(polygons: list[list[float]], height: int, width: int) -> NDArray[np.bool_]:
    mask = np.zeros((height, width), np.bool_)
    for polygon in polygons:
        outline = np.array(polygon, np.float64).reshape(-1, 2)
        if len(outline) < 3 or not np.isfinite(outline).all():
            raise ValueError(f"a polygon of {len(outline)} points, expected 3 or more")
        mask |= inside_polygon(outline, height, width)
    return mask


def find(root: Path, images: Sequence[str], labels: Sequence[str]) -> Found:
    """labels: a JSON file for each folder of images. Raises DatasetError, UsageError."""
    names: dict[int, str] = {}
    items: list[Item] = []
    left_out: list[LeftOut] = []
    # a file may name its images by their whole paths, or with `..`
    there = {folder: {os.path.abspath(one): one for one in images_below(root / folder)} for folder in images}
    for folder, file in zip(images, labels, strict=True):
        table = _read(root / file)
        listed = _categories(table, root / file)
        if any(names.get(value, name) != name for value, name in listed.items()):
            raise DatasetError(f"{root / file}: other categories than in {labels[0]}; prepare them apart")
        names |= listed
        more, missing = _items(table, root, folder, there[folder], root / file)
        items += more
        left_out += missing
    for folder, files in there.items():
        its = ", ".join(file for where, file in zip(images, labels, strict=True) if where == folder)
        unnamed = set(files.values()) - {item.image for item in items}
        left_out += [LeftOut(image, "no label", f"not in {its}") for image in sorted(unnamed)]
    ids, of_id = one_a_name(names)
    check_names(ids, len(ids), root / labels[0])
    kept, doubled = unique(_joined(items))
    return found(CocoSource(ids, of_id), kept, left_out + doubled)


def _categories(table: dict[str, Any], file: Path) -> dict[int, str]:
    """Raises DatasetError: two names of one id."""
    listed: dict[int, str] = {}
    for entry in table["categories"]:
        if listed.setdefault(entry["id"], entry["name"]) != entry["name"]:
            raise DatasetError(
                f"{file}: category {entry['id']} is {listed[entry['id']]!r} and {entry['name']!r}; which one is it?"
            )
    return listed


def _joined(items: Sequence[Item]) -> list[Item]:
    """One item for an image that is listed more than once, as where jobs or files were merged, with all annotations."""
    first: dict[tuple[Path, str | None], Item] = {}
    for item in items:
        at = item.image, item.split
        known = first.setdefault(at, item)
        if known is not item:
            first[at] = replace(known, annotations=known.annotations + item.annotations)
    return list(first.values())


def one_a_name(names: dict[int, str]) -> tuple[dict[int, str], dict[int, int]]:
    """One id for each name, the first, and for each id that of its name: exports name a group as its only class."""
    first: dict[str, int] = {}
    of_id = {value: first.setdefault(name, value) for value, name in names.items()}
    return {value: name for name, value in first.items()}, of_id


def split_named(file: Path) -> str | None:
    """The split that a word of a file's name is, as of `instances_val2017.json`."""
    return next(filter(None, (split_of(Path(word, "x")) for word in file.stem.split("_"))), None)


def _items(
    table: dict[str, Any], root: Path, folder: str, there: Mapping[str, Path], file: Path
) -> tuple[list[Item], list[LeftOut]]:
    of_image: defaultdict[Any, list[dict[str, Any]]] = defaultdict(list)
    for entry in table["annotations"]:
        kept = {key: entry.get(key) for key in ("id", "category_id", "segmentation")}
        of_image[entry["image_id"]].append(kept)
    items: list[Item] = []
    left_out: list[LeftOut] = []
    file_of: dict[int, str] = {}
    for entry in table["images"]:
        if entry["id"] in file_of and file_of[entry["id"]] == entry["file_name"]:
            continue  # the same, once more
        if file_of.setdefault(entry["id"], entry["file_name"]) != entry["file_name"]:
            one, other = file_of[entry["id"]], entry["file_name"]
            raise DatasetError(
                f"{file}: image {entry['id']} is {one} and {other}; whose annotations are its?"
            )
        named = root / folder / entry["file_name"].replace("\\", "/")
        image = there.get(os.path.abspath(named))
        if image is None:
            left_out.append(_not_there(named, file))
            continue
        inside = image.relative_to(root / folder)
        name = "__".join(inside.with_suffix("").parts)
        split = split_of(Path(folder) / inside) or split_named(file)
        size = (entry["height"], entry["width"])
        items.append(Item(name, image, file, split, tuple(of_image[entry["id"]]), size))
    if strangers := sum(len(found) for image, found in of_image.items() if image not in file_of):
        left_out.append(
            LeftOut(file, "no image", f"{strangers} annotations are of images that it does not list")
        )
    return items, left_out


def _not_there(image: Path, file: Path) -> LeftOut:
    if image.is_file() and image.suffix.lower() not in IMAGE_SUFFIXES:
        return other_suffix(image)
    return LeftOut(image, "no image", f"{file} has it, the folder has not")


def _read(path: Path) -> dict[str, Any]:
    try:
        table = json.loads(read_text(path))
    except ValueError as error:
        raise DatasetError(f"{path}: not JSON: {error}") from error
    needed: dict[str, dict[str, type]] = {
        "images": {"id": int, "file_name": str, "height": int, "width": int},
        "annotations": {"image_id": int, "category_id": int},
        "categories": {"id": int, "name": str},
    }
    for key, fields in needed.items():
        entries = table.get(key) if isinstance(table, dict) else None
        if not isinstance(entries, list) or not all(
            isinstance(entry, dict)
            and all(isinstance(entry.get(name), kind) for name, kind in fields.items())
            for entry in entries
        ):
            wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
            raise UsageError(f"{path}: expected COCO's {key}, each with {wanted}")
    return table  # type: ignore[no-any-return]
