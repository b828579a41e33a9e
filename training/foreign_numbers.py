"""NumPy's numbers in a pickle, as mmcv writes its best score: read without NumPy's own unpickling.

    with torch.serialization.safe_globals(NUMBERS):
        torch.load(path, weights_only=True)

NumPy's dtype takes any state that a pickle gives it, such as fields that lie outside of it and flags that make
addresses of its bytes: a file could reach any memory by it. So other things stand in for it here, under its names; they
make Python's numbers of the bytes, and refuse whatever is no number.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

NUMBER = re.compile(r"b1|[iu][1248]|f[248]|c(8|16)")


class NotANumberUnpicklingError(ValueError):
    """A pickle's value of NumPy's that is no plain number. Its name says that it is about unpickling."""


class Kind:
    """In place of `numpy.dtype`: what a number's bytes mean."""

    def __init__(self, code: object = None, *_: object) -> None:
        if not isinstance(code, str) or not NUMBER.fullmatch(code):
            raise NotANumberUnpicklingError(f"GLOBAL numpy.dtype of {code!r}")
        self.code, self.order = code, "="

    def __setstate__(self, state: object) -> None:
        """Of the state its byte order counts: of a number, the rest is as for all of its kind."""
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">"):
            self.order = state[1]


def scalar(kind: object = None, data: object = None) -> object:
    """In place of `numpy.core.multiarray.scalar`: the number as Python has it."""
    if not isinstance(kind, Kind) or not isinstance(data, bytes):
        raise NotANumberUnpicklingError("GLOBAL numpy.core.multiarray.scalar of no number")
    dtype = np.dtype(kind.order + kind.code)
    if len(data) != dtype.itemsize:
        raise NotANumberUnpicklingError(f"GLOBAL numpy.core.multiarray.scalar of {len(data)} bytes")
    return np.frombuffer(data, dtype)[0].item()


# `numpy._core` since NumPy 2
NUMBERS: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
    (Kind, "numpy.dtype"),
    (scalar, "numpy.core.multiarray.scalar"),
    (scalar, "numpy._core.multiarray.scalar"),
]
