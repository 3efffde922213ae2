"""Scores of an index's rows in memory: a float64 for each row and signature, and what else is known of a row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.evaluation.labels import groups_of
from nait_fast.index import identity
from nait_fast.index.reader import Index
from nait_fast.index.stream import Stream
from nait_fast.methods.signature import Signature
from nait_fast.ranking.scan import check_index, scan


@dataclass(frozen=True)
class Scores:
    """``row`` int64 [n] (numbers in the pool, ascending), ``n_tokens`` int32 [n], ``columns`` float64 [C, n]."""

    row: np.ndarray
    n_tokens: np.ndarray
    columns: np.ndarray


def scorable(index: Index, signatures: Sequence[Signature]) -> tuple[list[int], dict[int, str]]:
    """(positions of the signatures that ``index`` can score, why it cannot score the others)."""
    refused: dict[int, str] = {}
    for position, signature in enumerate(signatures):
        try:
            check_index(index, [signature])
        except NaitError as error:
            refused[position] = str(error)
    return [position for position in range(len(signatures)) if position not in refused], refused


def score(index: Index, signatures: Sequence[Signature], device: str = "auto") -> Scores:
    """Scores of all rows: a scan for each group of signatures in which no name repeats. Raises NaitError."""
    n = index.rows
    row, n_tokens = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int32)
    columns = np.empty((len(signatures), n))
    for group in groups_of(signatures):
        start = 0
        for block in scan(index, [signatures[position] for position in group], device):
            stop = start + len(block.row)
            row[start:stop], n_tokens[start:stop] = block.row, block.n_tokens
            columns[group, start:stop] = block.scores.T
            start = stop
    if not np.isfinite(columns).all():
        raise NaitError(f"index {index.folder} gives scores that are not finite; nait-fast verify tells where")
    return Scores(row, n_tokens, columns)


def scores_anew(index: Index, signature: Signature) -> bool:
    """Whether ``index`` can score a signature like this one that it has no exact scores of."""
    return not scorable(index, [replace(signature, name="anew")])[1]


def score_places(
    index: Index, signatures: Sequence[Signature], places: np.ndarray, device: str = "auto"
) -> list[np.ndarray]:
    """Scores float64 [m] of the rows at ascending ``places`` int64 [m], for each of any number of signatures.

    One scan, whatever they are called.
    """
    called = [replace(signature, name=f"s{number}") for number, signature in enumerate(signatures)]
    found, start = [], 0
    for block in scan(index, called, device):
        stop = start + len(block.row)
        found.append(block.scores[places[slice(*np.searchsorted(places, (start, stop)))] - start])
        start = stop
    return list(np.concatenate(found).T) if found else []


def exact_column(index: Index, name: str) -> np.ndarray:
    """The exact scores float64 [n] of signature ``name`` that the index holds."""
    return np.concatenate([part.exact[name] for part in Stream(index, [name], codes=False).parts()])


def fits(index: Index, signature: Signature) -> bool:
    """Whether the signature was made with the model, layers and template of ``index``, whatever that can score."""
    mine, theirs = signature.meta, index.manifest
    return identity.is_old(mine) == identity.is_old(theirs) and identity.difference(mine, theirs) is None
