"""What a report must say about where its figures come from, and how it writes its tables.

from benchmarks import host
report = {**host.describe(), "rows": rows}
print(host.json_of(report) if as_json else host.markdown(rows))
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segserve import cpu

REPOSITORY = Path(__file__).resolve().parents[1]
PACKAGES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "nncf",
    "tensorrt",
    "torchserve",
    "numpy",
    "numba",
    "pillow",
)


def describe() -> dict[str, Any]:
    """Hardware, versions, commit and command of this run."""
    return {
        "cpu": cpu.name(),
        "cpu_features": cpu.features(),
        "cores": cpu.cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": gpus(),
        "python": platform.python_version(),
        "versions": versions(),
        "commit": commit(),
        "command": shlex.join(["python", "-m", _module(), *sys.argv[1:]]),
    }


def headline(described: Mapping[str, Any]) -> str:
    """One line for people: hardware and commit."""
    features = "/".join(described["cpu_features"]) or "no AVX2"
    gpu = f", {', '.join(described['gpu'])}" if described["gpu"] else ""
    return f"{described['cpu']} ({features}), {described['cores']} cores{gpu}, commit {described['commit']}"


def gpus() -> list[str]:
    """Names of the NVIDIA GPUs that the driver shows."""
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.SubprocessError):  # none is there, or it hangs
        return []
    return found.stdout.split("\n")[:-1] if found.returncode == 0 else []


def versions() -> dict[str, str]:
    """Of those packages that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """Short hash of the checkout, "+changes" if files differ from it; "unknown" outside of git."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        return head + ("+changes" if _git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows of equal keys as a Markdown table, columns padded so that it reads well as text too."""
    if not rows:
        return ""
    header = list(rows[0])
    cells = [header, *([_text(row[key]) for key in header] for row in rows)]
    widths = [max(len(line[n]) for line in cells) for n in range(len(header))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def json_of(document: object, indent: int | None = None) -> str:
    """As JSON, for every reader: it knows no NaN and no infinity, which stand for what could not be measured; null."""
    return json.dumps(_finite(document), indent=indent, allow_nan=False)


def _finite(value: Any) -> Any:
    """Dicts, lists and tuples are gone through."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _text(value: object) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3g}"
        if isinstance(value, float) and abs(value) < 100
        else (f"{value:.0f}" if isinstance(value, float) else str(value))
    )


def _module() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec is not None else Path(sys.argv[0]).name


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
