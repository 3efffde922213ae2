"""The streaming selection chooses and ranks as the in-memory reference does, in bounded memory."""

import math
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.config import COMBINES, BudgetOptions
from nait_fast.errors import NaitError
from nait_fast.ranking import columns, external, order, spearman
from nait_fast.ranking.columns import ScoreTable, Spill
from nait_fast.ranking.scan import Block
from tests.ranking import naive_select, streaming

TIED = [0.0, -0.0, 1.0, -1.0, 0.5]
EXTREME = [5e-324, -5e-324, 1e-310, 1.7976931348623157e308, -1.7976931348623157e308, 1e300, 1e-300, 1 + 2**-52]


def settings_of(cells: int, gathered: int, bucket: int):
    """Blocks, gathered rows and buckets as small as they get, or as they are."""
    return (
        mock.patch.multiple(columns, BLOCK_CELLS=cells),
        mock.patch.multiple(order, GATHERED=gathered),
        mock.patch.multiple(external, BUCKET_ROWS=bucket, SAMPLES=16),
    )


def pool(data: st.DataObject) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n = data.draw(st.integers(1, 40))
    columns = data.draw(st.integers(1, 3))
    values = data.draw(st.sampled_from([TIED, TIED + EXTREME, [0.25 * i for i in range(-40, 40)]]))
    cell = st.sampled_from(values)
    scores = np.array([[data.draw(cell) for _ in range(columns)] for _ in range(n)])
    tokens = np.array(data.draw(st.lists(st.integers(0, 6), min_size=n, max_size=n)), dtype=np.int32)
    rows = np.cumsum(data.draw(st.lists(st.integers(1, 3), min_size=n, max_size=n)))
    return rows, tokens, scores


def budget(data: st.DataObject, tokens: np.ndarray) -> dict[str, object]:
    kind = data.draw(st.sampled_from(["fraction", "top_k", "token_budget"]))
    if kind == "fraction":
        return {"fraction": data.draw(st.floats(0.01, 1.0))}
    if kind == "top_k":
        return {"top_k": data.draw(st.integers(1, len(tokens)))}
    return {"token_budget": data.draw(st.integers(1, int(tokens.sum()) + 2))}


@settings(max_examples=300, deadline=None)
@given(st.data(), st.sampled_from(COMBINES), st.sampled_from(["top", "bottom"]))
def test_as_the_reference_selects(data: st.DataObject, combine: str, pick: str) -> None:
    rows, tokens, scores = pool(data)
    options = BudgetOptions(**budget(data, tokens), combine=combine, pick=pick)
    blocks, gathered, buckets = settings_of(*(data.draw(st.sampled_from([1, 2, 7, 1000])) for _ in range(3)))
    with blocks, gathered, buckets:
        try:
            expected = naive_select.select(rows, tokens, scores, options)
        except NaitError as error:
            with pytest.raises(NaitError, match=str(error)):
                streaming.select(rows, tokens, scores, options)
            return
        got = streaming.select(rows, tokens, scores, options, block=data.draw(st.integers(1, 9)))
    assert got.rank.tolist() == expected.rank.tolist()
    assert got.selected.tolist() == expected.selected.tolist()


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 2**70))
def test_random_draws_a_prefix_of_one_order(data: st.DataObject, seed: int) -> None:
    rows, tokens, scores = pool(data)
    chosen = budget(data, tokens)
    # The same order by the reference: its keys as scores of a ranking from the top.
    by_key = -np.argsort(np.argsort(order.shuffled(rows, seed))).astype(float)[:, None]
    blocks, gathered, buckets = settings_of(*(data.draw(st.sampled_from([1, 7])) for _ in range(3)))
    with blocks, gathered, buckets:
        try:
            expected = naive_select.select(rows, tokens, by_key, BudgetOptions(**chosen)).selected
        except NaitError as error:
            with pytest.raises(NaitError, match=str(error)):
                streaming.select(rows, tokens, scores, BudgetOptions(**chosen, pick="random"), seed)
            return
        got = streaming.select(rows, tokens, scores, BudgetOptions(**chosen, pick="random"), seed)
    assert got.selected.tolist() == expected.tolist()
    assert got.rank.tolist() == naive_select.select(rows, tokens, scores, BudgetOptions()).rank.tolist()


def test_every_subset_is_drawn_alike() -> None:
    rows, counts = np.array([3, 4, 900, 2**40, 2**40 + 1, 7]), dict[tuple[int, ...], int]()
    for seed in range(6000):
        three = tuple(sorted(np.argsort(order.shuffled(rows, seed))[:3].tolist()))
        counts[three] = counts.get(three, 0) + 1
    assert len(counts) == 20
    chi2 = sum((n - 300) ** 2 / 300 for n in counts.values())
    assert chi2 < 43.8  # 19 degrees of freedom: one in a thousand is above
    assert len(np.unique(order.shuffled(np.arange(100_000), 5))) == 100_000


