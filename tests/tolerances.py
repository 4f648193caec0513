"""The one table of tolerances: how far a result may lie from the float64 reference, relative to its scale."""

import torch
from torch import Tensor

RELATIVE = {
    torch.float64: 1e-11,  # sums of some hundred terms in another order
    torch.float32: 2e-5,  # the same, times the machine epsilon of 1.2e-7
    torch.bfloat16: 4e-2,  # inputs, weights and outputs are rounded to 8 bits, several times in a layer
    torch.float16: 5e-3,  # the same with 11 bits
}


def assert_close(actual: Tensor, expected: Tensor, dtype: torch.dtype, what: str) -> None:
    """Largest deviation, in units of the largest expected magnitude, within the table's entry for `dtype`."""
    assert actual.shape == expected.shape, f"{what}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    wide = torch.complex128 if expected.is_complex() else torch.float64
    actual, expected = actual.detach().to(wide), expected.detach().to(wide)
    assert bool(torch.isfinite(torch.view_as_real(actual) if wide is torch.complex128 else actual).all()), what
    scale = max(float(expected.abs().max()), 1e-30)
    error = float((actual - expected).abs().max()) / scale
    assert error <= RELATIVE[dtype], f"{what}: relative error {error:.2e}, allowed {RELATIVE[dtype]:.0e}"
