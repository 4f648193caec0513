"""Minimal pairs: read from files, scored against sums of log-probabilities, and generated; and the teacher's loss."""

import gzip
import json
import math
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from data_folder import data_folder
from tolerances import assert_close
from torch import Tensor, nn

from resurge import ResurgeError
from resurge.analysis.minimal_pairs import log_probabilities, score_pairs
from resurge.data.minimal_pairs import MinimalPair, blimp, read_pairs
from resurge.layers import HGRN
from resurge.models import LanguageModel, SequenceClassifier, Stack
from resurge.recipes import babyhgrn
from resurge.training.distillation import distillation_loss

SENTENCES = ["a", "the keys are", "the key to the doors is", "x" * 70, "it rains", "", "so"]


def model(vocabulary: int = 256, dtype: torch.dtype = torch.float64) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(vocabulary, Stack(lambda: HGRN(8), 2, norm="layer", dropout=0.2)).to(dtype)


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


ROWS: list[dict[str, object]] = [
    {"sentence_good": "I am.", "sentence_bad": "I is.", "UID": "be", "linguistics_term": "agreement", "pairID": "0"},
    {"sentence_good": "He is.", "sentence_bad": "He am.", "UID": "be", "linguistics_term": "agreement", "field": "s"},
]
OF_ROWS = [MinimalPair("I am.", "I is.", "be", "agreement"), MinimalPair("He is.", "He am.", "be", "agreement")]


