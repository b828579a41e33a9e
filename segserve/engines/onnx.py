"""ONNX Runtime on the CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from segserve.errors import EngineError


class OnnxEngine:
    """model.onnx in an onnxruntime session with `threads` threads inside operators."""

    name = "onnx"
    device = "cpu"

    def __init__(self, path: Path, threads: int) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        # idle threads sleep instead of spinning: the mask, the encoder and other workers need the core
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises its own many kinds
            raise EngineError(f"onnxruntime {onnxruntime.__version__} cannot load {path}: {error}") from error
        self.provider = str(self._session.get_providers()[0])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = self._session.run(None, {self._input: images_nhwc})[0]
        return logits