@given(st.lists(st.one_of(st.sampled_from(TIED + EXTREME), st.floats(allow_nan=False)), min_size=2, max_size=20))
def test_keys_order_as_the_scores_do(values: list[float]) -> None:
    scores = np.array(values)
    got = order.descending(scores)
    for i, key in enumerate(got):
        assert (got < key).tolist() == (scores > scores[i]).tolist()
        assert (got == key).tolist() == (scores == scores[i]).tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=60), st.integers(1, 9))
def test_sums_are_correctly_rounded(values: list[float], cells: int) -> None:
    x = np.array(values)
    with mock.patch.object(columns, "BLOCK_CELLS", cells):
        total = order._Sum(1, len(x))
        for start in range(0, len(x), cells):
            total.add(x[None, start : start + cells])
    assert total.result()[0] == pytest.approx(math.fsum(values), rel=1e-15, abs=1e-300)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=80), st.integers(1, 9), st.integers(1, 30))
def test_external_ranks_are_those_of_a_sort(tmp_path_factory, values: list[int], cells: int, bucket: int) -> None:
    own = np.array(values, dtype=np.uint64) << np.uint64(60)
    folder = tmp_path_factory.mktemp("ranks")
    blocks, gathered, buckets = settings_of(cells, 1, bucket)
    with blocks, gathered, buckets, Spill(folder, np.uint64, len(own)) as spilled:
        spilled.write(0, own)
        with external.ranks(spilled, folder) as ranked:
            got = np.concatenate([block for _, block in ranked.blocks()])
        assert not list(folder.iterdir())
    assert np.argsort(got).tolist() == np.argsort(own, kind="stable").tolist()
    assert sorted(got.tolist()) == list(range(1, len(own) + 1))


def test_z_scores_do_not_depend_on_blocks() -> None:
    scores = np.random.default_rng(0).standard_normal((1000, 3)) * [1e-300, 1.0, 1e300] + [0, 1e6, 0]
    expected = naive_select.z_scores(scores)
    for cells in (3, 30, 999, 10_000):
        with mock.patch.object(columns, "BLOCK_CELLS", cells):
            assert (streaming.z_scores(scores) == expected).all()


def test_rows_that_cannot_be_ranked(tmp_path) -> None:
    def add(row: list[int], scores: list[float]) -> None:
        with ScoreTable(tmp_path, 4, ["sums"]) as table:
            table.add(Block(np.array([3]), np.array([1]), np.array([[0.0]])))
            table.add(Block(np.array(row), np.ones(len(row), int), np.array(scores)[:, None]))

    for row in ([3, 4], [5, 5], [2, 9]):
        with pytest.raises(NaitError, match="rows do not ascend"):
            add(row, [1.0, 2.0])
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(NaitError, match="signature 'sums' gives a score that is not a finite number"):
            add([4, 5], [1.0, bad])
    assert not list(tmp_path.iterdir())


def test_spearman_over_every_nth_row(tmp_path) -> None:
    generator = np.random.default_rng(0)
    scores = generator.standard_normal((1000, 2))
    tokens = (scores[:, 0] * 50 + generator.standard_normal(1000) * 40 + 500).astype(np.int32)
    for most, stride in ((1000, 1), (999, 2), (340, 3), (1, 1000)):
        with (
            mock.patch.object(spearman, "EXACT_ROWS", most),
            mock.patch.object(columns, "BLOCK_CELLS", 7),
            streaming.table_of(np.arange(1000), tokens, scores, 64) as table,
        ):
            found, rows = spearman.with_length(table)
        some = slice(None, None, stride)
        assert rows == len(tokens[some])
        for column, name in enumerate(("t0", "t1")):
            exact = spearman.spearman(scores[some, column], tokens[some])
            assert found[name] == (round(exact, 4) if np.isfinite(exact) else None)


def test_a_full_disk_is_one_line(tmp_path) -> None:
    with pytest.raises(NaitError, match="temporary file cannot be written"):
        Spill(tmp_path / "missing", np.int64, 5)
    full = OSError(28, "No space left on device")
    with (
        Spill(tmp_path, np.int64, 5) as column,
        mock.patch.object(columns.os, "pwrite", side_effect=full),
        pytest.raises(NaitError, match=r"cannot be written \(No space left on device\); free some space"),
    ):
        column.write(0, np.arange(5))
    with Spill(tmp_path, np.int64, 5) as column, pytest.raises(NaitError, match="cannot be read"):
        column.read(0, 5)
