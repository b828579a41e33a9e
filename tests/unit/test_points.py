"""Logits at points are those of torch's interpolation there."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from segserve.geometry import Geometry
from training.points import at_points


@pytest.mark.parametrize("align_corners", [True, False])
def test_points_are_torchs_interpolation(align_corners: bool) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 7, 9)).astype(np.float32)
    place = Geometry.letterbox(56, 72, 56, 72)
    whole = torch.nn.functional.interpolate(
        torch.from_numpy(logits)[None], (56, 72), mode="bilinear", align_corners=align_corners
    )[0].numpy()
    y, x = (axis.ravel() for axis in np.mgrid[:56, :72])
    rows, columns = place.rows(7, align_corners)[y], place.columns(9, align_corners)[x]
    np.testing.assert_allclose(at_points(logits, rows, columns), whole[:, y, x], atol=1e-5)
    classes = rng.integers(0, 5, len(y)).astype(np.uint8)
    np.testing.assert_allclose(at_points(logits, rows, columns, classes), whole[classes, y, x], atol=1e-5)
