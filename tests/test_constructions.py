"""Weights that are computed, not learned: linear self-attention, and the programs of LSRL."""

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tolerances import assert_close
from torch import Tensor

from resurge import ResurgeError, recipes
from resurge.data import InContextRegression
from resurge.data.regression import gradient_step, prompts
from resurge.layers import GatedLinearRNN, GatedReLURNN
from resurge.lsrl import Expr, Program, compile_program, concat, constant, linear, relu, state, token
from resurge.lsrl.programs import cells_prompt, function_of_cells, majority, word_map, words_prompt
from resurge.lsrl.sugar import (
    ReLUSelect,
    all_of,
    any_of,
    between,
    cycle,
    equal,
    gated_select,
    negate,
    step,
    steps_so_far,
)

CONSTRUCTIONS = [GatedLinearRNN.from_linear_attention, GatedLinearRNN.from_linear_attention_symmetric]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("make", CONSTRUCTIONS)
@pytest.mark.parametrize(("d", "K"), [(1, 1), (4, 2), (5, 5), (3, 7)])
def test_a_gated_rnn_is_linear_attention(make: Callable[..., GatedLinearRNN], d: int, K: int) -> None:
    W_Q, W_K, W_V, x = draw(K, d), draw(K, d, seed=1), draw(d, d, seed=2), draw(3, 80, d, seed=3)
    y = torch.zeros_like(x)
    for t, s in itertools.product(range(80), repeat=2):
        if s <= t:
            y[:, t] += (x[:, s] @ W_V.T) * ((x[:, s] @ W_K.T) * (x[:, t] @ W_Q.T)).sum(-1, keepdim=True)
    layer = make(W_Q, W_K, W_V)
    told, last = layer(x)
    assert float((told - y).detach().abs().max() / y.abs().max()) <= 1e-10
    first, middle = layer(x[:, :31])
    second, last_in_pieces = layer(x[:, 31:], middle)
    assert_close(torch.cat([first, second], 1), y, torch.float64, "in pieces")
    assert_close(last_in_pieces.h, last.h, torch.float64, "state")


def test_the_constructions_have_the_papers_numbers_of_units() -> None:
    W = draw(3, 6, 6)
    full, symmetric = (make(*W) for make in CONSTRUCTIONS)
    assert (full.d_state, symmetric.d_state) == (36, 21)
    assert bool((torch.exp(-torch.exp(full.nu_log)) == 1).all())


def test_a_construction_is_a_copy_and_can_be_trained() -> None:
    W_Q, W_K, W_V = draw(3, 4, 4)
    layer = GatedLinearRNN.from_linear_attention(W_Q, W_K, W_V)
    layer(draw(2, 9, 4))[0].square().sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in layer.parameters())
    before = W_V.clone()
    with torch.no_grad():
        layer.W_m.mul_(2)
    assert torch.equal(W_V, before)


@pytest.mark.parametrize("make", CONSTRUCTIONS)
def test_weights_that_are_no_attention_are_named(make: Callable[..., GatedLinearRNN]) -> None:
    with pytest.raises(ResurgeError, match=r"have \(2, 5\), \(2, 4\) and \(4, 4\)"):
        make(draw(2, 5), draw(2, 4), draw(4, 4))


def test_gated_linear_rnn_equals_the_papers_equations_and_starts_as_told() -> None:
    torch.manual_seed(0)
    layer = GatedLinearRNN(5, 7, 6).double()
    x = draw(2, 40, 5)
    age = torch.arange(40)[:, None] - torch.arange(40)
    decay = torch.exp(-torch.exp(layer.nu_log)) ** age.clamp(0)[..., None] * (age >= 0)[..., None]
    h = torch.einsum("tsn,bsn->btn", decay, (x @ layer.W_m.T) * (x @ layer.W_x.T))
    assert_close(layer(x)[0], ((x @ layer.V_m.T) * (h @ layer.V_x.T)) @ layer.D.T, torch.float64, "y")
    large = GatedLinearRNN(16, 4000, 8, r_min=0.5, r_max=0.9).requires_grad_(False)
    lam = torch.exp(-torch.exp(large.nu_log))
    assert float(lam.min()) >= 0.5
    assert float(lam.max()) <= 0.9 + 1e-6
    assert float((lam**2).mean()) == pytest.approx((0.25 + 0.81) / 2, rel=0.02)
    _, last = large(torch.randn(64, 100, 16))
    # i_t has variance 1 + 1/16, and a mean, W_m · W_x of the row, of variance 1/16, which adds up over time
    assert float(last.h.square().mean()) == pytest.approx(1 + (1 + float(((1 + lam) / (1 - lam)).mean())) / 16, rel=0.1)


