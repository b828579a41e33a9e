"""Does every GPU engine really run on this host's GPUs, answer like the CPU, and how fast is it?

    python -m benchmarks.gpu_check                                    # the demo model; `make gpu-check`
    python -m benchmarks.gpu_check runs/x/best.safetensors --batch-sizes 1 8 32 --json gpu.json

Tries TensorRT, ONNX Runtime's CUDA and TensorRT providers and TorchScript on every GPU, compares each with ONNX Runtime
on the CPU at every batch size and two input sizes, and times it. The exit code is 1 where an engine fails, answers
otherwise or quietly runs elsewhere, or where none ran; a library that is not installed is told and no failure. Without
a GPU it says that it is skipped, and the exit code is 0.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks import gpu_engines, host, json_file
from benchmarks.gpu_engines import SUBJECTS, Subject
from segserve import cli, cpu
from segserve.engines import cuda
from segserve.engines.onnx import OnnxEngine
from segserve.errors import CheckFailed, EngineError, UsageError

SKIPPED = "skipped: no GPU here (nvidia-smi and CUDA show none)"
CALIBRATION_IMAGES = 48
ODD_SIZE = (97, 137)  # no multiple of the stride or of the pyramid's bins


@dataclass(frozen=True)
class GpuCheckConfig:
    """Options of the command."""

    checkpoint: tyro.conf.Positional[Path] = Path("model_store/demo/rooms.safetensors")
    """A checkpoint of training.train (.safetensors)."""
    out: Path = Path("build/gpu-check")
    """Folder for what is exported and built; plans that are there already are built anew."""
    batch_sizes: tuple[int, ...] = (1, 2, 8)
    """Compared and timed at each of them."""
    as_json: Annotated[Path | None, tyro.conf.arg(name="json")] = None
    """Write the whole report there."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError(f"--batch-sizes {self.batch_sizes}: expected one or more, each at least 1")
        json_file.require_place(self.as_json)


def main(config: GpuCheckConfig) -> None:
    found = gpus()
    report: dict[str, Any] = {**host.describe(), "skipped": not found, "gpus": found}
    if not found:
        print(SKIPPED)
        json_file.write(config.as_json, {**report, "reason": SKIPPED})
        return
    print(f"{host.headline(report)}; driver for CUDA {driver()}")
    rows = list(check(config, found))
    problems = gpu_engines.missed(rows)
    if not any(row["status"] == "ok" for row in rows):
        problems.append("no engine ran on a GPU")
    print(host.markdown([line for row in rows for line in table_lines(row)]))
    json_file.write(config.as_json, {**report, "driver": driver(), "rows": rows, "failures": problems})
    if problems:
        raise CheckFailed("\n  ".join(["not as it should be:", *problems]))


def gpus() -> list[dict[str, Any]]:
    """Of CUDA, or where cuda-bindings is not installed, of the driver's own tool; [] if there is none.

    Raises EngineError where the driver has GPUs that CUDA cannot use.
    """
    names = host.gpus()
    try:
        found = [dataclasses.asdict(gpu) for gpu in cuda.gpus()]
    except EngineError as error:
        if not names:
            return []
        print(f"warning: {error}", file=sys.stderr)
        found = []
    return found or [{"index": index, "name": name} for index, name in enumerate(names)]


def driver() -> str:
    """The CUDA version that it supports, where that can be asked."""
    try:
        return cuda.driver_version()
    except EngineError:
        return "unknown"


