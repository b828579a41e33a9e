"""A graph with int8 QuantizeLinear and DequantizeLinear nodes, as TensorRT wants them, without a real calibration.

Only for tests that compile graphs: two random pictures say how large the activations are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from export.served_net import INPUT_NAME


class _Pictures(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, height: int, width: int) -> None:
        seeds = iter(range(2))
        shape = (1, height, width, 3)
        self.rest = (np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8) for seed in seeds)

    def get_next(self) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]] | None:
        picture = next(self.rest, None)
        return None if picture is None else {INPUT_NAME: picture}


def quantised(model: Path, out: Path, height: int = 64, width: int = 64) -> onnx.ModelProto:
    """Every convolution of `model` in symmetric int8, its bias in float; also written to `out`."""
    options = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(
        str(model), str(out), _Pictures(height, width), quant_format=QuantFormat.QDQ, per_channel=True,
        activation_type=QuantType.QInt8, weight_type=QuantType.QInt8, op_types_to_quantize=["Conv"],
        extra_options=options,
    )  # fmt: skip
    return onnx.load(str(out))
