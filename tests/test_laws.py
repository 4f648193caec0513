"""Every law for every layer. A layer is enrolled by being exported from resurge.layers."""

from collections.abc import Callable

import laws
import numpy
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tolerances import assert_close

import resurge
from resurge import RecurrentLayer, layers
from resurge.state import map_tensors, named_tensors

D_MODEL = 8


def build(name: str, d_model: int = D_MODEL) -> RecurrentLayer:
    torch.manual_seed(1)
    return layers.create(name, d_model).double()


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__.removeprefix("law_"))
@pytest.mark.parametrize("name", layers.names())
def test_law(name: str, law: Callable[[RecurrentLayer], None]) -> None:
    law(build(name))


@pytest.mark.parametrize("name", layers.names())
@given(data=st.data())
def test_any_split_and_resets_equal_the_whole(name: str, data: st.DataObject) -> None:
    layer = build(name)
    length = data.draw(st.integers(2, 40), "T")
    borders = tuple(sorted(data.draw(st.sets(st.integers(1, length - 1), max_size=6), "borders")))
    resets = data.draw(st.lists(st.booleans(), min_size=3 * length, max_size=3 * length), "resets")
    reset = torch.tensor(resets).view(3, length)
    x = laws.inputs(layer, length)
    whole, state = layer(x, reset=reset)
    cut, state_cut = laws.pieces(layer, x, None, borders, reset)
    assert_close(cut, whole, torch.float64, "y")
    for (part, a), (_, b) in zip(named_tensors(state_cut), named_tensors(state), strict=True):
        assert_close(a, b, torch.float64, part)


@pytest.mark.parametrize("name", layers.names())
def test_unknown_options_are_refused(name: str) -> None:
    with pytest.raises(TypeError):
        layers.layer_class(name)(8, d_stat=3)  # type: ignore[call-arg]
    with pytest.raises(resurge.ResurgeError, match="unknown option of layer"):
        layers.create(name, 8, d_stat=3)


@pytest.mark.parametrize("name", layers.names())
def test_wrong_inputs_are_named(name: str) -> None:
    layer = build(name)
    x = laws.inputs(layer)
    with pytest.raises(resurge.ResurgeError, match=r"x must have shape \(B, T, 8\).*has \(3, 0, 8\)"):
        layer(x[:, :0])
    with pytest.raises(resurge.ResurgeError, match="for a batch of 2"):
        layer(x[:2], layer.initial_state(3))
    other = "gru" if name != "gru" else "lstm"
    with pytest.raises(resurge.ResurgeError, match=f"state must be a {type(layer.initial_state(1)).__name__}"):
        layer(x, build(other).initial_state(3))
    with pytest.raises(resurge.ResurgeError, match="reset must be bool"):
        layer(x, reset=torch.zeros(3, 4, dtype=torch.bool))


@pytest.mark.parametrize("name", layers.names())
def test_a_step_checks_what_it_is_given(name: str) -> None:
    layer = build(name)
    x = torch.randn(4, layer.d_model, dtype=torch.float64)
    with pytest.raises(resurge.ResurgeError, match="for a batch of 4"):
        layer.step(x, layer.initial_state(1))
    with pytest.raises(resurge.ResurgeError, match="x_t must have shape"):
        layer.step(x[:, :-1], layer.initial_state(4))


@pytest.mark.parametrize("name", layers.names())
def test_numbers_that_do_not_meet_the_parameters_are_named(name: str) -> None:
    """In float32, and in half precision, where the recurrence's own parameters stay in float32."""
    for own, others in [
        (torch.float32, [torch.int64, torch.bool, torch.complex64, torch.float64, torch.bfloat16]),
        (torch.bfloat16, [torch.int64, torch.float32, torch.float16]),
    ]:
        layer = build(name).to(own)
        x, state = laws.inputs(layer).to(own), laws.some_state(build(name))
        for other in others:
            refused = rf"must be {own} for this layer's parameters, and is {other}"
            with pytest.raises(resurge.ResurgeError, match=f"^x {refused}$"):
                layer(x.to(other))
            with pytest.raises(resurge.ResurgeError, match=f"^x_t {refused}$"):
                layer.step(x[:, 0].to(other), state)
        for other in (torch.int64, torch.bool, torch.complex64):
            wrong = map_tensors(lambda part, to=other: part.to(to), state)
            refused = rf"^state\.\w+ must be floating point, and is {other}$"
            with pytest.raises(resurge.ResurgeError, match=refused):
                layer(x, wrong)
            with pytest.raises(resurge.ResurgeError, match=refused):
                layer.step(x[:, 0], wrong)


