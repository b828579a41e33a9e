"""Source classes → the classes of the dataset that comes out, by a small TOML file (examples: `training/remaps/`).

    classes = ["wall", "floor", "other"]   # of the dataset; a label is the position
    unlabelled = "ignore"                  # pixels that the source says nothing about (optional, as is)
    rest = "other"                         # source classes that [map] doesn't name (optional; without it, all must be)
    [map]
    "rug" = "floor"                        # "ignore" is a possible target too, and so is
    "background" = "not floor"             # any class but floor; several: "not floor, wall"

Partial labels: a source that knows floors only leaves open what the other pixels are. "ignore" makes them
`ignore_label`, which neither loss nor metrics count; "not floor" keeps that they are no floor (training/label_sets.py).
So sources that label different classes can be trained on together, as their class lists are the same.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segserve.errors import DatasetError, UsageError
from segserve.labels import IGNORE_LABEL
from training import label_sets
from training.label_sets import NotThese
from training.sources.item import UNLABELLED, BadPair, read_text

IGNORE = "ignore"
LABELME_IGNORE = "__ignore__"
"""labelme's own name of what does not count."""
UNKNOWN = -1
SHOWN_VALUES = 8
_NOT = re.compile(r"not\s+")


@dataclass(frozen=True)
class Remap:
    """Labels of a dataset with `classes`: source value (or UNLABELLED) → label."""

    classes: tuple[str, ...]
    labels: Mapping[int, int]
    not_these: tuple[NotThese, ...] = ()
    """Labels above the classes, and what their pixels are not."""

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) < IGNORE_LABEL or len(set(self.classes)) < len(self.classes):
            raise UsageError(
                f"{len(self.classes)} classes, expected 1 to {IGNORE_LABEL - 1} different ones; --table FILE joins some"
            )

    def apply(self, values: NDArray[np.int32]) -> NDArray[np.uint8]:
        """Labels uint8 (H, W) of source values (H, W). Raises BadPair: values without a class."""
        table = np.full(
            max(self.labels) + 3, UNKNOWN, np.int16
        )  # UNLABELLED is -1; the last is for all beyond
        for value, label in self.labels.items():
            table[value + 1] = label
        found = table[np.minimum(values, len(table) - 2) + 1]
        if found.min() == UNKNOWN:
            unknown, counts = np.unique(values[found == UNKNOWN], return_counts=True)
            shown = ", ".join(map(str, unknown[:SHOWN_VALUES])) + (
                " …" if len(unknown) > SHOWN_VALUES else ""
            )
            raise BadPair("unknown value", f"{counts.sum()} pixels of values without a class: {shown}")
        labels: NDArray[np.uint8] = found.astype(np.uint8)
        return labels


def plain(names: Mapping[int, str], ignored: Sequence[str]) -> Remap:
    """The source's own classes, in the order of their values, without the ignored ones (names, or values)."""
    values = _ignored(names, ignored)
    kept = {value: name for value, name in sorted(names.items()) if value not in values}
    labels = {value: label for label, value in enumerate(kept)}
    return Remap(tuple(kept.values()), labels | dict.fromkeys((UNLABELLED, *values), IGNORE_LABEL))


def read(path: Path, names: Mapping[int, str], ignored: Sequence[str]) -> Remap:
    """The table of a TOML file for a source of these names. Raises DatasetError, UsageError."""
    table = _parse(path)
    classes = tuple(table["classes"])
    label_of = {name: label for label, name in enumerate(classes)} | {IGNORE: IGNORE_LABEL}
    targets: dict[str, str] = table["map"]
    values = _ignored(names, ignored)
    nameless = [name for value, name in names.items() if name not in targets and value not in values]
    if nameless and "rest" not in table:
        raise UsageError(f"{path}: [map] has no {nameless}; add them, or say what the `rest` becomes")
    if strange := sorted(set(targets) - set(names.values())):
        raise UsageError(f"{path}: [map] has {strange}, the source has {sorted(names.values())}")
    wanted = [*targets.values(), table.get("unlabelled", IGNORE), table.get("rest", IGNORE)]
    sets = {
        text: _not_these(text, classes, path) for text in wanted if text not in label_of and _NOT.match(text)
    }
    not_these = label_sets.number(sets.values(), len(classes), IGNORE_LABEL)
    value_of = {item.classes: item.value for item in not_these}
    label_of |= {text: value_of[classes_of] for text, classes_of in sets.items()}
    if wrong := sorted({str(target) for target in wanted} - set(label_of)):
        raise DatasetError(
            f"{path}: targets {wrong} are neither among its classes nor {IGNORE!r} nor 'not CLASS'"
        )
    labels = {value: label_of[targets.get(name, table.get("rest", IGNORE))] for value, name in names.items()}
    labels[UNLABELLED] = label_of[table.get("unlabelled", IGNORE)]
    return Remap(classes, labels | dict.fromkeys(values, IGNORE_LABEL), not_these)


def _not_these(text: str, classes: Sequence[str], path: Path) -> label_sets.ClassSet:
    """The labels in "not floor, wall". Raises DatasetError."""
    names = [name.strip() for name in _NOT.sub("", text).split(",")]
    return label_sets.class_set(names, classes, f"{path}, target {text!r}")


def _parse(path: Path) -> dict[str, Any]:
    """Keys and types checked. Raises DatasetError."""
    try:
        table = tomllib.loads(read_text(path))
    except tomllib.TOMLDecodeError as error:
        raise DatasetError(f"{path}: not TOML: {error}") from error
    if not {"classes", "map"} <= set(table) <= {"classes", "map", "unlabelled", "rest"}:
        raise DatasetError(
            f"{path}: keys {sorted(table)}, expected classes, map and, optionally, unlabelled, rest"
        )
    classes, targets = table["classes"], table["map"]
    if not isinstance(classes, list) or not isinstance(targets, dict) or IGNORE in classes:
        raise DatasetError(
            f"{path}: expected classes, a list of names without {IGNORE!r}, and [map], a table"
        )
    others = [table[key] for key in ("unlabelled", "rest") if key in table]
    if not all(isinstance(name, str) and name for name in (*classes, *targets.values(), *others)):
        raise DatasetError(f"{path}: expected text as classes and targets")
    return table


def _ignored(names: Mapping[int, str], ignored: Sequence[str]) -> list[int]:
    """Values of --ignore, each a class name or a number, and labelme's own. Raises UsageError."""
    of_name = {name: value for value, name in names.items()}
    wrong = [text for text in ignored if text not in of_name and not text.isdigit()]
    if wrong:
        raise UsageError(f"--ignore {wrong}: neither a class ({sorted(of_name)}) nor a value")
    own = {LABELME_IGNORE} & set(of_name)
    return [of_name[text] if text in of_name else int(text) for text in (*ignored, *own)]
