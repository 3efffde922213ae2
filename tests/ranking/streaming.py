"""The streaming selection, fed with arrays and answering with arrays, as its in-memory reference does."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from nait_fast.config import BudgetOptions
from nait_fast.ranking import select as streaming
from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.external import ranks
from nait_fast.ranking.order import ZScores
from nait_fast.ranking.scan import Block
from tests.ranking.naive_select import Selection


@contextmanager
def table_of(rows: np.ndarray, n_tokens: np.ndarray, scores: np.ndarray, block: int = 3) -> Iterator[ScoreTable]:
    """A table of rows that ascend, filled ``block`` rows at a time; its folder is empty when it is closed."""
    with tempfile.TemporaryDirectory() as folder:
        with ScoreTable(Path(folder), len(rows), [f"t{c}" for c in range(scores.shape[1])]) as table:
            for start in range(0, len(rows), block):
                part = slice(start, start + block)
                table.add(Block(rows[part], n_tokens[part], scores[part]))
            assert not list(Path(folder).iterdir())  # no names: a killed process leaves nothing either
            yield table
        assert not list(Path(folder).iterdir())


def select(
    rows: np.ndarray, n_tokens: np.ndarray, scores: np.ndarray, options: BudgetOptions, seed: int = 0, block: int = 3
) -> Selection:
    """``nait_fast.ranking.select.select`` of ``rows`` in any order."""
    ascending = np.argsort(rows)
    rank, selected = np.empty(len(rows), dtype=np.int64), np.zeros(len(rows), dtype=bool)
    with table_of(rows[ascending], n_tokens[ascending], scores[ascending], block) as table:
        found = streaming.select(table, options, seed)
        with ranks(found.keys, table.folder) as ranked:
            rank[ascending] = ranked.read(0, len(rows))
    places = ascending[found.places]
    selected[places] = True
    out = Selection(rank, selected)
    assert rows[places].tolist() == found.rows.tolist()
    assert places[found.order].tolist() == out.positions().tolist()
    assert found.tokens == n_tokens[places].sum()
    return out


def combined_order(rows: np.ndarray, scores: np.ndarray, combine: str) -> np.ndarray:
    """Positions of the rows, best first."""
    chosen = select(rows, np.ones(len(rows), dtype=np.int64), scores, BudgetOptions(fraction=1.0, combine=combine))
    return np.argsort(chosen.rank)


def z_scores(scores: np.ndarray) -> np.ndarray:
    """z-scores [n, C]."""
    with table_of(np.arange(len(scores)), np.ones(len(scores), dtype=np.int64), scores) as table:
        z = ZScores.of(table.scores, table.low, table.high)
        return np.concatenate([block.T for _, block in z.tables()])
