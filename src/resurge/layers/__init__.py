"""The layers. An import line here is the whole registration of a layer: it gives it a name, the laws and a page."""

import inspect
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any, ClassVar

from resurge.errors import unknown
from resurge.layer import Bidirectional, RecurrentLayer
from resurge.layers.aaren import Aaren
from resurge.layers.gated_linear_rnn import GatedLinearRNN
from resurge.layers.gated_relu_rnn import GatedReLURNN
from resurge.layers.gateloop import GateLoop
from resurge.layers.gru import GRU
from resurge.layers.hawk import GemmaHawk, Hawk
from resurge.layers.hgrn import HGRN, ComplexHGRN
from resurge.layers.hippo_rnn import HiPPORNN
from resurge.layers.lem import LEM
from resurge.layers.local_attention import LocalAttention
from resurge.layers.lru import LRU, BidirectionalLRU
from resurge.layers.lru_ablation import (
    BidirectionalDiagonalExp,
    BidirectionalDiagonalReIm,
    BidirectionalDiagonalStableExp,
    DiagonalExp,
    DiagonalReIm,
    DiagonalStableExp,
)
from resurge.layers.lssl import LSSL
from resurge.layers.lstm import LSTM
from resurge.layers.mamba import Mamba
from resurge.layers.mingru import MinGRU
from resurge.layers.minlstm import MinLSTM
from resurge.layers.rglru import RGLRU
from resurge.layers.rwkv4 import RWKV4, RWKV4ChannelMix
from resurge.layers.s4d import S4DInv, S4DLegS, S4DLin
from resurge.layers.s5 import S5, BidirectionalS5
from resurge.layers.scrn import SCRN, AdaptiveSCRN

__all__ = [
    "GRU",
    "HGRN",
    "LEM",
    "LRU",
    "LSSL",
    "LSTM",
    "RGLRU",
    "RWKV4",
    "S5",
    "SCRN",
    "Aaren",
    "AdaptiveSCRN",
    "BidirectionalDiagonalExp",
    "BidirectionalDiagonalReIm",
    "BidirectionalDiagonalStableExp",
    "BidirectionalLRU",
    "BidirectionalS5",
    "ComplexHGRN",
    "DiagonalExp",
    "DiagonalReIm",
    "DiagonalStableExp",
    "GateLoop",
    "GatedLinearRNN",
    "GatedReLURNN",
    "GemmaHawk",
    "Hawk",
    "HiPPORNN",
    "LayerOptions",
    "LocalAttention",
    "Mamba",
    "MinGRU",
    "MinLSTM",
    "RWKV4ChannelMix",
    "S4DInv",
    "S4DLegS",
    "S4DLin",
    "bidirectional",
    "create",
    "layer_class",
    "names",
    "options_type",
]

_EXPORTED = {
    name: value
    for name, value in list(globals().items())
    if name in __all__ and isinstance(value, type) and issubclass(value, RecurrentLayer)
}
_LAYERS = {name.lower(): value for name, value in _EXPORTED.items() if value.CAUSAL}

# Layers of both directions, by the layer of one direction that they derive from
_BOTH_WAYS = {
    base: value
    for value in _EXPORTED.values()
    for base in value.__bases__
    if not value.CAUSAL and base in _LAYERS.values()
}


def names() -> list[str]:
    """The names of all layers, as `create` takes them."""
    return sorted(_LAYERS)


def layer_class(name: str) -> type[RecurrentLayer]:
    """The class of layer `name`."""
    if name not in _LAYERS:
        raise unknown("layer", name, _LAYERS)
    return _LAYERS[name]


def create(name: str, d_model: int, **options: Any) -> RecurrentLayer:
    """The layer `name` of width `d_model`, with the options of its constructor.

    Raises:
        ResurgeError: an unknown layer or option (the nearest right one is named), or a value it refuses.
    """
    cls = layer_class(name)
    _check_options(name, options)
    return cls(d_model, **options)


def bidirectional(name: str, d_model: int, **options: Any) -> RecurrentLayer:
    """The layer `name` in both directions of time, with the options of its constructor.

    Where its paper has a layer of both directions, such as `BidirectionalLRU`, that one; else two layers, one of them
    from the end (`resurge.Bidirectional`).

    Raises:
        ResurgeError: as `create`.
    """
    cls = _BOTH_WAYS.get(layer_class(name))
    if cls is None:
        return Bidirectional(create(name, d_model, **options), create(name, d_model, **options))
    _check_options(name, options)
    return cls(d_model, **options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    known = list(inspect.signature(layer_class(name)).parameters)[1:]
    for option in options:
        if option not in known:
            raise unknown(f"option of layer '{name}'", option, known)


class LayerOptions:
    """Base of the option types that `options_type` makes: a dataclass of a layer's constructor options."""

    NAME: ClassVar[str]


@cache
def options_type(name: str) -> type[Any]:
    """A dataclass with one typed field for each option of layer `name`, made from its constructor."""
    cls = layer_class(name)
    parameters = list(inspect.signature(cls, eval_str=True).parameters.values())[1:]
    fields = [(p.name, p.annotation, field(default=p.default)) for p in parameters]
    namespace = {"NAME": name, "__doc__": f"Options of {cls.__name__}.", "__module__": __name__}
    return make_dataclass(f"{cls.__name__}Options", fields, bases=(LayerOptions,), namespace=namespace)
