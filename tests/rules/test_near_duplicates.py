"""Near-duplicates against the definition: every row, best first, compared with all that stay."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from nait_fast.codecs import codec_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.notices import NaitWarning
from nait_fast.rules.constraints import near_duplicates as module
from nait_fast.rules.constraints.code_rows import CodeRows
from nait_fast.rules.constraints.hamming_join import rounds_of
from nait_fast.rules.constraints.near_duplicates import (
    NearDuplicates,
    most_bits,
    near_another,
    near_duplicates,
    near_duplicates_of,
)
from nait_fast.rules.constraints.sketches import LEAF, SignedSums, leaves_of
from tests.ranking.indexes import write_index


def defined(codes: np.ndarray, order: np.ndarray, most: int) -> tuple[list[int], list[tuple[int, int, int]]]:
    """(rows that stay, (row, the one that took it, their distance) of the others)."""
    kept: list[int] = []
    gone = []
    for row in order.tolist():
        for other in kept:
            apart = int(np.bitwise_count(codes[row] ^ codes[other]).sum())
            if apart <= most:
                gone.append((row, other, apart))
                break
        else:
            kept.append(row)
    return kept, gone


def assert_same(mine: NearDuplicates, kept: list[int], gone: list[tuple[int, int, int]]) -> None:
    assert mine.kept.tolist() == kept
    assert list(zip(mine.dropped.tolist(), mine.taken_by.tolist(), mine.distance.tolist(), strict=True)) == gone


def families(n: int, width: int, parents: int, seed: int, noise: int = 3) -> np.ndarray:
    """Codes uint8 [n, width] that differ from one of ``parents`` in a share 2^-noise of their bits."""
    generator = np.random.default_rng(seed)
    flips = np.full((n, width), 0xFF, dtype=np.uint8)
    for _ in range(noise):
        flips &= generator.integers(0, 256, (n, width), np.uint8)
    return generator.integers(0, 256, (parents, width), np.uint8)[generator.integers(0, parents, n)] ^ flips


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NAIT_FAST_BACKEND", request.param)
    return request.param


@pytest.mark.parametrize(
    ("n", "width", "parents", "share"),
    [
        (0, 16, 1, 0.1),
        (1, 16, 1, 0.1),
        (2, 8, 1, 1.0),
        (LEAF + 1, 16, 5, 0.3),
        (300, 64, 30, 0.2),  # some of each family
        (700, 104, 100, 0.23),  # chains
        (500, 8, 3, 0.45),  # nearly all are neighbours
    ],
)
def test_as_defined(backend: str, n: int, width: int, parents: int, share: float) -> None:
    codes = families(n, width, parents, seed=n)
    order = np.random.default_rng(1).permutation(n)[: n - n // 5]
    mine = near_duplicates([codes[: n // 3], codes[n // 3 :]], order, share, 8 * width)
    assert_same(mine, *defined(codes, order, most_bits(share, 8 * width)))
    assert mine.seen == len(order)


@pytest.mark.parametrize(("n", "parents", "share"), [(0, 1, 0.1), (1, 1, 0.1), (2, 1, 1.0), (330, 90, 0.23)])
def test_rows_that_have_another_one_near(backend: str, n: int, parents: int, share: float) -> None:
    """Also those whose only neighbour is another one's, too, or ranks worse."""
    codes = families(n, 64, parents, seed=n)
    rows = np.random.default_rng(1).permutation(n)[: n - n // 5]
    apart = np.bitwise_count(codes[rows, None] ^ codes[None, rows]).sum(axis=2, dtype=np.int64)
    np.fill_diagonal(apart, 8 * 64 + 1)
    near = (apart <= most_bits(share, 8 * 64)).any(axis=1)
    assert near_another([codes[: n // 3], codes[n // 3 :]], rows, share, 8 * 64).tolist() == near.tolist()
    assert n < 3 or 0.2 < near.mean() < 0.95


def test_a_row_stays_whose_neighbour_does_not(backend: str) -> None:
    codes = np.zeros((4, 16), dtype=np.uint8)
    codes[1, 0], codes[2, :2], codes[3, :2] = 0x0F, (0x0F, 0x0F), (0x0F, 0x1F)  # 4 bits from one to the next, then 1
    mine = near_duplicates(codes, np.arange(4), 5 / 128, 128)
    assert mine.kept.tolist() == [0, 2]
    assert mine.dropped.tolist() == [1, 3] and mine.taken_by.tolist() == [0, 2] and mine.distance.tolist() == [4, 1]


def test_long_chains_are_settled_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAIT_FAST_BACKEND", "cpu")
    monkeypatch.setattr(module, "IN_TURN", 7)
    bits = np.tril(np.ones((200, 256), dtype=bool))  # each row has a bit more than the one before
    codes = np.packbits(bits, axis=1)
    for order in (np.arange(200), np.random.default_rng(0).permutation(200)):
        assert_same(near_duplicates(codes, order, 3 / 256, 256), *defined(codes, order, 2))


def test_a_limit_ends_where_enough_rows_stay(backend: str) -> None:
    codes, order = families(400, 32, 60, seed=2), np.random.default_rng(3).permutation(400)
    whole = near_duplicates(codes, order, 0.3, 256)
    for limit in (0, 1, len(whole.kept) // 2, len(whole.kept), 1000):
        mine = near_duplicates(codes, order, 0.3, 256, limit=limit)
        assert mine.kept.tolist() == whole.kept[:limit].tolist()
        dropped = [row for row in whole.dropped.tolist() if row in order[: mine.seen].tolist()]
        assert mine.dropped.tolist() == dropped
        assert len(mine.kept) + len(mine.dropped) == mine.seen


def test_the_share_is_taken_as_written() -> None:
    assert most_bits(0.05, 200) == 9  # less than 10
    assert most_bits(0.03, 46080) == 1382
    assert most_bits(1, 8) == 7
    for share in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(BadInput, match="near-duplicates"):
            most_bits(share, 64)


def test_rows_and_codes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="order"):
        near_duplicates(np.zeros((2, 8), np.uint8), np.array([2]), 0.1, 64)
    with pytest.raises(ValueError, match="width"):
        CodeRows([np.zeros((2, 8), np.uint8), np.zeros((2, 16), np.uint8)])
    with pytest.raises(ValueError, match="unsigned"):
        CodeRows(np.zeros((2, 8)))


def test_sums_are_never_farther_apart_than_codes() -> None:
    codes = families(200, 512, 9, seed=5)
    sums = SignedSums(codes[:100])
    mine = sums(codes).astype(np.int64)
    assert (sums.step > 1).any()  # in steps of several bits, too
    for a, b in combinations(range(0, 200, 3), 2):
        apart = int(np.bitwise_count(codes[a] ^ codes[b]).sum())
        assert (np.abs(mine[a] - mine[b]) <= -(-apart // sums.step)).all()
    assert len(np.unique(mine, axis=0)) > 100  # and tell rows apart


@pytest.mark.parametrize("n", [1, LEAF, LEAF + 1, 5 * LEAF - 1])
def test_every_row_lies_in_one_leaf(n: int) -> None:
    sums = np.random.default_rng(n).integers(0, 256, (n, 16), np.uint8)
    leaves = leaves_of(sums, np.ones(16, dtype=np.int64))
    assert sorted(leaves.rank.tolist()) == [-1] * (-n % LEAF) + list(range(n))
    assert (leaves.rank[:n] >= 0).all()
    by_place = leaves.sums.transpose(0, 2, 1).reshape(-1, 16)[:n]
    assert (by_place == sums[leaves.rank[:n]]).all()


@pytest.mark.parametrize("groups", [1, 2, 3, 8, 9])
def test_rounds_hold_every_pair_once_and_no_group_twice(groups: int) -> None:
    rounds = rounds_of(groups)
    pairs = [tuple(sorted(pair)) for turn in rounds.tolist() for pair in turn if pair[0] >= 0]
    assert sorted(pairs) == sorted([*combinations(range(groups), 2), *((g, g) for g in range(groups))])
    for turn in rounds.tolist():
        names = [name for pair in turn for name in set(pair) if name >= 0]
        assert len(set(names)) == len(names)


def test_what_takes_long_says_so_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SLOW_SECONDS", -1.0)
    shown: list[float] = []
    with pytest.warns(NaitWarning, match="pairs of 9 rows: about 0 minutes"):
        module._watched(iter([0.25, 0.5, 1.0]), "pairs of 9 rows", shown.append)
    assert shown == [0.25, 0.5, 1.0]


def test_samples_of_an_index_over_its_shards(tmp_path: Path) -> None:
    layout = CodeLayout.of((40, 90))
    bits = np.unpackbits(families(60, 32, 12, seed=6), axis=1)[:, : layout.n_neurons].astype(bool)
    codes = layout.pack(bits)
    parts = (slice(0, 25), slice(25, 60))
    rows = np.arange(60)
    shards = [{"codes": codes[p], "row": rows[p], "n_tokens": rows[p].astype(np.int32)} for p in parts]
    index = Index(write_index(tmp_path / "index", shards, layout.widths))
    assert_same(near_duplicates_of(index, rows[::-1], 0.3), *defined(codes, rows[::-1], 38))  # of 130 bits, not 256
    index.manifest["codec"] = "components"
    with pytest.raises(BadInput, match="codec components keeps no bits"):
        near_duplicates_of(index, rows, 0.3)


def test_bits_that_codes_can_differ_in() -> None:
    layout = CodeLayout.of((33, 7))
    assert codec_of("neuron").most_different(layout, {}) == 40
    assert codec_of("nag").most_different(layout, {"top_k": 5}) == 2 * 5 + 2 * 2
    assert codec_of("components").most_different(layout, {"components": [4, 8]}) == 0
    assert codec_of("rotated").most_different(layout, {}) >= 40
