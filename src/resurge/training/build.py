"""The model that a configuration and a task's inputs call for."""

from dataclasses import fields

from torch import nn

from resurge import layers
from resurge.data.base import InputSpec
from resurge.errors import ResurgeError, at_least, unknown
from resurge.layer import RecurrentLayer
from resurge.models import LanguageModel, PairClassifier, SequenceClassifier, SequenceRegressor, Stack
from resurge.nn import LastPool, MeanPool, Pool
from resurge.recipes.base import ModelConfig

_POOLS: dict[str, type[Pool]] = {"mean": MeanPool, "last": LastPool}


def build_model(config: ModelConfig, spec: InputSpec) -> nn.Module:
    """A model with new weights: a language model for next tokens and answers, else a classifier or a regressor.

    Raises:
        ResurgeError: an option out of range, or a language model that would see the future.
    """
    at_least(1, {"d_model": config.d_model})
    if config.pool not in _POOLS:
        raise unknown("pool", config.pool, _POOLS)
    stack = Stack(
        lambda: _mixer(config),
        config.depth,
        norm=config.norm,
        prenorm=config.prenorm,
        dropout=config.dropout,
        half_glu=config.half_glu,
    )
    if spec.target == "next_token":
        if config.bidirectional:
            raise ResurgeError("a bidirectional language model would see the token that it has to predict")
        if config.norm == "batch":
            raise ResurgeError("the norm of a language model must not look across time: use 'layer' or 'rms'")
    if spec.target in ("next_token", "answers"):
        return LanguageModel(spec.d_input, stack)
    if spec.kind == "tokens":
        encoder: nn.Module = nn.Embedding(spec.d_input, config.d_model)
    else:
        encoder = nn.Linear(spec.d_input, config.d_model)
    kinds = {"class": PairClassifier if spec.pairs else SequenceClassifier, "value": SequenceRegressor}
    return kinds[spec.target](encoder, stack, spec.d_output, pool=_POOLS[config.pool]())


def _mixer(config: ModelConfig) -> RecurrentLayer:
    options = {f.name: getattr(config.layer, f.name) for f in fields(config.layer)}  # type: ignore[arg-type]
    make = layers.bidirectional if config.bidirectional else layers.create
    return make(config.layer.NAME, config.d_model, **options)
