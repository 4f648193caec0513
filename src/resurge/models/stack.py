"""The deep residual stack around recurrent layers, and how it treats rows of different lengths."""

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from resurge.errors import ResurgeError
from resurge.layer import RecurrentLayer, checked_times, run, settle
from resurge.nn import GatedLinear, HalfGatedLinear, TiedDropout
from resurge.nn import norm as make_norm
from resurge.state import where

StackState = tuple[Any, ...]


class Block(nn.Module):
    """Base of the blocks that a stack is made of: a recurrent layer `mixer`, and what is around it."""

    mixer: RecurrentLayer

    def initial_state(self, batch_size: int) -> Any:
        """The state before the first step."""
        return self.mixer.initial_state(batch_size)

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        *,
        valid: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        """x (B, T, D) to the same shape, and the mixer's state; valid (B, T) tells real steps from padding.

        dt (B, T) is for mixers that take it: `resurge.layer.run` lets it pass by the others.
        """
        raise TypeError(f"{type(self).__name__} does not define forward")


class ResidualBlock(Block):
    r"""A recurrent layer, a nonlinearity and a gate, with a skip connection around them.

        z = Norm(x);  z = mixer(z);  z = Dropout(GELU(z));  z = Dropout(GLU(z));  x + z

    Args:
        mixer: the recurrent layer.
        norm: "batch", "layer" or "rms".
        prenorm: normalise the branch's input (as above), or else the sum: Norm(x + z).
        dropout: probability, with one mask shared over time.
        half_glu: z ⊙ σ(W z + b) in the place of the GLU.

    Source: appendix B of arXiv 2303.06349.
    """

    def __init__(
        self,
        mixer: RecurrentLayer,
        *,
        norm: str = "batch",
        prenorm: bool = True,
        dropout: float = 0.0,
        half_glu: bool = False,
    ) -> None:
        super().__init__()
        self.mixer = mixer
        self.norm = make_norm(norm, mixer.d_model)
        self.prenorm = prenorm
        self.glu = (HalfGatedLinear if half_glu else GatedLinear)(mixer.d_model)
        self.dropout = TiedDropout(dropout)

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        *,
        valid: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        z = self.norm(x, valid) if self.prenorm else x
        z, state = run(self.mixer, z, state, reset=reset, dt=dt)
        z = self.dropout(self.glu(self.dropout(gelu(z))))
        x = x + z
        return (x if self.prenorm else self.norm(x, valid)), state


