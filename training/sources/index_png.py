"""Labels as PNGs whose pixel values are the classes, ADE20K's SceneParse150 among them.

Grey of 1 to 16 bits, palettes, and grey saved as RGB. Pillow stretches grey of 2 and 4 bits to 0..255: undone here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.sources.item import (
    UNLABELLED,
    BadPair,
    Found,
    Item,
    LeftOut,
    Source,
    check_size,
    files_below,
    images_below,
    label_finder,
    read_names,
    split_of,
    unique,
)

ADE20K_NAMES = Path(__file__).parent / "ade20k150.txt"
USUAL_IGNORE = 255


@dataclass(frozen=True)
class IndexSource:
    """Pixel value = source value; 255 is unlabelled unless it has a name, or is ignored by name."""

    sized: ClassVar[bool] = True
    names: Mapping[int, str]
    unlabelled: int | None = USUAL_IGNORE

    def read(self, item: Item, height: int, width: int) -> NDArray[np.int32]:
        values = read_png(item.label, hint="; --format colour?")
        check_size(item, values.shape[0], values.shape[1], height, width)
        if self.unlabelled is not None and self.unlabelled not in self.names:
            values[values == self.unlabelled] = UNLABELLED
        return values


def read_png(path: Path, hint: str = "") -> NDArray[np.int32]:
    """Pixel values as stored, int32 (H, W), a copy. Raises BadPair; `hint`: what to do where they are colours."""
    with open_png(path) as png:
        depth, mode = _depth(path), png.mode
        pixels = np.asarray(png)
    if mode in ("RGB", "RGBA") and (pixels[..., :3] == pixels[..., :1]).all():
        return pixels[..., 0].astype(np.int32)
    if mode not in ("1", "L", "P", "I;16", "I"):
        raise BadPair("unreadable label", f"a PNG of mode {mode}, expected values in one channel{hint}")
    values = pixels.astype(np.int32)
    return values // (255 // (2**depth - 1)) if mode == "L" and depth < 8 else values


def open_png(path: Path) -> Image.Image:
    """A loaded PNG. Raises BadPair: not one, broken, or of more bits than Pillow keeps."""
    try:
        png = Image.open(path, formats=["PNG"])
        png.load()
    except Exception as error:  # Pillow raises some twenty types on corrupt files: no list stays complete
        raise BadPair("unreadable label", f"not a readable PNG: {error}") from error
    if _depth(path) == 16 and png.mode in ("RGB", "RGBA"):
        raise BadPair(
            "unreadable label", "a PNG of 16 bits a colour; save it as one channel, or as 8 bits a colour"
        )
    return png


def _depth(path: Path) -> int:
    """Bits of a sample, as the PNG's header says."""
    with path.open("rb") as file:
        return file.read(25)[24]


def pairs(
    root: Path, images: Sequence[str], labels: Sequence[str], suffix: str = ".png"
) -> tuple[list[Item], list[LeftOut]]:
    """Images with the label of the same relative path and stem. Raises UsageError: no such folder."""
    items: list[Item] = []
    left_out: list[LeftOut] = []
    label_of = label_finder()
    for images_folder, labels_folder in zip(images, labels, strict=True):
        used = set()
        beside = (root / labels_folder).is_relative_to(root / images_folder)
        for image in images_below(root / images_folder):
            if (
                beside
                and image.is_relative_to(root / labels_folder)
                and label_of(image.with_suffix(suffix)) == image
            ):
                continue  # a label: they are in the folder of the images, or in one inside it
            inside = image.relative_to(root / images_folder)
            label = label_of((root / labels_folder / inside).with_suffix(suffix))
            used |= {label, image}
            if label.is_file():
                name = "__".join(inside.with_suffix("").parts)
                items.append(Item(name, image, label, split_of(Path(images_folder) / inside)))
            else:
                left_out.append(LeftOut(image, "no label", f"expected {label}"))
        left_out += [
            LeftOut(label, "no image", f"none of that name in {root / images_folder}")
            for label in files_below(root / labels_folder, suffix)
            if label not in used
        ]
    kept, doubled = unique(items)
    return kept, left_out + doubled


def find(
    root: Path, images: Sequence[str], labels: Sequence[str], names: Path, ignored: Sequence[str] = ()
) -> Found:
    """names: a file as `read_names` reads it. ignored: values that are, whatever unlabelled pixels become."""
    source = IndexSource(read_names(names), _unless(USUAL_IGNORE, ignored))
    return found(source, *pairs(root, images, labels))


def find_ade20k(
    root: Path, images: Sequence[str], labels: Sequence[str], ignored: Sequence[str] = ()
) -> Found:
    """SceneParse150: 0 is "other objects", so unlabelled, and 1 is the first class."""
    names = {value + 1: name for value, name in read_names(ADE20K_NAMES).items()}
    return found(IndexSource(names, _unless(0, ignored)), *pairs(root, images, labels))


def _unless(value: int, ignored: Sequence[str]) -> int | None:
    return None if str(value) in ignored else value


def found(source: Source, items: list[Item], left_out: list[LeftOut]) -> Found:
    return Found(source, tuple(items), tuple(left_out))
