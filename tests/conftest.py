"""Every test runs with uninitialised memory filled with NaN, so that reading what nobody wrote shows."""

import os
from collections.abc import Iterator

import pytest
import torch

if not torch.cuda.is_available():  # Triton's kernels run in its interpreter, on CPU tensors
    os.environ["TRITON_INTERPRET"] = "1"

from hypothesis import HealthCheck, settings

torch.set_num_threads(1)  # the cases are small, and threads that spin for each other make them slow on a busy machine

settings.register_profile(
    "resurge", deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("resurge")


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)  # this also fills torch.empty and its relatives with NaN
    yield
    torch.use_deterministic_algorithms(False)
