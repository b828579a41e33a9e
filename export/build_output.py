"""What export.build prints: progress, the figures of every artefact, the choice of one, as tables or as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export import golden
from segserve.spec import ModelSpec


def progress_bar() -> Progress:
    """On standard error, so that what is printed can be piped; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


def as_json(
    spec: ModelSpec,
    summaries: dict[str, dict[str, Any]],
    files: dict[str, int],
    mar: Path | None,
    left_out: Mapping[str, str],
) -> str:
    """The figures of every artefact, and why others are not among them; `mar` is None where the comparison failed."""
    document = {
        "passed": mar is not None,
        "mar": None if mar is None else str(mar),
        "engine": spec.engine,
        "num_bytes": {artefact.name: artefact.num_bytes for artefact in spec.artefacts},
        "files": files,
        "parity": summaries,
        "choice": spec.choice,
        "left_out": dict(left_out),
    }
    return json.dumps(document)


def show(
    checkpoint: str,
    spec: ModelSpec,
    summaries: Mapping[str, dict[str, Any]],
    left_out: Mapping[str, str],
) -> None:
    """Print tables: each artefact against the checkpoint, and the choice if one was made; then what was left out."""
    console = Console()
    table = Table(title=escape(f"{checkpoint} against its exports"), title_justify="left")
    for column in (
        "artefact",
        "MB",
        "comparisons",
        "largest logit error",
        "labels agreeing %",
        "worst class",
    ):
        table.add_column(column)
    for artefact in spec.artefacts:
        figures = summaries[artefact.name]
        allowed = figures["allowed_error"]
        table.add_row(
            escape(f"{artefact.name} ({artefact.file})"),
            f"{artefact.num_bytes / 1e6:.1f}",
            str(figures["comparisons"]),
            f"{figures['max_abs_error']:.1e}" + (f" (allowed {allowed:.0e})" if allowed else ""),
            f"{100 * figures['label_agreement']:.4f}",
            escape(f"{figures['worst_class']} {figures['worst_class_iou_change_points']:+.3f} IoU points"),
        )
    console.print(table)
    if spec.choice:
        console.print(choice_table(spec.choice))
    for name, reason in left_out.items():
        print(f"not here: {name}: {reason}")


def choice_table(choice: dict[str, Any]) -> Table:
    """What was measured on this host, best first."""
    table = Table(
        title=f"On {choice['cpu']}, {choice['threads']} threads, by {choice['objective']}",
        title_justify="left",
    )
    sizes = list(choice["eager_latency_ms"])
    for column in (
        "engine",
        *(f"ms, batch {size}" for size in sizes),
        "images/s",
        "against eager fp32",
        "parity",
    ):
        table.add_column(column)
    for row in choice["table"]:
        latencies = [f"{row['latency_ms'][size]:.1f}" for size in sizes]
        verdict = "holds" if row["passed"] else escape(f"left out: {row['reason']}")
        table.add_row(
            row["name"], *latencies, f"{row['images_per_s']:.2f}", f"{row['ratio_to_eager']:.2f} x", verdict
        )
    return table


def show_photos(images: Path, files: Mapping[str, int]) -> None:
    """Print which of `--images` were used. files: how many were `compared`, how many are `available`."""
    print(f"compared on {files['compared']} of the {files['available']} files in {images}")
    if not golden.fitting(images):
        print(
            f"none of them has at most {golden.MAX_BYTES / 1e6:g} MB, so the golden photos are rendered rooms: give "
            "smaller ones for a rollout to ask for"
        )
