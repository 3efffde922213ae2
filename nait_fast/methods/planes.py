"""Weights of neurons as bit planes, which a scan of codes counts."""

import numpy as np

from nait_fast.codecs.layout import CodeLayout

PLANES = {"planes": ("u1", "PW"), "plane_weights": ("i8", "P")}  # as ``Method.tensors`` has them


def signed_planes(weights: np.ndarray, n_planes: int, layout: CodeLayout) -> tuple[np.ndarray, np.ndarray, float]:
    """Quantise ``weights`` fp32 [N] to ``n_planes``-bit two's complement: (planes, plane weights, scale).

    weight ≈ scale · Σ_p plane_weights[p] · bit_p, the last plane being the sign's.
    """
    top = 2 ** (n_planes - 1) - 1
    scale = float(np.abs(weights).max()) / top or 1.0
    levels = np.rint(weights / scale).astype(np.int64)
    bits = [(levels >> p & 1).astype(bool) for p in range(n_planes)]
    plane_weights = np.array([2**p for p in range(n_planes - 1)] + [-(2 ** (n_planes - 1))], dtype=np.int64)
    return layout.pack(np.stack(bits)), plane_weights, scale


def top_m_planes(weights: np.ndarray, m: int, layout: CodeLayout) -> tuple[np.ndarray, np.ndarray, float]:
    """±1 on the ``m`` neurons of largest |weight| in each layer, 0 elsewhere: one plane for each sign."""
    bits = np.zeros((2, layout.n_neurons), dtype=bool)
    for ordinal in range(len(layout.widths)):
        neurons = layout.neurons(ordinal)
        layer = weights[neurons]
        strongest = np.argsort(-np.abs(layer), kind="stable")[:m]
        bits[0, neurons][strongest] = layer[strongest] > 0
        bits[1, neurons][strongest] = layer[strongest] < 0
    return layout.pack(bits), np.array([1, -1], dtype=np.int64), 1.0


def count_planes(counts: np.ndarray, layout: CodeLayout) -> tuple[np.ndarray, np.ndarray]:
    """Exact bit planes of non-negative integers ``counts`` [N]: (planes, plane weights)."""
    n_planes = max(1, int(counts.max()).bit_length())
    bits = np.stack([(counts >> p & 1).astype(bool) for p in range(n_planes)])
    return layout.pack(bits), np.array([2**p for p in range(n_planes)], dtype=np.int64)
