"""The layers. An import line here is the whole registration of a layer: it gives it a name, the laws and a page."""

import inspect
from dataclasses import field, make_dataclass
from functools import cache
from typing import Any, ClassVar

from resurge.errors import unknown
from resurge.layer import RecurrentLayer
from resurge.layers.gru import GRU
from resurge.layers.lru import LRU
from resurge.layers.lru_ablation import DiagonalExp, DiagonalReIm, DiagonalStableExp
from resurge.layers.lstm import LSTM
from resurge.layers.rglru import RGLRU

__all__ = [
    "GRU",
    "LRU",
    "LSTM",
    "RGLRU",
    "DiagonalExp",
    "DiagonalReIm",
    "DiagonalStableExp",
    "LayerOptions",
    "create",
    "layer_class",
    "names",
    "options_type",
]

_LAYERS = {
    name.lower(): value
    for name, value in list(globals().items())
    if isinstance(value, type) and issubclass(value, RecurrentLayer) and value is not RecurrentLayer
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
    known = list(inspect.signature(cls).parameters)[1:]
    for option in options:
        if option not in known:
            raise unknown(f"option of layer '{name}'", option, known)
    return cls(d_model, **options)


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