class MixerMLPBlock(Block):
    r"""A recurrent layer and a feed-forward part, each with a norm before it and a skip connection around it.

        z = x + Dropout(mixer(Norm(x)));  z + Dropout(mlp(Norm(z)))

    Args:
        mixer: the recurrent layer.
        mlp: a map of each step alone, such as `resurge.nn.GatedMLP`.
        norm: "batch", "layer" or "rms".
        dropout: probability, with one mask shared over time.

    Source: section 2.1 of arXiv 2402.19427.
    """

    def __init__(self, mixer: RecurrentLayer, mlp: nn.Module, *, norm: str = "rms", dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = make_norm(norm, mixer.d_model)
        self.mixer = mixer
        self.mlp_norm = make_norm(norm, mixer.d_model)
        self.mlp = mlp
        self.dropout = TiedDropout(dropout)

    def forward(
        self,
        x: Tensor,
        state: Any = None,
        *,
        valid: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, Any]:
        z, state = run(self.mixer, self.norm(x, valid), state, reset=reset, dt=dt)
        x = x + self.dropout(z)
        return x + self.dropout(self.mlp(self.mlp_norm(x, valid))), state


class Blocks(nn.Module):
    """Blocks, one after the other, each with a state of its own.

    Args:
        blocks: one at least, all of one d_model; their mixers may differ.

    Raises:
        ResurgeError: no block, or blocks of different widths.
    """

    def __init__(self, blocks: Iterable[Block]) -> None:
        super().__init__()
        made = list(blocks)
        widths = [block.mixer.d_model for block in made]
        if len(set(widths)) != 1:
            raise ResurgeError(f"a stack needs blocks of one d_model, at least one block, and has those of {widths}")
        self.blocks = nn.ModuleList(made)
        self.d_model = widths[0]

    def initial_state(self, batch_size: int) -> StackState:
        """The state of every block before the first step."""
        return tuple(block.initial_state(batch_size) for block in self.blocks)  # type: ignore[operator]

    def forward(
        self,
        x: Tensor,
        state: StackState | None = None,
        *,
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        dt: Tensor | None = None,
    ) -> tuple[Tensor, StackState]:
        """Outputs (B, T, D), and the state after the last real step of each row.

        lengths (B,) tells how many steps of a row are real, padding on the right; what comes out at padding means
        nothing. dt (B, T) is the time since the step before, as in `resurge.layer.TimedLayer`, for the layers that
        take it; what it is at padding means nothing.
        """
        if state is not None and len(state) != len(self.blocks):
            raise ResurgeError(f"state must have {len(self.blocks)} parts, one a block, and has {len(state)}")
        if lengths is not None:
            _check_lengths(lengths, x)
        if dt is not None:
            dt = self._times(dt, x, lengths)
        if lengths is None:
            return self._run(x, state, None, reset, dt)
        if state is None:
            return self._run_aligned(x, lengths, reset, dt)
        return self._run_pieces(x, state, lengths, reset, dt)

    def _times(self, dt: Tensor, x: Tensor, lengths: Tensor | None) -> Tensor:
        """dt, 1 at padding, refused if no layer takes it."""
        mixers = [block.mixer for block in self.blocks]
        if not any(mixer.timed for mixer in mixers):  # type: ignore[union-attr]
            kinds = ", ".join(dict.fromkeys(type(mixer).__name__ for mixer in mixers))
            raise ResurgeError(f"dt is for layers in continuous time, and this stack has none: its layers are {kinds}")
        if lengths is not None and dt.shape == x.shape[:2]:
            dt = dt.masked_fill(torch.arange(x.shape[1], device=dt.device) >= lengths[:, None], 1)
        return checked_times(dt, x)

    def _run(
        self, x: Tensor, state: StackState | None, valid: Tensor | None, reset: Tensor | None, dt: Tensor | None
    ) -> tuple[Tensor, StackState]:
        states = []
        for i, block in enumerate(self.blocks):
            x, after = block(x, None if state is None else state[i], valid=valid, reset=reset, dt=dt)
            states.append(after)
        return x, tuple(states)

    def _run_aligned(
        self, x: Tensor, lengths: Tensor, reset: Tensor | None, dt: Tensor | None
    ) -> tuple[Tensor, StackState]:
        """From the initial state: move the real steps of each row to its end, where the state is read, and start
        the row anew at the first of them. One pass, whatever the lengths."""
        T = x.shape[1]
        steps = torch.arange(T, device=x.device)
        shift = (T - lengths)[:, None]
        source = (steps - shift) % T
        valid = steps >= shift
        starts = steps == shift
        if reset is not None:
            starts = starts | (reset.gather(1, source) & valid)
        if dt is not None:
            dt = dt.gather(1, source)
        x = x.gather(1, source[..., None].expand_as(x))
        y, state = self._run(x, None, valid, starts, dt)
        state = where(lengths > 0, state, self.initial_state(len(lengths)))  # a row of padding alone has no first step
        back = ((steps + shift) % T)[..., None].expand_as(y)
        return y.gather(1, back), state

    def _run_pieces(
        self, x: Tensor, state: StackState, lengths: Tensor, reset: Tensor | None, dt: Tensor | None
    ) -> tuple[Tensor, StackState]:
        """From a given state: in pieces that end where some row ends, each row keeping the state of its own end."""
        outputs = []
        for start, stop in pairwise(sorted({0, *lengths.tolist(), x.shape[1]})):
            piece = slice(start, stop)
            going = lengths > start
            valid = going[:, None].expand(-1, stop - start)
            resets, times = (None if per_step is None else per_step[:, piece] for per_step in (reset, dt))
            y, after = self._run(x[:, piece], state, valid, resets, times)
            state = where(going, after, state)
            outputs.append(y)
        return torch.cat(outputs, 1), state


class Stack(Blocks):
    """`depth` residual blocks, one after the other, each around a mixer of its own.

    Where the start of a layer depends on its place or on the depth, or layers share parameters (`HGRN`, `RWKV4`,
    `Mamba`, `Hawk`), the stack sees to it, unless the layer's own options say otherwise (`RecurrentLayer.stacked`).
    `Blocks` takes its blocks as they are.

    Args:
        make_mixer: called once a block; gives its recurrent layer, for example
            `lambda: LRU(128, 256, r_min=0.9, r_max=0.99)`.
        depth: number of blocks.
        norm, prenorm, dropout, half_glu: as in `ResidualBlock`.
    """

    def __init__(
        self,
        make_mixer: Callable[[], RecurrentLayer],
        depth: int,
        *,
        norm: str = "batch",
        prenorm: bool = True,
        dropout: float = 0.0,
        half_glu: bool = False,
    ) -> None:
        if depth < 1:
            raise ResurgeError(f"depth must be at least 1, and is {depth}")
        super().__init__(
            ResidualBlock(make_mixer(), norm=norm, prenorm=prenorm, dropout=dropout, half_glu=half_glu)
            for _ in range(depth)
        )
        settle({place: block.mixer for place, block in enumerate(self.blocks)}, depth)  # type: ignore[misc]


def _check_lengths(lengths: Tensor, x: Tensor) -> None:
    B, T = x.shape[:2]
    if lengths.shape != (B,) or lengths.is_floating_point():
        raise ResurgeError(f"lengths must be {B} integers, and are {lengths.dtype} of shape {tuple(lengths.shape)}")
    if int(lengths.min()) < 0 or int(lengths.max()) > T:
        raise ResurgeError(
            f"lengths must lie between 0 and T = {T}, and lie between {int(lengths.min())} and {int(lengths.max())}"
        )
