"""TorchScript on the CPU, or on the GPU that torch sees; in bf16 always on the CPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segserve import cpu
from segserve.errors import EngineError


class TorchScriptEngine:
    """model.pt, loaded by torch.jit; `threads` is set for the process, as torch knows no other way.

    `device_id` counts as CUDA does; without a GPU it means nothing, and "fp16" is an EngineError. "bf16" is for
    processors that multiply it, and proven on one: beside a GPU it stays there, and elsewhere it is an EngineError.
    """

    name = "torchscript"

    def __init__(self, path: Path, threads: int, precision: str, device_id: int = 0) -> None:
        """Raises EngineError for a file that does not load, and where nothing computes in that precision."""
        on_gpu = torch.cuda.is_available() and precision != "bf16"
        if precision == "fp16" and not on_gpu:
            raise EngineError(
                f"torch {torch.__version__} sees no GPU here, and fp16 was proven on one: see what nvidia-smi says, or "
                "take onnx or torchscript"
            )
        if precision == "bf16":
            cpu.require_bf16(self.name, precision)
        torch.set_num_threads(threads)
        if precision == "fp32":
            # on GPUs torch lets convolutions drop to TF32, 10 bits of mantissa: not what was proven
            torch.backends.cudnn.allow_tf32 = False
            torch.backends.cuda.matmul.allow_tf32 = False
        self.precision = precision
        self.device = f"cuda:{device_id}" if on_gpu else "cpu"
        try:
            self.provider = torch.cuda.get_device_name(device_id) if on_gpu else "cpu"
            with warnings.catch_warnings():
                # deprecated in torch 2.13, and still what many servers take
                warnings.filterwarnings("ignore", message=r".*torch\.jit.*", category=DeprecationWarning)
                self._module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(path), map_location=self.device
                ).eval()
        except (RuntimeError, AssertionError) as error:  # torch asserts that there is such a GPU
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise EngineError(f"torch {torch.__version__} cannot load {path}: {reason}") from error

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode():
            logits = self._module(torch.from_numpy(images_nhwc).to(self.device))
        result: NDArray[np.float32] = logits.float().cpu().numpy()
        return result
