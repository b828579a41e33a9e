"""Does every artefact segment like the checkpoint, as it will be served? The proof behind parity.json.

The checkpoint answers through eager float32 PyTorch, with what its own description says about normalisation, input
size and align_corners. The artefact answers through segserve, with what model_spec.json says. Both start from the same
files, so a wrong channel order, mean, weight or resize policy shows, whichever side of the artefact it is on.

    report = check(Path("checkpoint.safetensors"), Path("build/rooms"))
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from export import accuracy, decode_effect
from export.cases import MIRRORED, Case, Picture, build_case, chosen_files, pictures, prepare
from export.compare import compare
from segserve import class_costs
from segserve import parity_report as reports
from segserve.engines import load_engine
from segserve.parity_row import AS_SERVED, AT_INPUT_SIZE, Row
from segserve.segmenter import Segmenter
from segserve.spec import SPEC_FILE, Artefact, ModelSpec
from segserve.thresholds import THRESHOLDS
from training.torch_engine import checkpoint_segmenter

BATCH_SIZES = (1, 2, 5)

CaseOrPicture = TypeVar("CaseOrPicture", Case, Picture)


def check(
    checkpoint: Path,
    folder: Path,
    images: Path | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Compare every artefact of `folder` (model_spec.json and the files it names) with `checkpoint`.

    Args:
        images: a folder of photos to compare on, besides rendered rooms.
        on_step: called after each picture or batch with the number of steps done and to be done.

    Returns: the parity report (segserve.parity_report), passed or not.

    Raises: CheckpointError, SpecError, EngineError; UsageError for `images`.
    """
    spec = ModelSpec.load(folder / SPEC_FILE)
    reference = checkpoint_segmenter(checkpoint)
    files, available = chosen_files(images)
    to_do = pictures((reference.spec.input.height, reference.spec.input.width), files)
    lower = [artefact for artefact in spec.artefacts if not THRESHOLDS[artefact.precision].exact]
    total = len(to_do) + sum(len(batches(comparable(to_do, spec, artefact))) for artefact in spec.artefacts)
    total += accuracy.ROOMS * (len(lower) + bool(lower))
    steps = itertools.count(1)

    def advance() -> None:
        on_step(next(steps), total)

    cases = []
    for picture in to_do:
        cases.append(build_case(picture, reference))
        advance()
    facts = reference_facts(cases, reference.spec.classes)
    rooms = accuracy.accuracy_pictures(reference, advance) if lower else []
    entries = [
        _entry(spec, artefact, folder, cases, reference, facts, rooms, advance) for artefact in spec.artefacts
    ]
    wrong = spec_failures(spec, reference.spec)
    return {
        "schema": reports.SCHEMA,
        "passed": not wrong and bool(entries) and all(entry["passed"] for entry in entries),
        "checkpoint_sha256": reference.spec.checkpoint_sha256,
        "spec_sha256": reports.spec_sha256(spec),
        "spec_failures": wrong,
        "files": {"compared": len(files), "available": available},
        "reference": facts,
        "reduced_decode": decode_effect.figures(cases, reference),
        "thresholds": {a.precision: dataclasses.asdict(THRESHOLDS[a.precision]) for a in spec.artefacts},
        "environment": {**spec.versions, "cpu": torch.backends.cpu.get_cpu_capability()},
        "artefacts": entries,
    }


def spec_failures(spec: ModelSpec, expected: ModelSpec) -> list[str]:
    """Where a spec says something else about the model than the checkpoint does."""
    fields = ("preset", "classes", "ignore_label", "input", "stride", "align_corners", "checkpoint_sha256")
    return [
        f"the spec says {field} is {getattr(spec, field)}, the checkpoint {getattr(expected, field)}"
        for field in fields
        if getattr(spec, field) != getattr(expected, field)
    ]


def reference_facts(cases: list[Case], classes: tuple[str, ...]) -> dict[str, Any]:
    """The checkpoint's logits over all cases: their spread, and how far they depend on the picture.

    `signal` is the standard deviation over pictures of one class's logit at one place, averaged over classes: from
    rooms and their mirror images at the same size, so that what only depends on the place in the map does not count.
    """
    logits = np.concatenate(
        [case.logits.reshape(len(classes), -1) for case in cases], axis=1, dtype=np.float64
    )
    seen = sorted({int(label) for case in cases for label in np.unique(case.labels)})
    return {
        "engine": "torch eager float32",
        "logit_std": float(logits.std()),
        "logit_max_abs": float(np.abs(logits).max()),
        "class_std": dict(zip(classes, logits.std(axis=1).tolist(), strict=True)),
        "signal": _signal(cases),
        "classes_seen": [classes[label] for label in seen],
    }


def _signal(cases: Sequence[Case]) -> float:
    """0 without any two pictures of one size."""
    inputs = [case for case in cases if case.kind == AT_INPUT_SIZE]
    squares = [
        ((case.logits.astype(np.float64) - mirrored.logits) ** 2).reshape(len(case.logits), -1)
        for case, mirrored in zip(inputs[::2], inputs[1::2], strict=True)
    ]
    if not squares:
        return 0.0
    return float(np.sqrt(np.concatenate(squares, axis=1).mean(axis=1) / 2).mean())


