"""The other side of benchmarks/offline.py: loads an unpacked .mar with its own code and does what it is told.

    python benchmarks/engine_alone.py FOLDER THREADS

Orders are lines of JSON on standard input: {"photos": N} writes mask-0.npy … of photo-0 … in the folder;
{"batch_size": B, "duration_s": S} calls the engine for that long. Each is answered with a line.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np

folder, threads = Path(sys.argv[1]), int(sys.argv[2])
sys.path.pop(0)  # this file's folder: nothing of the repository is to be found
sys.path.append(str(folder))  # behind site-packages, as the .mar holds a stand-in for torch

from segserve.segmenter import Segmenter  # noqa: E402


def write_masks(segmenter: Segmenter, count: int) -> dict[str, float]:
    """The whole way for each photo."""
    for number in range(count):
        np.save(folder / f"mask-{number}.npy", segmenter.segment((folder / f"photo-{number}").read_bytes()))
    return {}


def call_engine(segmenter: Segmenter, batch_size: int, duration_s: float) -> dict[str, float]:
    """Random pixels: what a network computes does not depend on them."""
    size = segmenter.spec.input
    images = np.random.default_rng(0).integers(0, 256, (batch_size, size.height, size.width, 3), np.uint8)
    segmenter.engine(images)  # the first call of a size allocates
    calls, start = 0, time.perf_counter()
    while calls == 0 or time.perf_counter() - start < duration_s:
        segmenter.engine(images)
        calls += 1
    return {"images": batch_size * calls, "duration_s": time.perf_counter() - start}


def main() -> None:
    """Load, then obey until standard input ends."""
    segmenter = Segmenter.load(folder, threads=threads)
    for line in sys.stdin:
        order = json.loads(line)
        if "photos" in order:
            answer = write_masks(segmenter, order["photos"])
        else:
            answer = call_engine(segmenter, order["batch_size"], order["duration_s"])
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
