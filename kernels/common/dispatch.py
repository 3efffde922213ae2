"""Which backend runs an op: Triton on a GPU, the CPU's own where there is one, else the reference."""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

BACKENDS = ("triton", "cpu", "reference")
VARIABLE = "NAIT_FAST_BACKEND"


def forced() -> str:
    """The backend that ``NAIT_FAST_BACKEND`` asks for, or ''. Raises ValueError for one that does not exist."""
    name = os.environ.get(VARIABLE, "")
    if name and name not in BACKENDS:
        raise ValueError(f"{VARIABLE}={name}: choose {', '.join(BACKENDS)}")
    return name


@cache
def has_triton() -> bool:
    return find_spec("triton") is not None


def interpreted() -> bool:
    """Triton's interpreter is on: its kernels run on CPU tensors, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def pick(device_type: str, available: Sequence[str]) -> str:
    """The backend for tensors on ``device_type`` among ``available`` ('reference' is one of them).

    A forced backend that an op lacks means its reference.
    """
    asked = forced()
    if asked:
        return asked if asked in available else "reference"
    if device_type == "cuda" and "triton" in available and has_triton():
        return "triton"
    return "cpu" if device_type == "cpu" and "cpu" in available else "reference"


def current(device: Any) -> AbstractContextManager:
    """Makes ``device`` (torch.device) the current one: Triton launches on that, wherever its arguments lie."""
    if device.type != "cuda":
        return nullcontext()
    import torch

    return torch.cuda.device(device)
