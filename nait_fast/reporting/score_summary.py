"""What scores.parquet says: a few passes over it, a batch of rows at a time; memory does not grow with its rows, but by
two numbers for each that was selected."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import BudgetOptions
from nait_fast.errors import Damaged, Mismatch, NaitError
from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.external import ranks
from nait_fast.ranking.scan import scan
from nait_fast.ranking.select import select
from nait_fast.ranking.selection_files import DROPPED_BY, SCORES, write_scores
from nait_fast.ranking.taking_turns import round_robin_of, select_in_turns
from nait_fast.reporting.layers import spread
from nait_fast.reporting.selection_folder import SelectionFolder

NO_MORE: Mapping[str, str] = {}
BATCH_ROWS = 1 << 16
SAMPLE_ROWS = 100_000  # rows that correlations between targets are taken over
BINS, LENGTH_BINS, SCORE_BINS = 50, 32, 26  # of many rows; few rows get fewer


@dataclass(frozen=True)
class ScoreBatch:
    """Consecutive rows: ``scores`` float64 [C, n], the rest [n]; ``place`` of the first one in the table."""

    place: int
    row: np.ndarray
    n_tokens: np.ndarray
    scores: np.ndarray
    rank: np.ndarray
    selected: np.ndarray
    table: Any

    def id(self, i: int) -> str | None:
        return self.table.column("id")[i].as_py()

    @property
    def taken(self) -> np.ndarray:
        """bool [n]: whether a constraint took the row."""
        if DROPPED_BY not in self.table.schema.names:
            return np.zeros(len(self.row), dtype=bool)
        return self.table.column(DROPPED_BY).is_valid().to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class RankedRow:
    """A row of the ranking: its ``place`` in the table, its number ``row`` in the pool, ``scores`` float64 [C]."""

    place: int
    row: int
    id: str | None
    n_tokens: int
    rank: int
    selected: bool
    scores: np.ndarray


@dataclass(frozen=True)
class Histogram:
    """``edges`` float64 [B + 1]; rows a bin, int64 [B], of the ``pool`` (the selected ones among them) and
    ``selected``."""

    edges: np.ndarray
    pool: np.ndarray
    selected: np.ndarray


@dataclass(frozen=True)
class Lengths:
    """Rows int64 [X, Y] of a length between ``tokens`` float64 [X + 1] and a score between ``edges`` float64 [Y + 1];
    ``mean`` float64 [X]: the mean score at each length, NaN where there are no rows."""

    tokens: np.ndarray
    edges: np.ndarray
    counts: np.ndarray
    mean: np.ndarray


@dataclass(frozen=True)
class RankCut:
    """Where the order of the ranks is cut: all rows ``inside`` it were selected or lost their places to a constraint,
    none outside was. ``inside``, ``outside``: the rows next to it on either side, the nearest first. ``above`` float64
    [C]: the highest score of a row that was not selected, but for those that a constraint took."""

    inside: list[RankedRow]
    outside: list[RankedRow]
    above: np.ndarray


@dataclass(frozen=True)
class ScoreSummary:
    """All rows' scores in numbers; arrays [C] are one a target. ``whole``: of every row that was scored; else only the
    selected ones are known. ``by_length``: rows of so many tokens. ``combined``: of several targets' z-scores, by what
    decided. ``sample`` float64 [C, m]: scores of every n-th row. ``chosen`` int64: numbers in the pool of the selected
    rows, best first; ``some_chosen`` int64: of some of them, spread evenly, ascending. ``listed``: the first of the
    selected rows. ``cut``: None where the ranks are not cut, as where rows were drawn at random."""

    rows: int
    whole: bool
    tokens: int
    selected: int
    selected_tokens: int
    mean: np.ndarray
    deviation: np.ndarray
    selected_mean: np.ndarray
    selected_low: np.ndarray
    selected_high: np.ndarray
    best: list[RankedRow]
    worst: list[RankedRow]
    histograms: list[Histogram]
    lengths: list[Lengths]
    by_length: Histogram
    combined: Histogram | None
    sample: np.ndarray
    chosen: np.ndarray
    some_chosen: np.ndarray
    listed: list[RankedRow]
    cut: RankCut | None

    def z(self, scores: np.ndarray) -> np.ndarray:
        """``scores`` float64 [C, …] in deviations from the pool's means; 0 where all rows score alike."""
        shape = (-1,) + (1,) * (scores.ndim - 1)
        deviation = np.where(self.deviation > 0, self.deviation, np.inf)
        return (scores - self.mean.reshape(shape)) / deviation.reshape(shape)


