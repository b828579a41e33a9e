"""Checkpoint -> artefacts, proof that they segment like it, the choice of one, and the .mar that TorchServe serves.

    python -m export.build model_store/demo/rooms.safetensors --out build/rooms
    python -m export.build runs/x/best.safetensors --out build/x --name x --engine auto --calibration my_photos

Writes model.onnx, model.pt (with --engine auto also whatever else this host can run), model_spec.json, parity.json and
NAME.mar into the folder. If an artefact answers otherwise than the checkpoint, the exit code is 1, no .mar is made, and
parity.json says where they differ. model.pt is left out where it cannot run (a GPU that torch sees and cannot use) and
another engine was asked for. With --engine auto, a lower precision or a further engine that does not hold is
left out instead, the others are timed on this host, and the best is packed together with what can stand in for it.
"""

from __future__ import annotations

import dataclasses
import functools
import platform
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy
import onnx
import onnxruntime
import PIL
import torch
import tyro

from export import build_output, calibration, cases, choose, golden, parity, verdict
from export.choose import Objective
from export.package import package, remove_unfinished
from export.variants import NEUTRAL, VARIANTS, Source, Variant, proven_floats, variants, write_file
from segserve import cli, cpu
from segserve import parity_report as report
from segserve.engines import load_engine, require_running
from segserve.errors import EngineError, UsageError
from segserve.spec import PARITY_FILE, SPEC_FILE, Artefact, ModelSpec, sha256_file
from training.checkpoint import CheckpointMeta, load_model
from training.pspnet import PSPNet
from training.torch_engine import checkpoint_segmenter, checkpoint_spec


@dataclass(frozen=True)
class BuildConfig:
    """Options of the command."""

    checkpoint: tyro.conf.Positional[Path]
    """A checkpoint of training.train (.safetensors)."""
    out: Path
    """Folder for the artefacts, the reports and the .mar."""
    engine: str = "onnx"
    """Which artefact is served: onnx, torchscript, openvino, openvino-int8 …, or auto, which measures. model.onnx goes
    into the .mar beside it, for hosts that cannot run it."""
    objective: Objective = "throughput"
    """What auto chooses by: images/s at the best batch size, or the latency of the smallest."""
    batch_sizes: tuple[int, ...] = (1, 8)
    """Batch sizes that auto measures."""
    name: str = "rooms"
    """Name under which the model is served."""
    version: str = "1.0"
    """Its version."""
    images: Path | None = None
    """Folder of photos to compare on, besides rendered rooms; of more than 50, 50 are taken, evenly chosen. Four of
    them are packed, with their masks, as what a rollout asks a server first (golden photos)."""
    calibration: Path | None = None
    """Folder of photos for int8 to be calibrated with (100 are plenty), beside some rendered rooms; without it, these
    alone."""
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False
    """Print JSON instead of a table, also where the comparison fails."""

    def __post_init__(self) -> None:
        if not self.batch_sizes or not all(1 <= size <= 256 for size in self.batch_sizes):
            raise UsageError(f"--batch-sizes {self.batch_sizes}: expected one or more from 1 to 256")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise UsageError(
                f"--name {self.name!r}: letters, digits, '.', '_' and '-' only, it is part of a URL"
            )
        if not re.fullmatch(r"\d+(\.\d+)*", self.version):
            raise UsageError(f"--version {self.version!r}: expected numbers with dots, such as 1.0")
        for option, folder in (("--images", self.images), ("--calibration", self.calibration)):
            if folder is not None and folder.resolve() == self.out.resolve():
                raise UsageError(f"--out {self.out} is also {option}: give a folder of its own")


def main(config: BuildConfig) -> None:
    made, left_out = variants(config.engine)
    model = read_inputs(config)
    prepare_folder(config)
    with build_output.progress_bar() as progress:
        task = progress.add_task("export", total=None)

        def say(step: str) -> None:
            progress.update(task, description=step)

        spec, notes = export(config, model, made, left_out, say)
        say("compare")
        checked = parity.check(
            config.checkpoint,
            config.out,
            config.images,
            lambda done, total: progress.update(task, completed=done, total=total),
        )
        checked["notes"] = notes
        failed = verdict.leave_out(checked, left_out, config.engine)
        report.save(checked, config.out / PARITY_FILE)
        summaries = {entry["name"]: entry["summary"] for entry in checked["artefacts"]}
        if config.as_json and not checked["passed"]:
            print(build_output.as_json(spec, summaries, checked["files"], None, left_out))
        verdict.require_parity(checked, config.out)
        spec = verdict.without(spec, left_out)
        if config.engine == "auto":
            spec = choose_engine(config, spec, failed, left_out, say)
        say("package")
        goldens = golden.write(golden.reference(config.checkpoint, spec), config.images, config.out)
        spec = dataclasses.replace(spec, parity={"passed": True, **summaries}, golden=goldens)
        spec.save(config.out / SPEC_FILE)
        mar = package(config.out)
    if config.as_json:
        print(build_output.as_json(spec, summaries, checked["files"], mar, left_out))
    else:
        build_output.show(config.checkpoint.name, spec, summaries, left_out)
        if config.images is not None:
            build_output.show_photos(config.images, checked["files"])
        print(f"{mar}: {spec.name} {spec.version}, engine {spec.engine}")


