"""An index's rows as signatures rank them: their scores, which signatures have any, and what is not measured."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from nait_fast import compatibility
from nait_fast.codecs.codebook import Codebook
from nait_fast.config import AmountOptions
from nait_fast.errors import BadInput, NaitError
from nait_fast.evaluation.comparison import best
from nait_fast.evaluation.labels import groups_of, labels_of
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at, drawn_places
from nait_fast.index.stream import Stream
from nait_fast.methods import method_of
from nait_fast.methods.signature import Signature
from nait_fast.ranking.requirements import rule_of
from nait_fast.ranking.scan import Block, scan
from nait_fast.ranking.sources import check_index
from nait_fast.ranking.spearman import centred_ranks
from nait_fast.ranking.taking_turns import round_robin_of
from nait_fast.rules.round_robin import RoundRobin, Sifted
from nait_fast.storage.names import CODEBOOK

SAMPLED_ROWS = 1024  # rows whose scores are taken apart


class FirstInTurns:
    """The rows that the samples of one signature take in turns, as far as anybody has asked. ``order`` must have got
    its first pass."""

    def __init__(self, order: RoundRobin):
        self._rest, self._taken = order.chunks(), np.empty(0, dtype=np.int64)

    def rows(self, k: int) -> np.ndarray:
        """The first ``k``, of no more than there are: numbers in the pool int64 [k], as they are taken."""
        while len(self._taken) < k:
            self._taken = np.concatenate([self._taken, next(self._rest)[0]])
        return self._taken[:k]


@dataclass(frozen=True)
class IndexScores:
    """``row`` int64 [n] (numbers in the pool, ascending), ``n_tokens`` int32 [n], ``columns`` float64 [C, n];
    ``turns``: column -> the order of rule roundrobin, whose column is each row's greatest similarity."""

    row: np.ndarray
    n_tokens: np.ndarray
    columns: np.ndarray
    turns: Mapping[int, FirstInTurns] = field(default_factory=dict)

    def first(self, column: int, k: int) -> np.ndarray:
        """Bool [n]: the first ``k`` rows by a column: those of the highest scores, ties to the earlier row; by rule
        roundrobin those that are taken in turns."""
        scores = self.columns[column]
        if column not in self.turns:
            return best(scores, k)
        chosen = np.zeros(len(scores), dtype=bool)
        chosen[np.searchsorted(self.row, self.turns[column].rows(min(k, len(scores))))] = True
        return chosen


@dataclass(frozen=True)
class ExactScores:
    """``parts`` float64 [m, L]: A_l · v_l of the rows at ``places`` int64 [m], ascending, of the L layers."""

    places: np.ndarray
    parts: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Their sums, float64 [m]."""
        return self.parts.sum(axis=1)


class Rankings:
    """``signatures`` and their ``labels``; the numbers, in these, of those ``scored``, and number -> why the index
    cannot score it of those ``refused``; ``exact``: number of a nait signature -> its exact scores over a sample of the
    rows, set by whoever has run the model; ``missing``: what is not measured, and why. ``seed`` draws the sample of
    rows; ``rules``: what each signature ranks by: the rule that was asked for, or its method's own. ``wanted``: how
    many of the first rows will be looked at, as far as is known.

    Raises NaitError where the index can score none of the signatures, and where one cannot rank by ``rule``.
    """

    def __init__(
        self,
        index: Index,
        signatures: Sequence[Signature],
        seed: int = 0,
        device: str = "auto",
        rule: str | None = None,
        wanted: int = 1,
    ):
        if not index.rows:
            raise BadInput("holds no rows", where=f"index {index.name}")
        self.index, self.signatures, self.seed, self.device = index, list(signatures), seed, device
        self.labels = labels_of(signatures)
        if rule is not None:
            rule_of(signatures, rule)
        self.rules, self.wanted = [rule or method_of(s.method).rules[0] for s in signatures], wanted
        self.scored, self.refused = scorable(index, signatures)
        if not self.scored:
            raise self.refused[0]
        self.exact: Mapping[int, ExactScores] = {}
        self.missing: list[dict[str, str]] = []
        for number, why in self.refused.items():
            self.miss(f"scores of {self.labels[number]}", str(why))

    def miss(self, what: str, why: str) -> None:
        """Tell that ``what`` is not measured."""
        self.missing.append({"what": what, "why": why})

    @property
    def names(self) -> list[str]:
        """Labels of the scored signatures, in the order of the scores' columns."""
        return [self.labels[number] for number in self.scored]

    @property
    def ranked(self) -> list[Signature]:
        """The scored signatures."""
        return [self.signatures[number] for number in self.scored]

    @cached_property
    def scores(self) -> IndexScores:
        """Of the scored signatures. ``to_ranks`` overwrites its columns."""
        return score(self.index, self.ranked, self.device, [self.rules[i] for i in self.scored], self.wanted)

    def to_ranks(self) -> None:
        """Put each score's centred rank in its place: all measures but the scores themselves need no more."""
        for column in self.scores.columns:
            column[:] = centred_ranks(column)

    def column(self, number: int) -> np.ndarray | None:
        """The column of ``scores`` of signature ``number``, float64 [n]; None if it has none."""
        return self.scores.columns[self.scored.index(number)] if number in self.scored else None

    def first(self, number: int, k: int) -> np.ndarray:
        """Bool [n]: the first ``k`` rows by signature ``number``, which the index scores; as ``IndexScores.first``."""
        return self.scores.first(self.scored.index(number), k)

    def scores_of(self, number: int) -> tuple[np.ndarray | slice, np.ndarray] | None:
        """(places, scores float64 [m] there) of signature ``number``: all rows where the index scores it, else
        the sample with exact scores; None where there are neither."""
        column = self.column(number)
        if column is not None:
            return slice(None), column
        exact = self.exact.get(number)
        return None if exact is None else (exact.places, exact.scores)

    def at(self, number: int, places: np.ndarray) -> np.ndarray:
        """Scores float64 [m] at ``places``, which for a signature with exact scores only must be theirs."""
        column = self.column(number)
        return self.exact[number].scores if column is None else column[places]

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


