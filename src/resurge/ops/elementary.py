"""Elementary functions for numba kernels, of a form that LLVM turns into vector instructions in float32.

numba's own `math.exp` is a call into the C library for every number, ten times slower. In float64, which is for
tests, they are numba's own.
"""

import math
from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import overload

_FLAGS: Any = {"fastmath": {"contract"}, "error_model": "numpy"}
_LOG2E = np.float32(1.44269504)
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # the first with 10 bits: n * it is exact
_ROUND = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest integer in the low bits
_LARGEST, _SMALLEST = np.float32(88.72284), np.float32(-103.98)
_HALF, _ONE, _ZERO = np.float32(0.5), np.float32(1), np.float32(0)
_INFINITY, _TWENTY = np.float32(np.inf), np.float32(20)
_P = tuple(np.float32(1 / math.factorial(k)) for k in range(8))
_ARTANH = tuple(np.float32(1 / (2 * k + 1)) for k in range(8))


@numba.njit(inline="always", **_FLAGS)
def _reduced(y):  # type: ignore[no-untyped-def]
    """(n, r) with y = n ln 2 + r, n whole and |r| <= ln 2 / 2."""
    n = (y * _LOG2E + _ROUND) - _ROUND
    return n, y - n * _LN2_HIGH - n * _LN2_LOW


@numba.njit(inline="always", **_FLAGS)
def _series(r):  # type: ignore[no-untyped-def]
    """(e^r - 1) / r by its series, for |r| <= 1/2."""
    p = _P[7]
    p = p * r + _P[6]
    p = p * r + _P[5]
    p = p * r + _P[4]
    p = p * r + _P[3]
    p = p * r + _HALF
    return p * r + _ONE


def exp(x: float) -> float:
    """e^x within 1.5 units in the last place; 0 for -inf, inf beyond the range, NaN for NaN."""
    return math.exp(x)


@overload(exp, jit_options=_FLAGS)
def _exp(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.exp(x)

    def exp32(x):  # type: ignore[no-untyped-def]
        y = x if x > _SMALLEST else _SMALLEST
        y = y if y < _LARGEST else _LARGEST
        n, r = _reduced(y)
        p = _series(r) * r + _ONE
        # 2^n in two factors: n reaches from -150, where results are denormal, to 128
        half = np.int32(n) >> np.int32(1)
        rest = np.int32(n) - half
        p *= np.int32((half + np.int32(127)) << np.int32(23)).view(np.float32)
        p *= np.int32((rest + np.int32(127)) << np.int32(23)).view(np.float32)
        p = p if x > _SMALLEST else _ZERO
        p = p if x <= _LARGEST else _INFINITY
        return p if x == x else x

    return exp32


def one_minus_exp(x: float) -> float:
    """1 - e^x with all its digits for x <= 0 near 0."""
    return -math.expm1(x)


@overload(one_minus_exp, jit_options=_FLAGS)
def _one_minus_exp(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: -math.expm1(x)

    def one_minus_exp32(x):  # type: ignore[no-untyped-def]
        return -(_series(x) * x) if x > -_HALF else _ONE - exp(x)

    return one_minus_exp32


def sigmoid(x: float) -> float:
    """1 / (1 + e^-x)."""
    return 1 / (1 + math.exp(-x))


@overload(sigmoid, jit_options=_FLAGS)
def _sigmoid(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: 1 / (1 + math.exp(-x))
    return lambda x: _ONE / (_ONE + exp(-x))


def tanh(x: float) -> float:
    """The hyperbolic tangent, with all its digits near 0."""
    return math.tanh(x)


@overload(tanh, jit_options=_FLAGS)
def _tanh(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: math.tanh(x)

    def tanh32(x):  # type: ignore[no-untyped-def]
        y = x + x  # with E = e^y - 1 it is E / (E + 2): 1 beyond 10 in float32
        y = y if y > -_TWENTY else -_TWENTY
        y = y if y < _TWENTY else _TWENTY
        n, r = _reduced(y)
        power = np.int32((np.int32(n) + np.int32(127)) << np.int32(23)).view(np.float32)
        E = power * (_series(r) * r) + (power - _ONE)  # n = 0 near 0, where every digit of it is kept
        value = E / (E + _ONE + _ONE)
        return value if x == x else x

    return tanh32


def softplus(x: float) -> float:
    """log(1 + e^x) with all its digits: e^x far below 0, x far above."""
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


@overload(softplus, jit_options=_FLAGS)
def _softplus(x):  # type: ignore[no-untyped-def]
    if x != types.float32:
        return lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x)))

    def softplus32(x):  # type: ignore[no-untyped-def]
        positive = x if x > _ZERO else _ZERO
        y = exp(-abs(x))
        s = y / (y + _ONE + _ONE)  # log(1 + y) = 2 artanh(s), whose series in s² <= 1/9 is short
        q = s * s
        p = _ARTANH[7]
        p = p * q + _ARTANH[6]
        p = p * q + _ARTANH[5]
        p = p * q + _ARTANH[4]
        p = p * q + _ARTANH[3]
        p = p * q + _ARTANH[2]
        p = p * q + _ARTANH[1]
        return positive + (s + s) * (p * q + _ONE)

    return softplus32
