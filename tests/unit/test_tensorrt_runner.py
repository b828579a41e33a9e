"""The TensorRT runner against a CUDA and a TensorRT that are played (tests/fake_gpu.py): no GPU is here."""

from __future__ import annotations

import dataclasses
import gc
import sys
from pathlib import Path

import numpy as np
import pytest

from segserve.engines import cuda
from segserve.engines import tensorrt as runner
from segserve.engines.plan import PlanHeader, read_plan, write_plan
from segserve.errors import EngineError
from tests.fake_gpu import FakeCuda, FakeTensorRT, network

HEIGHT, WIDTH, MAX_BATCH = 16, 24, 4
HEADER = PlanHeader("10.13.3.9", "Fake GPU 0", "8.6", "fp16", HEIGHT, WIDTH, MAX_BATCH)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    monkeypatch.setattr(cuda, "runtime", lambda: fake)
    return fake


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch, gpu: FakeCuda) -> FakeTensorRT:
    fake = FakeTensorRT(gpu, HEIGHT, WIDTH, MAX_BATCH)
    monkeypatch.setattr(runner, "load_tensorrt", lambda: fake)
    return fake


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "model-fp16.plan"
    write_plan(path, HEADER, b"plan")
    return path


def images(count: int, seed: int = 0) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(0, 256, (count, HEIGHT, WIDTH, 3), dtype=np.uint8)


def test_every_batch_size_in_any_order(trt: FakeTensorRT, plan: Path) -> None:
    engine = runner.TensorRTEngine(plan)
    for seed, count in enumerate((1, 4, 2, 1, 3, 4, 4, 1)):
        batch = images(count, seed)
        logits = engine(batch)
        assert logits.dtype == np.float16
        np.testing.assert_array_equal(logits, network(batch))
    assert len(trt.contexts) == 4  # one for each size, made once


def test_answers_stay_when_the_next_batch_comes(trt: FakeTensorRT, plan: Path) -> None:
    engine = runner.TensorRTEngine(plan)
    first = engine(images(2, 1))
    engine(images(2, 2))
    np.testing.assert_array_equal(first, network(images(2, 1)))


def test_a_batch_beyond_the_largest_goes_in_pieces(trt: FakeTensorRT, plan: Path) -> None:
    batch = images(2 * MAX_BATCH + 1)
    np.testing.assert_array_equal(runner.TensorRTEngine(plan)(batch), network(batch))


def test_a_view_with_strides_is_copied_right(trt: FakeTensorRT, plan: Path) -> None:
    mirrored = images(3)[:, :, ::-1]
    np.testing.assert_array_equal(runner.TensorRTEngine(plan)(mirrored), network(mirrored))


def test_a_failure_is_told_with_its_own_reasons_only(trt: FakeTensorRT, plan: Path) -> None:
    engine = runner.TensorRTEngine(plan)
    for reason in ("the first reason", "the second reason"):
        trt.refuses = reason
        with pytest.raises(EngineError, match=f"^TensorRT did not run the batch: {reason}$"):
            engine(images(1))
    trt.refuses = None
    np.testing.assert_array_equal(engine(images(1)), network(images(1)))


def test_what_it_says_of_itself(trt: FakeTensorRT, gpu: FakeCuda, plan: Path) -> None:
    gpu.gpus = 2
    engine = runner.TensorRTEngine(plan, device_id=1)
    assert (engine.name, engine.device, engine.precision) == ("tensorrt", "cuda:1", "fp16")
    assert engine.provider == "Fake GPU 1, TensorRT 10.13.3.9"


def test_close_gives_everything_back(trt: FakeTensorRT, gpu: FakeCuda, plan: Path) -> None:
    engine = runner.TensorRTEngine(plan)
    engine(images(1))
    assert gpu.blocks
    engine.close()
    assert gpu.blocks == {}
    engine.close()
    del engine
    gc.collect()
    assert gpu.log.count("cudaStreamDestroy") == 1  # twice is a crash on a GPU


def test_an_engine_that_nobody_holds_gives_everything_back(
    trt: FakeTensorRT, gpu: FakeCuda, plan: Path
) -> None:
    """An export loads one after the other, and closes none."""
    engine = runner.TensorRTEngine(plan)
    engine(images(1))
    assert gpu.blocks
    del engine
    gc.collect()
    assert gpu.blocks == {}
    assert gpu.log.count("cudaStreamDestroy") == 1
    assert gpu.log[-1] != "cudaSetDevice"  # it may be in the middle of what another engine does


