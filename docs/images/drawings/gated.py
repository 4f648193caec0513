"""Recurrences whose gates the input sets: Griffin, RecurrentGemma, minGRU, HGRN, GateLoop, Mamba."""

from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, softplus

from drawings.style import AFTER, BEFORE, GREEN, HEAT, MARK, MUTED, RULE, panels
from resurge.data import Text
from resurge.layer import RecurrentLayer
from resurge.layers import HGRN, RGLRU, GateLoop, GemmaHawk, LocalAttention, Mamba, MinGRU
from resurge.models import LanguageModel, Stack
from resurge.models import griffin as griffin_stack
from resurge.recipes import gateloop as gateloop_recipe
from resurge.recipes import recurrentgemma as gemma_recipe
from resurge.recipes.tasks import copying
from resurge.recipes.trial import minimise


def heard(module: nn.Module) -> list[Tensor]:
    """A list whose only item is what `module` was last called with."""
    last: list[Tensor] = []
    module.register_forward_pre_hook(lambda _, inputs: last.__setitem__(slice(None), [inputs[0].detach()]))
    return last


def copier(layer: Callable[[], RecurrentLayer], steps: int) -> tuple[LanguageModel, Tensor, float]:
    """A model of two layers that has learned selective copying, one example (1, 44), and its share of right answers."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = LanguageModel(10, Stack(layer, 2, norm="layer"))

    def logits(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        tokens, answers = copying(rows, 40, generator)
        return model(tokens)[0][:, -4:], answers, tokens

    def loss() -> Tensor:
        scores, answers, _ = logits(32)
        return cross_entropy(scores.flatten(0, 1), answers.flatten())

    minimise(model, loss, steps=steps, lr=5e-3, lr_factor=1.0, weight_decay=0.01)
    model.eval()
    with torch.no_grad():
        scores, answers, tokens = logits(500)
        right = float((scores.argmax(-1) == answers).float().mean())
        print(f"  {right:.3f} of the answers right")
    return model, tokens[:1], right


def tokens_below(axes: object, tokens: Tensor) -> None:
    """The tokens of selective copying as the labels of the steps."""
    names = [str(int(t)) if t < 8 else {8: "·", 9: "?"}[int(t)] for t in tokens]
    axes.set_xticks(range(len(names)), names)  # type: ignore[attr-defined]
    axes.tick_params(length=0)  # type: ignore[attr-defined]
    for label, t in zip(axes.get_xticklabels(), tokens, strict=True):  # type: ignore[attr-defined]
        if t < 8:
            label.set_color(MARK)
            label.set_fontweight("bold")


def _by_data(gate: Tensor, tokens: Tensor) -> np.ndarray:
    """Channels of a gate (T, N) in the order of how much more open they are at data than at blanks, as (N, T)."""
    order = (gate[tokens < 8].mean(0) - gate[tokens == 8].mean(0)).argsort(descending=True)
    return gate[:, order].T.numpy()


def _gates(grid: np.ndarray, gate: np.ndarray, tokens: Tensor, title: str, top: float | None = None) -> None:
    (axes,) = grid
    image = axes.imshow(gate, cmap=HEAT, aspect="auto", vmin=0, vmax=top, interpolation="none")
    tokens_below(axes, tokens)
    axes.set_yticks([])
    axes.set_ylabel("channel")
    axes.set_title(title)
    for spine in axes.spines.values():
        spine.set_visible(False)
    bar = axes.figure.colorbar(image, ax=axes, fraction=0.04, pad=0.01)
    bar.outline.set_visible(False)


def griffin() -> Figure:
    """What the RG-LRU lets go and takes in while it reads an example of selective copying."""
    model, tokens, _ = copier(lambda: RGLRU(48), 1000)
    layer = model.stack.blocks[0].mixer
    x = heard(layer)
    with torch.no_grad():
        model(tokens)
        log_a, v = layer.gates(x[0])
        taken = torch.sqrt(-torch.expm1(2 * log_a)) * (v / x[0])
    figure, grid = panels(2, 1, 4.4)
    _gates(grid[0], _by_data(1 - torch.exp(log_a)[0], tokens[0]), tokens[0], "Forgotten of the state, 1 - a")
    _gates(grid[1], _by_data(taken[0], tokens[0]), tokens[0], "Taken of the input, sqrt(1 - a²) i")
    return figure


def mingru() -> Figure:
    """minGRU's gate while it reads an example of selective copying."""
    model, tokens, _ = copier(lambda: MinGRU(48), 1000)
    figure, grid = panels(2, 1, 4.4)
    for place in (0, 1):
        layer = model.stack.blocks[place].mixer
        x = heard(layer)
        with torch.no_grad():
            model(tokens)
            z = torch.sigmoid(layer.linear_z(x[0]))[0]
        _gates(
            grid[place],
            _by_data(z, tokens[0]),
            tokens[0],
            f"Layer {place + 1}: z, the share of the state that is replaced",
            1.0,
        )
    return figure


