"""Recurrences that are averages and attention: Aaren, RWKV-4, the gated linear RNN, and what LSRL compiles to."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from drawings.gated import heard
from drawings.style import AFTER, BEFORE, GREEN, HEAT, MARK, MUTED, panels
from resurge.data import Text
from resurge.data.regression import gradient_step, prompts
from resurge.layers import GatedLinearRNN
from resurge.lsrl import compile_program
from resurge.lsrl.programs import cells_prompt, function_of_cells
from resurge.nn.token_shift import shifted
from resurge.recipes import aaren as aaren_recipe
from resurge.recipes import gated_rnn_attention as gated_recipe
from resurge.recipes import lsrl as lsrl_recipe
from resurge.recipes import rwkv4 as rwkv4_recipe
from resurge.recipes.trial import minimise


def aaren() -> Figure:
    """The weights of a trained query over every prefix of a stream, and the stream's scores."""
    config = aaren_recipe.config(False)
    model, generator = aaren_recipe.train(config, uniform=False)
    x, best = aaren_recipe.stream(256, config.length, generator)
    changes = (x[..., 1].cummax(1).indices.diff(dim=1) > 0).sum(1) + (best.diff(dim=1) != 0).sum(1)
    row = int(changes.argmax())
    x, best = x[row : row + 1], best[row : row + 1]
    layer = model.layer
    with torch.no_grad():
        s = layer._logits(model.encoder(x))[0, :, 0]
        past = torch.ones(len(s), len(s), dtype=torch.bool).tril()
        weights = torch.softmax(torch.where(past, s, -torch.inf), 1)
        answers = model(x)[0]
    scores = x[0, :, 1]
    figure, grid = panels(1, 2, 3.3, width_ratios=[1, 1.3])
    matrix, line = grid[0]
    matrix.imshow(torch.where(past, weights, 0.0).numpy(), cmap=HEAT, vmin=0, vmax=1, interpolation="none")
    matrix.set_title("Weight of each input at each step")
    matrix.set_xlabel("input at step")
    matrix.set_ylabel("output at step")
    line.plot(scores.numpy(), color=BEFORE, lw=1, label="score of the input")
    line.plot(scores.cummax(0).values.numpy(), color=GREEN, lw=1.6, drawstyle="steps-post", label="highest so far")
    line.plot(answers.numpy() - 4, color=AFTER, lw=1.3, label="answer, and the right one (dots), 4 lower")
    line.plot(best[0].numpy() - 4, ".", color=MARK, ms=3)
    line.set_ylim(-6, 6)
    line.set_title("What is read, and what is answered")
    line.set_xlabel("step")
    line.set_yticks([-2, 0, 2])
    line.legend(frameon=False, loc="upper left")
    return figure


def rwkv4() -> Figure:
    """What two layers of RWKV-4 average over after training on text."""
    config, data = rwkv4_recipe.config(False), Text(length=128).load()
    model, generator = rwkv4_recipe.make(config, 256), torch.Generator().manual_seed(config.seed)
    mixers = [model.stack.blocks[place].mixer for place in (0, 2)]
    before = [torch.exp(-mixer.time_decay.detach()) for mixer in mixers]

    def loss() -> Tensor:
        batch = data.train.batch(torch.randint(len(data.train), (config.batch_size,), generator=generator))
        return cross_entropy(model(batch.inputs)[0].flatten(0, 1), batch.targets.flatten())

    losses = minimise(model, loss, steps=config.text_steps, lr=config.lr, lr_factor=1.0)
    print(f"  {np.mean(losses[-20:]) / np.log(2):.2f} bits a byte")
    model.eval()
    snippet = "    if self.name in self.nam"
    tokens, T = torch.tensor([list(snippet.encode())]), len(snippet)
    inputs = [heard(mixer) for mixer in mixers]
    figure, grid = panels(1, 3, 3.1, width_ratios=[1.0, 1.1, 1.1])
    with torch.no_grad():
        model(tokens)
        for place, (mixer, colour) in enumerate(zip(mixers, (GREEN, AFTER), strict=True)):
            w = torch.exp(mixer.time_decay)
            grid[0, 0].plot(before[place].numpy(), color=colour, lw=1, ls=(0, (3, 2)))
            grid[0, 0].plot((1 / w).numpy(), color=colour, label=f"layer {place + 1}")
            x = inputs[place][0]
            k, _, _ = mixer._maps_of(x, shifted(x, torch.zeros_like(x[:, 0]), None))
            age = torch.arange(T - 2, -1, -1.0)
            logits = torch.cat([k[0, :-1] - age[:, None] * w, k[0, -1:] + mixer.time_first])
            weights = torch.softmax(logits, 0)
            axes = grid[0, 1 + place]
            axes.imshow(weights.T.numpy(), cmap=HEAT, aspect="auto", vmin=0, vmax=0.5, interpolation="none")
            axes.set_title(f"Layer {place + 1}: weights at the end")
            axes.set_xticks(range(T), [c if c > " " else "␣" for c in snippet], fontsize=8)
            axes.tick_params(axis="x", length=0)
            axes.set_yticks([0, len(w) - 1], ["first", "last"])
    grid[0, 1].set_ylabel("channel", labelpad=-18)
    memory = grid[0, 0]
    memory.set_yscale("log")
    memory.set_yticks([0.1, 1, 10, 100], ["0.1", "1", "10", "100"])
    memory.minorticks_off()
    memory.set_title("Memory 1 / w, in steps")
    memory.set_xlabel("channel; dashed: at the start")
    memory.grid(axis="y")
    memory.legend(frameon=False)
    return figure


