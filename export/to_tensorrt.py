"""model.onnx -> a TensorRT engine for this host's GPU, with TensorRT 10.13 and later or 11.

    plan = Path("build/rooms/model-fp16.plan")
    to_tensorrt(Path("build/rooms/model.onnx"), plan, PlanOptions("fp16", 480, 480, (1, 8)), Path("build/timing.cache"))

Both versions are driven the one way that 11 has left: the network is strongly typed, so what is computed in which
precision stands in the graph (export.half), and int8 comes as QuantizeLinear and DequantizeLinear nodes that a
quantiser put there. Height and width are fixed, so that the pooling matrices become constants; the batch is open from 1
to the largest size asked for, and the engine is tuned for that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from export.half import to_half
from export.served_net import INPUT_NAME
from segserve.engines import cuda
from segserve.engines.plan import PlanHeader, write_plan
from segserve.engines.tensorrt import load_tensorrt, messages
from segserve.errors import EngineError, UsageError

PRECISIONS = ("fp32", "fp16", "int8")
MAX_REASONS = 4


@dataclass(frozen=True)
class PlanOptions:
    """What an engine is built for; for int8 the graph must be quantised already."""

    precision: str
    height: int
    width: int
    batch_sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(f"precision {self.precision!r}: TensorRT engines are {', '.join(PRECISIONS)}")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise UsageError(f"batch sizes {self.batch_sizes}: expected one or more, each at least 1")


def to_tensorrt(
    model: Path, path: Path, options: PlanOptions, timing_cache: Path, device_id: int = 0
) -> None:
    """Build the engine and write it with a header that says what it runs on (segserve.engines.plan).

    Args:
        model: model.onnx, float32 or (for int8) quantised.
        timing_cache: what TensorRT measured in earlier builds; read if it is there, and written anew.

    Raises: EngineError if TensorRT or a GPU is missing, or TensorRT refuses the graph.
    """
    trt = load_tensorrt()
    gpu = cuda.gpu(device_id)
    cuda.call("cudaSetDevice", device_id)
    known = timing_cache.read_bytes() if timing_cache.exists() else b""
    plan, measured = compile_plan(trt, typed_graph(onnx.load(model), options), options, known)
    timing_cache.write_bytes(measured)
    header = PlanHeader(
        tensorrt=trt.__version__,
        gpu=gpu.name,
        compute_capability=gpu.compute_capability,
        precision=options.precision,
        height=options.height,
        width=options.width,
        max_batch=max(options.batch_sizes),
    )
    write_plan(path, header, plan)


def typed_graph(model: onnx.ModelProto, options: PlanOptions) -> onnx.ModelProto:
    """The graph as TensorRT is given it: precision in its types, height and width fixed.

    Raises EngineError for int8 without quantisation, or with a kind of it that TensorRT does not take.
    """
    if options.precision == "int8":
        require_symmetric_int8(model)
    if options.precision != "fp32":
        model = to_half(model)
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    dims = next(i for i in fixed.graph.input if i.name == INPUT_NAME).type.tensor_type.shape.dim
    dims[1].dim_value, dims[2].dim_value = options.height, options.width
    del fixed.graph.value_info[:]  # they speak of an open height and width
    return fixed


def require_symmetric_int8(model: onnx.ModelProto) -> None:
    """Raises EngineError unless every quantised tensor is int8 with zero points of 0, and no bias is quantised."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    if not nodes:
        raise EngineError("this graph is not quantised: TensorRT wants QuantizeLinear nodes to be in it")
    wrong = []
    for node in nodes:
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        kind = _quantised_type(node, zero, constants)
        if kind == TensorProto.INT32:
            wrong.append(f"{node.name} dequantises an int32 bias (leave biases in float)")
        elif kind != TensorProto.INT8:
            name = TensorProto.DataType.Name(kind).lower()
            wrong.append(f"{node.name} is {name}, expected int8 (signed)")
        elif zero is not None and np.any(numpy_helper.to_array(zero)):
            wrong.append(f"{node.name} has a zero point other than 0 (quantise symmetrically)")
    if wrong:
        raise EngineError(f"TensorRT takes symmetric int8 only: {_listed(wrong)}")


def _quantised_type(
    node: onnx.NodeProto, zero: onnx.TensorProto | None, constants: dict[str, onnx.TensorProto]
) -> int:
    """Element type on the quantised side; where nothing tells, ONNX quantises to uint8."""
    if zero is not None:
        return zero.data_type
    if node.op_type == "QuantizeLinear":
        return next((a.i for a in node.attribute if a.name == "output_dtype"), TensorProto.UINT8)
    weight = constants.get(node.input[0])
    # what a QuantizeLinear made was judged there
    return TensorProto.INT8 if weight is None else weight.data_type


def compile_plan(
    trt: ModuleType, graph: onnx.ModelProto, options: PlanOptions, known_timings: bytes
) -> tuple[bytes, bytes]:
    """The serialised engine and TensorRT's timing cache after the build.

    Raises EngineError with the parser's or builder's own words if it refuses.
    """
    logger = messages(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(graph.SerializeToString()):
        errors = [parser.get_error(index) for index in range(parser.num_errors)]
        reasons = [f"{error.node_operator()} {error.node_name()}: {error.desc()}" for error in errors]
        raise EngineError(f"TensorRT {trt.__version__} cannot read the graph: {_listed(reasons)}")
    config = builder.create_builder_config()
    # float32 means float32: TF32 has ten bits of mantissa, which is not what was proven
    config.clear_flag(trt.BuilderFlag.TF32)
    profile = builder.create_optimization_profile()
    largest = (max(options.batch_sizes), options.height, options.width, 3)
    profile.set_shape(INPUT_NAME, (1, *largest[1:]), largest, largest)
    config.add_optimization_profile(profile)
    _attach_timings(config, known_timings)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineError(f"TensorRT {trt.__version__} cannot build the engine: {_listed(logger.errors)}")
    timings = config.get_timing_cache()
    return bytes(plan), bytes(timings.serialize())


def _attach_timings(config: Any, known: bytes) -> None:
    """Those of another GPU or version, or of a damaged file, are refused, and measuring starts anew."""
    for content in (known, b""):
        cache = config.create_timing_cache(content)  # None for what TensorRT cannot read
        if cache is not None and config.set_timing_cache(cache, ignore_mismatch=False):
            return


def _listed(reasons: list[str]) -> str:
    if not reasons:
        return "it gave no reason"
    more = f"; and {len(reasons) - MAX_REASONS} more" if len(reasons) > MAX_REASONS else ""
    return "; ".join(reasons[:MAX_REASONS]) + more
