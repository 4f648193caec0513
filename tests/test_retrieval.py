"""Retrieval: the reader of pairs, the drawn substitute, and the model that compares two texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from resurge import ResurgeError, recipes
from resurge.data import InputSpec, Retrieval
from resurge.data.retrieval import read_pairs
from resurge.inference import Stream
from resurge.inference.predict import answer_file
from resurge.layers import LRU
from resurge.models import PairClassifier, SequenceClassifier, Stack
from resurge.nn import LastPool, Pool
from resurge.training import build_model, evaluate, fit, load_run
from resurge.training.runs import load_data


def model(pool: Pool | None = None, *, norm: str = "layer") -> PairClassifier:
    torch.manual_seed(0)
    return PairClassifier(nn.Embedding(30, 8), Stack(lambda: LRU(8, 6), 2, norm=norm), 3, pool=pool).double().eval()


def lines(n: int, start: int = 0) -> str:
    """Pairs of texts that begin with their number, of several lengths."""
    rows = range(start, start + n)
    return "".join(f"{i % 2}.0\tid{i}\tid\ttext {i}{'a' * i}\t{i} other{'é' * (i % 4)}\n" for i in rows)


def test_scores_are_those_of_two_texts_read_alone() -> None:
    """The head's equation, on summaries that a classifier with the same weights gives text by text."""
    pairs = model()
    alone = SequenceClassifier(pairs.encoder, pairs.stack, 8, pool=pairs.pool).double().eval()
    with torch.no_grad():
        alone.head.weight.copy_(torch.eye(8))
        alone.head.bias.zero_()
    inputs, lengths = torch.randint(30, (4, 2, 11)), torch.tensor([[11, 3], [1, 11], [5, 5], [7, 2]])
    scores, _ = pairs(inputs, lengths=lengths)
    for row in range(4):
        a, b = (alone(inputs[row, i, : lengths[row, i]][None])[0][0] for i in range(2))
        features = torch.cat([a, b, a - b, a * b])
        hidden = gelu(pairs.hidden.weight @ features + pairs.hidden.bias)
        torch.testing.assert_close(scores[row], pairs.head.weight @ hidden + pairs.head.bias, rtol=1e-11, atol=1e-11)
    assert not torch.allclose(scores, pairs(inputs.flip(1), lengths=lengths.flip(1))[0])  # a - b knows the order


@pytest.mark.parametrize("pool", [None, LastPool()])
def test_pieces_of_pairs_end_in_the_scores_of_the_whole(pool: Pool | None) -> None:
    pairs = model(pool)
    inputs = torch.randint(30, (3, 2, 13))
    reset = torch.rand(3, 2, 13) < 0.2
    whole, _ = pairs(inputs, reset=reset)
    state = pairs.initial_state(3)
    for start, stop in ((0, 1), (1, 6), (6, 13)):
        scores, state = pairs(inputs[..., start:stop], state, reset=reset[..., start:stop])
    torch.testing.assert_close(scores, whole, rtol=1e-11, atol=1e-11)


def test_pairs_do_not_mix_and_both_texts_have_gradients() -> None:
    pairs = model()
    inputs = torch.randint(30, (3, 2, 9))
    together = pairs(inputs)[0]
    torch.testing.assert_close(together, torch.cat([pairs(inputs[i : i + 1])[0] for i in range(3)]))
    seen: list[Tensor] = []
    pairs.encoder.register_forward_hook(lambda *args: seen.append(args[2].requires_grad_()))
    (gradient,) = torch.autograd.grad(pairs(inputs)[0][1].sum(), seen)
    assert (gradient.view(3, 2, 9, 8)[1].abs().sum(-1) > 0).all()
    assert not gradient.view(3, 2, 9, 8)[[0, 2]].any()


def test_what_is_no_pair_is_refused() -> None:
    for shape in ((2, 5), (2, 3, 5)):
        with pytest.raises(ResurgeError, match="inputs must be pairs"):
            model()(torch.zeros(shape, dtype=torch.long))
    with pytest.raises(ResurgeError, match="at least one step"):
        model()(torch.zeros(2, 2, 0, dtype=torch.long))
    with pytest.raises(ResurgeError, match="not PairClassifier"):
        Stream(model())


