"""YOLO polygons: `…/images/NAME.jpg` beside `…/labels/NAME.txt`, names in data.yaml.

A line of a label file is a class number and x y pairs, each 0 to 1. YOLO doesn't order what overlaps, so larger
objects are painted first, or a table would cover the plant on it. Boxes (four numbers) are refused: no outlines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import yaml
from numpy.typing import NDArray

from segserve.errors import DatasetError, UsageError
from training.sources.index_png import found
from training.sources.item import (
    UNLABELLED,
    BadPair,
    Found,
    Item,
    LeftOut,
    check_names,
    files_below,
    images_below,
    label_finder,
    read_names,
    read_text,
    split_of,
    unique,
)
from training.sources.polygons import area, fill

BOX_NUMBERS = 4
LAYOUT = "expected …/images/NAME.jpg beside …/labels/NAME.txt"
OUTSIDE = 0.01  # an outline may run past the edge by so much of the image: exports round


@dataclass(frozen=True)
class YoloSource:
    """Source value = class number."""

    sized: ClassVar[bool] = False  # coordinates are shares of the image, whichever way it is turned
    names: Mapping[int, str]

    def read(self, item: Item, height: int, width: int) -> NDArray[np.int32]:
        try:
            lines = item.label.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise BadPair("unreadable label", f"not a text file: {error}") from error
        parsed = [self._parse(line, number) for number, line in enumerate(lines, 1) if line.strip()]
        values = np.full((height, width), UNLABELLED, np.int32)
        for value, outline in sorted(parsed, key=lambda pair: -area(pair[1])):
            fill(values, outline * (width, height), value)
        return values

    def _parse(self, line: str, number: int) -> tuple[int, NDArray[np.float64]]:
        try:
            value, *coordinates = int(line.split()[0]), *map(float, line.split()[1:])
        except ValueError as error:
            raise BadPair("unreadable label", f"line {number}: not numbers: {line[:40]!r}") from error
        if value not in self.names:
            raise BadPair(
                "unknown value", f"line {number}: class {value}, expected one of {sorted(self.names)}"
            )
        if len(coordinates) == BOX_NUMBERS:
            raise BadPair("unreadable label", f"line {number}: a box, expected a polygon")
        if len(coordinates) < 6 or len(coordinates) % 2:
            raise BadPair(
                "unreadable label", f"line {number}: {len(coordinates)} coordinates, expected 3 or more pairs"
            )
        outline = np.array(coordinates, np.float64).reshape(-1, 2)
        if not (np.isfinite(outline).all() and outline.min() >= -OUTSIDE and outline.max() <= 1 + OUTSIDE):
            raise BadPair(
                "unreadable label", f"line {number}: coordinates outside the image, expected 0 to 1"
            )
        return value, outline


def find(root: Path, names: Path | None) -> Found:
    """names: data.yaml, or a text file of names; ROOT/data.yaml if left out. Raises DatasetError, UsageError."""
    names = names or root / "data.yaml"
    source = YoloSource(_read_yaml(names) if names.suffix in (".yaml", ".yml") else read_names(names))
    images, outside = _images(root)
    items: list[Item] = []
    left_out = [LeftOut(image, "no label", f"not in a folder images/: {LAYOUT}") for image in outside]
    label_of = label_finder()
    for image in images:
        parts = image.relative_to(root).parts
        at = len(parts) - 1 - parts[::-1].index("images")
        label = label_of(root.joinpath(*parts[:at], "labels", *parts[at + 1 :]).with_suffix(".txt"))
        if label.is_file():
            # the folder before or after "images" may be the split's, which is no part of the name
            name = "__".join(Path(*parts[at + 1 :]).with_suffix("").parts)
            items.append(Item(name, image, label, split_of(Path(*parts))))
        else:
            left_out.append(LeftOut(image, "no label", f"expected {label}"))
    left_out += _without_image(root, {item.label for item in items})
    kept, doubled = unique(items)
    return found(source, kept, left_out + doubled)


def _images(root: Path) -> tuple[list[Path], list[Path]]:
    """Those in folders images/, and others that have a label beside them. Raises UsageError: no such folder.

    Others without one are plots and previews of a training.
    """
    inside: list[Path] = []
    outside: list[Path] = []
    for image in images_below(root):
        place = inside if "images" in image.relative_to(root).parts[:-1] else outside
        place.append(image)
    if not inside:
        others = f", but {len(outside)} elsewhere, as {outside[0].relative_to(root)}" if outside else ""
        raise UsageError(f"{root}: no image in a folder images/{others}; {LAYOUT}")
    return inside, [image for image in outside if image.with_suffix(".txt").is_file()]


def _without_image(root: Path, used: set[Path]) -> list[LeftOut]:
    labels = (path for path in files_below(root, ".txt") if "labels" in path.relative_to(root).parts[:-1])
    return [LeftOut(path, "no image", "no image of that name") for path in labels if path not in used]


def _read_yaml(path: Path) -> dict[int, str]:
    """`names` as a list, or as a table from number to name."""
    try:
        table = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise DatasetError(f"{path}: not YAML: {error}") from error
    listed = table.get("names") if isinstance(table, dict) else None
    if isinstance(listed, list):
        listed = dict(enumerate(listed))
    if not isinstance(listed, dict) or not all(
        isinstance(value, int) and isinstance(name, str) for value, name in listed.items()
    ):
        raise UsageError(f"{path}: expected `names`, a list of class names; or give --names FILE")
    check_names(listed, len(listed), path)
    return listed
