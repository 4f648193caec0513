"""What becomes of freed memory: kept for the next large activations, and given back where it only makes holes."""

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


class FreedMemory:
    """Gives what was freed back to the system from time to time, where the work is of ever other sizes.

    Blocks of other sizes leave holes that no later one fits in: training on texts of different lengths, a process grew
    by 8 MB a step. What is needed again costs page faults.
    """

    EVERY = 32

    def __init__(self) -> None:
        self._size, self._changes = 0, 0

    def after(self, size: int) -> bool:
        """To be told the size of each piece of work; whether memory was given back."""
        self._changes += size != self._size
        self._size = size
        if self._changes < self.EVERY:
            return False
        self._changes = 0
        if not sys.platform.startswith("linux"):
            return False
        libc = ctypes.CDLL(None)
        return hasattr(libc, "malloc_trim") and bool(libc.malloc_trim(0))
