"""Numbers as JSON has them."""

import math
from typing import Any

import numpy as np

DIGITS = 6


def plain(value: Any) -> Any:
    """``value`` with NumPy's numbers as Python's, floats rounded, and null for what is no finite number."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value