def read_inputs(config: BuildConfig) -> tuple[PSPNet, CheckpointMeta]:
    """The checkpoint, once all photos are known to be some, so that no earlier build is lost to what was mistyped.

    Photos are let go again: fifty of 12 megapixels would be held until the end. Raises CheckpointError, UsageError.
    """
    photos, _ = cases.chosen_files(config.images)
    chosen = {"--images": photos, "--calibration": calibration.chosen_files(config.calibration)}
    net, meta = load_model(config.checkpoint)
    for option, files in chosen.items():
        for file in files:
            cases.read_photo(file, option, (meta.input_height, meta.input_width))
    return net, meta


def prepare_folder(config: BuildConfig) -> None:
    """Make it, and take away what would look like this build's result if this build failed."""
    try:
        config.out.mkdir(parents=True, exist_ok=True)
        for name in {SPEC_FILE, PARITY_FILE, f"{config.name}.mar"} | {variant.file for variant in VARIANTS}:
            (config.out / name).unlink(missing_ok=True)
        remove_unfinished(config.out)
    except OSError as error:
        raise UsageError(f"--out {config.out}: {error.strerror}") from error


def export(
    config: BuildConfig,
    model: tuple[PSPNet, CheckpointMeta],
    made: list[Variant],
    left_out: dict[str, str],
    say: Callable[[str], None],
) -> tuple[ModelSpec, dict[str, str]]:
    """Write every file and the spec that describes them; with it a note on each file that needs one.

    What is spare (export.verdict) and cannot be made, loaded or called after all goes to `left_out`.

    Raises EngineError; UsageError for a photo that went bad since it was looked at.
    """
    net, meta = model
    size = (meta.input_height, meta.input_width)
    source = Source(
        net, meta, functools.partial(calibration.images, config.calibration, size), config.batch_sizes
    )
    spec = dataclasses.replace(
        checkpoint_spec(config.checkpoint, meta),
        name=config.name,
        version=config.version,
        versions=versions(),
    )
    notes: dict[str, str] = {}
    artefacts: list[Artefact] = []
    for variant in made:
        try:
            if variant.file not in notes:
                notes[variant.file] = write_file(variant.file, source, config.out, say)
            artefact = artefact_of(variant, config.out)
            if verdict.spare(variant.name, config.engine, raised=True):
                one = dataclasses.replace(spec, artefacts=(artefact,), engine=artefact.name)
                require_running(load_engine(one, config.out), one)
        except UsageError:  # of a photo: no engine's fault
            raise
        except Exception as error:  # converters raise what they like
            if not verdict.spare(variant.name, config.engine, raised=isinstance(error, EngineError)):
                raise
            left_out[variant.name] = str(error) or type(error).__name__
            continue
        artefacts.append(artefact)
    chosen = NEUTRAL[0] if config.engine == "auto" else config.engine.removesuffix("-fp32")
    spec = dataclasses.replace(spec, artefacts=tuple(artefacts), engine=chosen)
    spec.save(config.out / SPEC_FILE)
    return spec, {file: note for file, note in notes.items() if note}


def artefact_of(variant: Variant, folder: Path) -> Artefact:
    """What the spec says of a file that was written."""
    path = folder / variant.file
    return Artefact(
        path.name, variant.engine, variant.precision, sha256_file(path), path.stat().st_size,
        needs_int8_dot=variant.file == "model.int8.onnx" and cpu.has_int8_dot(),
        floats=proven_floats(variant),
    )  # fmt: skip


def choose_engine(
    config: BuildConfig,
    spec: ModelSpec,
    failed: dict[str, str],
    left_out: dict[str, str],
    say: Callable[[str], None],
) -> ModelSpec:
    """Time every artefact that can be beside eager PyTorch; the spec with the best first, and the table.

    Raises EngineError if none could be timed.
    """
    eager = checkpoint_segmenter(config.checkpoint).engine
    engines = {
        a.name: load_engine(dataclasses.replace(spec, engine=a.name), config.out) for a in spec.artefacts
    }
    size = (spec.input.height, spec.input.width)
    timings = choose.measure({"eager": eager, **engines}, size, config.batch_sizes, say, left_out)
    if not timings.keys() - {"eager", *failed} or "eager" not in timings:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        raise EngineError(f"--batch-sizes {config.batch_sizes}: nothing could be timed ({reasons})")
    eager_timing = timings.pop("eager")
    table = choose.choice(timings, eager_timing, failed, left_out, config.objective)
    passed = [row["name"] for row in table["table"] if row["passed"]]
    by_name = {artefact.name: artefact for artefact in spec.artefacts}
    return dataclasses.replace(
        spec, artefacts=tuple(by_name[name] for name in passed), engine=passed[0], choice=table
    )


def versions() -> dict[str, str]:
    """Of what takes part in export and comparison."""
    modules = {"torch": torch, "onnx": onnx, "onnxruntime": onnxruntime, "numpy": numpy, "pillow": PIL}
    return {"python": platform.python_version()} | {name: m.__version__ for name, m in modules.items()}


if __name__ == "__main__":
    cli.run(BuildConfig, main)
