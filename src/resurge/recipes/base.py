"""What a recipe is made of: typed settings for data, model and training, and their way to JSON and back."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Protocol

from resurge import data, layers
from resurge.data.base import Task
from resurge.errors import ResurgeError, nearest, unknown
from resurge.layers import LayerOptions
from resurge.paper import Paper


@dataclass
class ModelConfig:
    """A residual stack around one kind of recurrent layer."""

    layer: LayerOptions
    """The recurrent layer and its own options."""
    d_model: int = 64
    """Width of the stack."""
    depth: int = 4
    """Number of residual blocks."""
    norm: str = "batch"
    """"batch", "layer" or "rms"."""
    prenorm: bool = True
    """Normalise what enters a block, or else what leaves it."""
    dropout: float = 0.0
    """Probability, one mask a sequence and channel."""
    pool: str = "mean"
    """How a classifier sums up time: "mean" or "last"."""
    half_glu: bool = False
    """Gate the output of a block by itself, x ⊙ σ(W x), in the place of a GLU: as in S5, and the LRU's Path-X."""
    bidirectional: bool = False
    """Every layer runs from the end too, as its paper has it or else as a second layer; such a model cannot stream."""


@dataclass
class TrainConfig:
    """How a model is trained: AdamW, a linear warm-up, a cosine, and what is kept on the way."""

    lr: float = 1e-3
    """Highest learning rate."""
    lr_factor: float = 0.5
    """The recurrence's own parameters learn at lr * lr_factor, without weight decay."""
    weight_decay: float = 0.05
    """Decoupled weight decay of all other parameters."""
    batch_size: int = 32
    """Sequences a batch."""
    eval_batch_size: int = 128
    """Sequences a batch in validation and test."""
    epochs: int = 10
    """Passes over the training data."""
    max_steps: int = 0
    """Optimiser steps, in the place of epochs; 0: from epochs."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    clip: float = 1.0
    """Largest norm of the gradient; 0: not clipped."""
    accumulate: int = 1
    """Batches whose gradients make one step."""
    precision: str = "32-true"
    """"32-true" or "bf16-mixed"; the recurrence's own parameters stay in float32."""
    patience: int = 0
    """Stop after so many validations without a better one; 0: never."""
    val_steps: int = 0
    """Steps between validations; 0: once an epoch."""
    log_steps: int = 10
    """Steps between lines of metrics.csv."""
    checkpoint_seconds: float = 60.0
    """Time between checkpoints; one follows every validation too."""
    checkpoint_steps: int = 0
    """Steps between checkpoints, besides those; 0: none."""


@dataclass
class Experiment:
    """One training run, whole: what it learns from, what learns, and how."""

    data: Task
    """The task."""
    model: ModelConfig
    """The model."""
    train: TrainConfig = field(default_factory=TrainConfig)
    """The training."""
    seed: int = 0
    """Of the initial weights, the order of the data and dropout."""


@dataclass(frozen=True)
class Check:
    """What `verify` found: whether the claim holds, and by which figures."""

    holds: bool
    measured: float
    baseline: float
    threshold: float
    paper: str  # the paper's own figure, in words


class System(Protocol):
    """A recipe module: one published system, and the claim that shows it at work."""

    PAPER: Paper
    CLAIM: str
    EXPERIMENTS: dict[str, Callable[[], Experiment]]


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """The experiment as plain JSON values; task and layer carry their names."""
    model = {f.name: getattr(experiment.model, f.name) for f in fields(experiment.model)}
    model["layer"] = {"name": experiment.model.layer.NAME, **_plain(experiment.model.layer)}
    return {
        "data": {"name": experiment.data.name, **_plain(experiment.data)},
        "model": model,
        "train": _plain(experiment.train),
        "seed": experiment.seed,
    }


def from_dict(recipe: str, values: dict[str, Any]) -> Experiment:
    """The experiment that `to_dict` wrote; `recipe` is named in errors.

    Raises:
        ResurgeError: a key that is missing, unknown (the nearest right one is named), or of another type.
    """
    try:
        return _from_dict(values)
    except ResurgeError as error:
        raise ResurgeError(f"{recipe}: {error}") from error


def _from_dict(values: dict[str, Any]) -> Experiment:
    _known(values, ["data", "model", "train", "seed"], "")
    model = dict(_part(values, "model", ""))
    layer = dict(_part(model, "layer", "model."))
    task = dict(_part(values, "data", ""))
    options = _build(layers.options_type(str(layer.pop("name", ""))), layer, "model.layer.")
    return Experiment(
        data=_build(data.task(str(task.pop("name", ""))), task, "data."),
        model=_build(ModelConfig, {**model, "layer": options}, "model."),
        train=_build(TrainConfig, _part(values, "train", ""), "train."),
        seed=_checked(values.get("seed", 0), 0, "seed"),
    )


def override(experiment: Experiment, **changes: Any) -> Experiment:
    """A copy with some fields replaced, named by dotted paths written with "__": `train__epochs=3`.

    Raises:
        ResurgeError: an unknown field, or a value of another type.
    """
    for path, value in changes.items():
        experiment = _replaced(experiment, path.split("__"), value, path.replace("__", "."))
    return experiment


def _replaced(owner: Any, path: list[str], value: Any, name: str) -> Any:
    known = [f.name for f in fields(owner)]
    if path[0] not in known:
        raise unknown(f"field of {type(owner).__name__} in '{name}'", path[0], known)
    present = getattr(owner, path[0])
    if len(path) > 1:
        value = _replaced(present, path[1:], value, name)
    elif not is_dataclass(present):
        value = _checked(value, present, name)
    return replace(owner, **{path[0]: value})


def _plain(owner: Any) -> dict[str, Any]:
    values = {f.name: getattr(owner, f.name) for f in fields(owner)}
    return {
        name: v if isinstance(v, (bool, int, float, str, list, dict, type(None))) else str(v)
        for name, v in values.items()
    }


def _known(values: dict[str, Any], names: list[str], prefix: str) -> None:
    for key in values:
        if key not in names:
            raise ResurgeError(f"unknown key '{prefix}{key}'.{nearest(key, names)} Known: {', '.join(names)}.")


def _part(values: dict[str, Any], key: str, prefix: str) -> dict[str, Any]:
    part = values.get(key)
    if not isinstance(part, dict):
        raise ResurgeError(f"'{prefix}{key}' must be an object, and is {part!r}")
    return part


def _build(cls: type[Any], values: dict[str, Any], prefix: str) -> Any:
    _known(values, [f.name for f in fields(cls)], prefix)
    try:
        made = cls(**values)
    except TypeError as error:  # a field without default is missing
        raise ResurgeError(f"'{prefix.rstrip('.')}' is not complete: {error}") from error
    for f in fields(cls):
        default = f.default
        if f.name in values and isinstance(default, (bool, int, float, str)):
            setattr(made, f.name, _checked(values[f.name], default, prefix + f.name))
    return made


def _checked(value: Any, like: Any, name: str) -> Any:
    """`value` if it has the type of `like`; an integer may stand for a float."""
    if isinstance(like, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if like is not None and type(value) is not type(like) and isinstance(like, (bool, int, float, str)):
        raise ResurgeError(f"'{name}' must be {type(like).__name__}, and is {value!r}")
    return value
