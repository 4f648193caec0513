"""Keeping freed memory in the process: large activations on the CPU are otherwise mapped and zeroed anew each time."""

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def reuse_freed_memory() -> bool:
    """Let glibc keep freed blocks of any size for the next allocation; whether that could be set.

    glibc gives blocks over 32 MB back to the system at once and asks for them anew, a page fault for each 4 kB: with
    activations of that size, a training step on the CPU spends more time in those faults than in its elementwise
    work. It is a setting of the whole process, so programs choose it (`resurge fit` does), not the library. The
    process then keeps its peak memory.
    """
    if not sys.platform.startswith("linux"):
        return False
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):  # musl
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, 1 << 30) and libc.mallopt(_M_TRIM_THRESHOLD, (1 << 31) - 1))
