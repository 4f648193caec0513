"""Arithmetic on rows of channels, in whole vectors.

LLVM turns a loop over a row into vector instructions of four vectors at a time, after tests of whether the arrays
overlap; of a row of 16 channels nothing is left for them, and it is worked on number by number. `rowwise` writes the
vectors down: the function is given all its inputs for some channels, and what it returns is stored before the next
channels are looked at, so that an output may be one of the inputs.

    @rowwise()
    def advance(h, a, x):
        return (a * h + x,)

    advance((carry,), (carry, a_t, x_t), False)

Results that are large go past the cache: see `streaming`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

_WIDTH = 32  # bytes: the widest vectors that run at full speed everywhere
_FUSE = ("contract",)


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


def rowwise(*, streamed: int = 0) -> Callable[[Callable[..., tuple[Channels, ...]]], Any]:
    """Make a function for kernels, f(outputs, inputs, past_cache): two tuples of flat arrays of one type and size.

    With `past_cache`, which `streaming.streams` tells, the first `streamed` outputs are not kept in the cache.
    """

    def of(body: Callable[..., tuple[Channels, ...]]) -> Any:
        @intrinsic
        def emitted(typing: Any, outputs: Any, inputs: Any, past_cache: Any) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                rows = _Rows(context, builder, body, streamed)
                rows.outputs, rows.inputs = (
                    rows.arrays(kind, given) for kind, given in zip(signature.args[:2], arguments[:2], strict=True)
                )
                rows.write(arguments[2])
                return context.get_dummy_value()

            return types.void(outputs, inputs, past_cache), emit

        return emitted

    return of


def stepwise(*, streamed: int = 0) -> Callable[[Callable[..., tuple[Channels, ...]]], Any]:
    """As `rowwise`, over several steps at once, between which some rows are carried along in registers.

    Makes f(carried, outputs, inputs, strides, steps, past_cache): outputs and inputs are the rows of the first step,
    and strides tell for each of them how many numbers lie between two steps, backwards if below 0. The body is given
    what is carried and the inputs, and returns what is carried on and the outputs.
    """

    def of(body: Callable[..., tuple[Channels, ...]]) -> Any:
        @intrinsic
        def emitted(
            typing: Any, carried: Any, outputs: Any, inputs: Any, strides: Any, steps: Any, past_cache: Any
        ) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                rows = _Rows(context, builder, body, streamed)
                rows.carried, rows.outputs, rows.inputs = (
                    rows.arrays(kind, given) for kind, given in zip(signature.args[:3], arguments[:3], strict=True)
                )
                rows.strides = cgutils.unpack_tuple(builder, arguments[3], len(signature.args[3]))
                steps = arguments[4]
                with builder.if_else(builder.icmp_signed("==", steps, ir.Constant(steps.type, 1))) as (one, many):
                    with one:  # rows that are wide: registers are worth nothing, and the loop over steps costs
                        rows.write(arguments[5])
                    with many:
                        rows.steps = steps
                        rows.write(arguments[5])
                return context.get_dummy_value()

            return types.void(carried, outputs, inputs, strides, types.intp, past_cache), emit

        return emitted

    return of


class _Rows:
    """Writes the loops of `rowwise` and `stepwise`: over groups of channels, and for each of them over the steps.

    Vectors go in pairs, which fill a cache line: lines stored past the cache have to be written whole, and at once.
    """

    def __init__(self, context: Any, builder: Any, body: Callable[..., tuple[Channels, ...]], streamed: int) -> None:
        self.context, self.builder, self.body, self.streamed = context, builder, body, streamed
        self.carried: list[Any] = []
        self.outputs: list[Any] = []
        self.inputs: list[Any] = []
        self.strides: list[Any] = []
        self.steps: Any = None

    def arrays(self, kinds: Any, given: Any) -> list[Any]:
        """The flat arrays of a tuple."""
        values = cgutils.unpack_tuple(self.builder, given, len(kinds))
        return [
            self.context.make_array(kind)(self.context, self.builder, value)
            for kind, value in zip(kinds, values, strict=True)
        ]

    def write(self, past_cache: Any) -> None:
        """All loops, with stores past the cache or without."""
        builder, first = self.builder, (self.carried + self.outputs)[0]
        self.number = first.data.type.pointee
        self.size = self.context.get_abi_sizeof(self.number)
        self.once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        lanes = _WIDTH // self.size
        vector = ir.VectorType(self.number, lanes)
        pairs = self.whole(first.nitems, 2 * lanes)
        vectors = self.whole(first.nitems, lanes)
        with builder.if_else(past_cache) as (past, kept):
            with past:
                self.loop(0, pairs, [(0, vector), (lanes, vector)], self.streamed)
                self.loop(pairs, vectors, [(0, vector)], self.streamed)
            with kept:
                self.loop(0, pairs, [(0, vector), (lanes, vector)], 0)
                self.loop(pairs, vectors, [(0, vector)], 0)
                self.loop(vectors, first.nitems, [(0, self.number)], 0)

    def whole(self, count: Any, of: int) -> Any:
        """The largest multiple of `of`, a power of two, up to `count`."""
        return self.builder.and_(count, ir.Constant(count.type, -of))

    def loop(self, start: Any, stop: Any, group: list[tuple[int, Any]], streamed: int) -> None:
        """Over channels start..stop, a group of (offset, kind) at a time."""
        builder = self.builder
        kinds = [kind for _, kind in group]
        step = sum(getattr(kind, "count", 1) for kind in kinds)
        start = ir.Constant(stop.type, start) if isinstance(start, int) else start
        with cgutils.for_range_slice(builder, start, stop, ir.Constant(stop.type, step), stop.type) as (channel, _):
            channels = [builder.add(channel, ir.Constant(channel.type, offset)) for offset, _ in group]
            places = list(zip(channels, kinds, strict=True))
            if self.steps is None:
                for place in places:
                    self.one(place, None, [self.address(array, place) for array in self.carried], streamed)
                return
            registers = [[self.register(array, place) for array in self.carried] for place in places]
            with cgutils.for_range(builder, self.steps) as over:
                for place, carried in zip(places, registers, strict=True):
                    self.one(place, over.index, carried, streamed)
            for place, carried in zip(places, registers, strict=True):
                for array, register in zip(self.carried, carried, strict=True):
                    builder.store(builder.load(register), self.address(array, place), align=self.size)

    def register(self, array: Any, place: Any) -> Any:
        """A variable of the loop over steps, which starts as the channels of `array`."""
        value = self.builder.load(self.address(array, place), align=self.size)
        return cgutils.alloca_once_value(self.builder, value)

    def address(self, array: Any, place: Any, offset: Any = None) -> Any:
        channel, kind = place
        index = channel if offset is None else self.builder.add(channel, offset)
        return self.builder.bitcast(self.builder.gep(array.data, [index]), kind.as_pointer())

    def one(self, place: Any, step: Any, carried: list[Any], streamed: int) -> None:
        """One step of some channels, with what is `carried` at these addresses."""
        builder = self.builder
        offsets = [None if step is None else builder.mul(step, stride) for stride in self.strides]
        offsets = offsets or [None] * len(self.outputs + self.inputs)
        at = [
            self.address(array, place, offset)
            for array, offset in zip(self.outputs + self.inputs, offsets, strict=True)
        ]
        given = [builder.load(register, align=self.size) for register in carried]
        given += [builder.load(address, align=self.size) for address in at[len(self.outputs) :]]
        results = [channels.value for channels in self.body(*(Channels(builder, value) for value in given))]
        for register, value in zip(carried, results, strict=False):
            builder.store(value, register, align=self.size)
        for i, (address, value) in enumerate(zip(at, results[len(carried) :], strict=False)):
            store = builder.store(value, address, align=_WIDTH if i < streamed else self.size)
            if i < streamed:
                store.set_metadata("nontemporal", self.once)