def comparable(cases: Sequence[CaseOrPicture], spec: ModelSpec, artefact: Artefact) -> list[CaseOrPicture]:
    """Without the input sizes that an engine of one size does not take."""
    served = f"room-{spec.input.height}x{spec.input.width}"
    return [
        case
        for case in cases
        if not artefact.fixed_size or case.kind == AS_SERVED or case.name.removesuffix(MIRRORED) == served
    ]


def batches(cases: Sequence[CaseOrPicture]) -> list[list[CaseOrPicture]]:
    """Photos in turn, in batches of 1, 2, 5 and more of 5 until each had its turn; then network inputs.

    Each network input comes alone and together with the next one, its mirror image: a graph may have been specialised
    for a batch of either size at some heights and widths only.
    """
    photos = [case for case in cases if case.kind == AS_SERVED]
    sizes = list(BATCH_SIZES)
    while sum(sizes) < len(photos):
        sizes.append(BATCH_SIZES[-1])
    turns = itertools.cycle(photos)
    together = [list(itertools.islice(turns, size)) for size in sizes]
    inputs = [case for case in cases if case.kind == AT_INPUT_SIZE]
    pairs = zip(inputs[::2], inputs[1::2], strict=True)
    return together + [batch for case, mirrored in pairs for batch in ([case], [case, mirrored])]


def _entry(
    spec: ModelSpec,
    artefact: Artefact,
    folder: Path,
    cases: list[Case],
    reference: Segmenter,
    facts: dict[str, Any],
    rooms: list[accuracy.AccuracyPicture],
    advance: Callable[[], None],
) -> dict[str, Any]:
    """The part of the report on one artefact."""
    served = dataclasses.replace(spec, engine=artefact.name)
    segmenter = Segmenter(served, load_engine(served, folder))
    limit = reports.allowed_error(THRESHOLDS[artefact.precision], facts["logit_std"])
    rows: list[Row] = []
    problems: list[str] = []
    for batch in batches(comparable(cases, spec, artefact)):
        try:
            rows += _compare_batch(batch, segmenter, reference.spec, limit)
        except Exception as error:  # whatever an engine raises, this comparison failed
            names = ", ".join(case.name for case in batch)
            problems.append(f"{names} ({batch[0].kind}, batch of {len(batch)}): {error}")
        advance()
    costs = None if THRESHOLDS[artefact.precision].exact else _costs(segmenter, rooms, problems, advance)
    failed = reports.failures(
        rows,
        problems,
        artefact.precision,
        facts["logit_std"],
        costs,
        facts["class_std"],
        fixed_size=artefact.fixed_size,
    )
    failed += reports.signal_failures(facts)
    return {
        "name": artefact.name,
        "file": artefact.file,
        "engine": artefact.engine,
        "precision": artefact.precision,
        "sha256": artefact.sha256,
        "provider": segmenter.engine.provider,
        "passed": not failed,
        "failures": failed,
        "summary": summary(rows, limit, costs) if rows else {},
        "accuracy": costs,
        "problems": problems,
        "rows": [dataclasses.asdict(row) for row in rows],
    }


def _costs(
    segmenter: Segmenter,
    rooms: list[accuracy.AccuracyPicture],
    problems: list[str],
    advance: Callable[[], None],
) -> dict[str, Any] | None:
    """Of export.accuracy; None where the engine raises, and `problems` says why."""
    try:
        return accuracy.figures(segmenter, rooms, advance)
    except Exception as error:  # as in the comparisons
        problems.append(f"rendered rooms ({AT_INPUT_SIZE}, batch of 1): {error}")
        return None


def _compare_batch(
    batch: list[Case], segmenter: Segmenter, expected: ModelSpec, limit: float | None
) -> list[Row]:
    prepared = [prepare(case.content, segmenter) for case in batch]
    rows = []
    for case, item, logits in zip(batch, prepared, segmenter.logits(prepared), strict=True):
        rows.append(
            compare(
                case,
                logits,
                segmenter.labels(logits, item),
                len(batch),
                expected.classes,
                align_corners=expected.align_corners,
                allowed_error=limit,
            )
        )
    return rows


def summary(rows: list[Row], limit: float | None, costs: dict[str, Any] | None) -> dict[str, Any]:
    """The figures of one artefact that people ask for first. Below float32, its IoU is that of export.accuracy."""
    worst = min(rows, key=lambda row: row.worst_class[1])
    worst_class, change = worst.worst_class
    worst_at = str(worst)
    if costs is not None:
        lost = class_costs.drops(costs)
        worst_class = max(lost, key=lambda name: lost[name]) if lost else "none"
        change, worst_at = -lost.get(worst_class, 0.0), f"{accuracy.ROOMS} rendered rooms, {costs['truth']}"
    largest = max(rows, key=lambda row: row.max_abs_error)
    return {
        "comparisons": len(rows),
        "max_abs_error": largest.max_abs_error,
        "max_abs_error_at": str(largest),
        "allowed_error": limit,
        "mean_abs_error": float(np.mean([row.mean_abs_error for row in rows])),
        "label_agreement": reports.pooled_agreement(rows),
        "lowest_label_agreement": min(row.label_agreement for row in rows),
        "lowest_boundary_agreement": min(row.boundary_agreement for row in rows),
        "differing_pixels": sum(row.differing for row in rows),
        "of_those_ties": sum(row.ties for row in rows),
        "worst_class": worst_class,
        "worst_class_iou_change_points": change,
        "worst_class_at": worst_at,
    }