def test_drawn_pairs_share_a_phrase_or_do_not() -> None:
    task = Retrieval(length=300, n_train=400, n_val=50, n_test=50, n_keys=5, key_length=10, n_copies=4)
    splits = task.load()
    phrases = [bytes(phrase) for phrase in task.phrases()]
    assert len(set(phrases)) == 5
    batch = splits.train.batch(torch.arange(400))
    assert batch.inputs.shape == (400, 2, 300)
    assert batch.lengths is None
    assert batch.steps == 400 * 2 * 300
    found = []
    for pair in batch.inputs.tolist():
        texts = [bytes(token - 1 for token in text) for text in pair]
        counts = [[text.count(phrase) for phrase in phrases] for text in texts]
        assert [sorted(count) for count in counts] == [[0, 0, 0, 0, 4]] * 2
        found.append([count.index(4) for count in counts])
        assert set(texts[0]) <= set(b"abcdefghijklmnopqrstuvwxyz ")
    keys = np.array(found)
    assert ((keys[:, 0] == keys[:, 1]) == batch.targets.bool().numpy()).all()
    assert batch.targets.float().mean() == pytest.approx(0.5, abs=0.1)
    assert np.bincount(keys.reshape(-1), minlength=5).min() > 100  # of 800; all phrases as often
    # other pairs in each epoch, in each split, and by each seed
    other = splits.train.at_epoch(0, 1).batch(torch.arange(4)).inputs
    assert not torch.equal(other, batch.inputs[:4])
    assert not torch.equal(splits.val.batch(torch.arange(4)).inputs, batch.inputs[:4])
    assert torch.equal(splits.train.batch(torch.tensor([3])).inputs[0], batch.inputs[3])
    mine, others = (Retrieval(data_seed=seed).phrases().tolist() for seed in (0, 1))
    assert not any(phrase in mine for phrase in others)


def test_a_file_of_pairs(tmp_path: Path) -> None:
    path = tmp_path / "pairs.train.tsv"
    path.write_text(lines(100))
    splits = Retrieval(path=str(path), length=40).load()
    assert [len(part) for part in splits[:3]] == [90, 5, 5]
    texts = set()
    for part in splits[:3]:
        batch = part.batch(torch.arange(len(part)))
        assert batch.lengths is not None
        for pair, lengths, label in zip(batch.inputs, batch.lengths, batch.targets, strict=True):
            first, second = (
                bytes(text[:n].numpy().astype(np.uint8) - 1) for text, n in zip(pair, lengths, strict=True)
            )
            i = int(second.split()[0])
            assert first == f"text {i}{'a' * i}".encode()[:40]
            assert second == f"{i} other{'é' * (i % 4)}".encode()
            assert int(label) == i % 2
            texts.add(i)
    assert texts == set(range(100))
    # the benchmark's own files lie side by side
    (tmp_path / "pairs.eval.tsv").write_text(lines(7, 200))
    (tmp_path / "pairs.test.tsv").write_text(lines(9, 300))
    assert [len(part) for part in Retrieval(path=str(path)).load()[:3]] == [100, 7, 9]
    named = Retrieval(path=str(path), val_path=str(tmp_path / "pairs.test.tsv")).load()
    assert [len(part) for part in named[:3]] == [100, 9, 9]
    assert Retrieval(path=str(path)).present()
    assert not Retrieval(path=str(tmp_path / "none.tsv")).present()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "has no pairs"),
        ("1\ta\tb\tc\n", "line 1: 5 fields between tabs are expected, and there are 4"),
        (lines(2) + "2\ta\tb\tc\td\n", "line 3: the label must be 0 or 1, and is 2"),
        ("yes\ta\tb\tc\td\n", "line 1: the label 'yes' is not a number"),
        ("1\ta\tb\t\td\n", "line 1: a text is empty"),
    ],
)
def test_a_file_that_is_none_of_pairs_is_refused(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_text(content)
    with pytest.raises(ResurgeError, match=words):
        read_pairs(path, 100)


def test_options_out_of_range_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ResurgeError, match="cannot be read: No such file"):
        Retrieval(path=str(tmp_path / "none.tsv")).load()
    with pytest.raises(ResurgeError, match="length must be at least 96"):
        Retrieval(length=95).load()
    with pytest.raises(ResurgeError, match="n_keys must be at least 2"):
        Retrieval(n_keys=1).load()


