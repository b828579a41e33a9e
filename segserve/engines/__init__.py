"""Engines: one file each, one call. uint8 images_nhwc (N, H, W, 3) -> logits_nchw at network stride.

Normalisation is inside the artefact; logits come as float32, or as float16 where that saves copying. An engine library
is imported only when its engine is loaded.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from segserve import cpu
from segserve.errors import EngineError
from segserve.resize import PAD_VALUE
from segserve.spec import Artefact, ModelSpec, sha256_file

logger = logging.getLogger(__name__)

Logits = NDArray[np.float32] | NDArray[np.float16]

ENGINES = ("onnx", "onnx_cuda", "onnx_tensorrt", "openvino", "torchscript", "tensorrt")
LARGEST_BATCH = 8
"""What TensorRT prepares for where nothing else is said."""


class Engine(Protocol):
    """What the served path needs of an engine; `device` and `provider` are what was really obtained.

    `device` is cpu or cuda:N, as CUDA counts in this process: CUDA_VISIBLE_DEVICES hides GPUs and renumbers the others.
    """

    name: str
    precision: str
    device: str
    provider: str

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> Logits: ...


def load_engine(
    spec: ModelSpec, folder: Path, threads: int = 0, *, fallback: bool = False, device_id: int = 0
) -> Engine:
    """Load the spec's chosen artefact from `folder` after checking its sha256; threads 0 means all cores.

    With `fallback`, a host that cannot run it gets the first of the others that it can run, and the log says so. To
    run is to answer once: a GPU may let a model be loaded and then fail to compute with it.

    Raises EngineError for an engine that cannot be loaded or a file that is not the one that passed parity (for that
    there is no fallback), SpecError for a missing file.
    """
    threads = threads or cpu.cores()
    candidates = spec.in_order() if fallback else [spec.served()]
    reasons = []
    for artefact in candidates:
        _require_proven(artefact, folder)
        try:
            engine = _load(artefact, folder / artefact.file, spec, threads, device_id)
            if fallback:
                require_running(engine, spec)
        except EngineError as error:
            reasons.append(f"{artefact.name}: {error}")
            continue
        if reasons:
            logger.warning("serving with %s, because the chosen engine does not run here: %s", artefact.name,
                           "; ".join(reasons))  # fmt: skip
        return engine
    raise EngineError("; ".join(reasons))


def require_running(engine: Engine, spec: ModelSpec) -> None:
    """One call with a grey input of the spec's size. Raises EngineError, with the engine's own words, if it fails."""
    grey = np.full((1, spec.input.height, spec.input.width, 3), PAD_VALUE, np.uint8)
    try:
        engine(grey)
    except Exception as error:  # engines raise what they like
        raise EngineError(
            f"it was loaded, and its first call failed: {type(error).__name__}: {error}"
        ) from error


def _require_proven(artefact: Artefact, folder: Path) -> None:
    path = folder / artefact.file
    digest = sha256_file(path)
    if digest != artefact.sha256:
        raise EngineError(
            f"{path} is not the file that passed parity: sha256 {digest[:12]}, the spec says {artefact.sha256[:12]}. "
            "Export and package the model again."
        )


def _load(artefact: Artefact, path: Path, spec: ModelSpec, threads: int, device_id: int) -> Engine:
    """Each branch imports its library; raises EngineError where that, or what it needs, is not here."""
    precision = artefact.precision
    if artefact.needs_int8_dot and not cpu.has_int8_dot():
        raise EngineError(
            f"{artefact.file} was quantised on a CPU that adds products of 8 bits up in 32; on {cpu.name()} they would "
            "overflow and masks go wrong: run export.build on this host"
        )
    try:
        match artefact.engine:
            case "onnx":
                from segserve.engines.onnx import OnnxEngine

                return OnnxEngine(path, threads, precision=precision)
            case "onnx_cuda" | "onnx_tensorrt":
                from segserve.engines.onnx import OnnxEngine

                largest = (LARGEST_BATCH, spec.input.height, spec.input.width, 3)
                provider: Literal["cuda", "tensorrt"]
                provider = "cuda" if artefact.engine == "onnx_cuda" else "tensorrt"
                return OnnxEngine(path, threads, provider, precision, device_id, largest)
            case "openvino":
                from segserve.engines.openvino import OpenVINOEngine

                return OpenVINOEngine(path, threads, precision, artefact.floats)
            case "torchscript":
                from segserve.engines.torchscript import TorchScriptEngine

                return TorchScriptEngine(path, threads, precision, device_id)
            case "tensorrt":
                from segserve.engines.tensorrt import TensorRTEngine

                return TensorRTEngine(path, device_id)
    except ImportError as error:
        raise EngineError(f"{artefact.name} needs a library that is not here: {error}") from error
    raise EngineError(f"engine {artefact.engine!r} is not known here: expected one of {', '.join(ENGINES)}")
