"""Griffin's stack: two recurrent blocks, one with local attention, and so on."""

from collections.abc import Callable

from resurge.layer import RecurrentLayer
from resurge.models.stack import Blocks, MixerMLPBlock
from resurge.nn.gated_mlp import GatedMLP


def griffin(
    recurrent: Callable[[], RecurrentLayer],
    attention: Callable[[], RecurrentLayer],
    depth: int,
    *,
    expand: int = 3,
    dropout: float = 0.0,
) -> Blocks:
    """`depth` blocks of a mixer and a gated MLP; the mixer of every third is made by `attention`, of the others by
    `recurrent`.

    Args:
        recurrent, attention: called once a block, for example `lambda: Hawk(128, 160, n_layers=6)` and
            `lambda: LocalAttention(128, 2, window=64, n_layers=6)`. With the same for both, it is Hawk.
        depth: number of blocks.
        expand: the MLP's inner width in units of d_model.
        dropout: probability, with one mask shared over time.

    Source: section 2 of arXiv 2402.19427.
    """

    def block(place: int) -> MixerMLPBlock:
        mixer = attention() if place % 3 == 2 else recurrent()
        return MixerMLPBlock(mixer, GatedMLP(mixer.d_model, expand * mixer.d_model, depth=depth), dropout=dropout)

    return Blocks(block(place) for place in range(depth))