def test_pairs_are_read_from_files_and_folders(tmp_path: Path) -> None:
    assert read_pairs(write(tmp_path / "own.jsonl", ROWS)) == OF_ROWS
    assert read_pairs(str(write(tmp_path / "own.jsonl.gz", ROWS))) == OF_ROWS
    few: dict[str, object] = {"sentence_good": "Grün.", "sentence_bad": "Grn."}
    write(tmp_path / "blimp" / "b_colours.jsonl", [few])
    write(tmp_path / "blimp" / "a.jsonl.gz", ROWS[:1])
    assert blimp(str(tmp_path)) == [OF_ROWS[0], MinimalPair("Grün.", "Grn.", "b_colours", "b_colours")]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b'{"sentence_good": "a"}\n', "line 1: 'sentence_bad' must be some text, and is None"),
        (b'\n{"sentence_good": "", "sentence_bad": "b"}', "line 2: 'sentence_good' must be some text, and is ''"),
        (b'{"sentence_good": "a", "sentence_bad": "b", "UID": 3}', "line 1: 'UID' must be some text, and is 3"),
        (b'{"sentence_good": "a", ', "line 1: is not JSON"),
        (b"[1]", r"line 1: must be an object, and is \[1\]"),
        (b"\xff\xfe", "is not lines of JSON in UTF-8"),
        (b"", "is empty"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(ResurgeError, match=words):
        read_pairs(path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    write(tmp_path / "cut.jsonl.gz", ROWS).write_bytes(gzip.compress(b"{}" * 99)[:-9])
    with pytest.raises(ResurgeError, match=r"cut\.jsonl\.gz: is not lines of JSON"):
        read_pairs(tmp_path / "cut.jsonl.gz")
    with pytest.raises(ResurgeError, match=r"no such file. Did you mean 'cut.jsonl.gz'"):
        read_pairs(tmp_path / "cat.jsonl.gz")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ResurgeError, match=r"has no files \*.jsonl"):
        read_pairs(tmp_path / "empty")
    with pytest.raises(ResurgeError, match="blimp is not there: name a data folder"):
        blimp(str(tmp_path))


def test_blimp_is_whole() -> None:
    pairs = blimp(str(data_folder("blimp/blimp.jsonl.gz")))
    of_paradigm = Counter(pair.paradigm for pair in pairs)
    assert len(of_paradigm) == 67
    assert set(of_paradigm.values()) == {1000}
    assert Counter(pair.phenomenon for pair in pairs)["subject_verb_agreement"] == 6000
    assert pairs[0].good == "Who should Derek hug after shocking Richard?"
    assert pairs[0].bad == "Who should Derek hug Richard after shocking?"


def by_hand(model: LanguageModel, prefix: str, sentence: str) -> float:
    """Token by token from a carried state: Σ ln softmax(logits)_token."""
    state, total, counted = None, 0.0, len(prefix.encode())
    row = list((prefix + sentence).encode())
    for t, (token, target) in enumerate(pairwise(row)):
        logits, state = model(torch.tensor([[token]]), state)
        if t + 1 >= counted:
            total += float(torch.log(torch.softmax(logits[0, 0].double(), 0))[target])
    return total


@torch.no_grad()
@pytest.mark.parametrize("prefix", ["\n", "", "it is said that "])
def test_scores_are_sums_of_log_probabilities(prefix: str) -> None:
    sentences = [sentence for sentence in SENTENCES if len(sentence) > (not prefix)]
    found = log_probabilities(model(), str.encode, sentences, prefix=prefix)
    expected = torch.tensor([by_hand(model().eval(), prefix, s) for s in sentences], dtype=torch.float64)
    assert_close(found, expected, torch.float64, "ln P")


def test_batches_change_nothing() -> None:
    sentences = [s for s in SENTENCES if s]
    whole = log_probabilities(model(), str.encode, sentences)
    for tokens in (1, 30, 80, 150):
        found = log_probabilities(model(), str.encode, sentences, batch_tokens=tokens)
        assert_close(found, whole, torch.float64, f"batches of {tokens} tokens")
    alone = torch.cat([log_probabilities(model(), str.encode, [s]) for s in sentences])
    assert_close(alone, whole, torch.float64, "one at a time")
    backwards = log_probabilities(model(), str.encode, sentences[::-1], batch_tokens=30)
    assert_close(backwards.flip(0), whole, torch.float64, "in another order")
    half = log_probabilities(model(dtype=torch.float64).bfloat16(), str.encode, sentences)
    assert half.dtype == torch.float64
    assert_close(half, whole, torch.bfloat16, "bfloat16")


def test_probabilities_of_all_continuations_sum_to_one() -> None:
    small = model(5)
    words = [f"{a}{b}" for a in range(5) for b in range(5)]
    found = log_probabilities(small, lambda text: [int(c) for c in text], words, prefix="3")
    assert float(torch.exp(found).sum()) == pytest.approx(1, abs=1e-12)


class _Fixed(nn.Module):
    """Logits that do not depend on what came before."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.weights.expand(*x.shape[:2], -1)


def test_shares_by_phenomenon_and_ties_count_half() -> None:
    likelier = LanguageModel(256, Stack(lambda: HGRN(8), 1, norm="layer"), head=_Fixed(-torch.arange(256.0)))
    pairs = [
        MinimalPair("a", "b", "p1", "one"),
        MinimalPair("b", "a", "p1", "one"),
        MinimalPair("aa", "ab", "p2", "one"),
        MinimalPair("c", "c", "p3", "two"),  # equal
        MinimalPair("a", "d", "p3", "two"),
    ]
    scores = score_pairs(likelier, str.encode, pairs)
    assert scores.paradigms == {"p1": 0.5, "p2": 1.0, "p3": 0.75}
    assert scores.phenomena == {"one": pytest.approx(2 / 3), "two": 0.75}
    assert scores.accuracy == pytest.approx(0.7)
    assert score_pairs(model(), str.encode, [MinimalPair("a", "a", "p", "p")]).accuracy == 0.5


def test_what_cannot_be_scored_is_named() -> None:
    with pytest.raises(ResurgeError, match="the number of pairs must be at least 1, and is 0"):
        score_pairs(model(), str.encode, [])
    with pytest.raises(ResurgeError, match=r"tokens must lie in \[0, 100\), and 'it' has 105"):
        log_probabilities(model(100), str.encode, ["it"])
    for prefix, sentence in (("\n", ""), ("", "a"), ("", "")):
        with pytest.raises(ResurgeError, match="has no token to be told"):
            log_probabilities(model(), str.encode, ["it is", sentence], prefix=prefix)
    with pytest.raises(ResurgeError, match="batch_tokens must be at least 1"):
        log_probabilities(model(), str.encode, ["it"], batch_tokens=0)
    classifier = SequenceClassifier(nn.Embedding(256, 8), Stack(lambda: HGRN(8), 1), 2)
    with pytest.raises(ResurgeError, match="scored by a LanguageModel, and not by a SequenceClassifier"):
        log_probabilities(classifier, str.encode, ["it"])  # type: ignore[arg-type]


def logits(seed: int) -> Tensor:
    return 2 * torch.randn(3, 4, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("kappa", "tau"), [(0.0, 1.0), (1.0, 1.0), (0.3, 2.5), (0.7, 0.5)])
def test_the_teachers_loss_is_its_equation(kappa: float, tau: float) -> None:
    s, t = logits(1).requires_grad_(), logits(2).requires_grad_()
    targets = torch.randint(7, (3, 4), generator=torch.Generator().manual_seed(3))
    targets[0, 1] = targets[2, 3] = -100
    total = 0.0
    with torch.no_grad():
        for b, i in (targets >= 0).nonzero().tolist():
            soft_s, soft_t = (
                [math.exp(v / tau) / sum(math.exp(w / tau) for w in row.tolist()) for v in row.tolist()]
                for row in (s[b, i], t[b, i])
            )
            divergence = sum(p * math.log(p / q) for p, q in zip(soft_t, soft_s, strict=True))
            chance = math.exp(float(s[b, i, targets[b, i]])) / sum(math.exp(v) for v in s[b, i].tolist())
            total += -(1 - kappa) * math.log(chance) + kappa * tau**2 * divergence
    loss = distillation_loss(s, t, targets, kappa=kappa, tau=tau)
    assert float(loss.detach()) == pytest.approx(total / 10, rel=1e-12)
    loss.backward()
    assert t.grad is None  # the teacher is told nothing
    assert bool((s.grad[0, 1] == 0).all())  # type: ignore[index]
    assert bool((s.grad[0, 0] != 0).any())  # type: ignore[index]


def test_a_student_equal_to_its_teacher_has_nothing_to_learn() -> None:
    s = logits(1).requires_grad_()
    distillation_loss(s, s.detach() + 3, torch.zeros(3, 4, dtype=torch.long), kappa=1.0, tau=2.0).backward()
    assert float(s.grad.abs().max()) < 1e-15  # type: ignore[union-attr]


def test_the_gradient_keeps_its_size_at_high_temperature() -> None:
    def size(tau: float) -> float:
        s = logits(1).requires_grad_()
        distillation_loss(s, logits(2), torch.zeros(3, 4, dtype=torch.long), kappa=1.0, tau=tau).backward()
        return float(s.grad.norm())  # type: ignore[union-attr]

    assert size(1000.0) == pytest.approx(size(100.0), rel=0.05)


def test_options_of_the_loss_out_of_range_are_named() -> None:
    targets = torch.zeros(3, 4, dtype=torch.long)
    with pytest.raises(ResurgeError, match="kappa must lie in"):
        distillation_loss(logits(1), logits(2), targets, kappa=1.1)
    with pytest.raises(ResurgeError, match="tau be positive"):
        distillation_loss(logits(1), logits(2), targets, tau=0.0)
    with pytest.raises(ResurgeError, match=r"have \(3, 4, 7\), \(3, 4, 7\) and \(3,\)"):
        distillation_loss(logits(1), logits(2), targets[:, 0])


def test_generated_sentences_agree_and_their_pairs_do_not() -> None:
    draw = random.Random(0)
    between = 0
    for _ in range(300):
        words, place = babyhgrn.sentence(draw)
        subject = next(word for word in words if word.startswith("noun"))
        assert words[place].startswith("verb")
        assert words[place].split(".")[1] == subject.split(".")[1]
        for noun, verb in pairwise(words):
            assert not verb.startswith("sees") or noun.split(".")[1] == verb.split(".")[1]
        between += words[place - 1].startswith("noun") and words[place - 1].split(".")[1] != subject.split(".")[1]
    assert 30 < between < 120  # the noun just before the verb is often of the other number
    for pair in babyhgrn.pairs(draw, 50):
        good, bad = pair.good.split(), pair.bad.split()
        (place,) = [i for i, (a, b) in enumerate(zip(good, bad, strict=True)) if a != b]
        assert good[place].startswith("verb")
        assert good[place].split(".")[0] == bad[place].split(".")[0]
        assert sum(word.startswith("noun") for word in good) >= 2
    assert len(babyhgrn.VOCABULARY) <= 200
