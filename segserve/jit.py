"""What compiled code is made with. numba and LLVM take 0.6 s and 70 MB to import: not for a server's process.

`kernel` compiles a function for the process that imports it, and keeps its machine code for the next one wherever
numba finds a folder for it: beside the source file or in the user's home. In a read-only container without a home,
each process compiles for itself.

    @kernel(nogil=True)
    def add(a, b): ...
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.extending import intrinsic

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


def inner(function: Compiled) -> Compiled:
    """Compiled for other kernels to call, and not for Python: a third less to compile."""
    options: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
    made: Compiled = njit(**options)(function)
    return made


def _fma(_: Any, a: Any, b: Any, c: Any) -> Any:
    single = types.float32
    return single(single, single, single), lambda context, builder, signature, values: builder.fma(*values)


def _widen(_: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        if signature.args[0] == types.float32:
            return values[0]
        return builder.fpext(builder.bitcast(values[0], ir.HalfType()), ir.FloatType())

    return types.float32(value), generate


def _pointer(_: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(types.voidptr))

    return types.voidptr(address), generate


fma: Compiled = intrinsic(_fma)
"""a * b + c in float32, rounded once."""

widen: Compiled = intrinsic(_widen)
"""float32 as it is, or from the bits of a float16 (uint16): exact, one instruction. numba has no float16 on a CPU."""

pointer: Compiled = intrinsic(_pointer)
"""An address (int64) as what `numba.carray` makes an array of."""
