"""What a selection holds beside the pool: tokens, scores, sources, and rows from both ends of the ranking."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.data.formats import RowError, parse
from nait_fast.data.pool import decode
from nait_fast.data.row_conventions import conventions_of
from nait_fast.index.pool_rows import PoolRows, datasets_of
from nait_fast.index.reader import Index
from nait_fast.notices import hushed
from nait_fast.ranking.columns import ScoreTable, Spill, block_rows
from nait_fast.ranking.select import Selection

BEST, WORST = 3, 2  # rows that are shown
SNIPPET = 200  # characters of each
SOURCES = ("source", "dataset", "dataset_source", "subset", "category")  # keys that may say where a row is from
RUNS, RUN_ROWS = 128, 64  # a larger pool's sources are counted in so many places of it, so many rows in each
MOST_SOURCES, SOURCE_CHARACTERS = 1000, 60  # more values are no sources
NO_SOURCE = "(none)"


class SourceCounter:
    """Counts what rows say of where they are from, by each key of ``SOURCES``; of more than ``RUNS * RUN_ROWS`` of
    ``rows`` only every n-th."""

    def __init__(self, rows: int):
        self.rows, self._stride = 0, -(-max(1, rows) // (RUNS * RUN_ROWS))
        self._counts: dict[str, Counter[str]] = {key: Counter() for key in SOURCES}

    def passing(self, lines: Iterable[bytes]) -> Iterator[bytes]:
        """``lines``, counted on their way."""
        for number, line in enumerate(lines):
            if number % self._stride == 0:
                self.count(line)
            yield line

    def count(self, line: bytes) -> None:
        """One more row."""
        self.rows += 1
        try:
            row = decode(line)
        except RowError:
            return
        for key, counts in self._counts.items():
            if isinstance(value := row.get(key), str) and len(counts) <= MOST_SOURCES:
                counts[value[:SOURCE_CHARACTERS]] += 1

    def of(self, key: str) -> dict[str, int]:
        """Source -> rows, most first; ``NO_SOURCE`` are those without one."""
        counts = self._counts[key]
        rest = self.rows - counts.total()
        ordered = sorted(
            [*counts.items(), *([(NO_SOURCE, rest)] if rest else [])], key=lambda item: (-item[1], item[0])
        )
        return dict(ordered)

    def key(self) -> str | None:
        """The first key that most rows have, with several values that repeat."""
        for key, counts in self._counts.items():
            if 2 * counts.total() > self.rows and 1 < len(counts) <= min(MOST_SOURCES, self.rows // 2):
                return key
        return None


def composition(pool: SourceCounter, selected: SourceCounter) -> dict[str, Any]:
    """What the manifest says of sources: the ``key`` of rows, source -> rows of the ``pool`` and of those ``selected``,
    out of ``pool_rows`` and ``selected_rows`` that were counted. {} where rows do not tell."""
    if (key := pool.key()) is None:
        return {}
    return {
        "key": key,
        "selected": selected.of(key),
        "pool": pool.of(key),
        "selected_rows": selected.rows,
        "pool_rows": pool.rows,
    }


def overview_of(
    table: ScoreTable,
    selection: Selection,
    index: Index,
    pool: PoolRows,
    file: Path,
    selected: SourceCounter,
    top: bool,
) -> dict[str, Any]:
    """What the manifest says of a selection whose lines are in ``file`` and were counted as ``selected``; ``top``:
    whether it is of the best rows. Raises NaitError."""
    tokens, sums = 0, np.zeros(len(table.names))
    for start in range(0, table.rows, step := block_rows(1)):
        tokens += int(table.n_tokens.read(start, start + step).sum(dtype=np.int64))
        sums += [table.scores.read(start, start + step, column).sum() for column in range(len(table.names))]
    of_selected = table.take_scores(selection.places).mean(axis=0)
    worst = table.row.take(last_places(selection.keys, WORST) if top else np.empty(0, np.int64))
    sources, texts = _read_pool(index, pool, table.row.take(spread_places(table.rows)), worst)
    best = selection.rows[selection.order[:BEST]]
    with open(file, "rb") as lines:
        first = [_Row.of(line, dataset) for line, dataset in zip(lines, datasets_of(index, best), strict=False)]
    made = composition(sources, selected)
    key = made.get("key")
    shown = [(number, row, text) for number, (row, text) in enumerate(zip(best.tolist(), first, strict=True), 1)]
    ends = [(table.rows - number, row, texts[row]) for number, row in enumerate(worst.tolist())]
    return {
        "tokens_scored": tokens,
        "mean_scores": {
            name: {"pool": float(mean), "selected": float(mine)}
            for name, mean, mine in zip(table.names, sums / table.rows, of_selected, strict=True)
        },
        **({"composition": made} if made else {}),
        "best": [text.described(rank, row, key) for rank, row, text in shown],
        "worst": [text.described(rank, row, key) for rank, row, text in ends],
    }


@dataclass(frozen=True)
class _Row:
    """A row as it is shown: ``keys`` as its JSON has them, and the beginning of what a user says in it."""

    keys: dict[str, Any]
    text: str

    @classmethod
    def of(cls, line: bytes, dataset: dict[str, Any]) -> "_Row":
        try:
            row = decode(line)
            turns = parse(row, dataset["format"], 0, conventions_of(dataset)).turns
        except RowError:  # of a pool that keeps what cannot be used
            return cls({}, line[:SNIPPET].decode(errors="replace"))
        text = next((text for role, text in turns if role == "user"), turns[0][1] if turns else "")
        return cls(row, " ".join(text[: 4 * SNIPPET].split())[:SNIPPET])

    def described(self, rank: int, row: int, key: str | None) -> dict[str, Any]:
        """For the manifest."""
        source = self.keys.get(key) if key is not None else None
        where = {} if key is None else {"source": source[:SOURCE_CHARACTERS] if isinstance(source, str) else NO_SOURCE}
        return {"rank": rank, "row": row, **where, "text": self.text}


def _read_pool(
    index: Index, pool: PoolRows, counted: np.ndarray, shown: np.ndarray
) -> tuple[SourceCounter, dict[int, _Row]]:
    """(the sources of the rows ``counted``, ascending; those ``shown``), int64 both, in one pass."""
    sources, texts = SourceCounter(len(counted)), dict[int, _Row]()
    every = np.union1d(counted, shown)
    with hushed():  # NaN of rows that are not chosen is of no account
        for row, line, dataset in zip(every.tolist(), pool.lines(every), datasets_of(index, every), strict=True):
            if row in shown:
                texts[row] = _Row.of(line, dataset)
            at = np.searchsorted(counted, row)
            if at < len(counted) and counted[at] == row:
                sources.count(line)
    return sources, texts


def spread_places(rows: int) -> np.ndarray:
    """Places int64, ascending, of ``rows``: all of them, or ``RUNS * RUN_ROWS`` in even runs."""
    if rows <= RUNS * RUN_ROWS:
        return np.arange(rows)
    starts = np.linspace(0, rows - RUN_ROWS, RUNS).astype(np.int64)
    return np.unique(starts[:, None] + np.arange(RUN_ROWS))


def last_places(keys: Spill, number: int) -> np.ndarray:
    """The ``number`` places with the greatest of ``keys``, the last one first; of equals the higher comes later."""
    found = np.empty((2, 0), dtype=np.uint64)
    for start, values in keys.blocks():
        some = np.arange(len(values))
        if len(values) > number:
            some = np.flatnonzero(values >= np.partition(values, -number)[-number])
        found = np.concatenate([found, np.stack([values[some], (some + start).astype(np.uint64)])], axis=1)
        found = found[:, np.lexsort((found[1], found[0]))[::-1][:number]]
    return found[1].astype(np.int64)
