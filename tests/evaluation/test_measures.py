"""The measures of a ranking: numbers worked out by hand, and definitions followed pair by pair."""

import math

import numpy as np
import pytest

from nait_fast.codecs.layout import CodeLayout
from nait_fast.evaluation.comparison import best, compared, correlations, count_of, overlap, overlaps, top_overlap
from nait_fast.evaluation.confounds import bit_weights, layer_parts, variance_shares
from nait_fast.evaluation.retrieval import auc, precision_at, r_precision, retrieval
from nait_fast.evaluation.shared_rows import core_by_chance, core_places, unique_places
from nait_fast.evaluation.writing import json_values
from nait_fast.ranking.scan import score_codes
from nait_fast.ranking.spearman import centred_ranks, spearman
from tests.ranking.indexes import contrast

SCORES = np.array([0.5, 2.0, 2.0, -1.0, 3.0, 0.5])


def made(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores with many ties, and relevant rows, of 3 to 60 rows."""
    generator = np.random.default_rng(seed)
    n = int(generator.integers(3, 60))
    relevant = generator.random(n) < 0.3
    relevant[generator.integers(n)] = True
    return generator.integers(0, 8, n).astype(float), relevant


@pytest.mark.parametrize(
    ("k", "rows"), [(1, [4]), (2, [1, 4]), (3, [1, 2, 4]), (4, [0, 1, 2, 4]), (6, [0, 1, 2, 3, 4, 5])]
)
def test_the_best_rows_ties_to_the_earlier(k: int, rows: list[int]) -> None:
    assert np.flatnonzero(best(SCORES, k)).tolist() == rows


def test_the_size_of_a_selection() -> None:
    assert [count_of(n, 0.1) for n in (1, 4, 14, 16, 3040)] == [1, 1, 1, 2, 304]


def test_overlap_by_hand() -> None:
    x, y = np.arange(10.0), np.array([0, 1, 2, 3, 4, 9, 8, 7, 6, 5.0])
    assert top_overlap(x, y, 0.2) == 0.0  # rows 8, 9 and rows 5, 6
    assert top_overlap(x, y, 0.4) == 0.75  # rows 6 to 9 and rows 5 to 8
    assert top_overlap(x, y, 0.5) == 1.0
    a, b = np.array([1, 1, 0, 0], dtype=bool), np.array([1, 0, 1, 0], dtype=bool)
    assert overlap(a, b) == 0.5 and overlaps(np.stack([a, b])).tolist() == [[1, 0.5], [0.5, 1]]


def test_comparison_of_two_scores() -> None:
    x = np.arange(200.0)
    assert compared(x, 3 * x + 1) == {"spearman": 1.0, "top10": 1.0, "top1": 1.0}
    assert compared(x, -x) == {"spearman": -1.0, "top10": 0.0, "top1": 0.0}
    measures = compared(x, np.zeros(200))  # a constant score ranks by row: the first twenty against the last
    assert math.isnan(measures["spearman"]) and (measures["top10"], measures["top1"]) == (0.0, 0.0)


def test_correlations_are_spearman_s() -> None:
    columns = np.array([np.random.default_rng(i).integers(0, 5, 30).astype(float) for i in range(4)] + [np.ones(30)])
    found = correlations(np.stack([centred_ranks(column) for column in columns]))
    for i in range(5):
        for j in range(5):
            assert found[i, j] == pytest.approx(spearman(columns[i], columns[j]), abs=1e-12, nan_ok=True)
    assert np.isnan(found[4]).all() and not np.isnan(found[:4, :4]).any()


def test_retrieval_by_hand() -> None:
    # Best first: row 4, 1, 2, 0, 5, 3; relevant: 1, 0, 5.
    relevant = np.array([1, 1, 0, 0, 0, 1], dtype=bool)
    assert r_precision(SCORES, relevant) == pytest.approx(1 / 3)
    assert [precision_at(SCORES, relevant, k) for k in (1, 2, 4)] == [0, 0.5, 0.5]
    # Pairs of a relevant row and another: 1 beats 3, ties with 2, loses to 4; 0 and 5 beat 3, lose to 2 and 4.
    assert auc(SCORES, relevant) == pytest.approx((1 + 0.5 + 1 + 1) / 9)


@pytest.mark.parametrize("seed", range(30))
def test_auc_counts_the_pairs(seed: int) -> None:
    scores, relevant = made(seed)
    pairs = [(a > b) + (a == b) / 2 for a in scores[relevant] for b in scores[~relevant]]
    expected = sum(pairs) / len(pairs) if pairs else float("nan")
    assert auc(scores, relevant) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    assert auc(centred_ranks(scores), relevant) == pytest.approx(expected, abs=1e-12, nan_ok=True)


@pytest.mark.parametrize("seed", range(10))
def test_precision_follows_the_order(seed: int) -> None:
    scores, relevant = made(seed)
    ranked = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    measures = retrieval(scores, relevant)
    assert measures["r_precision"] == pytest.approx(np.mean([relevant[row] for row in ranked[: relevant.sum()]]))
    assert measures["p_at"] == ({"10": pytest.approx(np.mean(relevant[ranked[:10]]))} if len(scores) >= 10 else {})
    assert (measures["relevant"], measures["rows"], measures["chance"]) == (
        relevant.sum(),
        len(scores),
        relevant.mean(),
    )
    assert retrieval(centred_ranks(scores), relevant) == measures  # ranks are as good as scores


def test_the_deepest_precision_is_of_all_rows() -> None:
    assert retrieval(np.arange(10.0), np.arange(10) < 3)["p_at"] == {"10": 0.3}


def test_one_relevant_row() -> None:
    relevant = np.arange(6) == 4
    assert (r_precision(SCORES, relevant), auc(SCORES, relevant)) == (1, 1)
    assert (r_precision(-SCORES, relevant), auc(-SCORES, relevant)) == (0, 0)


def test_all_rows_relevant_and_constant_scores() -> None:
    everything = np.ones(6, dtype=bool)
    assert r_precision(SCORES, everything) == 1 and math.isnan(auc(SCORES, everything))
    assert auc(np.zeros(6), np.arange(6) < 2) == 0.5


def test_shares_by_hand() -> None:
    # Two layers of variances 4 and 1 that do not correlate, a third that takes half of the first away.
    first, second = np.array([2, 2, -2, -2.0]), np.array([1, -1, 1, -1.0])
    shares = variance_shares(np.column_stack([first + 7, second]))
    assert shares == pytest.approx([0.8, 0.2])
    shares = variance_shares(np.column_stack([first, second, -first / 2]))
    assert shares == pytest.approx([1, 0.5, -0.5]) and sum(shares) == pytest.approx(1)


def test_shares_of_a_constant_score() -> None:
    assert variance_shares(np.ones((5, 3))) is None
    x = np.random.default_rng(0).standard_normal(50) * 1e3
    assert variance_shares(np.column_stack([x, -x])) is None
    parts = np.column_stack([0.1 * x, 0.2 * x, -0.3 * x])  # rounding leaves something of what is 0
    assert parts.sum(axis=1).any() and variance_shares(parts) is None
    assert variance_shares(np.ones((1, 3))) is None


@pytest.mark.parametrize("widths", [[40, 70, 33], [5], [64, 32]])
def test_the_parts_of_a_bit_score_add_up(widths: list[int]) -> None:
    layout, signature = CodeLayout.of(widths), contrast("a", widths, 1)
    bits = np.random.default_rng(2).random((300, layout.n_neurons)) < 0.4
    parts = layer_parts(layout.pack(bits), bit_weights(signature), layout)
    assert parts.sum(axis=1) == pytest.approx(score_codes(layout.pack(bits), [signature])[:, 0], abs=1e-9)
    alone = bits.copy()
    alone[:, layout.neurons(0).stop :] = False
    assert parts[:, 0] == pytest.approx(score_codes(layout.pack(alone), [signature])[:, 0], abs=1e-9)


def test_core_and_unique_rows() -> None:
    chosen = np.array([[1, 1, 0, 0, 1], [1, 0, 1, 0, 1], [1, 0, 0, 0, 0]], dtype=bool)
    assert [core_places(chosen, k).tolist() for k in (1, 2, 3)] == [[0, 1, 2, 4], [0, 4], [0]]
    assert [unique_places(chosen, which).tolist() for which in range(3)] == [[1], [2], []]


def test_the_core_that_chance_gives() -> None:
    assert core_by_chance(1000, 100, 2, 2) == pytest.approx(10)
    assert core_by_chance(1000, 100, 3, 2) == pytest.approx(1000 * (3 * 0.01 * 0.9 + 0.001))
    generator = np.random.default_rng(0)
    drawn = [len(core_places(np.array([best(generator.random(400), 40) for _ in range(3)]), 2)) for _ in range(300)]
    assert np.mean(drawn) == pytest.approx(core_by_chance(400, 40, 3, 2), rel=0.05)


def test_plain_numbers() -> None:
    given = {"a": (np.float64(1 / 3), float("nan"), np.int64(3)), "b": [np.array([np.inf, 2.0])], "c": "x", "d": None}
    assert json_values(given) == {"a": [0.333333, None, 3], "b": [[None, 2.0]], "c": "x", "d": None}
