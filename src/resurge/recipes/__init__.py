"""The published systems, one file each. An import line here is the whole registration of a system."""

from types import ModuleType

from resurge.errors import unknown
from resurge.recipes import (
    aaren,
    babyhgrn,
    gated_rnn_attention,
    gateloop,
    griffin,
    hgrn,
    hippo,
    lem,
    lru,
    lsrl,
    lssl,
    mamba,
    mamba_nd,
    mingru,
    recurrentgemma,
    rwkv4,
    s4d,
    s5,
    scrn,
    stuffed_mamba,
    temporal_rnn,
)
from resurge.recipes.base import Check, Experiment, ModelConfig, System, TrainConfig, from_dict, override, to_dict

__all__ = [
    "Check",
    "Experiment",
    "ModelConfig",
    "System",
    "TrainConfig",
    "from_dict",
    "get",
    "names",
    "override",
    "systems",
    "to_dict",
]

_SYSTEMS: tuple[ModuleType, ...] = (
    lru,
    griffin,
    mingru,
    hgrn,
    gateloop,
    hippo,
    lssl,
    s4d,
    s5,
    recurrentgemma,
    gated_rnn_attention,
    lsrl,
    lem,
    scrn,
    aaren,
    rwkv4,
    temporal_rnn,
    mamba,
    mamba_nd,
    stuffed_mamba,
    babyhgrn,
)


def systems() -> list[ModuleType]:
    """The modules of all systems, each as `System` describes it."""
    return list(_SYSTEMS)


def names() -> list[str]:
    """The names of all recipes: "lru/digits", ..."""
    return [f"{system.PAPER.slug}/{name}" for system in _SYSTEMS for name in system.EXPERIMENTS]


def get(name: str) -> Experiment:
    """The experiment of recipe `name`, new at each call.

    Raises:
        ResurgeError: no such recipe; the nearest name is given.
    """
    if name not in names():
        raise unknown("recipe", name, names())
    slug, _, experiment = name.partition("/")
    system = next(system for system in _SYSTEMS if slug == system.PAPER.slug)
    made: Experiment = system.EXPERIMENTS[experiment]()
    return made
