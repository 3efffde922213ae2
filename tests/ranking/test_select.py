"""From scores to a subset: budgets, ends, ties, several targets. Worked by hand on a handful of rows."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.config import BudgetOptions
from nait_fast.errors import NaitError
from nait_fast.ranking.select import check_budget
from nait_fast.ranking.spearman import spearman
from tests.ranking.naive_select import Selection
from tests.ranking.streaming import combined_order, select, z_scores

ROWS = np.array([3, 5, 8, 13, 21])
TOKENS = np.array([10, 20, 30, 40, 50])
ONE = np.array([[2.0], [5.0], [1.0], [5.0], [0.0]])
#                  a    b
TWO = np.array([[9.0, 0.0], [8.0, 0.0], [0.0, 9.0], [0.0, 8.0], [4.0, 4.0]])


def run(scores: np.ndarray = ONE, seed: int = 0, tokens: np.ndarray = TOKENS, **options) -> Selection:
    return select(ROWS[: len(scores)], tokens[: len(scores)], scores, BudgetOptions(**options), seed)


def chosen(*arguments, **options) -> list[int]:
    return ROWS[run(*arguments, **options).positions()].tolist()


def test_rank_and_ties_by_row() -> None:
    selection = run(top_k=2)
    assert selection.rank.tolist() == [3, 1, 4, 2, 5]  # rows 5 and 13 tie: the lower is first
    assert selection.selected.tolist() == [False, True, False, True, False]
    assert selection.rank.dtype == np.int64 and selection.selected.dtype == bool


def test_budgets() -> None:
    assert chosen(top_k=5) == [5, 13, 3, 8, 21]
    assert chosen(fraction=0.4) == [5, 13]
    assert chosen(fraction=1.0) == [5, 13, 3, 8, 21]
    assert chosen(fraction=0.01) == [5]  # never nothing
    assert chosen() == [5]  # 0.1
    assert chosen(token_budget=70) == [5, 13, 3]  # 20 + 40 + 10, to the token
    assert chosen(token_budget=69) == [5, 13]  # the first that would exceed it ends the selection,
    assert chosen(token_budget=60 + 9) == [5, 13]  # though a later one might still fit
    assert chosen(token_budget=10**15) == [5, 13, 3, 8, 21]


def test_bottom_and_random() -> None:
    assert chosen(pick="bottom", top_k=2) == [8, 21]  # still the better of them first
    assert chosen(pick="bottom", token_budget=80) == [8, 21]
    drawn = {tuple(sorted(chosen(seed=seed, pick="random", top_k=2))) for seed in range(200)}
    assert len(drawn) == 10  # every pair comes up
    assert chosen(seed=7, pick="random", top_k=3) == chosen(seed=7, pick="random", top_k=3)
    assert run(pick="random", top_k=2).rank.tolist() == run(top_k=2).rank.tolist()
    picked = run(seed=3, pick="random", token_budget=60)
    assert 0 < TOKENS[picked.selected].sum() <= 60


def test_mean_and_max_of_z_scores() -> None:
    # Both means are hand-sized (3.6 and 3.4), both deviations 3.2; the sums of the z-scores: 2, 1, 0, -1, -2 over 3.2.
    scores = np.array([[9.0, 0.0], [0.0, 8.0], [1.0, 6.0], [3.0, 3.0], [5.0, 0.0]])
    np.testing.assert_allclose(z_scores(scores)[:2], [[1.6875, -1.0625], [-1.125, 1.4375]])
    for scale in ([1, 1], [1, 1000], [1e-9, 3]):  # the scale of a target's scores does not count
        assert ROWS[combined_order(ROWS, scores * scale, "mean")].tolist() == [3, 5, 8, 13, 21]
        assert ROWS[combined_order(ROWS, scores * scale, "max")].tolist() == [3, 5, 8, 21, 13]


def test_roundrobin_takes_turns() -> None:
    # a names 3, 5, 21, (8, 13 by row); b names 8, 13, 21, (3, 5 by row).
    assert ROWS[combined_order(ROWS, TWO, "roundrobin")].tolist() == [3, 8, 5, 13, 21]
    scores = np.array([[9.0, 9.0], [8.0, 1.0], [1.0, 8.0]])
    # a: 3, 5, 8; b: 3, 8, 5. Both name 3 first; then a gives 5, b gives 8.
    assert ROWS[:3][combined_order(ROWS[:3], scores, "roundrobin")].tolist() == [3, 5, 8]
    assert chosen(scores, combine="roundrobin", top_k=2) == [3, 5]
    assert chosen(scores, combine="roundrobin", token_budget=40) == [3, 5]


def test_union_gives_every_target_its_own_budget() -> None:
    assert chosen(TWO, combine="union", top_k=1) == [3, 8]
    assert chosen(TWO, combine="union", top_k=2) == [3, 8, 5, 13]
    assert chosen(TWO, combine="union", fraction=0.4) == [3, 8, 5, 13]
    assert sorted(chosen(TWO, combine="union", top_k=1, pick="bottom")) == [5, 13]  # the last by row of each's ties
    assert chosen(TWO, combine="union", token_budget=50) == [3, 8]
    assert len(chosen(TWO, combine="union", top_k=2, pick="random")) == 2
    agreeing = np.array([[3.0, 3.0], [2.0, 2.0], [1.0, 1.0]])
    assert chosen(agreeing, combine="union", top_k=2) == [3, 5]


@pytest.mark.parametrize("combine", ["mean", "max", "union", "roundrobin"])
def test_one_target_needs_no_combining(combine: str) -> None:
    assert chosen(combine=combine, top_k=3) == [5, 13, 3]


def test_a_constant_score_does_not_count() -> None:
    for constant in (0.0, 0.1, -7.3, 1e-300):
        scores = np.column_stack([ONE[:, 0], np.full(5, constant)])
        assert combined_order(ROWS, scores, "mean").tolist() == combined_order(ROWS, ONE, "mean").tolist()
        for n in range(1, 40):  # the computed deviation of 19 times 0.1 is not 0
            assert not z_scores(np.full((n, 2), constant)).any()


BAD = [
    ({"top_k": 6}, "--top-k 6: the pool has only 5 usable samples"),
    ({"fraction": 0.0}, "--fraction 0.0: must be above 0"),
    ({"fraction": -1.0}, "--fraction -1.0"),
    ({"fraction": 2.0}, "--fraction 2.0"),
    ({"fraction": float("nan")}, "--fraction nan"),
    ({"token_budget": 19}, "--token-budget 19: below the first sample's 20 tokens"),
    ({"token_budget": 49, "pick": "bottom"}, "--token-budget 49: below the first sample's 50 tokens"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_budgets(options: dict, words: str) -> None:
    with pytest.raises(NaitError) as error:
        run(**options)
    assert str(error.value).startswith(words)


def test_one_budget_only() -> None:
    for options, words in (
        ({"fraction": 0.1, "top_k": 3}, "--fraction and --top-k: give one"),
        ({"fraction": 0.1, "top_k": 3, "token_budget": 9}, "--fraction and --top-k and --token-budget: give one"),
        ({"fraction": 3.0}, "--fraction 3.0"),
        ({"top_k": 100}, "--top-k 100: the pool has only 99"),
    ):
        with pytest.raises(NaitError, match=words):
            check_budget(BudgetOptions(**options), 99)
    check_budget(BudgetOptions(top_k=99), 99)
    check_budget(BudgetOptions())


def test_an_empty_pool() -> None:
    with pytest.raises(NaitError, match="no usable samples"):
        select(ROWS[:0], TOKENS[:0], ONE[:0], BudgetOptions())


numbers = st.lists(st.integers(-3, 3), min_size=1, max_size=20)


@settings(max_examples=150, deadline=None)
@given(numbers, st.data())
def test_a_selection_is_the_first_of_the_ranking(values: list[int], data: st.DataObject) -> None:
    n = len(values)
    columns = data.draw(st.integers(1, 3))
    scores = np.array([data.draw(st.permutations(values)) for _ in range(columns)], dtype=np.float64).T
    rows = np.array(data.draw(st.permutations(range(100, 100 + n))))
    combine = data.draw(st.sampled_from(["mean", "max", "roundrobin"]))
    k = data.draw(st.integers(1, n))
    top = select(rows, np.ones(n, int), scores, BudgetOptions(top_k=k, combine=combine))
    assert sorted(top.rank.tolist()) == list(range(1, n + 1))
    assert top.rank[top.positions()].tolist() == list(range(1, k + 1))
    bottom = select(rows, np.ones(n, int), scores, BudgetOptions(top_k=n - k, combine=combine, pick="bottom"))
    if k < n:
        assert (bottom.selected == ~top.selected).all()
    same = select(rows, np.ones(n, int), scores, BudgetOptions(token_budget=k, combine=combine))
    assert (same.selected == top.selected).all()


def ranks(values: list[float]) -> list[float]:
    return [sum(v < x for v in values) + (sum(v == x for v in values) + 1) / 2 for x in values]


def test_spearman_by_hand() -> None:
    up = np.array([1.0, 2.0, 3.0, 4.0])
    assert spearman(up, up**3) == 1.0
    assert spearman(up, -up) == -1.0
    # d = (0, 1, 1, 0): 1 - 6 * 2 / (4 * 15)
    assert spearman(up, np.array([10.0, 30.0, 20.0, 40.0])) == pytest.approx(0.8)
    # Ties share their mean rank: (1.5, 1.5, 3) against (1, 2, 3): 1.5 / sqrt(1.5 * 2)
    assert spearman(np.array([5.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(1.5 / np.sqrt(3))
    assert np.isnan(spearman(up, np.ones(4))) and np.isnan(spearman(up[:1], up[:1]))


@settings(max_examples=80, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=2, max_size=15))
def test_spearman_is_the_correlation_of_the_ranks(pairs: list[tuple[int, int]]) -> None:
    x, y = (np.array(column, dtype=float) for column in zip(*pairs, strict=True))
    if x.std() == 0 or y.std() == 0:
        assert np.isnan(spearman(x, y))
    else:
        expected = np.corrcoef(ranks(x.tolist()), ranks(y.tolist()))[0, 1]
        assert spearman(x, y) == pytest.approx(expected, abs=1e-12)
