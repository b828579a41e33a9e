"""What a lower precision costs each class, from the rows and counts in parity.json, and what is too much of it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from segserve.parity_row import AS_SERVED, Row
from segserve.thresholds import LEAST_KEPT, Thresholds, short_of

MIN_PIXELS = 2000
"""Of a class, in truth and over all pictures: rarer ones move by whole points when a chair leg does."""

MAX_NOISE = 0.5
"""Error of a class's logits, over what they vary by (root mean squares): beyond it the class is as good as gone.

Like LEAST_KEPT no measure of accuracy, but the only one for classes that the pictures do not show.
"""
LEAST_SPREAD = 0.1
"""Of all logits': what a class's vary by counts as at least this much, as one that never wins need not be exact."""


def noise(
    errors: Sequence[Mapping[str, float]], class_std: Mapping[str, float], logit_std: float
) -> dict[str, float]:
    """Of each class, the error of its logits over what they vary by; nan where a comparison lacks it.

    errors: of each comparison, mean squares by class. class_std, logit_std: of the checkpoint's logits, of each class's
    and of all.
    """
    found = {}
    for name, std in class_std.items():
        squares = [row.get(name, math.nan) for row in errors]
        mean = math.fsum(squares) / len(squares) if squares else math.nan
        found[name] = math.sqrt(mean) / max(std, LEAST_SPREAD * logit_std) if mean else 0.0
    return found


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


def lost_classes(rows: Iterable[Row]) -> list[str]:
    """Classes that keep less than LEAST_KEPT of their pixels over the user's photos, over rendered rooms, or over both.

    What rendered rooms show well may be gone from the user's photos, and a rare class may go without a trace in the
    agreement of all pixels. A picture that was in several batches counts once, for each class with its worst answer.
    """
    kept: dict[tuple[bool, str, str], tuple[int, int]] = {}
    for row in rows:
        if row.kind == AS_SERVED:
            for name, (of_class, left) in row.kept.items():
                key = (row.yours, row.image, name)
                kept[key] = (of_class, min(left, kept.get(key, (0, left))[1]))
    found: dict[str, str] = {}
    groups = {
        "your photos": (True,),
        "rendered rooms as served": (False,),
        "pictures as served": (True, False),
    }
    for of, kinds in groups.items():
        pixels, left_of = Counter[str](), Counter[str]()
        for (yours, _, name), (of_class, left) in kept.items():
            if yours in kinds:
                pixels[name] += of_class
                left_of[name] += left
        for name, count in pixels.items():
            if count >= MIN_PIXELS and not (left_of[name] >= LEAST_KEPT * count):
                share = 100 * left_of[name] / count
                said = f"class {name} keeps {share:.2f} % of its pixels over all {of}, expected {100 * LEAST_KEPT:g} %"
                found.setdefault(name, f"{said} or more")
    return list(found.values())


def noisy_classes(rows: Sequence[Row], class_std: Mapping[str, float], logit_std: float) -> list[str]:
    """Classes whose logits hardly follow the checkpoint's, whether the pictures show them or not."""
    noise_of = noise([row.class_errors for row in rows], class_std, logit_std)
    if not noise_of:
        return ["how far the logits of each class are off was not measured: run export.build again"]
    return [
        f"the logits of class {name} are off by {share:.2f} times what they vary by, allowed {MAX_NOISE}"
        for name, share in noise_of.items()
        if not (share <= MAX_NOISE)
    ]


def failures(accuracy: Mapping[str, Any] | None, limits: Thresholds) -> list[str]:
    """What becomes of the classes at a lower precision, over the rendered rooms."""
    if accuracy is None:
        return ["what the precision costs each class was not measured"]
    found = []
    if not (agreement(accuracy) >= limits.label_agreement):
        found.append(
            f"rendered rooms: {short_of(agreement(accuracy), limits.label_agreement)} of the labels agree"
        )
    lost = drops(accuracy)
    if not lost:
        found.append("rendered rooms: no class covers enough pixels to judge by")
    for name, drop in lost.items():
        if not (drop <= limits.iou_drop_points):
            found.append(
                f"rendered rooms: class {name} loses {drop:.2f} points of IoU, allowed {limits.iou_drop_points}"
            )
    if gone := vanished(accuracy):
        found.append(f"rendered rooms: vanished: {', '.join(gone)}")
    return found


def _iou(counts: Sequence[int]) -> float:
    intersection, union, _ = counts
    return intersection / union if union else 1.0
