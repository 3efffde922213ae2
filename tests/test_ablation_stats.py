"""What the ablation's rows are made to say: intervals on numbers worked by hand, their coverage, and the report."""

import math

import numpy as np
import pytest

from benchmarks import ablation_stats
from benchmarks.ablation_stats import Runs, difference, level_of, t_quantile


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
    assert ablation_stats.verdict(difference(a, b)) == "better" and ablation_stats.verdict(difference(b, a)) == "worse"
    assert ablation_stats.verdict(difference(a, a)) == ""
    alone = Runs(a.nll[:1], a.tokens)
    assert math.isinf(difference(alone, b).half) and ablation_stats.verdict(difference(alone, b)) == ""
    with pytest.raises(ValueError, match="other samples"):
        difference(a, Runs(b.nll, b.tokens + 1))


def test_intervals_cover_the_truth():
    rng, covered = np.random.default_rng(0), 0
    for _ in range(300):
        tokens = rng.integers(5, 80, 48).astype(float)
        effect = rng.normal(0, 0.05, 48) * tokens  # of a sample, shared by the seeds
        arms = [effect * i + rng.normal(0, 0.02, (3, 1)) * tokens + tokens for i in (0, 1)]
        covered += not difference(*(Runs(nll, tokens) for nll in arms)).excludes_zero
    assert covered >= 0.92 * 300


def test_the_report_names_every_arm_and_claims_only_what_is_told():
    rng = np.random.default_rng(0)

    def row(target, arm, seed, shift):
        sets = {
            w: {"nll": (20 + shift + rng.normal(0, 0.1, 16)).tolist(), "tokens": [10] * 16, "end": [1.0] * 16}
            for w in ("general", "sums")
        }
        return {
            "target": target,
            "arm": arm,
            "seed": seed,
            "setting": "s",
            "evaluated": sets,
            "rows": 9,
            "all_tokens": 90,
            "mean_response": 10.0 + shift,
            "own_source": {"sums": 0.5},
            "model": "m",
            "pool_rows": 60,
            "removed": [],
            "held_out": 16,
            "targets": ["sums"],
            "recipe": {"tokens": 9, "steps": 3, "rank": 2, "layers": 2, "lr": 1e-3},
        }

    rows = [row("any", "base", 0, 3)] + [row("any", "random", s, 0) for s in range(5)]
    rows += [row("sums", "nag top", s, -2) for s in range(3)] + [row("sums", "embed top", s, 0) for s in range(3)]
    rows += [row("sums", "nag bottom", s, 2) for s in range(3)]
    lines = {line.split("|")[1].strip(): line for line in ablation_stats.report(rows).splitlines() if "|" in line}
    assert "better" in lines["nag top"] and "worse" in lines["nag bottom"] and "worse" in lines["base"]
    assert "better" not in lines["embed top"] and "worse" not in lines["embed top"]
    assert "nag top − nag bottom: -0.4" in ablation_stats.report(rows)
    assert list(lines)[2:] == ["base", "random", "nag top", "embed top", "nag bottom"]
    rows += [row("sums", "contrast top", s, 0) for s in range(3)]
    text = ablation_stats.report(rows)
    assert "contrast top − nag top: +0.2" in text and ": nag top is better" in text
    assert "contrast top − embed top: " in text and text.count("not told apart") == 1
