"""The same bits in each run: only operations whose order of additions is fixed, on the CPU and on GPUs.

    with deterministic.mode(True): ...

It costs speed and memory on GPUs. The same bits still need the same hardware, versions and number of processes.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from segserve.errors import UsageError


@contextmanager
def mode(on: bool) -> Iterator[None]:
    """Inside, if `on`, nothing nondeterministic runs. Raises UsageError where an operation has no such version."""
    if not on:
        yield
        return
    # cuBLAS reads it when it is first used; with more than one workspace it may choose another order of additions
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False  # it chooses by time, so by chance
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).partition(". ")[0]
        raise UsageError(
            f"--deterministic cannot be kept here: {reason}. Train without it, or on CPUs"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.deterministic = before
