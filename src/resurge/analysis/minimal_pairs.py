"""Whether a language model finds right sentences likelier than wrong ones: scores over minimal pairs."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from resurge.data.minimal_pairs import MinimalPair
from resurge.errors import ResurgeError, at_least
from resurge.models import LanguageModel

Encode = Callable[[str], Sequence[int] | Tensor]
"""How a text becomes tokens."""


class PairScores(NamedTuple):
    """Shares of the pairs whose right sentence is the likelier one; an equal pair counts half. By chance: 0.5."""

    accuracy: float
    """Of all pairs."""
    phenomena: dict[str, float]
    """Of those of each phenomenon."""
    paradigms: dict[str, float]
    """Of those of each paradigm."""


def score_pairs(
    model: LanguageModel,
    encode: Encode,
    pairs: Sequence[MinimalPair],
    *,
    prefix: str = "\n",
    batch_tokens: int = 8192,
) -> PairScores:
    """How often a model gives the right sentence of a pair the higher probability.

    With a trained run of bytes, on BLiMP:

        run = load_run("runs/babyhgrn-text-0")
        scores = score_pairs(run.model, lambda text: run.spec.encode(text.encode()), blimp())

    Args:
        model, encode, prefix, batch_tokens: as in `log_probabilities`.
        pairs: one at least.

    Raises:
        ResurgeError: no pairs, and as `log_probabilities`.
    """
    at_least(1, {"the number of pairs": len(pairs)})
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    found = log_probabilities(model, encode, sentences, prefix=prefix, batch_tokens=batch_tokens)
    good, bad = found.view(-1, 2).unbind(1)
    right = ((good > bad).double() + (good == bad).double() / 2).tolist()
    return PairScores(
        sum(right) / len(right),
        _means((pair.phenomenon for pair in pairs), right),
        _means((pair.paradigm for pair in pairs), right),
    )


@torch.no_grad()
def log_probabilities(
    model: LanguageModel, encode: Encode, sentences: Sequence[str], *, prefix: str = "\n", batch_tokens: int = 8192
) -> Tensor:
    """ln P(sentence | prefix) = Σ_t ln P(token_t | prefix, token_1 ... token_{t-1}) of each sentence, (n,) float64.

    Args:
        model: it is left in evaluation mode.
        encode: text to tokens; prefix and sentence are encoded apart. `str.encode` for models of plain bytes.
        sentences: in any order; they are read in batches of like lengths, which changes nothing.
        prefix: what stands before every sentence, for example what ends a line; its own tokens are not counted. With
            an empty prefix the first token of a sentence is not counted, for nothing foretells it.
        batch_tokens: tokens of a batch, padding included: bounds memory.

    Raises:
        ResurgeError: not a language model, a token outside its vocabulary, or a sentence without a token to be told.
    """
    if not isinstance(model, LanguageModel):
        raise ResurgeError(f"sentences are scored by a LanguageModel, and not by a {type(model).__name__}")
    at_least(1, {"batch_tokens": batch_tokens})
    before = _tokens(encode, prefix, model.vocabulary)
    rows = [torch.cat([before, _tokens(encode, sentence, model.vocabulary)]) for sentence in sentences]
    for row, sentence in zip(rows, sentences, strict=True):
        if len(row) <= max(len(before), 1):
            raise ResurgeError(f"the sentence {sentence!r} has no token to be told after the prefix {prefix!r}")
    device = next(model.parameters()).device
    model.eval()
    sums = torch.zeros(len(rows), dtype=torch.float64)
    for batch in _batches([len(row) for row in rows], batch_tokens):
        tokens = pad_sequence([rows[i] for i in batch], batch_first=True, padding_value=-100)
        targets = tokens[:, 1:].clone()
        targets[:, : max(len(before) - 1, 0)] = -100
        logits, _ = model(tokens[:, :-1].clamp(min=0).to(device))
        wide = logits if logits.dtype == torch.float64 else logits.float()
        lost = cross_entropy(wide.transpose(1, 2), targets.to(device), reduction="none")  # 0 where it is -100
        sums[batch] = -lost.double().sum(1).cpu()
    return sums


def _tokens(encode: Encode, text: str, vocabulary: int) -> Tensor:
    tokens = torch.as_tensor(list(encode(text)) if text else [], dtype=torch.int64)
    outside = tokens[(tokens < 0) | (tokens >= vocabulary)]
    if len(outside):
        raise ResurgeError(f"tokens must lie in [0, {vocabulary}), and {text!r} has {int(outside[0])}")
    return tokens


def _batches(lengths: Sequence[int], tokens: int) -> Iterable[list[int]]:
    """All rows, the longest first, in lists of at most so many tokens, padding included, and of one row at least."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    while order:
        rows = max(1, tokens // lengths[order[0]])
        yield order[:rows]
        order = order[rows:]


def _means(names: Iterable[str], values: Iterable[float]) -> dict[str, float]:
    of_name: dict[str, list[float]] = defaultdict(list)
    for name, value in zip(names, values, strict=True):
        of_name[name].append(value)
    return {name: sum(of_name[name]) / len(of_name[name]) for name in sorted(of_name)}