class ScoreFile:
    """A scores.parquet of a selection; ``more``: columns that it has behind the usual ones, and their types. Raises
    NaitError where it is missing, damaged or another's."""

    def __init__(self, path: Path, targets: list[str], rows: int, more: Mapping[str, str] = NO_MORE):
        from pyarrow import parquet

        self.path, self.targets, self.rows = path, targets, rows
        if not path.is_file():
            raise Damaged("no such file, though the manifest names it", where=path, remedy="rank again")
        expected = {
            "row": "int64",
            "id": "string",
            "n_tokens": "int32",
            **{f"score.{name}": "double" for name in targets},
            "rank": "int64",
            "selected": "bool",
        }
        expected |= more
        try:
            with parquet.ParquetFile(path) as file:
                columns = {field.name: str(field.type) for field in file.schema_arrow}
                count = file.metadata.num_rows
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None
        if columns != expected or count != rows:
            raise Damaged(
                f"has not the columns or rows of this selection ({count:,} rows, {rows:,} expected)",
                where=path,
                remedy="rank again",
            )

    def _damaged(self, error: Exception) -> NaitError:
        return Damaged(f"cannot be read ({' '.join(str(error).split())[:100]})", where=self.path, remedy="rank again")

    def batches(self) -> Iterator[ScoreBatch]:
        """All rows, in order."""
        from pyarrow import parquet

        place = 0
        try:
            with parquet.ParquetFile(self.path) as file:
                for table in file.iter_batches(BATCH_ROWS):
                    scores = np.stack([table.column(f"score.{name}").to_numpy() for name in self.targets])
                    plain = [
                        table.column(name).to_numpy(zero_copy_only=False)
                        for name in ("row", "n_tokens", "rank", "selected")
                    ]
                    if any(array.dtype == object for array in plain) or not np.isfinite(scores).all():
                        raise ValueError("values that are missing or no finite numbers")
                    if not len(plain[0]):
                        continue
                    if plain[1].min() < 1 or plain[2].min() < 1:
                        raise ValueError("n_tokens or rank below 1")
                    yield ScoreBatch(place, plain[0], plain[1], scores, plain[2], plain[3].astype(bool), table)
                    place += len(plain[0])
        except (OSError, ValueError) as error:
            raise self._damaged(error) from None


def rescan(chosen: SelectionFolder, folder: Path) -> ScoreFile:
    """The scores of all rows, made again from the index into ``folder``: what ``--scores all`` would have written.

    Raises NaitError where the index no longer gives this selection.
    """
    assert chosen.index is not None and chosen.signatures
    names = {field.name for field in dataclasses.fields(BudgetOptions)}
    options = BudgetOptions.from_mapping({k: v for k, v in chosen.config.items() if k in names}, "manifest.json")
    seed, path = chosen.config.get("seed", 0), folder / SCORES
    turns = round_robin_of(chosen.index, chosen.signatures, options) if chosen.rule == "roundrobin" else None
    with ScoreTable(folder, chosen.index.rows, chosen.targets) as table:
        for block in scan(chosen.index, chosen.signatures, "cpu", chosen.rule, turns):
            table.add(block)
            if turns is not None:
                turns.add(block.seen)
        if turns is None:
            selection = select(table, options, seed if isinstance(seed, int) else 0)
        else:
            selection = select_in_turns(table, turns, options)
        size = (len(selection.rows), selection.tokens)
        if size != (chosen.manifest["rows_selected"], chosen.manifest["tokens_selected"]):
            raise Mismatch(
                f"no longer gives the selection of {chosen.folder}", where=chosen.index.folder, remedy="rank again"
            )
        with ranks(selection.keys, folder) as ranked:
            write_scores(path, chosen.index, table, selection, ranked, True)
    return ScoreFile(path, chosen.targets, chosen.index.rows)


