"""What ``compare`` holds side by side: rankings of one index's rows, and what each of them selects."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nait_fast.config import AmountOptions
from nait_fast.errors import BadInput, NaitError
from nait_fast.evaluation.labels import labels_of
from nait_fast.evaluation.rankings import scans, scorable
from nait_fast.index.pool_rows import PoolRows, label_values
from nait_fast.index.reader import Index
from nait_fast.index.stream import Stream
from nait_fast.methods import method_of
from nait_fast.methods.signature import LENGTHS, Signature
from nait_fast.ranking.columns import ScoreTable, Spill, block_rows
from nait_fast.ranking.requirements import rule_of
from nait_fast.ranking.sanity import check_spread
from nait_fast.ranking.scan import Block
from nait_fast.ranking.select import blocks, budget_of, chosen_within, random_order, score_order
from nait_fast.ranking.taking_turns import Turns
from nait_fast.rules.best_first import Budget, Order

MOST_VALUES = 10_000  # of a label


@dataclass(frozen=True)
class Contender:
    """A ranking and what it selects. ``targets``: their names; ``places`` int64 [k]: of the selected rows, best first;
    ``order``: of all rows, and ``scores`` of all of them, the higher the better; None where they are not known.
    ``lengths`` int32 [s]: tokens of the targets' samples, None where nothing tells. ``details``: what else is said of
    it, plain values.
    """

    label: str
    targets: tuple[str, ...]
    rule: str
    places: np.ndarray
    order: Order | None
    scores: Spill | None
    lengths: np.ndarray | None
    details: Mapping[str, object]


@dataclass(frozen=True)
class Asked:
    """A signature by a rule, and what it is called."""

    signature: Signature
    rule: str
    label: str


def asked_of(
    index: Index, signatures: Sequence[Signature], rules: Sequence[str]
) -> tuple[list[Asked], list[tuple[str, NaitError]]]:
    """(each signature by each of ``rules``, or else by its method's own; what of that cannot be ranked, and why)."""
    asked, refused = list[Asked](), list[tuple[str, NaitError]]()
    labels = labels_of(signatures, 2)
    _, unfit = scorable(index, signatures)
    for number, (signature, label) in enumerate(zip(signatures, labels, strict=True)):
        if number in unfit:
            refused.append((label, unfit[number]))
            continue
        for rule in dict.fromkeys(rules or method_of(signature.method).rules[:1]):
            try:
                rule_of([signature], rule)
            except NaitError as error:
                refused.append((f"{label}, {rule}", error))
            else:
                asked.append(Asked(signature, rule, label))
    return asked, refused


def table_of(index: Index, folder: Path) -> ScoreTable:
    """The rows of ``index`` without scores."""
    table = ScoreTable(folder, index.rows, [])
    for part in Stream(index, codes=False, rows=block_rows(1)).parts():
        table.add(Block(part.row, part.n_tokens, np.empty((len(part.row), 0))))
    return table


def scored(
    index: Index, rows: ScoreTable, asked: Sequence[Asked], amount: AmountOptions, device: str
) -> Iterator[tuple[int, Contender]]:
    """(number in ``asked``, its contender), in the order of the passes over ``index``. ``rows``: of ``table_of``; the
    scores go with it. Raises NaitError."""
    budget, signatures, rules = budget_of(rows, amount), [a.signature for a in asked], [a.rule for a in asked]
    for one in scans(index, signatures, rules, amount, device):
        some = [signatures[number] for number in one.numbers]
        table = rows.beside([signature.name for signature in some])
        for block in one.blocks:
            table.add(block)
        check_spread(index, some, table.low, table.high)
        for column, number in enumerate(one.numbers):
            view, signature = table.only(column), signatures[number]
            first = budget.rows or 0
            order = Turns(view, one.orders[column]) if one.orders else score_order(view.scores, first)
            lengths = signature.tensors.get(LENGTHS)
            details = {"method": signature.method, "reading": signature.meta["reading"], "hash": signature.hash}
            chosen = chosen_within(view, order, budget)
            yield (
                number,
                Contender(
                    asked[number].label,
                    (signature.name,),
                    asked[number].rule,
                    chosen.places,
                    order,
                    view.scores,
                    lengths,
                    details,
                ),
            )


def drawn(rows: ScoreTable, amount: AmountOptions, seed: int) -> Contender:
    """Random rows: as many, or of as many tokens."""
    budget = budget_of(rows, amount)
    order = random_order(rows.row, seed, budget.rows or 0)
    return Contender("random", (), "", chosen_within(rows, order, budget).places, order, None, None, {"seed": seed})


def first_of(order: Order, rows: ScoreTable, k: int) -> np.ndarray:
    """Places int64 [k] of the first ``k`` rows."""
    return chosen_within(rows, order, Budget(rows=k)).places


@dataclass(frozen=True)
class RowLabels:
    """A key of the pool's rows: ``numbers`` int32, by place, of each row's value among ``values`` (−1: it has none);
    ``counts`` int64 [values]: rows of each."""

    column: str
    numbers: Spill
    values: Mapping[str, int]
    counts: np.ndarray

    @classmethod
    def read(cls, rows: ScoreTable, pool: PoolRows, column: str) -> "RowLabels":
        """Of all ``rows``. Raises NaitError where the pool cannot be read, and where the values are no labels."""
        spill, values, counts = rows.scratch(np.int32), dict[str, int](), np.zeros(0, np.int64)
        for start, stop in blocks(rows.rows):
            numbers, values = label_values(pool.lines(rows.row.read(start, stop)), column, values)
            if len(values) > MOST_VALUES:
                raise BadInput(
                    f"has more than {MOST_VALUES:,} values, which are no labels",
                    where=f"--label {column}",
                    remedy="name another",
                )
            spill.write(start, numbers)
            counts = np.bincount(numbers[numbers >= 0], minlength=len(values)) + np.pad(
                counts, (0, len(values) - len(counts))
            )
        return cls(column, spill, values, counts)

    def counted(self, places: np.ndarray) -> np.ndarray:
        """Rows of each value at ``places``, int64 [values]."""
        numbers = self.numbers.take(places)
        return np.bincount(numbers[numbers >= 0], minlength=len(self.values))

    def share(self, places: np.ndarray, wanted: np.ndarray) -> float:
        """Of the rows at ``places``, those of the values ``wanted`` int64."""
        return float(np.isin(self.numbers.take(places), wanted).mean())
