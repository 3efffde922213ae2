"""Which of a mixture of experts' neurons are kept, where all are too many for a row of codes."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nait_fast.codecs.layout import CodeLayout
from nait_fast.storage import values
from nait_fast.storage.files import sha256

CHOSEN = "chosen"  # the tensor of a codebook and a signature, and the entry of an identity that holds its digest

CHOSEN_BY = "chosen_by"  # the entry of a codebook that says how: by
VARIANCE, RANDOM = "variance", "random"


def digest_of(chosen: np.ndarray) -> str:
    """First 16 hex digits of the SHA-256 of ``chosen`` int32 [N]."""
    return sha256(np.ascontiguousarray(chosen, dtype="<i4").tobytes())[:16]


def check_chosen(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], layout: CodeLayout) -> None:
    """Raises ValueError where ``tensors`` and ``meta`` of a file do not agree on the chosen neurons: int32 [N], each
    neuron's number in its layer, ascending there."""
    chosen = tensors.get(CHOSEN)
    if (chosen is None) != (CHOSEN not in meta):
        raise ValueError("chosen neurons that are not there, or not told of")
    if chosen is None:
        return
    if meta.get(CHOSEN_BY, VARIANCE) not in (VARIANCE, RANDOM):
        raise ValueError(f"{CHOSEN_BY}: {values.short(meta[CHOSEN_BY])}")
    if chosen.dtype != np.int32 or chosen.shape != (layout.n_neurons,):
        raise ValueError("'chosen' does not fit the layers")
    layers = (chosen[layout.neurons(ordinal)] for ordinal in range(len(layout.widths)))
    if any(layer[0] < 0 or (np.diff(layer) <= 0).any() for layer in layers) or digest_of(chosen) != meta[CHOSEN]:
        raise ValueError("'chosen' holds impossible values")
