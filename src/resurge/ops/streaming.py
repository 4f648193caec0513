"""When stores go past the cache, and loads that come early.

A store to memory reads the cache line first, to have the rest of it: an array written once and whole then costs twice
its size. Stores of whole lines that are marked as not to be kept do not. Kernels that are bound by memory stream large
results out (`rows.rowwise`); `copy_` of PyTorch does the same inside.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from resurge.jit import jit

_LINE = 64  # bytes of a cache line

# Smaller results are left in the cache, where whoever asked for them finds them.
_LARGE = 8 << 20

_emitted: Any = intrinsic


def fetch_for_later(builder: Any, address: Any) -> None:
    """Write code that asks for the line at an address, into the core's own second cache; there may be nothing there."""
    byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
    form = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
    prefetch = builder.module.declare_intrinsic("llvm.prefetch", [byte], form)
    builder.call(prefetch, [builder.bitcast(address, byte), flag(0), flag(2), flag(1)])  # to read, second level, data


@_emitted
def settle(typing: Any) -> Any:
    """What was streamed is there for every thread: to be called once, at the end of a kernel that streams."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), emit


@jit
def streams(array, D, d0, d1, parts):  # type: ignore[no-untyped-def]
    """Whether channels d0..d1 of the rows of D numbers of a flat array are to be streamed: large, and whole lines.

    One line may hold a step's row of real and row of imaginary parts, which are stored together.
    """
    size = array.itemsize
    one_line = parts * D * size == _LINE and d1 - d0 == D
    whole_lines = D * size % _LINE == 0 and d0 * size % _LINE == 0 and d1 * size % _LINE == 0
    return array.size * size >= _LARGE and array.ctypes.data % _LINE == 0 and (one_line or whole_lines)
