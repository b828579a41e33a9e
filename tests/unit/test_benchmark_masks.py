"""The measure that masks are compared with, and the logits that they are made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from benchmarks import masks


@pytest.mark.parametrize("bytes_at_once", [1, 4 * 90 * 70 * 4, 10**9])
def test_torch_in_parts_is_torch_at_once(bytes_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ties across the parts included."""
    monkeypatch.setattr(masks, "TORCH_BYTES", bytes_at_once)
    logits_chw = np.random.default_rng(0).integers(0, 3, (13, 8, 9)).astype(np.float32)
    whole = functional.interpolate(
        torch.from_numpy(logits_chw)[None], (90, 70), mode="bilinear", align_corners=True
    )
    np.testing.assert_array_equal(masks.torch_map(logits_chw, 90, 70, True), whole.argmax(1)[0])


def test_regions_are_regions() -> None:
    """More of them, more mixed cells; far fewer than in noise."""
    few, many = masks.regions(20, 20, 1), masks.regions(20, 60, 1)
    assert few.shape == (20, masks.MAP_SIDE, masks.MAP_SIDE)
    assert 5 < masks.mixed(few) < masks.mixed(many) < 50
    noise = np.random.default_rng(0).normal(size=few.shape).astype(np.float32)
    assert masks.mixed(noise) > 90


def test_a_row_says_whether_it_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_chw = masks.regions(5, 8, 2)
    row = masks.measure_mask("few", logits_chw, (100, 130), True)
    assert (row["pixels_that_differ"], row["photo"], row["classes"]) == (0, "130x100", 5)
    assert row["ratio"] == pytest.approx(row["torch_ms"] / row["ours_ms"])
    monkeypatch.setattr(masks, "label_map", lambda *_: np.zeros((100, 130), np.uint8))
    assert masks.measure_mask("few", logits_chw, (100, 130), True)["pixels_that_differ"] > 1000
