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
MOST_NEURONS, TELLING_SHARE = 6, 0.1  # told of a row, where they make so much of what tells it from others
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
class DecidingNeuron:
    """A neuron that tells a row from those shown beside it: its ``part`` is w (``bit`` − the mean of their bits);
    ``others``: share of them with the bit, ``pool``: of the pool."""

    layer: int
    neuron: int
    part: float
    bit: bool
    others: float
    pool: float


@dataclass(frozen=True)
class Deciders:
    """What made one row's score: ``total``, less the pool's mean where ``centred``, and its parts by layer, (layer,
    part), each layer once. Of bit signatures ``half``: how many neurons it takes to make half of it, and ``neurons``,
    where a few of them tell the row from others."""

    total: float
    layers: list[tuple[int, float]]
    centred: bool = True
    half: int | None = None
    neurons: tuple[DecidingNeuron, ...] = ()

    def most(self, number: int) -> list[tuple[int, float]]:
        """The layers of the largest parts that have the total's sign, largest first."""
        signed = [(layer, part) for layer, part in self.layers if part * self.total > 0]
        return sorted(signed, key=lambda entry: -abs(entry[1]))[:number]


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


def by_layer(layers: Sequence[int], *parts: np.ndarray) -> tuple[list[int], list[np.ndarray]]:
    """(the layers, each once; each of ``parts`` float64 [L], or of none, for these): a layer's experts and shared one
    are added up."""
    names, places = np.unique(layers, return_inverse=True)
    return names.tolist(), [np.bincount(places, weights=part) if len(part) else part for part in parts]


def decided(parts: np.ndarray, layers: Sequence[int], mean: np.ndarray | None) -> Deciders:
    """Of a score's ``parts`` float64 [L], less ``mean`` float64 [L] of the pool's where there is one."""
    differences = parts if mean is None else parts - mean
    names, (own,) = by_layer(layers, differences)
    return Deciders(float(differences.sum()), list(zip(names, own.tolist(), strict=True)), mean is not None)


def neurons_for_half(parts: np.ndarray) -> int | None:
    """The least number of ``parts`` float64 [N] that make half of their sum; None where that is 0."""
    total = float(parts.sum())
    if not total:
        return None
    largest = np.cumsum(np.sort(parts * np.sign(total))[::-1])
    return int(np.argmax(largest >= abs(total) / 2)) + 1


def telling_neurons(
    bits: np.ndarray, weights: np.ndarray, pool: np.ndarray, layers: Sequence[int], signature: Signature
) -> list[tuple[DecidingNeuron, ...]]:
    """Of each of the rows that are shown together, by their ``bits`` bool [n, N], the ``MOST_NEURONS`` that tell it
    from the others most; none where these make less than ``TELLING_SHARE`` of all in which it differs from them.

    ``weights``, ``pool`` float64 [N]: of the neurons' bits, and their frequencies in the pool.
    """
    if len(bits) < 2:
        return [()] * len(bits)
    on = bits.sum(axis=0)
    widths = np.array(signature.layout.widths)
    ends, told = np.cumsum(widths), list[tuple[DecidingNeuron, ...]]()
    for row in bits:
        others = (on - row) / (len(bits) - 1)
        parts = weights * (row - others)
        largest = np.argsort(-abs(parts), kind="stable")[:MOST_NEURONS]
        every = float(abs(parts).sum())
        if not every or float(abs(parts[largest]).sum()) < TELLING_SHARE * every:
            told.append(())
            continue
        neurons = []
        for j in (int(j) for j in largest if parts[j]):
            ordinal = int(np.searchsorted(ends, j, side="right"))
            first = layers.index(layers[ordinal])  # experts and a shared one are counted on in their layer
            neuron = j - int(ends[first] - widths[first])
            if CHOSEN in signature.tensors:
                neuron = int(signature.tensors[CHOSEN][j])
            entry = (layers[ordinal], neuron, float(parts[j]), bool(row[j]), float(others[j]), float(pool[j]))
            neurons.append(DecidingNeuron(*entry))
        told.append(tuple(neurons))
    return told
