"""TensorRT itself, 10.13 and later or 11, on one GPU: the shortest way from a batch to its logits.

    python -m benchmarks.gpu_check   # proves it on this host, GPU by GPU

A call copies the batch into page-locked memory and enqueues upload, network and download on a stream of the engine's
own. Every batch size has an execution context whose shapes and addresses are set once; all of them share one block of
device memory, because they run one after the other.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import threading
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segserve.engines import cuda
from segserve.engines.plan import REBUILD, PlanHeader, read_plan
from segserve.errors import EngineError

Logits = NDArray[np.float32] | NDArray[np.float16]


def load_tensorrt() -> ModuleType:
    """The package tensorrt. Raises EngineError where it or its libraries are missing."""
    try:
        import tensorrt
    except (ImportError, OSError) as error:
        raise EngineError(
            f"no TensorRT here ({error}): pip install tensorrt-cu13, or tensorrt-cu12"
        ) from None
    module: ModuleType = tensorrt
    return module


def messages(trt: ModuleType) -> Any:
    """A TensorRT logger that keeps what goes wrong in its `errors`, so that an exception can say it."""

    class Messages(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.INTERNAL_ERROR, trt.ILogger.ERROR):
                self.errors.append(msg)

    return Messages()


@dataclass(frozen=True)
class _Batch:
    """What one batch size needs: a context, and views of the page-locked memory."""

    context: Any
    images: NDArray[np.uint8]
    logits: Logits


class TensorRTEngine:
    """A plan of export.to_tensorrt. Calls are serialised; one larger than the plan's max_batch goes in pieces.

    An engine that nobody holds any more gives its memory back, as the other engines do: an export loads many.
    """

    name = "tensorrt"

    def __init__(self, path: Path, device_id: int = 0) -> None:
        """Raises EngineError if TensorRT, the GPU or the matching version of either is not here."""
        trt = load_tensorrt()
        self.header, plan = read_plan(path)
        gpu = cuda.gpu(device_id)
        check_host(path, self.header, trt.__version__, gpu)
        self.precision, self.provider = self.header.precision, f"{gpu.name}, TensorRT {trt.__version__}"
        self.device = f"cuda:{device_id}"
        self._device_id, self._lock = device_id, threading.Lock()
        self._batches: dict[int, _Batch] = {}
        self._held = contextlib.ExitStack()
        self._trt, self._logger = trt, messages(trt)
        cuda.call("cudaSetDevice", device_id)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineError(f"TensorRT cannot load {path}: {self._reasons()}. {REBUILD}")
        self._input, self._output = self._tensor_names(path)
        try:
            self._allocate()
        except BaseException:
            self.close()  # whoever keeps the exception keeps this engine
            raise

    def __call__(self, images_nhwc: NDArray[np.uint8]) -> Logits:
        """Logits (N, num_classes, h, w), float16 if the plan gives it. Raises EngineError for another image size."""
        expected = (self.header.height, self.header.width, 3)
        if images_nhwc.dtype != np.uint8 or images_nhwc.shape[1:] != expected or len(images_nhwc) == 0:
            raise EngineError(
                f"the engine takes uint8 (N, {expected[0]}, {expected[1]}, 3), got {images_nhwc.dtype} "
                f"{images_nhwc.shape}: it was built for one input size"
            )
        step = self.header.max_batch
        with self._lock:
            # CUDA's current device belongs to the thread
            cuda.call("cudaSetDevice", self._device_id)
            pieces: list[Any] = [
                self._run(images_nhwc[at : at + step]) for at in range(0, len(images_nhwc), step)
            ]
        logits: Logits = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
        return logits

    def _run(self, images_nhwc: NDArray[np.uint8]) -> Logits:
        count = len(images_nhwc)
        batch = self._batches.get(count) or self._prepare(count)
        np.copyto(batch.images, images_nhwc)
        self._enqueue(batch)
        cuda.call("cudaStreamSynchronize", self._stream)
        return batch.logits.copy()  # the next call writes over the page-locked memory

    def _enqueue(self, batch: _Batch) -> None:
        """Upload, network and download, in that order on the stream; returns before they are done."""
        kinds = cuda.runtime().cudaMemcpyKind
        upload = (self._device_images, batch.images.ctypes.data, batch.images.nbytes)
        download = (batch.logits.ctypes.data, self._device_logits, batch.logits.nbytes)
        cuda.call("cudaMemcpyAsync", *upload, kinds.cudaMemcpyHostToDevice, self._stream)
        if not batch.context.execute_async_v3(int(self._stream)):
            raise EngineError(f"TensorRT did not run the batch: {self._reasons()}")
        cuda.call("cudaMemcpyAsync", *download, kinds.cudaMemcpyDeviceToHost, self._stream)

    def _prepare(self, count: int) -> _Batch:
        """Make ready for batches of `count`; the context is not touched again."""
        context = self._context()
        shape = (count, self.header.height, self.header.width, 3)
        if not context.set_input_shape(self._input, shape):
            raise EngineError(f"TensorRT refuses the shape {shape}: {self._reasons()}")
        context.set_tensor_address(self._input, int(self._device_images))
        context.set_tensor_address(self._output, int(self._device_logits))
        images: NDArray[np.uint8] = _view(self._host_images, shape, np.uint8)
        logits = _view(self._host_logits, (count, *self._logits_shape), self._logits_type)
        batch = self._batches[count] = _Batch(context, images, logits)
        return batch

    def _context(self) -> Any:
        strategy = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(strategy)
        if context is None:
            raise EngineError(f"TensorRT gives no execution context: {self._reasons()}")
        context.set_device_memory(int(self._scratch), self._engine.device_memory_size_v2)
        return context

    def _tensor_names(self, path: Path) -> tuple[str, str]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        mode = self._trt.TensorIOMode
        inputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.INPUT]
        outputs = [name for name in names if self._engine.get_tensor_mode(name) == mode.OUTPUT]
        if len(inputs) != 1 or len(outputs) != 1:
            raise EngineError(f"{path}: expected one input and one output, got {inputs} and {outputs}")
        return inputs[0], outputs[0]

    def _allocate(self) -> None:
        """The stream, and all memory for the largest batch."""
        one = tuple(self._engine.get_tensor_shape(self._output))[1:]
        if min(one) < 1:
            raise EngineError(f"the plan leaves the size of the logits open: {one}. {REBUILD}")
        self._logits_shape, self._logits_type = (
            one,
            self._trt.nptype(self._engine.get_tensor_dtype(self._output)),
        )
        image_bytes = self.header.max_batch * self.header.height * self.header.width * 3
        logit_bytes = self.header.max_batch * math.prod(one) * np.dtype(self._logits_type).itemsize
        flags = cuda.runtime().cudaStreamNonBlocking
        self._stream = self._hold("cudaStreamDestroy", "cudaStreamCreateWithFlags", flags)
        self._scratch = self._hold("cudaFree", "cudaMalloc", max(1, self._engine.device_memory_size_v2))
        self._device_images = self._hold("cudaFree", "cudaMalloc", image_bytes)
        self._device_logits = self._hold("cudaFree", "cudaMalloc", logit_bytes)
        self._host_images = self._hold("cudaFreeHost", "cudaMallocHost", image_bytes)
        self._host_logits = self._hold("cudaFreeHost", "cudaMallocHost", logit_bytes)

    def _hold(self, give_back: str, function: str, argument: int) -> Any:
        """What that function of CUDA gives, until `close` hands it to the one that takes it back."""
        value = cuda.call(function, argument)
        self._held.callback(cuda.call, give_back, value)
        return value

    def close(self) -> None:
        """Give the GPU's memory back, the last taken first; once is enough, and a second time does nothing.

        CUDA finds the GPU of what it frees by itself. The current device stays as it is, for an engine may be collected
        in the middle of whatever another one does.
        """
        with self._lock:
            self._batches.clear()
            try:
                self._held.close()
            finally:
                self._engine = self._runtime = None

    def __del__(self) -> None:
        # there is nothing to give back of a plan that was refused, by a GPU that fell over, or at a process's end
        with contextlib.suppress(Exception):
            self.close()

    def _reasons(self) -> str:
        """Of this failure only: taken away, so that the next one is not told with it."""
        reasons, self._logger.errors = self._logger.errors, []
        return "; ".join(reasons) or "it gave no reason"


def check_host(path: Path, header: PlanHeader, tensorrt: str, gpu: cuda.Gpu) -> None:
    """Raises EngineError unless the plan was built with this TensorRT for this kind of GPU."""
    built = f"TensorRT {header.tensorrt} for compute capability {header.compute_capability} ({header.gpu})"
    if (header.tensorrt, header.compute_capability) != (tensorrt, gpu.compute_capability):
        raise EngineError(
            f"{path} was built with {built}, this host has TensorRT {tensorrt} and compute capability "
            f"{gpu.compute_capability} ({gpu.name}). {REBUILD}"
        )


def _view(address: int, shape: tuple[int, ...], dtype: type) -> NDArray[Any]:
    """Page-locked memory as an array; whoever frees it must have forgotten the array."""
    memory = (ctypes.c_uint8 * (math.prod(shape) * np.dtype(dtype).itemsize)).from_address(int(address))
    array: NDArray[Any] = np.ctypeslib.as_array(memory).view(dtype).reshape(shape)
    return array
