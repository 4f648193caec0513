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

from resurge.ops.streaming import fetch_for_later

_LINE = 64  # bytes of a cache line
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
                outs, ins = (_arrays(context, builder, signature, arguments, i) for i in range(2))
                _Rows(context, builder, body, streamed, [], outs, ins, [], []).write(arguments[2])
                return context.get_dummy_value()

            return types.void(outputs, inputs, past_cache), emit

        return emitted

    return of


def stepwise(*, streamed: int = 0) -> Callable[[Callable[..., tuple[Channels, ...]]], Any]:
    """As `rowwise`, over several steps at once, between which some rows are carried along in registers.

    Makes f(carried, outputs, inputs, strides, ahead, steps, past_cache): outputs and inputs are the rows of the first
    step, and strides tell for each of them how many numbers lie between two steps, backwards if below 0; of a single
    step the direction is all that counts, and one stride will do. `ahead` tells for the first of the inputs, or none,
    how many numbers further on lies what the core's second cache is to ask for. The body is given what is carried and
    the inputs, and returns what is carried on and the outputs.
    """

    def of(body: Callable[..., tuple[Channels, ...]]) -> Any:
        @intrinsic
        def emitted(
            typing: Any,
            carried: Any,
            outputs: Any,
            inputs: Any,
            strides: Any,
            ahead: Any,
            steps: Any,
            past_cache: Any,
        ) -> Any:
            def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
                kept, outs, ins = (_arrays(context, builder, signature, arguments, i) for i in range(3))
                strides, ahead = (cgutils.unpack_tuple(builder, arguments[i], len(signature.args[i])) for i in (3, 4))
                strides = strides * (len(outs + ins) if len(strides) == 1 else 1)
                steps, past_cache = arguments[5:]
                rows = _Rows(context, builder, body, streamed, kept, outs, ins, strides, ahead)
                with builder.if_else(builder.icmp_signed("==", steps, ir.Constant(steps.type, 1))) as (one, many):
                    with one:  # rows that are wide: registers are worth nothing, and the loop over steps costs
                        rows.write(past_cache)
                    with many:
                        rows.write(past_cache, steps)
                return context.get_dummy_value()

            return types.void(carried, outputs, inputs, strides, ahead, types.intp, past_cache), emit

        return emitted

    return of


def _arrays(context: Any, builder: Any, signature: Any, arguments: Any, index: int) -> list[Any]:
    """The flat arrays of a tuple of them, the argument `index`."""
    kinds = signature.args[index]
    values = cgutils.unpack_tuple(builder, arguments[index], len(kinds))
    return [context.make_array(kind)(context, builder, value) for kind, value in zip(kinds, values, strict=True)]


def _rolled(module: Any) -> Any:
    """What tells LLVM not to unroll a loop, a node that names itself first.

    Steps lie a number apart that only the call tells, and each unrolled one needs a pointer to each row: of eight steps
    most were kept in memory, and summaries of pieces took twice as long.
    """
    node = module.add_metadata([module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])])
    node.operands = (node, node.operands[-1])
    return node


