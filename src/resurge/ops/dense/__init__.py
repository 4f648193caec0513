"""What the recurrences with dense recurrent weights share: their states enter a nonlinearity, so that they go step by
step, and only the products with earlier states, all known in the backward pass, are taken over all steps at once."""

import torch
from torch import Tensor

from resurge.errors import ResurgeError


def before(h: Tensor, h0: Tensor, cut: Tensor | None) -> Tensor:
    """The state before each step (B, T, D), given all states, the one before the first and where a row starts anew."""
    earlier = torch.cat([h0[:, None], h[:, :-1]], 1)
    return earlier if cut is None else earlier.masked_fill_(cut[..., None], 0.0)


def check(
    p: Tensor,
    gates: int,
    weights: dict[str, tuple[Tensor, int]],
    states: dict[str, Tensor | None],
    reset: Tensor | None,
) -> int:
    """D of p (B, T, gates * D), and an error if the arguments do not fit; weights are (their number * D, D).

    Raises:
        ResurgeError: shapes that do not fit, integer tensors, mixed devices.
    """
    width = f"{gates} D" if gates > 1 else "D"
    if p.dim() != 3 or 0 in p.shape or p.shape[-1] % gates:
        raise ResurgeError(f"p must have shape (B, T, {width}) with B, T, D >= 1, and has {tuple(p.shape)}")
    B, T, D = *p.shape[:2], p.shape[-1] // gates
    expected: dict[str, tuple[Tensor | None, str, tuple[int, ...]]] = {
        **{name: (w, f"({k} D, D)" if k > 1 else "(D, D)", (k * D, D)) for name, (w, k) in weights.items()},
        **{
            name: (h, "(B, T)" if name == "dt" else "(B, D)", (B, T if name == "dt" else D))
            for name, h in states.items()
        },
    }
    for name, (value, words, shape) in expected.items():
        if value is not None and tuple(value.shape) != shape:
            raise ResurgeError(f"{name} must have shape {words} = {shape}, and has {tuple(value.shape)}")
    if reset is not None and (reset.dtype != torch.bool or tuple(reset.shape) != (B, T)):
        raise ResurgeError(
            f"reset must be bool of shape (B, T) = ({B}, {T}), and is {reset.dtype} of {tuple(reset.shape)}"
        )
    given = {"p": p, **{name: value for name, (value, *_) in expected.items()}}
    for name, value in given.items():
        if value is not None and not value.is_floating_point():
            raise ResurgeError(f"{name} must be floating point, and is {value.dtype}")
    for name, value in {**given, "reset": reset}.items():
        if value is not None and value.device != p.device:
            raise ResurgeError(f"{name} is on {value.device}, and p is on {p.device}: both must be on one device")
    return D


def wide(p: Tensor, *others: Tensor | None) -> torch.dtype:
    """The dtype that states are carried in."""
    return torch.float64 if torch.float64 in (p.dtype, *(v.dtype for v in others if v is not None)) else torch.float32
