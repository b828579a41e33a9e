"""Result folders of benchmarks.run, made up, and the command lines that read them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from segserve.cli import run


def folder(path: Path, p50_ms: Sequence[float | None], per_s: Sequence[float], **changed: Any) -> Path:
    """A result folder as benchmarks.run writes it."""
    path.mkdir()
    figures = {
        "p50": {"value": 70.0, "unit": "ms", "better": "lower", "samples": p50_ms},
        "goodput": {"value": 14.0, "unit": "/s", "better": "higher", "samples": per_s},
        "lost": {"value": 0, "unit": "requests", "better": "lower", "samples": []},
    }
    result = {"schema": 1, "scenario": "latency", "cpu": "one", "cores": 2, "figures": figures, **changed}
    (path / "result.json").write_text(json.dumps(result))
    return path


def ended(monkeypatch: pytest.MonkeyPatch, config: Any, main: Any, *arguments: object) -> int:
    """Exit code of a command line."""
    monkeypatch.setattr(sys, "argv", ["python", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        run(config, main)
    assert isinstance(end.value.code, int)
    return end.value.code


def figure(
    value: float | None, better: str = "lower", samples: Sequence[float | None] = (), unit: str = "some"
) -> dict[str, Any]:
    """As it is in result.json."""
    return {"value": value, "unit": unit, "better": better, "samples": list(samples)}


def strict_json(text: str) -> dict[str, Any]:
    """No NaN and no Infinity."""
    found: dict[str, Any] = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    return found
