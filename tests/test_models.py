"""The models keep the laws of their layers: pieces, lengths and resets, pooling included."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor, nn

import resurge
from resurge.layers import GRU, LRU
from resurge.models import LanguageModel, SequenceClassifier, SequenceRegressor, Stack
from resurge.nn import LastPool, MeanPool, Pool, TiedDropout, norm
from resurge.state import map_tensors, named_tensors

NORMS = ["batch", "layer", "rms"]


def classifier(
    norm: str = "batch", prenorm: bool = True, pool: Pool | None = None, mixer: type = LRU
) -> SequenceClassifier:
    torch.manual_seed(0)
    stack = Stack(lambda: mixer(8, 6), 2, norm=norm, prenorm=prenorm, dropout=0.1)
    model = SequenceClassifier(nn.Linear(3, 8), stack, 5, pool=pool).double()
    with torch.no_grad():
        model(torch.randn(4, 30, 3, dtype=torch.float64))  # running statistics that are not the initial ones
    return model.eval()


def language_model(norm: str) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(11, Stack(lambda: LRU(8, 6), 2, norm=norm)).double().eval()


def assert_same_state(first: object, second: object) -> None:
    for (name, a), (_, b) in zip(named_tensors(first), named_tensors(second), strict=True):
        assert_close(a, b, torch.float64, name)


@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("pool", [MeanPool(), LastPool()])
def test_pieces_end_in_the_scores_of_the_whole(kind: str, prenorm: bool, pool: Pool) -> None:
    model = classifier(kind, prenorm, pool)
    x = torch.randn(3, 20, 3, dtype=torch.float64)
    whole, state = model(x)
    pieces = None
    for piece in x.split([1, 2, 9, 8], 1):
        scores, pieces = model(piece, pieces)
    assert_close(scores, whole, torch.float64, "scores")
    assert_same_state(pieces, state)


@pytest.mark.parametrize("mixer", [LRU, GRU])
@pytest.mark.parametrize("pool", [MeanPool(), LastPool()])
@given(data=st.data())
def test_lengths_equal_rows_of_their_own(mixer: type, pool: Pool, data: st.DataObject) -> None:
    model = classifier(pool=pool, mixer=mixer)
    T = data.draw(st.integers(1, 20))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, T), min_size=3, max_size=3)))
    x = torch.randn(3, T, 3, dtype=torch.float64)
    reset = torch.rand(3, T) < data.draw(st.sampled_from([0.0, 0.2]))
    started = data.draw(st.booleans())
    before = model(torch.randn(3, 4, 3, dtype=torch.float64))[1] if started else None
    scores, state = model(x, before, lengths=lengths, reset=reset)
    for b, length in enumerate(lengths.tolist()):
        row = None if before is None else resurge.state.select(before, [b])
        if not length:  # nothing but padding leaves the state as it was
            assert_same_state(resurge.state.select(state, [b]), row or model.initial_state(1))
            continue
        alone, state_alone = model(x[b : b + 1, :length], row, reset=reset[b : b + 1, :length])
        assert_close(scores[b : b + 1], alone, torch.float64, f"row {b}")
        assert_same_state(resurge.state.select(state, [b]), state_alone)


@pytest.mark.parametrize("started", [False, True])
def test_padding_has_no_influence_not_even_in_training(started: bool) -> None:
    x = torch.randn(3, 12, 3, dtype=torch.float64)
    lengths = torch.tensor([12, 5, 8])
    other = x.clone()
    other[1, 5:] = 1e6
    other[2, 8:] = -1e6
    results = []
    for inputs in (x, other):
        model = classifier().train()
        for module in model.modules():
            if isinstance(module, TiedDropout):
                module.p = 0.0
        before = model.initial_state(3) if started else None
        scores, _ = model(inputs, before, lengths=lengths)
        gradients = torch.autograd.grad(scores.sum(), list(model.parameters()), allow_unused=True)
        buffers = [b.double() for b in model.buffers()]
        results.append([scores, *(g for g in gradients if g is not None), *buffers])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["layer", "rms", "batch"])
def test_language_model_pieces_lengths_and_documents(kind: str) -> None:
    model = language_model(kind)
    tokens = torch.randint(11, (2, 15))
    whole, state = model(tokens)
    first, middle = model(tokens[:, :6])
    second, last = model(tokens[:, 6:], middle)
    assert_close(torch.cat([first, second], 1), whole, torch.float64, "logits")
    assert_same_state(last, state)
    reset = torch.zeros(2, 15, dtype=torch.bool)
    reset[:, 6] = True
    assert_close(model(tokens, reset=reset)[0][:, 6:], model(tokens[:, 6:])[0], torch.float64, "documents")
    ragged, _ = model(tokens, lengths=torch.tensor([15, 4]))
    assert_close(ragged[1, :4], whole[1, :4], torch.float64, "lengths")


def test_a_reset_forgets_the_pooled_past() -> None:
    model = classifier()
    x = torch.randn(2, 10, 3, dtype=torch.float64)
    _, before = model(100 * x)
    reset = torch.zeros(2, 10, dtype=torch.bool)
    reset[0, 4] = True
    scores, _ = model(x, before, reset=reset)
    assert_close(scores[:1], model(x[:1, 4:])[0], torch.float64, "row 0")
    row = resurge.state.select(before, [1])
    assert_close(scores[1:], model(x[1:], row)[0], torch.float64, "row 1")


def test_truncated_backpropagation_ends_at_a_detached_state() -> None:
    model = classifier()
    x = torch.randn(1, 6, 3, dtype=torch.float64, requires_grad=True)
    _, state = model(x)
    through, _ = model(x.detach(), state)
    cut, _ = model(x.detach(), resurge.state.detach(state))
    assert torch.autograd.grad(through.sum(), x)[0].abs().sum() > 0
    assert_close(cut, through, torch.float64, "scores")
    assert torch.autograd.grad(cut.sum(), x, allow_unused=True)[0] is None


def test_the_initial_state_is_no_state() -> None:
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    for model, inputs in ((classifier(), x), (language_model("rms"), torch.randint(11, (2, 5)))):
        assert torch.equal(model(inputs)[0], model(inputs, model.initial_state(2))[0])


def test_dropout_is_shared_over_time_and_keeps_the_mean() -> None:
    x = torch.ones(200, 6, 50)
    y = TiedDropout(0.25)(x)
    assert bool((y == y[:, :1]).all())
    assert float(y.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(TiedDropout(0.25).eval()(x), x)


def test_batch_norm_statistics_leave_padding_out() -> None:
    layer = norm("batch", 4).double()
    x = 3 * torch.randn(5, 30, 4, dtype=torch.float64) + 2
    valid = torch.rand(5, 30) < 0.6
    y = layer(x, valid).detach()
    assert_close(y[valid].mean(0) + 1, torch.ones(4, dtype=torch.float64), torch.float64, "mean")
    assert float(y[valid].var(0, unbiased=False).mean()) == pytest.approx(1.0, abs=1e-4)
    running: Tensor = layer.norm.running_mean  # type: ignore[union-attr, assignment]
    assert_close(running, 0.1 * x[valid].mean(0), torch.float64, "running mean")


def test_regressor_has_its_outputs() -> None:
    model = SequenceRegressor(nn.Linear(3, 8), Stack(lambda: LRU(8, 6), 1), 2).double()
    outputs, _ = model(torch.randn(4, 7, 3, dtype=torch.float64))
    target = torch.randn(4, 2, dtype=torch.float64)
    before = float((outputs - target).square().mean().detach())
    optimiser = torch.optim.Adam(model.parameters(), 1e-2)
    x = torch.randn(4, 7, 3, dtype=torch.float64)
    for _ in range(200):
        optimiser.zero_grad()
        loss = (model(x)[0] - target).square().mean()
        loss.backward()
        optimiser.step()
    assert float(loss.detach()) < 0.02 * before


def test_param_groups_of_a_model_cover_it_once() -> None:
    model = classifier()
    groups = resurge.param_groups(model)
    assert sorted(id(p) for group in groups for p in group) == sorted(id(p) for p in model.parameters())
    assert len(groups.recurrent) == 2 * 5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m(x[:, :0]), "at least one step"),
        (lambda m, x: m(x, lengths=torch.tensor([3, 9])), "between 0 and T = 5"),
        (lambda m, x: m(x, lengths=torch.tensor([3.0, 2.0])), "lengths must be 2 integers"),
        (lambda m, x: m(x, m.initial_state(3)), "for a batch of 2"),
        (lambda m, x: m(x, m.initial_state(2)._replace(pool=m.initial_state(1).pool)), "state.mean must have shape"),
        (lambda m, x: m(x, classifier(pool=LastPool()).initial_state(2)), "must be a MeanPoolState of MeanPool"),
        (lambda m, x: TiedDropout(1.0), "dropout must lie in"),
        (lambda m, x: m(x, (1, 2)), "state must be a SequenceState"),
        (lambda m, x: m(x, map_tensors(lambda t: t, classifier(mixer=GRU).initial_state(2))), "is a GRUState"),
    ],
)
def test_bad_arguments_are_named(call: object, message: str) -> None:
    with pytest.raises(resurge.ResurgeError, match=message):
        call(classifier(), torch.randn(2, 5, 3, dtype=torch.float64))  # type: ignore[operator]


def test_an_unknown_norm_names_the_nearest() -> None:
    with pytest.raises(resurge.ResurgeError, match="Did you mean 'batch'"):
        norm("btach", 4)


def test_a_single_step_can_be_trained_on() -> None:
    model = classifier().train()
    x = torch.randn(2, 1, 3, dtype=torch.float64)
    assert bool(torch.isfinite(model(x[:1])[0]).all())
    assert bool(torch.isfinite(model(x, lengths=torch.tensor([1, 0]))[0]).all())


def test_the_mean_of_a_long_stream_is_a_mean() -> None:
    pool, y = MeanPool(), torch.full((1, 1, 2), 0.5)
    valid = torch.ones(1, 1, dtype=torch.bool)
    state = pool.initial_state(y[:, 0])._replace(mean=torch.full((1, 2), 0.5), steps=torch.tensor([1 << 25]))
    mean, after = pool(y, state, valid, None)
    assert after.steps.tolist() == [(1 << 25) + 1]
    assert mean.tolist() == [[0.5, 0.5]]


def test_a_mean_is_taken_in_float32_under_autocast() -> None:
    y = torch.randn(2, 100, 4)
    pool, valid = MeanPool(), torch.ones(2, 100, dtype=torch.bool)
    with torch.autocast("cpu", torch.bfloat16):
        mean, _ = pool(y, pool.initial_state(y[:, 0]), valid, None)
    assert torch.allclose(mean, y.mean(1), atol=1e-6)