def scorable(index: Index, signatures: Sequence[Signature]) -> tuple[list[int], dict[int, NaitError]]:
    """(numbers of the signatures that ``index`` can score, why it cannot score the others)."""
    refused: dict[int, NaitError] = {}
    for number, signature in enumerate(signatures):
        try:
            check_index(index, [signature])
        except NaitError as error:
            refused[number] = error.replace()
    return [number for number in range(len(signatures)) if number not in refused], refused


def score(
    index: Index,
    signatures: Sequence[Signature],
    device: str = "auto",
    rules: Sequence[str] | None = None,
    wanted: int = 1,
) -> IndexScores:
    """Scores of all rows, by the rule of each signature (None: its method's own): a scan for each group of signatures
    of one rule in which no name repeats. ``wanted``: as of ``Rankings``. Raises NaitError."""
    n = index.rows
    row, n_tokens = np.empty(n, dtype=np.int64), np.empty(n, dtype=np.int32)
    columns, turns = np.empty((len(signatures), n)), dict[int, FirstInTurns]()
    rules = rules or [method_of(signature.method).rules[0] for signature in signatures]
    for one in scans(index, signatures, rules, AmountOptions(top_k=max(1, wanted)), device):
        start = 0
        for block in one.blocks:
            stop = start + len(block.row)
            row[start:stop], n_tokens[start:stop] = block.row, block.n_tokens
            columns[one.numbers, start:stop] = block.scores.T
            start = stop
        turns |= {number: FirstInTurns(order) for number, order in zip(one.numbers, one.orders, strict=False)}
    if not np.isfinite(columns).all():
        raise NaitError(f"index {index.name} gives scores that are not finite; nait-fast verify tells where")
    return IndexScores(row, n_tokens, columns, turns)


@dataclass(frozen=True)
class ScanOfSome:
    """A pass over an index: ``blocks`` hold the scores of the signatures ``numbers``, a column each; by rule roundrobin
    each has one of ``orders``, which has got its first pass once all ``blocks`` are taken."""

    numbers: list[int]
    orders: list[RoundRobin]
    blocks: Iterator[Block]


def scans(
    index: Index, signatures: Sequence[Signature], rules: Sequence[str], amount: AmountOptions, device: str
) -> Iterator[ScanOfSome]:
    """All passes that scores by the rule of each signature take: one for each group of signatures of one rule in which
    no name repeats. ``amount``: what will be selected, as far as is known. Raises NaitError."""
    for group in groups_of(signatures):
        for rule in dict.fromkeys(rules[number] for number in group):
            numbers = [number for number in group if rules[number] == rule]
            some = [signatures[number] for number in numbers]
            orders = [round_robin_of(index, [one], amount, device) for one in some] if rule == "roundrobin" else []
            look = _Sifting(orders, [one.samples for one in some]) if orders else None
            yield ScanOfSome(numbers, orders, _feeding(scan(index, some, device, rule, look), orders))


def _feeding(blocks: Iterator[Block], orders: Sequence[RoundRobin]) -> Iterator[Block]:
    for block in blocks:
        for order, sifted in zip(orders, block.seen or (), strict=True):
            order.add(sifted)
        yield block


class _Sifting:
    """What each of some ``orders`` wants of the similarities of ``samples`` target samples, so many of each."""

    def __init__(self, orders: Sequence[RoundRobin], samples: Sequence[int]):
        self._orders, self._ends = orders, np.cumsum(samples)[:-1]

    def sift(self, row: np.ndarray, similarities: np.ndarray) -> list[Sifted]:
        own = np.split(similarities, self._ends, axis=1)
        return [order.sift(row, scores) for order, scores in zip(self._orders, own, strict=True)]


def scores_anew(index: Index, signature: Signature) -> bool:
    """Whether ``index`` can score a signature like this one that it has no exact scores of."""
    return not scorable(index, [replace(signature, name="anew")])[1]


def score_places(
    index: Index, signatures: Sequence[Signature], places: np.ndarray, device: str = "auto", rule: str | None = None
) -> list[np.ndarray]:
    """Scores float64 [m] by ``rule`` of the rows at ascending ``places`` int64 [m], for each of any number of
    signatures.

    One scan, whatever they are called.
    """
    renamed = [replace(signature, name=f"s{number}") for number, signature in enumerate(signatures)]
    blocks, start = [], 0
    for block in scan(index, renamed, device, rule):
        stop = start + len(block.row)
        blocks.append(block.scores[places[slice(*np.searchsorted(places, (start, stop)))] - start])
        start = stop
    return list(np.concatenate(blocks).T) if blocks else []


def exact_column(index: Index, name: str) -> np.ndarray:
    """The exact scores float64 [n] of signature ``name`` that the index holds."""
    return np.concatenate([part.exact[name] for part in Stream(index, [name], codes=False).parts()])


def fits(index: Index, signature: Signature) -> bool:
    """Whether the signature was made with the model, layers and template of ``index``, whatever that can score."""
    mine, theirs = signature.meta, index.manifest
    return compatibility.is_old(mine) == compatibility.is_old(theirs) and compatibility.difference(mine, theirs) is None
