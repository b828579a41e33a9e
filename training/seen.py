"""One photo of an evaluation: what it is labelled as and what the model made of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.description import Sample


@dataclass(frozen=True)
class Seen:
    """label, mask: uint8 (H, W) at the upright size; confidence: float32 (H, W), 0 to 1, if it was asked for."""

    sample: Sample
    label: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    confidence: NDArray[np.float32] | None = None
