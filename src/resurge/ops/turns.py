"""Turns that the threads of a kernel take, in an order that no thread can be kept from.

`turns` is a flat int64 array: how many turns are taken, and for each turn whether what it waits for is there. Turns are
handed out in order, so that whom a thread waits for is always on its way: fewer threads than expected are no deadlock.
"""

import ctypes
import sys
from typing import Any

from llvmlite import binding, ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from resurge.jit import lean

_emitted: Any = intrinsic
_ORDER = "seq_cst"
_BYTES = 8

# How often a thread looks before it gives way.
_LOOKS = 1000

# The name by which compiled kernels find the system's function for that.
_GIVE_WAY = "resurge_give_way"

if sys.platform == "win32":
    _system = ctypes.WinDLL("kernel32").SwitchToThread
else:
    _system = ctypes.CDLL(None).sched_yield
binding.add_symbol(_GIVE_WAY, ctypes.cast(_system, ctypes.c_void_p).value)


def _place(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """The address of turns[index]."""
    data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
    return builder.gep(data, [arguments[1]])


@_emitted
def add_one(typing: Any, turns: Any, index: Any) -> Any:
    """turns[index] += 1, at once for all threads; what it was before."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.atomic_rmw("add", _place(context, builder, signature, arguments), ir.IntType(64)(1), _ORDER)

    return types.int64(turns, types.intp), emit


@_emitted
def announce(typing: Any, turns: Any, index: Any) -> Any:
    """turns[index] = 1, and all that this thread wrote before is there for whoever sees it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        builder.store_atomic(ir.IntType(64)(1), _place(context, builder, signature, arguments), _ORDER, _BYTES)
        return context.get_dummy_value()

    return types.void(turns, types.intp), emit


@_emitted
def _announced(typing: Any, turns: Any, index: Any) -> Any:
    """Whether turns[index] is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        found = builder.load_atomic(_place(context, builder, signature, arguments), _ORDER, _BYTES)
        return builder.icmp_signed("!=", found, ir.IntType(64)(0))

    return types.boolean(turns, types.intp), emit


@_emitted
def _give_way(typing: Any) -> Any:
    """Let another thread have the core."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.IntType(32), []), _GIVE_WAY)
        builder.call(function, [])
        return context.get_dummy_value()

    return types.void(), emit


@lean
def wait(turns, index):  # type: ignore[no-untyped-def]
    """Until turns[index] is not 0.

    Whom one waits for may have no core of its own, and stands still as long as this thread looks: two threads on one
    core took a hundred times as long.
    """
    looks = 0
    while not _announced(turns, index):
        looks += 1
        if looks > _LOOKS:
            _give_way()
