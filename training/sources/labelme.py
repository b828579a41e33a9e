"""labelme: a JSON file for each image, which names it. Polygons, rectangles, circles and masks; later ones on top."""

from __future__ import annotations

import base64
import io
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segserve.errors import UsageError
from training.description import IMAGE_SUFFIXES
from training.sources.index_png import found
from training.sources.item import (
    UNLABELLED,
    BadPair,
    Found,
    Item,
    LeftOut,
    check_size,
    files_below,
    images_below,
    other_suffix,
    read_names,
    split_of,
    unique,
)
from training.sources.polygons import fill

CIRCLE_POINTS = 64
DAMAGED = (ValueError, LookupError, TypeError, ArithmeticError, OSError, RecursionError)
"""What a file that is no labelme file, or was torn, may lead to."""


@dataclass(frozen=True)
class LabelmeSource:
    """Source value = position among the names."""

    sized: ClassVar[bool] = True
    names: Mapping[int, str]

    def read(self, item: Item, height: int, width: int) -> NDArray[np.int32]:
        try:
            table = _read(item.label)
            label_height, label_width = table.get("imageHeight"), table.get("imageWidth")
            if label_height is not None and label_width is not None:  # early versions wrote none
                check_size(item, int(label_height), int(label_width), height, width)
            values = np.full((height, width), UNLABELLED, np.int32)
            of_name = {name: value for value, name in self.names.items()}
            for shape in table["shapes"]:
                if shape["label"] not in of_name:
                    raise BadPair("unknown value", f"label {shape['label']!r}, which --names does not have")
                _paint(values, shape, of_name[shape["label"]])
        except DAMAGED as error:
            raise BadPair("unreadable label", f"not as labelme writes it: {error!r}") from error
        return values


def _paint(values: NDArray[np.int32], shape: dict[str, Any], value: int) -> None:
    kind = shape.get("shape_type", "polygon")
    points = np.array(shape["points"], np.float64).reshape(-1, 2)
    if not np.isfinite(points).all():
        raise ValueError("a point that is not a number")
    # X-AnyLabeling writes the four corners of a rectangle, labelme two of them
    if (kind == "polygon" and len(points) >= 3) or (kind == "rectangle" and len(points) == 4):
        fill(values, points, value)
    elif kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        fill(values, np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]), value)
    elif kind == "circle" and len(points) == 2:
        turn = np.linspace(0, 2 * math.pi, CIRCLE_POINTS, endpoint=False)
        radius = float(np.hypot(*(points[1] - points[0])))
        fill(values, points[0] + radius * np.stack([np.cos(turn), np.sin(turn)], axis=1), value)
    elif kind == "mask" and len(points) == 2:
        _paint_mask(values, shape["mask"], points, value)
    else:
        raise BadPair("unreadable label", f"a {kind} of {len(points)} points, which covers no pixels")


def _paint_mask(values: NDArray[np.int32], mask: str, box_xy: NDArray[np.float64], value: int) -> None:
    """A PNG in base64, laid on its box (first and last pixel)."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(mask)), formats=["PNG"]) as png:
            inside = np.asarray(png.convert("L")) > 0
    except Exception as error:  # Pillow raises some twenty types on corrupt files, SyntaxError among them
        raise BadPair("unreadable label", f"a mask that is not a readable PNG: {error}") from error
    left, top = (round(number) for number in box_xy[0])
    place = values[max(0, top) : top + inside.shape[0], max(0, left) : left + inside.shape[1]]
    inside = inside[max(0, -top) :, max(0, -left) :][: place.shape[0], : place.shape[1]]
    place[inside] = value


def find(root: Path, names: Path | None) -> Found:
    """names: a text file; the labels that the files have, in alphabetical order, if left out. Raises UsageError."""
    items: list[Item] = []
    left_out: list[LeftOut] = []
    labels: set[str] = set()
    root = root.resolve()
    images = set(images_below(root))
    of_stem = {image.with_suffix(""): image for image in sorted(images)}
    for file in files_below(root, ".json"):
        try:
            table = _read(file)
            image = _image_of(file, str(table["imagePath"]))
            labels |= {str(shape["label"]) for shape in table["shapes"]}
        except DAMAGED as error:
            left_out.append(LeftOut(file, "unreadable label", f"not as labelme writes it: {error!r}"))
            continue
        if not image.is_file():
            left_out.append(LeftOut(file, "no image", f"expected {image}"))
            continue
        images.discard(image)
        if image.suffix.lower() not in IMAGE_SUFFIXES:
            left_out.append(other_suffix(image))
            continue
        own = None if image.stem == file.stem else of_stem.get(file.with_suffix(""))
        if own is not None and not _fits_alone(image, own, table):
            # somebody renamed both; labelme itself shows the photo that is inside the file
            reason = (
                f"it names {image.name}, beside it is {own.name}: which one is labelled? Mend its imagePath"
            )
            left_out.append(LeftOut(file, "bad name", f"{reason}, or move {own.name} elsewhere"))
            continue
        inside = file.relative_to(root)
        name = "__".join(inside.with_suffix("").parts)
        items.append(Item(name, image, file, split_of(inside)))
    if names is None and not labels:
        raise UsageError(f"{root}: no labelme file with a shape in it; is it another --format?")
    left_out += [LeftOut(image, "no label", "no labelme file names it") for image in sorted(images)]
    kept, doubled = unique(items)
    source = LabelmeSource(read_names(names) if names else dict(enumerate(sorted(labels))))
    return found(source, kept, left_out + doubled)


def _image_of(file: Path, image_path: str) -> Path:
    """Where the file says, which on Windows was written with backslashes. Without `..`, so that the photo is known
    again, but not resolved: DVC and git-annex leave links to files that are elsewhere and called otherwise."""
    return Path(os.path.normpath(Path(*file.parent.parts, *image_path.replace("\\", "/").split("/"))))


def _fits_alone(image: Path, other: Path, table: dict[str, Any]) -> bool:
    """Whether the first of two photos has the size that the file tells, and the second has not."""
    told = {table.get("imageWidth"), table.get("imageHeight")}  # whichever way EXIF turns it
    return _sides(image) == told != _sides(other)


def _sides(image: Path) -> set[int] | None:
    try:
        with Image.open(image) as opened:
            return set(opened.size)
    except Exception:  # Pillow raises some twenty types on corrupt files, which are told elsewhere
        return None


def _read(path: Path) -> dict[str, Any]:
    table = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(table, dict):
        raise ValueError("not a table")
    return table
