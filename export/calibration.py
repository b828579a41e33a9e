"""The network inputs that int8 is calibrated with: the user's photos, prepared as served, or rendered rooms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from export.cases import image_files
from segserve.errors import RequestError, UsageError
from segserve.image import read
from segserve.resize import to_input
from training.rooms import render

COUNT = 48
FIRST_SEED = 92_000_000  # neither trained on nor compared with


def images(folder: Path | None, size: tuple[int, int]) -> Sequence[NDArray[np.uint8]]:
    """At most COUNT inputs, uint8 (1, height, width, 3), evenly chosen from the folder.

    Raises UsageError for a folder without images, or a file in it that is none.
    """
    if folder is None:
        return [render(FIRST_SEED + n, *size)[0][np.newaxis] for n in range(COUNT)]
    files = image_files(folder, "--calibration")
    count = min(len(files), COUNT)
    inputs = []
    for path in (files[n * len(files) // count] for n in range(count)):
        try:
            photo = read(path.read_bytes(), input_size=size)
        except RequestError as error:
            raise UsageError(f"--calibration: {path.name}: {error}") from error
        inputs.append(to_input(photo, *size)[0][np.newaxis])
    return inputs
