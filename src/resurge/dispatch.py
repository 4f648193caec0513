"""Which backend serves a call: chosen by the device and dtype of the tensors, told by `explain` and `backends`.

| backend     | what it is                                                        | serves                        |
| ----------- | ----------------------------------------------------------------- | ----------------------------- |
| `numba`     | compiled CPU kernels, forward and backward                        | CPU, float32 and float64      |
| `torch`     | a blocked parallel scan in plain PyTorch, composable              | every device; vmap, jvp, ...  |
| `reference` | the definition: a plain loop over time                            | tests, by `backend("reference")` |

Lower precisions enter every backend as float32. When a kernel that one would expect is not there, `torch`
serves and says why in one warning a reason.
"""

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError, unknown

BACKENDS = ("numba", "torch", "reference")
_NUMBA_FOUND = find_spec("numba") is not None
_forced: str | None = None


class Choice(NamedTuple):
    """The backend that serves, why it does, and whether something better was expected in its place."""

    backend: str
    reason: str
    fallback: bool = False


class Backend(NamedTuple):
    """One line of `resurge.backends()`."""

    name: str
    serves: str
    available: bool
    reason: str


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Make every op inside the block use backend `name`, for tests and comparisons.

    Raises:
        ResurgeError: no such backend. A tensor which the backend cannot serve is refused at the call.
    """
    global _forced
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    before, _forced = _forced, name
    try:
        yield
    finally:
        _forced = before


@cache
def numba_missing() -> str:
    """Why numba's kernels cannot be used here, or an empty string if they can."""
    try:
        importlib.import_module("numba")
    except Exception as error:
        return f"numba cannot be imported ({error})"
    return ""


def choose(device_type: str, dtype: torch.dtype) -> Choice:
    """The backend for tensors of this device and dtype, without warning about it."""
    if _forced is not None:
        if _forced == "numba" and device_type != "cpu":
            raise ResurgeError(f"backend 'numba' serves CPU tensors, and was given tensors on '{device_type}'")
        return Choice(_forced, f'forced by backend("{_forced}")')
    if device_type != "cpu":
        return Choice("torch", f"there is no kernel for '{device_type}' yet", fallback=True)
    if numba_missing():
        return Choice("torch", numba_missing(), fallback=True)
    return Choice("numba", f"CPU tensors, {dtype} (lower precisions are computed in float32)")


def transformed() -> bool:
    """Whether a functorch transform (vmap, jvp, ...) or forward-mode differentiation is under way."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def select(x: Tensor) -> str:
    """The name of the backend that serves an op on `x`; a fallback is told once a reason."""
    if torch.compiler.is_compiling():  # traced: no import, no warning, no transform to look for
        kernel = _NUMBA_FOUND and x.device.type == "cpu"
        return _forced or ("numba" if kernel else "torch")
    choice = choose(x.device.type, x.dtype)
    if choice.backend == "numba" and transformed():
        choice = Choice("torch", "vmap and forward-mode differentiation need a composable form", fallback=True)
    if choice.fallback:
        _warn_once(choice.reason)
    return choice.backend


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"resurge: the parallel scan in plain PyTorch serves, because {reason}", stacklevel=4)


def backends() -> list[Backend]:
    """What serves what on this machine, and why another does not."""
    missing = numba_missing()
    return [
        Backend("numba", "CPU: float32, float64; bfloat16 and float16 as float32", not missing, missing or "ready"),
        Backend("torch", "every device, dtype and functorch transform", True, "ready"),
        Backend("reference", 'tests and comparisons, by resurge.backend("reference")', True, "ready"),
    ]


def explain(layer: nn.Module, x: Tensor) -> str:
    """What would run, and why, if `layer` were called on `x` now: a line for each op of each recurrent layer."""
    choice = choose(x.device.type, x.dtype)
    lines = []
    for name, module in layer.named_modules():
        ops = getattr(module, "OPS", None)
        if ops is None:
            continue
        label = f"{name or 'layer'} ({type(module).__name__})"
        for op in ops:
            if op.startswith("torch."):
                lines.append(f"{label}: {op} <- PyTorch's own kernel for '{x.device.type}'")
            else:
                lines.append(f"{label}: {op} <- {choice.backend}: {choice.reason}")
    return "\n".join(lines)
