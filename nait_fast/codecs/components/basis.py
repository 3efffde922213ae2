"""The principal components of codec components: what a codebook holds of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

import numpy as np

from nait_fast.codecs.base import Columns
from nait_fast.codecs.layout import CodeLayout

_DTYPES = {"basis": "<f2", "component_layers": "<i4", "component_counts": "<i4", "component_scale": "<f4"}
NAMES = frozenset(_DTYPES)


@dataclass(frozen=True)
class Components:
    """A few principal components of each group of adjacent layers, the strongest kept in 8 bits, the others in 4.

    ``component_layers`` int32 [G]: layers of a group; ``component_counts`` int32 [G, 2]: how many of its components
    take 8 bits, and 4 (an even number). K of them in all: group after group, a group's 8-bit ones first.
    ``component_scale`` fp32 [K]: worth of a step; ``basis`` fp16: one matrix [k_g, J_g] a group, J_g its layers'
    neurons, rows orthonormal, all of them flattened.
    """

    basis: np.ndarray
    component_layers: np.ndarray
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

    def of(self, group: int) -> slice:
        """A group's place among all K."""
        return slice(int(self._starts[group].sum()), int(self._starts[group + 1].sum()))

    def kept(self, group: int, narrow: bool) -> slice:
        """A group's place among the components of 8 bits, or of 4."""
        return slice(int(self._starts[group, int(narrow)]), int(self._starts[group + 1, int(narrow)]))

    def directions(self, layout: CodeLayout) -> list[tuple[slice, np.ndarray]]:
        """Each group's place among all neurons, and its components, fp32 [k_g, J_g]."""
        out, start = [], 0
        for group, neurons in enumerate(neurons_of(self.component_layers, layout)):
            k = int(self.component_counts[group].sum())
            width = neurons.stop - neurons.start
            out.append((neurons, self.basis[start : start + k * width].reshape(k, width).astype(np.float32)))
            start += k * width
        return out


def columns_of(wide: int, narrow: int) -> Columns:
    """``components`` [K8], and ``nibbles`` [K4 / 2], two numbers each."""
    return {"components": ("i1", (wide,)), "nibbles": ("u1", (narrow // 2,))}


def neurons_of(layers: np.ndarray, layout: CodeLayout) -> list[slice]:
    """The place among all neurons of each group; ``layers`` int [G]: how many layers it has."""
    ends = np.concatenate([[0], np.cumsum(layout.widths)])[np.concatenate([[0], np.cumsum(layers)])].tolist()
    return [slice(start, stop) for start, stop in pairwise(ends)]


def components_of(tensors: Mapping[str, np.ndarray], layout: CodeLayout) -> Components:
    """The components in a codebook's ``tensors``. Raises ValueError where they are none of the layers in ``layout``."""
    layers, counts = tensors["component_layers"], tensors["component_counts"]
    if layers.dtype != np.int32 or layers.ndim != 1 or (layers < 1).any() or layers.sum() != len(layout.widths):
        raise ValueError("'component_layers' does not fit the layers")
    if counts.dtype != np.int32 or counts.shape != (len(layers), 2) or (counts < 0).any():
        raise ValueError("'component_counts' does not fit the layers")
    each = counts.sum(axis=1, dtype=np.int64)
    widths = np.array([neurons.stop - neurons.start for neurons in neurons_of(layers, layout)])
    if (each > widths).any() or (counts[:, 1] % 2).any() or not each.any():
        raise ValueError("'component_counts' holds impossible values")
    shapes = {"basis": (int((each * widths).sum()),), "component_scale": (int(each.sum()),)}
    for name, shape in shapes.items():
        if tensors[name].dtype != np.dtype(_DTYPES[name]) or tensors[name].shape != shape:
            raise ValueError(f"{name!r} does not fit the layers")
        if not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name!r} holds values that are not finite")
    if (tensors["component_scale"] <= 0).any():
        raise ValueError("'component_scale' holds impossible values")
    return Components(**{name: np.array(tensors[name]) for name in _DTYPES})
