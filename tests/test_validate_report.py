"""What the rows of the validation table are made to say, on losses that can be worked out by hand.

Both held-out samples move alike, so the samples bring no noise; of 3 seeds with losses m - d, m, m + d the mean's
variance is d² / 3, and against draws that are all alike the interval is t(2) · d / √3: 2.484 d at 95%.
"""

import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import methods
from benchmarks.validate_plan import ANY, IN_POOL, LOOKS, MOST, REMOVED, SEEDS, Run
from benchmarks.validate_report import Found, report, undecided
from nait_fast.validation.intervals import t_quantile
from tests.conftest import write_jsonl

TARGETS = ["sums", "texts"]
MODEL = {
    "model": "m",
    "of": "new",
    "pool_rows": 3040,
    "held_out": 2,
    "targets": TARGETS,
    "recipe": {"tokens": 640, "steps": 4, "rank": 8, "alpha": 16, "layers": 6, "lr": 1e-3, "product": "torch"},
    "environment": {"gpus": [], "cpu": "Some CPU", "cores": 2, "python": "3.11", "torch": "2.0", "commit": "abc"},
    "processor": "Some CPU, 2 cores",
    "command": "python -m benchmarks.validate_table",
}


def row(arm: str, seed: int, loss: float, target: str = "sums", **other: Any) -> dict[str, Any]:
    sets = [*TARGETS, "general"] if target == ANY else [target, "general"]
    of_sets = {where: loss if where != "general" else 2 * loss for where in sets}
    evaluated = {
        where: {"nll": [10 * x, 30 * x], "tokens": [10, 30], "end": [1.0, None]} for where, x in of_sets.items()
    }
    about = {"setting": IN_POOL, "target": target, "arm": arm, "seed": seed, "selector": "", "cpu_seconds": 60.0}
    return {**MODEL, **about, "evaluated": evaluated, **other}


def spread(arm: str, mean: float, d: float, target: str = "sums", seeds: int = 3, **other: Any) -> list[dict[str, Any]]:
    """``seeds`` runs: mean - d, mean, mean + d, mean, ..."""
    return [row(arm, seed, mean + d * [-1, 0, 1, 0][seed % 4], target, **other) for seed in range(seeds)]


def draws(loss: float = 1.0, **other: Any) -> list[dict[str, Any]]:
    return [row("random", seed, loss, ANY, **other) for seed in range(5)]


def cells(text: str, first: str, title: str = "") -> list[str]:
    """The cells of the line that begins with ``first``, in the part that begins with ``title``."""
    lines = text[text.index(title) :].splitlines()
    return next([c.strip() for c in line.split("|")[1:-1]] for line in lines if line.startswith(f"| {first} |"))


def test_an_arm_is_told_from_random_where_its_interval_says_so():
    rows = draws() + spread("contrast top", 0.8, 0.05) + spread("embed top", 0.8, 0.1) + spread("nag top", 1.3, 0.05)
    text = report(rows)
    title = "**m, the target's source in the pool**"
    assert cells(text, "way", title) == ["way", "sums", "texts"]
    # Half widths: 4.3027 · .05 / √3 = .1242, and twice that: more than the .2 that lie between.
    assert cells(text, "contrast", title) == ["contrast", "**-0.200 ± 0.124**", ""]
    assert cells(text, "embed", title) == ["embed", "-0.200 ± 0.248", ""]
    assert cells(text, "nag", title) == ["nag", "**+0.300 ± 0.124**", ""]
    assert cells(text, "random", title) == ["random", "1.000 ± 0.000 (5)", "1.000 ± 0.000 (5)"]
    # 3 comparisons: .15 by chance.
    assert (
        "Of 3 comparisons of a way to select with random 0.2 would be told apart by chance alone; 2 are, 1 better"
        in text
    )
    assert "3,040 pool rows; a run is 640 response tokens in 4 steps, LoRA rank 8" in text
    for absent in ("The check", "claim", "Transfer", "Tenths", "removed", "nait drift", "98.75%"):
        assert absent not in text
    assert text.count("**Pairs**") == text.count("**Costs**") == 1