def check(config: GpuCheckConfig, found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A row for each GPU and engine. Raises CheckpointError."""
    missing = {subject: subject.missing() for subject in SUBJECTS}
    size = export(config, [subject for subject in SUBJECTS if not missing[subject]])
    inputs = {}
    for height, width in (size, ODD_SIZE):
        images = gpu_engines.rooms(max(config.batch_sizes), height, width)
        reference = OnnxEngine(config.out / "model.onnx", cpu.cores())
        inputs[height, width] = (images, reference(images))
    for gpu in found:
        for subject in SUBJECTS:
            row = {"gpu": gpu["index"], "gpu_name": gpu["name"], "engine": subject.name}
            if missing[subject]:
                yield {**row, "status": "not installed", "reason": missing[subject]}
                continue
            say(f"GPU {gpu['index']}: {subject.name}")
            yield {**row, **examine(subject, config, gpu["index"], size, inputs)}


def examine(
    subject: Subject,
    config: GpuCheckConfig,
    device_id: int,
    served_size: tuple[int, int],
    inputs: dict[tuple[int, int], tuple[NDArray[np.uint8], NDArray[Any]]],
) -> dict[str, Any]:
    """Compare at every size and batch size, time at the served size; whatever an engine raises is its failure."""
    result: dict[str, Any] = {"provider": "", "parity": [], "latency_ms": {}}
    reasons = []
    for (height, width), (images, expected) in inputs.items():
        try:
            engine = subject.load(config.out, device_id, height, width, config.batch_sizes)
            result["provider"] = engine.provider
            for count in config.batch_sizes:
                figures = gpu_engines.compare(subject.precision, engine(images[:count]), expected[:count])
                result["parity"].append({"size": [height, width], "batch_size": count, **figures})
                reasons += [f"{height}x{width}, batch of {count}: {why}" for why in figures["failures"]]
                if (height, width) == served_size:
                    result["latency_ms"][count] = gpu_engines.latency_ms(engine, images[:count])
            if subject.engine == "tensorrt":
                engine.close()  # type: ignore[attr-defined]
        except Exception as error:
            reasons.append(f"{height}x{width}: {error}")
    return {**result, "status": "failed" if reasons else "ok", "reason": "; ".join(reasons)}


def export(config: GpuCheckConfig, subjects: list[Subject]) -> tuple[int, int]:
    """Write the files that the subjects are loaded from. Returns the model's input size, height and width."""
    from export.quantise import signed
    from export.variants import VARIANTS, Source, write_file
    from training.checkpoint import load_model

    net, meta = load_model(config.checkpoint)
    size = (meta.input_height, meta.input_width)
    config.out.mkdir(parents=True, exist_ok=True)
    for old in (*config.out.glob("*.plan"), *config.out.glob("*.int8*.onnx")):
        old.unlink()
    rooms = gpu_engines.rooms(CALIBRATION_IMAGES, *size, gpu_engines.CALIBRATION_SEED)
    source = Source(net, meta, lambda: [list(rooms[:, np.newaxis])], config.batch_sizes)
    wanted = {"model.onnx", *(subject.source for subject in subjects)}
    int8 = "model.int8-signed.onnx" in wanted
    files = wanted | ({"model.int8.onnx"} if int8 else set())
    for file in dict.fromkeys(variant.file for variant in VARIANTS if variant.file in files):
        write_file(file, source, config.out, say)
    if int8:
        signed(config.out / "model.int8.onnx", config.out / "model.int8-signed.onnx")
    return size


def table_lines(row: dict[str, Any]) -> list[dict[str, Any]]:
    """A line for each batch size that was timed, or one that says why none was."""
    head = {"GPU": f"{row['gpu']} {row['gpu_name']}", "engine": row["engine"], "status": row["status"]}
    worst = min((entry.get("label_agreement", 0.0) for entry in row.get("parity", [])), default=None)
    agreeing = None if worst is None else f"{100 * worst:.3f}"
    timed = row.get("latency_ms") or {None: None}
    return [
        {
            **head,
            "labels agreeing %": agreeing,
            "batch": batch,
            "ms": ms,
            "images/s": None if ms is None else 1e3 * batch / ms,
            "provider or reason": row["reason"] or row["provider"],
        }
        for batch, ms in timed.items()
    ]


def say(step: str) -> None:
    """Progress: exports and engine builds take minutes."""
    print(f"{step} ...", file=sys.stderr, flush=True)


if __name__ == "__main__":
    cli.run(GpuCheckConfig, main)
