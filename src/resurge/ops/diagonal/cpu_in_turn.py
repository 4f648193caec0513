"""The kernels of cpu_kernels.py for few and long rows: the threads take the pieces of a row in turn; see cpu.py."""

from resurge.jit import lean
from resurge.ops.diagonal import cpu_kernels as kernels
from resurge.ops.diagonal.cpu_pieces import carry_complex, carry_real, take_turn

_forward_real, _forward_complex = kernels.forward_real, kernels.forward_complex
_backward_real, _backward_complex = kernels.backward_real, kernels.backward_complex


@lean
def forward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, carries, cut, reverse, form, sizes, work, h, turns, gains, reach, _0, _1, _2, _3
):
    r = take_turn(turns, False)
    while r >= 0:
        carry_real(turns, a, a_rows, reach, x, carries, gains, cut, False, reverse, sizes, r)
        _forward_real(a, a_rows, x, carries, cut, reverse, form, sizes, work, h, r, r + 1, 0, sizes[-1])
        r = take_turn(turns, False)


@lean
def forward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, x, carries, cut, reverse, form, sizes, work, h, turns, gains, reach, _0, _1, _2, _3
):
    r = take_turn(turns, False)
    while r >= 0:
        carry_complex(turns, a, a_rows, reach, x, carries, gains, cut, False, reverse, sizes, r)
        _forward_complex(a, a_rows, x, carries, cut, reverse, form, sizes, work, h, r, r + 1, 0, sizes[-1])
        r = take_turn(turns, False)


@lean
def backward_real(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, sizes, work, dh, carries, da, sums, dx, dh0, turns, gains,
    reach, _0, _1, _2, _3,
):  # fmt: skip
    r = take_turn(turns, True)
    while r >= 0:
        carry_real(turns, a, a_rows, reach, dh, carries, gains, cut, True, reverse, sizes, r)
        _backward_real(
            a, a_rows, x, h, h0, cut, reverse, form, sizes, work, dh, carries, da, sums, dx, dh0,
            r, r + 1, 0, sizes[-1],
        )  # fmt: skip
        r = take_turn(turns, True)


@lean
def backward_complex(  # type: ignore[no-untyped-def]
    a, a_rows, x, h, h0, cut, reverse, form, sizes, work, dh, carries, da, sums, dx, dh0, turns, gains,
    reach, _0, _1, _2, _3,
):  # fmt: skip
    r = take_turn(turns, True)
    while r >= 0:
        carry_complex(turns, a, a_rows, reach, dh, carries, gains, cut, True, reverse, sizes, r)
        _backward_complex(
            a, a_rows, x, h, h0, cut, reverse, form, sizes, work, dh, carries, da, sums, dx, dh0,
            r, r + 1, 0, sizes[-1],
        )  # fmt: skip
        r = take_turn(turns, True)
