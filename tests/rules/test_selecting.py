"""From an order to a selection: what is looked at, what fills the budget, what is told of the rest."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.config import BudgetOptions
from nait_fast.errors import NaitError
from nait_fast.ranking import select as selecting
from nait_fast.ranking.columns import Spill
from nait_fast.ranking.order import descending
from nait_fast.ranking.select import KeyOrder, _End, select
from nait_fast.rules.best_first import ArrayOrder, Budget, pieces
from nait_fast.rules.constraints.base import Constraint, Walk
from nait_fast.rules.constraints.near_duplicates import NearDuplicateFilter
from nait_fast.rules.constraints.selecting import Chosen, select_rows
from tests.ranking import naive_select
from tests.ranking.streaming import table_of
from tests.rules.orders import Chunked
from tests.rules.test_near_duplicates import defined, families


class Without(Constraint):
    """Takes the places of ``gone``, and counts what it is offered."""

    name = "without"

    def __init__(self, gone: set[int]):
        self._gone, self.offered = np.array(sorted(gone), dtype=np.int64), 0

    @classmethod
    def wanted(cls, options) -> bool:
        return False

    @classmethod
    def of(cls, options, rows) -> "Without":
        raise AssertionError

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        for places in offered:
            self.offered += len(places)
            gone = np.isin(places, self._gone)
            walk.drop(self.name, places[gone], why=walk.row(places[gone]) + 100)
            yield places[~gone]


def told(chosen: Chosen) -> dict[int, str]:
    """Place -> the constraint that took it."""
    every = [(place, dropped.constraint) for dropped in chosen.dropped for place in dropped.places.tolist()]
    assert len({place for place, _ in every}) == len(every)
    return dict(every)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_as_if_all_were_looked_at(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 40))
    order = np.array(data.draw(st.permutations(range(n))))
    tokens = np.array(data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n)))
    gone = data.draw(st.sets(st.integers(0, n - 1)))
    sizes = tuple(data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=4).filter(any)))
    in_tokens = data.draw(st.booleans())
    size = data.draw(st.integers(1, 60 if in_tokens else n))
    budget = Budget(tokens=size) if in_tokens else Budget(rows=size)
    left = [place for place in order.tolist() if place not in gone]
    fits = np.cumsum(tokens[left] if in_tokens else np.ones(len(left), int)) <= size
    expected = np.array(left, dtype=np.int64)[fits]
    chosen = select_rows(Chunked(order, sizes), budget, [Without(gone)], n_tokens=lambda p: tokens[p])
    assert chosen.places.tolist() == expected.tolist()
    assert chosen.tokens == tokens[expected].sum()
    assert chosen.full == (
        len(expected) < len(left) or (tokens[expected].sum() if in_tokens else len(expected)) == size
    )
    assert sorted([*chosen.places.tolist(), *told(chosen)]) == sorted(order[: chosen.looked].tolist())
    if chosen.full:
        assert chosen.looked == (order.tolist().index(expected[-1]) + 1 if len(expected) else 0)
    else:
        assert chosen.looked == n
    assert [d.details["why"].tolist() for d in chosen.dropped] == [(d.places + 100).tolist() for d in chosen.dropped]


def test_no_more_is_looked_at_than_must_be() -> None:
    order, few = ArrayOrder(np.arange(10_000)), Without(set())
    select_rows(order, Budget(rows=100), [few])
    assert few.offered == 111  # the budget and a tenth
    some = Without(set(range(0, 10_000, 2)))
    select_rows(order, Budget(rows=100), [some])
    assert some.offered == 222  # as many again, and there are enough
    tokens = np.full(10_000, 50)
    few = Without(set())
    select_rows(order, Budget(tokens=1000), [few], n_tokens=lambda p: tokens[p])
    assert few.offered == 23  # 1101 tokens


def test_pieces_are_all_of_it() -> None:
    order, budget = np.random.default_rng(0).permutation(500), Budget(rows=7)
    found = list(pieces(Chunked(order, (40, 0, 1, 200)), budget, np.zeros_like, 1.0))
    assert np.concatenate(found).tolist() == order.tolist()
    assert [len(part) for part in found][:3] == [8, 8, 16]
    assert not list(pieces(ArrayOrder(order[:0]), budget, np.zeros_like, 1.0))


def test_a_budget_is_one_of_two() -> None:
    for wrong in ({}, {"rows": 3, "tokens": 4}):
        with pytest.raises(ValueError, match="of rows or of tokens"):
            Budget(**wrong)
    with pytest.raises(ValueError, match="needs the rows' tokens"):
        select_rows(ArrayOrder(np.arange(3)), Budget(tokens=3))


@pytest.mark.parametrize("bottom", [False, True])
def test_an_order_of_keys_comes_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bottom: bool) -> None:
    monkeypatch.setattr(selecting, "GATHERED", 10)
    scores = np.random.default_rng(1).integers(0, 20, 300).astype(np.float64)
    with Spill(tmp_path, np.uint64, 300) as keys:
        keys.write(0, descending(scores))
        parts = list(KeyOrder(_End(keys.read, 300, bottom), 10).chunks())
        again = next(KeyOrder(_End(keys.read, 300, bottom), 50).chunks())
    order = np.lexsort((np.arange(300), -scores))
    assert [len(part) for part in parts] == [10, 10, 20, 40, 80, 140] and len(again) == 50
    assert np.concatenate(parts).tolist() == (order[::-1] if bottom else order).tolist()


def test_values_of_places_in_any_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nait_fast.ranking.columns.BLOCK_CELLS", 8)
    values = np.random.default_rng(2).integers(0, 1000, 50)
    with Spill(tmp_path, np.int64, 50) as spill:
        spill.write(0, values)
        for places in ([], [49], [3, 3, 41, 0, 17, 16, 15], [*range(50)][::-1]):
            assert spill.take(np.array(places, dtype=np.int64)).tolist() == values[places].tolist()


@pytest.mark.parametrize("options", [{"top_k": 30}, {"fraction": 0.2, "pick": "bottom"}, {"token_budget": 300}])
def test_near_duplicates_of_a_table(monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
    monkeypatch.setattr(selecting, "GATHERED", 8)
    n, generator = 160, np.random.default_rng(4)
    codes, scores = families(n, 32, 40, seed=4), generator.integers(0, 50, (n, 1)).astype(np.float64)
    rows, tokens = np.cumsum(generator.integers(1, 4, n)), generator.integers(1, 20, n)
    order = np.lexsort((rows, -scores[:, 0]))[:: -1 if options.get("pick") == "bottom" else 1]
    kept, gone = defined(codes, order, 76)  # less than .3 of 256
    filter_ = NearDuplicateFilter([codes[:50], codes[50:]], 0.3, 256)
    with table_of(rows, tokens, scores) as table:
        selection = select(table, BudgetOptions(**options), 0, [filter_])
    size = options.get("top_k") or 32
    if "token_budget" in options:
        size = int((np.cumsum(tokens[kept]) <= 300).sum())
    ranked = naive_select.combined_order(rows, scores, "mean").tolist()
    assert selection.places[selection.order].tolist() == sorted(kept[:size], key=ranked.index)
    assert selection.rows.tolist() == rows[selection.places].tolist()
    before = order.tolist().index(kept[size - 1])
    expected = {row: (int(rows[other]), bits) for row, other, bits in gone if order.tolist().index(row) < before}
    found = {
        int(place): (of, bits)
        for d in selection.dropped
        for place, of, bits in zip(d.places, d.details["duplicate_of"], d.details["bits"], strict=True)
    }
    assert expected and found == expected and selection.looked == before + 1


def test_fewer_than_asked_for_are_said(recwarn: pytest.WarningsRecorder) -> None:
    codes, tokens = np.zeros((6, 8), np.uint8), np.full(6, 9)
    codes[3] = 255
    scores = np.arange(6, dtype=np.float64)[:, None]
    near = partial(NearDuplicateFilter, codes, 0.5, 64)
    with table_of(np.arange(6), tokens, scores) as table:
        few = select(table, BudgetOptions(top_k=5), 0, [near()])
        said = "2 rows of 5 are selected: no more are left of the 6; near-duplicates took 4"
        assert [str(w.message) for w in recwarn.list] == [said]
        assert few.rows[few.order].tolist() == [5, 3] and few.looked == 6
        recwarn.clear()
        assert select(table, BudgetOptions(top_k=2), 0, [near()]).looked == 3
        assert not recwarn.list
        select(table, BudgetOptions(token_budget=40), 0, [near()])
        assert "2 rows (18 of 40 tokens) are selected" in str(recwarn.list[0].message)
        with pytest.raises(NaitError, match="no row is left to select: without took 6; loosen"):
            select(table, BudgetOptions(top_k=2), 0, [Without(set(range(6)))])
        with pytest.raises(NaitError, match="--token-budget 8: below the first sample's 9 tokens"):
            select(table, BudgetOptions(token_budget=8), 0, [near()])


def test_what_has_no_one_order_is_refused() -> None:
    with table_of(np.arange(4), np.ones(4, int), np.random.default_rng(0).random((4, 2))) as table:
        with pytest.raises(NaitError, match="--combine union: chooses for each target by itself"):
            select(table, BudgetOptions(top_k=2, combine="union"), 0, [Without(set())])
        for fine in ({"token_budget": 3}, {"top_k": 2, "pick": "random"}):
            select(table, BudgetOptions(combine="union", **fine), 0, [Without(set())])