def mamba() -> Figure:
    """Mamba's step sizes while it reads an example of selective copying."""
    model, tokens, _ = copier(lambda: Mamba(32, 8), 1000)
    figure, grid = panels(2, 1, 4.4)
    for place in (0, 1):
        layer = model.stack.blocks[place].mixer
        x = heard(layer.x_proj)
        with torch.no_grad():
            model(tokens)
            rank = layer.x_proj(x[0])[..., : layer.dt_rank]
            delta = softplus(linear(rank, layer.dt_proj.weight, layer.dt_proj.bias))[0]
        most = delta[:, delta.std(0).argsort(descending=True)[:24]]
        after = most[:-4][(tokens[0, :-4] < 8).roll(2)].mean(0) - most.mean(0)
        image = most[:, after.argsort(descending=True)].T.numpy()
        title = f"Layer {place + 1}: Δ of the 24 channels that change most"
        _gates(grid[place], image, tokens[0], title, float(np.quantile(image, 0.98)))
    return figure


def recurrentgemma() -> Figure:
    """Which step hears which, in a recurrent block and in the block that attends."""
    config = gemma_recipe.config(False)
    torch.manual_seed(config.seed)
    d = config.d_model
    stack = griffin_stack(lambda: GemmaHawk(d, d, 4), lambda: LocalAttention(d, 2, window=config.window), 3)
    inputs = [heard(block.mixer) for block in stack.blocks]
    echo, recall = gemma_recipe.accuracy(config, stack)
    print(f"  echo {echo:.3f}, recall {recall:.3f}")
    figure, grid = panels(1, 3, 3.0)
    for place, name in enumerate(("recurrent", "recurrent", "local attention")):
        axes, mixer, sequences = grid[0, place], stack.blocks[place].mixer, inputs[place][0][:8]
        size = torch.zeros(config.length, config.length)
        for sequence in sequences:
            jacobian = torch.autograd.functional.jacobian(lambda u, mixer=mixer: mixer(u[None])[0][0], sequence)
            size += jacobian.square().sum((1, 3)).sqrt()
        size /= size.diagonal().mean()
        axes.imshow(size.numpy(), cmap=HEAT, vmin=0, vmax=1, interpolation="none")
        axes.set_title(f"Block {place + 1}: {name}")
        axes.set_xlabel("input at step")
    grid[0, 0].set_ylabel("output at step")
    return figure


