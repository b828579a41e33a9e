"""Every kind of engine compiles: TensorRT-RTX takes our graphs, and builds from them, without a GPU.

It shares its parser, its strongly typed networks and these calls with TensorRT (tests/unit/test_tensorrt_names.py);
what it builds cannot run here, and what TensorRT itself makes of the graphs is for `make gpu-check` to show.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from export import to_tensorrt as export
from export.served_net import ServedNet
from export.to_onnx import to_onnx
from export.to_tensorrt import PlanOptions, compile_plan, require_symmetric_int8, typed_graph
from segserve.engines import cuda, tensorrt
from segserve.engines.plan import PlanHeader, read_plan
from segserve.errors import EngineError, UsageError
from tests.quantised import quantised
from training import pspnet
from training.layout import Layout

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    # its timing caches do nothing any more, TensorRT's do
    pytest.mark.filterwarnings("ignore:.*Deprecated in TensorRT-RTX:DeprecationWarning"),
]
SMALL = PlanOptions("fp32", 16, 16, (1, 2))


@pytest.fixture(scope="module")
def rtx() -> ModuleType:
    module: ModuleType = pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx-cu13 is not installed")
    return module


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, demo_onnx: Path) -> Callable[[str], Path]:
    """The demo model and a small-headed pspnet50 as model.onnx; name-int8 is the same, quantised."""
    folder = tmp_path_factory.mktemp("tensorrt")

    def path(name: str) -> Path:
        file = demo_onnx if name == "demo" else folder / f"{name}.onnx"
        if not file.exists() and name.endswith("-int8"):
            quantised(path(name.removesuffix("-int8")), file)
        elif not file.exists():
            net, (mean, std) = pspnet.build(name, 4, layout=Layout(head=64)), pspnet.normalisation(name)
            net.aux = nn.Sequential()
            to_onnx(ServedNet(net, mean, std).eval(), file)
        return file

    return path


@pytest.fixture(scope="module")
def plan_bytes(rtx: ModuleType, models: Callable[[str], Path]) -> Callable[[str, str], int]:
    """How large the plan of a model is in a precision."""

    @cache
    def size(name: str, precision: str) -> int:
        options = PlanOptions(precision, 96, 128, (1, 4))
        graph = typed_graph(onnx.load(models(f"{name}-int8" if precision == "int8" else name)), options)
        return len(compile_plan(rtx, graph, options, b"")[0])

    return size


@pytest.mark.timeout(900)  # the first to come exports the model: a minute and more on a busy machine
@pytest.mark.parametrize("name", ["demo", "pspnet50"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_precision_compiles(
    models: Callable[[str], Path], plan_bytes: Callable[[str, str], int], name: str, precision: str
) -> None:
    model = onnx.load(models(f"{name}-int8" if precision == "int8" else name))
    graph = typed_graph(model, PlanOptions(precision, 96, 128, (1, 4)))
    assert graph.graph.output[0].type.tensor_type.elem_type == (
        TensorProto.FLOAT if precision == "fp32" else TensorProto.FLOAT16
    )
    size = plan_bytes(name, precision)
    weights = sum(np.prod(tensor.dims) for tensor in model.graph.initializer)
    bytes_each = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    # the weights are in the plan in the precision asked for, and little else
    assert 0.9 * bytes_each * weights < size < 1.2 * bytes_each * weights + 16e6
    assert precision == "fp32" or size < plan_bytes(name, "fp32")


def test_what_an_earlier_build_measured_may_be_of_no_use(
    rtx: ModuleType, models: Callable[[str], Path]
) -> None:
    options = PlanOptions("fp16", 96, 128, (2,))
    plan, timings = compile_plan(rtx, typed_graph(onnx.load(models("demo")), options), options, b"\0" * 64)
    assert plan
    assert timings


# --- what is refused ----------------------------------------------------------------------------------------


def model(nodes: list[onnx.NodeProto], weights: dict[str, object], first: str = "cast") -> onnx.ModelProto:
    """images_nhwc, uint8 (n, 16, 16, 3) -> `nodes` -> logits_nchw (n, 3, 16, 16)."""
    to_float = helper.make_node("Cast", ["images_nhwc"], ["cast"], name="cast", to=TensorProto.FLOAT)
    transpose = helper.make_node("Transpose", [first], ["x"], name="transpose", perm=[0, 3, 1, 2])
    before = [to_float, transpose] if first == "cast" else [transpose]
    images = helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", 16, 16, 3])
    logits = helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT, ["n", 3, 16, 16])
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]
    graph = helper.make_graph([*before, *nodes], "small", [images], [logits], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def convolution(*inputs: str) -> onnx.NodeProto:
    return helper.make_node("Conv", list(inputs), ["logits_nchw"], name="convolution")


def quantise(zero: str = "zero") -> list[onnx.NodeProto]:
    return [
        helper.make_node("QuantizeLinear", ["x", "scale", zero], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", zero], ["d"], name="dequantise"),
    ]


KERNEL = np.ones((3, 3, 1, 1), np.float32)
SCALE = np.float32(0.1)
INT32_BIAS = model(
    [
        *quantise(),
        helper.make_node("DequantizeLinear", ["b", "scale"], ["bias"], name="dequantise_bias"),
        convolution("d", "w", "bias"),
    ],
    {"w": KERNEL, "scale": SCALE, "zero": np.int8(0), "b": np.zeros(3, np.int32)},
)
ASYMMETRIC = model([*quantise(), convolution("d", "w")], {"w": KERNEL, "scale": SCALE, "zero": np.int8(3)})
UNSIGNED = model([*quantise(), convolution("d", "w")], {"w": KERNEL, "scale": SCALE, "zero": np.uint8(128)})
MIXED = model([convolution("x", "w")], {"w": KERNEL.astype(np.float16)})
UINT8_TRANSPOSE = model(
    [helper.make_node("Cast", ["x"], ["logits_nchw"], to=TensorProto.FLOAT)], {}, first="images_nhwc"
)


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (UINT8_TRANSPOSE, r"Transpose transpose: .*UInt8"),
        (MIXED, r"Conv convolution: .*`input` and `kernel` must be of same type"),
        (ASYMMETRIC, r"QuantizeLinear quantise: .*Non-zero zero point is not supported"),
        (UNSIGNED, r"QuantizeLinear quantise: .*Non-zero zero point is not supported"),
        (INT32_BIAS, r"DequantizeLinear dequantise_bias: .*Int32 but must have type"),
    ],
    ids=["uint8 transpose", "mixed operands", "asymmetric", "unsigned", "int32 bias"],
)
def test_bad_graphs_are_refused_in_the_parsers_words(
    rtx: ModuleType, graph: onnx.ModelProto, says: str
) -> None:
    with pytest.raises(EngineError, match=rf"(?s)^TensorRT {rtx.__version__} cannot read the graph: {says}"):
        compile_plan(rtx, graph, SMALL, b"")


@pytest.mark.parametrize(
    ("graph", "says"),
    [
        (ASYMMETRIC, r"quantise has a zero point other than 0 \(quantise symmetrically\); dequantise has"),
        (UNSIGNED, r"quantise is uint8, expected int8 \(signed\); dequantise is"),
        (INT32_BIAS, r"dequantise_bias dequantises an int32 bias"),
        (model([*quantise(""), convolution("d", "w")], {"w": KERNEL, "scale": SCALE}), "quantise is uint8"),
        (MIXED, "this graph is not quantised"),
    ],
    ids=["asymmetric", "unsigned", "int32 bias", "no zero point", "not quantised"],
)
def test_bad_quantisation_is_refused_before(graph: onnx.ModelProto, says: str) -> None:
    with pytest.raises(EngineError, match=says):
        typed_graph(graph, PlanOptions("int8", 16, 16, (1,)))


def test_symmetric_int8_is_taken(rtx: ModuleType) -> None:
    good = model([*quantise(), convolution("d", "w")], {"w": KERNEL, "scale": SCALE, "zero": np.int8(0)})
    require_symmetric_int8(good)
    plan, _ = compile_plan(rtx, typed_graph(good, PlanOptions("int8", 16, 16, (1,))), SMALL, b"")
    assert plan


def test_options_that_make_no_sense() -> None:
    with pytest.raises(UsageError, match="'bf16': TensorRT engines are fp32, fp16, int8"):
        PlanOptions("bf16", 16, 16, (1,))
    with pytest.raises(UsageError, match="at least 1"):
        PlanOptions("fp16", 16, 16, ())


@pytest.mark.parametrize("damaged", ["cannot be read", "is of another GPU"])
def test_timings_that_are_refused_are_measured_anew(damaged: str) -> None:
    """TensorRT makes nothing at all of a file that it cannot read."""
    attached: list[bytes] = []

    class Config:
        def create_timing_cache(self, content: bytes) -> bytes | None:
            return None if content and damaged == "cannot be read" else content

        def set_timing_cache(self, cache: bytes, ignore_mismatch: bool) -> bool:
            assert (type(cache), ignore_mismatch) == (bytes, False)
            if cache:
                return False
            attached.append(cache)
            return True

    export._attach_timings(Config(), b"torn")
    assert attached == [b""]


# --- the file -----------------------------------------------------------------------------------------------


def test_the_file_says_what_it_runs_on(
    rtx: ModuleType, models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the GPU is real: who it is and that it can be selected is played."""
    called: list[object] = []
    monkeypatch.setattr(export, "load_tensorrt", lambda: rtx)
    monkeypatch.setattr(cuda, "gpu", lambda index: cuda.Gpu(index, "Played GPU", "8.9", 1 << 34))
    monkeypatch.setattr(cuda, "call", lambda *arguments: called.append(arguments))
    path, timings = tmp_path / "model-fp16.plan", tmp_path / "timing.cache"
    export.to_tensorrt(models("demo"), path, PlanOptions("fp16", 96, 128, (8, 1)), timings, device_id=1)
    header, plan = read_plan(path)
    assert header == PlanHeader(rtx.__version__, "Played GPU", "8.9", "fp16", 96, 128, 8)
    assert len(plan) > 1e6
    assert timings.read_bytes()
    assert called == [("cudaSetDevice", 1)]
    assert sorted(tmp_path.iterdir()) == sorted([path, timings])


def test_without_a_gpu_nothing_is_built(
    models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(index: int) -> cuda.Gpu:
        raise EngineError("cudaGetDeviceProperties: no CUDA-capable device is detected")

    monkeypatch.setattr(export, "load_tensorrt", lambda: ModuleType("tensorrt"))
    monkeypatch.setattr(cuda, "gpu", none)
    with pytest.raises(EngineError, match="no CUDA-capable device"):
        export.to_tensorrt(
            models("demo"), tmp_path / "x.plan", PlanOptions("fp16", 96, 128, (1,)), tmp_path / "t"
        )
    assert list(tmp_path.iterdir()) == []


def test_messages_keep_errors_only(rtx: ModuleType) -> None:
    logger = tensorrt.messages(rtx)
    logger.log(rtx.ILogger.WARNING, "careful")
    logger.log(rtx.ILogger.ERROR, "no")
    assert logger.errors == ["no"]
