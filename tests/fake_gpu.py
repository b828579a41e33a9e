"""A CUDA runtime and a TensorRT that behave like the real ones as far as segserve.engines.tensorrt can tell.

Memory is the host's. What is enqueued on a stream happens when the stream is synchronised; misuse that is undefined
behaviour on a GPU is an AssertionError here. The "network" gives every eighth pixel's three channels as logits, in
float16. What `FakeTensorRT.refuses` says of a run is logged as an error, and the run is not made.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

SUCCESS, OUT_OF_MEMORY, NO_DEVICE = (
    SimpleNamespace(name=name) for name in ("cudaSuccess", "cudaErrorMemoryAllocation", "cudaErrorNoDevice")
)
STREAM = 11
Work = Callable[[], object]


class FakeCuda:
    """The part of cuda.bindings.runtime that is used. `log` holds the names of the functions called."""

    cudaError_t = SimpleNamespace(cudaSuccess=SUCCESS, cudaErrorNoDevice=NO_DEVICE)
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaStreamNonBlocking = 1

    def __init__(self, gpus: int = 1, driver: int = 13000) -> None:
        self.gpus, self.driver = gpus, driver
        self.log: list[str] = []
        self.blocks: dict[int, Any] = {}
        self.queue: list[Work] = []
        self.failing: str | None = None

    def __getattr__(self, name: str) -> Any:
        implementation = getattr(type(self), f"_{name}", None)
        if implementation is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> tuple[Any, ...]:
            self.log.append(name)
            if name == self.failing:
                return (OUT_OF_MEMORY, None)
            values = implementation(self, *arguments)
            return (SUCCESS, *(() if values is None else (values,)))

        return call

    def cudaGetErrorString(self, status: Any) -> tuple[Any, bytes]:
        return SUCCESS, b"out of memory" if status is OUT_OF_MEMORY else b"no CUDA-capable device is detected"

    def cudaGetDeviceCount(self) -> tuple[Any, int]:
        return (SUCCESS, self.gpus) if self.gpus else (NO_DEVICE, 0)

    def cudaGetDeviceProperties(self, index: int) -> tuple[Any, Any]:
        if index >= self.gpus:
            return NO_DEVICE, None
        name = f"Fake GPU {index}".encode() + b"\0" * 8
        return SUCCESS, SimpleNamespace(name=name, major=8, minor=6, totalGlobalMem=8 << 30)

    def _cudaDriverGetVersion(self) -> int:
        return self.driver

    def _cudaSetDevice(self, index: int) -> None:
        assert index < self.gpus

    def _cudaStreamCreateWithFlags(self, flags: int) -> int:
        assert flags == self.cudaStreamNonBlocking
        return STREAM

    def _cudaMalloc(self, count: int) -> int:
        block = (ctypes.c_uint8 * count)()
        self.blocks[ctypes.addressof(block)] = block
        return ctypes.addressof(block)

    _cudaMallocHost = _cudaMalloc

    def _cudaFree(self, address: int) -> None:
        del self.blocks[address]

    _cudaFreeHost = _cudaFree

    def _cudaMemcpyAsync(self, to: int, source: int, count: int, kind: int, stream: int) -> None:
        assert stream == STREAM
        host, device = (source, to) if kind == 1 else (to, source)
        assert any(host == start for start in self.blocks), "not page-locked"
        assert device in self.blocks
        assert count <= min(len(self.blocks[host]), len(self.blocks[device]))
        self.queue.append(lambda: ctypes.memmove(to, source, count))

    def _cudaStreamSynchronize(self, stream: int) -> None:
        assert stream == STREAM
        for work in self.queue:
            work()
        self.queue.clear()

    def _cudaStreamDestroy(self, stream: int) -> None:
        assert stream == STREAM


class FakeTensorRT:
    """The part of the package tensorrt that the runner uses; its plans are any bytes but b"foreign"."""

    __version__ = "10.13.3.9"
    TensorIOMode = SimpleNamespace(INPUT="in", OUTPUT="out")
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="user")

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING = "internal", "error", "warning"

    def __init__(self, cuda: FakeCuda, height: int, width: int, max_batch: int) -> None:
        self.cuda, self.shape = cuda, (max_batch, height, width, 3)
        self.contexts: list[FakeContext] = []
        self.refuses: str | None = None
        self.logger: Any = None

    def nptype(self, kind: str) -> type:
        assert kind == "HALF"
        return np.float16

    def Runtime(self, logger: Any) -> Any:
        self.logger = logger

        def deserialize(plan: bytes) -> Any:
            if plan == b"foreign":
                logger.log(self.ILogger.WARNING, "a warning")
                logger.log(self.ILogger.ERROR, "the serialised engine has another magic number")
                return None
            return FakeEngine(self)

        return SimpleNamespace(deserialize_cuda_engine=deserialize)


class FakeEngine:
    """One input, one output, of a stride of eight."""

    num_io_tensors = 2
    device_memory_size_v2 = 4096

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt

    def get_tensor_name(self, index: int) -> str:
        return ("images_nhwc", "logits_nchw")[index]

    def get_tensor_mode(self, name: str) -> str:
        return "in" if name == "images_nhwc" else "out"

    def get_tensor_dtype(self, name: str) -> str:
        return "UINT8" if name == "images_nhwc" else "HALF"

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        _, height, width, _ = self.trt.shape
        return (-1, 3, -(-height // 8), -(-width // 8))

    def create_execution_context(self, strategy: str) -> Any:
        assert strategy == "user"
        context = FakeContext(self.trt)
        self.trt.contexts.append(context)
        return context


class FakeContext:
    """Its shape and addresses are set once, its memory is the engine's."""

    def __init__(self, trt: FakeTensorRT) -> None:
        self.trt = trt
        self.count = 0
        self.addresses: dict[str, int] = {}
        self.memory = 0

    def set_device_memory(self, address: int, size: int) -> None:
        assert size <= len(self.trt.cuda.blocks[address])
        self.memory = address

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "images_nhwc"
        self.count = shape[0]
        return shape[1:] == self.trt.shape[1:] and 1 <= shape[0] <= self.trt.shape[0]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        assert stream == STREAM
        assert self.memory
        assert set(self.addresses) == {"images_nhwc", "logits_nchw"}
        if self.trt.refuses is not None:
            self.trt.logger.log(self.trt.ILogger.ERROR, self.trt.refuses)
            return False
        self.trt.cuda.queue.append(self._run)
        return True

    def _run(self) -> None:
        shape = (self.count, *self.trt.shape[1:])
        logits = network(self._array(self.addresses["images_nhwc"], shape, np.uint8))
        self._array(self.addresses["logits_nchw"], logits.shape, np.float16)[...] = logits

    @staticmethod
    def _array(address: int, shape: tuple[int, ...], dtype: Any) -> Any:
        count = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = (ctypes.c_uint8 * count).from_address(address)
        return np.ctypeslib.as_array(block).view(dtype).reshape(shape)


def network(images_nhwc: Any) -> Any:
    """Logits (N, 3, ceil(H/8), ceil(W/8)), float16."""
    return images_nhwc[:, ::8, ::8].transpose(0, 3, 1, 2).astype(np.float16)