class _Rows:
    """Writes the loops of `rowwise` and `stepwise`: over vectors of channels, and for each of them over the steps.

    A vector fills a cache line, in several instructions where the processor's own are narrower: lines stored past the
    cache have to be written whole, and at once. Half a line serves rows of half a line.
    """

    def __init__(
        self,
        context: Any,
        builder: Any,
        body: Callable[..., tuple[Channels, ...]],
        streamed: int,
        carried: list[Any],
        outputs: list[Any],
        inputs: list[Any],
        strides: list[Any],
        ahead: list[Any],
    ) -> None:
        self.builder, self.body, self.streamed = builder, body, streamed
        self.carried, self.outputs, self.inputs, self.strides, self.ahead = carried, outputs, inputs, strides, ahead
        self.length = (carried + outputs)[0].nitems
        self.number = (carried + outputs)[0].data.type.pointee
        self.size = context.get_abi_sizeof(self.number)
        self.once = builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)])
        self.rolled = _rolled(builder.module)

    def write(self, past_cache: Any, steps: Any = None) -> None:
        """All loops, with stores past the cache or without; over one step if `steps` is None."""
        sizes = [_LINE // self.size, _LINE // self.size // 2]
        line, half = (ir.VectorType(self.number, lanes) for lanes in sizes)
        lines, halves = (self.builder.and_(self.length, ir.Constant(self.length.type, -lanes)) for lanes in sizes)
        nothing = ir.Constant(self.length.type, 0)
        with self.builder.if_else(past_cache) as (past, kept):
            with past:
                self.loop(nothing, lines, line, steps, self.streamed)
                self.loop(lines, halves, half, steps, self.streamed)
            with kept:
                self.loop(nothing, lines, line, steps, 0)
                self.loop(lines, halves, half, steps, 0)
                self.loop(halves, self.length, self.number, steps, 0)

    def loop(self, start: Any, stop: Any, kind: Any, steps: Any, streamed: int) -> None:
        """Over channels start..stop, as many at a time as `kind` holds."""
        builder = self.builder
        width = ir.Constant(stop.type, getattr(kind, "count", 1))
        with cgutils.for_range_slice(builder, start, stop, width, stop.type) as (channel, _):
            if steps is None and self.strides:
                channel = self.along(channel, start, builder.sub(stop, width))
            place = channel, kind
            if steps is None:
                self.one(place, None, [self.address(array, place) for array in self.carried], streamed)
                return
            registers = [self.register(array, place) for array in self.carried]
            with cgutils.for_range(builder, steps) as over:
                self.one(place, over.index, registers, streamed)
                last = builder.block
            last.terminator.set_metadata("llvm.loop", self.rolled)
            for array, register in zip(self.carried, registers, strict=True):
                builder.store(builder.load(register), self.address(array, place), align=self.size)

    def along(self, channel: Any, first: Any, last: Any) -> Any:
        """The channel, or the one opposite where steps go down in memory: the processor fetches one way ahead, and with
        each row upwards on the way down, none: gradients of coefficients that vary then took up to half as long again.
        """
        builder, stride = self.builder, self.strides[0]
        down = builder.icmp_signed("<", stride, ir.Constant(stride.type, 0))
        return builder.select(down, builder.sub(builder.add(first, last), channel), channel)

    def register(self, array: Any, place: Any) -> Any:
        """A variable of the loop over steps, which starts as the channels of `array`."""
        value = self.builder.load(self.address(array, place), align=self.size)
        return cgutils.alloca_once_value(self.builder, value)

    def address(self, array: Any, place: Any, offset: Any = None) -> Any:
        """Where the channels of `place` are in a row of `array`, or in one `offset` numbers on."""
        channel, kind = place
        index = channel if offset is None else self.builder.add(channel, offset)
        return self.builder.bitcast(self.builder.gep(array.data, [index]), kind.as_pointer())

    def one(self, place: Any, step: Any, carried: list[Any], streamed: int) -> None:
        """One step of some channels, with what is `carried` at these addresses."""
        builder, rows = self.builder, self.outputs + self.inputs
        offsets = [None] * len(rows) if step is None else [builder.mul(step, stride) for stride in self.strides]
        at = [self.address(array, place, offset) for array, offset in zip(rows, offsets, strict=True)]
        outputs, inputs = at[: len(self.outputs)], at[len(self.outputs) :]
        for array, address, numbers in zip(self.inputs, inputs, self.ahead, strict=False):
            later = builder.gep(builder.bitcast(address, array.data.type), [numbers])
            fetch_for_later(builder, later)
        given = (Channels(builder, builder.load(address, align=self.size)) for address in carried + inputs)
        results = self.body(*given)
        for i, (address, channels) in enumerate(zip(carried + outputs, results, strict=True)):
            past_cache = len(carried) <= i < len(carried) + streamed
            whole = self.size * getattr(place[1], "count", 1)
            store = builder.store(channels.value, address, align=whole if past_cache else self.size)
            if past_cache:
                store.set_metadata("nontemporal", self.once)
