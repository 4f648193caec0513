"""How the coefficients of a scan are given, and its steps cut in pieces."""

from torch import Tensor
from torch.nn.functional import pad

PLAIN = 0  # a itself
LOG = 1  # log a <= 0, real
NORMALIZED = 2  # log a, and the input enters as sqrt(1 - a²) x


def cut_pieces(cut: Tensor, length: int, pieces: int, reverse: bool) -> Tensor:
    """Whether a link is cut within each piece of `length` steps along the scan, (B, pieces), from cut (B, T).

    Such a piece takes nothing over from before: multiplying by its gain, 0, would make NaN of an infinite state.
    """
    along = cut.flip(1) if reverse else cut
    return pad(along, (0, pieces * length - cut.shape[1])).view(-1, pieces, length).any(-1)
