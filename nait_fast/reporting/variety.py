"""How unlike each other the selected rows are: near-duplicates among them, and the neurons that they make fire."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at, drawn_places
from nait_fast.rules.constraints.near_duplicates import most_bits, near_another

NEAR_SHARE = 0.05  # of the bits, in which rows that are no near-duplicates differ at least
NEAR_ROWS, NEAR_BYTES = 20_000, 128 << 20  # that are compared, all with all: seconds
COVERED_ROWS, COVERED_BYTES = 100_000, 256 << 20  # whose codes are read for a curve
STEPS = 20
SEED = 0


@dataclass(frozen=True)
class NearRows:
    """``near`` of ``compared`` rows have another one among these that differs from them in at most ``most_bits`` of
    ``bits`` bits, less than ``NEAR_SHARE`` of them. ``drawn``: the rows are some of those selected, drawn at random."""

    near: int
    compared: int
    most_bits: int
    bits: int
    drawn: bool


@dataclass(frozen=True)
class CoverageCurve:
    """Share of the ``neurons`` that fire in at least one of the first ``rows`` int64 [S] ones: of the ``selected`` as
    they rank, and of rows of the pool at ``random``, float64 [S] each. ``cut``: there are more selected ones;
    ``reordered``: which were picked in another order."""

    rows: np.ndarray
    selected: np.ndarray
    random: np.ndarray
    neurons: int
    cut: bool
    reordered: bool


@dataclass(frozen=True)
class Variety:
    """What the codes of the selected rows tell; ``untold``: what they do not, and why."""

    near: NearRows | None
    coverage: CoverageCurve | None
    untold: list[str]


def variety(index: Index, places: np.ndarray, reordered: bool = False) -> Variety:
    """Of the selected rows at ``places`` int64 [k] of ``index``, best first. Raises NaitError for damaged shards."""
    name, untold = index.manifest["codec"], list[str]()
    near, coverage = None, None
    bits = codec_of(name).most_different(index.layout, index.manifest)
    if not bits:
        untold.append(f"How many are near-duplicates is not told: codec {name} keeps no bits.")
    elif len(places) > 1:
        near = near_rows(index, places, bits)
    if codec_of(name).estimates:
        untold.append(f"Which neurons they make fire is not told: codec {name} keeps no bits of neurons.")
    else:
        coverage = coverage_curve_of(index, places, reordered)
    return Variety(near, coverage, untold)


def near_rows(index: Index, places: np.ndarray, bits: int) -> NearRows:
    """Among the rows at ``places`` int64 [k], or so many of them as ``NEAR_ROWS`` and ``NEAR_BYTES`` allow."""
    most = max(2, min(NEAR_ROWS, NEAR_BYTES // index.code_layout.row_bytes))
    compared = np.sort(places[drawn_places(len(places), most, SEED)])
    codes = np.concatenate([block["codes"] for block in codes_at(index, compared)])
    near = near_another(codes, np.arange(len(compared)), NEAR_SHARE, bits)
    drawn = len(compared) < len(places)
    return NearRows(int(near.sum()), len(compared), most_bits(NEAR_SHARE, bits), bits, drawn)


def coverage_curve_of(index: Index, places: np.ndarray, reordered: bool) -> CoverageCurve:
    """Of the rows at ``places`` int64 [k], as many as ``COVERED_ROWS`` and ``COVERED_BYTES`` allow, in about ``STEPS``
    steps of equal ratio."""
    most = max(1, min(COVERED_ROWS, COVERED_BYTES // index.code_layout.row_bytes))
    first = places[:most]
    rows = np.unique(np.rint(np.geomspace(1, len(first), STEPS)).astype(np.int64))
    drawn = np.random.default_rng(SEED).choice(index.rows, len(first), replace=False)
    selected, random = (fired_shares(index, some, rows.tolist()) for some in (first, drawn))
    return CoverageCurve(rows, selected, random, index.code_layout.n_neurons, len(first) < len(places), reordered)


def fired_shares(index: Index, places: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """Share of the neurons whose bit is set in at least one of the first k of ``places`` int64, float64 [S], for each k
    of ascending ``numbers`` [S]. Reads each row once."""
    union, shares = np.zeros(index.code_layout.row_bytes, dtype=np.uint8), []
    for start, stop in pairwise([0, *numbers]):
        for block in codes_at(index, np.sort(places[start:stop])):
            union |= np.bitwise_or.reduce(block["codes"], axis=0)
        shares.append(index.code_layout.unpack(union[None]).mean())
    return np.array(shares)
