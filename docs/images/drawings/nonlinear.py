"""Nonlinear recurrences: LEM and SCRN."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from drawings.style import AFTER, BEFORE, HEAT, MARK, panels
from resurge.layers import LEM, SCRN
from resurge.recipes import lem as lem_recipe
from resurge.recipes import scrn as scrn_recipe
from resurge.recipes.trial import minimise


def lem() -> Figure:
    """The time steps that a trained LEM takes on the adding problem."""
    config = lem_recipe.config(False)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = lem_recipe.Adder(LEM(config.d_model, config.d_state, delta=config.delta))

    def loss() -> Tensor:
        x, total = lem_recipe.sums(config.batch_size, config.length, generator)
        return (model(x) - total).square().mean()

    minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=1.0)
    x, total = lem_recipe.sums(1, config.length, generator)
    layer, N = model.layer, config.d_state
    with torch.no_grad():
        print(f"  answers {float(model(x)):.3f} for {float(total):.3f}")
        u, state, chosen, held = model.encoder(x)[0], layer.initial_state(1), [], []
        for u_t in u:
            gates = layer.inp2hid(u_t)[: 2 * N] + layer.hid2hid(state.y[0])[: 2 * N]
            chosen.append(layer.delta * torch.sigmoid(gates))
            _, state = layer.step(u_t[None], state)
            held.append(state.z[0])
        steps, z = torch.stack(chosen, 1), torch.stack(held, 1)
    marks = x[0, :, 1].nonzero().ravel().tolist()
    moved = steps[N:]  # the rows 2 move z, the rows 1 move y
    order = (moved[:, marks].mean(1) - moved.mean(1)).argsort(descending=True)
    figure, grid = panels(3, 1, 4.6, sharex=True, height_ratios=[1, 1.6, 1.6])
    numbers, sizes, memory = grid[:, 0]
    numbers.vlines(range(config.length), 0, x[0, :, 0].numpy(), color=BEFORE, lw=1.5)
    numbers.vlines(marks, 0, x[0, marks, 0].numpy(), color=MARK, lw=3)
    numbers.set_title("Numbers; the two that are marked are to be added")
    numbers.set_ylim(0, 1.05)
    look: dict[str, Any] = {"aspect": "auto", "interpolation": "none"}
    shown = sizes.imshow(moved[order].numpy(), cmap=HEAT, vmin=0, vmax=layer.delta, **look)
    sizes.set_title("Time steps Δ of the memory z")
    top = float(z.abs().max())
    content = memory.imshow(z[order].numpy(), cmap="RdBu_r", vmin=-top, vmax=top, **look)
    memory.set_title("The memory z")
    memory.set_xlabel("step")
    for axes, image in ((sizes, shown), (memory, content)):
        axes.set_yticks([])
        axes.set_ylabel("unit")
        bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.01)
        bar.outline.set_visible(False)
    return figure


def scrn() -> Figure:
    """How well the first word of a sentence can be read from the context, and from the hidden units, at each step."""
    config = scrn_recipe.config(False)
    figure, grid = panels(1, 2, 2.8, sharey=True)
    for axes, alpha in zip(grid[0], (0.95, 0.0), strict=True):
        torch.manual_seed(config.seed)
        generator = torch.Generator().manual_seed(config.seed)
        layer = SCRN(config.d_model, config.d_state, config.d_context, alpha=alpha)
        model = scrn_recipe.Reader(layer, config.words, config.others)

        def loss(model: scrn_recipe.Reader = model, generator: torch.Generator = generator) -> Tensor:
            text = scrn_recipe.sentences(config, config.batch_size, generator)
            return cross_entropy(model(text, config.truncation), text[:, 0])

        minimise(model, loss, steps=config.steps, lr=config.lr, lr_factor=1.0)
        text = scrn_recipe.sentences(config, 3000, generator)
        state, shares = None, {"h": [], "s": []}
        with torch.no_grad():
            for token in text.unbind(1):
                _, state = layer(model.embedding(token)[:, None], state)
                for name, part in zip(("h", "s"), state, strict=True):
                    shares[name].append(_probe(part, text[:, 0], config.words))
        axes.plot(shares["s"], color=AFTER, label="from the context s")
        axes.plot(shares["h"], color=MARK, label="from the hidden units h")
        axes.axhline(1 / config.words, color=BEFORE, lw=1, ls=(0, (4, 3)))
        axes.axvspan(len(shares["s"]) - config.truncation - 0.5, len(shares["s"]) - 0.5, color=BEFORE, alpha=0.15, lw=0)
        axes.set_ylim(0, 1.05)
        axes.set_title(f"α = {alpha:g}")
        axes.set_xlabel("word of the sentence")
        axes.grid(axis="y")
    grid[0, 0].set_ylabel("first word told right")
    grid[0, 1].legend(frameon=False, loc="upper right")
    return figure


def _probe(state: Tensor, word: Tensor, words: int) -> float:
    """The share of words that a linear map of `state`, fitted by least squares on two thirds, tells on the others."""
    features = torch.cat([state, torch.ones(len(state), 1)], 1).double().numpy()
    target, fitted = np.eye(words)[word.numpy()], 2 * len(state) // 3
    weight = np.linalg.lstsq(features[:fitted], target[:fitted], rcond=1e-7)[0]
    return float(((features[fitted:] @ weight).argmax(1) == word.numpy()[fitted:]).mean())


PICTURES = {draw.__name__: draw for draw in (lem, scrn)}
