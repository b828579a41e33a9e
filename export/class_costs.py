"""What a lower precision costs each class, from the counts of export.accuracy in parity.json; needs no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

MIN_PIXELS = 2000
"""Of a class, in truth and over all pictures: rarer ones move by whole points when a chair leg does."""


def drops(accuracy: Mapping[str, Any]) -> dict[str, float]:
    """Points of IoU that each class loses (negative: gains), of the classes that the pictures show well enough."""
    return {
        name: 100 * (_iou(counts["checkpoint"]) - _iou(counts["artefact"]))
        for name, counts in accuracy["classes"].items()
        if counts["true_pixels"] >= MIN_PIXELS
    }


def vanished(accuracy: Mapping[str, Any]) -> list[str]:
    """Classes that the checkpoint finds and the artefact does not, anywhere."""
    return [
        name
        for name, counts in accuracy["classes"].items()
        if counts["checkpoint"][2] >= MIN_PIXELS and counts["artefact"][2] == 0
    ]


def agreement(accuracy: Mapping[str, Any]) -> float:
    """Share of pixels with the same class."""
    share: float = accuracy["agreeing"] / accuracy["pixels"]
    return share


def _iou(counts: Sequence[int]) -> float:
    intersection, union, _ = counts
    return intersection / union if union else 1.0
