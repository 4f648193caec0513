"""How functions are compiled by numba. Imported only by the modules that hold such functions: numba takes a while."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib.util import find_spec
from typing import Any

import numpy as np


@contextmanager
def _uncollected() -> Iterator[None]:
    """No search for garbage meanwhile, nor afterwards among what has come. Of what an import makes hardly anything is,
    and looking through it and all of PyTorch, again and again as it grew, was half of the first call's time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            if not gc.get_freeze_count():  # the program has put nothing aside, which this would bring back
                gc.freeze()
                gc.unfreeze()  # into the oldest generation
            gc.enable()


@contextmanager
def _scipy_unread() -> Iterator[None]:
    """Meanwhile numba, which asks for BLAS by importing all of `scipy.linalg` (half of its loading), is told whether
    scipy is there. Code that calls BLAS asks numba again when it is compiled, and then scipy is imported."""
    from numba.np import linalg

    def ensure_blas() -> None:
        if find_spec("scipy") is None:
            raise ImportError("scipy is not installed")

    asked = linalg.ensure_blas
    linalg.ensure_blas = ensure_blas
    try:
        yield
    finally:
        linalg.ensure_blas = asked


with _uncollected():
    import numba
    from numba.core.registry import cpu_target

    with _scipy_unread():
        import numba.np.arraymath

    # What numba knows of Python and numpy, which it otherwise loads at the first kernel, and at the first array.
    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
    numba.typeof(np.empty(0))


@cache
def cache_is_writable() -> bool:
    """Whether numba finds a folder to keep compiled kernels in."""
    try:
        numba.njit(cache=True)(cache_is_writable.__wrapped__)
    except RuntimeError:
        return False
    return True


def jit(function: Any) -> Any:
    """`function` compiled at its first call, without the GIL, and kept on disk for later processes.

    A product and a sum may become one fused operation; nothing else of IEEE arithmetic is given up.
    """
    try:
        return _compiled(cache=True)(function)
    except RuntimeError:  # no folder that a cache could be written to: compile anew in each process
        return _compiled()(function)


def lean(function: Any) -> Any:
    """As `jit`, for functions that make no arrays: without counts of who holds one.

    A count is changed by a locked instruction, which waits for all stores before it: inside a loop that stores past the
    cache, it doubled the loop's time.
    """
    try:
        return _compiled(cache=True, _nrt=False)(function)
    except RuntimeError:
        return _compiled(_nrt=False)(function)


def inlined(function: Any) -> Any:
    """`function` written out in the kernels that call it: a call costs more than a loop over a short row."""
    return _compiled(inline="always")(function)


def summing(function: Any) -> Any:
    """`function` for kernels to call, compiled so that its sums may run in the lanes of a vector.

    The order of the terms depends on their number alone.
    """
    return _compiled(fastmath={"contract", "reassoc"})(function)


_compiled = partial(numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy")
