"""Faster fp32 matrix products on x86: torch's ``linear`` goes to MKL, which is half as fast as oneDNN on AMD.

oneDNN's kernel takes the very same weights, so nothing is copied or packed; only ``nn.Linear.forward`` of the given
model is replaced, and put back after the block.
"""

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


def usable(model: nn.Module) -> bool:
    """oneDNN linear exists here and the model is fp32 on an x86 CPU (``NAIT_FAST_LINEAR=torch`` turns it off)."""
    weight = next(model.parameters())
    return (
        os.environ.get("NAIT_FAST_LINEAR") != "torch"
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and platform.machine() in ("x86_64", "AMD64")
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    )


@contextmanager
def onednn_linear(model: nn.Module) -> Iterator[None]:
    """Inside the block every plain ``nn.Linear`` of ``model`` multiplies with oneDNN (inference only)."""
    linear = torch.ops.mkldnn._linear_pointwise

    def bind(module: nn.Linear):
        weight, bias = module.weight.detach(), None if module.bias is None else module.bias.detach()
        return lambda x: linear(x, weight, bias, "none", [], "")

    # A module with a forward of its own (accelerate's hooks) keeps it.
    plain = [m for m in model.modules() if type(m) is nn.Linear and "forward" not in m.__dict__]
    modules = plain if usable(model) else []
    try:
        for module in modules:
            module.forward = bind(module)  # type: ignore[method-assign]
        yield
    finally:
        for module in modules:
            module.__dict__.pop("forward", None)
