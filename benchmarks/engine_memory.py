"""How much one engine makes a process grow: a process of its own, which has not imported torch for anything else.

    python -m benchmarks.engine_memory BUILD ENGINE HEIGHT WIDTH BATCH_SIZE …

Prints MB (RSS). benchmarks.engines calls it for each artefact.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]

from segserve.engines import load_engine
from segserve.spec import SPEC_FILE, ModelSpec


def grown_mb(build: Path, name: str, size: tuple[int, int], batch_sizes: Sequence[int]) -> float:
    """By loading the artefact `name` of `build` and answering a batch of each size."""
    spec = dataclasses.replace(ModelSpec.load(build / SPEC_FILE), engine=name)
    process = psutil.Process()
    before = process.memory_info().rss
    engine = load_engine(spec, build)
    for count in batch_sizes:
        engine(np.zeros((count, *size, 3), np.uint8))
    grown: float = process.memory_info().rss - before
    return round(grown / 1e6, 1)


if __name__ == "__main__":
    height, width, *sizes = map(int, sys.argv[3:])
    print(grown_mb(Path(sys.argv[1]), sys.argv[2], (height, width), sizes))
