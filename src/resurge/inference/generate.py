"""Sampling from a language model, and turning bytes that come one by one into text."""

import codecs
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from resurge.errors import ResurgeError, check_seed
from resurge.inference.stream import Stream
from resurge.models import LanguageModel

_PREFILL = 4096  # tokens of a prompt read at once: bounds memory, whatever the prompt


def generate(
    model: LanguageModel,
    prompt: Sequence[int],
    n: int = 0,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    seed: int = 0,
) -> Iterator[int]:
    """Tokens that continue `prompt`, one after the other as they are asked for.

    The prompt is read by the parallel form, the rest step by step, each at the same cost.

    Args:
        model: the language model.
        prompt: at least one token.
        n: how many tokens; 0 goes on for ever.
        temperature: logits are divided by it; 0 takes the likeliest token, 1 samples as the model believes.
        top_k: sample among the k likeliest tokens; 0 is all.
        seed: of the draws: the same seed gives the same tokens.

    Raises:
        ResurgeError: an empty prompt, a token outside the vocabulary, or a number or seed out of range.
    """
    if not isinstance(model, LanguageModel):
        raise ResurgeError(f"generation needs a LanguageModel, and was given a {type(model).__name__}")
    vocabulary = model.vocabulary
    if not prompt:
        raise ResurgeError("the prompt must have at least one token, and is empty")
    if min(prompt) < 0 or max(prompt) >= vocabulary:
        raise ResurgeError(f"the prompt's tokens must lie in [0, {vocabulary}), and reach {min(prompt)}..{max(prompt)}")
    if n < 0 or top_k < 0 or not 0 <= temperature < float("inf"):
        raise ResurgeError(f"n, temperature and top_k must be 0 or more, and are {n}, {temperature:g} and {top_k}")
    check_seed(seed)
    return _tokens(Stream(model), list(prompt), n, temperature, min(top_k, vocabulary), seed)


def _tokens(stream: Stream, prompt: list[int], n: int, temperature: float, top_k: int, seed: int) -> Iterator[int]:
    draws = torch.Generator().manual_seed(seed)
    for start in range(0, len(prompt), _PREFILL):
        logits = stream.push([prompt[start : start + _PREFILL]])[0, -1]
    made = 0
    while True:
        token = _draw(logits.float().cpu(), temperature, top_k, draws)
        yield token
        made += 1
        if made == n:
            return
        logits = stream.push(token)[0]


def _draw(logits: Tensor, temperature: float, top_k: int, draws: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    if top_k:
        logits = logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)
    probabilities = torch.softmax((logits - logits.max()) / temperature, -1)
    return int(torch.multinomial(probabilities, 1, generator=draws))


def decode(tokens: Iterable[int], offset: int = 0) -> Iterator[str]:
    """Text of byte tokens (a byte plus `offset`), handed on as soon as a character is whole.

    Bytes that are no UTF-8 become the replacement character; tokens that are no byte (padding) are left out.
    """
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    for token in tokens:
        if 0 <= token - offset < 256:
            text = decoder.decode(bytes([token - offset]))
            if text:
                yield text
    rest = decoder.decode(b"", final=True)
    if rest:
        yield rest