def test_a_gpu_that_fell_over_makes_no_noise_when_an_engine_is_let_go(
    trt: FakeTensorRT, gpu: FakeCuda, plan: Path
) -> None:
    engine = runner.TensorRTEngine(plan)
    gpu.failing = "cudaFree"
    del engine
    gc.collect()  # pytest makes an error of what is raised in here
    assert gpu.log.count("cudaFreeHost") == 2  # the rest was given back all the same


@pytest.mark.parametrize("shape", [(1, HEIGHT, WIDTH + 8, 3), (1, WIDTH, HEIGHT, 3), (0, HEIGHT, WIDTH, 3)])
def test_other_sizes_are_refused(trt: FakeTensorRT, plan: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(EngineError, match=r"takes uint8 \(N, 16, 24, 3\), got uint8"):
        runner.TensorRTEngine(plan)(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("changes", "built"),
    [
        ({"tensorrt": "11.4.0.106"}, "built with TensorRT 11.4.0.106 for compute capability 8.6"),
        ({"compute_capability": "9.0", "gpu": "H100"}, "for compute capability 9.0 \\(H100\\)"),
    ],
)
def test_of_another_version_or_gpu(
    trt: FakeTensorRT, tmp_path: Path, changes: dict[str, str], built: str
) -> None:
    path = tmp_path / "foreign.plan"
    write_plan(path, dataclasses.replace(HEADER, **changes), b"plan")  # type: ignore[arg-type]
    with pytest.raises(
        EngineError,
        match=f"{built}.*this host has TensorRT 10.13.3.9 and.*8.6.*Build it again on this host: .*--engine auto$",
    ):
        runner.TensorRTEngine(path)


def test_what_tensorrt_says_of_a_plan_is_told(trt: FakeTensorRT, tmp_path: Path) -> None:
    path = tmp_path / "torn.plan"
    write_plan(path, HEADER, b"foreign")
    with pytest.raises(
        EngineError, match=r"cannot load .*torn.plan: the serialised engine has another magic"
    ):
        runner.TensorRTEngine(path)


def test_no_such_gpu(trt: FakeTensorRT, plan: Path) -> None:
    with pytest.raises(EngineError, match="cudaGetDeviceProperties: no CUDA-capable device"):
        runner.TensorRTEngine(plan, device_id=1)


def test_cuda_failures_name_the_call(trt: FakeTensorRT, gpu: FakeCuda, plan: Path) -> None:
    gpu.failing = "cudaMallocHost"
    with pytest.raises(
        EngineError, match=r"cudaMallocHost: out of memory \(cudaErrorMemoryAllocation\)"
    ) as kept:
        runner.TensorRTEngine(plan)
    assert (kept.type, gpu.blocks) == (EngineError, {})  # what it had until then is free for the next one
    assert gpu.log.count("cudaFree") == 3


def test_without_tensorrt(monkeypatch: pytest.MonkeyPatch, plan: Path) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match=r"no TensorRT here .*pip install tensorrt-cu13"):
        runner.TensorRTEngine(plan)


def test_without_cuda_bindings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EngineError, match="pip install cuda-bindings"):
        cuda.gpus()


def test_gpus_are_listed(gpu: FakeCuda) -> None:
    gpu.gpus = 2
    assert [(g.index, g.name, g.compute_capability) for g in cuda.gpus()] == [
        (0, "Fake GPU 0", "8.6"),
        (1, "Fake GPU 1", "8.6"),
    ]
    assert cuda.driver_version() == "13.0"
    gpu.gpus = 0
    assert cuda.gpus() == []


def test_a_host_without_a_driver_has_no_gpus() -> None:
    pytest.importorskip("cuda.bindings.runtime", reason="cuda-bindings is not installed")
    if cuda.driver_version() != "none":
        pytest.skip("this host has a driver")
    assert cuda.gpus() == []
    with pytest.raises(EngineError, match="cudaGetDeviceProperties: CUDA driver version is insufficient"):
        cuda.gpu(0)


def test_a_plan_says_what_it_is(plan: Path) -> None:
    assert read_plan(plan) == (HEADER, b"plan")
    first = plan.read_bytes().split(b"\n")[0]
    assert b'"compute_capability": "8.6"' in first


@pytest.mark.parametrize("content", [b"", b"ftrt\0\0", b"segserve-plan-1 {}\n", b"segserve-plan-1 [\n"])
def test_other_files_are_no_plans(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "other.plan"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"other.plan is no TensorRT engine of segserve.*Build it again"):
        read_plan(path)
    with pytest.raises(EngineError, match=r"cannot read .*none.plan: No such file"):
        read_plan(tmp_path / "none.plan")
