"""What the layers of a stack settle among themselves: starts by place and depth, parameters that they share."""

import math
from pathlib import Path

import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge import layers, recipes
from resurge.cli import main
from resurge.layer import Bidirectional, RecurrentLayer, settle
from resurge.layers import GRU, HGRN, LRU, RWKV4, ComplexHGRN, Hawk, LocalAttention, Mamba, RWKV4ChannelMix
from resurge.models import Blocks, LanguageModel, ResidualBlock, Stack
from resurge.nn import LowerBounds
from resurge.training import build_model, fit, load_run

D, DEPTH = 8, 4


def mixers(stack: Blocks) -> list[RecurrentLayer]:
    return [block.mixer for block in stack.blocks]  # type: ignore[misc]


@pytest.mark.parametrize("name", layers.names())
def test_every_layer_keeps_its_laws_in_a_stack(name: str) -> None:
    stack = Stack(lambda: layers.create(name, D), 3, norm="layer").double()
    x = torch.randn(2, 9, D, dtype=torch.float64)
    whole, _ = stack(x)
    if layers.layer_class(name).CAUSAL:
        first, state = stack(x[:, :4])
        second, _ = stack(x[:, 4:], state)
        assert_close(torch.cat([first, second], 1), whole, torch.float64, "y")
    groups = resurge.param_groups(stack)
    every = [id(p) for group in groups for p in group]
    assert len(every) == len(set(every)) == len(list(stack.parameters()))
    twin = Stack(lambda: layers.create(name, D), 3, norm="layer").double()
    twin.load_state_dict(stack.state_dict())
    assert torch.equal(twin(x)[0], whole)


# ---- HGRN: lower bounds learned together ----


@pytest.mark.parametrize("cls", [HGRN, ComplexHGRN])
def test_a_stack_of_hgrn_starts_with_bounds_of_a_share_of_the_depth(cls: type[HGRN] | type[ComplexHGRN]) -> None:
    stack = Stack(lambda: cls(D), DEPTH, norm="layer").double()
    constant = Blocks(ResidualBlock(cls(D, lower_bound=k / DEPTH), norm="layer") for k in range(DEPTH)).double()
    weights = {name: value for name, value in stack.state_dict().items() if "Gamma" not in name}
    constant.load_state_dict(weights)
    x = torch.randn(2, 20, D, dtype=torch.float64)
    assert_close(stack(x)[0], constant(x)[0], torch.float64, "y")


def test_learned_bounds_are_the_papers_cumulative_softmax() -> None:
    stack = Stack(lambda: HGRN(D), DEPTH).double()
    (shared,) = {id(layer.bounds): layer.bounds for layer in mixers(stack)}.values()  # type: ignore[misc]
    assert isinstance(shared, LowerBounds)
    assert sum(p is shared.Gamma for p in stack.parameters()) == 1
    with torch.no_grad():
        shared.Gamma.normal_()
    gamma = shared.Gamma.detach().numpy()
    x = torch.full((1, 1, D), 0.3, dtype=torch.float64)
    for k, layer in enumerate(mixers(stack)):
        assert isinstance(layer, HGRN)
        found = layer.forget_gate(x)[0][0, 0].tolist()
        weight, bias = layer.forget.weight.tolist(), layer.forget.bias.tolist()
        for i in range(D):
            total = sum(math.exp(gamma[j, i]) for j in range(DEPTH))
            bound = sum(math.exp(gamma[j, i]) for j in range(k)) / total
            mu = 0.3 * sum(weight[i]) + bias[i]
            assert found[i] == pytest.approx(bound + (1 - bound) / (1 + math.exp(-mu)), rel=1e-12)


def test_bounds_of_the_users_own_stand() -> None:
    chosen = Stack(lambda: HGRN(D, lower_bound=0.5), 2)
    plain = Blocks(ResidualBlock(HGRN(D)) for _ in range(2))
    alone = Stack(lambda: HGRN(D), 1)
    assert all(layer.bounds is None for stack in (chosen, plain, alone) for layer in mixers(stack))


def test_each_direction_has_bounds_of_its_own() -> None:
    stack = Stack(lambda: Bidirectional(HGRN(D), HGRN(D)), 3)
    sides = [{id(getattr(layer, side).bounds) for layer in mixers(stack)} for side in ("ahead", "back")]
    assert [len(side) for side in sides] == [1, 1]
    assert sides[0] != sides[1]


