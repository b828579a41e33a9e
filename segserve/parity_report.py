"""parity.json: what was compared, and whether it holds. Read by the packager and by whoever deploys; needs no torch.

The verdict is never taken from the file: `failures` judges its rows anew against segserve.thresholds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from segserve import class_costs
from segserve.errors import CheckFailed
from segserve.parity_row import AS_SERVED, AT_INPUT_SIZE, Row
from segserve.spec import Artefact, ModelSpec
from segserve.thresholds import (
    MIN_BATCH_SIZES,
    MIN_INPUT_SIZES,
    MIN_SIGNAL,
    THRESHOLDS,
    Thresholds,
    short_of,
)

SCHEMA = 1


def spec_sha256(spec: ModelSpec) -> str:
    """Digest of what a spec says about the model, whichever of its artefacts is served."""
    content = dataclasses.asdict(spec)
    for name in ("artefacts", "engine", "parity", "choice", "golden"):
        del content[name]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def allowed_error(thresholds: Thresholds, logit_std: float) -> float | None:
    """How far a logit may be from the checkpoint's, given the standard deviation of the checkpoint's logits."""
    return None if thresholds.logit_error is None else thresholds.logit_error * max(1.0, logit_std)


def save(report: Mapping[str, Any], path: Path) -> None:
    """Write parity.json."""
    path.write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def load(path: Path) -> dict[str, Any]:
    """Read parity.json. Raises CheckFailed if there is none of this schema, or a number in it is not finite."""
    try:
        text = path.read_text(encoding="utf-8")
        report = json.loads(text, parse_float=_finite, parse_constant=_finite)
    except (OSError, ValueError) as error:
        raise CheckFailed(f"no parity report at {path} ({error}): run export.build") from None
    if not isinstance(report, dict) or report.get("schema") != SCHEMA:
        raise CheckFailed(f"{path} is not a parity report of schema {SCHEMA}: run export.build again")
    return report


def require_passed(report: Mapping[str, Any], spec: ModelSpec, artefact: Artefact) -> None:
    """Raises CheckFailed, with the reasons, unless `report` proves that `artefact` under `spec` is the checkpoint."""
    try:
        reasons = list(report["spec_failures"])
        if report["spec_sha256"] != spec_sha256(spec):
            reasons.append("the spec is not the one that was compared")
        reasons += signal_failures(report["reference"])
        entries = [
            entry
            for entry in report["artefacts"]
            if (entry["sha256"], entry["engine"], entry["precision"])
            == (artefact.sha256, artefact.engine, artefact.precision)
        ]
        if not entries:
            reasons.append(
                f"no report on {artefact.name} with this {artefact.file} (sha256 {artefact.sha256[:12]})"
            )
        for entry in entries:
            reasons += failures(
                [Row(**row) for row in entry["rows"]],
                entry["problems"],
                artefact.precision,
                report["reference"]["logit_std"],
                entry["accuracy"],
                report["reference"].get("class_std", {}),
                fixed_size=artefact.fixed_size,
            )
    except (KeyError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise CheckFailed(
            f"the parity report does not have the fields of schema {SCHEMA}: {error!r}"
        ) from None
    if reasons:
        raise CheckFailed(f"{artefact.file} has no passing parity report: " + "; ".join(reasons))


def signal_failures(reference: Mapping[str, Any]) -> list[str]:
    """Whether the checkpoint's logits depend on the picture at all."""
    needed = MIN_SIGNAL * (allowed_error(THRESHOLDS["fp32"], reference["logit_std"]) or math.inf)
    if reference["signal"] >= needed:
        return []
    return [
        f"the checkpoint's logits vary over the pictures by {reference['signal']:.1e} only, and {needed:.1e} is "
        "needed to prove anything: train it first"
    ]


# Every limit is written as `not (figure within limit)`, because a comparison with nan is always false: what cannot be
# compared must fail, not pass.


def failures(
    rows: list[Row],
    problems: Iterable[str],
    precision: str,
    logit_std: float,
    accuracy: Mapping[str, Any] | None = None,
    class_std: Mapping[str, float] | None = None,
    *,
    fixed_size: bool = False,
) -> list[str]:
    """Everything that does not hold about one artefact, in words; empty if it passed.

    `accuracy` (export.accuracy) and `class_std`, what the checkpoint's logits of each class vary by, are needed for the
    precisions that are not exact. An engine that takes one input size (`fixed_size`) is to be compared at that.
    """
    limits = THRESHOLDS[precision]
    found = list(problems)
    inputs = [row for row in rows if row.kind == AT_INPUT_SIZE]
    alone = {(row.height, row.width) for row in inputs if row.batch_size == 1}
    sizes = alone & {(row.height, row.width) for row in inputs if row.batch_size > 1}
    batch_sizes = {row.batch_size for row in rows if row.kind == AS_SERVED}
    if len(sizes) < (needed := 1 if fixed_size else MIN_INPUT_SIZES):
        found.append(
            f"compared at {len(sizes)} input sizes, alone and in batches, expected at least {needed}"
        )
    if len(batch_sizes) < MIN_BATCH_SIZES:
        found.append(f"compared at {len(batch_sizes)} batch sizes, expected at least {MIN_BATCH_SIZES}")
    error_limit = allowed_error(limits, logit_std)
    found += [f"{row}: {', '.join(faults)}" for row in rows if (faults := _faults(row, limits, error_limit))]
    if rows and not ((agreement := pooled_agreement(rows)) >= limits.label_agreement):
        least = min(rows, key=lambda row: row.label_agreement)
        found.append(
            f"all comparisons together: {short_of(agreement, limits.label_agreement)} of the labels agree, fewest in "
            f"{least}, where the logits of class {least.max_error_class} are off most"
        )
    if limits.exact:
        return found
    found += class_costs.lost_classes(rows) + class_costs.noisy_classes(rows, class_std or {}, logit_std)
    return found + class_costs.failures(accuracy, limits)


def pooled_agreement(rows: Iterable[Row]) -> float:
    """Share of all compared pixels with the same class."""
    counts = [(row.differing, row.pixels) for row in rows]
    return 1 - sum(differing for differing, _ in counts) / sum(pixels for _, pixels in counts)


def _faults(row: Row, limits: Thresholds, error_limit: float | None) -> list[str]:
    faults = []
    name, change = row.worst_class
    if error_limit is not None and not (row.max_abs_error <= error_limit):
        faults.append(
            f"a logit of class {row.max_error_class} is off by {row.max_abs_error:.2e}, allowed {error_limit:.2e}"
        )
    agreement = 1 - (row.differing - row.ties) / row.pixels
    if not (agreement >= limits.least_agreement):
        faults.append(
            f"{short_of(agreement, limits.least_agreement)} of the labels agree, class {name} loses most"
        )
    if limits.boundary_agreement is not None and not (row.boundary_agreement >= limits.boundary_agreement):
        faults.append(
            f"{short_of(row.boundary_agreement, limits.boundary_agreement)} agree near class boundaries, "
            f"class {name} loses most"
        )
    if limits.exact and not (change >= -limits.iou_drop_points):
        faults.append(f"class {name} loses {-change:.2f} points of IoU, allowed {limits.iou_drop_points}")
    if limits.exact and row.vanished:
        faults.append(f"vanished: {', '.join(row.vanished)}")
    return faults


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no figure")
    return value
