"""The selective scan of Mamba: step size by softplus, skip and gate inside, N states a channel."""

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Peer, Problem, Sizes, compiled_jax, eager, jax_modules
from benchmarks.entries.diagonal import combine
from benchmarks.op import Draw, Op
from resurge.ops import selective_scan


def _make(sizes: Sizes, draw: Draw, N: int) -> Problem:
    """A, Δ as Mamba starts: A_dn = -n, and softplus(bias) from 0.001 to 0.1."""
    B, T, D = sizes
    A = -torch.arange(1, N + 1, device=draw.device, dtype=draw.dtype).expand(D, N).contiguous()
    bias = torch.log(torch.expm1(10 ** (-1 - 2 * draw.uniform(D))))
    rows = (draw.normal(*sizes), draw.normal(*sizes) / 2)
    arguments = (*rows, A, draw.normal(B, T, N), draw.normal(B, T, N), draw.normal(D), draw.normal(*sizes), bias)
    return Problem(arguments, draw.normal(*sizes))


def _ours(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
    return selective_scan(u, delta, A, B, C, D, z, bias)[0]


def _channels_first(problem: Problem, module: str, name: str) -> Contestant:
    """Mamba's own interface, which Hugging Face keeps: (batch, channels, time)."""
    scan = getattr(importlib.import_module(module), name)

    def call(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, z: Tensor, bias: Tensor) -> Tensor:
        u, delta, B, C, z = (v.transpose(1, 2) for v in (u, delta, B, C, z))
        y = scan(u, delta, A, B, C, D, z=z, delta_bias=bias, delta_softplus=True)
        return y.transpose(1, 2)  # type: ignore[no-any-return]

    return eager(call, problem)


def _jax_associative(problem: Problem) -> Contestant:
    jax, jnp = jax_modules()

    def scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any) -> Any:
        step = jax.nn.softplus(delta + bias)
        a = jnp.exp(step[..., None] * A)
        x = (step * u)[..., None] * B[:, :, None]
        _, h = jax.lax.associative_scan(combine, (a, x), axis=1)
        return (((h * C[:, :, None]).sum(-1) + D * u) * jax.nn.silu(z)).astype(u.dtype)

    return compiled_jax(scan, problem)


def _jax_scan(problem: Problem) -> Contestant:
    jax, jnp = jax_modules()

    def scan(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, z: Any, bias: Any) -> Any:
        def next_step(h: Any, now: Any) -> Any:
            u, step, B, C = now
            h = jnp.exp(step[..., None] * A) * h + (step * u)[..., None] * B[:, None]
            return h, (h * C[:, None]).sum(-1)

        rows = [jnp.moveaxis(v, 1, 0) for v in (u, jax.nn.softplus(delta + bias), B, C)]
        zeros = jnp.zeros((u.shape[0], *A.shape), A.dtype)
        y = jnp.moveaxis(jax.lax.scan(next_step, zeros, rows)[1], 0, 1)
        return ((y + D * u) * jax.nn.silu(z)).astype(u.dtype)

    return compiled_jax(scan, problem)


def _moved(N: int) -> Callable[[Sizes], tuple[int, int]]:
    """Forward, u, Δ, z, B and C are read, y is written; backward, the same and dy are read, a gradient of each is
    written. The states are never written."""

    def count(sizes: Sizes) -> tuple[int, int]:
        wide, narrow = math.prod(sizes), sizes.B * sizes.T * N
        return 4 * wide + 2 * narrow, 11 * wide + 6 * narrow

    return count


def with_state(N: int) -> Op:
    """The selective scan with N states a channel."""
    return Op(
        f"Selective scan (Mamba), N = {N}",
        partial(_make, N=N),
        _ours,
        _moved(N),
        {
            "Hugging Face Mamba": Peer(
                lambda p: _channels_first(p, "transformers.models.mamba.modeling_mamba", "mamba_selective_scan"),
                "cpu",
                longest=128,
            ),
            "mamba_ssm selective_scan_fn": Peer(
                lambda p: _channels_first(p, "mamba_ssm.ops.selective_scan_interface", "selective_scan_fn"), "cuda"
            ),
            "JAX associative_scan": Peer(_jax_associative, compiled=True),
            "JAX scan": Peer(_jax_scan, sequential=True, compiled=True),
        },
        parts=4,  # peers make arrays of B T D N numbers
    )


OPS: dict[str, Op] = {"selective_scan": with_state(16)}
