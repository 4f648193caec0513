"""Models and streams of layers in continuous time: dt reaches them in every form, from both ends, past padding."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close
from torch import Tensor, nn

import resurge
from resurge import layers
from resurge.inference import Stream
from resurge.layer import Bidirectional, RecurrentLayer, TimedLayer, reversed_times
from resurge.layers import LEM, LRU, S5, Mamba, S4DLin
from resurge.models import Blocks, LanguageModel, ResidualBlock, SequenceClassifier, SkipBlock, Stack
from resurge.nn import LastPool, Pool
from resurge.state import named_tensors

TIMED = [name for name in layers.names() if issubclass(layers.layer_class(name), TimedLayer)]
D = 8


def classifier(*mixers: RecurrentLayer, pool: Pool | None = None) -> SequenceClassifier:
    torch.manual_seed(2)
    stack = Blocks(ResidualBlock(mixer, norm="layer") for mixer in mixers)
    return SequenceClassifier(nn.Linear(3, D), stack, 5, pool=pool or LastPool()).double().eval()


def series(rows: int = 3, length: int = 14) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(rows, length, 3, dtype=torch.float64, generator=generator)
    return x, 0.2 + torch.empty(rows, length, dtype=torch.float64).exponential_(1.0, generator=generator)


def same_state(first: object, second: object) -> None:
    for (name, a), (_, b) in zip(named_tensors(first), named_tensors(second), strict=True):
        assert_close(a, b, torch.float64, name)


@pytest.mark.parametrize("name", TIMED)
def test_a_model_hands_dt_to_its_layers(name: str) -> None:
    layer = layers.create(name, D)
    assert isinstance(layer, TimedLayer)
    model = classifier(layer)
    x, dt = series()
    block = model.stack.blocks[0]
    assert isinstance(block, ResidualBlock)
    z = model.encoder(x)
    y, _ = layer(block.norm(z), dt=dt)
    by_hand = model.head((z + block.glu(nn.functional.gelu(y)))[:, -1])
    assert_close(model(x, dt=dt)[0], by_hand, torch.float64, "scores")
    assert_close(model(x, dt=torch.ones_like(dt))[0], model(x)[0], torch.float64, "no dt is 1")
    assert float((model(x, dt=dt)[0] - model(x)[0]).detach().abs().max()) > 1e-6


def test_dt_passes_by_layers_that_count_steps() -> None:
    _, dt = series()
    lru, s5 = LRU(D, 6).double(), S5(D, 6).double()
    torch.manual_seed(0)
    blocks = [SkipBlock(lru).double(), SkipBlock(s5).double()]
    z = model_input = torch.randn(3, 14, D, dtype=torch.float64)
    z = z + lru(blocks[0].norm(z))[0]
    z = z + s5(blocks[1].norm(z), dt=dt)[0]
    assert_close(Blocks(blocks)(model_input, dt=dt)[0], z, torch.float64, "y")


@given(data=st.data())
def test_lengths_and_pieces_with_dt_equal_rows_of_their_own(data: st.DataObject) -> None:
    model = classifier(S5(D, 6), LRU(D, 6), LEM(D, 6))
    T = data.draw(st.integers(1, 14))
    lengths = torch.tensor(data.draw(st.lists(st.integers(0, T), min_size=3, max_size=3)))
    x, dt = series(length=T)
    reset = torch.rand(3, T) < data.draw(st.sampled_from([0.0, 0.2]))
    before = model(*series()[:1], dt=series()[1])[1] if data.draw(st.booleans()) else None
    padded = dt.masked_fill(torch.arange(T) >= lengths[:, None], data.draw(st.sampled_from([0.0, float("nan"), -1.0])))
    scores, state = model(x, before, lengths=lengths, reset=reset, dt=padded)
    for b, length in enumerate(lengths.tolist()):
        row = None if before is None else resurge.state.select(before, [b])
        if not length:
            same_state(resurge.state.select(state, [b]), row or model.initial_state(1))
            continue
        here = slice(b, b + 1)
        alone, after = model(x[here, :length], row, reset=reset[here, :length], dt=dt[here, :length])
        assert_close(scores[here], alone, torch.float64, f"row {b}")
        same_state(resurge.state.select(state, [b]), after)
        for piece in range(0, length, 4):
            part = slice(piece, min(piece + 4, length))
            pieces, row = model(x[here, part], row, reset=reset[here, part], dt=dt[here, part])
        assert_close(pieces, alone, torch.float64, f"row {b} in pieces")


def test_a_language_model_of_events() -> None:
    torch.manual_seed(0)
    model = LanguageModel(11, Stack(lambda: Mamba(D, 4), 2, norm="layer")).double()
    tokens, dt = torch.randint(11, (3, 14)), series()[1]
    whole, last = model(tokens, dt=dt)
    first, state = model(tokens[:, :5], dt=dt[:, :5])
    second, state = model(tokens[:, 5:], state, dt=dt[:, 5:])
    assert_close(torch.cat([first, second], 1), whole, torch.float64, "logits")
    same_state(state, last)
    assert not torch.allclose(whole, model(tokens)[0])


def test_a_dt_that_nobody_takes_is_refused() -> None:
    x, dt = series()
    with pytest.raises(resurge.ResurgeError, match="this stack has none: its layers are LRU"):
        classifier(LRU(D, 6), LRU(D, 6))(x, dt=dt)
    with pytest.raises(resurge.ResurgeError, match="this stack has none: its layers are Bidirectional"):
        classifier(Bidirectional(LRU(D, 6), LRU(D, 6)))(x, dt=dt)
    with pytest.raises(resurge.ResurgeError, match="dt is for layers in continuous time, and LRU counts steps"):
        Bidirectional(LRU(D), LRU(D))(torch.randn(3, 14, D), dt=dt.float())
    for lengths in (None, torch.tensor([14, 3, 2])):
        with pytest.raises(resurge.ResurgeError, match=r"dt must be one number a step, shape \(B, T\) = \(3, 14\)"):
            classifier(S5(D))(x, lengths=lengths, dt=dt[0])
        late = dt.clone()
        late[1, 2] = 0
        with pytest.raises(resurge.ResurgeError, match=r"positive and finite, and dt\[1, 2\] is 0"):
            classifier(S5(D))(x, lengths=lengths, dt=late)


# ---- both directions ----


def reversed_by_loop(dt: list[float], starts: list[bool]) -> list[float]:
    """Document by document: the gaps between its steps from the end, after the gap that it began with."""
    borders = [t for t, start in enumerate(starts) if start or t == 0] + [len(dt)]
    out: list[float] = []
    for start, stop in pairwise(borders):
        out = [dt[start], *reversed(dt[start + 1 : stop]), *out]
    return out


@given(data=st.data())
def test_times_seen_from_the_end(data: st.DataObject) -> None:
    T = data.draw(st.integers(1, 9))
    resets = data.draw(st.lists(st.booleans(), min_size=T, max_size=T))
    dt = torch.rand(2, T, dtype=torch.float64)
    reset = torch.tensor([resets, [False] * T])
    turned = reversed_times(dt, reset)
    assert turned[0].tolist() == reversed_by_loop(dt[0].tolist(), resets)
    assert turned[1].tolist() == reversed_by_loop(dt[1].tolist(), [False] * T)
    assert torch.equal(reversed_times(dt, None)[1], turned[1])
    assert torch.equal(reversed_times(reversed_times(dt, reset), reset.flip(1).roll(1, 1)), dt)


def test_what_comes_from_behind_has_aged_by_the_time_between() -> None:
    """An impulse at step s reaches step t < s as it would reach a step that is τ_s - τ_t later."""
    torch.manual_seed(0)
    ahead, back = S4DLin(D, 6).double(), S4DLin(D, 6).double()
    both = Bidirectional(ahead, back)
    with torch.no_grad():
        for parameter in (ahead.C_re, ahead.C_im, ahead.D):
            parameter.zero_()
    _, dt = series(rows=1)
    at = torch.cumsum(dt[0], 0)
    impulse = torch.randn(1, 1, D, dtype=torch.float64)
    for s in (13, 9, 4):
        x = torch.zeros(1, 14, D, dtype=torch.float64)
        x[:, s] = impulse[:, 0]
        y, _ = both(x, dt=dt)
        own = dt[0, 0] if s == 13 else dt[0, s + 1]
        assert float(y[:, s + 1 :].detach().abs().max() if s < 13 else 0) == 0, "nothing of it ahead"
        for t in range(s):
            gaps = torch.stack([own, at[s] - at[t]])[None]
            expected, _ = back(torch.cat([impulse, torch.zeros_like(impulse)], 1), dt=gaps)
            assert_close(y[:, t], expected[:, 1], torch.float64, f"from {s} to {t}")


def test_both_directions_with_documents_and_padding() -> None:
    torch.manual_seed(0)
    model = classifier(Bidirectional(S5(D, 6), S5(D, 6)), Bidirectional(LRU(D, 6), S5(D, 6)))
    x, dt = series()
    reset = torch.zeros(3, 14, dtype=torch.bool)
    reset[:, 6] = True
    stack, z = model.stack, model.encoder(x)
    whole, _ = stack(z, reset=reset, dt=dt)
    apart = torch.cat([stack(z[:, :6], dt=dt[:, :6])[0], stack(z[:, 6:], dt=dt[:, 6:])[0]], 1)
    assert_close(whole, apart, torch.float64, "documents")
    lengths = torch.tensor([14, 9, 1])
    ragged, _ = stack(z, lengths=lengths, dt=dt)
    for b, length in enumerate(lengths.tolist()):
        alone, _ = stack(z[b : b + 1, :length], dt=dt[b : b + 1, :length])
        assert_close(ragged[b : b + 1, :length], alone, torch.float64, f"row {b}")


def test_turning_the_series_round_exchanges_the_directions() -> None:
    torch.manual_seed(0)
    first, second = S5(D, 6).double(), LEM(D, 6).double()
    x, dt = torch.randn(3, 14, D, dtype=torch.float64), series()[1]
    y, _ = Bidirectional(first, second)(x, dt=dt)
    turned, _ = Bidirectional(second, first)(x.flip(1), dt=reversed_times(dt, None))
    assert_close(turned.flip(1), y, torch.float64, "y")


# ---- streams ----


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_stream_is_told_the_time(batch_size: int) -> None:
    model = classifier(S5(D, 6), LRU(D, 6))
    x, dt = series(batch_size)
    whole, _ = model(x, dt=dt)
    stream = Stream(model, batch_size=batch_size)
    for x_t, dt_t in zip(x.unbind(1), dt.unbind(1), strict=True):
        scores = stream.push(x_t, dt=dt_t)
    assert_close(scores, whole, torch.float64, "step by step")
    stream.reset()
    stream.push(x[:, :5], dt=dt[:, :5])
    each = stream.push_each(x[:, 5:], dt=dt[:, 5:].tolist())
    assert_close(each[:, -1], whole, torch.float64, "in pieces")
    assert_close(each[:, 0], model(x[:, :6], dt=dt[:, :6])[0], torch.float64, "after each")


def test_a_stream_of_one_takes_a_plain_number() -> None:
    model = classifier(S5(D, 6))
    x, dt = series(1)
    stream = Stream(model)
    for x_t, dt_t in zip(x[0].tolist(), dt[0].tolist(), strict=True):
        scores = stream.push(x_t, dt=dt_t)
    assert_close(scores, model(x, dt=dt)[0], torch.float64, "scores")
    torch.manual_seed(0)
    language = LanguageModel(11, Stack(lambda: Mamba(D, 4), 1, norm="layer")).double().eval()
    tokens = torch.randint(11, (1, 14))
    stream = Stream(language)
    logits = [stream.push(int(token), dt=np.float64(gap)) for token, gap in zip(tokens[0], dt[0], strict=True)]
    assert_close(torch.stack(logits, 1), language(tokens, dt=dt)[0], torch.float64, "logits")
    stream.reset()
    assert_close(stream.push_each(tokens, dt=dt), language(tokens, dt=dt)[0], torch.float64, "each")
    with pytest.raises(resurge.ResurgeError, match="dt must be numbers, and is str"):
        stream.push(3, dt="soon")  # type: ignore[arg-type]
    with pytest.raises(resurge.ResurgeError, match=r"dt must be positive and finite, and dt\[0, 0\] is -1"):
        stream.push(3, dt=-1.0)
    with pytest.raises(resurge.ResurgeError, match="this stack has none"):
        Stream(classifier(LRU(D, 6))).push([0.0, 0.0, 0.0], dt=1.0)
