"""Which artefact is served where the chosen one does not run, and that nothing unproven ever is."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from export.package import to_pack
from segserve import cpu
from segserve.engines import load_engine
from segserve.errors import EngineError
from segserve.spec import Artefact, ModelSpec, sha256_file
from tests.specs import make_spec


def artefact(folder: Path, file: str, engine: str, precision: str = "fp32") -> Artefact:
    return Artefact(file, engine, precision, sha256_file(folder / file), (folder / file).stat().st_size)


def fails_when_called(folder: Path) -> None:
    """broken.onnx: it is loaded, and no input of the spec's size has the shape that it wants."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images_nhwc"], ["cast"], to=TensorProto.FLOAT),
            helper.make_node("Reshape", ["cast", "shape"], ["logits_nchw"]),
        ],
        "broken",
        [helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT, [7, 11])],
        [helper.make_tensor("shape", TensorProto.INT64, [2], [7, 11])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, str(folder / "broken.onnx"))


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    """Chosen: a TensorRT plan that no host can read; instead of it a graph for ONNX Runtime."""
    (tmp_path / "model.plan").write_bytes(b"no plan")
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images_nhwc"], ["logits_nchw"], to=TensorProto.FLOAT)],
        "cast",
        [helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT, ["n", "h", "w", 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.save_model(model, str(tmp_path / "model.onnx"))
    artefacts = (
        artefact(tmp_path, "model.plan", "tensorrt", "fp16"),
        artefact(tmp_path, "model.onnx", "onnx"),
    )
    return make_spec(artefacts=artefacts, engine="tensorrt-fp16")


def test_the_next_one_that_runs_is_served_and_the_log_says_why(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        engine = load_engine(spec, tmp_path, 1, fallback=True)
    assert (engine.name, engine.precision) == ("onnx", "fp32")
    assert "serving with onnx, because the chosen engine does not run here: tensorrt-fp16: " in caplog.text
    assert engine(np.full((1, 2, 2, 3), 7, np.uint8)).tolist() == [[[[7.0] * 3] * 2] * 2]


def test_an_engine_that_loads_and_cannot_compute_is_passed_over(
    spec: ModelSpec, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A GPU may let a model be loaded and fail the first call: the worker would start again and again."""
    fails_when_called(tmp_path)
    broken = artefact(tmp_path, "broken.onnx", "onnx", "int8")
    chosen = dataclasses.replace(spec, artefacts=(broken, spec.artefacts[1]), engine="onnx-int8")
    with caplog.at_level(logging.WARNING):
        assert load_engine(chosen, tmp_path, 1, fallback=True).precision == "fp32"
    said = "the chosen engine does not run here: onnx-int8: it was loaded, and its first call failed: "
    assert said in caplog.text
    assert "Reshape" in caplog.text  # in the engine's own words
    assert load_engine(chosen, tmp_path, 1).precision == "int8"  # nobody asked for another


def test_where_nothing_can_compute_all_reasons_are_told(spec: ModelSpec, tmp_path: Path) -> None:
    fails_when_called(tmp_path)
    broken = artefact(tmp_path, "broken.onnx", "onnx")
    neither = dataclasses.replace(spec, artefacts=(spec.artefacts[0], broken))
    with pytest.raises(EngineError, match=r"^tensorrt-fp16: .*; onnx: it was loaded, and its first call"):
        load_engine(neither, tmp_path, 1, fallback=True)


@pytest.mark.parametrize(
    ("engine", "files"),
    [
        ("onnx", ["model.onnx", "model.onnx"]),
        ("torchscript", ["model.pt", "model.onnx", "model.onnx"]),
        ("openvino", ["model.onnx", "model.onnx"]),
        ("openvino-int8", ["model.int8.onnx", "model.onnx", "model.onnx"]),
    ],
)
def test_a_package_of_an_engine_asked_for_has_what_any_host_runs(engine: str, files: list[str]) -> None:
    made = [
        Artefact(file, *name, "0" * 64, 1)
        for file, name in (
            ("model.onnx", ("onnx", "fp32")), ("model.pt", ("torchscript", "fp32")),
            ("model.onnx", ("openvino", "fp32")), ("model.int8.onnx", ("openvino", "int8")),
        )
    ]  # fmt: skip
    packed = to_pack(make_spec(artefacts=tuple(made), engine=engine))
    assert [artefact.file for artefact in packed] == files
    assert packed[0].name == engine


def test_without_fallback_it_is_an_error(spec: ModelSpec, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="tensorrt-fp16: "):
        load_engine(spec, tmp_path, 1)


def test_a_file_that_was_not_proven_is_not_passed_over(spec: ModelSpec, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"another")
    with pytest.raises(EngineError, match=r"model\.plan is not the file that passed parity"):
        load_engine(spec, tmp_path, 1, fallback=True)


def test_int8_of_a_cpu_with_vnni_is_not_served_by_one_without(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Pairs of its products would overflow 16 bits: wrong masks at full speed."""
    plain = spec.artefacts[1]
    int8 = dataclasses.replace(plain, precision="int8", needs_int8_dot=True)
    moved = dataclasses.replace(spec, artefacts=(int8, plain), engine="onnx-int8")
    monkeypatch.setattr(cpu, "has_int8_dot", lambda: True)
    assert load_engine(moved, tmp_path, 1).precision == "int8"
    monkeypatch.setattr(cpu, "has_int8_dot", lambda: False)
    with pytest.raises(EngineError, match=r"onnx-int8: .*would overflow.*run export\.build on this host"):
        load_engine(moved, tmp_path, 1)
    with caplog.at_level(logging.WARNING, logger="segserve.engines"):
        assert load_engine(moved, tmp_path, 1, fallback=True).precision == "fp32"
    assert "onnx-int8" in caplog.text


def test_int8_beside_bf16_is_not_served_without_it(
    spec: ModelSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """In float32 its masks would be others than those that were compared."""
    plain = spec.artefacts[1]
    int8 = dataclasses.replace(plain, engine="openvino", precision="int8", floats="bf16")
    moved = dataclasses.replace(spec, artefacts=(int8, plain), engine="openvino-int8")
    monkeypatch.setattr(cpu, "has_bf16", lambda: False)
    with pytest.raises(EngineError, match=r"openvino-int8: .*does not multiply bf16"):
        load_engine(moved, tmp_path, 1)
    with caplog.at_level(logging.WARNING, logger="segserve.engines"):
        assert load_engine(moved, tmp_path, 1, fallback=True).name == "onnx"
    assert "openvino-int8" in caplog.text