# ---- RWKV-4, Mamba, Griffin: starts by place and depth ----


def start(stack: Blocks) -> dict[str, Tensor]:
    return {name: value for name, value in stack.state_dict().items() if ".mixer." in name}


@pytest.mark.parametrize(
    ("told", "untold"),
    [
        (lambda i: RWKV4(D, layer=i, n_layers=DEPTH), lambda: RWKV4(D)),
        (lambda i: RWKV4ChannelMix(D, layer=i, n_layers=DEPTH), lambda: RWKV4ChannelMix(D)),
        (lambda i: Mamba(D, n_layers=DEPTH), lambda: Mamba(D)),
        (lambda i: Hawk(D, n_layers=DEPTH), lambda: Hawk(D)),
        (lambda i: LocalAttention(D, n_layers=DEPTH), lambda: LocalAttention(D)),
    ],
)
def test_a_stack_tells_its_layers_where_they_are(told, untold) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(3)
    expected = start(Blocks(ResidualBlock(told(i)) for i in range(DEPTH)))
    torch.manual_seed(3)
    stack = Stack(untold, DEPTH)
    found = start(stack)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.allclose(found[name], value, rtol=1e-6, atol=0), name
    torch.manual_seed(3)
    alone = start(Blocks(ResidualBlock(untold()) for _ in range(DEPTH)))
    assert any(not torch.allclose(alone[name], value) for name, value in expected.items()), "the test could not fail"
    settle(dict(enumerate(mixers(stack))), DEPTH)
    assert all(torch.equal(value, found[name]) for name, value in start(stack).items()), "told once only"


def test_a_place_that_the_user_chose_stands() -> None:
    torch.manual_seed(3)
    expected = start(Blocks(ResidualBlock(RWKV4(D, layer=1, n_layers=6)) for _ in range(2)))
    torch.manual_seed(3)
    found = start(Stack(lambda: RWKV4(D, layer=1, n_layers=6), 2))
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_places_count_the_layers_of_other_classes() -> None:
    kinds = iter([GRU(D), RWKV4(D), LRU(D), RWKV4(D)])
    found = mixers(Stack(lambda: next(kinds), 4))
    for place in (1, 3):
        expected = RWKV4(D, layer=place, n_layers=4)
        assert torch.equal(found[place].time_decay, expected.time_decay)  # type: ignore[arg-type]
        assert torch.equal(found[place].time_mix_value, expected.time_mix_value)  # type: ignore[arg-type]


def test_a_cast_layer_keeps_its_dtype() -> None:
    stack = Stack(lambda: RWKV4(D).double(), 3).double()
    assert {p.dtype for p in stack.parameters()} == {torch.float64}


# ---- all of it reaches training ----


def test_fit_learns_the_bounds_and_a_run_has_them_again(tmp_path: Path) -> None:
    experiment = recipes.override(
        recipes.get("lru/digits"),
        model__layer=layers.options_type("hgrn")(),
        model__d_model=8,
        model__depth=3,
        train__max_steps=3,
        train__val_steps=3,
    )
    fit("lru/digits", experiment, tmp_path / "run", progress=False, device="cpu")
    run = load_run(tmp_path / "run")
    (shared,) = {id(layer.bounds): layer.bounds for layer in mixers(run.model.stack)}.values()  # type: ignore[misc, arg-type]
    assert isinstance(shared, LowerBounds)
    assert shared.Gamma.shape == (3, 8)
    assert float(shared.Gamma.detach().abs().max()) > 0, "training moves them"


def test_the_command_line_trains_a_language_model_of_hgrn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 200)
    options = ["--path", str(text), "--length=32", "--d-model=8", "--depth=2", "--max-steps=2", "--batch-size=2"]
    assert main(["fit", "hgrn/text", *options, "--val-steps=2", "--out", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    model = load_run(tmp_path / "run").model
    assert isinstance(model, LanguageModel)
    assert len({id(layer.bounds) for layer in mixers(model.stack)}) == 1
    spec = load_run(tmp_path / "run").spec
    again = build_model(load_run(tmp_path / "run").experiment.model, spec)
    assert len(list(again.parameters())) == len(list(model.parameters()))
