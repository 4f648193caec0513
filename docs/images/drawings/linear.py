"""Linear systems: LRU, HiPPO, LSSL, S4D, S5."""

import math

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from drawings.style import AFTER, BEFORE, GREEN, MARK, MUTED, PURPLE, RULE, panels
from resurge.analysis.projection import ages, project, reconstruct
from resurge.layers import LRU, LSSL, S5, S4DInv, S4DLegS, S4DLin
from resurge.nn.hippo import FOURIER, LEGS, LEGT
from resurge.recipes import hippo as hippo_recipe
from resurge.recipes import lru as lru_recipe
from resurge.recipes import lssl as lssl_recipe
from resurge.recipes import s4d as s4d_recipe
from resurge.recipes.delay import Delay, trained
from resurge.recipes.trial import minimise
from resurge.recipes.uneven import Uneven, sinusoids


def lru() -> Figure:
    """One LRU learns a filter of eight damped waves: its eigenvalues, and the filter."""
    seed, length = 3, 256
    h = lru_recipe.make_filter(seed, length)
    transfer = torch.fft.rfft(h, 2 * length)
    torch.manual_seed(seed)
    model = lru_recipe.FilterModel(LRU(32, 32, r_min=0.96, r_max=0.998))
    before = model.layer.eigenvalues().detach().double().numpy()
    generator = torch.Generator().manual_seed(seed)

    def loss() -> Tensor:
        x = torch.randn(8, length, generator=generator)
        y = torch.fft.irfft(torch.fft.rfft(x.double(), 2 * length) * transfer)[:, :length]
        error: Tensor = model(x[..., None])[:, length // 2 :] - y[:, length // 2 :].float()
        return error.square().mean()

    minimise(model, loss, steps=500, lr=1e-2, lr_factor=0.5)
    after = model.layer.eigenvalues().detach().double().numpy()
    _, decay, frequency = torch.rand(3, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()

    figure, grid = panels(1, 2, 3.0, width_ratios=[1, 1.2])
    plane, curve = grid[0]
    (x0, y0), (x1, y1) = ((_turn(v), -1 / np.log(np.hypot(*v))) for v in (before, after))
    plane.plot([x0, x1], [y0, y1], color=AFTER, lw=0.7, alpha=0.5)
    plane.scatter(x0, y0, s=14, facecolors="none", edgecolors=BEFORE, linewidths=0.9, label="before")
    plane.scatter(x1, y1, s=14, color=AFTER, linewidths=0, label="after", zorder=3)
    plane.scatter(
        np.minimum(frequency, 1 - frequency),
        25 + 75 * decay,
        s=70,
        facecolors="none",
        edgecolors=MARK,
        linewidths=1.2,
        label="the filter's own",
    )
    plane.set_yscale("log")
    plane.set_yticks([10, 30, 100, 300], ["10", "30", "100", "300"])
    plane.minorticks_off()
    plane.set_ylim(9, 1500)
    plane.set_xlim(-0.01, 0.51)
    plane.set_title("Eigenvalues: memory in steps, by turns a step")
    plane.set_xlabel("turns a step")
    plane.grid(axis="y")
    plane.legend(frameon=False, loc="upper center", ncols=3, columnspacing=1, handletextpad=0.2)
    with torch.no_grad():
        impulse = torch.zeros(2, 160, 1)
        impulse[0, 0] = 1
        learned = (model(impulse)[0] - model(impulse)[1]).numpy()
    curve.plot(h[:160].numpy(), color=BEFORE, lw=3, label="the filter")
    curve.plot(learned, color=AFTER, lw=1.2, label="the model")
    curve.set_title("Impulse response after 500 steps")
    curve.set_xlabel("step")
    curve.grid(axis="y")
    curve.legend(frameon=False)
    return figure


def _turn(pair: np.ndarray) -> np.ndarray:
    """The angle of eigenvalues (2, N) in turns; those of conjugates are the same."""
    return np.abs(np.arctan2(pair[1], pair[0])) / (2 * math.pi)


def hippo() -> Figure:
    """A signal, and what three memories of 33 numbers give back of it at its end."""
    weights = torch.randn(32, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    f, n = hippo_recipe.smooth(weights, 900), 33
    figure, grid = panels(3, 1, 4.6, sharex=True)
    for axes, (name, measure, window, colour) in zip(
        grid[:, 0],
        (
            ("LegS: the whole past, on a scale that grows with it", LEGS, 0, AFTER),
            ("LegT: a window of 400 steps, in Legendre polynomials", LEGT, 400, GREEN),
            ("Fourier: a window of 400 steps, in waves that take its two ends for one", FOURIER, 400, PURPLE),
        ),
        strict=True,
    ):
        c = project(f, measure, n, window=window)[-1]
        s = ages(len(f), window or len(f))
        past = torch.where(s <= measure.span, reconstruct(c, measure, s), torch.nan)
        axes.plot(f.numpy(), color=BEFORE, lw=3)
        axes.plot(past.numpy(), color=colour, lw=1.3)
        axes.set_title(name)
        axes.set_xlim(0, len(f))
        axes.set_ylim(float(f.min()) - 0.4, float(f.max()) + 0.4)
        axes.grid(axis="y")
    grid[2, 0].set_xlabel("step of the signal (grey); the memory is read at the last one")
    return figure


def _answer(model: torch.nn.Module, length: int) -> np.ndarray:
    """What a model of `recipes.delay` answers to an impulse."""
    x = torch.zeros(2, length)
    x[0, 0] = 1
    with torch.no_grad():
        y: Tensor = model(x)
    return (y[0] - y[1]).numpy()


def lssl() -> Figure:
    """Impulse responses learned from three starts of A, and the two forms of the layer."""
    config = lssl_recipe.config(False)
    d, N = config.d_model, config.d_state
    model, x, _ = trained(config, lambda low, high: LSSL(d, N, dt_min=low, dt_max=high))
    figure, grid = panels(1, 2, 2.9)
    answers, forms = grid[0]
    answers.axvline(config.delay, color=MARK, lw=1, ls=(0, (4, 3)))
    answers.plot(_answer(model, config.length), color=AFTER, label="A = HiPPO-LegS")
    starts = {
        "A random": lambda: torch.randn(N, N) / math.sqrt(N),
        "A diagonal, LegS's eigenvalues": lambda: torch.diag(-torch.arange(1.0, N + 1)),
    }
    for (name, make), colour in zip(starts.items(), (GREEN, BEFORE), strict=True):
        other, _, _ = trained(
            config, lambda low, high, make=make: lssl_recipe.FreeA(d, make(), dt_min=low, dt_max=high)
        )
        answers.plot(_answer(other, config.length), color=colour, label=name)
    answers.set_title(f"Trained to give back what was {config.delay} steps ago")
    answers.set_xlabel("steps after an impulse")
    answers.set_ylim(-0.12, 0.16)
    answers.grid(axis="y")
    answers.legend(frameon=False, loc="lower right")
    with torch.no_grad():
        whole, half = model(x[:1])[0], model.recurrent(x[:1, 1::2], torch.full((1, config.length // 2), 2.0))[0]
    t = np.arange(config.length)
    forms.plot(
        t[config.delay :], x[0, : -config.delay].numpy(), color=BEFORE, lw=3, label=f"input, {config.delay} late"
    )
    forms.plot(t, whole.numpy(), color=AFTER, lw=1.2, label="convolution, every sample")
    forms.plot(t[1::2], half.numpy(), ".", color=MARK, ms=3.5, label="recurrence, every other sample, dt = 2")
    forms.set_title("One layer, two forms, two rates")
    forms.set_xlabel("step")
    low, high = forms.get_ylim()
    forms.set_ylim(low, high + 0.45 * (high - low))
    forms.legend(frameon=False, loc="upper left")
    return figure


def s4d() -> Figure:
    """The frequencies at the start, and the delay that is learned from each."""
    config = Delay(waves=12)
    d, N = config.d_model, config.d_state
    kinds = {
        "S4D-Lin": S4DLin,
        "S4D-Inv": S4DInv,
        "S4D-LegS": S4DLegS,
        "real": s4d_recipe.S4DReal,
        "random": s4d_recipe.S4DRandom,
    }
    colours = dict(zip(kinds, (AFTER, GREEN, PURPLE, BEFORE, MARK), strict=True))
    figure, grid = panels(1, 2, 3.0, width_ratios=[1, 1.5])
    spectra, answers = grid[0]
    torch.manual_seed(0)
    for name, cls in kinds.items():
        if name != "real":
            frequencies = np.sort(np.abs(cls.spectrum(64)[0].numpy()))
            spectra.plot(np.arange(32), frequencies, ".", ms=4, color=colours[name], label=name)
    spectra.set_yscale("log")
    spectra.set_ylim(5e-2, 1e3)
    spectra.set_title("Im A at the start, N = 64")
    spectra.set_xlabel("state, by its frequency")
    spectra.grid(axis="y")
    answers.axvline(config.delay, color=MUTED, lw=1, ls=(0, (4, 3)))
    for name, cls in kinds.items():
        model, _, _ = trained(config, lambda low, high, cls=cls: cls(d, N, dt_min=low, dt_max=high))
        answers.plot(_answer(model, config.length), color=colours[name], lw=1.4, label=name)
    answers.set_title(f"Trained to give back what was {config.delay} steps ago")
    answers.set_xlabel("steps after an impulse")
    answers.set_ylim(-0.12, 0.16)
    answers.grid(axis="y")
    answers.legend(frameon=False, loc="upper right")
    return figure


def s5() -> Figure:
    """A series by the number of its samples and by their times; and one state after an impulse."""
    config = Uneven(noise=0.0)
    x, dt, label = sinusoids(config, 200, torch.Generator().manual_seed(1))
    row = int((label == 4).nonzero()[0])
    time = torch.cumsum(dt[row], 0).numpy()
    figure, grid = panels(1, 3, 2.5)
    untold, told, state = grid[0]
    untold.plot(x[row].numpy(), ".-", color=BEFORE, lw=0.8, ms=5)
    untold.set_title("A sinusoid by sample")
    untold.set_xlabel("sample")
    omega = config.slowest * (config.fastest / config.slowest) ** (4 / (config.classes - 1))
    basis = np.stack([np.sin(omega * time), np.cos(omega * time)], 1)
    weight = np.linalg.lstsq(basis, x[row].numpy(), rcond=None)[0]
    fine = np.linspace(time[0], time[-1], 600)
    told.plot(fine, np.stack([np.sin(omega * fine), np.cos(omega * fine)], 1) @ weight, color=RULE)
    told.plot(time, x[row].numpy(), ".", color=AFTER, ms=5)
    told.set_title("The same by time")
    told.set_xlabel("time")
    layer = S5(1, 2, dt_min=1.0, dt_max=1.0).double()
    with torch.no_grad():
        layer.Lambda_re.fill_(-0.06)
        layer.Lambda_im.fill_(0.45)
        layer.D.zero_()
        gaps = dt[row : row + 1, :40].double()
        gaps[0, 0] = 1.0
        impulse = torch.zeros(1, 40, 1, dtype=torch.float64)
        impulse[0, 0] = 1
        right, wrong = layer(impulse, dt=gaps)[0][0, :, 0], layer(impulse)[0][0, :, 0]
        every = torch.full((1, 1200), 0.03, dtype=torch.float64)
        every[0, 0] = 1.0
        drawn = torch.zeros(1, 1200, 1, dtype=torch.float64)
        drawn[0, 0] = 1
        curve = layer(drawn, dt=every)[0][0, :, 0]
    at = torch.cumsum(gaps[0], 0)
    state.plot(torch.cumsum(every[0], 0).numpy(), curve.numpy(), color=RULE)
    state.plot(at.numpy(), right.numpy(), ".", color=AFTER, ms=5, label="told the gaps")
    state.plot(at.numpy(), wrong.numpy(), "x", color=MARK, ms=4, mew=1, label="not told")
    state.set_xlim(0, 36)
    state.set_ylim(-0.7, 1.3)
    state.set_title("One pair after an impulse")
    state.set_xlabel("time")
    state.legend(frameon=False, loc="upper right")
    for axes in grid[0]:
        axes.grid(axis="y")
    return figure


PICTURES = {draw.__name__: draw for draw in (lru, hippo, lssl, s4d, s5)}
