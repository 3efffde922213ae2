"""Intervals on numbers worked by hand, and their coverage."""

import math

import numpy as np
import pytest

from nait_fast.validation.intervals import (
    Interval,
    Runs,
    correct_of,
    difference,
    end_nll,
    level_of,
    runs_of,
    t_quantile,
    verdict,
)


def test_t_quantiles():
    known = {1: 12.7062, 2: 4.3027, 4: 2.7764, 10: 2.2281, 63: 1.9983}
    for df, value in known.items():
        assert t_quantile(df) == pytest.approx(value, rel=2e-4)
    assert t_quantile(2, 0.9) == pytest.approx(2.9200, rel=2e-4)


def test_intervals_on_numbers_worked_by_hand():
    # Two seeds, two samples of 1 and 3 tokens. Seeds: (1 + 5) / 4 = 1.5 and (3 + 7) / 4 = 2.5: mean 2, variance .5,
    # of the mean .25. Samples: means 2 and 6, off the ratio by 2 - 2·1 = 0 and 6 - 2·3 = 0: no noise.
    runs = Runs(np.array([[1.0, 5.0], [3.0, 7.0]]), np.array([1.0, 3.0]))
    at = level_of(runs)
    assert at.mean == 2.0 and at.half == pytest.approx(12.7062 * 0.5, rel=1e-3)
    # By samples: seeds (1 + 5/3) / 2 = 1.3333 and (3 + 7/3) / 2 = 2.6667.
    assert runs.macro().by_seed.tolist() == pytest.approx([4 / 3, 8 / 3])
    # Against an untrained model of NLL (1, 1): differences 1 and 5 over 4 tokens, mean 1.5; off by 1 - 1.5 = -.5 and
    # 5 - 4.5 = .5, over the mean 2 tokens ∓.25: variance 2 · .0625 / (2 · 1) = .0625 with 1 degree of freedom; with
    # training's .25: total .3125, degrees .3125² / (.0625² + .25²) = 1.4706.
    base = Runs(np.array([[1.0, 1.0]]), runs.tokens, trained=False)
    interval = difference(runs, base)
    assert interval.mean == 1.5
    assert interval.half == pytest.approx(t_quantile(0.3125**2 / (0.0625**2 + 0.25**2)) * math.sqrt(0.3125))


def test_what_both_arms_share_drops_out_of_their_difference():
    rng = np.random.default_rng(0)
    hard = rng.gamma(2, 20, 64)  # samples differ a lot, arms hardly
    a, b = (Runs(hard + shift + rng.normal(0, 0.1, (5, 64)), np.full(64, 20.0)) for shift in (0.0, 0.4))
    assert not (level_of(a).half < 0.1) and difference(a, b).half < 0.01
    assert verdict(difference(a, b)) == "better" and verdict(difference(b, a)) == "worse"
    assert verdict(difference(a, a)) == ""
    alone = Runs(a.nll[:1], a.tokens)
    assert math.isinf(difference(alone, b).half) and verdict(difference(alone, b)) == ""
    with pytest.raises(ValueError, match="other samples"):
        difference(a, Runs(b.nll, b.tokens + 1))


def test_intervals_cover_the_truth():
    rng, levels, covered = np.random.default_rng(0), (0.8, 0.95, 0.9875), np.zeros(3)
    for _ in range(600):
        tokens = rng.integers(5, 80, 48).astype(float)
        effect = rng.normal(0, 0.05, 48) * tokens  # of a sample, shared by the seeds
        arms = [effect * i + rng.normal(0, 0.02, (3, 1)) * tokens + tokens for i in (0, 1)]
        runs = [Runs(nll, tokens) for nll in arms]
        covered += np.array([not difference(*runs, level).excludes_zero for level in levels])
    assert all(abs(share - level) < 0.03 for share, level in zip(covered / 600, levels, strict=True)), covered / 600


def test_a_level_sets_the_width():
    rng = np.random.default_rng(0)
    a, b = (Runs(rng.normal(20, 1, (3, 16)), np.full(16, 10.0)) for _ in range(2))
    widths = [difference(a, b, level).half for level in (0.5, 0.95, 0.9875)]
    assert widths == sorted(widths) and difference(a, b) == difference(a, b, 0.95)
    assert level_of(a, 0.9875).half > level_of(a).half


def test_too_few_to_tell_have_no_bounds():
    one_sample = Runs(np.array([[1.0], [2.0], [3.0]]), np.array([2.0]))
    assert math.isinf(level_of(one_sample).half) and math.isinf(difference(one_sample, one_sample).half)
    assert str(Interval(0.5, math.inf)) == "+0.500 ± ?" and str(Interval(-0.0174, 0.0081)) == "-0.017 ± 0.008"
    assert level_of(Runs(np.full((2, 3), 4.0), np.full(3, 2.0))) == Interval(2.0, 0.0)


def test_runs_are_read_from_rows():
    def row(arm, nll, end):
        return {"arm": arm, "evaluated": {"sums": {"nll": nll, "tokens": [2, 4], "end": end}}}

    rows = [row("random", [1.0, 2.0], [0.5, None]), row("random", [3.0, 4.0], [1.5, None])]
    runs = runs_of(rows, "sums")
    assert runs.nll.tolist() == [[1, 2], [3, 4]] and runs.tokens.tolist() == [2, 4] and runs.trained
    assert not runs_of([row("base", [1.0, 2.0], [None, None])], "sums").trained
    assert end_nll(rows, "sums") == 1.0 and end_nll([row("base", [1.0, 2.0], [None, None])], "sums") is None


def test_right_answers_of_both_arms_are_paired():
    def rows(arm: str, *correct: list[float]) -> list[dict]:
        return [{"arm": arm, "evaluated": {"sums": {"correct": one}}} for one in correct]

    same = [1.0, 0.0, 1.0, 0.0, 1.0, 1.0]
    a, b = correct_of(rows("top", same, same), "sums"), correct_of(rows("random", same, same), "sums")
    assert level_of(a).mean == pytest.approx(4 / 6) and level_of(a).half > 0.3
    assert difference(a, b) == Interval(0.0, 0.0)  # hard samples are hard for both
    more = correct_of(rows("top", [1.0] * 6, [1.0] * 5 + [0.0]), "sums")
    assert difference(more, b).mean == pytest.approx(11 / 12 - 4 / 6)
    assert correct_of([*rows("top", same), {"arm": "top", "evaluated": {"sums": {}}}], "sums") is None
