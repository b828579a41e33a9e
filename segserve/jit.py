"""Compiled kernels whose machine code is kept for the next process, wherever there is a folder to keep it in.

Numba keeps it beside the source file or in the user's home, and refuses to compile where it can write to neither, as
in a read-only container without a home. There, each process compiles for itself: a second or two at its first photo.

    @kernel(nogil=True)
    def add(a, b): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

Compiled = Callable[..., Any]


def kernel(**options: Any) -> Callable[[Compiled], Compiled]:
    """`numba.njit(cache=True, **options)`, or without the cache where numba finds no folder for it."""

    def compiled(function: Compiled) -> Compiled:
        try:
            made: Compiled = njit(cache=True, **options)(function)
        except RuntimeError as error:
            if "cannot cache function" not in str(error):
                raise
            made = njit(**options)(function)
        return made

    return compiled
