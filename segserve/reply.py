"""What goes back to a client, and what the metrics want to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Reply:
    """One client's answer. `headers` are ASCII, without the content type.

    The rest is for the metrics: timings_ms of its steps; batch_size, how many images its engine call had; photo_hw and
    class_shares (float64, (num_classes,)) as far as it came.
    """

    status: int
    content_type: str
    body: bytes
    headers: dict[str, str]
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    batch_size: int = 0
    photo_hw: tuple[int, int] | None = None
    class_shares: NDArray[np.float64] | None = None
