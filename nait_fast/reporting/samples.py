"""The samples themselves: their labels counted, in the selection and in the pool, and the texts of a few."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.data.format_keys import describe_keys
from nait_fast.data.formats import RowError, detect, parse
from nait_fast.data.row_conventions import conventions_of
from nait_fast.errors import BadInput, NaitError
from nait_fast.index.pool_rows import PoolRows, dataset_of, open_rows
from nait_fast.ranking.selection_files import SELECTED
from nait_fast.reporting.formatting import short
from nait_fast.reporting.selection_folder import SelectionFolder

DEFAULT_LABEL = "source"
LABEL_ROWS = 1_000_000  # beyond, the pool's labels are counted in every n-th run of RUN_ROWS rows
RUN_ROWS = 2048
MOST_LABELS, LABEL_CHARACTERS = 10_000, 60
ASKED_CHARACTERS, ANSWERED_CHARACTERS = 140, 90  # of a row in the list
NO_LABEL = "(none)"


@dataclass(frozen=True)
class Text:
    """A sample as (role, text) turns, and its label."""

    turns: list[tuple[str, str]]
    label: str | None


@dataclass(frozen=True)
class Excerpt:
    """How a sample begins: what is ``asked`` first, or what it says if nobody is asked, and what is ``answered``."""

    asked: str
    answered: str
    label: str | None


@dataclass(frozen=True)
class WantedRows:
    """Rows, by their numbers in the pool, whose ``texts`` are shown, and whose ``excerpts`` are listed; ``lines`` int64
    [k]: rows of selected.jsonl's lines, in order; empty where nothing tells."""

    texts: frozenset[int]
    excerpts: frozenset[int]
    lines: np.ndarray


@dataclass(frozen=True)
class Labels:
    """``selected``, ``pool``: label -> rows, of ``selected_rows`` and ``pool_rows`` rows. ``pool`` is None where it
    cannot be read. ``sampled``: the pool's are counted in a part of it."""

    column: str
    selected: dict[str, int]
    pool: dict[str, int] | None
    selected_rows: int
    pool_rows: int
    sampled: bool


@dataclass(frozen=True)
class PoolContent:
    """What was read of the rows: ``labels``, None without such a column; ``texts`` and ``excerpts`` by the row's number
    in the pool."""

    labels: Labels | None
    texts: dict[int, Text]
    excerpts: dict[int, Excerpt]
    notes: list[str] = field(default_factory=list)


class _Counter:
    """Labels of rows. ``has_column``: some row has the column; ``many``: more than ``MOST_LABELS``, which are none."""

    def __init__(self, column: str):
        self.column, self.counts, self.rows, self.has_column, self.many = column, Counter[str](), 0, False, False

    def add(self, row: dict[str, Any]) -> None:
        self.rows += 1
        self.has_column = self.has_column or self.column in row
        label = label_of(row, self.column)
        if label in self.counts or len(self.counts) < MOST_LABELS:
            self.counts[label] += 1
        else:
            self.many = True

    def ordered(self) -> dict[str, int]:
        return dict(sorted(self.counts.items(), key=lambda item: (-item[1], item[0])))


def label_of(row: dict[str, Any], column: str) -> str:
    """The label of a row on one line; ``NO_LABEL`` where it has none."""
    value = row.get(column)
    if value is None:
        return NO_LABEL
    return short(value if isinstance(value, str) else json.dumps(value), LABEL_CHARACTERS) or NO_LABEL


def decode(line: bytes) -> dict[str, Any]:
    """A row; {} for what is none."""
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def text_of(row: dict[str, Any], column: str | None, dataset: dict[str, Any]) -> Text:
    """A row of ``dataset`` as turns, whatever its format; as JSON where it has none."""
    label = None if column is None else label_of(row, column)
    try:
        # What is in the index is shown, whatever its label.
        conventions = conventions_of({**dataset, "labels": "ignored"})
        sample = parse(row, detect(row, conventions) or "text", 0, conventions)
    except RowError:
        return Text([("row", json.dumps(row, ensure_ascii=False))], label)
    return Text(sample.turns, label)


def excerpt_of(text: Text) -> Excerpt:
    """How ``text`` begins."""
    asked = next((said for role, said in text.turns if role == "user"), text.turns[0][1] if text.turns else "")
    answered = next((said for role, said in text.turns if role == "assistant"), "")
    return Excerpt(short(asked, ASKED_CHARACTERS), short(answered, ANSWERED_CHARACTERS), text.label)