def test_a_run_of_pairs_from_fit_to_evaluate(tmp_path: Path) -> None:
    """By the recipe, made small: it learns to compare short texts, and its run can be loaded and judged again."""
    changes = {"data__length": 40, "data__n_keys": 2, "data__key_length": 8, "data__n_copies": 4, "data__n_train": 400}
    changes |= {"data__n_val": 60, "data__n_test": 60, "model__depth": 1, "model__d_model": 16, "train__max_steps": 150}
    changes |= {"model__layer__d_state": 16, "train__batch_size": 16, "train__val_steps": 50, "model__norm": "layer"}
    experiment = recipes.override(recipes.get("lru/retrieval"), **changes, train__lr=1e-2, model__dropout=0.0)
    test = fit("lru/retrieval", experiment, tmp_path / "run", progress=False, device="cpu")
    run = load_run(tmp_path / "run")
    assert isinstance(run.model, PairClassifier)
    assert run.spec.pairs
    assert evaluate(run, device="cpu") == pytest.approx(test)
    rows = []
    for i, (inputs, target) in enumerate(zip(*load_data(run).test.batch(torch.arange(60))[:2], strict=True)):
        first, second = (bytes((text - 1).tolist()).decode() for text in inputs)
        rows.append(f"{int(target)}\t{i}\t{i}\t{first}\t{second}\n")
    (tmp_path / "new.tsv").write_text("".join(rows))
    answers = [one for some in answer_file(run, tmp_path / "new.tsv") for one in some]
    assert [one["line"] for one in answers] == list(range(1, 61))
    right = [(one["class"] == "together") == (row[0] == "1") for one, row in zip(answers, rows, strict=True)]
    assert np.mean(right) == pytest.approx(test["accuracy"])
    assert test["accuracy"] > 0.8


def test_the_papers_hyperparameters_of_the_arena() -> None:
    """Table 9 of arXiv 2303.06349."""
    table = {
        "retrieval": (6, 128, 256, 100_000, 64, 0.5, 0.1, 0.5, 0.9, False),
        "pathfinder": (6, 192, 256, 500_000, 64, 0.25, 0.0, 0.9, 0.999, True),
        "pathx": (6, 128, 256, 250_000, 32, 0.25, 0.0, 0.999, 0.9999, True),
    }
    for name, row in table.items():
        made = recipes.get(f"lru/{name}")
        model, train, layer = made.model, made.train, recipes.to_dict(made)["model"]["layer"]
        ring = (layer["r_min"], layer["r_max"], model.bidirectional)
        size = (model.depth, model.d_model, layer["d_state"])
        assert (*size, train.max_steps, train.batch_size, train.lr_factor, model.dropout, *ring) == row
        assert (train.weight_decay, train.warmup, model.norm, model.prenorm) == (0.05, 0.1, "batch", True)
        assert layer["max_phase"] == pytest.approx(np.pi / 10 if name == "pathx" else 2 * np.pi)
        assert model.half_glu == (name == "pathx")


def test_the_gate_of_path_x_is_half_a_glu() -> None:
    """z * sigmoid(W z + b), z = GELU(LRU(norm(x))), with half of a GLU's weights."""
    spec = InputSpec(kind="values", d_input=1, target="class", d_output=2)
    small = {"model__d_model": 8, "model__depth": 1, "model__layer__d_state": 4, "model__bidirectional": False}
    small |= {"model__norm": "layer"}
    made = build_model(recipes.override(recipes.get("lru/pathx"), **small).model, spec).double().eval()
    assert isinstance(made, SequenceClassifier)
    (block,) = made.stack.blocks
    x = torch.randn(2, 7, 8, dtype=torch.float64)
    z = gelu(block.mixer(block.norm(x))[0])
    gate = torch.sigmoid(z @ block.glu.linear.weight.T + block.glu.linear.bias)
    torch.testing.assert_close(made.stack(x)[0], x + z * gate, rtol=1e-11, atol=1e-11)
    assert sum(p.numel() for p in block.glu.parameters()) == 8 * 8 + 8
