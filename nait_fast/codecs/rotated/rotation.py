"""The rotation of codec rotated: what a codebook holds of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.codecs.base import Columns
from nait_fast.codecs.layout import CodeLayout
from nait_fast.kernels.rotate import ROUNDS, rotated_width

_DTYPES = {
    "permutations": "<i4",
    "signs": "i1",
    "factor_scale": "<f4",
    "outliers": "<i4",
    "outlier_scale": "<f4",
    "leading": "<f2",
}

SLACK = 0.02  # of lengths and products of components: fp16 leaves unit ones 1e-3 from 1 and 0
LEADING = 8  # principal components of a layer whose estimates get a weight of their own
QUERY_BITS = 4  # planes of a rotated direction: the codes' one bit drowns what finer ones would bring


@dataclass(frozen=True)
class Rotation:
    """A random rotation of each layer, and the neurons that are kept as numbers beside its bits.

    N' = width of all layers, each padded to whole blocks. ``permutations`` int32 [2, N'] (within a layer), ``signs``
    int8 ±1 [2, N']; ``factor_scale`` fp32 [L]: what a row's ``factors`` are multiples of; ``outliers`` int32 [m],
    ascending: neurons kept as int8 multiples of ``outlier_scale`` fp32 [m]; ``leading`` fp16 [LEADING, N]: of each
    layer the unit principal components of the calibration sample's reading without the outliers, the strongest first,
    and zeros where there are fewer.
    """

    permutations: np.ndarray
    signs: np.ndarray
    factor_scale: np.ndarray
    outliers: np.ndarray
    outlier_scale: np.ndarray
    leading: np.ndarray

    def tensors(self) -> dict[str, np.ndarray]:
        return {name: getattr(self, name) for name in _DTYPES}

    def outliers_of(self, neurons: slice) -> slice:
        """The place among ``outliers`` of those that lie in a layer's ``neurons``."""
        return slice(*(int(x) for x in np.searchsorted(self.outliers, [neurons.start, neurons.stop])))


NAMES = frozenset(_DTYPES)


def padded_layout(widths: Sequence[int]) -> CodeLayout:
    """Where the bits lie: a layer is padded to whole blocks of the rotation."""
    return CodeLayout.of([rotated_width(width) for width in widths])


def columns_of(layers: int, outliers: int) -> Columns:
    """``factors`` [L], and ``outliers`` [m] where some neurons are kept as numbers."""
    columns: dict[str, tuple[str, tuple[int, ...]]] = {"factors": ("<f2", (layers,))}
    if outliers:
        columns["outliers"] = ("i1", (outliers,))
    return columns


def rotation_of(tensors: Mapping[str, np.ndarray], layout: CodeLayout) -> Rotation:
    """The rotation in a codebook's ``tensors``. Raises ValueError where it is none of the layers in ``layout``."""
    padded = padded_layout(layout.widths)
    if "leading" not in tensors:
        raise ValueError("'leading' is missing: an older nait_fast made it; index the pool again")
    outliers = tensors["outliers"]
    m = len(outliers) if outliers.ndim == 1 else -1
    shapes = {
        "permutations": (ROUNDS, padded.n_neurons),
        "signs": (ROUNDS, padded.n_neurons),
        "factor_scale": (len(layout.widths),),
        "outliers": (m,),
        "outlier_scale": (m,),
        "leading": (LEADING, layout.n_neurons),
    }
    for name, dtype in _DTYPES.items():
        if tensors[name].dtype != np.dtype(dtype) or tensors[name].shape != shapes[name]:
            raise ValueError(f"{name!r} does not fit the layers")
    for ordinal in range(len(padded.widths)):
        neurons = padded.neurons(ordinal)
        for order in tensors["permutations"][:, neurons]:
            if not np.array_equal(np.sort(order), np.arange(padded.widths[ordinal])):
                raise ValueError("'permutations' holds what is no permutation of a layer")
    if (np.abs(tensors["signs"]) != 1).any():
        raise ValueError("'signs' holds others than 1 and -1")
    for name in ("factor_scale", "outlier_scale"):
        if not (np.isfinite(tensors[name]).all() and (tensors[name] > 0).all()):
            raise ValueError(f"{name!r} holds impossible values")
    if m and (outliers[0] < 0 or outliers[-1] >= layout.n_neurons or (outliers[1:] <= outliers[:-1]).any()):
        raise ValueError("'outliers' holds neurons that do not ascend within the layers")
    leading = tensors["leading"].astype(np.float32)
    bases = (leading[:, layout.neurons(ordinal)] for ordinal in range(len(layout.widths)))
    if not np.isfinite(leading).all() or leading[:, outliers].any() or not all(map(_orthonormal, bases)):
        raise ValueError("'leading' holds what are no components")
    return Rotation(**{name: np.array(tensors[name]) for name in _DTYPES})


def _orthonormal(basis: np.ndarray) -> bool:
    """Whether the rows of ``basis`` are of unit length and orthogonal, but for those that are zeros."""
    products = basis @ basis.T
    return bool((np.abs(products - np.diag(basis.any(axis=1).astype(basis.dtype))) < SLACK).all())