@pytest.mark.parametrize("name", layers.names())
def test_tensors_on_another_device_are_named(name: str) -> None:
    layer = build(name)
    x, state = laws.inputs(layer), laws.some_state(layer)
    far, far_state = x.to("meta"), map_tensors(lambda part: part.to("meta"), state)
    reset, dt = (torch.ones(x.shape[:2], dtype=dtype, device="meta") for dtype in (torch.bool, torch.float64))
    calls: list[tuple[str, Callable[[], object]]] = [
        ("x is on meta, and the layer", lambda: layer(far, state)),
        ("x_t is on meta, and the layer", lambda: layer.step(far[:, 0], state)),
        (r"state\.\w+ is on meta, and the layer", lambda: layer(x, far_state)),
        (r"state\.\w+ is on meta, and the layer", lambda: layer.step(x[:, 0], far_state)),
        ("reset is on meta, and x", lambda: layer(x, state, reset=reset)),
    ]
    if layer.timed:
        calls.append(("dt is on meta, and x", lambda: layer(x, state, dt=dt)))
        calls.append(("dt is on meta, and x", lambda: layer.step(x[:, 0], state, dt=dt[:, 0])))  # type: ignore[call-arg]
    for message, call in calls:
        with pytest.raises(resurge.ResurgeError, match=f"^{message} is on cpu: both must be on one device$"):
            call()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", layers.names())
def test_autocast_takes_what_it_casts(name: str, dtype: torch.dtype) -> None:
    layer = build(name).float()
    x = laws.inputs(layer).to(dtype)
    expected, _ = layer(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(resurge.ResurgeError, match=r"x must be torch\.bfloat16 or .* and is torch\.float64"):
            layer(x.double())
        y, _ = layer(x)
        stepped, _ = laws.steps(layer, x, layer.initial_state(3))
    assert_close(y, expected, torch.bfloat16, "y")
    assert_close(stepped, expected, torch.bfloat16, "steps")


@pytest.mark.parametrize("name", layers.names())
def test_sizes_below_one_are_refused(name: str) -> None:
    with pytest.raises(resurge.ResurgeError, match="d_model must be at least 1, and is 0"):
        layers.create(name, 0)


@pytest.mark.parametrize("name", layers.names())
def test_states_are_values(name: str, tmp_path: object) -> None:
    from pathlib import Path

    layer = build(name)
    state = laws.some_state(layer)
    path = Path(str(tmp_path)) / "state.npz"
    resurge.state.save(state, path)
    loaded = resurge.state.load(path, layer.initial_state(3))
    assert type(loaded) is type(state)
    for (part, a), (_, b) in zip(named_tensors(loaded), named_tensors(state), strict=True):
        assert torch.equal(a, b), part
    assert not any(part.requires_grad for _, part in named_tensors(resurge.state.detach(state)))
    with pytest.raises(resurge.ResurgeError, match="holds another state"):
        resurge.state.load(path, layer.initial_state(2))
    numpy.save(path.with_suffix(".npy"), numpy.zeros(3))
    path.write_bytes(path.read_bytes()[:40])
    for other in (path, path.with_suffix(".npy")):
        with pytest.raises(resurge.ResurgeError, match="is not a saved state"):
            resurge.state.load(other, layer.initial_state(3))
    with pytest.raises(resurge.ResurgeError, match=r"cannot write .*: Not a directory"):
        resurge.state.save(state, path / "below" / "a file.npz")


@pytest.mark.parametrize("name", layers.names())
def test_bidirectional(name: str) -> None:
    layer = resurge.Bidirectional(build(name), build(name))
    for parameter in layer.back.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = laws.inputs(layer)
    y, _ = layer(x)
    assert_close(y, layer.ahead(x)[0] + layer.back(x.flip(1))[0].flip(1), torch.float64, "y")
    reset = torch.zeros(3, laws.T, dtype=torch.bool)
    reset[:, 9] = True
    apart = torch.cat([layer(x[:, :9])[0], layer(x[:, 9:])[0]], 1)
    assert_close(layer(x, reset=reset)[0], apart, torch.float64, "packed documents")
    laws.law_param_groups_hold_every_parameter_once(layer)
    with pytest.raises(AssertionError, match="depends on the future"):
        laws.law_causal(layer)
    with pytest.raises(resurge.ResurgeError, match="is a BidirectionalEnd"):
        layer(x, layer(x)[1])
    with pytest.raises(resurge.ResurgeError, match="no step"):
        layer.step(x[:, 0], layer.initial_state(3))


def test_an_unknown_layer_names_the_nearest() -> None:
    with pytest.raises(resurge.ResurgeError, match=r"unknown layer 'lstn'\. Did you mean 'lstm'"):
        layers.create("lstn", 8)


@pytest.mark.parametrize("name", ["lru"])
def test_inductor_equals_eager(name: str) -> None:
    layer = build(name).float()
    x = laws.inputs(layer)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True)
    assert_close(compiled(x)[0], layer(x)[0], torch.float32, "y")


@pytest.mark.parametrize("name", layers.names())
def test_citation_and_explanation(name: str) -> None:
    layer = build(name)
    assert layer.PAPER.title in layer.cite()
    assert type(layer).__name__ in resurge.explain(layer, laws.inputs(layer))
