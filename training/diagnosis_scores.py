"""How much of what is expected a table of counts has right, and what a network would reach that sees nothing.

    score = agreement(counts.sum(axis=0), ignore_label)

`counts`: int64 (256, num_classes), pixels of a label's value that were predicted as a class.
"""

from __future__ import annotations

import numpy as np

from training.assumptions import Counts


def agreement(counts: Counts, ignore_label: int) -> float:
    """Share of the labelled pixels that are right; a value that is no class is never right."""
    kept = labelled(counts, ignore_label)
    total = kept.sum()
    return float(np.trace(kept[: kept.shape[1]]) / total) if total else 0.0


def miou(counts: Counts, ignore_label: int) -> float:
    """Mean IoU of the classes that are labelled or predicted; pixels of values that are no class are errors."""
    kept = labelled(counts, ignore_label)
    num_classes = kept.shape[1]
    hits = np.diag(kept[:num_classes])
    union = kept[:num_classes].sum(axis=1) + kept.sum(axis=0) - hits
    seen = union > 0
    return float((hits[seen] / union[seen]).mean()) if seen.any() else 0.0


def labelled(counts: Counts, ignore_label: int) -> Counts:
    """`counts`, int64 (256, num_classes), without the pixels that are ignored."""
    kept = counts.copy()
    kept[ignore_label] = 0
    return kept


def blind_agreement(counts: Counts, ignore_label: int) -> float:
    """What answering the commonest class everywhere would have right."""
    shares = labelled(counts, ignore_label).sum(axis=1)
    return float(shares[: counts.shape[1]].max() / max(1, shares.sum()))


def blind_miou(counts: Counts, ignore_label: int) -> float:
    """Likewise: the IoU of that class is its share, and all others that are labelled have none."""
    shares = labelled(counts, ignore_label).sum(axis=1)
    classes = shares[: counts.shape[1]]
    return float(classes.max() / max(1, shares.sum()) / max(1, np.count_nonzero(classes)))


def values_of(counts: Counts, ignore_label: int) -> list[int]:
    """The values that labels have, of `counts` (photos, 256, num_classes)."""
    return list(map(int, np.flatnonzero(labelled(counts.sum(axis=0), ignore_label).any(axis=1))))
