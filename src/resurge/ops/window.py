"""The diagonal recurrence over a sliding window: at every step, the last inputs alone."""

import torch
from torch import Tensor

from resurge.errors import ResurgeError, at_least
from resurge.ops.diagonal import diagonal_scan


def windowed_scan(a: Tensor, x: Tensor, window: int, *, reset: Tensor | None = None) -> Tensor:
    r"""What the last `window` inputs alone have made of the state of `diagonal_scan`, at every step.

        h_t = Σ_{t - window < i <= t} (Π_{i < j <= t} a_j) x_i = H_t - (Π_{t - window < j <= t} a_j) H_{t - window}

    with H the state of the recurrence without a window. The difference on the right is not what is computed: it loses
    the digits that H_t has in excess of h_t. Time is cut into blocks of `window` steps instead. A window is the end of
    one block and the beginning of the next: the sums over ends, over beginnings, and the products of the decays between
    them are scans that start anew at each block, and nothing is ever subtracted or divided.

    Args:
        a: coefficients, `(D,)`, `(T, D)`, `(B, T, D)` or `(B, 1, D)`.
        x: inputs `(B, T, D)`, T >= 1. If `a` or `x` is complex, both are taken as complex.
        window: number of inputs that a state sees, its own among them; 1 at least.
        reset: `(B, T)` bool. True cuts the link between t-1 and t.

    Returns:
        h `(B, T, D)` in the dtype of x (complex64 at least if a or x is complex). The state before the first step is
        zero. Gradients flow to a and x.

    Cost: four scans, whatever the window. Memory: five tensors of the size of x. To go on from a piece, give it again
    the last window - 1 inputs.

    Raises:
        ResurgeError: a window below 1, and as in `diagonal_scan`.

    Source: the sliding window of section 4.3 of arXiv 2410.07145; the blocks are those of van Herk's running maximum.
    """
    at_least(1, {"window": window})
    if x.dim() != 3:
        raise ResurgeError(f"x must have shape (B, T, D), and has {tuple(x.shape)}")
    B, T, D = x.shape
    place = torch.arange(T, device=x.device) % window
    first = (place == 0)[None].expand(B, T)
    h, _ = diagonal_scan(a, x, reset=first if reset is None else first | reset)  # of the present block
    if window >= T:
        return h
    a = a.expand(B, T, D) if a.dim() == 3 else a.expand(1, T, D)
    if reset is not None:
        a = torch.where(reset[..., None], 0, a)
    start, end, block = (place == 0)[:, None], (place == window - 1)[:, None], first[: len(a)]
    # the decays from the end of the block before up to t, and from i up to the end of its own block
    to_here, _ = diagonal_scan(a, torch.where(start, a, 0), reset=block)
    after = torch.cat([a[:, 1:], torch.zeros_like(a[:, :1])], 1)
    to_end, _ = diagonal_scan(after, end.to(a.dtype).expand_as(a), reset=block, reverse=True)
    ends, _ = diagonal_scan(torch.ones_like(a[0, 0]), to_end * x, reset=first, reverse=True)
    # the window of step t begins at t - window + 1: in the block before, unless t is the last step of its own
    begun = torch.where(end, 0, torch.cat([ends.new_zeros(B, window - 1, D), ends], 1)[:, :T])
    return h + (to_here * begun).to(h.dtype)
