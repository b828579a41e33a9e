"""Which artefacts a host can run, and how each file is written: engine x precision, several to a file.

made, left_out = variants("auto")
write_file("model.onnx", source, folder, say)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import torch
from numpy.typing import NDArray

from export.fold import fold
from export.half import to_half
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from export.to_tensorrt import PlanOptions, to_tensorrt
from export.to_torchscript import to_torchscript
from segserve import cpu
from segserve.engines import LARGEST_BATCH
from segserve.errors import UsageError
from segserve.spec import artefact_name
from training.checkpoint import CheckpointMeta
from training.pspnet import PSPNet

NEUTRAL = ("onnx", "torchscript")
"""Always made: one of them runs wherever the model may go. The first is in every package, and always compared."""


@dataclass(frozen=True)
class Variant:
    """An engine, a precision, and the file that both need."""

    engine: str
    precision: str
    file: str

    @property
    def name(self) -> str:
        """As in segserve.spec.Artefact."""
        return artefact_name(self.engine, self.precision)


VARIANTS = (
    Variant("onnx", "fp32", "model.onnx"),
    Variant("torchscript", "fp32", "model.pt"),
    Variant("openvino", "fp32", "model.onnx"),
    Variant("openvino", "bf16", "model.onnx"),
    Variant("openvino", "int8", "model.int8.onnx"),
    Variant("onnx", "int8", "model.int8.onnx"),
    Variant("torchscript", "bf16", "model.bf16.pt"),
    Variant("torchscript", "fp16", "model.fp16.pt"),
    Variant("onnx_cuda", "fp32", "model.onnx"),
    Variant("onnx_cuda", "fp16", "model.fp16.onnx"),
    Variant("onnx_tensorrt", "fp16", "model.fp16.onnx"),
    Variant("tensorrt", "fp32", "model.plan"),
    Variant("tensorrt", "fp16", "model.fp16.plan"),
    Variant("tensorrt", "int8", "model.int8.plan"),
)
NAMES = tuple(variant.name for variant in VARIANTS)


@dataclass(frozen=True)
class Source:
    """What every file is made from. `calibration` yields groups of network inputs for int8, uint8 (1, H, W, 3) each."""

    net: PSPNet
    meta: CheckpointMeta
    calibration: Callable[[], Sequence[Sequence[NDArray[np.uint8]]]]
    batch_sizes: tuple[int, ...]


def variants(engine: str) -> tuple[list[Variant], dict[str, str]]:
    """What to make for --engine NAME, or for "auto"; and what this host cannot run, with the reason.

    Raises UsageError for a name that is none, or that cannot run here.
    """
    wanted = engine.removesuffix("-fp32")
    if engine != "auto" and wanted not in NAMES:
        raise UsageError(f"--engine {engine!r}: choose auto or one of {', '.join(NAMES)}")
    left_out = {variant.name: reason for variant in VARIANTS if (reason := why_not(variant))}
    if wanted in left_out:
        raise UsageError(f"--engine {engine}: {left_out[wanted]}")
    if engine == "auto":
        return [variant for variant in VARIANTS if variant.name not in left_out], left_out
    return [variant for variant in VARIANTS if variant.name in (*NEUTRAL, wanted)], {}


def why_not(variant: Variant) -> str:
    """Why this host cannot run it; empty if it can."""
    libraries = {
        "openvino": "openvino",
        "tensorrt": "tensorrt",
        "onnx_cuda": "onnxruntime",
        "onnx_tensorrt": "tensorrt",
    }
    library = libraries.get(variant.engine)
    if library and importlib.util.find_spec(library) is None:
        return f"the package {library} is not installed"
    if variant.precision == "bf16" and not cpu.has_bf16():
        return f"{cpu.name()} does not multiply bf16 in hardware"
    on_gpu = variant.engine in ("onnx_cuda", "onnx_tensorrt", "tensorrt") or variant.precision == "fp16"
    if on_gpu and not torch.cuda.is_available():
        return "torch sees no GPU here"
    if variant.precision == "int8" and importlib.util.find_spec("nncf") is None:
        return "the package nncf, which quantises, is not installed"
    return ""


def proven_floats(variant: Variant) -> str | None:
    """What its layers that are not int8 are compared in on this host; None where the precision says it."""
    if (variant.engine, variant.precision) != ("openvino", "int8"):
        return None
    return "bf16" if cpu.has_bf16() else "f32"


def write_file(file: str, source: Source, folder: Path, say: Callable[[str], None]) -> str:
    """One file; the others are made from model.onnx, so that comes first. Returns a note for the report, or "".

    Raises EngineError where TensorRT refuses.
    """
    say(f"write {file}")
    path, plain = folder / file, folder / "model.onnx"
    match file:
        case "model.onnx":
            to_onnx(_served(source, torch.float32), path)
        case "model.pt":
            to_torchscript(_served(source, torch.float32), path)
        case "model.bf16.pt":
            to_torchscript(_served(source, torch.bfloat16), path)
        case "model.fp16.pt":
            to_torchscript(_served(source, torch.float16), path)
        case "model.fp16.onnx":
            onnx.save_model(to_half(onnx.load(str(plain))), str(path))
        case "model.int8.onnx":
            from export.quantise import quantise

            return quantise(plain, path, source.calibration(), say)
        case _:
            precision = "fp32" if file == "model.plan" else file.split(".")[1]
            size = (source.meta.input_height, source.meta.input_width)
            options = PlanOptions(precision, *size, (*source.batch_sizes, LARGEST_BATCH))
            if precision == "int8":
                from export.quantise import signed

                plain = signed(_int8_onnx(source, folder, say), folder / "model.int8-signed.onnx")
            to_tensorrt(plain, path, options, folder / "timing.cache")
    return ""


def _int8_onnx(source: Source, folder: Path, say: Callable[[str], None]) -> Path:
    """model.int8.onnx, made now unless it is there from this build."""
    path = folder / "model.int8.onnx"
    if not path.exists():
        write_file(path.name, source, folder, say)
    return path


def _served(source: Source, dtype: torch.dtype) -> ServedNet:
    return ServedNet(fold(source.net), source.meta.mean, source.meta.std, dtype).eval()
