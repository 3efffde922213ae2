"""The principal components of codec components: what a codebook holds of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from nait_fast.index.format import CodeLayout

_DTYPES = {"basis": "<f2", "component_counts": "<i4", "component_scale": "<f4"}
NAMES = frozenset(_DTYPES)


@dataclass(frozen=True)
class Components:
    """A few principal components of each layer, the strongest of them kept in 8 bits and the others in 4.

    ``component_counts`` int32 [L, 2]: how many of a layer take 8 bits, and 4 (an even number). K of them in all: layer
    after layer, a layer's 8-bit ones first. ``component_scale`` fp32 [K]: worth of a step; ``basis`` fp16: one matrix
    [k_l, J_l] a layer, rows orthonormal, all of them flattened.
    """

    basis: np.ndarray
    component_counts: np.ndarray
    component_scale: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in _DTYPES}

    @property
    def numbers(self) -> tuple[int, int]:
        """Components of 8 bits and of 4."""
        wide, narrow = self.component_counts.sum(axis=0).tolist()
        return wide, narrow

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.concatenate([np.zeros((1, 2), np.int64), np.cumsum(self.component_counts, axis=0)])

    def of(self, position: int) -> slice:
        """A layer's place among all K."""
        return slice(int(self._starts[position].sum()), int(self._starts[position + 1].sum()))

    def kept(self, position: int, narrow: bool) -> slice:
        """A layer's place among the components of 8 bits, or of 4."""
        return slice(int(self._starts[position, int(narrow)]), int(self._starts[position + 1, int(narrow)]))

    def directions(self, layout: CodeLayout) -> list[np.ndarray]:
        """The components of each layer, fp32 [k_l, J_l]."""
        out, start = [], 0
        for position, width in enumerate(layout.widths):
            k = int(self.component_counts[position].sum())
            out.append(self.basis[start : start + k * width].reshape(k, width).astype(np.float32))
            start += k * width
        return out


def components_of(tensors: Mapping[str, np.ndarray], layout: CodeLayout) -> Components:
    """The components in a codebook's ``tensors``. Raises ValueError where they are none of the layers in ``layout``."""
    counts = tensors["component_counts"]
    if counts.dtype != np.int32 or counts.shape != (len(layout.widths), 2) or (counts < 0).any():
        raise ValueError("'component_counts' does not fit the layers")
    each = counts.sum(axis=1, dtype=np.int64)
    if (each > np.array(layout.widths)).any() or (counts[:, 1] % 2).any() or not each.any():
        raise ValueError("'component_counts' holds impossible values")
    shapes = {"basis": (int((each * np.array(layout.widths)).sum()),), "component_scale": (int(each.sum()),)}
    for name, shape in shapes.items():
        if tensors[name].dtype != np.dtype(_DTYPES[name]) or tensors[name].shape != shape:
            raise ValueError(f"{name!r} does not fit the layers")
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name!r} holds values that are not finite")
    if (tensors["component_scale"] <= 0).any():
        raise ValueError("'component_scale' holds impossible values")
    return Components(**{name: np.array(tensors[name]) for name in _DTYPES})
