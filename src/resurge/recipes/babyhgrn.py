"""BabyHGRN, arXiv 2412.15978: language models of few words, judged by minimal pairs, and students of a teacher.

The paper's layer is HGRN2; here it is HGRN, whose state is a vector and not a matrix. BLiMP is scored by
`resurge.analysis.minimal_pairs`.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence

from resurge.data import Text
from resurge.data.minimal_pairs import MinimalPair
from resurge.layers import HGRN, options_type
from resurge.models import LanguageModel, Stack
from resurge.paper import Paper
from resurge.recipes.base import Check, Experiment, ModelConfig, TrainConfig
from resurge.recipes.trial import minimise

PAPER = Paper(
    "babyhgrn",
    "BabyHGRN: Exploring RNNs for Sample-Efficient Training of Language Models",
    "Patrick Haller and Jonas Golde and Alan Akbik",
    2024,
    "2412.15978",
)

CLAIM = (
    "From a hundred thousand words of text, an HGRN learns that a verb agrees with its subject and not with the nouns "
    "between: in minimal pairs that differ in the number of that verb it finds the right sentence the likelier one, "
    "where a model that sees only the word before is right by chance. A student that learns from a trained model of "
    "its own size besides the text comes to a lower loss on new text than the same student from the text alone."
)


def text() -> Experiment:
    """The next byte of text; by default Python's library, for BLiMP English of yours, one sentence a line: `--path`."""
    return Experiment(
        data=Text(),
        model=ModelConfig(options_type("hgrn")(), d_model=192, depth=3, norm="layer"),
        train=TrainConfig(lr=4e-3, lr_factor=1.0, weight_decay=0.01, batch_size=16, max_steps=1000, val_steps=250),
    )


EXPERIMENTS: dict[str, Callable[[], Experiment]] = {"text": text}

_NOUNS = [f"noun{i}" for i in range(30)]
_VERBS = [f"verb{i}" for i in range(20)]
_SEEING = [f"sees{i}" for i in range(10)]
_ADJECTIVES = [f"adjective{i}" for i in range(20)]
_PLACES = [f"preposition{i}" for i in range(10)]
_ADVERBS = [f"adverb{i}" for i in range(20)]
_FORMS = ("one", "many")
_INFLECTED = [f"{word}.{form}" for word in (*_NOUNS, *_VERBS, *_SEEING) for form in _FORMS]
VOCABULARY = {word: i for i, word in enumerate([".", "the", "that", *_ADJECTIVES, *_PLACES, *_ADVERBS, *_INFLECTED])}


@dataclass
class FewWords:
    """A corpus of generated sentences, the models that read it, and the pairs that judge them."""

    seed: int = 0
    device: str = "cpu"
    sentences: int = 10_000
    """Of the corpus: some hundred thousand words."""
    pairs: int = 1_000
    steps: int = 800
    student_steps: int = 200
    batch_size: int = 64
    d_model: int = 48
    depth: int = 2
    lr: float = 1e-2
    kappa: float = 0.5
    tau: float = 2.0


def config(quick: bool) -> FewWords:
    """The claim's settings; quick: enough to see that it runs."""
    return FewWords(sentences=200, pairs=20, steps=3, student_steps=2, d_model=16) if quick else FewWords()


def sentence(draw: random.Random, *, attractors: int = 0) -> tuple[list[str], int]:
    """A sentence of the kind "the red key near the doors that the man opens falls slowly .", and its verb's place.

    Nouns between the subject and its verb are of either number, as it comes; `attractors` is the least number of them.
    """

    def noun(form: str) -> list[str]:
        adjective = [draw.choice(_ADJECTIVES)] if draw.random() < 0.3 else []
        return ["the", *adjective, f"{draw.choice(_NOUNS)}.{form}"]

    subject = draw.choice(_FORMS)
    words = noun(subject)
    for _ in range(max(attractors, draw.choice((0, 0, 1, 2)))):
        words += [draw.choice(_PLACES), *noun(draw.choice(_FORMS))]
    if draw.random() < 0.25:
        form = draw.choice(_FORMS)
        words += ["that", *noun(form), f"{draw.choice(_SEEING)}.{form}"]
    place = len(words)
    words.append(f"{draw.choice(_VERBS)}.{subject}")
    if draw.random() < 0.5:
        words.append(draw.choice(_ADVERBS))
    return [*words, "."], place


def pairs(draw: random.Random, number: int) -> list[MinimalPair]:
    """Sentences with one attractor at least, beside the same with the other form of the main verb."""
    made = []
    for _ in range(number):
        words, place = sentence(draw, attractors=1)
        verb, _, form = words[place].partition(".")
        wrong = f"{verb}.{_FORMS[form == _FORMS[0]]}"
        bad = [*words[:place], wrong, *words[place + 1 :]]
        made.append(MinimalPair(" ".join(words), " ".join(bad), "attractors", "subject_verb_agreement"))
    return made