def summarise(
    file: ScoreFile,
    whole: bool,
    selected: int,
    samples: int,
    layer_rows: int,
    lengths: Sequence[np.ndarray] = (),
    listed: int = 0,
    pick: str = "top",
    combine: str | None = None,
) -> ScoreSummary:
    """Read ``file`` a few times. ``selected``: rows that were selected; ``samples``: best and worst rows to keep, and
    half as many on either side of the cut; ``layer_rows``: selected rows of ``some_chosen``; ``lengths`` int32 [s]
    each: tokens of targets' samples, which the bins of ``by_length`` hold, too; ``listed``: selected rows to list;
    ``pick``: the end that rows were selected from; ``combine``: mean or max, where the ranks are by that of the
    z-scores. Raises NaitError."""
    first = _First(file, selected, max(1, min(samples, file.rows // 2)))
    for batch in file.batches():
        first.add(batch)
    if first.selected != selected:
        raise Damaged(
            f"{first.selected:,} rows selected, the manifest says {selected:,}", where=file.path, remedy="rank again"
        )
    mean, chosen, ranks = first.sums / file.rows, np.concatenate(first.chosen), np.concatenate(first.ranks)
    most = max(8, int(file.rows**0.5))
    ends = list(zip(first.low, first.high, strict=True))
    score_edges = [_edges(low, high, min(BINS, 2 * most)) for low, high in ends]
    cell_edges = [_edges(low, high, min(SCORE_BINS, most)) for low, high in ends]
    tokens = length_edges(first.shortest, first.longest, min(LENGTH_BINS, most))
    known = [some for some in lengths if len(some)]
    shortest = min([first.shortest, *(int(some.min()) for some in known)])
    longest = max([first.longest, *(int(some.max()) for some in known)])
    few = min([selected, *map(len, known)])  # of the smallest group, bins hold some rows each
    beside = length_edges(shortest, longest, min(LENGTH_BINS, max(8, 2 * int(few**0.5))))
    second = _Second(mean, score_edges, cell_edges, tokens, beside)
    near = _NearCut(np.sort(ranks), file.rows, -(-samples // 2), listed, pick)
    for batch in file.batches():
        second.add(batch)
        near.add(batch)
    summary = ScoreSummary(
        file.rows,
        whole,
        first.tokens,
        selected,
        first.selected_tokens,
        mean,
        np.sqrt(second.squares / file.rows),
        first.selected_sums / max(1, selected),
        first.selected_low,
        first.selected_high,
        sorted(first.best, key=lambda r: r.rank),
        sorted(first.worst, key=lambda r: r.rank),
        [Histogram(e, p, s) for e, p, s in zip(score_edges, second.pool, second.selected, strict=True)],
        [Lengths(tokens, e, c, m) for e, c, m in zip(cell_edges, second.cells, second.mean_by_length(), strict=True)],
        second.by_length,
        None,
        np.concatenate(first.sample, axis=1),
        chosen[np.argsort(ranks, kind="stable")],
        chosen[spread(selected, layer_rows)],
        sorted(near.listed, key=lambda r: r.rank),
        near.cut() if whole else None,
    )
    if combine is None or not whole or len(file.targets) < 2:
        return summary
    return dataclasses.replace(summary, combined=_combined(file, summary, combine, min(BINS, 2 * most)))


def _combined(file: ScoreFile, summary: ScoreSummary, combine: str, bins: int) -> Histogram:
    """Of the mean, or the greatest, of the targets' z-scores, which the ranks are by: the first and the last rank have
    the extremes."""

    def of(scores: np.ndarray) -> np.ndarray:
        z = summary.z(scores)
        return z.mean(axis=0) if combine == "mean" else z.max(axis=0)

    low, high = (float(of(r.scores[:, None])[0]) for r in ([*summary.best, *summary.worst][-1], summary.best[0]))
    edges = _edges(low, high, bins)
    pool, selected = np.zeros(bins, dtype=np.int64), np.zeros(bins, dtype=np.int64)
    for batch in file.batches():
        scores = of(batch.scores).clip(edges[0], edges[-1])  # sums in another order end in other last digits
        pool += np.histogram(scores, edges)[0]
        selected += np.histogram(scores[batch.selected], edges)[0]
    return Histogram(edges, pool, selected)


class _First:
    """The first pass: sums, extremes, the ends of the ranking, samples."""

    def __init__(self, file: ScoreFile, selected: int, ends: int):
        c = len(file.targets)
        self._rows, self._ends = file.rows, ends
        self._stride = max(1, -(-file.rows // SAMPLE_ROWS))
        self.sums, self.selected_sums = np.zeros(c), np.zeros(c)
        self.low, self.high = np.full(c, np.inf), np.full(c, -np.inf)
        self.selected_low, self.selected_high = self.low.copy(), self.high.copy()
        self.tokens, self.selected, self.selected_tokens = 0, 0, 0
        self.shortest, self.longest = np.iinfo(np.int32).max, 0
        self.best: list[RankedRow] = []
        self.worst: list[RankedRow] = []
        self.sample: list[np.ndarray] = []
        self.chosen: list[np.ndarray] = []
        self.ranks: list[np.ndarray] = []
        # Of a file of the selected rows alone, ranks are those among all: the ends are taken by their order in it.
        self._partial = selected == file.rows

    def add(self, batch: ScoreBatch) -> None:
        selected_scores = batch.scores[:, batch.selected]
        self.sums += batch.scores.sum(axis=1)
        self.low = np.minimum(self.low, batch.scores.min(axis=1))
        self.high = np.maximum(self.high, batch.scores.max(axis=1))
        self.shortest = min(self.shortest, int(batch.n_tokens.min()))
        self.longest = max(self.longest, int(batch.n_tokens.max()))
        self.tokens += int(batch.n_tokens.sum(dtype=np.int64))
        self.sample.append(batch.scores[:, (-batch.place) % self._stride :: self._stride])
        self.chosen.append(batch.row[batch.selected])
        self.ranks.append(batch.rank[batch.selected])
        if (number := len(self.chosen[-1])) > 0:
            self.selected_sums += selected_scores.sum(axis=1)
            self.selected_low = np.minimum(self.selected_low, selected_scores.min(axis=1))
            self.selected_high = np.maximum(self.selected_high, selected_scores.max(axis=1))
            self.selected_tokens += int(batch.n_tokens[batch.selected].sum(dtype=np.int64))
        self.selected += number
        self._take_ends(batch)

    def _take_ends(self, batch: ScoreBatch) -> None:
        if self._partial:
            order = np.argsort(batch.rank, kind="stable")
            best, worst = order[: self._ends], order[max(0, len(order) - self._ends) :]
        else:
            best = np.flatnonzero(batch.rank <= self._ends)
            worst = np.flatnonzero(batch.rank > self._rows - self._ends)
        self.best = sorted([*self.best, *_rows(batch, best)], key=lambda r: r.rank)[: self._ends]
        if self._rows > 1:
            self.worst = sorted([*self.worst, *_rows(batch, worst)], key=lambda r: r.rank)[-self._ends :]


def _rows(batch: ScoreBatch, places: np.ndarray) -> list[RankedRow]:
    return [
        RankedRow(
            batch.place + i,
            int(batch.row[i]),
            batch.id(i),
            int(batch.n_tokens[i]),
            int(batch.rank[i]),
            bool(batch.selected[i]),
            batch.scores[:, i].copy(),
        )
        for i in map(int, places)
    ]


class _NearCut:
    """Beside the second pass: rows near the cut of the ranks, and the first of the selected ones."""

    def __init__(self, ranks: np.ndarray, rows: int, ends: int, listed: int, pick: str):
        """``ranks`` int64 [k]: of the selected rows, ascending."""
        self._top, self._none = pick == "top", pick == "random"
        self._edge = int(ranks[-1] if self._top else ranks[0])  # the selected rank next to the cut
        self._inside = int(ranks[max(0, len(ranks) - ends)] if self._top else ranks[min(ends, len(ranks)) - 1])
        self._rows, self._ends, self._selected = rows, ends, len(ranks)
        self._last_listed = int(ranks[min(listed, len(ranks)) - 1]) if listed else 0
        self._taken, self._above = 0, np.empty(0)
        self.listed: list[RankedRow] = []
        self.inside: list[RankedRow] = []
        self.outside: list[RankedRow] = []

    def add(self, batch: ScoreBatch) -> None:
        beyond = batch.rank - self._edge if self._top else self._edge - batch.rank
        near = batch.rank - self._inside if self._top else self._inside - batch.rank
        taken = batch.taken
        self._taken += int((taken & (beyond < 0)).sum())
        self.listed += _rows(batch, np.flatnonzero(batch.selected & (batch.rank <= self._last_listed)))
        self.inside += _rows(batch, np.flatnonzero(batch.selected & (near >= 0)))
        self.outside += _rows(batch, np.flatnonzero((beyond > 0) & (beyond <= self._ends) & ~taken))
        left = batch.scores[:, ~batch.selected & ~taken]
        if left.shape[1]:
            high = left.max(axis=1)
            self._above = np.maximum(self._above, high) if len(self._above) else high

    def cut(self) -> RankCut | None:
        """None where the selected rows, and those that were taken, are not all of the ranks up to one."""
        reach = self._edge if self._top else self._rows - self._edge + 1
        if self._none or self._selected + self._taken != reach or not self.outside:
            return None
        near = [sorted(some, key=lambda r: abs(r.rank - self._edge)) for some in (self.inside, self.outside)]
        return RankCut(near[0], near[1], self._above)


class _Second:
    """The second pass: histograms, now that the extremes are known."""

    def __init__(
        self,
        mean: np.ndarray,
        edges: list[np.ndarray],
        cells: list[np.ndarray],
        tokens: np.ndarray,
        lengths: np.ndarray,
    ):
        c = len(edges)
        self.by_length = Histogram(lengths, *(np.zeros(len(lengths) - 1, dtype=np.int64) for _ in range(2)))
        self._mean, self._edges, self._cell_edges, self._tokens = mean, edges, cells, tokens
        self.squares = np.zeros(c)
        self.pool, self.selected = (np.zeros((c, len(edges[0]) - 1), dtype=np.int64) for _ in range(2))
        self.cells = np.zeros((c, len(tokens) - 1, len(cells[0]) - 1), dtype=np.int64)
        self._sums, self._rows = np.zeros((c, len(tokens) - 1)), np.zeros(len(tokens) - 1, dtype=np.int64)

    def add(self, batch: ScoreBatch) -> None:
        bins = np.searchsorted(self._tokens, batch.n_tokens, side="right") - 1
        self._rows += np.bincount(bins, minlength=len(self._rows))
        for counts, tokens in (
            (self.by_length.pool, batch.n_tokens),
            (self.by_length.selected, batch.n_tokens[batch.selected]),
        ):
            counts += np.histogram(tokens, self.by_length.edges)[0]
        for c, scores in enumerate(batch.scores):
            self.squares[c] += ((scores - self._mean[c]) ** 2).sum()
            self.pool[c] += np.histogram(scores, self._edges[c])[0]
            self.selected[c] += np.histogram(scores[batch.selected], self._edges[c])[0]
            self.cells[c] += np.histogram2d(batch.n_tokens, scores, (self._tokens, self._cell_edges[c]))[0].astype(int)
            self._sums[c] += np.bincount(bins, scores, minlength=len(self._rows))

    def mean_by_length(self) -> np.ndarray:
        """float64 [C, X]."""
        return np.where(self._rows > 0, self._sums / np.maximum(1, self._rows), np.nan)


def _edges(low: float, high: float, bins: int) -> np.ndarray:
    """``bins`` bins from ``low`` to ``high``; around the one value where there is no other."""
    if not high - low > 1e-12 * max(abs(low), abs(high)):
        width = abs(low) * 0.01 or 0.5
        low, high = low - width, high + width
    return np.linspace(low, high, bins + 1)


def length_edges(shortest: int, longest: int, bins: int) -> np.ndarray:
    """At most ``bins`` bins of whole numbers of tokens, about equally wide on a logarithmic scale."""
    edges = np.unique(np.rint(np.geomspace(max(1, shortest), longest + 1, bins + 1)))
    return edges - 0.5
