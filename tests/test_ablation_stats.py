"""The tables of the recorded ablation name every arm and claim only what is told apart."""

import numpy as np

from benchmarks import ablation_stats


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
