"""Every artefact of a build folder on this host: engine x precision x batch size, beside eager PyTorch in float32.

    python -m export.build CHECKPOINT --out build/x --engine auto
    python -m benchmarks.engines build/x CHECKPOINT [--batch-sizes 1 8] [--json]

Engines are timed in turns and medians count (export.choose); memory is what a process of its own has grown by after a
batch of each size. Parity is that of the build's own report.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.console import Console

from benchmarks import engine_memory, host
from export.choose import measure
from export.package import REPOSITORY
from segserve import cli
from segserve import parity_report as report
from segserve.engines import Engine, load_engine
from segserve.errors import EngineError, UsageError
from segserve.spec import PARITY_FILE, SPEC_FILE, ModelSpec
from training.torch_engine import checkpoint_segmenter


@dataclass(frozen=True)
class EnginesConfig:
    """Options of the command."""

    build: tyro.conf.Positional[Path]
    """A folder that export.build wrote."""
    checkpoint: tyro.conf.Positional[Path]
    """The checkpoint that it was built from, for eager PyTorch."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Images in one call."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or not all(1 <= size <= 256 for size in self.batch_sizes):
            raise UsageError(f"--batch-sizes {self.batch_sizes}: expected one or more from 1 to 256")


def main(config: EnginesConfig) -> None:
    spec = ModelSpec.load(config.build / SPEC_FILE)
    parity = {entry["name"]: entry for entry in report.load(config.build / PARITY_FILE)["artefacts"]}
    engines: dict[str, Engine] = {"eager fp32": eager_engine(config, spec)}
    not_here = {}
    for artefact in spec.artefacts:
        try:
            engines[artefact.name] = load_engine(
                dataclasses.replace(spec, engine=artefact.name), config.build
            )
        except EngineError as error:
            not_here[artefact.name] = str(error)
    size = (spec.input.height, spec.input.width)
    with Console(stderr=True).status("timing") as status:
        timings = measure(engines, size, config.batch_sizes, lambda step: status.update(step))
    eager = timings["eager fp32"]
    rows = []
    for name, timing in timings.items():
        row: dict[str, Any] = {"engine": name}
        row |= {f"batch {n}, ms": round(ms, 1) for n, ms in timing.latency_ms.items()}
        row["images/s"] = round(timing.images_per_s, 3)
        row["against eager"] = round(timing.images_per_s / eager.images_per_s, 2)
        row["parity"] = _parity(parity.get(name))
        row["memory, MB"] = (
            memory_mb(config.build, name, size, config.batch_sizes) if name in parity else None
        )
        rows.append(row)
    document = {**host.describe(), "input": size, "rows": rows, "not_here": not_here}
    if config.as_json:
        print(host.json_of(document))
        return
    print(host.headline(document))
    print(host.markdown(rows))
    for name, reason in not_here.items():
        print(f"not here: {name}: {reason}")


def eager_engine(config: EnginesConfig, spec: ModelSpec) -> Engine:
    """Eager PyTorch with the build's own checkpoint. Raises: UsageError for another one, CheckpointError."""
    segmenter = checkpoint_segmenter(config.checkpoint)
    got, expected = segmenter.spec.checkpoint_sha256, spec.checkpoint_sha256
    if got != expected:
        raise UsageError(
            f"{config.checkpoint} is not what {config.build} was built from: its sha256 is {got}, expected {expected}; "
            "name that checkpoint, or build this one with export.build"
        )
    return segmenter.engine


def _parity(entry: Mapping[str, Any] | None) -> str:
    """Of an artefact's entry in parity.json; there is none for eager PyTorch."""
    if entry is None:
        return "is the reference"
    agreement = entry["summary"].get("label_agreement", 0.0)
    return f"{'holds' if entry['passed'] else 'fails'}, {100 * agreement:.3f} % of the labels"


def memory_mb(build: Path, name: str, size: tuple[int, int], batch_sizes: tuple[int, ...]) -> float:
    """How much a fresh process grows (RSS, MB) by loading the artefact and answering a batch of each size."""
    numbers = map(str, (*size, *batch_sizes))
    command = [sys.executable, "-m", engine_memory.__name__, str(build.resolve()), name, *numbers]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout)


if __name__ == "__main__":
    cli.run(EnginesConfig, main)
