"""numba kernels of the diagonal scan. Complex numbers are pairs in the last axis, as PyTorch lays them out.

A kernel walks time once and keeps a row of states in cache; the loop over channels inside is the one that LLVM
turns into vector instructions. Coefficients come as (1 or B, 1 or T, ...) and are indexed with a step of 0 or 1.
"""

from functools import partial
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from resurge.ops.threads import run

# How many float32 products are summed before they go to the float64 sum of a coefficient's gradient: a plain
# float32 sum over a million steps would lose half its digits.
_PARTIAL = 64


def _jit(function: Any) -> Any:
    jit = partial(numba.njit, nogil=True, fastmath={"contract"}, error_model="numpy")
    try:
        return jit(cache=True)(function)
    except RuntimeError:  # no folder that a cache could be written to: compile anew in each process
        return jit()(function)


@_jit
def _forward_real(a, x, h0, cut, reverse, h, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    T = x.shape[1]
    b_step, t_step = int(a.shape[0] > 1), int(a.shape[1] > 1)
    for b in range(b0, b1):
        for k in range(T):
            t = T - 1 - k if reverse else k
            a_t, x_t, h_t = a[b * b_step, t * t_step], x[b, t], h[b, t]
            if cut.shape[0] > 0 and cut[b, t]:
                for d in range(d0, d1):
                    h_t[d] = x_t[d]
            else:
                previous = h0[b] if k == 0 else h[b, t + 1 if reverse else t - 1]
                for d in range(d0, d1):
                    h_t[d] = a_t[d] * previous[d] + x_t[d]


@_jit
def _forward_pairs(a, x, h0, cut, reverse, h, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    T = x.shape[1]
    b_step, t_step = int(a.shape[0] > 1), int(a.shape[1] > 1)
    for b in range(b0, b1):
        for k in range(T):
            t = T - 1 - k if reverse else k
            a_t, x_t, h_t = a[b * b_step, t * t_step], x[b, t], h[b, t]
            if cut.shape[0] > 0 and cut[b, t]:
                for d in range(d0, d1):
                    h_t[d, 0] = x_t[d, 0]
                    h_t[d, 1] = x_t[d, 1]
            else:
                previous = h0[b] if k == 0 else h[b, t + 1 if reverse else t - 1]
                for d in range(d0, d1):
                    re, im = previous[d, 0], previous[d, 1]
                    h_t[d, 0] = a_t[d, 0] * re - a_t[d, 1] * im + x_t[d, 0]
                    h_t[d, 1] = a_t[d, 0] * im + a_t[d, 1] * re + x_t[d, 1]


@_jit
def _backward_real(a, h, h0, cut, reverse, dh, dh_last, da, da_sum, dx, dh0, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    """ĝ_t = dh_t + a_{t+1} ĝ_{t+1};  dx_t = ĝ_t;  da_t = ĝ_t h_{t-1};  dh0 = a_1 ĝ_1."""
    T = h.shape[1]
    b_step, t_step = int(a.shape[0] > 1), int(a.shape[1] > 1)
    constant = da_sum.shape[0] > 0
    carry = np.empty_like(h0[0])
    partial = np.zeros_like(h0[0])
    for b in range(b0, b1):
        for d in range(d0, d1):
            carry[d] = dh_last[b, d]
        for k in range(T - 1, -1, -1):
            t = T - 1 - k if reverse else k
            a_t, dh_t, dx_t = a[b * b_step, t * t_step], dh[b, t], dx[b, t]
            if cut.shape[0] > 0 and cut[b, t]:
                for d in range(d0, d1):
                    dx_t[d] = dh_t[d] + carry[d]
                    carry[d] = 0
                if not constant:
                    da[b, t, d0:d1] = 0
            else:
                previous = h0[b] if k == 0 else h[b, t + 1 if reverse else t - 1]
                da_t = partial if constant else da[b, t]
                if constant:
                    for d in range(d0, d1):
                        g = dh_t[d] + carry[d]
                        dx_t[d] = g
                        da_t[d] += g * previous[d]
                        carry[d] = a_t[d] * g
                else:
                    for d in range(d0, d1):
                        g = dh_t[d] + carry[d]
                        dx_t[d] = g
                        da_t[d] = g * previous[d]
                        carry[d] = a_t[d] * g
            if constant and (k % _PARTIAL == 0):
                for d in range(d0, d1):
                    da_sum[b, d] += partial[d]
                    partial[d] = 0
        for d in range(d0, d1):
            dh0[b, d] = carry[d]


@_jit
def _backward_pairs(a, h, h0, cut, reverse, dh, dh_last, da, da_sum, dx, dh0, b0, b1, d0, d1):  # type: ignore[no-untyped-def]
    """As `_backward_real`, with conj(a) and conj(h): gradients are dL/dRe + i dL/dIm."""
    T = h.shape[1]
    b_step, t_step = int(a.shape[0] > 1), int(a.shape[1] > 1)
    constant = da_sum.shape[0] > 0
    carry = np.empty_like(h0[0])
    partial = np.zeros_like(h0[0])
    for b in range(b0, b1):
        for d in range(d0, d1):
            carry[d, 0] = dh_last[b, d, 0]
            carry[d, 1] = dh_last[b, d, 1]
        for k in range(T - 1, -1, -1):
            t = T - 1 - k if reverse else k
            a_t, dh_t, dx_t = a[b * b_step, t * t_step], dh[b, t], dx[b, t]
            if cut.shape[0] > 0 and cut[b, t]:
                for d in range(d0, d1):
                    dx_t[d, 0] = dh_t[d, 0] + carry[d, 0]
                    dx_t[d, 1] = dh_t[d, 1] + carry[d, 1]
                    carry[d, 0] = 0
                    carry[d, 1] = 0
                if not constant:
                    da[b, t, d0:d1] = 0
            else:
                previous = h0[b] if k == 0 else h[b, t + 1 if reverse else t - 1]
                da_t = partial if constant else da[b, t]
                if constant:
                    for d in range(d0, d1):
                        re, im = dh_t[d, 0] + carry[d, 0], dh_t[d, 1] + carry[d, 1]
                        dx_t[d, 0] = re
                        dx_t[d, 1] = im
                        da_t[d, 0] += re * previous[d, 0] + im * previous[d, 1]
                        da_t[d, 1] += im * previous[d, 0] - re * previous[d, 1]
                        carry[d, 0] = a_t[d, 0] * re + a_t[d, 1] * im
                        carry[d, 1] = a_t[d, 0] * im - a_t[d, 1] * re
                else:
                    for d in range(d0, d1):
                        re, im = dh_t[d, 0] + carry[d, 0], dh_t[d, 1] + carry[d, 1]
                        dx_t[d, 0] = re
                        dx_t[d, 1] = im
                        da_t[d, 0] = re * previous[d, 0] + im * previous[d, 1]
                        da_t[d, 1] = im * previous[d, 0] - re * previous[d, 1]
                        carry[d, 0] = a_t[d, 0] * re + a_t[d, 1] * im
                        carry[d, 1] = a_t[d, 0] * im - a_t[d, 1] * re
            if constant and (k % _PARTIAL == 0):
                for d in range(d0, d1):
                    da_sum[b, d, 0] += partial[d, 0]
                    da_sum[b, d, 1] += partial[d, 1]
                    partial[d, 0] = 0
                    partial[d, 1] = 0
        for d in range(d0, d1):
            dh0[b, d, 0] = carry[d, 0]
            dh0[b, d, 1] = carry[d, 1]


def _array(tensor: Tensor) -> np.ndarray:
    array: np.ndarray = tensor.detach().contiguous().numpy()
    return array


def _cut_array(cut: Tensor | None) -> np.ndarray:
    return np.empty((0, 0), np.bool_) if cut is None else _array(cut)


def forward(a: Tensor, x: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool) -> Tensor:
    """All states h, shaped as x. Pairs are told by the fourth axis of x: (B, T, D, 2)."""
    h = torch.empty_like(x, memory_format=torch.contiguous_format)
    kernel = _forward_pairs if x.dim() == 4 else _forward_real
    arguments = (_array(a), _array(x), _array(h0), _cut_array(cut), reverse, h.numpy())
    run(kernel, arguments, x.shape[0], x.shape[2], x.numel())
    return h


def backward(
    a: Tensor, h: Tensor, h0: Tensor, cut: Tensor | None, reverse: bool, dh: Tensor, dh_last: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(da shaped as a, dx shaped as h, dh0 shaped as h0) from the gradients of all states and of the last."""
    constant = a.shape[1] == 1
    dx = torch.empty_like(h, memory_format=torch.contiguous_format)
    dh0 = torch.empty_like(h0, memory_format=torch.contiguous_format)
    da = torch.empty_like(h0[:0, None] if constant else dx)
    da_sum = h0.new_zeros(h0.shape if constant else (0, *h0.shape[1:]), dtype=torch.float64)
    kernel = _backward_pairs if h.dim() == 4 else _backward_real
    arguments = (
        *(_array(a), _array(h), _array(h0), _cut_array(cut), reverse, _array(dh), _array(dh_last)),
        *(da.numpy(), da_sum.numpy(), dx.numpy(), dh0.numpy()),
    )
    run(kernel, arguments, h.shape[0], h.shape[2], h.numel())
    if constant:
        da = da_sum[:, None].to(a.dtype) if a.shape[0] > 1 else da_sum.sum(0)[None, None].to(a.dtype)
    elif a.shape[0] == 1 and h.shape[0] > 1:
        da = da.sum(0, keepdim=True)
    return da, dx, dh0