def test_the_price_elsewhere_is_a_mean_of_all_targets_or_is_left_out():
    both = spread("contrast top", 0.8, 0.05) + spread("contrast top", 0.9, 0.05, "texts")
    text = report(draws() + both + spread("embed top", 0.8, 0.1))
    title = "**m, the target's source in the pool**"
    assert cells(text, "way", title) == ["way", "sums", "texts", "on general"]
    assert (
        cells(text, "contrast", title)[-1] == "-0.300" and cells(text, "embed", title)[-1] == ""
    )  # twice the target's


def test_every_way_is_held_against_every_other():
    rows = draws() + spread("contrast top", 0.8, 0.01) + spread("embed top", 0.9, 0.01) + spread("nag top", 0.9, 0.01)
    text = report(rows)
    title = "**Each against each**"
    assert "Of 3 comparisons 0 would be by chance." in text
    assert cells(text, "way", title) == ["way", "contrast", "embed", "nag"]
    assert cells(text, "contrast", title) == ["contrast", "", "1 / 0", "1 / 0"]
    assert cells(text, "embed", title) == ["embed", "0 / 1", "", "0 / 0"]
    assert "of 2 comparisons 0.1 would be by chance" in text


def test_controls_and_checks_stand_beside_the_ways():
    rows = [
        row("base", 0, 1.5, ANY),
        *draws(),
        *spread("own_source", 0.5, 0.01),
        *spread("own_source", 1.0, 0.1, "texts"),
    ]
    rows += [r for arm in ("longest", "nll", "ifd") for r in spread(arm, 1.1, 0.0, ANY)]
    rows += [*spread("random_length", 0.9, 0.01), row("contrast response top", 0, 0.7)]
    rows += [row("random", seed, 2.0, setting=REMOVED) for seed in range(5)]
    rows += spread("contrast top", 1.5, 0.01, setting=REMOVED)
    text = report(rows)
    assert cells(text, "m", "**The check**") == ["m", "-0.500 ± 0.025: yes", "+0.000 ± 0.248: no"]
    title = "**m, the target's source in the pool**"
    assert cells(text, "base", title)[1:3] == ["**+0.500 ± 0.000**"] * 2
    assert cells(text, "own_source", title) == ["own_source", "**-0.500 ± 0.025**", "+0.000 ± 0.248", "-0.500"]
    assert cells(text, "ifd", title)[1:3] == ["**+0.100 ± 0.000**"] * 2
    assert cells(text, "contrast response", title)[1] == "-0.300 ± ? (1)"
    table = text[text.index(title) :].split("\n\n")[1]
    ways = [line.split("|")[1].strip() for line in table.splitlines()[2:]]
    assert ways == ["base", "own_source", "random", "contrast response", "random_length", "longest", "nll", "ifd"]
    # Without the source: against that setting's own random rows; base and own_source are the runs that there are.
    title = "**m, the target's source removed**"
    assert cells(text, "base", title) == ["base", "**-0.500 ± 0.000**", "-1.000"]
    assert cells(text, "own_source", title)[1] == "**-1.500 ± 0.025**"
    assert cells(text, "contrast", title)[1] == "**-0.500 ± 0.025**"
    assert "the same runs as with the source in the pool" in text
    # Compared with random: longest, nll, ifd (2 targets each), random_length, contrast; one seed can't tell.
    assert "Of 8 comparisons" in text and "8 are, 2 better and 6 worse" in text


@pytest.mark.parametrize(
    ("first", "last", "d", "holds"),
    [
        (0.8, 1.2, 0.05, "yes"),
        (0.8, 1.2, 0.1, "not told apart"),
        (0.8, 1.0, 0.05, "not told apart"),
        (1.2, 1.2, 0.05, "no"),
        (0.8, 0.8, 0.05, "no"),
        (1.2, 0.8, 0.1, "not told apart"),
    ],
)
def test_the_claim_holds_where_both_its_halves_are_told_apart(first, last, d, holds):
    rows = draws() + spread("nait drift tenth 1", first, d) + spread("nait drift tenth 10", last, d)
    line = cells(report(rows), "m | sums", "**The paper's claim**")
    assert line[-1] == holds and line[2].strip("*").startswith(f"{first - 1:+.3f} ± {2.484 * d:.3f}")
    assert line[4].strip("*").startswith(f"{first - last:+.3f}") and "**Tenths**" not in report(rows)


