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
    """Limits for one precision."""

    logit_error: float
    """Largest error of any one logit, over max(1, standard deviation of the checkpoint's logits)."""
    label_agreement: float
    """Share of pixels with the same class, in each comparison (ties aside) and over all of them (ties included)."""
    boundary_agreement: float
    """The same, of the pixels within BOUNDARY_PX of a class boundary, in each comparison, ties aside."""
    iou_drop_points: float
    """How many points (percent) of IoU any class may lose in any comparison, ties aside."""


THRESHOLDS = {
    "fp32": Thresholds(
        logit_error=1e-4, label_agreement=0.9999, boundary_agreement=0.999, iou_drop_points=0.05
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
