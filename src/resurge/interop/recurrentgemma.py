"""RecurrentGemma's weights, as Hugging Face keeps them."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from resurge.errors import ResurgeError
from resurge.layer import RecurrentLayer
from resurge.layers import GemmaHawk, LocalAttention
from resurge.models import Blocks, LanguageModel, MixerMLPBlock
from resurge.nn import RMSNorm
from resurge.nn.embedding import ScaledEmbedding, TiedHead
from resurge.nn.gated_mlp import GatedMLP

# Theirs and ours; # is the number of the block.
_NAMES = (
    ("model.embed_tokens", "embedding"),
    ("model.final_norm", "norm.norm"),
    ("model.layers.#.temporal_pre_norm", "stack.blocks.#.norm.norm"),
    ("model.layers.#.temporal_block", "stack.blocks.#.mixer"),
    ("model.layers.#.channel_pre_norm", "stack.blocks.#.mlp_norm.norm"),
    ("model.layers.#.mlp_block", "stack.blocks.#.mlp"),
)

# What the configuration may say, and only one value of it is built.
_ONLY = {
    "num_key_value_heads": 1,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "attention_bias": False,
    "partial_rotary_factor": 0.5,
    "rope_theta": 10_000.0,
    "tie_word_embeddings": True,
    "embeddings_scale_by_sqrt_dim": True,
}


def build(config: Mapping[str, Any]) -> LanguageModel:
    """The model that a configuration of Hugging Face's RecurrentGemma (config.json) describes, with new weights.

    Raises:
        ResurgeError: a size that is missing, or a variant that is not built.
    """
    rope = config.get("rope_parameters") or {}
    for name, value in _ONLY.items():
        given = config.get(name, rope.get(name, value))
        if given != value:
            raise ResurgeError(f"of RecurrentGemma, '{name}' must be {value}, and is {given}")
    try:
        d_model, depth, n_heads = (int(config[k]) for k in ("hidden_size", "num_hidden_layers", "num_attention_heads"))
        vocabulary, d_hidden = int(config["vocab_size"]), int(config["intermediate_size"]) // 2  # of both halves
        window, width, cap = (config[k] for k in ("attention_window_size", "conv1d_width", "logits_soft_cap"))
    except KeyError as error:
        raise ResurgeError(f"RecurrentGemma's configuration has no {error}") from error
    pattern = config.get("block_types") or config.get("_block_types") or ("recurrent", "recurrent", "attention")

    def mixer(place: int) -> RecurrentLayer:
        if pattern[place % len(pattern)] == "attention":
            return LocalAttention(d_model, n_heads, window=window, n_layers=depth)
        return GemmaHawk(d_model, config.get("lru_width") or d_model, n_heads, width=width, n_layers=depth)

    stack = Blocks(MixerMLPBlock(mixer(i), GatedMLP(d_model, d_hidden, depth=depth)) for i in range(depth))
    scale = float(torch.tensor(d_model**0.5).bfloat16())  # rounded as in the published code
    embedding = ScaledEmbedding(vocabulary, d_model, scale)
    return LanguageModel(vocabulary, stack, embedding=embedding, norm=RMSNorm(d_model), head=TiedHead(embedding, cap))


def from_huggingface(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> LanguageModel:
    """RecurrentGemma in float32 from its configuration and its weights by their names at Hugging Face.

    Tokens to logits are equal to `RecurrentGemmaForCausalLM`'s within rounding. `lm_head.weight`, where it is given,
    is the embedding's.

    Raises:
        ResurgeError: a variant that is not built; weights that are missing, unknown or of another shape.
    """
    model = build(config)
    missing = model.state_dict()
    for name, value in weights.items():
        if name == "lm_head.weight":
            continue
        target = missing.pop(_renamed(name, _NAMES), None)
        if target is None:
            raise ResurgeError(f"RecurrentGemma of this configuration has no weight '{name}'")
        if target.shape != value.shape:
            raise ResurgeError(f"'{name}' must have shape {tuple(target.shape)}, and has {tuple(value.shape)}")
        target.copy_(value).add_(_less(name))
    if missing:
        raise ResurgeError(f"{len(missing)} weights are missing, '{_theirs(next(iter(missing)))}' among them")
    return model


def to_huggingface(model: LanguageModel) -> dict[str, Tensor]:
    """The weights of a model that `build` made, by their names at Hugging Face; copies."""
    named = {_theirs(name): value for name, value in model.state_dict().items()}
    return {name: value - _less(name) for name, value in named.items()}


def load(folder: str | Path) -> LanguageModel:
    """RecurrentGemma from a folder in Hugging Face's format: config.json, and weights in *.safetensors.

    Raises:
        ResurgeError: the folder holds no such model, or a variant that is not built.
    """
    from safetensors.torch import load_file

    files = sorted(Path(folder).glob("*.safetensors"))
    if not files:
        raise ResurgeError(f"{folder} holds no weights: no file *.safetensors")
    try:
        config = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResurgeError(f"{folder} holds no configuration that can be read: {error}") from error
    return from_huggingface(config, {name: value for file in files for name, value in load_file(file).items()})


def _renamed(name: str, pairs: Iterable[tuple[str, str]]) -> str:
    """`name` with its first part replaced as `pairs` tell; empty if they do not."""
    number = re.search(r"\d+", name)
    for source, target in pairs:
        before, after = (part.replace("#", number[0] if number else "#") for part in (source, target))
        if name.startswith(f"{before}."):
            return after + name.removeprefix(before)
    return ""


def _theirs(name: str) -> str:
    return _renamed(name, ((ours, theirs) for theirs, ours in _NAMES))


def _less(name: str) -> float:
    """What their weight is less than ours: norms keep their scale less 1."""
    return 1.0 if name.endswith("_norm.weight") else 0.0
