"""OpenVINO answers like ONNX Runtime, image by image, and refuses what it cannot do here."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from segserve import cpu
from segserve.engines.onnx import OnnxEngine
from segserve.engines.openvino import OpenVINOEngine
from segserve.errors import EngineError


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """images_nhwc -> a 1x1 convolution to two classes, over every second pixel."""
    weights = np.array([[0.5, -1.0, 0.25], [1.0, 0.125, -0.5]], np.float32).reshape(2, 3, 1, 1)
    nodes = [
        helper.make_node("Cast", ["images_nhwc"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["nchw", "weights"], ["logits_nchw"], strides=[2, 2]),
    ]
    graph = helper.make_graph(
        nodes,
        "two classes",
        [helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT, ["n", 2, None, None])],
        [numpy_helper.from_array(weights, "weights")],
    )
    path = tmp_path / "model.onnx"
    onnx.save_model(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), str(path)
    )
    return path


def test_a_batch_gets_the_answers_of_onnx_runtime(model: Path) -> None:
    images_nhwc = np.random.default_rng(0).integers(0, 256, (3, 10, 14, 3), np.uint8)
    engine = OpenVINOEngine(model, 1, "fp32")
    expected = OnnxEngine(model, 1)(images_nhwc)
    first = engine(images_nhwc)
    assert first.dtype == np.float32
    np.testing.assert_allclose(first, expected, rtol=1e-5, atol=1e-3)
    kept = first.copy()
    engine(255 - images_nhwc)  # a later call leaves earlier answers alone
    np.testing.assert_array_equal(first, kept)


def test_bf16_is_refused_where_the_processor_has_none(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "has_bf16", lambda: False)
    with pytest.raises(EngineError, match="does not multiply bf16"):
        OpenVINOEngine(model, 1, "bf16")


@pytest.mark.parametrize("processor_has_bf16", [True, False])
def test_int8_keeps_the_floats_that_it_was_proven_with(
    model: Path, monkeypatch: pytest.MonkeyPatch, processor_has_bf16: bool
) -> None:
    monkeypatch.setattr(cpu, "has_bf16", lambda: processor_has_bf16)
    assert OpenVINOEngine(model, 1, "int8", "f32").provider == "CPU, f32 where not int8"
    not_told = OpenVINOEngine(model, 1, "int8").provider
    assert not_told == f"CPU, {'bf16' if processor_has_bf16 else 'f32'} where not int8"
    if not processor_has_bf16:
        with pytest.raises(EngineError, match=r"does not multiply bf16 .*openvino-int8 was proven with"):
            OpenVINOEngine(model, 1, "int8", "bf16")


def add_layer(model: Path, bias: tuple[float, float]) -> None:
    """Greys through a second convolution, with `bias`: 0.625 of each, to both classes."""
    deeper = onnx.load(str(model))
    graph = deeper.graph
    greys = np.eye(2, 3, dtype=np.float32)[..., None, None]
    graph.initializer[0].CopyFrom(numpy_helper.from_array(greys, "weights"))
    graph.initializer.append(numpy_helper.from_array(np.full((2, 2, 1, 1), 0.3125, np.float32), "last"))
    graph.initializer.append(numpy_helper.from_array(np.array(bias, np.float32), "bias"))
    graph.node[-1].output[0] = "greys"
    graph.node.append(helper.make_node("Conv", ["greys", "last", "bias"], ["logits_nchw"]))
    onnx.save_model(deeper, str(model))


RAMP_NHWC = np.arange(256, dtype=np.uint8).repeat(2).reshape(1, 512, 1, 1).repeat(3, axis=3)
needs_bf16 = pytest.mark.skipif(not cpu.has_bf16(), reason="this processor does not multiply bf16")


@needs_bf16
def test_logits_in_bf16_are_sums_that_were_not_rounded(model: Path) -> None:
    """Rounded to bf16, which has 8 bits, many neighbours of the ramp would be equal."""
    add_layer(model, (3, 3))
    logits = OpenVINOEngine(model, 1, "bf16")(RAMP_NHWC)
    np.testing.assert_array_equal(logits[0, 1, :, 0], 3 + 0.625 * np.arange(256))


@needs_bf16
def test_what_is_no_number_stays_none_in_bf16(model: Path) -> None:
    """Segmenting refuses logits that are not finite: they must be seen."""
    add_layer(model, (np.nan, np.inf))
    logits = OpenVINOEngine(model, 1, "bf16")(RAMP_NHWC)
    assert not np.isfinite(logits).any()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(EngineError, match=r"cannot load .*broken\.onnx"):
        OpenVINOEngine(path, 1, "fp32")


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from segserve.engines.openvino import OpenVINOEngine
engines = [OpenVINOEngine(Path(sys.argv[1]), 1, "fp32") for _ in range(3)]
while engines:
    del engines[0]  # the oldest first
signal.signal(signal.SIGTERM, lambda *_: print("noted"))
os.kill(os.getpid(), signal.SIGTERM)
"""


def test_a_signal_after_engines_were_let_go_is_handled(model: Path, repo_root: Path) -> None:
    """With a core for each engine it ended the process: OpenVINO left it a signal stack that was no memory."""
    done = subprocess.run(
        [sys.executable, "-c", SIGNALLED, str(model)],
        cwd=repo_root,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout) == (0, "noted\n"), done.stderr