def read_rows(
    chosen: SelectionFolder,
    wanted: WantedRows,
    pool_rows: Iterable[np.ndarray] | None,
    label: str | None,
    dataset: Sequence[str] = (),
) -> PoolContent:
    """Labels, and of the ``wanted`` rows what is wanted.

    ``pool_rows``: row numbers int64 of all scored rows, ascending, block by block; None where they are not known.
    ``dataset``: where the pool is now. Raises NaitError for a ``label`` that is none, and for a ``dataset`` that is not
    the pool.
    """
    file = chosen.folder / SELECTED
    column = label or _default_label(file)
    counter = _Counter(column) if column else None
    content = _Content(wanted, column, chosen.manifest["datasets"])
    _read_selected(file, content, counter)
    notes: list[str] = []
    source = _open_pool(chosen, dataset, notes)
    others = np.array(sorted(content.missing), dtype=np.int64)
    pool = _Counter(column) if column and source is not None and pool_rows is not None else None
    if source is not None and (pool is not None or len(others)):
        counted = others[:0] if pool is None or pool_rows is None else np.concatenate([*_runs(pool_rows, chosen.rows)])
        try:
            _read_pool(source, counted, others, pool, content)
        except NaitError as error:
            notes.append(f"The pool cannot be read ({error}): its labels and the texts of other rows are missing.")
            pool = None
    return PoolContent(_labels(counter, pool, label, chosen, notes), content.texts, content.excerpts, notes)


class _Content:
    """Texts and excerpts of the ``wanted`` rows, as they are come upon."""

    def __init__(self, wanted: WantedRows, column: str | None, datasets: Sequence[dict[str, Any]]):
        self._wanted, self._column, self._datasets = wanted, column, datasets
        self._rows = wanted.texts | wanted.excerpts
        self._lines = {line: row for line, row in enumerate(wanted.lines.tolist()) if row in self._rows}
        self.last_line = max(self._lines, default=-1)
        self.texts: dict[int, Text] = {}
        self.excerpts: dict[int, Excerpt] = {}

    @property
    def missing(self) -> frozenset[int]:
        return self._rows - self.texts.keys() - self.excerpts.keys()

    def add_line(self, line: int, sample: dict[str, Any]) -> None:
        if line in self._lines:
            self.add(self._lines[line], sample)

    def add(self, row: int, sample: dict[str, Any]) -> None:
        if row not in self._rows:
            return
        text = text_of(sample, self._column, dataset_of(self._datasets, row))
        if row in self._wanted.texts:
            self.texts[row] = text
        if row in self._wanted.excerpts:
            self.excerpts[row] = excerpt_of(text)


def _labels(
    counter: _Counter | None, pool: _Counter | None, label: str | None, chosen: SelectionFolder, notes: list[str]
) -> Labels | None:
    """What was counted. Raises NaitError where it was asked for and there is none."""
    if counter is None:
        return None
    if not counter.has_column and not (pool and pool.has_column):
        raise BadInput(
            "no row has such a column", where=f"--label {label}", remedy=f"they have {_keys(chosen.folder / SELECTED)}"
        )
    if counter.many or (pool and pool.many):
        if label:
            raise BadInput(
                f"has more than {MOST_LABELS:,} values, which are no labels",
                where=f"--label {label}",
                remedy="name another",
            )
        notes.append(f"The column {counter.column} has more than {MOST_LABELS:,} values: it is not taken for a label.")
        return None
    sampled = pool is not None and chosen.rows > LABEL_ROWS
    counts, rows = (None, 0) if pool is None else (pool.ordered(), pool.rows)
    return Labels(counter.column, counter.ordered(), counts, counter.rows, rows, sampled)


def _default_label(file: Path) -> str | None:
    for number, row in enumerate(_lines(file)):
        if DEFAULT_LABEL in row:
            return DEFAULT_LABEL
        if number == 100:
            break
    return None


def _keys(file: Path) -> str:
    return describe_keys(next(_lines(file), {}))


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    with open(file, "rb") as lines:
        for line in lines:
            yield decode(line)


def _read_selected(file: Path, content: _Content, counter: _Counter | None) -> None:
    """Fill ``content``; count the labels of all lines."""
    for number, row in enumerate(_lines(file)):
        if counter is not None:
            counter.add(row)
        elif number > content.last_line:
            break
        content.add_line(number, row)


def _open_pool(chosen: SelectionFolder, dataset: Sequence[str], notes: list[str]) -> PoolRows | None:
    if chosen.index is None:
        if dataset:
            raise BadInput("the selection's index is gone, which the pool's rows are numbered by", where="--dataset")
        return None
    try:
        return open_rows(chosen.index, dataset, "pass --dataset" if dataset else "name it with --dataset")
    except NaitError as error:
        if dataset:
            raise
        notes.append(f"The pool cannot be read: {error}.")
        return None


def _runs(blocks: Iterable[np.ndarray], rows: int) -> Iterator[np.ndarray]:
    """Row numbers of every n-th run of ``RUN_ROWS``, n as small as gives at most ``LABEL_ROWS`` of ``rows``."""
    every, place = -(-rows // LABEL_ROWS), 0
    for block in blocks:
        in_run = (np.arange(place, place + len(block)) // RUN_ROWS) % every == 0
        yield block[in_run]
        place += len(block)


def _read_pool(
    source: PoolRows, counted: np.ndarray, others: np.ndarray, counter: _Counter | None, content: _Content
) -> None:
    """Fill ``content`` with ``others``; count the labels of ``counted``, in one pass over both."""
    every = np.union1d(counted, others)
    extra, wanted = set(np.setdiff1d(others, counted).tolist()), set(others.tolist())
    for row, line in zip(every.tolist(), source.lines(every), strict=True):
        sample = decode(line)
        if counter is not None and row not in extra:
            counter.add(sample)
        if row in wanted:
            content.add(row, sample)
