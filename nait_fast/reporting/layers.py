"""Which layers and neurons made a score: the parts of a sum, on a sample of an index's rows."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nait_fast.codecs.chosen import CHOSEN
from nait_fast.evaluation.confounds import bit_weights, estimated_parts, layer_scan, variance_shares
from nait_fast.evaluation.confounds import layer_parts as bit_parts
from nait_fast.evaluation.rankings import scores_anew
from nait_fast.index.format import bytes_per_row
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at
from nait_fast.methods.signature import Signature

SAMPLE_ROWS = 20_000
SAMPLE_BYTES = 256 << 20  # of codes: a large model's are fewer rows
ESTIMATED_ROWS = 2048  # at most, where scores are estimated: each layer is a scan of its own there


@dataclass(frozen=True)
class LayerParts:
    """Parts S_l of a target's score S = Σ_l S_l, but for what is the same for all rows.

    ``layers`` [L]: their numbers in the model. ``mean`` float64 [L]: mean of S_l over ``rows`` of the pool. ``share``
    float64 [L]: cov(S_l, S) / var(S) there, which adds up to 1 (NaN where all scores are equal). ``difference``
    float64 [L]: mean of S_l over ``selected`` selected rows, less ``mean``; empty where none was selected.
    """

    target: str
    layers: list[int]
    mean: np.ndarray
    share: np.ndarray
    difference: np.ndarray
    rows: int
    selected: int


@dataclass(frozen=True)
class Deciders:
    """What lifted (or lowered) one sample's score over the pool's mean: ``total``, of all of them; ``layers``: (layer,
    its part less the pool's mean); ``neurons``: (layer, neuron, w (b − p), b, p), p the share of the pool with the bit
    b. Those of the largest parts in the direction asked for, first; ``neurons`` of bit signatures only."""

    total: float
    layers: list[tuple[int, float]]
    neurons: list[tuple[int, int, float, bool, float]]


def tells_layers(index: Index, signature: Signature) -> bool:
    """Whether the index's codes say which layers made a score."""
    return signature.is_bits or (signature.is_direction and scores_anew(index, signature))


def sample_rows(index: Index, targets: int) -> int:
    """How many rows a sample of ``index`` may have, for so many targets."""
    return max(1, min(SAMPLE_ROWS, SAMPLE_BYTES // max(1, bytes_per_row(index.manifest)), 8 * SAMPLE_ROWS // targets))


def spread(rows: int, wanted: int) -> np.ndarray:
    """int64: every n-th of ``rows`` places, n as small as gives at most ``wanted``."""
    return np.arange(0, rows, max(1, -(-rows // max(1, wanted))), dtype=np.int64)


def parts_at(index: Index, signature: Signature, places: np.ndarray) -> np.ndarray:
    """float64 [n, L]: the layers' parts of the scores of the rows at ascending ``places`` int64. Raises NaitError.

    Of signatures that ``tells_layers`` is true of.
    """
    if signature.is_bits:
        weights = bit_weights(signature)
        blocks = [bit_parts(block["codes"], weights, index.layout) for block in codes_at(index, places)]
    else:
        scan = layer_scan(index, signature)
        blocks = [estimated_parts(block, scan) for block in codes_at(index, places)]
    return np.concatenate(blocks) if blocks else np.empty((0, len(index.layout.widths)))


def layer_parts(index: Index, signature: Signature, pool: np.ndarray, selected: np.ndarray) -> LayerParts:
    """From the rows at the ascending places ``pool`` and ``selected`` int64. Raises NaitError."""
    if not signature.is_bits:
        pool, selected = (places[spread(len(places), ESTIMATED_ROWS)] for places in (pool, selected))
    parts, chosen = parts_at(index, signature, pool), parts_at(index, signature, selected)
    layers, mean, shares = index.manifest["layers"], parts.mean(axis=0), variance_shares(parts)
    return LayerParts(
        signature.name,
        list(layers),
        mean,
        np.full(len(layers), np.nan) if shares is None else shares,
        chosen.mean(axis=0) - mean if len(chosen) else np.empty(0),
        len(parts),
        len(chosen),
    )


def bit_frequency(index: Index, places: np.ndarray) -> np.ndarray:
    """float64 [N]: share of the rows at ``places`` whose bit is set, of codes of one bit a neuron. Raises NaitError."""
    total = np.zeros(index.layout.n_neurons, dtype=np.int64)
    for block in codes_at(index, places):
        for start in range(0, len(block["codes"]), 255):  # a byte holds their sum
            total += index.layout.unpack(block["codes"][start : start + 255]).sum(axis=0, dtype=np.uint8)
    return total / max(1, len(places))


def decide(parts: np.ndarray, pool: LayerParts, up: bool, most: int) -> Deciders:
    """The ``most`` layers that lifted (``up``) or lowered a score of ``parts`` float64 [L] the most."""
    differences = parts - pool.mean
    largest = [(pool.layers[p], float(differences[p])) for p in _largest(differences, up, most)]
    return Deciders(float(differences.sum()), largest, [])


def deciding_neurons(
    code: np.ndarray, signature: Signature, frequency: np.ndarray, layers: Sequence[int], up: bool, most: int
) -> list[tuple[int, int, float, bool, float]]:
    """The ``most`` neurons that lifted or lowered the score of ``code`` uint8 [W] under a bit signature the most, as
    ``Deciders`` has them. ``frequency`` float64 [N]: of the pool's bits."""
    bits = signature.layout.unpack(code[None])[0]
    parts = bit_weights(signature) * (bits - frequency)
    widths = np.array(signature.layout.widths)
    ends, neurons = np.cumsum(widths), []
    for j in _largest(parts, up, most):
        ordinal = int(np.searchsorted(ends, j, side="right"))
        first = layers.index(layers[ordinal])  # experts and a shared one are counted on in their layer
        neuron = j - int(ends[first] - widths[first])
        if CHOSEN in signature.tensors:
            neuron = int(signature.tensors[CHOSEN][j])
        neurons.append((layers[ordinal], neuron, float(parts[j]), bool(bits[j]), float(frequency[j])))
    return neurons


def _largest(parts: np.ndarray, up: bool, most: int) -> list[int]:
    """Places of the ``most`` largest, or smallest, of the ``parts`` that have that sign."""
    signed = parts if up else -parts
    return [int(i) for i in np.argsort(-signed, kind="stable")[:most] if signed[i] > 0]
