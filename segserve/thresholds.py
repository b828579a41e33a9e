"""When an artefact counts as segmenting like its checkpoint: one row for each precision that is exported.

The logit threshold is relative to the checkpoint's own logits. float32 rounding grows with them: on a randomly
initialised pspnet50, whose logits reach 23 with a standard deviation of 7, eager PyTorch itself is up to 1.5e-4 away
from the same network in float64, and ONNX Runtime 4e-5. So an error is counted in standard deviations of the logits,
or in units of 1 where the deviation is below 1.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """Limits for one precision. None: not judged, because the precision by itself exceeds any useful limit."""

    logit_error: float | None
    """Largest error of any one logit, over max(1, standard deviation of the checkpoint's logits)."""
    label_agreement: float
    """Share of pixels with the same class over all comparisons together (ties included)."""
    least_agreement: float
    """The same in each comparison, ties aside: one odd size must not go wrong unseen."""
    boundary_agreement: float | None
    """The same, of the pixels within BOUNDARY_PX of a class boundary, in each comparison, ties aside."""
    iou_drop_points: float
    """How many points (percent) of IoU any class may lose: exact precisions in any comparison, ties aside; lower ones
    over the rendered rooms of export.accuracy."""

    @property
    def exact(self) -> bool:
        """Whether logits themselves are compared; otherwise labels, and what becomes of every class, decide."""
        return self.logit_error is not None


_HALF = Thresholds(
    logit_error=None,
    label_agreement=0.997,
    least_agreement=0.97,
    boundary_agreement=None,
    iou_drop_points=0.3,
)
THRESHOLDS = {
    "fp32": Thresholds(
        logit_error=1e-4,
        label_agreement=0.9999,
        least_agreement=0.9999,
        boundary_agreement=0.999,
        iou_drop_points=0.05,
    ),
    "bf16": _HALF,
    "fp16": _HALF,
    "int8": Thresholds(
        logit_error=None,
        label_agreement=0.99,
        least_agreement=0.9,
        boundary_agreement=None,
        iou_drop_points=1.0,
    ),
}

BOUNDARY_PX = 3
"""Half the width of the band around class boundaries."""

MIN_SIGNAL = 100.0
"""The checkpoint's logits must vary from pixel to pixel by this many times the allowed error (standard deviation).

Otherwise its answers do not depend on the picture, and comparing them proves nothing.
"""

MIN_INPUT_SIZES = 12
"""Each with a batch of one and with a larger one. Fewer are no proof, and the packager refuses."""

MIN_BATCH_SIZES = 3
"""Likewise, of photos as served."""

LEAST_KEPT = 0.5
"""Share of a class's pixels, over the user's photos and over rendered rooms, that a lower precision must leave.

It is no accuracy: it tells a class that got a little worse from one that is gone.
"""


def short_of(got: float, expected: float) -> str:
    """A share that is too small, in words."""
    return f"{100 * got:.3f} % (expected {100 * expected:g} %)"
