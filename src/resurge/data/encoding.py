"""How raw text becomes raw tokens."""

from collections.abc import Callable

import torch
from torch import Tensor

from resurge.errors import unknown

LISTOPS = ("<pad>", "[MIN", "[MAX", "[MED", "[SM", "]", *map(str, range(10)))
"""The kinds of ListOps tokens; the place of a kind is its number."""


def encode_bytes(text: bytes) -> Tensor:
    """Each byte is a token, 0 to 255."""
    return torch.tensor(list(text), dtype=torch.uint8)


def encode_listops(text: bytes) -> Tensor:
    """Tokens of an expression such as `[MAX 2 [SM 3 4 ] 7 ]`; parentheses are left out and X is a "]".

    Raises:
        ResurgeError: a word that is no token; the nearest one is given.
    """
    words = text.decode(errors="replace").replace("(", " ").replace(")", " ").replace("]", " ] ").split()
    tokens = []
    for word in words:
        kind = "]" if word == "X" else word
        if kind not in LISTOPS[1:]:
            raise unknown("ListOps token", word, LISTOPS[1:])
        tokens.append(LISTOPS.index(kind))
    return torch.tensor(tokens, dtype=torch.uint8)


ENCODERS: dict[str, Callable[[bytes], Tensor]] = {"bytes": encode_bytes, "listops": encode_listops}
