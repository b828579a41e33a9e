"""Engines: one file each, one call. uint8 images_nhwc (N, H, W, 3) -> float32 logits_nchw at network stride.

Normalisation is inside the artefact. An engine library is imported only when its engine is loaded.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segserve.errors import EngineError
from segserve.spec import ModelSpec, sha256_file


class Engine(Protocol):
    """What the served path needs of an engine; `device` and `provider` are what was really obtained."""

    name: str
    device: str
    provider: str

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]: ...


def load_engine(spec: ModelSpec, folder: Path, threads: int = 0) -> Engine:
    """Load the spec's chosen artefact from `folder` after checking its sha256; threads 0 means all cores.

    Raises EngineError for an engine that is not known or cannot be loaded, SpecError for a missing file.
    """
    artefact = spec.served()
    path = folder / artefact.file
    digest = sha256_file(path)
    if digest != artefact.sha256:
        raise EngineError(
            f"{path} is not the file that passed parity: sha256 {digest[:12]}, the spec says {artefact.sha256[:12]}. "
            "Export and package the model again."
        )
    threads = threads or len(os.sched_getaffinity(0))
    if artefact.engine == "onnx":
        from segserve.engines.onnx import OnnxEngine

        return OnnxEngine(path, threads)
    if artefact.engine == "torchscript":
        from segserve.engines.torchscript import TorchScriptEngine

        return TorchScriptEngine(path, threads, artefact.precision)
    raise EngineError(f"engine {artefact.engine!r} is not known here: expected onnx or torchscript")
