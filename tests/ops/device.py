"""Where the kernels' tests run: on the GPU where there is one, else on CPU tensors in Triton's interpreter."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


@contextmanager
def poisoned() -> Iterator[None]:
    """Inside the block, memory that is not written holds NaN or the largest integer."""
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(3, device=DEVICE).isnan().all()
        yield
    finally:
        torch.use_deterministic_algorithms(False)
