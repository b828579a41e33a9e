"""Labels that say only what a pixel is not: how descriptions name them and label maps hold them.

A mask of floors says of each pixel that it is floor or that it is not, but not what else. In a dataset's description:

    [partial]
    254 = ["floor"]      # label value 254 in the files: any class but these

In memory such pixels carry a value above the classes too (`NotThese.value`), counted down from 255 past the ignore
label, and the same for all datasets that are trained on together. The loss for them is in `training/partial.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segserve.errors import DatasetError

ClassSet = tuple[int, ...]
"""Labels in order, at least one and not all."""
Partial = tuple[tuple[int, ClassSet], ...]
"""Label values of a dataset's files, each with the classes that its pixels are not."""


@dataclass(frozen=True)
class NotThese:
    """Pixels that have `value` in a label map in memory are of any class but `classes`."""

    value: int
    classes: ClassSet


def class_set(names: Any, classes: Sequence[str], where: str) -> ClassSet:
    """The labels of a list of names. Raises DatasetError: not one, strange names, none, or all of them."""
    if not isinstance(names, list) or not all(name in classes for name in names):
        raise DatasetError(f"{where}: {names!r}, expected a list of names among {', '.join(classes)}")
    found = tuple(sorted({classes.index(name) for name in names}))
    if not 0 < len(found) < len(classes):
        raise DatasetError(
            f"{where}: {names!r} leaves {len(classes) - len(found)} of {len(classes)} classes, expected to rule out "
            "some and leave some"
        )
    return found


def read(table: Any, classes: Sequence[str], ignored: Iterable[int], where: str) -> Partial:
    """[partial] of a description. Raises DatasetError."""
    if not isinstance(table, dict):
        raise DatasetError(
            f"{where}: partial is {table!r}, expected a table: label value = classes it is not"
        )
    found = []
    for key, names in table.items():
        if (
            not (key.isdecimal() and str(int(key)) == key)
            or not len(classes) <= int(key) <= 255
            or int(key) in ignored
        ):
            raise DatasetError(
                f"{where}, partial: label value {key!r}, expected one from {len(classes)} (below are the classes) to "
                f"255 that is not ignored ({sorted(ignored)})"
            )
        found.append((int(key), class_set(names, classes, f"{where}, partial.{key}")))
    return tuple(found)


def number(sets: Iterable[ClassSet], num_classes: int, ignore_label: int) -> tuple[NotThese, ...]:
    """Give each different set a value of its own, in the order given. Raises DatasetError: too many of them."""
    different = list(dict.fromkeys(sets))
    free = [value for value in range(255, num_classes - 1, -1) if value != ignore_label]
    if len(different) > len(free):
        raise DatasetError(
            f"{len(different)} different sets in [partial], but above {num_classes} classes and the ignore label "
            f"only {len(free)} label values are free: train on fewer such datasets at once"
        )
    return tuple(NotThese(value, classes) for value, classes in zip(free, different, strict=False))


def hidden(label: NDArray[np.uint8], not_these: Sequence[NotThese], ignore_label: int) -> NDArray[np.uint8]:
    """The same label map, uint8 (H, W), with the pixels of `not_these` ignored."""
    values = [item.value for item in not_these]
    return np.where(np.isin(label, values), np.uint8(ignore_label), label) if values else label
