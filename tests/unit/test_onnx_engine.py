"""ONNX Runtime's providers: what was asked for is what runs, or it is an error."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

from segserve.engines import onnx as module
from segserve.engines.onnx import OnnxEngine
from segserve.errors import EngineError

ALL = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
BATCH = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A graph that gives the images back as float16, channels first."""
    nodes = [
        helper.make_node("Cast", ["images_nhwc"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Transpose", ["half"], ["logits_nchw"], perm=[0, 3, 1, 2]),
    ]
    images = helper.make_tensor_value_info("images_nhwc", TensorProto.UINT8, ["n", "h", "w", 3])
    logits = helper.make_tensor_value_info("logits_nchw", TensorProto.FLOAT16, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "tiny", [images], [logits])
    opset = helper.make_opsetid("", 18)
    file = tmp_path / "model.onnx"
    onnx.save_model(helper.make_model(graph, opset_imports=[opset], ir_version=10), str(file))
    return file


@pytest.fixture
def gpu_host(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """onnxruntime as on a host with a GPU; what it runs is the CPU's, so that answers can be looked at."""
    host = SimpleNamespace(asked=None, obtained=ALL, preloaded=0)
    real = onnxruntime.InferenceSession

    class Session:
        def __init__(self, file: str, options: Any, providers: list[Any], enable_fallback: int) -> None:
            assert enable_fallback == 0
            host.asked = providers
            self.session = real(file, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            names = [entry if isinstance(entry, str) else entry[0] for entry in host.asked]
            return [name for name in [*names, "CPUExecutionProvider"] if name in host.obtained]

        def __getattr__(self, name: str) -> Any:
            return getattr(self.session, name)

    def preload_dlls() -> None:
        host.preloaded += 1
        print("Failed to load libcudnn.so.9")

    value = onnxruntime.OrtValue

    class OrtValue:
        @staticmethod
        def ortvalue_from_numpy(array: Any, device: str, device_id: int) -> Any:
            assert (device, array.flags.c_contiguous) == ("cuda", True)
            return value.ortvalue_from_numpy(array, "cpu", 0)

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload_dlls)
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "OrtValue", OrtValue)
    return host


def bind_to_cpu(engine: OnnxEngine) -> None:
    """Outputs are bound to the only device that is here; all else is what a GPU would see."""
    session = engine._session
    make = session.io_binding

    def io_binding() -> Any:
        bound = make()
        real = bound.bind_output

        def bind_output(name: str, device: str, device_id: int) -> None:
            assert device == "cuda"
            real(name, "cpu", device_id)

        bound.bind_output = bind_output
        return bound

    session.io_binding = io_binding


def test_the_cpu(path: Path) -> None:
    engine = OnnxEngine(path, 1)
    assert (engine.device, engine.provider, engine.precision) == ("cpu", "CPUExecutionProvider", "fp32")
    assert engine.name == "onnx"
    np.testing.assert_array_equal(engine(BATCH), BATCH.transpose(0, 3, 1, 2).astype(np.float16))


def test_a_provider_that_is_not_in_this_build(path: Path) -> None:
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of onnxruntime has CUDA")
    with pytest.raises(
        EngineError,
        match=r"no CUDAExecutionProvider, only .*CPUExecution.*--force-reinstall .*onnxruntime-gpu\[cuda",
    ):
        OnnxEngine(path, 1, provider="cuda")


@pytest.mark.parametrize(
    ("provider", "obtained"),
    [
        ("cuda", ["CPUExecutionProvider"]),
        ("tensorrt", ["CPUExecutionProvider"]),
        ("tensorrt", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_silent_fallback_is_an_error(
    path: Path, gpu_host: SimpleNamespace, provider: module.Provider, obtained: list[str]
) -> None:
    gpu_host.obtained = obtained
    with pytest.raises(
        EngineError, match=f"asked for {module.PROVIDERS[provider]}.* runs it on {obtained[0]}"
    ):
        OnnxEngine(path, 1, provider=provider, precision="fp16", largest_batch=(4, 4, 4, 3))


def test_cuda(path: Path, gpu_host: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    engine = OnnxEngine(path, 1, provider="cuda", device_id=1)
    assert gpu_host.asked == [("CUDAExecutionProvider", {"device_id": 1, "use_tf32": False})]
    assert (engine.device, engine.provider, gpu_host.preloaded) == ("cuda:1", "CUDAExecutionProvider", 1)
    assert engine.name == "onnx_cuda"  # a fall from TensorRT to CUDA shows in every answer
    assert capsys.readouterr() == ("", "Failed to load libcudnn.so.9\n")


def test_batches_go_through_bindings(path: Path, gpu_host: SimpleNamespace) -> None:
    engine = OnnxEngine(path, 1, provider="cuda")
    bind_to_cpu(engine)
    mirrored = BATCH[:, :, ::-1]
    logits = engine(mirrored)
    assert logits.dtype == np.float16
    np.testing.assert_array_equal(logits, mirrored.transpose(0, 3, 1, 2).astype(np.float16))


def test_tensorrt(path: Path, gpu_host: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[tuple[int, ...]] = []
    monkeypatch.setattr(OnnxEngine, "__call__", lambda self, images: built.append(images.shape))
    engine = OnnxEngine(path, 1, "tensorrt", precision="fp16", largest_batch=(8, 4, 4, 3))
    (name, options), (second, _) = gpu_host.asked
    assert (name, second) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    assert (options["trt_fp16_enable"], options["trt_int8_enable"]) == (True, False)
    assert options["trt_profile_min_shapes"] == "images_nhwc:1x4x4x3"
    assert options["trt_profile_max_shapes"] == "images_nhwc:8x4x4x3"
    assert built == [(8, 4, 4, 3)]  # before the first request
    assert engine.provider == "TensorrtExecutionProvider"
    assert engine.name == "onnx_tensorrt"


@pytest.mark.parametrize(
    ("provider", "count", "pieces"),
    [("tensorrt", 1, [1]), ("tensorrt", 8, [8]), ("tensorrt", 19, [8, 8, 3]), ("cuda", 19, [19])],
)
def test_a_batch_beyond_what_tensorrt_was_built_for_goes_in_pieces(
    path: Path,
    gpu_host: SimpleNamespace,
    monkeypatch: pytest.MonkeyPatch,
    provider: module.Provider,
    count: int,
    pieces: list[int],
) -> None:
    called: list[int] = []

    def run(self: OnnxEngine, images: Any) -> Any:
        called.append(len(images))
        return images.transpose(0, 3, 1, 2)

    monkeypatch.setattr(OnnxEngine, "_on_gpu", run)
    engine = OnnxEngine(path, 1, provider, precision="fp16", largest_batch=(8, 4, 4, 3))
    called.clear()
    images = np.random.default_rng(0).integers(0, 256, (count, 4, 4, 3), np.uint8)
    np.testing.assert_array_equal(engine(images), images.transpose(0, 3, 1, 2))
    assert called == pieces


def test_an_engine_that_tensorrt_cannot_build_is_an_engine_error(
    path: Path, gpu_host: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that the next of the package is served."""

    def run(self: OnnxEngine, images: Any) -> Any:
        raise RuntimeError("TensorRT EP failed to create engine from network")

    monkeypatch.setattr(OnnxEngine, "_on_gpu", run)
    says = r"cannot build a TensorRT engine of .*model\.onnx for a batch of 8: TensorRT EP failed to create"
    with pytest.raises(EngineError, match=says):
        OnnxEngine(path, 1, "tensorrt", precision="fp16", largest_batch=(8, 4, 4, 3))


def test_other_weights_never_meet_an_old_engine(path: Path, gpu_host: SimpleNamespace) -> None:
    def cache() -> Path:
        providers = module.gpu_providers(path, "tensorrt", "fp16", 0, (8, 4, 4, 3))
        return Path(providers[0][1]["trt_engine_cache_path"])

    before = cache()
    assert before.is_dir()
    assert cache() == before
    path.write_bytes(path.read_bytes() + b"\0")
    assert cache() != before


def test_tensorrt_needs_to_know_for_what(path: Path, gpu_host: SimpleNamespace) -> None:
    with pytest.raises(EngineError, match="needs largest_batch"):
        OnnxEngine(path, 1, "tensorrt", precision="fp16")
    with pytest.raises(EngineError, match="no way to turn TF32 off"):
        OnnxEngine(path, 1, "tensorrt", precision="fp32", largest_batch=(8, 4, 4, 3))


def test_a_file_that_does_not_load(tmp_path: Path) -> None:
    torn = tmp_path / "torn.onnx"
    torn.write_bytes(b"torn")
    with pytest.raises(EngineError, match=r"cannot load .*torn\.onnx"):
        OnnxEngine(torn, 1)
