"""The little of the CUDA runtime that engines need, through the package cuda-bindings.

That package holds no CUDA library of its own version to match: the runtime is linked into it, and torch's CUDA builds
bring it along. On a host without a driver it loads, and says so when it is first asked for a device.

    for gpu in gpus():
        print(gpu.name, gpu.compute_capability)
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from segserve.errors import EngineError


@dataclass(frozen=True)
class Gpu:
    """One device that CUDA sees, in CUDA's order."""

    index: int
    name: str
    compute_capability: str
    memory_bytes: int


def runtime() -> ModuleType:
    """cuda.bindings.runtime. Raises EngineError if the package is not installed."""
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise EngineError(
            f"no CUDA runtime for Python here ({error}): pip install cuda-bindings, of the driver's major version"
        ) from None
    module: ModuleType = runtime
    return module


def call(function: str, *arguments: object) -> Any:
    """Call a function of the CUDA runtime by name and give what it returns besides its status.

    Raises EngineError with CUDA's own words where the status is not success.
    """
    cuda = runtime()
    status, *values = getattr(cuda, function)(*arguments)
    if status != cuda.cudaError_t.cudaSuccess:
        _, text = cuda.cudaGetErrorString(status)
        raise EngineError(f"{function}: {text.decode()} ({status.name})")
    return values[0] if len(values) == 1 else tuple(values)


def gpus() -> list[Gpu]:
    """Every GPU that CUDA can use here; none is no error.

    Raises EngineError if cuda-bindings is not installed, or there is a GPU that CUDA cannot use.
    """
    cuda = runtime()
    status, count = cuda.cudaGetDeviceCount()
    if driver_version() == "none" or status == cuda.cudaError_t.cudaErrorNoDevice:
        return []
    if status != cuda.cudaError_t.cudaSuccess:
        call("cudaGetDeviceCount")  # again, for its words
    return [gpu(index) for index in range(count)]


def gpu(index: int) -> Gpu:
    """The device of that index. Raises EngineError if there is none."""
    properties = call("cudaGetDeviceProperties", index)
    return Gpu(
        index=index,
        name=properties.name.split(b"\0")[0].decode(),
        compute_capability=f"{properties.major}.{properties.minor}",
        memory_bytes=int(properties.totalGlobalMem),
    )


def driver_version() -> str:
    """The CUDA version that the driver knows, such as 13.0; "none" without a driver."""
    version = int(call("cudaDriverGetVersion"))
    return f"{version // 1000}.{version % 1000 // 10}" if version else "none"
