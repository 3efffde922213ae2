"""What is evaluated: an index, its signatures and how they rank its rows; and what could not be measured."""

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from nait_fast.errors import NaitError
from nait_fast.evaluation.exact import Exact
from nait_fast.evaluation.labels import labels_of
from nait_fast.evaluation.scores import Scores, scorable, score
from nait_fast.index.codebook import Codebook
from nait_fast.index.drawn import codes_at, drawn_places
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature
from nait_fast.ranking.spearman import centred_ranks
from nait_fast.storage.names import CODEBOOK

SAMPLED_ROWS = 1024  # rows whose scores are taken apart


class Case:
    """``signatures`` and their ``labels``; positions of those ``scored``, and why the index cannot score those
    ``refused``; ``exact``: exact scores of nait signatures (positions) over a sample of the rows, set by whoever has
    run the model; ``missing``: what is not measured, and why. ``seed`` draws the sample of rows.

    Raises NaitError where the index can score none of the signatures.
    """

    def __init__(self, index: Index, signatures: Sequence[Signature], seed: int = 0, device: str = "auto"):
        if not index.rows:
            raise NaitError(f"index {index.folder}: holds no rows")
        self.index, self.signatures, self.seed, self.device = index, list(signatures), seed, device
        self.labels = labels_of(signatures)
        self.scored, self.refused = scorable(index, signatures)
        if not self.scored:
            raise NaitError(self.refused[0])
        self.exact: Mapping[int, Exact] = {}
        self.missing: list[dict[str, str]] = []
        for position, why in self.refused.items():
            self.miss(f"scores of {self.labels[position]}", why)

    def miss(self, what: str, why: str) -> None:
        """Tell that ``what`` is not measured."""
        self.missing.append({"what": what, "why": why})

    @property
    def names(self) -> list[str]:
        """Labels of the scored signatures, in the order of the scores' columns."""
        return [self.labels[position] for position in self.scored]

    @property
    def ranked(self) -> list[Signature]:
        """The scored signatures."""
        return [self.signatures[position] for position in self.scored]

    @cached_property
    def scores(self) -> Scores:
        """Of the scored signatures. ``to_ranks`` overwrites its columns."""
        return score(self.index, self.ranked, self.device)

    def to_ranks(self) -> None:
        """Put each score's centred rank in its place: all measures but the scores themselves need no more."""
        for column in self.scores.columns:
            column[:] = centred_ranks(column)

    def column(self, position: int) -> np.ndarray | None:
        """The column of ``scores`` of the signature at ``position``, float64 [n]; None if it has none."""
        return self.scores.columns[self.scored.index(position)] if position in self.scored else None

    def known(self, position: int) -> tuple[np.ndarray | slice, np.ndarray] | None:
        """(places, scores float64 [m] there) of the signature at ``position``: all rows where the index scores it, else
        the sample with exact scores; None where there are neither."""
        column = self.column(position)
        if column is not None:
            return slice(None), column
        exact = self.exact.get(position)
        return None if exact is None else (exact.places, exact.scores)

    def at(self, position: int, places: np.ndarray) -> np.ndarray:
        """Scores float64 [m] at ``places``, which for a signature with exact scores only must be theirs."""
        column = self.column(position)
        return self.exact[position].scores if column is None else column[places]

    @cached_property
    def sample(self) -> np.ndarray:
        """Places int64 [m] of a sample of the rows, ascending."""
        return drawn_places(self.index.rows, SAMPLED_ROWS, self.seed)

    @cached_property
    def sampled(self) -> dict[str, np.ndarray]:
        """``codes`` uint8 [m, row_bytes] of the ``sample``, and what comes with them."""
        blocks = list(codes_at(self.index, self.sample))
        return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}

    @cached_property
    def codebook(self) -> Codebook | None:
        """The index's, if it has one."""
        return self.index.codebook if (self.index.folder / CODEBOOK).exists() else None
