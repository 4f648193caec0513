"""Tasks drawn on the fly: each solved by a reader of its own, and every item a function of its number alone."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from resurge import ResurgeError, recipes
from resurge.data import Adding, Batch, Copying, InputSpec, Passkey, task
from resurge.data.drawn import DrawnTask
from resurge.training import build_model
from resurge.training.scores import better, evaluate_split, measure, metric_name, metrics

TASKS = [
    Adding(length=20),
    Copying(length=30, n_symbols=4, n_kinds=3),
    Copying(length=30, n_symbols=4, n_kinds=3, selective=True),
    Passkey(length=40),
    Passkey(length=40, random_filler=True),
]


@pytest.mark.parametrize("drawn", TASKS, ids=repr)
def test_an_item_depends_on_its_number_split_and_epoch_only(drawn: DrawnTask) -> None:
    splits, again = drawn.load(), drawn.load()
    some = torch.tensor([5, 0, 7])
    whole = splits.train.batch(torch.arange(8))
    for found, part in zip(splits.train.batch(some)[:2], whole[:2], strict=True):
        assert torch.equal(found, part[some])
    streams = [splits.train, splits.val, splits.test]
    streams += [splits.train.at_epoch(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    other = type(drawn)(**{**vars(drawn), "data_seed": 1}).load()
    kinds = [split.batch(torch.arange(50)).inputs for split in [*streams, other.train]]
    for i, first in enumerate(kinds):
        assert all(not torch.equal(first, second) for second in kinds[:i])
    for split, same in zip(splits[:3], again[:3], strict=True):
        assert torch.equal(split.batch(some).inputs, same.batch(some).inputs)
    epoch = splits.train.at_epoch(3, 4)
    assert torch.equal(epoch.batch(some).inputs, again.train.at_epoch(3, 4).batch(some).inputs)
    assert len(epoch) == len(splits.train) == drawn.n_train
    assert torch.equal(splits.train.batch(some).inputs, whole.inputs[some])  # an epoch leaves the split as it was


@pytest.mark.parametrize("length", [2, 3, 1000, 10_000])
def test_adding_is_the_sum_of_two_marked_numbers_one_a_half(length: int) -> None:
    splits = Adding(length=length, n_test=64).load()
    inputs, targets, lengths = splits.test.batch(torch.arange(64))
    assert inputs.shape == (64, length, 2)
    assert lengths is None
    values, marks = inputs.double().unbind(-1)
    assert set(marks.unique().tolist()) <= {0.0, 1.0}
    assert torch.equal(marks[:, : length // 2].sum(1), torch.ones(64, dtype=torch.float64))
    assert torch.equal(marks.sum(1), torch.full((64,), 2.0, dtype=torch.float64))
    torch.testing.assert_close(targets[:, 0].double(), (values * marks).sum(1), rtol=0, atol=1e-6)


def test_adding_leaves_a_sixth_to_who_says_one() -> None:
    splits = Adding(length=50, n_test=4000).load()
    inputs, targets, _ = splits.test.batch(torch.arange(4000))
    assert float((targets - 1).square().mean()) == pytest.approx(1 / 6, abs=0.01)  # 4 standard errors are 0.013
    assert float(inputs[..., 0].mean()) == pytest.approx(0.5, abs=0.005)
    places = inputs[..., 1].nonzero()[:, 1].view(-1, 2).double().mean(0)
    assert places.tolist() == pytest.approx([12, 37], abs=0.5)


@pytest.mark.parametrize("selective", [False, True])
@pytest.mark.parametrize(("length", "n_symbols"), [(6, 3), (200, 10), (10_000, 10)])
def test_copying_asks_for_the_symbols_in_their_order(length: int, n_symbols: int, selective: bool) -> None:
    splits = Copying(length=length, n_symbols=n_symbols, selective=selective).load()
    inputs, targets, _ = splits.val.batch(torch.arange(20))
    asked = length - n_symbols
    assert (targets[:, :asked] == -100).all()
    assert (inputs[:, asked:] == 1).all()
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        symbols = [(t, token) for t, token in enumerate(row) if token > 1]
        assert [token for _, token in symbols] == answers[asked:]
        assert all(token == 0 for t, token in enumerate(row[:asked]) if t not in dict(symbols))
        assert selective or [t for t, _ in symbols] == list(range(n_symbols))
    assert splits.spec.d_input == splits.spec.d_output == 10


def test_copied_symbols_are_even_and_their_places_spread() -> None:
    splits = Copying(length=100, n_symbols=5, n_kinds=4, selective=True, n_val=2000).load()
    inputs, _, _ = splits.val.batch(torch.arange(2000))
    shares = torch.bincount(inputs[inputs > 1] - 2).double() / 10_000
    assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.02)
    assert float((inputs > 1).nonzero()[:, 1].double().mean()) == pytest.approx(47, abs=1)


@pytest.mark.parametrize("random_filler", [False, True])
@pytest.mark.parametrize("length", [12, 300, 10_000])
def test_the_passkey_stands_between_its_marks(length: int, random_filler: bool) -> None:
    splits = Passkey(length=length, random_filler=random_filler).load()
    inputs, targets, _ = splits.test.batch(torch.arange(20))
    assert inputs.shape == targets.shape == (20, length)
    assert (targets[:, :-5] == -100).all()
    for row, answers in zip(inputs.tolist(), targets.tolist(), strict=True):
        start = row.index(10)
        assert row[start + 1 : start + 6] == answers[-5:]
        assert row[start + 6] == 11
        assert row[-5:] == [12] * 5
        filler = np.array(row[:start] + row[start + 7 : -5])
        assert ((filler >= 13) & (filler < 29)).all()
        ordered = all((b - a) % 16 == 1 for a, b in pairwise(filler.tolist()))
        assert ordered != (random_filler and length > 12)


@pytest.mark.parametrize("depth", [0.0, 0.25, 1.0])
def test_the_depth_of_a_passkey(depth: float) -> None:
    inputs = Passkey(length=112, depth=depth).load().test.batch(torch.arange(4)).inputs
    assert (inputs == 10).nonzero()[:, 1].tolist() == [round(100 * depth)] * 4
    anywhere = (Passkey(length=112).load().train.batch(torch.arange(2000)).inputs == 10).nonzero()[:, 1].double()
    assert float(anywhere.mean()) == pytest.approx(50, abs=3)
    assert (anywhere.min(), anywhere.max()) == (0, 100)


@pytest.mark.parametrize(
    ("drawn", "message"),
    [
        (Adding(length=1), "length must be at least 2 here, and is 1"),
        (Adding(n_val=0), "n_val must be at least 1, and is 0"),
        (Adding(data_seed=-1), "seed must lie between"),
        (Copying(length=19), "length must be at least 20 here"),
        (Copying(n_symbols=0), "n_symbols must be at least 1"),
        (Copying(n_kinds=1), "n_kinds must be at least 2"),
        (Passkey(length=11), "length must be at least 12 here"),
        (Passkey(n_digits=0), "n_digits must be at least 1"),
        (Passkey(depth=1.5), "depth must be at most 1, and is 1.5"),
        (Passkey(depth=math.nan), "depth must be at most 1, and is nan"),
    ],
)
def test_options_out_of_range_are_refused(drawn: DrawnTask, message: str) -> None:
    with pytest.raises(ResurgeError, match=message):
        drawn.load()


def test_answers_are_measured_where_they_are_asked() -> None:
    torch.manual_seed(0)
    spec = InputSpec("tokens", 6, "answers", 6)
    outputs, targets = torch.randn(3, 7, 6), torch.randint(6, (3, 7))
    targets[:, :5] = -100
    targets[0, 5] = -100
    loss, sums = measure(outputs, Batch(torch.zeros(3, 7, dtype=torch.long), targets, None), spec)
    pairs = [(outputs[b, t], targets[b, t]) for b in range(3) for t in range(7) if targets[b, t] >= 0]
    assert len(pairs) == 5
    assert loss.item() == pytest.approx(float(np.mean([float(cross_entropy(o, y)) for o, y in pairs])), rel=1e-6)
    right = sum(int(o.argmax()) == int(y) for o, y in pairs) / 5
    assert metrics(sums, spec) == pytest.approx({"loss": loss.item(), "accuracy": right}, rel=1e-6)
    assert metric_name(spec) == "accuracy"
    assert better(spec, {"accuracy": 0.6, "loss": 9.0}, {"accuracy": 0.5, "loss": 1.0})
    with pytest.raises(ResurgeError, match="6 kinds of tokens, and was given text"):
        spec.encode(b"text")


def test_items_are_judged_apart_from_each_other() -> None:
    """Windows of one text hand their state on; these items must not."""
    drawn = Copying(length=12, n_symbols=3, n_test=9)
    splits = drawn.load()
    config = recipes.override(recipes.get("lru/copying"), model__d_model=8, model__depth=1).model
    model = build_model(config, splits.spec)
    one = evaluate_split(model, splits.test, splits.spec, 9, torch.device("cpu"))
    assert evaluate_split(model, splits.test, splits.spec, 2, torch.device("cpu")) == pytest.approx(one, rel=1e-5)


def test_the_tasks_are_registered() -> None:
    for name, cls in (("adding", Adding), ("copying", Copying), ("passkey", Passkey)):
        assert task(name) is cls
        assert cls().present()
