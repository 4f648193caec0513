"""Running on other numbers of threads."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def threads(count: int) -> Iterator[None]:
    """PyTorch's threads, `count` of them inside."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def same_on_any_threads(call: Callable[[], Sequence[Tensor]]) -> Sequence[Tensor]:
    """What `call` gives, which must be the same to the bit on 1, 2 and 5 threads."""
    results = []
    for count in (1, 2, 5):
        with threads(count):
            results.append(call())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))
    return results[0]