def test_a_gradient_step_leaves_what_the_theory_says() -> None:
    for length, d in [(13, 3), (6, 1), (31, 8)]:
        steps, value = prompts(np.random.default_rng(0), 100_000, length, d)
        assert float((value**2).mean()) == pytest.approx(1, rel=0.03)
        error = float(((gradient_step(steps) - value) ** 2).mean())
        assert error == pytest.approx((d + 1) / (length + d), rel=0.03)


def test_a_prompt_tells_one_linear_function() -> None:
    steps, value = prompts(np.random.default_rng(3), 50, 9, 4)
    again, _ = prompts(np.random.default_rng(3), 50, 9, 4)
    assert np.array_equal(steps, again)
    assert (steps[:, -1, -1] == 0).all()
    for row, y in zip(steps.astype(np.float64), value, strict=True):
        w = np.linalg.lstsq(row[:-1, :4], row[:-1, 4], rcond=None)[0]
        assert np.abs(row[:-1, :4] @ w - row[:-1, 4]).max() < 1e-5
        assert w @ row[-1, :4] == pytest.approx(float(y[0]), abs=1e-5)


def test_the_task_of_in_context_regression() -> None:
    splits = InContextRegression(length=9, d_input=4, n_train=20).load()
    batch = splits.train.batch(torch.arange(20))
    assert batch.inputs.shape == (20, 9, splits.spec.d_input)
    steps, value = batch.inputs.double(), batch.targets.double()
    w = torch.linalg.lstsq(steps[:, :-1, :4], steps[:, :-1, 4:]).solution[..., 0]
    assert_close((w * steps[:, -1, :4]).sum(-1, keepdim=True), value, torch.float32, "the value is the function's")
    with pytest.raises(ResurgeError, match="d_input must be at least 1, and is 0"):
        InContextRegression(d_input=0).load()


def random_program(seed: int) -> Program:
    """Some twenty operations on random operands, none of which lets values grow far."""
    rng, torch_rng = random.Random(seed), torch.Generator().manual_seed(seed)

    def matrix(rows: int, columns: int) -> Tensor:
        return torch.randn(rows, columns, generator=torch_rng, dtype=torch.float64) / columns**0.5

    def contraction(n: int) -> Tensor:
        kind = rng.randrange(4)
        if kind == 0:
            return torch.zeros(n, n, dtype=torch.float64)
        if kind == 1:
            return torch.diag(torch.rand(n, generator=torch_rng, dtype=torch.float64) * 2 - 1)
        full = matrix(n, n)
        return full * (0.95 / torch.linalg.eigvals(full).abs().max())

    x = token(3)
    pool: list[Expr] = [x, constant([0.5, -1.0])]
    for _ in range(20):
        a, b = rng.choice(pool), rng.choice(pool)
        n = rng.randint(1, 4)
        match rng.randrange(6):
            case 0:
                pool.append(relu(linear(matrix(n, a.dim), a) + 0.1))
            case 1:
                pool.append(0.5 * linear(matrix(n, a.dim), a) * linear(matrix(n, b.dim), b))
            case 2 | 3:
                init = torch.randn(n, generator=torch_rng, dtype=torch.float64)
                pool.append(state(0.3 * linear(matrix(n, a.dim), a) + 0.1, contraction(n), init=init))
            case 4:
                pool.append(linear(matrix(n, a.dim + b.dim), concat([a, b])))
            case _:
                pool.append((a if a.dim == b.dim else a[0]) - b + 1)
    return Program(x, concat(pool[-4:]))


@pytest.mark.parametrize("seed", range(30))
def test_a_compiled_program_equals_the_interpreter(seed: int) -> None:
    program = random_program(seed)
    network = compile_program(program)
    x = draw(3, 25, 3, seed=seed)
    expected = program.interpret(x)
    told, last = network(x)
    assert_close(told, expected, torch.float64, "whole")
    first, middle = network(x[:, :7])
    second, last_in_pieces = network(x[:, 7:], middle)
    assert_close(torch.cat([first, second], 1), expected, torch.float64, "in pieces")
    for a, b in zip(last, last_in_pieces, strict=True):
        assert_close(b.h, a.h, torch.float64, "state")
    reset = torch.zeros(3, 25, dtype=torch.bool)
    reset[:, 11] = True
    anew = torch.cat([expected[:, :11], program.interpret(x[:, 11:])], 1)
    assert_close(network(x, reset=reset)[0], anew, torch.float64, "reset")


