"""Checkpoint -> artefacts, proof that they segment like it, and the .mar that TorchServe serves.

    python -m export.build model_store/demo/rooms.safetensors --out build/rooms
    python -m export.build runs/x/best.safetensors --out build/x --name x --images my_photos --engine torchscript

Writes model.onnx, model.pt, model_spec.json, parity.json and NAME.mar into the folder. If any artefact answers
otherwise than the checkpoint, the exit code is 1, no .mar is made, and parity.json says where they differ.
"""

from __future__ import annotations

import dataclasses
import json
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy
import onnx
import onnxruntime
import PIL
import torch
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from export import parity, report
from export.package import package
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from export.to_torchscript import to_torchscript
from segserve import cli
from segserve.errors import CheckFailed, UsageError
from segserve.spec import PARITY_FILE, SPEC_FILE, Artefact, ModelSpec, sha256_file
from training.checkpoint import load_model
from training.torch_engine import checkpoint_spec

# file name, engine of segserve.engines, how it is written
EXPORTS: tuple[tuple[str, str, Callable[[ServedNet, Path], None]], ...] = (
    ("model.onnx", "onnx", to_onnx),
    ("model.pt", "torchscript", to_torchscript),
)


@dataclass(frozen=True)
class BuildConfig:
    """Options of the command."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint of training.train (.safetensors)."""
    out: Path
    """Folder for the artefacts, the reports and the .mar."""
    engine: Literal["onnx", "torchscript"] = "onnx"
    """Which artefact goes into the .mar."""
    name: str = "rooms"
    """Name under which the model is served."""
    version: str = "1.0"
    """Its version."""
    images: Path | None = None
    """Folder of photos to compare on, besides rendered rooms; of more than 50, 50 are taken, evenly chosen."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table, also where the comparison fails."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UsageError(
                f"--name {self.name!r}: letters, digits, '.', '_' and '-' only, it is part of a URL"
            )
        if not re.fullmatch(r"\d+(\.\d+)*", self.version):
            raise UsageError(f"--version {self.version!r}: expected numbers with dots, such as 1.0")


def main(config: BuildConfig) -> None:
    prepare_folder(config)
    with progress_bar() as progress:
        task = progress.add_task("export", total=None)
        spec = export(config)
        progress.update(task, description="compare")
        checked = parity.check(
            config.checkpoint,
            config.out,
            config.images,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        report.save(checked, config.out / PARITY_FILE)
        summaries = {entry["engine"]: entry["summary"] for entry in checked["artefacts"]}
        if config.as_json and not checked["passed"]:
            print(as_json(spec, summaries, checked["files"], None))
        require_parity(checked, config.out)
        progress.update(task, description="package")
        dataclasses.replace(spec, parity={"passed": True, **summaries}).save(config.out / SPEC_FILE)
        mar = package(config.out)
    show(config, spec, summaries, checked["files"], mar)


def prepare_folder(config: BuildConfig) -> None:
    """Make it, and take away what would look like this build's result if this build failed."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        for name in (SPEC_FILE, PARITY_FILE, f"{config.name}.mar"):
            (config.out / name).unlink(missing_ok=True)
    except OSError as error:
        raise UsageError(f"--out {config.out}: {error.strerror}") from error


def export(config: BuildConfig) -> ModelSpec:
    """Write every artefact and the spec that describes them. Raises CheckpointError."""
    net, meta = load_model(config.checkpoint)
    net.aux = torch.nn.Sequential()  # the auxiliary head is for training only
    served = ServedNet(net, meta.mean, meta.std).eval()
    artefacts = []
    for file, engine, write in EXPORTS:
        path = config.out / file
        write(served, path)
        artefacts.append(Artefact(file, engine, "fp32", sha256_file(path), path.stat().st_size))
    spec = dataclasses.replace(
        checkpoint_spec(config.checkpoint, meta),
        name=config.name,
        version=config.version,
        artefacts=tuple(artefacts),
        engine=config.engine,
        versions=versions(),
    )
    spec.save(config.out / SPEC_FILE)
    return spec


def versions() -> dict[str, str]:
    """Of what takes part in export and comparison."""
    modules = {"torch": torch, "onnx": onnx, "onnxruntime": onnxruntime, "numpy": numpy, "pillow": PIL}
    return {"python": platform.python_version()} | {name: m.__version__ for name, m in modules.items()}


def require_parity(checked: dict[str, Any], folder: Path) -> None:
    """Raises CheckFailed naming the artefact, the picture and the class that went wrong."""
    reasons = list(checked["spec_failures"])
    for entry in checked["artefacts"]:
        reasons += [f"{entry['file']}: {failure}" for failure in entry["failures"]]
    if not checked["passed"]:
        shown = "".join(f"\n  {reason}" for reason in reasons[:12])
        more = f"\n  and {len(reasons) - 12} more" if len(reasons) > 12 else ""
        raise CheckFailed(
            f"no package: not what the checkpoint answers{shown}{more}\nSee {folder / PARITY_FILE}"
        )


def as_json(
    spec: ModelSpec, summaries: dict[str, dict[str, Any]], files: dict[str, int], mar: Path | None
) -> str:
    """The figures of every artefact; `mar` is None where the comparison failed."""
    document = {
        "passed": mar is not None,
        "mar": None if mar is None else str(mar),
        "engine": spec.engine,
        "num_bytes": {artefact.engine: artefact.num_bytes for artefact in spec.artefacts},
        "files": files,
        "parity": summaries,
    }
    return json.dumps(document)


def show(
    config: BuildConfig,
    spec: ModelSpec,
    summaries: dict[str, dict[str, Any]],
    files: dict[str, int],
    mar: Path,
) -> None:
    """Print the figures of every artefact, as a table or JSON."""
    if config.as_json:
        print(as_json(spec, summaries, files, mar))
        return
    table = Table(title=f"{config.checkpoint.name} against its exports", title_justify="left")
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
        figures = summaries[artefact.engine]
        table.add_row(
            artefact.file,
            f"{artefact.num_bytes / 1e6:.1f}",
            str(figures["comparisons"]),
            f"{figures['max_abs_error']:.1e} (allowed {figures['allowed_error']:.0e})",
            f"{100 * figures['label_agreement']:.4f}",
            f"{figures['worst_class']} {figures['worst_class_iou_change_points']:+.3f} IoU points",
        )
    Console().print(table)
    if config.images is not None:
        print(f"compared on {files['compared']} of the {files['available']} files in {config.images}")
    print(f"{mar}: {spec.name} {spec.version}, engine {spec.engine}")


def progress_bar() -> Progress:
    """On standard error, so that what is printed can be piped; nothing where that is no terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=True)


if __name__ == "__main__":
    cli.run(BuildConfig, main)
