"""Turns that the threads of a kernel take, in an order that no thread can be kept from.

`turns` is a flat int64 array: how many turns are taken, and for each turn whether what it waits for is there. Turns are
handed out in order, so that whom a thread waits for is always on its way: fewer threads than expected are no deadlock.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_emitted: Any = intrinsic
_ORDER = "seq_cst"
_BYTES = 8


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
def wait(typing: Any, turns: Any, index: Any) -> Any:
    """Until turns[index] is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature, arguments)
        look, go_on = builder.append_basic_block("wait.look"), builder.append_basic_block("wait.end")
        builder.branch(look)
        builder.position_at_end(look)
        waiting = builder.icmp_signed("==", builder.load_atomic(place, _ORDER, _BYTES), ir.IntType(64)(0))
        builder.cbranch(waiting, look, go_on)
        builder.position_at_end(go_on)
        return context.get_dummy_value()

    return types.void(turns, types.intp), emit
