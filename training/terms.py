"""From the options of the loss to what it computes with: class names become numbers, words become weights.

terms = resolve(config.loss, datasets, processes)
SegmentationLoss(ignore_label, align_corners, terms)
said = describe(terms, classes)        # goes into the checkpoint's provenance
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training import class_weights
from training.data import Dataset
from training.distributed import Processes
from training.losses import Terms
from training.options import LossOptions
from training.report_file import Report, pairs_of

TOP_PAIRS = 3
"""As many does --pairs-from take: further ones cost little, and each pushes on the same logits."""


def resolve(options: LossOptions, datasets: Sequence[Dataset], processes: Processes) -> Terms:
    """Reads labels (`balanced`) and reports. Raises UsageError for classes that are not there, DatasetError."""
    classes = datasets[0].classes
    weights: tuple[float, ...] = ()
    if options.class_weights == "balanced":
        weights = class_weights.balanced(class_weights.pixel_counts(datasets, processes))
    elif options.class_weights != "none":
        weights = class_weights.from_report(Path(options.class_weights), classes)
    pairs = pairs_of(options.pairs, classes)
    if options.pairs_from is not None:
        pairs = Report.read(options.pairs_from, classes).pairs[:TOP_PAIRS]
    return Terms(weights, options.ohem, options.ohem_keep, pairs, options.pair_weight)


def describe(terms: Terms, classes: Sequence[str]) -> str:
    """What the loss has besides cross-entropy, in words; empty if nothing."""
    parts = []
    if terms.class_weights:
        weights = zip(classes, terms.class_weights, strict=True)
        parts.append("class weights " + ", ".join(f"{name} {weight:.4g}" for name, weight in weights))
    if terms.ohem:
        parts.append(f"OHEM below {terms.ohem:g}, at least {terms.ohem_keep:.4g} of each image")
    if terms.pairs:
        pairs = ", ".join(f"{classes[a]}:{classes[b]}" for a, b in terms.pairs)
        parts.append(f"pairs {pairs} with weight {terms.pair_weight:g}")
    return "; ".join(parts)