def gated_rnn_attention() -> Figure:
    """The error by the number of units, and the answers beside those of a gradient step."""
    config = gated_recipe.config(False)
    d, n, units = config.d_input, config.length - 1, range(1, 6)
    errors, layers = [], []
    for count in units:
        torch.manual_seed(config.seed)
        layers.append(GatedLinearRNN(d + 1, count, config.d_gate))
        errors.append(gated_recipe.train(config, layers[-1])[0])
    print("  errors", [round(e, 3) for e in errors])
    figure, grid = panels(1, 2, 2.9)
    left, right = grid[0]
    bound = [1 - min(count, d) / d * n / (n + d + 1) for count in units]
    left.plot(units, bound, "_", color=MARK, ms=26, mew=2, label="one gradient step, along so many weights")
    left.plot(units, errors, "o", color=AFTER, ms=6, label="trained layer")
    left.axvline(d, color=MUTED, lw=0.8, ls=(0, (4, 3)))
    left.set_ylim(0, 1.2)
    left.set_xticks(list(units))
    left.set_xlabel(f"units of the state; the function has {d} weights")
    left.set_title("Error on functions never seen")
    left.grid(axis="y")
    left.legend(frameon=False, loc="upper right")
    steps, _ = prompts(np.random.default_rng(7), 120, config.length, d)
    with torch.no_grad():
        told = layers[d - 1](torch.from_numpy(steps))[0][:, -1, -1].numpy()
    step = gradient_step(steps).ravel()
    ends = [float(step.min()), float(step.max())]
    right.plot(ends, ends, color=BEFORE, lw=1)
    right.plot(step, told, ".", color=AFTER, ms=3, alpha=0.6)
    right.set_title(f"Its answers with {d} units")
    right.set_xlabel("answer of one gradient step")
    right.set_ylabel("answer of the layer")
    right.grid()
    return figure


def lsrl() -> Figure:
    """A function, and what one compiled network makes of prompts that describe it in 4, 8 and 16 cells a side."""
    side, generator = 40, torch.Generator().manual_seed(5)
    f, _ = lsrl_recipe.random_function(generator)
    at = (torch.arange(side, dtype=torch.float64) + 0.5) / side
    queries = torch.cartesian_prod(at, at)
    network = compile_program(function_of_cells(2))
    figure, grid = panels(1, 4, 2.3)
    values = f(queries)
    pictures = {"the function": values}
    with torch.no_grad():
        for n in (4, 8, 16):
            told = torch.cat([network(cells_prompt(part, f, n))[0][:, -1, 0] for part in queries.split(400)])
            print(f"  {n} cells a side: error {float((told - values).abs().max()):.2f} at most")
            pictures[f"prompt of {n * n} cells"] = told
    low, high = float(values.min()), float(values.max())
    for axes, (title, image) in zip(grid[0], pictures.items(), strict=True):
        axes.imshow(image.view(side, side).numpy(), cmap="viridis", vmin=low, vmax=high, interpolation="none")
        axes.set_title(title)
        axes.set_axis_off()
    return figure


PICTURES = {draw.__name__: draw for draw in (aaren, rwkv4, gated_rnn_attention, lsrl)}
