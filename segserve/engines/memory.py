"""Whether an engine ran out of memory, in each library's own words; and giving back what can be given back.

Libraries that are not loaded are not imported here. None of them has an exception that the others share: torch has a
class of its own on GPUs and a RuntimeError on CPUs; ONNX Runtime, OpenVINO, TensorRT and CUDA only say it in words.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import re
import sys
from typing import Final

_CLASS_NAMES: Final = frozenset(
    ("MemoryError", "OutOfMemoryError")
)  # Python and numpy; torch.OutOfMemoryError
_WORDS: Final = re.compile(
    r"out of memory|out_?of_?memory"  # torch, CUDA and TensorRT; OpenVINO's oneDNN
    r"|cudaErrorMemoryAllocation|CU(DNN|BLAS|FFT)_STATUS_ALLOC_FAILED|CUBLAS_STATUS_NOT_INITIALIZED"
    r"|can't allocate memory|cannot allocate memory"  # torch on CPUs; the kernel (ENOMEM)
    r"|failed to allocate memory|is smaller than requested bytes"  # ONNX Runtime's arena
    r"|bad_alloc|bad allocation",  # anything in C++
    re.IGNORECASE,
)


def is_exhausted(error: BaseException) -> bool:
    """Whether this error, or one that it was raised from, says that memory was not enough."""
    seen: BaseException | None = error
    while seen is not None:
        if any(base.__name__ in _CLASS_NAMES for base in type(seen).__mro__) or _WORDS.search(str(seen)):
            return True
        seen = seen.__cause__
    return False


def free() -> None:
    """Collect what Python holds, and hand the pools of torch and of malloc back to the device and to the system."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "cuda") and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)
