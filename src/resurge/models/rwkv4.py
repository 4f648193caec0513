"""The stack of RWKV-4: time mixing and channel mixing in turn."""

from typing import Any

from torch import Tensor

from resurge.layer import RecurrentLayer, run
from resurge.layers import RWKV4, RWKV4ChannelMix
from resurge.models.stack import Block, Blocks
from resurge.nn import TiedDropout
from resurge.nn import norm as make_norm


class SkipBlock(Block):
    """A recurrent layer with a norm before it and a skip connection around it: x + Dropout(mixer(Norm(x))).

    Args:
        mixer: the recurrent layer.
        norm: "batch", "layer" or "rms".
        dropout: probability, with one mask shared over time.
    """

    def __init__(self, mixer: RecurrentLayer, *, norm: str = "layer", dropout: float = 0.0) -> None:
        super().__init__()
        self.norm = make_norm(norm, mixer.d_model)
        self.mixer = mixer
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
        return x + self.dropout(z), state


def rwkv4(d_model: int, depth: int, *, expand: int = 4, zero_init: bool = True, dropout: float = 0.0) -> Blocks:
    """`depth` times a `SkipBlock` around `RWKV4` and one around `RWKV4ChannelMix`, in 2 depth blocks.

    Args:
        d_model: width of the stack.
        depth: number of layers.
        expand: inner width of channel mixing over d_model.
        zero_init: start as the identity, as the published code does.
        dropout: probability, with one mask shared over time.

    The language model around it has a LayerNorm after the embedding, one before the head, and a head without bias.

    Source: section 3 of arXiv 2305.13048.
    """

    def mixers(layer: int) -> tuple[RecurrentLayer, RecurrentLayer]:
        return (
            RWKV4(d_model, layer=layer, n_layers=depth, zero_init=zero_init),
            RWKV4ChannelMix(d_model, expand, layer=layer, n_layers=depth, zero_init=zero_init),
        )

    return Blocks(SkipBlock(mixer, dropout=dropout) for layer in range(depth) for mixer in mixers(layer))
