"""What the two layers of RWKV-4 share: a start that depends on a layer's place in its stack."""

from collections.abc import Mapping
from typing import Self

from torch import nn

from resurge.errors import ResurgeError, at_least
from resurge.layer import RecurrentLayer
from resurge.paper import Paper


class RWKV4Part(RecurrentLayer):
    """Base of time mixing and channel mixing. A subclass gives `by_place`."""

    PAPER = Paper(
        "rwkv4",
        "RWKV: Reinventing RNNs for the Transformer Era",
        "Bo Peng and Eric Alcaide and Quentin Anthony and Alon Albalak and Samuel Arcadinho and Stella Biderman "
        "and others",
        2023,
        "2305.13048",
    )

    def __init__(self, d_model: int, layer: int, n_layers: int) -> None:
        super().__init__()
        at_least(1, {"d_model": d_model, "n_layers": n_layers})
        if not 0 <= layer < n_layers:
            raise ResurgeError(f"layer must lie in [0, n_layers) = [0, {n_layers}), and is {layer}")
        self.d_model, self.n_layers = d_model, n_layers
        for name, parameter in self.by_place(layer, n_layers).items():
            setattr(self, name, parameter)

    def by_place(self, layer: int, n_layers: int) -> dict[str, nn.Parameter]:
        """The parameters whose start depends on the place in the stack."""
        raise TypeError(f"{type(self).__name__} does not define by_place")

    @classmethod
    def stacked(cls, layers: Mapping[int, Self], depth: int) -> None:
        for place, layer in layers.items():
            if layer.n_layers == 1:
                layer.n_layers = depth
                for name, parameter in layer.by_place(place, depth).items():
                    getattr(layer, name).data.copy_(parameter.data)

    def extra_repr(self) -> str:
        return f"d_model={self.d_model}"
