"""Batches hold every sample once within their budget, and the shared prefix is the majority's."""

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data.batching import MIN_PREFIX, make_batches, shared_prefix
from nait_fast.data.tokenize import Encoded

FRONT = [7, 8, 9, 10, 11]
NONE = np.zeros(0, dtype=np.int32)


def encoded(*rows: list[int]) -> list[Encoded]:
    return [Encoded(i, None, np.array(row, dtype=np.int32)) for i, row in enumerate(rows)]


token = st.integers(0, 3)
rows = st.lists(
    st.one_of(st.lists(token, min_size=1, max_size=9), st.lists(token, max_size=6).map(lambda own: FRONT + own)),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(1, 40), st.booleans())
def test_every_sample_once_within_the_budget(pool: list[list[int]], budget: int, with_prefix: bool) -> None:
    samples = encoded(*pool)
    prefix = np.array(FRONT, dtype=np.int32) if with_prefix else NONE
    batches = list(make_batches(samples, prefix, budget))
    assert sorted(i for b in batches for i in b.items) == list(range(len(pool)))
    for batch in batches:
        assert batch.n_prefix in (0, len(prefix))
        own = [len(pool[i]) - batch.n_prefix for i in batch.items]
        assert sum(own) <= budget or len(own) == 1
        assert min(own) >= 1
        assert own == sorted(own)
        for i in batch.items:
            behind = with_prefix and len(pool[i]) > len(FRONT) and pool[i][: len(FRONT)] == FRONT
            assert batch.n_prefix == (len(FRONT) if behind else 0)
    # No batch could have taken the first sample of the next one.
    for batch, following in itertools.pairwise(batches):
        if batch.n_prefix == following.n_prefix:
            own = [len(pool[i]) - batch.n_prefix for i in (*batch.items, following.items[0])]
            assert sum(own) > budget


@settings(max_examples=80, deadline=None)
@given(rows, st.integers(1, 40), st.randoms(use_true_random=False))
def test_batches_depend_on_lengths_and_positions_alone(pool: list[list[int]], budget: int, random) -> None:
    others = [[random.randint(0, 9) for _ in row] for row in pool]
    assert list(make_batches(encoded(*pool), NONE, budget)) == list(make_batches(encoded(*others), NONE, budget))
    # In another order the samples fall into batches of the same lengths.
    shuffled = random.sample(pool, len(pool))
    lengths = [[len(pool[i]) for i in b.items] for b in make_batches(encoded(*pool), NONE, budget)]
    again = [[len(shuffled[i]) for i in b.items] for b in make_batches(encoded(*shuffled), NONE, budget)]
    assert lengths == again


def naive_prefix(pool: list[list[int]], share: float) -> list[int]:
    """The longest front that enough of the samples have in common, each with a token to spare."""
    best: list[int] = []
    fronts = Counter(tuple(row[:n]) for row in pool for n in range(1, len(row)))
    for front, count in fronts.items():
        if count >= max(2, share * len(pool)) and len(front) > len(best):
            best = list(front)
    return best if len(best) >= MIN_PREFIX else []


@settings(max_examples=200, deadline=None)
@given(rows, st.sampled_from([0.6, 0.8, 1.0]))
def test_shared_prefix_is_the_longest_of_the_majority(pool: list[list[int]], share: float) -> None:
    found = shared_prefix(encoded(*pool), share)
    assert found.dtype == np.int32 and found.tolist() == naive_prefix(pool, share)


def test_outliers_do_not_shorten_the_prefix() -> None:
    pool = [[*FRONT, i] for i in range(8)] + [[1, 2, 3], [*FRONT[:2], 99, 98, 97, 96]]
    assert shared_prefix(encoded(*pool)).tolist() == FRONT  # 8 of 10
    assert shared_prefix(encoded(*pool, [5, 6])).tolist() == []  # 8 of 11
    assert shared_prefix(encoded(*pool, [*FRONT, 50])).tolist() == FRONT  # 9 of 11


def test_a_sample_needs_a_token_of_its_own() -> None:
    assert shared_prefix(encoded(*[FRONT] * 10)).tolist() == FRONT[:-1]
    assert shared_prefix(encoded(*[FRONT] * 3, *[[*FRONT, i] for i in range(7)])).tolist() == FRONT[:-1]
    assert shared_prefix(encoded(*[FRONT] * 2, *[[*FRONT, i] for i in range(8)])).tolist() == FRONT
    prefix = np.array(FRONT, dtype=np.int32)
    (first, second) = make_batches(encoded(FRONT, [*FRONT, 1], FRONT[:2]), prefix, 100)
    assert (first.items, first.n_prefix) == ([1], 5) and (second.items, second.n_prefix) == ([2, 0], 0)


@pytest.mark.parametrize(("pool", "prefix"), [([], []), ([FRONT], []), ([FRONT[:4]] * 9, []), ([[1]] * 9, [])])
def test_too_little_for_a_prefix(pool: list[list[int]], prefix: list[int]) -> None:
    assert shared_prefix(encoded(*pool)).tolist() == prefix


def test_no_samples_no_batches() -> None:
    assert list(make_batches([], NONE, 10)) == []
    assert list(make_batches([], np.array(FRONT, dtype=np.int32), 10)) == []


@pytest.mark.parametrize("max_padding", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("budget", [100, 3000])
def test_padding_is_bounded(max_padding: float, budget: int) -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 300).astype(int) + 1
    encoded = [Encoded(i, None, np.zeros(n, dtype=np.int32)) for i, n in enumerate(lengths)]
    batches = list(make_batches(encoded, np.zeros(0, dtype=np.int32), budget, max_padding))
    assert sorted(i for batch in batches for i in batch.items) == list(range(300))
    for batch in batches:
        own = [int(lengths[i]) for i in batch.items]
        assert sum(own) >= (1 - max_padding) * max(own) * len(own) and (sum(own) <= budget or len(own) == 1)
    if max_padding == 0.2:  # and no batch is smaller than it must be
        for batch, following in itertools.pairwise(batches):
            joined = [int(lengths[i]) for i in [*batch.items, following.items[0]]]
            assert sum(joined) > budget or sum(joined) < 0.8 * max(joined) * len(joined)
