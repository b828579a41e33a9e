"""The result.json of a folder that benchmarks.run wrote, checked, so that a reader need not doubt it.

What makes two of them hard to compare, `unlike` says.

result = read(Path("runs/before"))
result["scenario"], result["figures"]["p99"]["samples"]
"""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segserve.errors import UsageError

FILE, SCHEMA = "result.json", 1
MACHINE = ("cpu", "cores", "gpu")
NOT_OF_THE_LOAD = ("--out", "--mar", "--json")
"""Options that differ where two packages are compared, or that change nothing that is measured."""


def read(folder: Path) -> dict[str, Any]:
    """Values and samples are numbers; NaN stands for a slice in which nothing was measured.

    Raises: UsageError if there is none, or if it is of another schema or lacks something.
    """
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"{folder} holds no {FILE}; expected a folder that `python -m benchmarks.run` wrote")
    try:
        result = json.loads(path.read_text())
        if result["schema"] != SCHEMA:
            raise UsageError(f"{path}: schema {result['schema']}, expected {SCHEMA}; run the benchmark again")
        str(result["scenario"])
        options_of(result)
        list(result.get("failures", []))
        for name, figure in result["figures"].items():
            _check(path, name, figure)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not as benchmarks.run writes it: {error!r}; run it again") from None
    checked: dict[str, Any] = result
    return checked


def unlike(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """A sentence for each thing in which two runs differ beside what they measured, and for each that had failed."""
    found = [f"{key}: {a.get(key)} against {b.get(key)}" for key in MACHINE if a.get(key) != b.get(key)]
    of_a, of_b = options_of(a), options_of(b)
    for name in dict.fromkeys((*of_a, *of_b)):
        ours, theirs = (options.get(name, "left out") for options in (of_a, of_b))
        if ours != theirs and name not in NOT_OF_THE_LOAD:
            found.append(f"{name}: {ours} against {theirs}")
    for side, result in (("A", a), ("B", b)):
        if failures := result.get("failures"):
            more = f", and {len(failures) - 1} more" if len(failures) > 1 else ""
            found.append(f"{side} had failed itself: {failures[0]}{more}")
    return found


def options_of(result: Mapping[str, Any]) -> dict[str, str]:
    """Name -> values as they were given, from the command of a run. Raises: ValueError where that is none."""
    options: dict[str, list[str]] = {}
    values: list[str] = []  # what comes before the first option
    for word in shlex.split(result.get("command", "")):
        if word.startswith("--"):
            name, _, value = word.partition("=")
            values = options[name.replace("_", "-")] = [value] if value else []
        else:
            values.append(word)
    return {name: " ".join(given) or "given" for name, given in options.items()}


def _check(path: Path, name: str, figure: dict[str, Any]) -> None:
    if figure["better"] not in ("lower", "higher"):
        raise UsageError(f"{path}: {name}: better is {figure['better']!r}, expected lower or higher")
    str(figure["unit"])
    figure["samples"] = [math.nan if value is None else float(value) for value in figure["samples"]]
    figure["value"] = math.nan if figure["value"] is None else float(figure["value"])
