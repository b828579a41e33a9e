"""What training.evaluate --json said of a model, read again: scores of the classes and the pairs that cost most.

report = Report.read(Path("out/report/report.json"), dataset.classes)
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from segserve.errors import UsageError


@dataclass(frozen=True)
class Report:
    """Of a model with the same classes in the same order."""

    scores: tuple[tuple[float, float], ...]
    """IoU and accuracy of each class, 0 to 1; nan where the report has none."""
    pairs: tuple[tuple[int, int], ...]
    """Classes that were taken for each other, the dearest pair first."""

    @classmethod
    def read(cls, path: Path, classes: Sequence[str]) -> Report:
        """Raises UsageError for a file that is missing, no such report, or of other classes."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            names = list(content["classes"])
            scores = tuple(
                (_number(row["iou"]), _number(row["accuracy"])) for row in content["classes"].values()
            )
            found = [pair["classes"] for pair in content["pairs"] if pair["miou_points"] > 0]
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{path} is no report ({error!r}): expected what training.evaluate --json prints"
            ) from error
        if names != list(classes):
            raise UsageError(
                f"{path} is about the classes {', '.join(names)}; the dataset has {', '.join(classes)}: evaluate a "
                "model of this dataset"
            )
        return cls(scores, tuple(pair_of(first, second, classes) for first, second in found))


def pair_of(first: str, second: str, classes: Sequence[str]) -> tuple[int, int]:
    """Two classes by their names. Raises UsageError where they are not two of `classes`."""
    for name in (first, second):
        if name not in classes:
            raise UsageError(
                f"no class {name!r} in {', '.join(classes)}: a pair is two of them, such as wall:floor"
            )
    if first == second:
        raise UsageError(f"the pair {first}:{second} is one class; it takes two")
    return classes.index(first), classes.index(second)


def pairs_of(text: str, classes: Sequence[str]) -> tuple[tuple[int, int], ...]:
    """Pairs as they are written on a command line: wall:floor,floor:ceiling. Raises UsageError."""
    found = []
    for part in filter(None, map(str.strip, text.split(","))):
        first, colon, second = part.partition(":")
        if not colon:
            raise UsageError(
                f"the pair {part!r} is not two classes with a colon between them, such as wall:floor"
            )
        found.append(pair_of(first.strip(), second.strip(), classes))
    if len({frozenset(pair) for pair in found}) < len(found):
        raise UsageError(f"{text} names a pair twice")
    return tuple(found)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
