"""What a HiPPO memory of a few numbers still knows of a signal: online projection, reconstruction, and the picture."""

import torch
from torch import Tensor

from resurge.analysis import figures
from resurge.errors import ResurgeError, at_least
from resurge.nn.discretise import Discretise, bilinear
from resurge.nn.hippo import Measure


def project(
    f: Tensor,
    measure: Measure,
    n: int,
    *,
    window: float = 0.0,
    dt: Tensor | None = None,
    discretise: Discretise = bilinear,
) -> Tensor:
    """The coefficients c (..., T, n) that `measure` holds after each sample of the signals f (..., T), float64.

    Sample t is held for the time dt_t, up to its own moment. A scaled measure (LEGS) runs in logarithmic time, with
    step ln(t / (t - dt_t)), and starts from c = (f_1, 0, ...); the others start from c = 0, with step dt_t / window.

    Args:
        f: signals, sampled in order.
        measure: `LEGS`, `LEGT`, `LAGT` or `FOURIER` of `resurge.nn.hippo`.
        n: number of coefficients.
        window: length of the past that is held, in the unit of dt; a scaled measure holds all, and takes none.
        dt: times between samples (T,), positive; None is 1.
        discretise: one of `resurge.nn.discretise`.

    Cost: n² a sample, and a system of n equations whenever the step changes: for a scaled measure at every sample.

    Raises:
        ResurgeError: a window where there is none or none where there must be one, or times that are not positive.
    """
    T = f.shape[-1]
    at_least(1, {"n": n, "T": T})
    if measure.scaled != (window == 0) or not 0 <= window < torch.inf:
        expected = "0, since this measure holds the whole past," if measure.scaled else "positive and finite"
        raise ResurgeError(f"window must be {expected} and is {window}")
    steps = torch.ones(T, dtype=torch.float64) if dt is None else dt.double()
    if steps.shape != (T,) or not bool((torch.isfinite(steps) & (steps > 0)).all()):
        raise ResurgeError(f"dt must be {T} positive, finite numbers, and is {dt}")
    f, steps = f.double(), steps.to(f.device)
    A, B = (v.to(f.device) for v in measure.system(n))
    c, found = torch.zeros(*f.shape[:-1], n, dtype=torch.float64, device=f.device), []
    if measure.scaled:
        elapsed = torch.cumsum(steps, 0)
        delta = torch.log(elapsed[1:] / elapsed[:-1])
        c[..., 0] = f[..., 0]
        found.append(c)
    else:
        delta = steps / window
    last = 0.0
    for f_t, delta_t in zip(f.unbind(-1)[len(found) :], delta, strict=True):
        if float(delta_t) != last:
            A_t, B_t = discretise(A, B, delta_t)
            last = float(delta_t)
        c = c @ A_t.T + f_t[..., None] * B_t
        found.append(c)
    return torch.stack(found, -2)


def reconstruct(c: Tensor, measure: Measure, s: Tensor) -> Tensor:
    """The past as coefficients c (..., n) hold it: values (..., S) at ages s (S,), in units of the window.

    For a scaled measure the window is the time since the start: s = 0 is now, s = 1 the beginning. With samples held
    over steps of 1, the one of k steps ago lies at s = (k + 1/2) / window.
    """
    return c @ measure.basis(c.shape[-1], s).to(c).T


def ages(T: int, window: float) -> Tensor:
    """s (T,) of the samples of a signal, the first one first: (T - t + 1/2) / window for t = 1 ... T."""
    return (T - torch.arange(1, T + 1, dtype=torch.float64) + 0.5) / window


def picture(f: Tensor, memories: dict[str, tuple[Measure, int, float]]) -> str:
    """An SVG of the signal f (T,), and of what each memory still knows of it at the end.

    `memories` gives a name its measure, number of coefficients and window (0 for a scaled measure).
    """
    T, known = len(f), {}
    for name, (measure, n, window) in memories.items():
        c = project(f, measure, n, window=window)[-1]
        s = ages(T, window or T)
        known[name] = torch.where(s <= measure.span, reconstruct(c, measure, s), torch.nan)
    return figures.reconstruction(f, known)
