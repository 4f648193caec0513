"""The diagonal scan as a blocked parallel scan in plain PyTorch: the form for devices without a kernel of their
own, and the composable one (vmap, jvp, double backward) everywhere."""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad


def scan(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool) -> tuple[Tensor, Tensor]:
    """Same arguments and result as `reference.scan`, in about 2 sqrt(T) sequential steps.

    T is cut into blocks of about sqrt(T) steps. All blocks are scanned at once from a state of zero, along with
    the running products of their coefficients; then the carry runs over the blocks: h = local + product * carry.
    Products are only ever multiplied, never divided by, so that they may underflow.
    """
    T, D = x.shape[1:]
    if reverse:
        a, x, cut = a.flip(1), x.flip(1), None if cut is None else cut.flip(1)
    block = max(1, math.isqrt(T))
    blocks = -(-T // block)
    a = a.expand(a.shape[0], T, D)
    padding = blocks * block - T
    if padding:  # a = 1 and x = 0 carry the state on unchanged
        a = torch.cat([a, a.new_ones(()).expand(a.shape[0], padding, D)], 1)
        x = pad(x, (0, 0, 0, padding))
    if cut is None:
        cut = torch.zeros(1, T, dtype=torch.bool, device=x.device)
    # a state behind a cut is put aside, not multiplied by 0: it may be infinite
    cut_at = pad(cut, (0, padding)).unflatten(1, (blocks, block))[..., None].unbind(2)
    a_at = a.unflatten(1, (blocks, block)).unbind(2)
    x_at = x.unflatten(1, (blocks, block)).unbind(2)
    zero = x.new_zeros(())
    local, product, linked = [x_at[0]], [a_at[0]], [~cut_at[0]]
    for i in range(1, block):
        local.append(a_at[i] * torch.where(cut_at[i], zero, local[-1]) + x_at[i])
        product.append(a_at[i] * product[-1])
        linked.append(linked[-1] & ~cut_at[i])
    carries = [h0]
    for end, gain, through in zip(local[-1].unbind(1), product[-1].unbind(1), linked[-1].unbind(1), strict=True):
        carries.append(gain * torch.where(through, carries[-1], zero) + end)
    carried = torch.where(torch.stack(linked, 2), torch.stack(carries[:-1], 1)[:, :, None], zero)
    h = (torch.stack(local, 2) + torch.stack(product, 2) * carried).flatten(1, 2)[:, :T]
    return (h.flip(1) if reverse else h), carries[-1]
