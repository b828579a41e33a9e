"""The GPU check's verdicts, with GPUs and engines that are played: no GPU is here."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from benchmarks import gpu_check, gpu_engines, host
from benchmarks.gpu_check import GpuCheckConfig
from benchmarks.gpu_engines import SUBJECTS, Subject
from segserve import cli
from segserve.engines import cuda
from segserve.engines.onnx import OnnxEngine
from segserve.errors import CheckFailed, EngineError

SIZE = (24, 40)
Load = Callable[[Subject, int], Any]


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[int, Load], GpuCheckConfig]:
    """A host with so many GPUs, all libraries, and engines that `load` gives."""

    def export(config: GpuCheckConfig, subjects: list[Subject]) -> tuple[int, int]:
        config.out.mkdir(exist_ok=True)
        cast = helper.make_node("Cast", ["images_nhwc"], ["float"], to=TensorProto.FLOAT)
        transpose = helper.make_node("Transpose", ["float"], ["logits_nchw"], perm=[0, 3, 1, 2])
        images = helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", "h", "w", 3])
        logits = helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT, ["n", 3, "h", "w"])
        graph = helper.make_graph([cast, transpose], "tiny", [images], [logits])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
        onnx.save_model(model, str(config.out / "model.onnx"))
        return SIZE

    def ready(gpus: int, load: Load) -> GpuCheckConfig:
        monkeypatch.setattr(host, "gpus", lambda: [f"GPU {n}" for n in range(gpus)])
        monkeypatch.setattr(
            cuda, "gpus", lambda: [cuda.Gpu(n, f"GPU {n}", "8.6", 1 << 33) for n in range(gpus)]
        )
        monkeypatch.setattr(cuda, "driver_version", lambda: "13.0")
        monkeypatch.setattr(gpu_check, "export", export)
        monkeypatch.setattr(Subject, "missing", lambda self: "")
        monkeypatch.setattr(Subject, "load", lambda self, folder, gpu, height, width, sizes: load(self, gpu))
        monkeypatch.setattr(gpu_engines, "WARM_UP_CALLS", 1)
        monkeypatch.setattr(gpu_engines, "TIMED_CALLS", 3)
        return GpuCheckConfig(out=tmp_path / "out", batch_sizes=(1, 3), as_json=tmp_path / "report.json")

    return ready


class Played:
    """Right answers, from the pixels; `wrong_from` is the batch size at which they go wrong."""

    def __init__(self, subject: Subject, gpu: int, wrong_from: int = 99) -> None:
        self.provider, self.wrong_from = f"GPU {gpu}", wrong_from
        self.dtype = np.float32 if subject.precision == "fp32" else np.float16

    def __call__(self, images_nhwc: Any) -> Any:
        logits = images_nhwc.transpose(0, 3, 1, 2).astype(self.dtype)
        return logits[:, ::-1] if len(images_nhwc) >= self.wrong_from else logits

    def close(self) -> None:
        pass


def report(config: GpuCheckConfig) -> dict[str, Any]:
    assert config.as_json is not None
    found: dict[str, Any] = json.loads(
        config.as_json.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON")
    )
    return found


def test_without_a_gpu_it_is_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(host, "gpus", lambda: [])
    monkeypatch.setattr(cuda, "gpus", lambda: [])
    monkeypatch.setattr(sys, "argv", ["gpu_check", "--json", str(tmp_path / "report.json")])
    with pytest.raises(SystemExit) as ended:
        cli.run(GpuCheckConfig, gpu_check.main)
    assert ended.value.code == 0
    assert capsys.readouterr().out == gpu_check.SKIPPED + "\n"
    assert gpu_check.SKIPPED.startswith("skipped: no GPU")
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["skipped"] is True
    assert found["reason"] == gpu_check.SKIPPED


def test_every_gpu_and_engine_gets_a_row(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    config = play(2, Played)
    gpu_check.main(config)
    found = report(config)
    assert found["skipped"] is False
    assert found["failures"] == []
    assert [(row["gpu"], row["engine"]) for row in found["rows"]] == [
        (gpu, subject.name) for gpu in (0, 1) for subject in SUBJECTS
    ]
    row = found["rows"][-1]
    assert row["status"] == "ok"
    assert row["provider"] == "GPU 1"
    assert {(tuple(p["size"]), p["batch_size"]) for p in row["parity"]} == {
        (size, count) for size in (SIZE, gpu_check.ODD_SIZE) for count in (1, 3)
    }
    assert set(row["latency_ms"]) == {"1", "3"}
    assert min(row["latency_ms"].values()) > 0
    assert "| 1 GPU 1 | torchscript-fp16" in capsys.readouterr().out


def test_wrong_answers_are_named(play: Any) -> None:
    def load(subject: Subject, gpu: int) -> Played:
        return Played(subject, gpu, wrong_from=3 if subject.name == "tensorrt-fp32" else 99)

    config = play(1, load)
    with pytest.raises(
        CheckFailed, match=r"GPU 0, tensorrt-fp32: 24x40, batch of 3: .* % of the labels agree"
    ):
        gpu_check.main(config)
    statuses = {row["engine"]: row["status"] for row in report(config)["rows"]}
    assert statuses.pop("tensorrt-fp32") == "failed"
    assert set(statuses.values()) == {"ok"}


def test_logits_that_are_no_numbers_leave_a_report(play: Any, capsys: pytest.CaptureFixture[str]) -> None:
    class Broken(Played):
        def __call__(self, images_nhwc: Any) -> Any:
            return super().__call__(images_nhwc) * np.nan

    config = play(1, Broken)
    with pytest.raises(CheckFailed, match="logits are not finite"):
        gpu_check.main(config)
    rows = report(config)["rows"]
    assert {(row["status"], row["parity"][0]["max_abs_error"]) for row in rows} == {("failed", None)}
    capsys.readouterr()
    config.as_json.unlink()
    config.as_json.mkdir()  # it was free when the check began
    with pytest.raises(IsADirectoryError):
        gpu_check.main(config)
    assert capsys.readouterr().out.count("| 0 GPU 0 | torchscript-fp16") == len(config.batch_sizes)


def test_silent_fallback_is_a_failure(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """onnxruntime offers CUDA and gives the CPU: the real engine on a played onnxruntime."""
    import onnxruntime

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(
        onnxruntime,
        "InferenceSession",
        lambda path, options, providers, enable_fallback: real(path, options, ["CPUExecutionProvider"]),
    )

    def load(subject: Subject, gpu: int) -> Any:
        if subject.engine != "onnx_cuda":
            return Played(subject, gpu)
        return OnnxEngine(config.out / "model.onnx", 1, "cuda", subject.precision, gpu)

    config = play(1, load)
    with pytest.raises(
        CheckFailed, match=r"onnx_cuda-fp32: 24x40: .* asked for CUDA.* runs it on CPUExecution"
    ):
        gpu_check.main(config)


def test_what_is_not_installed_is_no_failure(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = play(1, Played)
    monkeypatch.setattr(Subject, "missing", lambda self: "" if self.engine == "torchscript" else "tensorrt")
    gpu_check.main(config)
    statuses = {row["engine"]: (row["status"], row["reason"]) for row in report(config)["rows"]}
    assert statuses["tensorrt-fp16"] == ("not installed", "tensorrt")
    assert statuses["torchscript-fp16"] == ("ok", "")


def test_a_gpu_that_nothing_runs_on_is_a_failure(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config = play(1, Played)
    monkeypatch.setattr(Subject, "missing", lambda self: "everything")
    with pytest.raises(CheckFailed, match="no engine ran on a GPU"):
        gpu_check.main(config)


def test_a_gpu_without_cuda_bindings_is_still_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none() -> list[cuda.Gpu]:
        raise EngineError("pip install cuda-bindings")

    monkeypatch.setattr(cuda, "gpus", none)
    monkeypatch.setattr(host, "gpus", lambda: ["L4", "L4"])
    assert gpu_check.gpus() == [{"index": 0, "name": "L4"}, {"index": 1, "name": "L4"}]
    assert "pip install cuda-bindings" in capsys.readouterr().err
    monkeypatch.setattr(host, "gpus", lambda: [])
    assert gpu_check.gpus() == []


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime
    import torch

    here = {"tensorrt", "nncf"}
    monkeypatch.setattr(gpu_engines, "_installed", lambda name: name in here)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    monkeypatch.setattr(torch, "version", SimpleNamespace(cuda=None))
    missing = {subject.name: subject.missing() for subject in SUBJECTS}
    assert missing["tensorrt-fp16"] == "cuda.bindings"
    assert missing["onnx_cuda-fp16"] == missing["onnx_tensorrt-fp16"] == "onnxruntime-gpu"
    assert missing["torchscript-fp32"] == "a CUDA build of torch"
    here.clear()
    assert Subject("tensorrt", "fp16").missing() == "tensorrt, cuda.bindings"
    assert Subject("tensorrt", "int8").missing() == "nncf"


@pytest.mark.parametrize(
    ("precision", "change", "says"),
    [
        ("fp32", lambda x: x + 1e-2, "a logit is off by 1.00e-02"),
        ("fp16", lambda x: x + 1e-2, None),
        ("fp16", lambda x: x[:, ::-1], "of the labels agree, expected 99.7 %"),
        ("int8", lambda x: np.where(x > 0, np.nan, x), "logits are not finite"),
        ("fp16", lambda x: x[..., 1:], r"logits are \(2, 3, 8, 7\), expected \(2, 3, 8, 8\)"),
    ],
)
def test_comparison(precision: str, change: Callable[[Any], Any], says: str | None) -> None:
    expected = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    failures = gpu_engines.compare(precision, change(expected), expected)["failures"]
    if says is None:
        assert failures == []
    else:
        assert any(re.search(says, failure) for failure in failures)
