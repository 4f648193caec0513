"""Which backend serves a call: chosen by the device and dtype of the tensors, told by `explain` and `backends`.

| backend     | what it is                                                        | serves                        |
| ----------- | ----------------------------------------------------------------- | ----------------------------- |
| `triton`    | compiled GPU kernels, forward and backward                        | CUDA, all float types         |
| `numba`     | compiled CPU kernels, forward and backward                        | CPU, all float types          |
| `torch`     | a parallel form in plain PyTorch, composable                      | every device; vmap, jvp, ...  |
| `reference` | the definition: a plain loop over time                            | tests, by `backend("reference")` |

States are carried in float32 (float64 for float64) by all of them. When a kernel that one would expect is not there,
`torch` serves and says why in one warning a reason.
"""

import importlib
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from resurge.errors import ResurgeError, unknown

BACKENDS = ("triton", "numba", "torch", "reference")
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
        importlib.import_module("resurge.jit")
    except Exception as error:
        return f"numba cannot be imported ({error})"
    return ""


@cache
def triton_missing() -> str:
    """Why Triton's kernels cannot be used here, or an empty string if they can."""
    try:
        importlib.import_module("triton")
    except Exception as error:
        return f"triton cannot be imported ({error})"
    if not (os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")):
        return "triton needs a C compiler, and none was found (gcc, clang, or the one that CC names)"
    return ""


@cache
def interpreted() -> bool:
    """Whether Triton's kernels run in its interpreter, on CPU tensors too: set by TRITON_INTERPRET=1 at the start."""
    return not triton_missing() and bool(importlib.import_module("triton").knobs.runtime.interpret)


def choose(device_type: str, dtype: torch.dtype) -> Choice:
    """The backend for tensors of this device and dtype, without warning about it."""
    if _forced is not None:
        if _forced == "numba" and device_type != "cpu":
            raise ResurgeError(f"backend 'numba' serves CPU tensors, and was given tensors on '{device_type}'")
        if _forced == "triton" and device_type != "cuda" and not interpreted():
            raise ResurgeError(f"backend 'triton' serves CUDA tensors, and was given tensors on '{device_type}'")
        return Choice(_forced, f'forced by backend("{_forced}")')
    if device_type == "cuda":
        if triton_missing():
            return Choice("torch", triton_missing(), fallback=True)
        return Choice("triton", f"CUDA tensors, {dtype}")
    if device_type != "cpu":
        return Choice("torch", f"there is no kernel for '{device_type}'", fallback=True)
    if numba_missing():
        return Choice("torch", numba_missing(), fallback=True)
    return Choice("numba", f"CPU tensors, {dtype} (float16 and bfloat16 are computed in float32)")


def kernels(op: str, x: Tensor) -> ModuleType:
    """The module with the kernels of `op` that serve `x`: `cpu` (numba) or `gpu` (Triton)."""
    on_gpu = x.is_cuda or _forced == "triton"
    try:
        return importlib.import_module(f"resurge.ops.{op}.{'gpu' if on_gpu else 'cpu'}")
    except ImportError as error:
        reason = (triton_missing if on_gpu else numba_missing)() or str(error)
        raise ResurgeError(f"{reason}: what was traced or forced to use it must be traced anew") from error


def transformed() -> bool:
    """Whether a functorch transform (vmap, jvp, ...) or forward-mode differentiation is under way."""
    return torch._C._are_functorch_transforms_active() or torch.autograd.forward_ad._current_level >= 0


def _kernel(device_type: str) -> str:
    """The best backend of a device for code that is being traced. This function runs meanwhile, and is not traced.

    Nothing is imported: `torch.export` has put functions of its own in the place of Python's, which numba would keep.
    """
    for device, name, missing in (("cpu", "numba", numba_missing), ("cuda", "triton", triton_missing)):
        if device_type == device:
            absent = missing() if missing.cache_info().currsize else find_spec(name) is None
            return "torch" if absent else name
    return "torch"


# What torch.compiler.assume_constant_result does, which would import PyTorch's compiler for it.
_kernel._dynamo_marked_constant = True  # type: ignore[attr-defined]


def select(x: Tensor) -> str:
    """The name of the backend that serves an op on `x`; a fallback is told once a reason."""
    if torch.compiler.is_compiling():  # traced: no warning
        serving = _forced or _kernel(x.device.type)
        return "torch" if serving in ("numba", "triton") and transformed() else serving
    choice = choose(x.device.type, x.dtype)
    if choice.backend in ("numba", "triton") and transformed():
        choice = Choice("torch", "vmap and forward-mode differentiation need a composable form", fallback=True)
    if choice.fallback:
        _warn_once(choice.reason)
    return choice.backend


@cache
def _warn_once(reason: str) -> None:
    warnings.warn(f"resurge: the parallel scan in plain PyTorch serves, because {reason}", stacklevel=4)


def backends() -> list[Backend]:
    """What serves what on this machine, and why another does not."""
    no_numba, no_triton = numba_missing(), triton_missing() or ("" if torch.cuda.is_available() else "no CUDA device")
    return [
        Backend("triton", "CUDA: float32, float64, bfloat16, float16", not no_triton, no_triton or "ready"),
        Backend("numba", "CPU: float32, float64; bfloat16, float16 as float32", not no_numba, no_numba or _cached()),
        Backend("torch", "every device, dtype and functorch transform", True, "ready"),
        Backend("reference", 'tests and comparisons, by resurge.backend("reference")', True, "ready"),
    ]


def _cached() -> str:
    """Whether numba's compiled kernels can be kept on disk."""
    jit = importlib.import_module("resurge.jit")
    return "ready" if jit.cache_is_writable() else "ready; compiled anew in each process, for want of a cache folder"


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
