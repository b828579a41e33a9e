"""The engines that `make gpu-check` tries on one GPU: is the library here, load it, compare it, time it.

subject = Subject("tensorrt", "fp16")
subject.missing() or subject.load(folder, gpu, 480, 480, (1, 8))
"""

from __future__ import annotations

import importlib.util
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from export.to_tensorrt import PlanOptions, to_tensorrt
from segserve.engines import Engine
from segserve.engines.onnx import PROVIDERS, OnnxEngine
from segserve.engines.tensorrt import TensorRTEngine
from segserve.errors import EngineError
from segserve.thresholds import THRESHOLDS
from training.rooms import render

WARM_UP_CALLS, TIMED_CALLS = 10, 50
COMPARED_SEED, CALIBRATION_SEED = 94_000_000, 95_000_000  # neither was trained on


@dataclass(frozen=True)
class Subject:
    """One way to run the network on a GPU."""

    engine: Literal["tensorrt", "onnx_cuda", "onnx_tensorrt", "torchscript"]
    precision: str

    @property
    def name(self) -> str:
        """As it stands in the table."""
        return f"{self.engine}-{self.precision}"

    @property
    def source(self) -> str:
        """The file that it is loaded from, or that its plan is built from."""
        if self.engine == "torchscript":
            return "model.pt" if self.precision == "fp32" else "model.fp16.pt"
        if self.precision == "int8":
            return "model.int8-signed.onnx"
        # TensorRT gets the float32 graph, because export.to_tensorrt makes its own half of it
        half = self.precision == "fp16" and self.engine != "tensorrt"
        return "model.fp16.onnx" if half else "model.onnx"

    def missing(self) -> str:
        """Which library is not installed; empty if all are."""
        if self.precision == "int8" and not _installed("nncf"):
            return "nncf"
        if self.engine == "tensorrt":
            return ", ".join(name for name in ("tensorrt", "cuda.bindings") if not _installed(name))
        if self.engine == "torchscript":
            import torch

            return "" if torch.version.cuda else "a CUDA build of torch"
        import onnxruntime

        wanted = PROVIDERS["cuda" if self.engine == "onnx_cuda" else "tensorrt"]
        if wanted not in onnxruntime.get_available_providers():
            return "onnxruntime-gpu"
        return "" if self.engine == "onnx_cuda" or _installed("tensorrt") else "tensorrt"

    def load(
        self, folder: Path, device_id: int, height: int, width: int, batch_sizes: tuple[int, ...]
    ) -> Engine:
        """The engine on that GPU, for that input size. Raises EngineError, also where it would run elsewhere."""
        path = folder / self.source
        if self.engine == "tensorrt":
            plan = folder / f"{self.precision}-gpu{device_id}-{height}x{width}.plan"
            if not plan.exists():
                options = PlanOptions(self.precision, height, width, batch_sizes)
                to_tensorrt(path, plan, options, folder / f"timing-gpu{device_id}.cache", device_id)
            return TensorRTEngine(plan, device_id)
        if self.engine == "torchscript":
            return _torchscript(path, self.precision, device_id)
        provider: Literal["cuda", "tensorrt"] = "cuda" if self.engine == "onnx_cuda" else "tensorrt"
        largest = (max(batch_sizes), height, width, 3)
        return OnnxEngine(path, 1, provider, self.precision, device_id, largest)


SUBJECTS = (
    Subject("tensorrt", "fp32"),
    Subject("tensorrt", "fp16"),
    Subject("tensorrt", "int8"),
    Subject("onnx_cuda", "fp32"),
    Subject("onnx_cuda", "fp16"),
    Subject("onnx_tensorrt", "fp16"),
    Subject("torchscript", "fp32"),
    Subject("torchscript", "fp16"),
)


def rooms(count: int, height: int, width: int, seed: int = COMPARED_SEED) -> NDArray[np.uint8]:
    """Rendered rooms as network inputs, uint8 (count, height, width, 3)."""
    return np.stack([render(seed + n, height, width)[0] for n in range(count)])


def compare(precision: str, got: NDArray[Any], expected: NDArray[np.float32]) -> dict[str, Any]:
    """Labels at the network's stride, and (of float32) logits, against the reference; `failures` in words.

    Limits are those of segserve.thresholds. Ties count as differing, so this is a little stricter.
    """
    limits = THRESHOLDS[precision]
    if got.shape != expected.shape:
        return {"failures": [f"logits are {got.shape}, expected {expected.shape}"]}
    logits = got.astype(np.float32)
    failures = [] if np.isfinite(logits).all() else ["logits are not finite"]
    error = float(np.abs(logits - expected).max())
    agreement = float((logits.argmax(axis=1) == expected.argmax(axis=1)).mean())
    if not (agreement >= limits.label_agreement):
        needed = 100 * limits.label_agreement
        failures.append(f"{100 * agreement:.3f} % of the labels agree, expected {needed:g} %")
    if limits.logit_error is not None:
        allowed = limits.logit_error * max(1.0, float(expected.std()))
        if not (error <= allowed):
            failures.append(f"a logit is off by {error:.2e}, allowed {allowed:.2e}")
    return {"label_agreement": agreement, "max_abs_error": error, "failures": failures}


def latency_ms(engine: Engine, images_nhwc: NDArray[np.uint8]) -> float:
    """Median of whole calls, copies to and from the GPU included."""
    for _ in range(WARM_UP_CALLS):
        engine(images_nhwc)
    taken = []
    for _ in range(TIMED_CALLS):
        start = time.perf_counter()
        engine(images_nhwc)
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


def missed(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What does not hold, by GPU and engine."""
    return [
        f"GPU {row['gpu']}, {row['engine']}: {row['reason']}" for row in rows if row["status"] == "failed"
    ]


def _torchscript(path: Path, precision: str, device_id: int) -> Engine:
    import torch

    from segserve.engines.torchscript import TorchScriptEngine

    if not torch.cuda.is_available():
        raise EngineError("torch is a CUDA build, but sees no GPU: it would run on the CPU")
    return cast(Engine, TorchScriptEngine(path, 1, precision, device_id))


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # the package around it is missing
        return False
