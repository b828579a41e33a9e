"""One comparison of an artefact with its checkpoint, as parity.json holds it; needs no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

AS_SERVED = "as served"  # image bytes -> label map at the photo's size
AT_INPUT_SIZE = "input size"  # network input -> label map at that size


@dataclass(frozen=True)
class Row:
    """One picture in one batch: the artefact against the checkpoint.

    A pixel whose class differs is a tie if the checkpoint itself hardly prefers its class there: by less than two
    errors of the allowed size, so that rounding decides. Agreement counts ties as differing; the boundary agreement,
    the IoU changes and the vanished classes leave them aside.
    """

    kind: str
    image: str
    batch_size: int
    height: int
    width: int
    max_abs_error: float
    max_error_class: str
    mean_abs_error: float
    differing: int
    ties: int
    boundary_agreement: float
    iou_change_points: dict[str, float]
    vanished: list[str]
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Of each class: pixels of the checkpoint, and those of them that the artefact left as they were."""
    yours: bool = False
    """Whether the picture is one of the user's (--images), not a rendered room."""
    class_errors: Mapping[str, float] = field(default_factory=dict)
    """Below float32: of each class, the mean square of its logits' errors."""

    def __post_init__(self) -> None:
        """Raises ValueError for figures that no comparison yields, as a torn or edited report may hold."""
        if self.height < 1 or self.width < 1 or not 0 <= self.ties <= self.differing <= self.pixels:
            raise ValueError(
                f"{self}: {self.differing} labels differ, {self.ties} of them ties, of {self.height} x {self.width}"
            )
        if not self.iou_change_points:
            raise ValueError(f"{self}: no class was compared")

    @property
    def pixels(self) -> int:
        """Of the label maps compared."""
        return self.height * self.width

    @property
    def label_agreement(self) -> float:
        """Share of pixels with the same class, ties counted as differing."""
        return 1 - self.differing / self.pixels

    @property
    def worst_class(self) -> tuple[str, float]:
        """The class that lost most IoU, and how many points it changed by; nan is the worst of all."""
        return min(self.iou_change_points.items(), key=lambda item: (not math.isnan(item[1]), item[1]))

    def __str__(self) -> str:
        return f"{self.image} ({self.kind}, batch of {self.batch_size})"
