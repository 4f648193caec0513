"""Aaren against softmax attention over every prefix, and as it starts."""

import math

import laws
import pytest
import torch
from tolerances import assert_close
from torch import Tensor

import resurge
from resurge.layers import Aaren

B, T, D = 2, 40, 12


def by_prefixes(layer: Aaren, x: Tensor) -> Tensor:
    """Each y_t by an attention of its own over x_1 ... x_t: no recurrence anywhere."""
    heads, d = layer.n_heads, D // layer.n_heads
    q = (layer.W_q.weight @ layer.query).view(heads, d)
    k = (x @ layer.W_k.weight.T).view(B, -1, heads, d)
    v = (x @ layer.W_v.weight.T).view(B, -1, heads, d)
    scores = torch.einsum("hd,bthd->bth", q, k) / math.sqrt(d)
    outputs = []
    for t in range(x.shape[1]):
        weights = torch.softmax(scores[:, : t + 1], 1)
        outputs.append(torch.einsum("bth,bthd->bhd", weights, v[:, : t + 1]).flatten(1))
    return torch.stack(outputs, 1) @ layer.W_o.weight.T


@pytest.mark.parametrize("heads", [1, 3, 12])
@pytest.mark.parametrize("sharpness", [1.0, 1e4])
def test_it_equals_attention_over_every_prefix(heads: int, sharpness: float) -> None:
    torch.manual_seed(heads)
    layer = Aaren(D, heads).double()
    with torch.no_grad():
        layer.query.mul_(sharpness)  # scores up to some 1e4
    x = torch.randn(B, T, D, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(B, T, D, dtype=torch.float64)
    wanted = [x, *layer.parameters()]
    found = torch.autograd.grad((layer(x)[0] * weight).sum(), wanted)
    expected = torch.autograd.grad((by_prefixes(layer, x) * weight).sum(), wanted)
    assert_close(layer(x)[0], by_prefixes(layer, x), torch.float64, "y")
    if sharpness == 1:  # the gradients of a maximum are lost in rounding
        names = ["x", *(name for name, _ in layer.named_parameters())]
        for name, a, b in zip(names, found, expected, strict=True):
            assert_close(a, b, torch.float64, name)


@pytest.mark.parametrize("law", laws.LAWS, ids=lambda law: law.__name__.removeprefix("law_"))
def test_several_heads_keep_the_laws(law: laws.Law) -> None:
    torch.manual_seed(1)
    law(Aaren(8, 4).double())


def test_the_state_is_that_of_the_paper() -> None:
    layer = Aaren(D, 3)
    state = layer.initial_state(1)
    assert sum(part.numel() for part in state) == 3 * (D // 3 + 2)
    assert bool((state.m == -1e38).all())
    sizes = {resurge.state.nbytes(layer(torch.randn(1, length, D))[1]) for length in (1, 10, 1000)}
    assert len(sizes) == 1


def test_the_order_of_the_past_does_not_matter() -> None:
    torch.manual_seed(0)
    layer, x = Aaren(D, 3).double(), torch.randn(B, T, D, dtype=torch.float64)
    order = torch.cat([torch.randperm(T - 1), torch.tensor([T - 1])])
    assert_close(layer(x[:, order])[0][:, -1], layer(x)[0][:, -1], torch.float64, "y")


def test_scores_start_with_the_variance_of_the_linear_maps() -> None:
    """W_q and W_k start uniform in ±1/sqrt(D), variance 1/(3 D): keys and query components have variance 1/3, s 1/9."""
    torch.manual_seed(0)
    squares = []
    for _ in range(40):
        layer = Aaren(96, 8)
        with torch.no_grad():
            squares.append(layer._logits(torch.randn(200, 96)).square().mean())
    assert float(torch.stack(squares).mean()) == pytest.approx(1 / 9, rel=0.15)


def test_heads_that_do_not_divide_are_named() -> None:
    with pytest.raises(resurge.ResurgeError, match="n_heads must divide d_model = 12, and is 5"):
        Aaren(12, 5)
