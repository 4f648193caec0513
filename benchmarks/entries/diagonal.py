"""The diagonal scan: real and complex, coefficients constant or varying in time, or given as logarithms."""

import importlib
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contestants import Contestant, Peer, Problem, Sizes, compiled_jax, eager, jax_modules, whole_layer
from benchmarks.op import Draw, Op, arrays, coefficients
from resurge.ops import decay_scan, diagonal_scan, diagonal_scan_pairs, normalized_decay_scan


def _real(sizes: Sizes, draw: Draw, *, steps: bool) -> Problem:
    a = coefficients(draw, *(sizes if steps else sizes[2:]))
    return Problem((a, draw.normal(*sizes)), draw.normal(*sizes))


def _logarithms(sizes: Sizes, draw: Draw) -> Problem:
    return Problem((coefficients(draw, *sizes).log(), draw.normal(*sizes)), draw.normal(*sizes))


def _complex(sizes: Sizes, draw: Draw, *, steps: bool) -> Problem:
    B, T, D = sizes
    shape = (B, T, D) if steps else (D,)
    radius, phase = coefficients(draw, *shape), 2 * math.pi * draw.uniform(*shape)
    a = torch.stack([radius * phase.cos(), radius * phase.sin()], -2)
    return Problem((a, draw.normal(B, T, 2, D)), draw.normal(B, T, 2, D))


def _joined(problem: Problem) -> Problem:
    """Pairs of reals as complex numbers."""
    if problem.gradient.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"no complex numbers are made of {problem.gradient.dtype}")

    def join(pairs: Tensor) -> Tensor:
        return torch.complex(*pairs.unbind(-2))

    return Problem(tuple(map(join, problem.arguments)), join(problem.gradient))


def combine(first: Any, second: Any) -> Any:
    """Two steps h -> a h + x as one."""
    return second[0] * first[0], second[0] * first[1] + second[1]


def _plain(library: Any, a: Any, x: Any) -> Any:
    return a, x


def _decay(library: Any, log_a: Any, x: Any) -> Any:
    return library.exp(log_a), x


def _normalized(library: Any, log_a: Any, x: Any) -> Any:
    return library.exp(log_a), library.sqrt(-library.expm1(2 * log_a)) * x


def _torch_associative(problem: Problem, form: Callable[..., Any], mode: str, *, compiled: bool) -> Contestant:
    module = importlib.import_module("torch._higher_order_ops.associative_scan")

    def scan(a: Tensor, x: Tensor) -> Tensor:
        a, x = form(torch, a, x)
        pairs = (a.expand(x.shape).contiguous(), x)
        return module.associative_scan(combine, pairs, dim=1, combine_mode=mode)[1]  # type: ignore[no-any-return]

    return eager(torch.compile(scan, fullgraph=True, dynamic=False) if compiled else scan, problem)


def _jax_associative(problem: Problem, form: Callable[..., Any]) -> Contestant:
    jax, jnp = jax_modules()

    def scan(a: Any, x: Any) -> Any:
        a, x = form(jnp, a, x)
        return jax.lax.associative_scan(combine, (jnp.broadcast_to(a, x.shape), x), axis=1)[1]

    return compiled_jax(scan, problem)


def _jax_scan(problem: Problem, form: Callable[..., Any]) -> Contestant:
    jax, jnp = jax_modules()

    def scan(a: Any, x: Any) -> Any:
        def step(h: Any, now: Any) -> Any:
            a, x = form(jnp, *now)
            h = a * h + x
            return h, h

        by_time = (jnp.moveaxis(jnp.broadcast_to(a, x.shape), 1, 0), jnp.moveaxis(x, 1, 0))
        return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(x[:, 0]), by_time)[1], 0, 1)

    return compiled_jax(scan, problem)


def _fla_hgrn(problem: Problem, name: str) -> Contestant:
    scan = getattr(importlib.import_module("fla.ops.hgrn"), name)
    return eager(lambda log_a, x: scan(x, log_a)[0], problem)


def _scans(form: Callable[..., Any]) -> dict[str, Peer]:
    """Those that scan h -> a h + x, with (a, x) made from the arguments by `form`."""
    return {
        "torch associative_scan": Peer(lambda p: _torch_associative(p, form, "generic", compiled=False), "cpu"),
        "JAX associative_scan": Peer(lambda p: _jax_associative(p, form), compiled=True),
        "JAX scan": Peer(lambda p: _jax_scan(p, form), sequential=True, compiled=True),
    }


_HGRN = {
    "fla fused_recurrent_hgrn": Peer(lambda p: _fla_hgrn(p, "fused_recurrent_hgrn"), "cuda", sequential=True),
    "fla chunk_hgrn": Peer(lambda p: _fla_hgrn(p, "chunk_hgrn"), "cuda"),
}
_FOR_SCALE = {
    "torch associative_scan, compiled": Peer(
        lambda p: _torch_associative(p, _plain, "pointwise", compiled=True), "cuda", compiled=True
    ),
    "torch.nn.LSTM": Peer(lambda p: whole_layer(nn.LSTM, p.arguments[-1], p.gradient), sequential=True, same=False),
    "torch.nn.GRU": Peer(lambda p: whole_layer(nn.GRU, p.arguments[-1], p.gradient), sequential=True, same=False),
}


def _real_scan(a: Tensor, x: Tensor) -> Tensor:
    return diagonal_scan(a, x)[0]


def _decay_scan(log_a: Tensor, x: Tensor) -> Tensor:
    return decay_scan(log_a, x)[0]


def _normalized_decay_scan(log_a: Tensor, x: Tensor) -> Tensor:
    return normalized_decay_scan(log_a, x)[0]


def _complex_scan(a: Tensor, x: Tensor) -> Tensor:
    return diagonal_scan_pairs(a, x)[0]


OPS: dict[str, Op] = {
    # forward: a and x are read, h is written; backward: dh, a and h are read, da and dx are written
    "diagonal": Op(
        "Diagonal scan, real, coefficients varying in time",
        lambda sizes, draw: _real(sizes, draw, steps=True),
        _real_scan,
        arrays(3, 8),
        _scans(_plain) | _FOR_SCALE,
    ),
    "diagonal_constant": Op(
        "Diagonal scan, real, coefficients constant in time",
        lambda sizes, draw: _real(sizes, draw, steps=False),
        _real_scan,
        arrays(2, 5),
        _scans(_plain),
    ),
    "diagonal_complex": Op(
        "Diagonal scan, complex, coefficients varying in time",
        lambda sizes, draw: _complex(sizes, draw, steps=True),
        _complex_scan,
        arrays(3, 8, parts=2),
        _scans(_plain),
        _joined,
        2,
    ),
    "diagonal_complex_constant": Op(
        "Diagonal scan, complex, coefficients constant in time",
        lambda sizes, draw: _complex(sizes, draw, steps=False),
        _complex_scan,
        arrays(2, 5, parts=2),
        _scans(_plain),
        _joined,
        2,
    ),
    "decay": Op(
        "Diagonal scan, real, coefficients given as logarithms",
        _logarithms,
        _decay_scan,
        arrays(3, 8),
        _scans(_decay) | _HGRN,
    ),
    # the gradient to log_a needs x too
    "normalized_decay": Op(
        "Diagonal scan, real, coefficients given as logarithms, inputs normalised (RG-LRU)",
        _logarithms,
        _normalized_decay_scan,
        arrays(3, 9),
        _scans(_normalized),
    ),
}
