"""What is made of other layers: Mamba-ND, the temporal perspectives, BabyHGRN, Stuffed Mamba."""

import random
from itertools import pairwise

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from drawings.gated import heard
from drawings.style import AFTER, BEFORE, COLOURS, GREEN, HEAT, MARK, MUTED, panels
from resurge.analysis.collapse import loss_by_position, state_trace
from resurge.analysis.minimal_pairs import log_probabilities
from resurge.layers import Mamba
from resurge.models import rwkv4, with_perspectives
from resurge.models.grid import GridStack
from resurge.models.language import LanguageModel
from resurge.models.perspectives import freeze_trunk
from resurge.nn.mitigation import ForgetMore, SlidingWindow, StateNorm, mitigated
from resurge.nn.orders import IMAGE_ORDERS
from resurge.recipes import babyhgrn as babyhgrn_recipe
from resurge.recipes import stuffed_mamba as stuffed_recipe
from resurge.recipes import temporal_rnn as temporal_recipe


def mamba_nd() -> Figure:
    """The four orders of an image, and which cells the middle one has heard of after as many layers."""
    side, d = 11, 16
    torch.manual_seed(0)
    stack = GridStack(lambda: Mamba(d, 8, dt_min=0.1, dt_max=0.5), 4)
    x = torch.randn(1, side, side, d)
    cells = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)[None]
    figure, grid = panels(2, 4, 4.3)
    names = ("H+: rows", "H-: rows, from the end", "W+: columns", "W-: columns, from the end")
    for place, (order, name) in enumerate(zip(IMAGE_ORDERS, names, strict=True)):
        way = order.flatten(cells)[0].numpy()
        path, reach = grid[:, place]
        path.plot(way[:, 1], way[:, 0], color=BEFORE, lw=0.5)
        for line in np.split(way, side):
            path.plot(line[:, 1], line[:, 0], color=AFTER, lw=1)
        path.plot(way[0, 1], way[0, 0], "o", color=MARK, ms=5)
        path.set_title(name)

        def middle(u: Tensor, depth: int = place + 1) -> Tensor:
            u = stack.parts[:depth](u)
            return u[0, side // 2, side // 2]

        heard_of = torch.autograd.functional.jacobian(middle, x)[:, 0].square().sum((0, 3)).sqrt()
        heard_of[side // 2, side // 2] = 0
        reach.imshow((heard_of / heard_of.max()).sqrt().numpy(), cmap=HEAT, vmin=0, vmax=1, interpolation="none")
        reach.plot(side // 2, side // 2, "o", color=MARK, ms=5)
        reach.set_title(f"heard after layer {place + 1}")
    for axes in grid.flat:
        axes.set_aspect("equal")
        axes.set_xlim(-0.6, side - 0.4)
        axes.set_ylim(side - 0.4, -0.6)
        axes.set_axis_off()
    return figure


def temporal_rnn() -> Figure:
    """The mixture α of four perspectives by the present word, and the loss while they learn."""
    config = temporal_recipe.config(False)
    torch.manual_seed(config.seed)
    words, d = temporal_recipe._WORDS, config.d_model
    embedding = torch.nn.Sequential(torch.nn.Embedding(words, d), torch.nn.LayerNorm(d))
    head = torch.nn.Linear(d, words, bias=False)
    trunk = LanguageModel(words, rwkv4(d, config.depth), embedding=embedding, head=head)
    temporal_recipe.learn(config, trunk, by_word=False, steps=config.trunk_steps, lr=config.trunk_lr)
    model = with_perspectives(trunk, config.perspectives, noise=config.noise)
    freeze_trunk(model)
    temporal_recipe.learn(config, model, by_word=True, steps=config.steps, lr=config.lr)
    print(f"  {temporal_recipe.judge(config, model)[2]:.3f} of the answers right")
    model.eval()
    mean = heard(model.stack.W_c)
    generator = torch.Generator().manual_seed(1)
    stream, _ = temporal_recipe.stream(256, config.length, generator, by_word=True)
    with torch.no_grad():
        model(stream)
        alpha = torch.softmax(model.stack.W_c(mean[0]), -1)[:, 2:]
        by_word = torch.stack([alpha[stream[:, 2:] == word].mean(0) for word in range(words)], 1)
        mixes = [block.mixer.time_mix_key[:, 0].numpy() for block in model.stack.blocks]
    figure, grid = panels(1, 2, 2.7, width_ratios=[1.5, 1])
    weight, shift = grid[0]
    order = list(range(0, words, 2)) + list(range(1, words, 2))
    image = weight.imshow(by_word[:, order].numpy(), cmap=HEAT, aspect="auto", vmin=0, vmax=1, interpolation="none")
    weight.set_xticks(range(words), [str(word) for word in order])
    weight.set_yticks(range(config.perspectives), [str(p + 1) for p in range(config.perspectives)])
    weight.axvline(words / 2 - 0.5, color=MARK, lw=1.2)
    weight.set_title("Mean α of each perspective, by the present word")
    weight.set_xlabel("even words ask for one step back   |   odd words for two")
    weight.set_ylabel("perspective")
    figure.colorbar(image, ax=weight, fraction=0.04, pad=0.01).outline.set_visible(False)
    for p in range(config.perspectives):
        shift.plot(np.sort(mixes[0][p]), color=COLOURS[p], lw=1.3, label=f"perspective {p + 1}")
    shift.set_title("μ of the first layer's keys")
    shift.set_xlabel("channel, sorted in each")
    shift.grid(axis="y")
    shift.legend(frameon=False, fontsize=9)
    return figure


def babyhgrn() -> Figure:
    """How much likelier the right sentence of a pair is, and the pairs told right by the nouns between."""
    config = babyhgrn_recipe.config(False)
    draw = random.Random(config.seed)
    text = babyhgrn_recipe.corpus(draw, config.sentences)
    model = babyhgrn_recipe.make(config, config.seed)
    babyhgrn_recipe.learn(config, model, text, config.steps, babyhgrn_recipe.of_text)
    between: dict[int, list] = {count: [] for count in range(1, 6)}
    for pair in babyhgrn_recipe.pairs(draw, 1200) + _crowded(draw, 1200):
        verb = next(i for i, (a, b) in enumerate(zip(pair.good.split(), pair.bad.split(), strict=True)) if a != b)
        nouns = sum(word.startswith("noun") for word in pair.good.split()[:verb]) - 1
        if nouns in between:
            between[nouns].append(pair)
    figure, grid = panels(1, 2, 2.7, width_ratios=[1, 1.3])
    shares, spread = grid[0]
    accuracy, bigram = [], []
    for count, judged in between.items():
        sentences = [text for pair in judged for text in (pair.good, pair.bad)]
        good, bad = log_probabilities(model, babyhgrn_recipe.encode, sentences, prefix=".").view(-1, 2).unbind(1)
        accuracy.append(float((good > bad).double().mean()))
        bigram.append(babyhgrn_recipe.bigram_accuracy(text, judged))
        if count in (1, 3, 5):
            colour = {1: AFTER, 3: COLOURS[2], 5: MARK}[count]
            spread.hist(
                (good - bad).numpy(),
                np.linspace(-6, 14, 41),
                histtype="step",
                color=colour,
                density=True,
                label=str(count),
            )
    print("  right by nouns between:", [(len(v), round(a, 3)) for v, a in zip(between.values(), accuracy, strict=True)])
    shares.plot(list(between), accuracy, "o-", color=AFTER, ms=5, label="HGRN")
    shares.plot(list(between), bigram, "o-", color=BEFORE, ms=5, label="pairs of words")
    shares.axhline(0.5, color=MARK, lw=1, ls=(0, (4, 3)))
    shares.set_ylim(0, 1.05)
    shares.set_xticks(list(between))
    shares.set_title("Minimal pairs told right")
    shares.set_xlabel("nouns between subject and verb")
    shares.grid(axis="y")
    shares.legend(frameon=False, loc="lower left")
    spread.axvline(0, color=BEFORE, lw=1)
    spread.set_title("ln P(right) - ln P(wrong), by nouns between")
    spread.set_yticks([])
    spread.set_xlabel("nats")
    spread.legend(frameon=False)
    return figure


def _crowded(draw: random.Random, number: int) -> list:
    """Pairs with three nouns between, and more."""
    made = []
    while len(made) < number:
        words, place = babyhgrn_recipe.sentence(draw, attractors=draw.choice((3, 4, 5)))
        verb, _, form = words[place].partition(".")
        wrong = [*words[:place], f"{verb}.{'many' if form == 'one' else 'one'}", *words[place + 1 :]]
        made.append(babyhgrn_recipe.MinimalPair(" ".join(words), " ".join(wrong), "attractors", "crowded"))
    return made


def stuffed_mamba() -> Figure:
    """The loss and the size of the state by position, as trained and with each mitigation."""
    config = stuffed_recipe.config(False)
    torch.manual_seed(config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    model = stuffed_recipe.trained(config, generator)
    near, _ = stuffed_recipe.stream(config, 512, config.length, generator)
    p = float(state_trace(model, near, every=config.length).norm["0.h"].mean())
    test = stuffed_recipe.stream(config, 2 * config.rows, config.far // 2, generator)
    models = {
        "as trained": model,
        "forgets more": mitigated(model, lambda layer: ForgetMore(layer, forget=config.forget)),
        "normalised": mitigated(model, lambda layer: StateNorm(layer, p, chunk_size=config.length)),
        "window": mitigated(model, lambda layer: SlidingWindow(layer, config.length)),
    }
    figure, grid = panels(1, 2, 2.9)
    left, right = grid[0]
    edges = np.unique(np.geomspace(4, config.far // 2, 28).astype(int))
    for (name, each), colour in zip(models.items(), (MARK, GREEN, BEFORE, AFTER), strict=True):
        loss = loss_by_position(each, *test, every=256).numpy()
        means = [loss[start:stop].mean() for start, stop in pairwise(edges)]
        left.plot(np.sqrt(edges[1:] * edges[:-1]), means, color=colour, label=name)
        if name in ("as trained", "normalised"):
            traced = state_trace(each, test[0], every=config.length).norm
            norms = next(norm for part, norm in traced.items() if part.endswith(".h")).mean(-1)
            right.plot(config.length * np.arange(1, len(norms) + 1), norms.numpy(), color=colour)
    left.set_title("Loss in nats by position")
    right.set_title("Norm of the state by position")
    for axes in grid[0]:
        axes.set_xscale("log")
        axes.axvline(config.length, color=MUTED, lw=1, ls=(0, (4, 3)))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("step; dashed: the length of training")
        axes.grid(axis="y")
    left.set_ylim(0, 2.9)
    left.legend(frameon=False, ncols=2, loc="upper left")
    return figure


PICTURES = {draw.__name__: draw for draw in (mamba_nd, temporal_rnn, babyhgrn, stuffed_mamba)}
