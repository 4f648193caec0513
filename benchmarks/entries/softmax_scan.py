"""The running softmax-weighted average, as RWKV-4 uses it: one logit a channel, a decay and a bonus."""

import importlib
from typing import Any

import torch
from torch import Tensor

from benchmarks.contestants import Contestant, Peer, Problem, Sizes, compiled_jax, eager, jax_modules
from benchmarks.op import Draw, Op, arrays, coefficients
from resurge.ops import softmax_scan

_NOTHING = -1e38  # the largest logit of no step


def _make(sizes: Sizes, draw: Draw) -> Problem:
    D = sizes.D
    arguments = (draw.normal(*sizes), draw.normal(*sizes), -coefficients(draw, D).log(), draw.normal(D))
    return Problem(arguments, draw.normal(*sizes))


def _ours(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
    return softmax_scan(k, v, w, u)[0]


def _hugging_face(problem: Problem) -> Contestant:
    attend = importlib.import_module("transformers.models.rwkv.modeling_rwkv").rwkv_linear_attention_cpu
    return eager(lambda k, v, w, u: attend(w.log(), u, k, v)[0], problem)


def _fla(problem: Problem) -> Contestant:
    attend = importlib.import_module("fla.ops.rwkv4").fused_recurrent_rwkv4

    def call(k: Tensor, v: Tensor, w: Tensor, u: Tensor) -> Tensor:
        start = torch.zeros(k.shape[0], 3, 1, k.shape[2], device=k.device)
        start[:, 2] = _NOTHING
        return attend(w.log(), u, k, v, start)[0]  # type: ignore[no-any-return]

    return eager(call, problem)


def _average(jnp: Any, state: Any, k: Any, v: Any, u: Any) -> Any:
    """y of a step, from the state before it."""
    m, num, den = state
    largest = jnp.maximum(m, u + k)
    before, now = jnp.exp(m - largest), jnp.exp(u + k - largest)
    return (before * num + now * v) / (before * den + now)


def _jax_scan(problem: Problem) -> Contestant:
    jax, jnp = jax_modules()

    def scan(k: Any, v: Any, w: Any, u: Any) -> Any:
        def step(state: Any, now: Any) -> Any:
            (m, num, den), (k, v) = state, now
            largest = jnp.maximum(m - w, k)
            old, new = jnp.exp(m - w - largest), jnp.exp(k - largest)
            return (largest, old * num + new * v, old * den + new), _average(jnp, state, k, v, u)

        zeros = jnp.zeros_like(k[:, 0])
        by_time = (jnp.moveaxis(k, 1, 0), jnp.moveaxis(v, 1, 0))
        return jnp.moveaxis(jax.lax.scan(step, (zeros + _NOTHING, zeros, zeros), by_time)[1], 0, 1)

    return compiled_jax(scan, problem)


def _jax_associative(problem: Problem) -> Contestant:
    jax, jnp = jax_modules()

    def combine(first: Any, second: Any) -> Any:
        """(decay of the whole piece, largest logit at its end, sums)."""
        (w, m, num, den), (w_2, m_2, num_2, den_2) = first, second
        largest = jnp.maximum(m - w_2, m_2)
        old, new = jnp.exp(m - w_2 - largest), jnp.exp(m_2 - largest)
        return w + w_2, largest, old * num + new * num_2, old * den + new * den_2

    def scan(k: Any, v: Any, w: Any, u: Any) -> Any:
        pieces = (jnp.broadcast_to(w, k.shape), k, v, jnp.ones_like(k))
        _, *after = jax.lax.associative_scan(combine, pieces, axis=1)
        before = [
            jnp.pad(z[:, :-1], ((0, 0), (1, 0), (0, 0)), constant_values=first)
            for z, first in zip(after, (_NOTHING, 0, 0), strict=True)
        ]
        return _average(jnp, before, k, v, u)

    return compiled_jax(scan, problem)


OPS: dict[str, Op] = {
    # forward: k and v are read, y is written; backward: dy, k and v are read, dk and dv are written
    "softmax_scan": Op(
        "Softmax scan (WKV of RWKV-4)",
        _make,
        _ours,
        arrays(3, 8),
        {
            "Hugging Face RWKV-4": Peer(_hugging_face, "cpu", longest=128),
            "JAX associative_scan": Peer(_jax_associative, compiled=True),
            "JAX scan": Peer(_jax_scan, sequential=True, compiled=True),
            "fla fused_recurrent_rwkv4": Peer(_fla, "cuda", sequential=True),
        },
    ),
}
