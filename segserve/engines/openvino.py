"""OpenVINO on the CPU, from the same model.onnx that ONNX Runtime reads."""

from __future__ import annotations

import functools
import math
from pathlib import Path

import numpy as np
import openvino
import openvino.opset13 as opset
from numpy.typing import NDArray

from segserve import cpu
from segserve.errors import EngineError


@functools.cache
def shared_core() -> openvino.Core:
    """One for the process, never given up.

    Each core of OpenVINO 2026 puts a signal stack in the place of the one that it finds, and puts that one back at its
    end, even if it was another core's that is gone since. Cores that end in the order in which they were made so leave
    a stack that is no memory any more, and the next signal with a handler, Ctrl-C or SIGTERM, ends the process with
    SIGSEGV and without a word.
    """
    return openvino.Core()


def keep_logits_whole(model: openvino.Model) -> None:
    """Have the last layer write the float32 sums that it has, in place.

    In bf16, OpenVINO's CPU plugin rounds what the last convolution gives to bf16, which by itself changes two in a
    thousand labels where classes are close. It leaves what comes after that layer in float32, and joins a clamp to the
    convolution before it, so a clamp that changes nothing costs nothing and keeps the sums as they are. To infinity:
    one to the largest float would make numbers of what is none, and such logits must not become a mask.
    """
    for result in model.get_results():
        logits = result.input_value(0)
        result.input(0).replace_source_output(opset.clamp(logits, -math.inf, math.inf).output(0))


class OpenVINOEngine:
    """model.onnx or model.int8.onnx, compiled for this processor when it is loaded; `threads` work on a call.

    precision "fp32" computes in float32 also where the processor has bfloat16, which OpenVINO would take unasked;
    "bf16" is an EngineError where it has not. "int8" is in the graph; its other layers take `floats`, "f32" or "bf16",
    which they were proven with, or what the processor has where that is not known.
    """

    name = "openvino"
    device = "cpu"

    def __init__(self, path: Path, threads: int, precision: str, floats: str | None = None) -> None:
        """Raises EngineError for a file that does not load, and for bf16 on a processor without it."""
        self.precision, floats = precision, _floats(precision, floats)
        self.provider = f"CPU, {floats} where not int8"
        options = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": floats,
            # pinned, the workers of one host would all sit on its first cores
            "ENABLE_CPU_PINNING": False,
        }
        try:
            core = shared_core()
            model = core.read_model(path)
            if floats == "bf16":
                keep_logits_whole(model)
            self._request = core.compile_model(model, "CPU", options).create_infer_request()
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise EngineError(f"openvino {openvino.__version__} cannot load {path}: {reason}") from error

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits float32 (N, num_classes, h, w).

        One image after the other: a batch is no faster on CPUs, and OpenVINO keeps memory for each of its images (the
        demo model at batch 8: 444 MiB against 169, for 5 to 10 % of its speed; a pspnet50 loses nothing).
        """
        logits = np.empty(0, np.float32)
        for n in range(len(images_nhwc)):
            self._request.infer([images_nhwc[n : n + 1]], share_inputs=True)
            answer = self._request.get_output_tensor().data
            if n == 0:
                logits = np.empty((len(images_nhwc), *answer.shape[1:]), np.float32)
            logits[n] = answer[0]  # a copy: the next call writes over OpenVINO's own
        return logits


def _floats(precision: str, proven: str | None) -> str:
    """What to compute in where the graph is not int8. Raises EngineError for bf16 where the processor has none."""
    if precision == "int8":
        floats = proven or ("bf16" if cpu.has_bf16() else "f32")
    else:
        floats = "bf16" if precision == "bf16" else "f32"
    if floats == "bf16":
        cpu.require_bf16("openvino", precision)
    return floats
