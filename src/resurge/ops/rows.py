"""Arithmetic on rows of channels, in whole vectors.

LLVM turns a loop over a row into vector instructions of four vectors at a time, after tests of whether the arrays
overlap; of a row of 16 channels nothing is left for them, and it is worked on number by number. `rowwise` writes the
vectors down: the function is given all its inputs for some channels, and what it returns is stored before the next
channels are looked at, so that an output may be one of the inputs.

    @rowwise()
    def advance(h, a, x):
        return ((a * h + x).without_denormals(),)

    advance((carry,), (carry, a_t, x_t), False)

Results that are large go past the cache: see `streaming`.
"""

import struct
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WIDTH = 32  # bytes: the widest vectors that run at full speed everywhere
_FUSE = ("contract",)
_SMALLEST_NORMAL = {4: struct.unpack("f", struct.pack("f", 1.2e-38))[0], 8: 2.3e-308}


class Channels:
    """The numbers of one channel or of several, while code for them is written."""

    def __init__(self, builder: Any, value: Any) -> None:
        self._builder, self.value = builder, value

    def __add__(self, other: "Channels") -> "Channels":
        return Channels(self._builder, self._builder.fadd(self.value, other.value, flags=_FUSE))

    def __sub__(self, other: "Channels") -> "Channels":
        return Channels(self._builder, self._builder.fsub(self.value, other.value, flags=_FUSE))

    def __mul__(self, other: "Channels") -> "Channels":
        return Channels(self._builder, self._builder.fmul(self.value, other.value, flags=_FUSE))

    def without_denormals(self) -> "Channels":
        """0 in the place of what is smaller than the smallest normal number."""
        builder, kind = self._builder, self.value.type
        size = 4 if "float" in str(kind) else 8
        vector = f"v{kind.count}" if isinstance(kind, ir.VectorType) else ""
        form = ir.FunctionType(kind, [kind])
        magnitude = cgutils.get_or_insert_function(builder.module, form, f"llvm.fabs.{vector}f{8 * size}")
        least = _SMALLEST_NORMAL[size]
        bound = ir.Constant(kind, [least] * kind.count if vector else least)
        small = builder.fcmp_ordered("<", builder.call(magnitude, [self.value]), bound)
        return Channels(builder, builder.select(small, cgutils.get_null_value(kind), self.value))


def rowwise(*, streamed: int = 0) -> Callable[[Callable[..., tuple[Channels, ...]]], Any]:
    """Make a function for kernels, f(outputs, inputs, past_cache): two tuples of flat arrays of one type and size.

    With `past_cache`, which `streaming.streams` tells, the first `streamed` outputs are not kept in the cache.
    """

    def of(body: Callable[..., tuple[Channels, ...]]) -> Any:
        return _intrinsic(body, streamed)

    return of


def _intrinsic(body: Callable[..., tuple[Channels, ...]], streamed: int) -> Any:
    @intrinsic
    def emitted(typing: Any, outputs: Any, inputs: Any, past_cache: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            outs, ins = (
                [
                    context.make_array(kind)(context, builder, array)
                    for kind, array in zip(tuple_kind, arrays, strict=True)
                ]
                for tuple_kind, arrays in (
                    (kinds.types, cgutils.unpack_tuple(builder, given, len(kinds)))
                    for kinds, given in zip(signature.args[:2], arguments[:2], strict=True)
                )
            )
            number = context.get_data_type(signature.args[0].types[0].dtype)
            size = context.get_abi_sizeof(number)
            lanes = _WIDTH // size

            once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])

            def write(kind: Any, first: Any, past_cache: int) -> None:
                def place(array: Any) -> Any:
                    return builder.bitcast(builder.gep(array.data, [first]), kind.as_pointer())

                results = body(*(Channels(builder, builder.load(place(array), align=size)) for array in ins))
                for i, (array, channels) in enumerate(zip(outs, results, strict=True)):
                    store = builder.store(channels.value, place(array), align=_WIDTH if i < past_cache else size)
                    if i < past_cache:
                        store.set_metadata("nontemporal", once)

            def loop_over(vectors: Any, past_cache: int) -> None:
                with cgutils.for_range(builder, vectors) as loop:
                    first = builder.mul(loop.index, ir.Constant(loop.index.type, lanes))
                    write(ir.VectorType(number, lanes), first, past_cache)

            vectors = builder.sdiv(outs[0].nitems, ir.Constant(outs[0].nitems.type, lanes))
            with builder.if_else(arguments[2]) as (past, kept):
                with past:
                    loop_over(vectors, streamed)
                with kept:
                    loop_over(vectors, 0)
                    rest = builder.mul(vectors, ir.Constant(vectors.type, lanes))
                    with cgutils.for_range(builder, outs[0].nitems, start=rest) as loop:
                        write(number, loop.index, 0)
            return context.get_dummy_value()

        return types.void(outputs, inputs, past_cache), emit

    return emitted