def test_operations_mean_what_they_say() -> None:
    x = token(3)
    A = [[1.0, 2.0, 0.0], [0.0, -1.0, 1.0]]
    turn = [[0.0, -1.0], [1.0, 0.0]]
    outputs = concat(
        [2 - x * 3, x[0] * x, linear(A, x), relu(-x[[2, 0]]), state(x[1:], turn, init=[1.0, 0.0]), x[2] * x[2] * 0.5]
    )
    v = draw(1, 6, 3)
    s, rows = torch.tensor([1.0, 0.0], dtype=torch.float64), []
    for u in v[0]:
        s = torch.stack([-s[1], s[0]]) + u[1:]
        rows.append(
            torch.cat([2 - 3 * u, u[0] * u, torch.tensor(A).double() @ u, (-u[[2, 0]]).relu(), s, u[2:] ** 2 / 2])
        )
    assert_close(Program(x, outputs).interpret(v)[0], torch.stack(rows), torch.float64, "interpreter")
    assert_close(compile_program(Program(x, outputs))(v)[0][0], torch.stack(rows), torch.float64, "network")


def test_conditions() -> None:
    x = token(2)
    a, b = x[0], x[1]
    made = concat(
        [
            step(a),
            between(a, b, b + 2),
            equal(a, b),
            all_of(step(a), step(b)),
            any_of(step(a), step(b)),
            negate(step(a)),
        ]
    )
    pairs = torch.tensor(list(itertools.product(range(-3, 4), repeat=2))).double()
    expected = [[a > 0, b < a <= b + 2, a == b, a > 0 and b > 0, a > 0 or b > 0, not a > 0] for a, b in pairs.tolist()]
    told = compile_program(Program(x, made))(pairs[None])[0][0]
    assert torch.equal(told, torch.tensor(expected).double())


@pytest.mark.parametrize("select", [gated_select, ReLUSelect(100.0)])
def test_choices(select: Callable[..., Expr]) -> None:
    x = token(3)
    v = 10 * draw(2, 50, 3)
    v[..., 0] = (v[..., 0] > 0).double()
    told = compile_program(Program(x, select(x[0], x[1], x[2])))(v)[0][..., 0]
    assert_close(told, torch.where(v[..., 0] > 0, v[..., 1], v[..., 2]), torch.float64, "chosen")


@pytest.mark.parametrize("period", [2, 3, 8, 21])
def test_counters(period: int) -> None:
    x = token(1)
    network = compile_program(Program(x, concat([steps_so_far(), cycle(period)])))
    told = network(torch.zeros(1, 500, 1))[0][0]
    assert torch.equal(told[:, 0], torch.arange(1, 501).double())
    assert_close(told[:, 1:], torch.eye(period)[torch.arange(500) % period].double(), torch.float64, "places")


def test_a_layer_is_as_deep_as_the_program_needs() -> None:
    x = token(1)
    flat = linear([[2.0], [3.0]], 4 * x - 1)[1]
    assert len(compile_program(Program(x, flat)).layers) == 1
    assert len(compile_program(majority()).layers) == 1
    assert len(compile_program(Program(x, relu(relu(relu(x))))).layers) == 3


@pytest.mark.parametrize("select", [gated_select, ReLUSelect(), ReLUSelect(1e3)])
@pytest.mark.parametrize("length", [1, 2, 4])
def test_words_are_looked_up_in_the_prompt(select: Callable[..., Expr], length: int) -> None:
    rng = random.Random(length)
    queries, keys, values, expected = [], [], [], []
    for i in range(40):
        known = rng.sample(list(itertools.product(range(4), repeat=length)), 4)
        translations = [[rng.randint(1, 9) for _ in range(length)] for _ in known]
        missing = i % 4 == 0 and length > 1  # one word in four is not there
        asked = rng.randrange(3 if missing else 4)
        queries.append(known[3] if missing else known[asked])
        expected.append([0] * length if missing else translations[asked])
        keys.append([*known[:3], known[0] if missing else known[3]])
        values.append([*translations[:3], translations[0] if missing else translations[3]])
    prompt = words_prompt(torch.tensor(queries), torch.tensor(keys), torch.tensor(values))
    program = word_map(length, select=select)
    for told in (program.interpret(prompt), compile_program(program)(prompt)[0]):
        assert float((told[:, -1].detach() - torch.tensor(expected)).abs().max()) <= 1e-3


