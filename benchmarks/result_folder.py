"""The result.json of a folder that benchmarks.run wrote, checked, so that a reader need not doubt it.

result = read(Path("runs/before"))
result["scenario"], result["figures"]["p99"]["samples"]
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from segserve.errors import UsageError

FILE, SCHEMA = "result.json", 1


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
        for name, figure in result["figures"].items():
            _check(path, name, figure)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path} is not as benchmarks.run writes it: {error!r}; run it again") from None
    checked: dict[str, Any] = result
    return checked


def _check(path: Path, name: str, figure: dict[str, Any]) -> None:
    if figure["better"] not in ("lower", "higher"):
        raise UsageError(f"{path}: {name}: better is {figure['better']!r}, expected lower or higher")
    str(figure["unit"])
    figure["samples"] = [math.nan if value is None else float(value) for value in figure["samples"]]
    figure["value"] = math.nan if figure["value"] is None else float(figure["value"])
