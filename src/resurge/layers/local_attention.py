"""Griffin's local attention: several queries, one key and one value a step, over a sliding window."""

import math
from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.nn.rglru import GRIFFIN
from resurge.nn.rotary import rotate

# Steps whose attention is computed together: at least these, so that short windows make no tiny pieces, and a window's.
_BLOCK = 64


class LocalAttentionState(NamedTuple):
    """The keys and values of the last `window - 1` steps, the latest last, and 1 behind each that there was."""

    past: Tensor  # (B, window - 1, 2 d_head + 1)


class LocalAttention(RecurrentLayer):
    r"""Multi-query attention over the last `window` steps, its own among them, with rotary positions.

        y_t = W_o [head_1, ..., head_H] + b_o
        head_i = Σ_s softmax_s(R(q_{t,i}) · R(k_s) / sqrt(d_head)) v_s        t - window < s <= t

    q_i, k and v are linear maps of the input without bias; all heads share k and v. R turns the first half of a head by
    its place in time (`resurge.nn.rotary`). Of places only differences matter, so keys are kept unturned, and nothing
    counts steps: a stream may go on for ever. Initialisation as in the published code: q, k, v ~ N(0, 1/d_model),
    W_o ~ N(0, 2/(n_layers d_model)), b_o zero.

    Args:
        d_model: width D of inputs and outputs.
        n_heads: number H of heads of width d_head = D/H, a multiple of 4.
        window: number of steps that are seen, 2 at least.
        n_layers: number of residual blocks of the model, for the start of W_o; 1 in a `Stack`: its depth.

    State: (window - 1) (2 D/H + 1) numbers a row, a sliding window that each call copies: a state is a value, so that
    writing into a ring would copy it too. Cost: 2 D² (1 + 1/H) + 2 window D multiplications a step; keys older than the
    window are never read.

    Raises:
        ResurgeError: sizes out of range, or a width of heads that is no multiple of 4.

    Source: section 2.3 of "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
    Models", arXiv 2402.19427. Parameter names, and the window as the number of keys, are those of Hugging Face's
    RecurrentGemma; DeepMind's code sees one key more.
    """

    PAPER = GRIFFIN
    OPS = ("torch.scaled_dot_product_attention",)

    def __init__(self, d_model: int, n_heads: int = 1, *, window: int = 128, n_layers: int = 1) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "n_heads": n_heads, "n_layers": n_layers})
        at_least(2, {"window": window})
        if d_model % (4 * n_heads):
            raise ResurgeError(f"d_model / n_heads must be a multiple of 4, and is {d_model} / {n_heads}")
        self.d_model, self.n_heads, self.window, self.n_layers = d_model, n_heads, window, n_layers
        self.d_head = d_model // n_heads
        self.q_proj = nn.Linear(d_model, d_model, bias=False)
        self.k_proj = nn.Linear(d_model, self.d_head, bias=False)
        self.v_proj = nn.Linear(d_model, self.d_head, bias=False)
        self.o_proj = nn.Linear(d_model, d_model)
        for linear in (self.q_proj, self.k_proj, self.v_proj):
            nn.init.normal_(linear.weight, std=1 / math.sqrt(d_model))
        nn.init.normal_(self.o_proj.weight, std=math.sqrt(2 / (n_layers * d_model)))
        nn.init.zeros_(self.o_proj.bias)

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        for layer in layers.values():
            if layer.n_layers == 1:
                layer.n_layers = depth
                layer.o_proj.weight.data /= math.sqrt(depth)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}, n_heads={self.n_heads}, window={self.window}"

    def initial_state(
        self, batch_size: int, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> LocalAttentionState:
        return LocalAttentionState(
            self.zeros(batch_size, self.window - 1, 2 * self.d_head + 1, device=device, dtype=dtype)
        )

    def scan(self, x: Tensor, state: LocalAttentionState, reset: Tensor | None) -> tuple[Tensor, LocalAttentionState]:
        T, W = x.shape[1], self.window
        L = max(W, _BLOCK)
        q = self.q_proj(x).unflatten(-1, (self.n_heads, self.d_head)).transpose(1, 2)
        new = torch.cat([self.k_proj(x), self.v_proj(x)], -1)
        seen = torch.cat([state.past, pad(new, (0, 1), value=1.0).to(state.past.dtype)], 1)
        # the last start before each step of the piece, counted among all that is seen; -1 is before all of it
        start = None
        if reset is not None:
            places = torch.arange(W - 1, W - 1 + T, device=x.device)
            start = torch.where(reset, places, -1).cummax(1).values
        heads = [
            self._block(
                q[:, :, t : t + L], seen[:, t : t + L + W - 1], None if start is None else start[:, t : t + L] - t, t
            )
            for t in range(0, T, L)
        ]
        y = torch.cat(heads, 2).transpose(1, 2).flatten(2)
        past = seen[:, T:]
        if start is not None:
            kept = torch.arange(T, T + W - 1, device=x.device) >= start[:, -1:]
            past = torch.where(kept[..., None], past, torch.zeros((), dtype=past.dtype, device=past.device))
        return self.o_proj(y.to(x.dtype)), LocalAttentionState(past)

    def _block(self, q: Tensor, seen: Tensor, start: Tensor | None, t: int) -> Tensor:
        """Heads (B, H, L, d_head) of a block of L steps from t on; the first sees the first `window` of `seen`."""
        L, S = q.shape[2], seen.shape[1]
        places = torch.arange(S, device=q.device)
        first = places[:L, None]  # that each query sees; its own is the window's last
        mask = (places >= first) & (places < first + self.window)
        if t == 0:  # later blocks see nothing of the state
            mask = mask & (seen[:, None, :, -1] > 0.5)
        if start is not None:
            mask = mask & (places >= start[..., None])
        if mask.dim() == 3:
            mask = mask[:, None]
        k, v = seen[..., : self.d_head].to(q.dtype), seen[..., self.d_head : -1].to(q.dtype)
        positions = places.to(torch.promote_types(q.dtype, torch.float32))
        turned = self.d_head // 2
        q, k = rotate(q, positions[self.window - 1 :], turned), rotate(k, positions, turned)
        shared = (k[:, None].expand(-1, self.n_heads, -1, -1), v[:, None].expand(-1, self.n_heads, -1, -1))
        return scaled_dot_product_attention(q, *shared, attn_mask=mask)