def test_one_seed_says_nothing_of_the_claim_or_of_a_pair():
    tenths = [row("nait drift tenth 1", 0, 0.8), row("nait drift tenth 10", 0, 1.2)]
    text = report(draws() + tenths + spread("contrast top", 0.8, 0.01) + [row("embed top", 0, 0.9)])
    assert cells(text, "m | sums", "**The paper's claim**")[-1] == "too few seeds"
    assert "**Pairs**" in report(draws() + spread("contrast top", 0.8, 0.01) + spread("embed top", 0.9, 0.01))
    one = [row("contrast top", 0, 0.8), row("embed top", 0, 0.9)]
    assert "**Pairs**" not in report(draws() + one)


def test_pairs_count_who_is_told_from_whom():
    rows = draws() + spread("contrast top", 0.8, 0.01) + spread("contrast top", 0.8, 0.01, "texts")
    rows += spread("embed top", 0.9, 0.01) + spread("embed top", 0.7, 0.01, "texts")
    rows += spread("rds top", 0.8, 0.1)
    rows += [row("random", seed, 1.0, setting=REMOVED) for seed in range(5)]
    rows += spread("contrast top", 0.8, 0.01, setting=REMOVED) + spread("embed top", 0.9, 0.01, setting=REMOVED)
    text = report(rows)
    assert cells(text, "embed", "**Pairs**") == ["embed", "better sums; worse texts", "better sums", "2 / 1 / 3"]
    assert cells(text, "rds", "**Pairs**") == ["rds", "not told apart", "", "0 / 0 / 1"]


def test_the_record_of_each_way_against_random():
    rows = draws() + spread("contrast top", 0.8, 0.01) + spread("contrast top", 1.1, 0.01, "texts")
    rows += [*spread("rds top", 0.9, 0.1), row("embed top", 0, 0.5)]
    rows += [row("random", seed, 1.0, setting=REMOVED) for seed in range(5)]
    rows += spread("contrast top", 0.5, 0.01, setting=REMOVED)
    text = report(rows)
    assert cells(text, "contrast", "**Against random rows**") == ["contrast", "2 / 1 / 3", "-0.200"]
    assert cells(text, "rds", "**Against random rows**") == ["rds", "0 / 0 / 1", "-0.100"]
    of_embed = text[text.index("**Against random rows**") : text.index("**Pairs**")]
    assert "embed" not in of_embed  # one seed says nothing


def test_another_models_order_is_held_against_the_own_one_and_random():
    rows = draws() + spread("contrast top", 0.8, 0.01) + spread("contrast top", 0.9, 0.01, selector="n")
    text = report(rows)
    own = cells(text, "m | in pool | contrast by n | own contrast", "**Transfer**")
    # Both arms have noise: √(2 · .01² / 3) = .00816 with 4 degrees of freedom: 2.7764 times that.
    assert own[4:] == [f"**+0.100 ± {2.7764 * 0.01 * (2 / 3) ** 0.5:.3f}**", ""]
    assert cells(text, "m | in pool | contrast by n | random", "**Transfer**")[4] == "**-0.100 ± 0.025**"
    assert "Of 2 comparisons" in text
    assert cells(text, "contrast", "**m, the target's source in the pool**")[1] == "**-0.200 ± 0.025**"  # its own


def test_curves_of_the_tenths():
    rows = draws() + [r for k in range(1, 11) for r in spread(f"contrast tenth {k}", 0.9 + 0.02 * k, 0.01)]
    line = cells(report(rows), "m | contrast | sums", "**Tenths**")
    assert line[3:] == [f"{0.02 * k - 0.1:+.3f}" for k in range(1, 11)] + ["0.025"]


