"""Coverage: lazy greedy against plain greedy, and both against the formula."""

import numpy as np
import pytest

from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput
from nait_fast.rules.constraints.coverage import Concave, coverage, coverage_curve


@pytest.fixture(params=["reference", "cpu"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("NAIT_FAST_BACKEND", request.param)
    return request.param


def pool(n: int, layout: CodeLayout, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(bits bool [n, N] of unlike frequency, relevance float64 [n] with ties)."""
    generator = np.random.default_rng(seed)
    bits = generator.random((n, layout.n_neurons)) < generator.random(layout.n_neurons)
    return bits, np.round(generator.standard_normal(n), 1)


def by_formula(
    bits: np.ndarray, relevance: np.ndarray, budget: int, share: float, weights: np.ndarray, concave: str
) -> tuple[list[int], list[float]]:
    """(places, gains) of greedy picks with φ itself."""
    phi = np.sqrt if concave == "sqrt" else lambda c: np.log2(1 + c)
    scaled = (relevance - relevance.min()) / np.ptp(relevance)
    unit = (bits * weights).sum(axis=1).max()
    counts, places, gains = np.zeros(bits.shape[1]), [], []
    for _ in range(budget):
        gain = (1 - share) * scaled + share * ((phi(counts + bits) - phi(counts)) @ weights) / unit
        gain[places] = -1
        best = int(np.argmax(gain))
        places.append(best)
        gains.append(gain[best])
        counts += bits[best]
    return places, gains


CASES: list[tuple[int, tuple[int, ...], int, float, Concave]] = [
    (1, (5,), 3, 0.5, "sqrt"),
    (50, (33, 7), 80, 0.7, "log1p"),
    (500, (100, 31, 65), 200, 1.0, "sqrt"),
    (400, (100, 31, 65), 100, 0.3, "log1p"),
    (100, (64,), 100, 0.0, "sqrt"),
]


@pytest.mark.parametrize(("n", "widths", "budget", "share", "concave"), CASES)
def test_lazy_picks_what_plain_greedy_picks(
    n: int, widths: tuple[int, ...], budget: int, share: float, concave: Concave, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = CodeLayout.of(widths)
    bits, relevance = pool(n, layout, n)
    codes, candidates = layout.pack(bits), np.random.default_rng(2).permutation(n)
    weights = np.round(np.random.default_rng(3).random(layout.n_neurons), 2)
    results = []
    for name in ("reference", "cpu"):
        monkeypatch.setenv("NAIT_FAST_BACKEND", name)
        blocks = [codes[: n // 2], codes[n // 2 :]]
        results.append(coverage(blocks, candidates, relevance, budget, share, layout, weights, concave))
    plain, lazy = results
    for name in ("rows", "gains", "curve", "unit"):
        assert np.array_equal(getattr(plain, name), getattr(lazy, name)), name
    assert len(plain.rows) == len(set(plain.rows.tolist())) == min(n, budget)
    assert lazy.computed < plain.computed or n == 1
    again = coverage_curve(codes, plain.rows, layout, plain.unit, weights, concave)
    assert np.array_equal(again, plain.curve)


@pytest.mark.parametrize("concave", ["sqrt", "log1p"])
@pytest.mark.parametrize("share", [0.3, 1.0])
def test_the_formula(backend: str, share: float, concave: Concave) -> None:
    layout = CodeLayout.of((40, 25))
    bits, _ = pool(60, layout, 7)
    relevance = np.random.default_rng(8).standard_normal(60)
    weights = np.random.default_rng(9).random(65)
    mine = coverage(layout.pack(bits), np.arange(60), relevance, 30, share, layout, weights, concave)
    places, gains = by_formula(bits, relevance, 30, share, weights, concave)
    assert mine.rows.tolist() == places
    np.testing.assert_allclose(mine.gains, gains, rtol=1e-7)
    assert mine.curve[0] <= 1 and (np.diff(mine.curve) >= 0).all()


def test_equal_rows_go_by_rank(backend: str) -> None:
    layout = CodeLayout.of((20,))
    codes = layout.pack(np.ones((6, 20), dtype=bool))
    mine = coverage(codes, np.array([4, 2, 0, 5, 1, 3]), np.ones(6), 6, 0.5, layout)
    assert mine.rows.tolist() == [4, 2, 0, 5, 1, 3]


def test_codes_without_a_bit_go_by_relevance(backend: str) -> None:
    layout = CodeLayout.of((20,))
    mine = coverage(np.zeros((4, 16), np.uint8), np.arange(4), np.array([1.0, 3, 2, 3]), 9, 0.9, layout)
    assert mine.rows.tolist() == [1, 3, 2, 0]
    assert mine.curve.tolist() == [0] * 4


def test_padding_does_not_count(backend: str) -> None:
    layout = CodeLayout.of((5, 5))
    bits, relevance = pool(30, layout, 4)
    codes = layout.pack(bits)
    dirty = codes | layout.pack(np.ones((1, 10), dtype=bool)) ^ 0xFF  # all bits of no neuron set
    clean, mine = (coverage(c, np.arange(30), relevance, 30, 0.8, layout) for c in (codes, dirty))
    assert (dirty != codes).any()
    assert mine.rows.tolist() == clean.rows.tolist() and mine.gains.tolist() == clean.gains.tolist()


def test_no_candidate_and_no_budget(backend: str) -> None:
    layout = CodeLayout.of((5,))
    assert not len(coverage(np.zeros((0, 16), np.uint8), np.zeros(0), np.zeros(0), 3, 0.5, layout).rows)
    assert not len(coverage(np.zeros((2, 16), np.uint8), np.arange(2), np.zeros(2), 0, 0.5, layout).rows)


def test_arguments_that_do_not_fit() -> None:
    layout, codes = CodeLayout.of((5,)), np.zeros((2, 16), np.uint8)
    with pytest.raises(BadInput, match=r"coverage 1\.5"):
        coverage(codes, np.arange(2), np.zeros(2), 1, 1.5, layout)
    with pytest.raises(ValueError, match="relevance"):
        coverage(codes, np.arange(2), np.array([0, np.nan]), 1, 0.5, layout)
    with pytest.raises(ValueError, match="weights"):
        coverage(codes, np.arange(2), np.zeros(2), 1, 0.5, layout, -np.ones(5))
    with pytest.raises(ValueError, match="candidates"):
        coverage(codes, np.array([2]), np.zeros(1), 1, 0.5, layout)
    with pytest.raises(ValueError, match="bytes"):
        coverage(codes, np.arange(2), np.zeros(2), 1, 0.5, CodeLayout.of((500,)))
