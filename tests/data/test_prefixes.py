"""Shared prefixes: against the best set there is, on Alpaca's two templates, and what keeps a prefix from being one."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data import prefixes
from nait_fast.data.prefixes import LEAST_GAIN, LEAST_TOKENS, MIN_PREFIX, MOST, shared_prefixes
from nait_fast.data.tokenize import Encoded

FRONT = [7, 8, 9, 10, 11]
FRONTS = [FRONT, [*FRONT, 1, 2, 3], [*FRONT, 4, 5], [2, 2, 2, 2, 2, 2]]


def encoded(*rows: list[int]) -> list[Encoded]:
    return [Encoded(i, None, np.array(row, dtype=np.int32)) for i, row in enumerate(rows)]


def spared(pool: list[list[int]], chosen: list[list[int]]) -> int:
    """Tokens that need not be run: of each sample those of the longest prefix with a token behind it."""
    longest = [max((len(p) for p in chosen if row[: len(p)] == p and len(row) > len(p)), default=0) for row in pool]
    return sum(longest) - sum(map(len, chosen))


own = st.lists(st.integers(0, 5), min_size=1, max_size=4)
rows = st.lists(st.builds(lambda front, own: front + own, st.sampled_from([*FRONTS, []]), own), max_size=24)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_as_good_as_the_best_set(pool: list[list[int]]) -> None:
    pool = pool * 4
    found = [ids.tolist() for ids in shared_prefixes(encoded(*pool))]
    least = max(LEAST_GAIN * sum(map(len, pool)), LEAST_TOKENS)
    assert len(found) <= MOST and all(len(ids) >= MIN_PREFIX for ids in found)
    assert found == sorted(found, key=lambda ids: (-len(ids), ids))
    for ids in found:
        others = [other for other in found if other != ids]
        assert spared(pool, found) - spared(pool, others) >= least
    heads = {tuple(row[:n]) for row in pool for n in range(MIN_PREFIX, len(row))}
    single = [list(ids) for ids in heads if spared(pool, [list(ids)]) > 0]
    best = max((spared(pool, list(two)) for two in itertools.combinations_with_replacement(single, 2)), default=0)
    # Greedily chosen: 1 - 1/e of the best, and what is not worth a prefix is left.
    assert spared(pool, found) >= 0.63 * best - MOST * least


def test_two_templates_and_what_they_have_in_common() -> None:
    trunk, with_input, without = list(range(20, 28)), list(range(40, 65)), list(range(70, 86))
    pool = [[*trunk, *(with_input if i % 3 == 0 else without), 3, i, i + 1] for i in range(60)]
    found = [ids.tolist() for ids in shared_prefixes(encoded(*pool))]
    assert found == [[*trunk, *with_input, 3], [*trunk, *without, 3]]  # the trunk alone serves nobody
    pool += [[*trunk, 90 + i, 1, 2, 3, 4, 5, 6] for i in range(30)]
    assert [len(ids) for ids in shared_prefixes(encoded(*pool))] == [34, 25, 8]
    assert [ids.dtype for ids in shared_prefixes(encoded(*pool))] == [np.int32] * 3


@pytest.mark.parametrize(
    ("pool", "found"),
    [
        ([], []),
        ([FRONT], []),
        ([FRONT[:4]] * 9, []),
        ([[1]] * 9, []),
        ([FRONT] * 10, [FRONT[:-1]]),  # a sample needs a token of its own
        ([*[FRONT] * 2, *[[*FRONT, i] for i in range(8)]], [FRONT[:-1]]),
        ([*[FRONT] * 2, *[[*FRONT, i] for i in range(40)]], [FRONT]),
        ([[*FRONT, i] for i in range(7)], []),  # under 32 tokens
        ([[*FRONT, i] for i in range(12)] + [list(range(100 + i, 800 + i)) for i in range(9)], []),  # under 1%
    ],
)
def test_what_is_worth_a_prefix(pool: list[list[int]], found: list[list[int]]) -> None:
    assert [ids.tolist() for ids in shared_prefixes(encoded(*pool))] == found


def test_of_many_samples_some_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = encoded(*[[*FRONTS[i % 2], i, i] for i in range(501)])
    whole = [ids.tolist() for ids in shared_prefixes(pool)]
    monkeypatch.setattr(prefixes, "_LOOKED_AT", 60)
    assert [ids.tolist() for ids in shared_prefixes(pool)] == whole == [FRONTS[1], FRONT]


def test_a_prefix_ends_before_the_response(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = np.array([*FRONT, *FRONT, 1], dtype=np.int32)
    samples = [Encoded(i, None, ids, response=((6 + i % 2, 11),), reading_spans=((6, 11),)) for i in range(8)]
    assert [len(prefix) for prefix in shared_prefixes(samples)] == [6]
    monkeypatch.setattr(prefixes, "MAX_PREFIX", 5)
    assert [len(prefix) for prefix in shared_prefixes(samples * 2)] == [5]
