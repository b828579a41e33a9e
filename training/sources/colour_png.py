"""Labels as PNGs whose colours are the classes, with a palette file: lines of `R G B name`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from segserve.errors import DatasetError
from training.sources.index_png import found, open_png, pairs
from training.sources.item import BadPair, Found, Item, check_names, check_size, read_text

_LINE = re.compile(r"(\d+)[\s,]+(\d+)[\s,]+(\d+)[\s,:]+(.+)")
SHOWN_COLOURS = 5


@dataclass(frozen=True)
class ColourSource:
    """Source value = line of the palette file. A name may have several colours."""

    sized: ClassVar[bool] = True
    names: Mapping[int, str]
    colours: tuple[tuple[int, int], ...]  # (R << 16 | G << 8 | B, source value), sorted

    def read(self, item: Item, height: int, width: int) -> NDArray[np.int32]:
        with open_png(item.label) as png:
            rgb = np.asarray(png.convert("RGB")).astype(np.int32)
        check_size(item, rgb.shape[0], rgb.shape[1], height, width)
        packed = rgb[..., 0] << 16 | rgb[..., 1] << 8 | rgb[..., 2]
        known = np.array([colour for colour, _ in self.colours], np.int32)
        at = np.minimum(np.searchsorted(known, packed), len(known) - 1)
        unknown = known[at] != packed
        if unknown.any():
            raise BadPair("unknown value", _unknown_colours(packed[unknown]))
        values: NDArray[np.int32] = np.array([value for _, value in self.colours], np.int32)[at]
        return values


def find(root: Path, images: Sequence[str], labels: Sequence[str], palette: Path) -> Found:
    """palette: lines of `R G B name`. Raises DatasetError, UsageError."""
    return found(read_palette(palette), *pairs(root, images, labels))


def read_palette(path: Path) -> ColourSource:
    """Raises DatasetError: a line that is none, a colour twice."""
    values: dict[str, int] = {}
    colours: dict[int, int] = {}
    lines = [line.strip() for line in read_text(path).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        match = _LINE.fullmatch(line)
        if not match or max(map(int, match.groups()[:3])) > 255:
            raise DatasetError(f"{path}: line {line!r}, expected `R G B name`, each colour 0 to 255")
        red, green, blue = map(int, match.groups()[:3])
        colours[red << 16 | green << 8 | blue] = values.setdefault(match[4], len(values))
    if len(colours) < len(lines):
        raise DatasetError(f"{path}: {len(lines)} lines with {len(colours)} different colours")
    names = {value: name for name, value in values.items()}
    check_names(names, len(names), path)
    return ColourSource(names, tuple(sorted(colours.items())))


def _unknown_colours(packed: NDArray[np.int32]) -> str:
    colours, counts = np.unique(packed, return_counts=True)
    most = colours[np.argsort(-counts)][:SHOWN_COLOURS]
    shown = ", ".join(f"{colour >> 16} {colour >> 8 & 255} {colour & 255}" for colour in most)
    return f"{packed.size} pixels of {len(colours)} colours that the palette does not have, most of {shown}"
