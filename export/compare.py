"""One comparison: the answer of an artefact on a picture against the checkpoint's, in figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from export.cases import Case
from segserve.parity_row import Row
from segserve.thresholds import BOUNDARY_PX
from training.points import at_points


def compare(
    case: Case,
    logits: NDArray[np.float32],
    labels: NDArray[np.uint8],
    batch_size: int,
    classes: Sequence[str],
    *,
    align_corners: bool,
    allowed_error: float | None,
) -> Row:
    """The figures of one picture.

    `align_corners` is the checkpoint's; logits may be float16. Raises ValueError if the answers cannot be compared at
    all: shapes or types differ, or logits are not finite.
    """
    logits = logits.astype(np.float32, copy=False)
    for what, got, expected in (("logits", logits, case.logits), ("labels", labels, case.labels)):
        if got.shape != expected.shape or got.dtype != expected.dtype:
            raise ValueError(
                f"{what} are {got.dtype} {got.shape}, expected {expected.dtype} {expected.shape}"
            )
    finite = np.isfinite(logits).all(axis=(1, 2))
    if not finite.all():
        raise ValueError(f"logits of class {classes[int(finite.argmin())]} are not finite")
    errors = np.abs(logits.astype(np.float64) - case.logits)
    class_errors = errors.max(axis=(1, 2))
    # where no error of the logits is allowed for, every pixel that changes counts
    tied = ties(case, labels, align_corners, 2 * (allowed_error or 0.0))
    settled = np.where(tied, case.labels, labels)
    band = near_boundary(case.labels, BOUNDARY_PX)
    height, width = labels.shape
    return Row(
        kind=case.kind,
        image=case.name,
        batch_size=batch_size,
        height=height,
        width=width,
        max_abs_error=float(class_errors.max()),
        max_error_class=classes[int(class_errors.argmax())],
        mean_abs_error=float(errors.mean()),
        differing=int((labels != case.labels).sum()),
        ties=int(tied.sum()),
        boundary_agreement=float((settled == case.labels)[band].mean()) if band.any() else 1.0,
        iou_change_points={classes[k]: change for k, change in iou_changes(case.labels, settled).items()},
        vanished=[classes[k] for k in np.setdiff1d(case.labels, settled)],
        kept=kept_pixels(case.labels, settled, classes),
        yours=case.yours,
        class_errors=dict(zip(classes, (errors**2).mean(axis=(1, 2)).tolist(), strict=True))
        if allowed_error is None
        else {},
    )


def ties(case: Case, labels: NDArray[np.uint8], align_corners: bool, margin: float) -> NDArray[np.bool_]:
    """Where `labels` differ from the checkpoint's although it prefers its own class by at most `margin`.

    Both classes' logits are interpolated at those pixels only. Returns: bool (H, W).
    """
    tied = np.zeros(labels.shape, np.bool_)
    y, x = np.nonzero(labels != case.labels)
    height, width = case.logits.shape[1:]
    rows = case.geometry.rows(height, align_corners)[y]
    columns = case.geometry.columns(width, align_corners)[x]
    ours, theirs = case.labels[y, x], labels[y, x]
    preference = at_points(case.logits, rows, columns, ours) - at_points(case.logits, rows, columns, theirs)
    tied[y, x] = preference <= margin
    return tied


def iou_changes(expected: NDArray[np.uint8], got: NDArray[np.uint8]) -> dict[int, float]:
    """For each class of `expected`, its IoU with `got`, in points below 100 (0 where nothing changed)."""
    changes = {}
    for label in np.unique(expected):
        a, b = expected == label, got == label
        changes[int(label)] = 100 * float((a & b).sum() / (a | b).sum()) - 100
    return changes


def kept_pixels(
    expected: NDArray[np.uint8], got: NDArray[np.uint8], classes: Sequence[str]
) -> dict[str, tuple[int, int]]:
    """For each class of `expected`: how many pixels have it, and how many of those have it in `got` too."""
    counts = np.bincount(expected.ravel(), minlength=len(classes))
    kept = np.bincount(expected[expected == got], minlength=len(classes))
    return {
        name: (int(of_class), int(left))
        for name, of_class, left in zip(classes, counts, kept, strict=True)
        if of_class
    }


def near_boundary(labels: NDArray[np.uint8], distance: int) -> NDArray[np.bool_]:
    """Pixels at most `distance` pixels (in each direction) from a neighbour of another class, bool (H, W)."""
    edge = np.zeros(labels.shape, np.uint8)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    edge[1:] |= down
    edge[:-1] |= down
    # an edge pixel is itself at distance 1
    grown = Image.fromarray(edge).filter(ImageFilter.MaxFilter(2 * distance - 1))
    return np.asarray(grown) > 0
