"""The model of a .mar without a server: its masks, and how many images a second its engine alone makes.

A process (benchmarks/engine_alone.py) for each worker that the server has, with as many threads, run with the code
that the .mar brings along, so that served and raw speed are of the same thing.

    with offline(mar, read(mar), Path(folder)) as alone:
        masks = alone.masks([photo.jpeg for photo in photos])
        alone.images_per_s(batch_size=4, duration_s=5.0)
"""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.mar_settings import Settings
from segserve.errors import CheckFailed

PROGRAM = Path(__file__).with_name("engine_alone.py")


class Offline:
    """So many processes as the server has workers, each with the engine loaded."""

    def __init__(self, folder: Path, processes: Sequence[subprocess.Popen[str]]) -> None:
        self._folder, self._processes = folder, processes

    def masks(self, photos: Sequence[bytes]) -> list[NDArray[np.uint8]]:
        """The segmenter's own answer to each photo, uint8 (H, W)."""
        for number, photo in enumerate(photos):
            (self._folder / f"photo-{number}").write_bytes(photo)
        self._ask({"photos": len(photos)}, self._processes[:1])
        return [np.load(self._folder / f"mask-{number}.npy") for number in range(len(photos))]

    def images_per_s(self, batch_size: int, duration_s: float) -> float:
        """All processes at once; no new call of the engine begins when the time is over, and one is always made."""
        answers = self._ask({"batch_size": batch_size, "duration_s": duration_s}, self._processes)
        return sum(answer["images"] / answer["duration_s"] for answer in answers)

    @staticmethod
    def _ask(order: dict[str, float], processes: Sequence[subprocess.Popen[str]]) -> list[dict[str, float]]:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(json.dumps(order) + "\n")
            process.stdin.flush()
        answers = []
        for process in processes:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                raise CheckFailed(f"the engine alone ended with code {process.wait()}; its words are above")
            answers.append(json.loads(line))
        return answers


@contextmanager
def offline(mar: Path, settings: Settings, folder: Path) -> Iterator[Offline]:
    """Unpack the .mar into the empty `folder` and load it once for each worker."""
    with zipfile.ZipFile(mar) as archive:
        archive.extractall(folder)
    command = [sys.executable, str(PROGRAM), str(folder), str(settings.threads_each())]
    processes = [
        subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(settings.workers)
    ]
    try:
        yield Offline(folder, processes)
    finally:
        for process in processes:
            process.communicate()  # no more orders: it ends