@pytest.mark.parametrize("d", [1, 2, 3])
def test_functions_are_read_from_the_prompt(d: int) -> None:
    """Queries on the middle of cells get the value there; any others stay within the bound."""
    program = function_of_cells(d)
    network = compile_program(program)
    n = 4

    def f(points: Tensor) -> Tensor:
        return points.sum(-1).cos()

    centres = torch.cartesian_prod(*[(torch.arange(n) + 0.5) / n] * d).reshape(-1, d)
    prompt = cells_prompt(centres, f, n)
    told = network(prompt)[0]
    assert_close(told, program.interpret(prompt), torch.float64, "network")
    assert_close(told[:, -1, 0], f(centres.double()), torch.float64, "centres")
    queries = 0.001 + 0.999 * torch.rand(300, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    error = (network(cells_prompt(queries, f, n))[0][:, -1, 0].detach() - f(queries)).abs().max()
    assert float(error) <= d**0.5 * d**0.5 * (0.5 / n + 0.001)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: token(0), "a token must have at least 1 channel, and has 0"),
        (lambda x: x + x[:2], r"the two sides of \+ .* have 3 and 2"),
        (lambda x: x[:2] * x, r"the two sides of \* .* have 2 and 3"),
        (lambda x: x[5], "an expression of 3 channels has no channels 5"),
        (lambda x: x[3:], "at least 1 channel"),
        (lambda x: linear([[1.0, 2.0]], x), r"A must have shape \(n, 3\) .* has \(1, 2\)"),
        (lambda x: linear([1.0, 2.0], x), r"A must be a matrix, and has shape \(2,\)"),
        (lambda x: constant([1.0, float("nan")]), "the values of a constant must be finite, and holds nan"),
        (lambda x: state(x, [[1.0]]), r"a state of 3 channels needs A of shape \(3, 3\)"),
        (lambda x: state(x, init=[0.0]), r"init of \(3,\), and was given \(3, 3\) and \(1,\)"),
        (lambda x: state(x[0], [[1.1]]), "must lie in the unit disk, and one has modulus 1.1"),
        (lambda x: state(x[:2], [[0.5, 1.0], [0.0, 0.5]]), "must have an eigenbasis"),
        (lambda x: concat([]), "concat needs at least one expression"),
        (lambda x: all_of(), "need at least one condition"),
        (lambda x: cycle(1), "the period of a cycle must be at least 2, and is 1"),
        (lambda x: ReLUSelect(0.0), "bound must be positive and finite, and is 0.0"),
        (lambda x: word_map(0), "length must be at least 1, and is 0"),
        (lambda x: function_of_cells(0), "d must be at least 1, and is 0"),
        (lambda x: Program(x + 1, token(1)), "the output depends on a token that is not the program's"),
        (lambda x: Program(relu(x), x), "the inputs of a program must be a token"),
        (
            lambda x: Program(x, x).interpret(torch.zeros(1, 2, 4)),
            r"x must have shape \(B, T, 3\), and has \(1, 2, 4\)",
        ),
        (lambda x: compile_program(Program(x, x))(torch.zeros(1, 2, 4)), r"x must have shape \(B, T, 3\), and has"),
        (lambda x: compile_program(Program(x, x))(torch.zeros(1, 2, 3), ()), "the state must have 1 parts"),
    ],
)
def test_a_bad_program_is_named(make: Callable[[Expr], object], message: str) -> None:
    with pytest.raises(ResurgeError, match=message):
        make(token(3))


def test_gated_relu_rnn_equals_its_equations_and_starts_as_told() -> None:
    torch.manual_seed(0)
    layer = GatedReLURNN(5, 6, 7).double()
    with torch.no_grad():
        for p in (layer.h0, layer.B.bias, layer.C.bias, layer.W_1.bias, layer.W_2.bias):
            p.normal_()
    x = draw(2, 40, 5)
    lam = torch.exp(torch.complex(-torch.exp(layer.nu_log), layer.theta))
    B, b = (torch.complex(*part.unflatten(0, (2, 6))) for part in (layer.B.weight, layer.B.bias))
    h, rows = torch.complex(*layer.h0).expand(2, 6), []
    for x_t in x.unbind(1):
        h = lam * h + x_t.to(B) @ B.T + b
        v = torch.cat([h.real, h.imag, x_t], -1)
        rows.append(layer.C(v) + layer.W_o(torch.relu(layer.W_1(v)) * layer.W_2(v)))
    y, last = layer(x)
    assert_close(y, torch.stack(rows, 1), torch.float64, "y")
    assert_close(last.h, torch.stack([h.real, h.imag], 1), torch.float64, "h")
    large = GatedReLURNN(16, 2000, 8, r_min=0.5, r_max=0.9).requires_grad_(False)
    modulus = large.eigenvalues().norm(dim=0)
    assert float(modulus.min()) >= 0.5 - 1e-6
    assert float(modulus.max()) <= 0.9 + 1e-6
    assert float((modulus**2).mean()) == pytest.approx((0.25 + 0.81) / 2, rel=0.02)
    _, end = large(torch.randn(64, 100, 16))
    assert float(end.h.square().sum(1).mean()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("slug", ["gated_rnn_attention", "lsrl"])
def test_the_claims_run(slug: str) -> None:
    system = next(s for s in recipes.systems() if s.PAPER.slug == slug)
    numbers = system.run(system.config(True))
    assert all(np.isfinite(value) for value in numbers.values())
    if slug == "lsrl":
        assert numbers["gated_words"] == numbers["majority"] == 1
        assert numbers["gated_noisy"] >= 0.9 > 0.5 >= numbers["relu_1e10_noisy"]
    else:
        assert numbers["construction_error"] <= 1e-10
        assert not system.check(numbers).holds  # ten steps of training do not do
