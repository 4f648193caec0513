"""What the claim about selectivity compares: the task, and the layer without selection."""

import torch
from tolerances import assert_close
from torch.nn.functional import silu, softplus

from resurge.layers import Mamba
from resurge.recipes import mamba


def test_the_answer_is_the_symbol_written_last() -> None:
    tokens, answers = mamba.stream(200, 64, 16, torch.Generator().manual_seed(0))
    for row, expected in zip(tokens.tolist(), answers.tolist(), strict=True):
        latest = -1
        for token, answer in zip(row, expected, strict=True):
            latest = token - 8 if token >= 8 else latest
            assert answer == latest
    assert abs(float((tokens[:, 1:] >= 8).float().mean()) - 1 / 16) < 0.01


def test_without_selection_the_layer_is_a_fixed_filter() -> None:
    torch.manual_seed(0)
    layer = mamba.unselective(Mamba(5, 3)).double()
    u = torch.randn(2, 20, 5, dtype=torch.float64)
    with torch.no_grad():
        x, z = layer.in_proj(u).chunk(2, -1)
        x = silu(layer.conv1d(x, torch.zeros(2, 3, 10, dtype=torch.float64))[0])
        value = layer.get_parameter("x_proj.value")
        delta, B, C = value[: layer.dt_rank], value[layer.dt_rank :][:3], value[-3:]
        dt = softplus(layer.dt_proj(delta))[:, None]
        k = torch.arange(20)[:, None, None]
        kernel = (torch.exp(-k * dt * torch.exp(layer.A_log)) * dt * B * C).sum(-1)  # (T, channels)
        y = torch.stack([(x[:, : t + 1] * kernel[: t + 1].flip(0)).sum(1) for t in range(20)], 1)
        expected = layer.out_proj((y + layer.D * x) * silu(z))
        assert_close(layer(u)[0], expected, torch.float64, "y")