def test_only_the_newest_setting_of_a_model_counts_and_a_runs_last_row():
    old = [dict(r, of="old") for r in draws(9.0) + spread("contrast top", 0.1, 0.01)]
    rows = old + draws() + spread("contrast top", 0.9, 0.01) + spread("contrast top", 0.8, 0.01)
    other = [dict(r, model="n", of="other", cpu_seconds=120.0) for r in [row("base", 0, 1.0, ANY), *draws(2.0)]]
    text = report(rows + other)
    assert cells(text, "contrast", "**m, ")[1] == "**-0.200 ± 0.025**"
    assert "m, n: 3,040 pool rows" in text and cells(text, "random", "**n, ")[1] == "2.000 ± 0.000 (5)"
    # 11 runs of a minute; 6 of two.
    assert cells(text, "m", "**Costs**") == ["m", "11", "1.0", "0.2"]
    assert cells(text, "n", "**Costs**") == ["n", "6", "2.0", "0.2"] and "0.4 CPU-hours in all" in text
    assert text.rstrip().endswith(
        "Some CPU, 2 cores; Python 3.11, torch 2.0; commit abc; `python -m benchmarks.validate_table`"
    )
    assert report([]) == ""


def test_the_next_seeds_are_those_of_tops_that_are_not_told_apart():
    wide, narrow = 0.1, 0.01
    rows = draws() + spread("contrast top", 0.8, wide, seeds=4) + spread("embed top", 0.8, narrow)
    rows += spread("nag top", 0.8, wide) + spread("rds top", 0.8, wide, seeds=2)  # two: too few to look at
    rows += spread("crds top", 0.8, wide, seeds=MOST) + spread("contrast top", 0.8, wide, "texts", selector="n")
    rows += spread("longest", 1.0, wide, ANY) + spread("nait drift tenth 1", 1.0, wide)
    rows += spread("contrast top", 0.8, wide, setting=REMOVED)  # no random rows there yet
    rows += [dict(r, of="old") for r in spread("nait drift top", 0.8, wide)]
    expected = [
        (IN_POOL, "sums", "nag top", 3, ""),
        (IN_POOL, "texts", "contrast top", 3, "n"),
        (IN_POOL, "sums", "contrast top", 4, ""),
    ]
    assert undecided(rows, "new") == expected
    assert [Run(*key) for key in expected][1] == Run(IN_POOL, "texts", "contrast top", 3, "n")
    rows += [row("random", seed, 1.0, setting=REMOVED) for seed in range(5)]
    assert undecided(rows, "new")[2] == (REMOVED, "sums", "contrast top", 3, "")
    rows = [r for r in rows if (r["arm"], r["seed"]) != ("nag top", 1)] + [row("nag top", 3, 0.8)]
    assert (IN_POOL, "sums", "nag top", 1, "") in undecided(rows, "new")  # a seed that is missing comes first
    assert undecided(rows, "unknown") == []


def test_what_is_looked_at_again_and_again_is_held_to_more():
    """-.2 ± .124 at 95% is told apart in one look, and not at the level of each of several looks (t(2) = 8.9)."""
    rows = draws() + spread("contrast top", 0.8, 0.05)
    assert 0.124 < 0.2 < t_quantile(2, 1 - 0.05 / LOOKS) * 0.05 / 3**0.5
    assert undecided(rows, "new") == [(IN_POOL, "sums", "contrast top", SEEDS, "")]
    assert "**-0.200 ± 0.124**" in report(rows) and Found(rows).level == 0.95
    rows += spread("embed top", 1.0, 0.1, seeds=4)  # seeds have been added
    text = report(rows)
    assert Found(rows).level == 1 - 0.05 / LOOKS == 0.9875
    assert cells(text, "contrast", "**m, ")[1] == "-0.200 ± 0.124" and "98.75% interval" in text


def test_the_page_shows_the_table_before_the_older_ablation(tmp_path, monkeypatch):
    folder = tmp_path / "cpu"
    folder.mkdir()
    shutil.copy(Path(methods.RESULTS) / "cpu-amd-epyc-2c" / "ablation.jsonl", folder)
    monkeypatch.setattr(methods, "RESULTS", tmp_path)
    before = methods.section()
    assert before in methods.PAGE.read_text() and "contrast top" in before
    rows = draws() + spread("contrast top", 0.8, 0.05)
    write_jsonl(folder / "validate_table.jsonl", rows)
    assert methods.section() == report(rows) + "\n\n" + before
