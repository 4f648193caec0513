"""One training step (forward and backward) of the 4-layer LRU classifier on the CPU, beside what it could cost.

- `matmul`: the model's matrix products alone, forward and both gradients: what no implementation can leave out.
- `lstm`: the same residual stack around `torch.nn.LSTM(d_model, d_state)`.
- `jax`: the same model in JAX, its recurrence by `lax.associative_scan`, compiled.
"""

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks.timing import interleaved, machine
from resurge.layer import RecurrentLayer
from resurge.layers import LRU, LSTM
from resurge.memory import reuse_freed_memory
from resurge.models import SequenceClassifier, Stack

B, T, D, N, DEPTH, CLASSES = 8, 2048, 128, 256, 4, 10


def training_step(make_mixer: Callable[[], RecurrentLayer], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step of the classifier around `make_mixer()`, without the optimiser's update."""
    model = SequenceClassifier(nn.Linear(1, D), Stack(make_mixer, DEPTH, norm="batch"), CLASSES).train()

    def step() -> None:
        cross_entropy(model(x)[0], y).backward()  # type: ignore[no-untyped-call]
        model.zero_grad()

    return step


def matrix_products() -> Callable[[], None]:
    """B and C (as real matrices) and the gated linear unit of every layer: product, and the gradients of both sides."""
    shapes = [(D, 2 * N), (2 * N, D), (D, 2 * D)]
    operands = [(torch.randn(B * T, i), torch.randn(i, o), torch.randn(B * T, o)) for i, o in shapes]

    def step() -> None:
        for _ in range(DEPTH):
            for x, weight, gradient in operands:
                _ = x @ weight, gradient @ weight.T, x.T @ gradient

    return step


def jax_step(x: Tensor, y: Tensor) -> Callable[[], None]:
    """The same classifier in JAX."""
    import jax
    import jax.numpy as jnp

    def parameters(layer: LRU, glu: nn.Linear) -> dict[str, Any]:
        weights = {name: jnp.asarray(p.detach().numpy()) for name, p in layer.named_parameters()}
        return {**weights, "W": jnp.asarray(glu.weight.detach().numpy()), "b": jnp.asarray(glu.bias.detach().numpy())}

    def combine(first: tuple[Any, Any], second: tuple[Any, Any]) -> tuple[Any, Any]:
        return second[0] * first[0], second[0] * first[1] + second[1]

    def block(p: dict[str, Any], x: Any) -> Any:
        z = (x - x.mean((0, 1))) / jnp.sqrt(x.var((0, 1)) + 1e-5)
        lam = jnp.exp(-jnp.exp(p["nu_log"]) + 1j * jnp.exp(p["theta_log"]))
        Bu = z @ ((p["B_re"] + 1j * p["B_im"]) * jnp.exp(p["gamma_log"])[:, None]).T
        _, h = jax.lax.associative_scan(combine, (jnp.broadcast_to(lam, Bu.shape), Bu), axis=1)
        z = (h @ (p["C_re"] + 1j * p["C_im"]).T).real + p["D"] * z
        first, gate = jnp.split(jax.nn.gelu(z, approximate=False) @ p["W"].T + p["b"], 2, -1)
        return x + first * jax.nn.sigmoid(gate)

    def loss(p: dict[str, Any], x: Any, y: Any) -> Any:
        z = x @ p["encoder"]
        for layer in p["layers"]:
            z = block(layer, z)
        scores = jax.nn.log_softmax(z.mean(1) @ p["head"])
        return -scores[jnp.arange(B), y].mean()

    layers = [parameters(LRU(D, N), nn.Linear(D, 2 * D)) for _ in range(DEPTH)]
    p = {"encoder": jnp.ones((1, D)), "head": jnp.ones((D, CLASSES)), "layers": layers}
    step, inputs, labels = jax.jit(jax.value_and_grad(loss)), jnp.asarray(x.numpy()), jnp.asarray(y.numpy())
    return lambda: jax.block_until_ready(step(p, inputs, labels))


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks train", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--skip", nargs="*", default=[], choices=["lstm", "jax"])
    options = parser.parse_args(arguments)
    reuse_freed_memory()
    torch.manual_seed(0)
    x, y = torch.randn(B, T, 1), torch.randint(CLASSES, (B,))
    contestants = {
        "lru": training_step(lambda: LRU(D, N, r_min=0.9, r_max=0.999), x, y),
        "matmul": matrix_products(),
    }
    if "lstm" not in options.skip:
        contestants["lstm"] = training_step(lambda: LSTM(D, N), x, y)
    if "jax" not in options.skip:
        contestants["jax"] = jax_step(x, y)
    seconds = interleaved(contestants, options.rounds)
    print(f"{machine()}; {DEPTH} layers, B={B}, T={T}, d_model={D}, d_state={N}, float32")
    for name, value in seconds.items():
        print(f"{name:8s}{value * 1e3:9.0f} ms   {value / seconds['lru']:6.2f} x the LRU step")
    print(json.dumps({**seconds, "lru_over_matmul": seconds["lru"] / seconds["matmul"]}))