def encode(text: str) -> list[int]:
    """The words' numbers."""
    return [VOCABULARY[word] for word in text.split()]


def corpus(draw: random.Random, number: int) -> tuple[Tensor, Tensor]:
    """The sentences' words (number, T) after the end of another sentence, and the next words, -100 at padding."""
    rows = [torch.tensor(encode(" ".join([".", *sentence(draw)[0]]))) for _ in range(number)]
    inputs = pad_sequence([row[:-1] for row in rows], batch_first=True)
    return inputs, pad_sequence([row[1:] for row in rows], batch_first=True, padding_value=-100)


def make(config: FewWords, seed: int) -> LanguageModel:
    """A new model."""
    torch.manual_seed(seed)
    stack = Stack(lambda: HGRN(config.d_model), config.depth, norm="layer")
    return LanguageModel(len(VOCABULARY), stack).to(config.device)


def learn(
    config: FewWords,
    model: nn.Module,
    text: tuple[Tensor, Tensor],
    steps: int,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> None:
    """Train by `loss` of the logits, the inputs and the targets, on batches drawn from the text."""
    generator = torch.Generator().manual_seed(config.seed)

    def of_batch() -> Tensor:
        rows = torch.randint(len(text[0]), (config.batch_size,), generator=generator)
        inputs, targets = (part[rows].to(config.device) for part in text)
        logits, _ = model(inputs)
        return loss(logits, inputs, targets)

    minimise(model, of_batch, steps=steps, lr=config.lr, lr_factor=1.0)
    model.eval()


def of_text(logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats."""
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


@torch.no_grad()
def held_out(config: FewWords, model: nn.Module, text: tuple[Tensor, Tensor]) -> float:
    """Nats a word of new text."""
    inputs, targets = (part.to(config.device) for part in text)
    return float(of_text(model(inputs)[0], inputs, targets))


def bigram_accuracy(text: tuple[Tensor, Tensor], judged: Sequence[MinimalPair]) -> float:
    """Share of right pairs by counts of two words in a row; equal sentences count half."""
    V = len(VOCABULARY)
    inputs, targets = (part[text[1] >= 0] for part in text)
    counts = torch.bincount(V * inputs + targets, minlength=V * V).view(V, V) + 1.0
    logs = torch.log(counts / counts.sum(1, keepdim=True))

    def log_probability(words: str) -> float:
        row = torch.tensor(encode(f". {words}"))
        return float(logs[row[:-1], row[1:]].sum())

    scores = [(log_probability(pair.good), log_probability(pair.bad)) for pair in judged]
    return sum((good > bad) + (good == bad) / 2 for good, bad in scores) / len(scores)


def run(config: FewWords) -> dict[str, float]:
    """Minimal-pair accuracies, and the held-out losses of a teacher and of its student with and without it."""
    from resurge.analysis.minimal_pairs import score_pairs
    from resurge.training.distillation import distillation_loss

    draw = random.Random(config.seed)
    text, new, judged = corpus(draw, config.sentences), corpus(draw, 1_000), pairs(draw, config.pairs)
    teacher = make(config, config.seed)
    learn(config, teacher, text, config.steps, of_text)

    def of_both(logits: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.no_grad():
            told, _ = teacher(inputs)
        return distillation_loss(logits, told, targets, kappa=config.kappa, tau=config.tau)

    numbers = {
        "pairs": score_pairs(teacher, encode, judged, prefix=".").accuracy,
        "pairs_bigram": bigram_accuracy(text, judged),
        "loss_teacher": held_out(config, teacher, new),
    }
    for name, loss in (("alone", of_text), ("distilled", of_both)):
        student = make(config, config.seed + 1)
        learn(config, student, text, config.student_steps, loss)
        numbers[f"loss_{name}"] = held_out(config, student, new)
        numbers[f"pairs_{name}"] = score_pairs(student, encode, judged, prefix=".").accuracy
    return numbers


def check(numbers: dict[str, float]) -> Check:
    """The trained model finds the right sentence, counts of word pairs do not, and the taught student has a lower loss.

    Two seeds (4 and 11), 800 steps: 100 % of the pairs right, by word pairs 48 to 52 %. A student of 200 steps has 2.55
    and 2.56 nats a word of new text alone and 2.48 with its teacher, 0.074 to 0.080 less, and finds 49 to 52 % of the
    pairs alone and 82 to 93 % with its teacher. Five seeds (0 to 4) with 600 steps of the teacher: 97.6 to 100 % of the
    pairs, by word pairs 48 to 54 %, the student's loss 0.056 to 0.077 less. About 20 s of processor time a seed.
    """
    n = numbers
    return Check(
        holds=n["pairs"] >= 0.95 and n["pairs_bigram"] <= 0.65 and n["loss_distilled"] <= n["loss_alone"] - 0.02,
        measured=n["pairs"],
        baseline=n["pairs_bigram"],
        threshold=0.95,
        paper="BLiMP after 10M and 100M words: on a par with Transformers and above other RNNs (figures not checked)",
    )
