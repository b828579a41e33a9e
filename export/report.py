"""parity.json: what was compared, and whether it holds. Read by the packager and by whoever deploys; needs no torch.

The verdict is never taken from the file: `failures` judges its rows anew against export.thresholds.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from export import class_costs
from export.thresholds import LEAST_KEPT, MIN_BATCH_SIZES, MIN_INPUT_SIZES, MIN_SIGNAL, THRESHOLDS, Thresholds
from segserve.errors import CheckFailed
from segserve.spec import Artefact, ModelSpec

SCHEMA = 1
AS_SERVED = "as served"  # image bytes -> label map at the photo's size
AT_INPUT_SIZE = "input size"  # network input -> label map at that size


@dataclass(frozen=True)
class Row:
    """One picture in one batch: the artefact against the checkpoint.

    A pixel whose class differs is a tie if the checkpoint itself hardly prefers its class there: by less than two
    errors of the allowed size, so that rounding decides. Agreement counts ties as differing; the boundary agreement,
    the IoU changes and the vanished classes leave them aside.
    """

    kind: str
    image: str
    batch_size: int
    height: int
    width: int
    max_abs_error: float
    max_error_class: str
    mean_abs_error: float
    differing: int
    ties: int
    boundary_agreement: float
    iou_change_points: dict[str, float]
    vanished: list[str]
    kept: Mapping[str, Sequence[int]] = field(default_factory=dict)
    """Of each class: pixels of the checkpoint, and those of them that the artefact left as they were."""
    yours: bool = False
    """Whether the picture is one of the user's (--images), not a rendered room."""

    def __post_init__(self) -> None:
        """Raises ValueError for figures that no comparison yields, as a torn or edited report may hold."""
        if self.height < 1 or self.width < 1 or not 0 <= self.ties <= self.differing <= self.pixels:
            raise ValueError(
                f"{self}: {self.differing} labels differ, {self.ties} of them ties, of {self.height} x {self.width}"
            )
        if not self.iou_change_points:
            raise ValueError(f"{self}: no class was compared")

    @property
    def pixels(self) -> int:
        """Of the label maps compared."""
        return self.height * self.width

    @property
    def label_agreement(self) -> float:
        """Share of pixels with the same class, ties counted as differing."""
        return 1 - self.differing / self.pixels

    @property
    def worst_class(self) -> tuple[str, float]:
        """The class that lost most IoU, and how many points it changed by; nan is the worst of all."""
        return min(self.iou_change_points.items(), key=lambda item: (not math.isnan(item[1]), item[1]))

    def __str__(self) -> str:
        return f"{self.image} ({self.kind}, batch of {self.batch_size})"


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
    *,
    fixed_size: bool = False,
) -> list[str]:
    """Everything that does not hold about one artefact, in words; empty if it passed.

    `accuracy` (export.accuracy) is needed for the precisions that are not exact. An engine that takes one input size
    (`fixed_size`) is to be compared at that.
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
            f"all comparisons together: {_less(agreement, limits.label_agreement)} of the labels agree, fewest in "
            f"{least}, where the logits of class {least.max_error_class} are off most"
        )
    return found if limits.exact else found + lost_classes(rows) + _accuracy_failures(accuracy, limits)


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
            if count >= class_costs.MIN_PIXELS and not (left_of[name] >= LEAST_KEPT * count):
                share = 100 * left_of[name] / count
                said = f"class {name} keeps {share:.2f} % of its pixels over all {of}, expected {100 * LEAST_KEPT:g} %"
                found.setdefault(name, f"{said} or more")
    return list(found.values())


def _accuracy_failures(accuracy: Mapping[str, Any] | None, limits: Thresholds) -> list[str]:
    """What becomes of the classes at a lower precision, over the rendered rooms."""
    if accuracy is None:
        return ["what the precision costs each class was not measured"]
    found = []
    if not (class_costs.agreement(accuracy) >= limits.label_agreement):
        found.append(
            f"rendered rooms: {_less(class_costs.agreement(accuracy), limits.label_agreement)} of the labels agree"
        )
    lost = class_costs.drops(accuracy)
    if not lost:
        found.append("rendered rooms: no class covers enough pixels to judge by")
    for name, drop in lost.items():
        if not (drop <= limits.iou_drop_points):
            found.append(
                f"rendered rooms: class {name} loses {drop:.2f} points of IoU, allowed {limits.iou_drop_points}"
            )
    if gone := class_costs.vanished(accuracy):
        found.append(f"rendered rooms: vanished: {', '.join(gone)}")
    return found


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
            f"{_less(agreement, limits.least_agreement)} of the labels agree, class {name} loses most"
        )
    if limits.boundary_agreement is not None and not (row.boundary_agreement >= limits.boundary_agreement):
        faults.append(
            f"{_less(row.boundary_agreement, limits.boundary_agreement)} agree near class boundaries, "
            f"class {name} loses most"
        )
    if limits.exact and not (change >= -limits.iou_drop_points):
        faults.append(f"class {name} loses {-change:.2f} points of IoU, allowed {limits.iou_drop_points}")
    if limits.exact and row.vanished:
        faults.append(f"vanished: {', '.join(row.vanished)}")
    return faults


def _less(got: float, expected: float) -> str:
    return f"{100 * got:.3f} % (expected {100 * expected:g} %)"


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no figure")
    return value
