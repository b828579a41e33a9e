"""ONNX Runtime: on the CPU, or on a GPU through its CUDA or TensorRT provider.

onnxruntime-gpu names its GPU providers on hosts without a GPU, and a session then quietly runs on the CPU. So what a
session really obtained is looked at, and anything but what was asked for is an error.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segserve.errors import EngineError
from segserve.spec import sha256_file

Provider = Literal["cpu", "cuda", "tensorrt"]
Logits = NDArray[np.float32] | NDArray[np.float16]

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
TENSORRT_CACHE = "onnxruntime-tensorrt"
"""Folder beside the model for the engines that the TensorRT provider builds; one folder in it for each content.

The provider knows its engines by the graph, not by the weights: a model trained anew would be served with the old ones.
"""


class OnnxEngine:
    """model.onnx in an onnxruntime session.

    `threads` work inside operators on the CPU. On a GPU the batch is copied to the device and the logits back, once
    each; `device_id` counts as CUDA does. The TensorRT provider builds an engine when it is loaded, for batches of up
    to `largest_batch`, the shape (N, H, W, 3), and keeps it beside the model; a larger batch goes in pieces. It wants a
    graph in that precision (export.half).
    """

    def __init__(
        self,
        path: Path,
        threads: int,
        provider: Provider = "cpu",
        precision: str = "fp32",
        device_id: int = 0,
        largest_batch: tuple[int, int, int, int] | None = None,
    ) -> None:
        """Raises EngineError for a file that does not load, and for a provider that is not really there."""
        self.name = "onnx" if provider == "cpu" else f"onnx_{provider}"  # as in segserve.engines.ENGINES
        self.precision, self.device = precision, "cpu" if provider == "cpu" else f"cuda:{device_id}"
        self._device_id = device_id
        wanted = PROVIDERS[provider]
        providers: list[Any] = [wanted]
        if provider != "cpu":
            require_provider(wanted)
            providers = gpu_providers(path, provider, precision, device_id, largest_batch)
        self._session = _session(path, threads, providers)
        self.provider = str(self._session.get_providers()[0])
        if self.provider != wanted:
            raise EngineError(
                f"{path}: asked for {wanted}, and onnxruntime {onnxruntime.__version__} runs it on {self.provider}. "
                "See what it printed above: mostly the driver, CUDA, cuDNN or TensorRT is missing or of another "
                "version. `python -m benchmarks.gpu_check` shows what works here; the CPU is engine onnx."
            )
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        self._step: int | None = None
        if provider == "tensorrt" and largest_batch is not None:
            self._step = largest_batch[0]
            self._build(path, largest_batch)

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> Logits:
        """Logits (N, num_classes, h, w), in the type that the graph gives them."""
        if self.device == "cpu":
            logits: Logits = self._session.run(None, {self._input: images_nhwc})[0]
            return logits
        count = max(1, len(images_nhwc))
        step = self._step or count
        pieces: list[Any] = [self._on_gpu(images_nhwc[at : at + step]) for at in range(0, count, step)]
        logits = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return logits

    def _build(self, path: Path, largest_batch: tuple[int, int, int, int]) -> None:
        """Have TensorRT build its engine now, not under the first request. Raises EngineError if it cannot."""
        try:
            self(np.zeros(largest_batch, np.uint8))
        except Exception as error:  # onnxruntime raises its own many kinds
            raise EngineError(
                f"onnxruntime {onnxruntime.__version__} cannot build a TensorRT engine of {path} for a batch of "
                f"{largest_batch[0]}: {error}"
            ) from error

    def _on_gpu(self, images_nhwc: NDArray[np.uint8]) -> Logits:
        binding = self._session.io_binding()
        images = np.ascontiguousarray(images_nhwc)
        on_device = onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", self._device_id)
        binding.bind_ortvalue_input(self._input, on_device)
        binding.bind_output(self._output, "cuda", self._device_id)
        self._session.run_with_iobinding(binding)
        result: Logits = binding.copy_outputs_to_cpu()[0]
        return result


def require_provider(wanted: str) -> None:
    """Raises EngineError if this build of onnxruntime does not have the provider; loads CUDA's libraries if it has."""
    available = onnxruntime.get_available_providers()
    if wanted not in available:
        raise EngineError(
            f"onnxruntime {onnxruntime.__version__} here has no {wanted}, only {', '.join(available)}: "
            "pip uninstall onnxruntime, then pip install --force-reinstall -c constraints.txt "
            "'onnxruntime-gpu[cuda,cudnn]', for both write to one folder, and the first takes it away"
        )
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it cannot find; stdout may be JSON
        onnxruntime.preload_dlls()


def gpu_providers(
    path: Path,
    provider: Provider,
    precision: str,
    device_id: int,
    largest_batch: tuple[int, int, int, int] | None,
) -> list[Any]:
    """Providers with their options, best first; the CPU is left out, for ONNX Runtime adds it where it must.

    Raises EngineError if TensorRT lacks `largest_batch`, or is asked for float32, where it would take TF32.
    """
    # TF32 has ten bits of mantissa: not what float32 was proven with
    cuda = ("CUDAExecutionProvider", {"device_id": device_id, "use_tf32": False})
    if provider == "cuda":
        return [cuda]
    if precision == "fp32":
        raise EngineError(
            "ONNX Runtime's TensorRT provider has no way to turn TF32 off, so fp32 would not be float32: "
            "take provider cuda, precision fp16, or engine tensorrt"
        )
    if largest_batch is None:
        raise EngineError("the TensorRT provider needs largest_batch, (N, H, W, 3), to build its engine for")
    cache = path.parent / TENSORRT_CACHE / sha256_file(path)[:16]
    cache.mkdir(parents=True, exist_ok=True)
    smallest, largest = ("x".join(map(str, (n, *largest_batch[1:]))) for n in (1, largest_batch[0]))
    options = {
        "device_id": device_id,
        "trt_fp16_enable": True,
        "trt_int8_enable": precision == "int8",
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(cache),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(cache),
        "trt_profile_min_shapes": f"images_nhwc:{smallest}",
        "trt_profile_opt_shapes": f"images_nhwc:{largest}",
        "trt_profile_max_shapes": f"images_nhwc:{largest}",
    }
    return [("TensorrtExecutionProvider", options), cuda]


def _session(path: Path, threads: int, providers: list[Any]) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # idle threads sleep instead of spinning: the mask, the encoder and other workers need the core
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # without fallback: a GPU that fails must not become a slow CPU unnoticed, at the start or later
        session = onnxruntime.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # onnxruntime raises its own many kinds
        raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot load {path}: {error}") from error
    return session
