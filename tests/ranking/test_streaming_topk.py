"""The streaming top-k keeps what a full sort would, ties to the lower row."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.ranking.streaming_topk import TopK, order

scores_of_rows = st.lists(st.sampled_from([-2.0, -1.5, 0.0, -0.0, 1.0, 1e300, -1e300]), max_size=60)


def best(rows: np.ndarray, scores: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    pairs = sorted(zip(rows.tolist(), scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))[:k]
    return [row for row, _ in pairs], [score for _, score in pairs]


@settings(max_examples=200, deadline=None)
@given(scores_of_rows, st.integers(1, 70), st.integers(1, 9), st.randoms(use_true_random=False))
def test_equals_a_full_sort_in_any_order_of_blocks(values: list[float], k: int, block: int, random) -> None:
    rows, scores = np.arange(len(values)) * 3 + 5, np.array(values, dtype=np.float64)
    places = list(range(len(values)))
    random.shuffle(places)
    top = TopK(k)
    for start in range(0, len(places), block):
        chosen = places[start : start + block]
        top.push(rows[chosen], scores[chosen])
    got_rows, got_scores = top.result()
    assert (got_rows.tolist(), got_scores.tolist()) == best(rows, scores, k)


def test_it_holds_no_more_than_k() -> None:
    top = TopK(3)
    for start in range(0, 1000, 10):
        top.push(np.arange(start, start + 10), np.zeros(10))
        assert len(top.result()[0]) <= 3
    assert top.result()[0].tolist() == [0, 1, 2]


def test_nothing_pushed() -> None:
    rows, scores = TopK(5).result()
    assert rows.tolist() == [] and scores.tolist() == []
    top = TopK(5)
    top.push(np.zeros(0, dtype=np.int64), np.zeros(0))
    assert len(top.result()[0]) == 0


@settings(max_examples=100, deadline=None)
@given(scores_of_rows, st.randoms(use_true_random=False))
def test_order_sorts_by_score_then_row(values: list[float], random) -> None:
    rows = np.array(random.sample(range(1000), len(values)), dtype=np.int64)
    scores = np.array(values, dtype=np.float64)
    assert rows[order(rows, scores)].tolist() == best(rows, scores, len(values))[0]
