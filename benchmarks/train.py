"""Whole training steps and decoding, beside what they could cost.

- classifier: one training step (forward and backward) of the 4-layer LRU classifier, (8, 2048), d_model 128, d_state
  256. `matmul`: its matrix products alone, forward and both gradients, which no implementation can leave out. `lstm`:
  the same residual stack around `torch.nn.LSTM(d_model, d_state)`. `jax`: the same model in JAX, its recurrence by
  `lax.associative_scan`, compiled.
- mamba: forward and backward of one Mamba layer, (1, 1024), d_model 256, N = 16, beside Hugging Face's path without
  CUDA extensions.
- decoding: tokens a second of every layer's `step`, one row at d_model 256 and one thread, beside `torch.nn.LSTMCell`.
"""

import argparse
import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import results
from benchmarks.contestants import in_short, jax_modules, to_jax
from benchmarks.timing import in_words, interleaved, keep_freed_memory, machine, waiter
from resurge import layers
from resurge.layer import RecurrentLayer
from resurge.layers import LRU, LSTM
from resurge.models import SequenceClassifier, Stack

B, T, D, N, DEPTH, CLASSES = 8, 2048, 128, 256, 4, 10


def training_step(make_mixer: Callable[[], RecurrentLayer], x: Tensor, y: Tensor) -> Callable[[], None]:
    """One step of the classifier around `make_mixer()`, without the optimiser's update."""
    model = SequenceClassifier(nn.Linear(1, D), Stack(make_mixer, DEPTH, norm="batch"), CLASSES).to(x.device).train()

    def step() -> None:
        cross_entropy(model(x)[0], y).backward()
        model.zero_grad()

    return step


def matrix_products(device: torch.device) -> Callable[[], None]:
    """B and C (as real matrices) and the gated linear unit of every layer: product, and the gradients of both sides."""
    shapes = [(D, 2 * N), (2 * N, D), (D, 2 * D)]
    draw = partial(torch.randn, device=device)
    operands = [(draw(B * T, i), draw(i, o), draw(B * T, o)) for i, o in shapes]

    def step() -> None:
        for _ in range(DEPTH):
            for x, weight, gradient in operands:
                _ = x @ weight, gradient @ weight.T, x.T @ gradient

    return step


def jax_step(x: Tensor, y: Tensor) -> Callable[[], None]:
    """The same classifier in JAX."""
    jax, jnp = jax_modules()

    def parameters(layer: LRU, glu: nn.Linear) -> dict[str, Any]:
        weights = {name: to_jax(p.to(x.device)) for name, p in layer.named_parameters()}
        return {**weights, "W": to_jax(glu.weight.to(x.device)), "b": to_jax(glu.bias.to(x.device))}

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
    p = {"encoder": jnp.ones((1, D), jnp.float32), "head": jnp.ones((D, CLASSES)), "layers": layers}
    step, inputs, labels = jax.jit(jax.value_and_grad(loss)), to_jax(x), to_jax(y)
    return lambda: jax.block_until_ready(step(p, inputs, labels))


def classifier(device: torch.device, rounds: int) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of a training step by contestant, and why others have none."""
    torch.manual_seed(0)
    x, y = torch.randn(B, T, 1, device=device), torch.randint(CLASSES, (B,), device=device)
    entrants: dict[str, Callable[[], Callable[[], object]]] = {
        "lru": lambda: training_step(lambda: LRU(D, N, r_min=0.9, r_max=0.999), x, y),
        "matmul": lambda: matrix_products(device),
        "lstm": lambda: training_step(lambda: LSTM(D, N), x, y),
        "jax": lambda: jax_step(x, y),
    }
    return timed(entrants, rounds, device)


def mamba(device: torch.device, rounds: int) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds of one layer's forward and backward pass, ours and Hugging Face's."""
    torch.manual_seed(0)
    x = torch.randn(1, 1024, 256, device=device, requires_grad=True)
    gradient = torch.randn_like(x)

    def ours() -> Callable[[], object]:
        layer = layers.create("mamba", 256, d_state=16).to(device)
        return lambda: torch.autograd.grad(layer(x)[0], (x, *layer.parameters()), gradient)

    def theirs() -> Callable[[], object]:
        transformers = importlib.import_module("transformers")
        module = importlib.import_module("transformers.models.mamba.modeling_mamba")
        layer = module.MambaMixer(transformers.MambaConfig(hidden_size=256, state_size=16), layer_idx=0).to(device)
        return lambda: torch.autograd.grad(layer(x), (x, *layer.parameters()), gradient)

    return timed({"mamba": ours, "hugging face": theirs}, rounds, device)


def decoding(device: torch.device, rounds: int) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds a token of every layer's step, batch of 1."""
    x = torch.randn(1, 256, device=device)
    steps, threads = 100, torch.get_num_threads()

    def ours(name: str) -> Callable[[], object]:
        layer = layers.create(name, 256).to(device).eval()

        def decode() -> None:
            state = layer.initial_state(1)
            with torch.inference_mode():
                for _ in range(steps):
                    _, state = layer.step(x, state)

        return decode

    def cell() -> Callable[[], object]:
        layer = nn.LSTMCell(256, 256).to(device)

        def decode() -> None:
            state = None
            with torch.inference_mode():
                for _ in range(steps):
                    state = layer(x, state)

        return decode

    entrants = {"torch.nn.LSTMCell": cell} | {name: partial(ours, name) for name in layers.names()}
    torch.set_num_threads(1)  # one row has no work for more
    seconds, why_not = timed(entrants, rounds, device)
    torch.set_num_threads(threads)
    return {name: value / steps for name, value in seconds.items()}, why_not


def timed(
    entrants: dict[str, Callable[[], Callable[[], object]]], rounds: int, device: torch.device
) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds of those that can be set up and called, and why the others cannot."""
    calls: dict[str, Callable[[], object]] = {}
    why_not: dict[str, str] = {}
    for name, make in entrants.items():
        try:
            calls[name] = make()
            calls[name]()
        except Exception as error:  # absent packages, layers and memory
            calls.pop(name, None)
            why_not[name] = in_short(error)
    return interleaved(calls, rounds, wait=waiter(device), patience=5), why_not


def table(part: str, seconds: dict[str, float]) -> list[list[str]]:
    """Milliseconds a step, or tokens a second for decoding, and the time over that of the first contestant."""
    rows = [
        [part, "tokens a second" if part == "decoding" else "ms a step", f"time over that of {next(iter(seconds))}"]
    ]
    for name, value in seconds.items():
        figure = f"{1 / value:,.0f}" if part == "decoding" else f"{value * 1e3:,.1f}"
        rows.append([name, figure, f"{value / next(iter(seconds.values())):.2f}"])
    return rows


PARTS = {"classifier": classifier, "mamba": mamba, "decoding": decoding}


def main(words: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be given several times")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", choices=["cpu", "cuda"], help="by default the GPU if there is one")
    parser.add_argument("--out", type=Path, default=results.FOLDER, help="folder of the JSON")
    arguments = parser.parse_args(words)
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    reused, told = keep_freed_memory(), machine(device)
    print(in_words(told))
    measured: dict[str, Any] = {"machine": told, "rounds": arguments.rounds, "freed_memory_reused": reused}
    for part in arguments.part or PARTS:
        seconds, why_not = PARTS[part](device, arguments.rounds)
        measured[part] = {"seconds": seconds, "left_out": why_not}
        print("", results.plain(table(part, seconds)), sep="\n")
        print(*(f"left out: {name}: {reason}" for name, reason in why_not.items()), sep="\n")
    print(results.write(arguments.out, f"train-{device.type}", measured))
