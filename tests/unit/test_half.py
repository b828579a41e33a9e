"""Half-precision graphs: which parts become float16, and that they answer like the float32 graph."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from export.half import HALF, LARGE_WEIGHT, to_half
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from segserve.errors import EngineError
from tests import tiny_pspnet
from tests.quantised import quantised
from training.checkpoint import load_model

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("half")
    with pytest.MonkeyPatch.context() as patch:
        tiny_pspnet.register(patch)
        tiny_pspnet.save(folder / "tiny.safetensors")
        net, meta = load_model(folder / "tiny.safetensors")
    net.aux = torch.nn.Sequential()
    to_onnx(ServedNet(net, meta.mean, meta.std).eval(), folder / "model.onnx")
    return folder / "model.onnx"


def answers(model: onnx.ModelProto, images_nhwc: NDArray[np.uint8]) -> NDArray[np.floating]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # as the graph is written: the optimiser's int8 kernels saturate on CPUs without VNNI
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    logits: NDArray[np.floating] = session.run(None, {"images_nhwc": images_nhwc})[0]
    return logits


def pictures(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(1).integers(0, 256, (2, height, width, 3), dtype=np.uint8)


def types(model: onnx.ModelProto) -> dict[str, int]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, check_type=True).graph
    found = {v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.value_info, *graph.output)}
    return found | {tensor.name: tensor.data_type for tensor in graph.initializer}


# 600 columns times 6 bins is more than float16 can count
@pytest.mark.parametrize(("height", "width"), [(64, 64), (97, 136), (17, 4800)])
def test_it_answers_like_float32(model_path: Path, height: int, width: int) -> None:
    model = onnx.load(model_path)
    images = pictures(height, width)
    expected, got = answers(model, images), answers(to_half(model), images)
    assert got.dtype == np.float16
    assert got.shape == expected.shape
    spread = float(expected.std())
    assert float(np.abs(got - expected).max()) < 0.02 * spread
    assert float((got.argmax(axis=1) == expected.argmax(axis=1)).mean()) > 0.99


def test_what_stays_float(model_path: Path) -> None:
    half = to_half(onnx.load(model_path))
    onnx.checker.check_model(half, full_check=True)
    kinds = types(half)
    by_type = {
        op: [n for n in half.graph.node if n.op_type == op] for op in ("Conv", "MatMul", "Div", "CumSum")
    }
    assert all(kinds[name] == HALF for n in by_type["Conv"] for name in (*n.input, *n.output))
    assert all(kinds[name] == HALF for n in by_type["MatMul"] for name in (*n.input, *n.output))
    # normalisation and the counting behind the pooling matrices
    assert all(kinds[n.output[0]] == TensorProto.FLOAT for n in (*by_type["Div"], *by_type["CumSum"]))
    assert kinds["images_nhwc"] == TensorProto.UINT8
    assert kinds["logits_nchw"] == HALF


def test_no_weight_is_kept_twice(model_path: Path) -> None:
    model = onnx.load(model_path)
    half = to_half(model)
    used = {name for node in half.graph.node for name in node.input}
    assert {tensor.name for tensor in half.graph.initializer} <= used
    assert half.ByteSize() < 0.7 * model.ByteSize()


def test_large_weights_stay_float(model_path: Path) -> None:
    model = onnx.load(model_path)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    chosen = convolutions[2]  # in the middle: what it reads and what it gives is half
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == chosen.input[1])
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] = LARGE_WEIGHT + 1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    kinds = types(half)
    found = {node.name: kinds[node.output[0]] for node in half.graph.node if node.op_type == "Conv"}
    assert found.pop(chosen.name) == TensorProto.FLOAT
    assert set(found.values()) == {HALF}
    images = pictures(64, 64)
    expected, got = answers(model, images), answers(half, images)
    assert float(np.abs(got - expected).max()) < 0.02 * float(expected.std())


def test_a_weight_beyond_float16(model_path: Path) -> None:
    model = onnx.load(model_path)
    convolution = next(node for node in model.graph.node if node.op_type == "Conv")
    bias = numpy_helper.from_array(np.full(8, 1e5, np.float32), "bias")
    convolution.input.append("bias")
    model.graph.initializer.append(bias)
    with pytest.raises(EngineError, match=r"bias holds 1e\+05, more than float16 can \(65504\)"):
        to_half(model)


def test_quantised_graphs_keep_their_int8(model_path: Path, tmp_path: Path) -> None:
    model = quantised(model_path, tmp_path / "int8.onnx")
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert half.opset_import[0].version >= 19
    kinds = types(half)
    nodes = {
        op: [n for n in half.graph.node if n.op_type == op] for op in ("QuantizeLinear", "DequantizeLinear")
    }
    before = [n for n in model.graph.node if n.op_type in nodes]
    assert len(before) == sum(map(len, nodes.values()))
    assert {kinds[n.output[0]] for n in nodes["QuantizeLinear"]} == {TensorProto.INT8}
    assert {kinds[n.output[0]] for n in nodes["DequantizeLinear"]} == {HALF}
    images = pictures(64, 64)
    expected, got = answers(model, images), answers(half, images)
    assert got.dtype == np.float16
    assert float(np.abs(got - expected).mean()) < 0.1 * float(expected.std())


def test_types_of_before_are_not_believed(model_path: Path, tmp_path: Path) -> None:
    """A graph that was edited after it was quantised: uint8 became int8, its notes did not."""
    model = quantised(model_path, tmp_path / "int8.onnx")
    name = next(node.output[0] for node in model.graph.node if node.op_type == "QuantizeLinear")
    del model.graph.value_info[:]
    model.graph.value_info.append(helper.make_tensor_value_info(name, TensorProto.UINT8, None))
    half = to_half(model)
    onnx.checker.check_model(half, full_check=True)
    assert types(half)[name] == TensorProto.INT8


def test_scales_do_not_vanish() -> None:
    """A channel of zeros has a tiny scale, and TensorRT takes none that is 0."""
    zero = numpy_helper.from_array(np.array(0, np.int8), "zero")
    scale = numpy_helper.from_array(np.array(1e-9, np.float32), "scale")
    weight = numpy_helper.from_array(np.zeros((1, 1, 1, 1), np.int8), "weight")
    nodes = [
        helper.make_node("DequantizeLinear", ["weight", "scale", "zero"], ["w"]),
        helper.make_node("Conv", ["x", "w"], ["logits_nchw"]),
    ]
    shape: list[int | str | None] = ["n", 1, 4, 4]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "logits_nchw")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [zero, scale, weight])
    half = to_half(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in half.graph.initializer}
    assert values["scale_half"] > 0
