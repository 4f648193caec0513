"""The short convolution."""

import importlib
from typing import Any

from torch import Tensor
from torch.nn.functional import conv1d, pad

from benchmarks.contestants import Contestant, Peer, Problem, Sizes, compiled_jax, eager, jax_modules
from benchmarks.op import Draw, Op, arrays
from resurge.ops import short_conv

_WIDTH = 4


def _convolution(sizes: Sizes, draw: Draw) -> Problem:
    B, T, D = sizes
    weight, bias = draw.normal(D, _WIDTH) / 2, draw.normal(D)
    return Problem((draw.normal(B, T, D), weight, bias), draw.normal(B, T, D))


def _short_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return short_conv(x, weight, bias)[0]


def _conv1d(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    D, width = weight.shape
    weight, bias = weight.to(x.dtype)[:, None], bias.to(x.dtype)
    padded = pad(x.transpose(1, 2), (width - 1, 0))
    return conv1d(padded, weight, bias, groups=D).transpose(1, 2)


def _jax_shifts(problem: Problem) -> Contestant:
    _, jnp = jax_modules()

    def convolve(x: Any, weight: Any, bias: Any) -> Any:
        T, width = x.shape[1], weight.shape[1]
        padded = jnp.pad(x, ((0, 0), (width - 1, 0), (0, 0)))
        return sum((weight[:, k] * padded[:, k : k + T] for k in range(width)), bias).astype(x.dtype)

    return compiled_jax(convolve, problem)


def _fla_conv(problem: Problem) -> Contestant:
    convolve = importlib.import_module("fla.modules.causal_conv1d.ops").causal_conv1d
    return eager(lambda x, weight, bias: convolve(x, weight.to(x.dtype), bias.to(x.dtype))[0], problem)


OPS: dict[str, Op] = {
    # forward: x is read, y is written; backward: dy and x are read, dx is written
    "short_conv": Op(
        f"Short causal convolution of each channel, width {_WIDTH}",
        _convolution,
        _short_conv,
        arrays(2, 5),
        {
            "torch conv1d": Peer(lambda p: eager(_conv1d, p)),
            "JAX shifted products": Peer(_jax_shifts, compiled=True),
            "fla causal_conv1d": Peer(_fla_conv, "cuda"),
        },
    ),
}