def hgrn() -> Figure:
    """The forget gates of three layers after training on text."""
    d, data = 96, Text(length=128).load()
    torch.manual_seed(0)
    stack = Stack(lambda: HGRN(d), 3, norm="layer")
    layers = [block.mixer for block in stack.blocks]
    model, generator = LanguageModel(256, stack), torch.Generator().manual_seed(0)

    def loss() -> Tensor:
        batch = data.train.batch(torch.randint(len(data.train), (16,), generator=generator))
        return cross_entropy(model(batch.inputs)[0].flatten(0, 1), batch.targets.flatten())

    losses = minimise(model, loss, steps=250, lr=5e-3, lr_factor=1.0)
    print(f"  {np.mean(losses[-20:]) / np.log(2):.2f} bits a byte")
    snippet = "for name in names:\n    if name in self.known:\n"
    tokens = torch.tensor([list(snippet.encode())])
    inputs = [heard(layer) for layer in layers]
    figure, grid = panels(1, 2, 2.9, width_ratios=[1, 1.7])
    spread, along = grid[0]
    with torch.no_grad():
        model(tokens)
        gates = [layer.forget_gate(x[0])[0][0] for layer, x in zip(layers, inputs, strict=True)]
        gamma = layers[0].bounds()
    for place, (lam, colour) in enumerate(zip(gates, (BEFORE, GREEN, AFTER), strict=True)):
        spread.plot(np.sort(lam.mean(0).numpy()), color=colour, label=f"layer {place + 1}")
        spread.plot(np.sort(gamma[place].numpy()), color=colour, lw=1, ls=(0, (3, 2)))
        along.plot(lam.mean(1).numpy(), color=colour)
    spread.set_title("λ by channel; γ dashed")
    spread.set_xlabel("channel, sorted")
    spread.set_ylim(0, 1)
    spread.grid(axis="y")
    spread.legend(frameon=False)
    along.set_title("Mean λ of a layer along a line of code")
    along.set_xticks(range(len(snippet)), [c if c > " " else {" ": "␣", "\n": "⏎"}[c] for c in snippet], fontsize=8)
    along.tick_params(axis="x", length=0)
    along.set_ylim(0, 1)
    along.grid(axis="y")
    return figure


def gateloop() -> Figure:
    """The transitions that GateLoop gives to each token of a running sum."""
    config = gateloop_recipe.config(False)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = gateloop_recipe.Accumulator(GateLoop(config.d_model))

    def unexplained(rows: int) -> Tensor:
        tokens, sums = gateloop_recipe.running_sum(config, rows, generator)
        return (model(tokens) - sums).square().mean() / sums.square().mean()

    minimise(model, lambda: unexplained(config.batch_size), steps=config.steps, lr=config.lr, lr_factor=1.0)
    layer, tokens = model.layer, torch.arange(10)
    with torch.no_grad():
        print(f"  {float(unexplained(500)):.1e} of the variance left")
        a = layer.transition(model.embedding(tokens)).numpy()  # (10, 2, D)
        stream, _ = gateloop_recipe.running_sum(config, 50, generator)
        x = heard(layer.out)
        model(stream)
        weight = (model.head.weight @ layer.out.weight)[0].abs() * x[0].std((0, 1))
        most = weight.argsort(descending=True)[:24].numpy()
    figure, grid = panels(1, 3, 3.1)
    angle = np.linspace(0, 2 * np.pi, 181)
    kinds = (
        ("a number: add it", slice(0, 8), AFTER),
        ("clear", slice(8, 9), MARK),
        ("turn the sign", slice(9, 10), GREEN),
    )
    for axes, (title, which, colour) in zip(grid[0], kinds, strict=True):
        axes.plot(np.cos(angle), np.sin(angle), color=MUTED, lw=0.8)
        axes.plot([-1, 1, np.nan, 0, 0], [0, 0, np.nan, -1, 1], color=RULE, lw=0.8)
        points = a[which][:, :, most]
        axes.scatter(points[:, 0].ravel(), points[:, 1].ravel(), s=22, color=colour, alpha=0.5, linewidths=0)
        axes.set_title(title)
        axes.set_aspect("equal")
        axes.set_axis_off()
    return figure


PICTURES = {draw.__name__: draw for draw in (griffin, recurrentgemma, mingru, hgrn, gateloop, mamba)}
