"""Batches hold every sample once within their budget, behind the longest prefix that it begins with."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data.batching import make_batches
from nait_fast.data.tokenize import Encoded

FRONT = [7, 8, 9, 10, 11]
PREFIXES = [np.array(ids, dtype=np.int32) for ids in (FRONT[:3], FRONT, [0, 1])]


def encoded(*rows: list[int]) -> list[Encoded]:
    return [Encoded(i, None, np.array(row, dtype=np.int32)) for i, row in enumerate(rows)]


token = st.integers(0, 3)
rows = st.lists(
    st.one_of(st.lists(token, min_size=1, max_size=9), st.lists(token, max_size=6).map(lambda own: FRONT + own)),
    max_size=25,
)


@settings(max_examples=150, deadline=None)
@given(rows, st.integers(1, 40), st.sets(st.integers(0, 2)))
def test_every_sample_once_within_the_budget(pool: list[list[int]], budget: int, some: set[int]) -> None:
    prefixes = [PREFIXES[number] for number in some]
    batches = list(make_batches(encoded(*pool), prefixes, budget))
    assert sorted(i for b in batches for i in b.items) == list(range(len(pool)))
    for batch in batches:
        own = [len(pool[i]) - batch.n_prefix for i in batch.items]
        assert sum(own) <= budget or len(own) == 1
        assert min(own) >= 1
        assert own == sorted(own)
        for i in batch.items:
            begins = [len(p) for p in prefixes if len(pool[i]) > len(p) and pool[i][: len(p)] == p.tolist()]
            assert batch.n_prefix == max(begins, default=0)
            assert batch.n_prefix == (0 if batch.prefix is None else len(prefixes[batch.prefix]))
    # No batch could have taken the first sample of the next one.
    for batch, following in itertools.pairwise(batches):
        if batch.prefix == following.prefix:
            own = [len(pool[i]) - batch.n_prefix for i in (*batch.items, following.items[0])]
            assert sum(own) > budget


@settings(max_examples=80, deadline=None)
@given(rows, st.integers(1, 40), st.randoms(use_true_random=False))
def test_batches_depend_on_lengths_and_positions_alone(pool: list[list[int]], budget: int, random) -> None:
    others = [[random.randint(0, 9) for _ in row] for row in pool]
    assert list(make_batches(encoded(*pool), [], budget)) == list(make_batches(encoded(*others), [], budget))
    # In another order the samples fall into batches of the same lengths.
    shuffled = random.sample(pool, len(pool))
    lengths = [[len(pool[i]) for i in b.items] for b in make_batches(encoded(*pool), [], budget)]
    again = [[len(shuffled[i]) for i in b.items] for b in make_batches(encoded(*shuffled), [], budget)]
    assert lengths == again


def test_a_sample_needs_a_token_of_its_own() -> None:
    (first, second) = make_batches(encoded(FRONT, [*FRONT, 1], FRONT[:2]), [np.array(FRONT, dtype=np.int32)], 100)
    assert (first.items, first.prefix, first.n_prefix) == ([1], 0, 5)
    assert (second.items, second.prefix, second.n_prefix) == ([2, 0], None, 0)


def test_no_samples_no_batches() -> None:
    assert list(make_batches([], [], 10)) == []
    assert list(make_batches([], PREFIXES, 10)) == []


@pytest.mark.parametrize("max_padding", [0.0, 0.03, 0.2])
@pytest.mark.parametrize("budget", [100, 3000])
def test_padding_is_bounded(max_padding: float, budget: int) -> None:
    lengths = np.random.default_rng(0).lognormal(4, 0.8, 300).astype(int) + 1
    encoded = [Encoded(i, None, np.zeros(n, dtype=np.int32)) for i, n in enumerate(lengths)]
    batches = list(make_batches(encoded, [], budget, max_padding))
    assert sorted(i for batch in batches for i in batch.items) == list(range(300))
    for batch in batches:
        own = [int(lengths[i]) for i in batch.items]
        assert sum(own) >= (1 - max_padding) * max(own) * len(own) and (sum(own) <= budget or len(own) == 1)
    if max_padding == 0.2:  # and no batch is smaller than it must be
        for batch, following in itertools.pairwise(batches):
            joined = [int(lengths[i]) for i in [*batch.items, following.items[0]]]
            assert sum(joined) > budget or sum(joined) < 0.8 * max(joined) * len(joined)
