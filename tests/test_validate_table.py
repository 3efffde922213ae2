"""The validation table: which rows each arm trains on, which ways are trained on, the plan, and reruns."""

import json
from argparse import Namespace
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from benchmarks import validate_table
from benchmarks.validate_plan import (
    ANY,
    DRAWS,
    FIRST,
    IN_POOL,
    MORE,
    REMOVED,
    SEEDS,
    SETTINGS,
    STAGES,
    Material,
    Run,
    distinct_ways,
    plan,
    rows_of,
)
from benchmarks.validate_table import Orders, gather, seeds, work_through
from nait_fast.errors import NaitError
from nait_fast.models.load import load_model
from nait_fast.validation.learner import Learner, Recipe
from nait_fast.validation.runs import claimed, digest, read_runs
from nait_fast.validation.training_samples import TrainingSample
from tests.conftest import make_rows, write_jsonl

TOKENS = 120
N = 60


def sample(response: int) -> TrainingSample:
    return TrainingSample(np.arange(response + 3, dtype=np.int32), np.arange(3, response + 3), True)


def orders_of(seed: int, alike: dict[str, str]):
    """Random orders, those of ``alike`` the same as another way's; with rows that cannot be trained on among them."""

    def order(setting: str, target: str, way: str) -> np.ndarray:
        way = alike.get(way, way)
        number = int(digest([seed, setting, target, way]), 16) % 2**32
        return np.random.default_rng(number).permutation(N)

    return order


def made(alike: dict[str, str] | None = None) -> Material:
    """60 rows, of sums and texts in turn; rows 0 and 1 have no response."""
    generator = np.random.default_rng(0)
    response = np.concatenate([[0, 0], generator.integers(5, 30, N - 2), np.full(10, 8)])
    samples = [sample(max(1, int(n))) for n in response]
    sources = np.array(["sums", "texts"] * (N // 2))
    held_out = {"general": [60, 61], "sums": [62, 63, 64], "texts": [65, 66, 67]}
    orders = {"own": orders_of(0, alike or {}), "other": orders_of(1, {})}
    return Material(samples, sources, np.arange(N), held_out, response, orders, "own")


def test_the_rows_of_every_arm():
    material = made()
    usable = set(range(2, N))
    for arm in ("random", "own_source", "longest", "random_length", "nll", "ifd", *(f"{way} top" for way in FIRST)):
        for seed in range(3):
            run = Run(IN_POOL, "sums", arm, seed)
            rows = rows_of(material, run, TOKENS)
            tokens = material.response[rows]
            assert set(rows.tolist()) <= usable and len(set(rows.tolist())) == len(rows)
            if arm != "random_length":  # which has as many rows as what it is like
                assert tokens.sum() >= TOKENS > tokens[:-1].sum()
            again = rows_of(material, run, TOKENS)
            assert np.array_equal(again, rows)
    own = rows_of(material, Run(IN_POOL, "sums", "own_source", 0), TOKENS)
    assert set(material.sources[own]) == {"sums"}
    longest = rows_of(material, Run(IN_POOL, ANY, "longest", 0), TOKENS)
    rest = sorted(usable - set(longest.tolist()))
    assert material.response[longest].min() >= material.response[rest].max()


def test_tops_and_bottoms_are_the_ends_of_the_order_and_know_no_seed():
    material = made()
    run = Run(IN_POOL, "sums", "contrast top", 0)
    ranked = [row for row in material.orders["own"](IN_POOL, "sums", "contrast").tolist() if row > 1]
    top, bottom = (rows_of(material, replace(run, arm=f"contrast {end}"), TOKENS).tolist() for end in ("top", "bottom"))
    assert top == ranked[: len(top)] and bottom == ranked[::-1][: len(bottom)]
    assert rows_of(material, replace(run, seed=1), TOKENS).tolist() == top
    theirs = rows_of(material, replace(run, selector="other"), TOKENS).tolist()
    ranked = [row for row in material.orders["other"](IN_POOL, "sums", "contrast").tolist() if row > 1]
    assert theirs == ranked[: len(theirs)] != top
    # A detail of more than one word, and no word at all.
    detail = rows_of(material, replace(run, arm="contrast roundrobin top"), TOKENS).tolist()
    assert detail == [r for r in material.orders["own"](IN_POOL, "sums", "contrast roundrobin") if r > 1][: len(detail)]
    drift = rows_of(material, replace(run, arm="nait drift top"), TOKENS).tolist()
    assert drift == [r for r in material.orders["own"](IN_POOL, "sums", "nait drift") if r > 1][: len(drift)]


def test_random_arms_and_tenths_are_drawn_anew_for_each_seed():
    material = made()
    for arm in ("random", "own_source", "random_length"):
        draws = [rows_of(material, Run(IN_POOL, "sums", arm, seed), TOKENS).tolist() for seed in (0, 1)]
        assert draws[0] != draws[1]
    ranked = [row for row in material.orders["own"](IN_POOL, "sums", "nait drift").tolist() if row > 1]
    tenths = np.array_split(ranked, 10)
    for k in (1, 5, 10):
        drawn = [
            rows_of(material, Run(IN_POOL, "sums", f"nait drift tenth {k}", seed), 20).tolist() for seed in range(40)
        ]
        assert all(set(rows) <= set(tenths[k - 1].tolist()) for rows in drawn)
        assert len(set(map(tuple, drawn))) > 1
        assert set().union(*drawn) == set(tenths[k - 1].tolist())  # from all of it
        # Fewer tokens than asked for: all there is.
        everything = rows_of(material, Run(IN_POOL, "sums", f"nait drift tenth {k}", 0), 10_000)
        assert set(everything.tolist()) == set(tenths[k - 1].tolist())


def test_rows_of_the_same_lengths_are_like_contrasts_top():
    material = made()
    like = rows_of(material, Run(IN_POOL, "sums", "contrast top", 0), TOKENS)
    rows = rows_of(material, Run(IN_POOL, "sums", "random_length", 0), TOKENS)
    assert len(rows) == len(like)
    assert abs(material.response[rows].sum() - material.response[like].sum()) < 0.3 * TOKENS


@pytest.mark.parametrize("target", ["sums", "texts"])
def test_a_removed_source_is_in_no_arm_but_its_own(target):
    material = made()
    arms = [f"{way} {end}" for way in (*FIRST, *MORE) for end in ("top", "bottom", "tenth 3")]
    for arm in ("random", "random_length", "longest", "nll", *arms):
        rows = rows_of(material, Run(REMOVED, target, arm, 0), TOKENS)
        assert len(rows) and target not in material.sources[rows], arm
    own = rows_of(material, Run(REMOVED, target, "own_source", 0), TOKENS)
    assert set(material.sources[own]) == {target}


def test_ways_that_choose_what_another_does_are_left_out():
    alike = {"embed": "contrast", "contrast response": "contrast", "rds response": "rds centroid"}
    material = made(alike)
    ways = distinct_ways(material, IN_POOL, "sums", TOKENS)
    assert list(ways) == [*FIRST, *MORE]
    # What is always trained on is, whatever it is like; a way is like the first of those before it.
    assert {way: same for way, same in ways.items() if same} == {
        "contrast response": "contrast",
        "rds response": "rds centroid",
    }
    assert "nag roundrobin" not in distinct_ways(material, REMOVED, "sums", TOKENS)


def test_the_plan_begins_with_the_check_and_names_each_run_once():
    material = made({"contrast response": "contrast"})
    stages = plan(material, ["sums", "texts"], TOKENS, ["other"])
    assert ["seeds", *stages] == ["seeds", *(stage for stage in STAGES if stage != "seeds")]
    runs = {stage: make() for stage, make in stages.items()}
    for stage, some in runs.items():
        assert len(set(some)) == len(some) > 0, stage
    twice = [run for run, n in Counter(run for some in runs.values() for run in some).items() if n > 1]
    assert {run.arm for run in twice} == {"nait drift tenth 1", "nait drift tenth 10"}  # the claim's are tenths, too
    assert runs["check"][0] == Run(IN_POOL, ANY, "base", 0)
    assert Counter(run.arm for run in runs["check"]) == {"base": 1, "random": DRAWS, "own_source": SEEDS * 2}
    first = runs["tops"][: 2 * len(FIRST)]
    assert [run.seed for run in first] == [0] * len(first)  # seed by seed, over all targets
    assert [run.target for run in first] == ["sums"] * len(FIRST) + ["texts"] * len(FIRST)
    assert len(runs["tops"]) == SEEDS * 2 * len(FIRST)
    removed = Counter((run.target, run.arm) for run in runs["removed"])
    assert {run.setting for run in runs["removed"]} == {REMOVED} and removed["sums", "random"] == DRAWS
    assert removed["texts", "contrast top"] == SEEDS
    assert {run.selector for run in runs["transfer"]} == {"other"}
    assert {run.setting for run in runs["transfer"]} == set(SETTINGS)
    assert all(not run.selector for stage, some in runs.items() if stage != "transfer" for run in some)
    ways = {(run.setting, run.target, run.arm.removesuffix(" top")) for run in runs["ways"]}
    assert not any(way in FIRST or way == "contrast response" for _, _, way in ways)
    assert (REMOVED, "sums", "nag roundrobin") not in ways and (IN_POOL, "sums", "nag roundrobin") in ways
    assert len(runs["tenths"]) == 2 * 10 * 2 * SEEDS
    for some in runs.values():  # every run has rows to train on
        assert all(run.arm == "base" or len(rows_of(material, run, TOKENS)) for run in some)
    assert not any(run.selector for run in plan(material, ["sums"], TOKENS, [])["transfer"]())


RECIPE = Recipe(tokens=TOKENS, steps=2, rank=2, alpha=4, layers=1, lr=1e-2, product="torch", pack_tokens=200)


@pytest.fixture(scope="module")
def gathered(tiny_model, tmp_path_factory):
    """(model, material, what of it decides results, arguments) of a pool of 40 rows."""
    pytest.importorskip("peft")
    work = tmp_path_factory.mktemp("table")
    everything = make_rows(100)
    everything[3]["instruction"] = "counts " * 80  # fills the maximum length: no response is left
    write_jsonl(work / "pool.jsonl", everything[:40])
    dataset = write_jsonl(work / "dataset.jsonl", everything)
    targets = []
    for name in ("sums", "texts"):
        rows = [row for row in make_rows(290, seed=7) if row["source"] == name]
        targets.append(f"{name}={write_jsonl(work / f'{name}.jsonl', rows)}")
    arguments = Namespace(
        max_length=60, work=work, dataset=dataset, target=targets, selector=[], seed=0, held_out=6, model=tiny_model
    )
    loaded = load_model(tiny_model, dtype="float32", device="cpu", head=True)
    material, setting = gather(arguments, loaded)
    return loaded, material, setting, arguments


def test_what_is_held_out_is_trained_on_by_no_arm(gathered):
    loaded, material, setting, arguments = gathered
    assert setting["pool_rows"] == 40 and setting["left_out"] == 1 and setting["targets"] == ["sums", "texts"]
    assert 3 not in material.pool and len(material.pool) == 39 and material.response[3] == 0
    assert {name: len(rows) for name, rows in material.held_out.items()} == {"general": 6, "sums": 6, "texts": 6}
    held = [row for rows in material.held_out.values() for row in rows]
    assert len(set(held)) == len(held) and min(held) >= 40
    pool = {tuple(material.samples[row].ids) for row in material.pool}
    assert not pool & {tuple(material.samples[row].ids) for row in material.held_out["general"]}
    lines = validate_table.lines_of(arguments.work / "sums.jsonl")
    behind = loaded.tokenizer(json.loads(lines[validate_table.SKIPPED])["output"], add_special_tokens=False)[
        "input_ids"
    ]
    first = material.samples[material.held_out["sums"][0]]
    assert first.ids[first.labels][:-1].tolist()[: len(behind)] == behind  # behind those that signatures are made of
    again, same = gather(arguments, loaded)
    assert same == setting and again.held_out == material.held_out
    with pytest.raises(NaitError, match="--held-out wants 60"):
        gather(Namespace(**{**vars(arguments), "held_out": 60}), loaded)


def test_a_rerun_does_only_what_is_missing(gathered, tmp_path):
    loaded, material, setting, _ = gathered
    learner = Learner(loaded, material.samples, RECIPE)
    material = replace(
        material, orders={loaded.name: lambda *_: np.arange(40), "other": lambda *_: np.arange(40)[::-1]}
    )
    path = tmp_path / "validate_table.jsonl"

    def go(wanted, about=setting, of=material):
        return list(work_through(wanted, learner, of, about, path, tmp_path / "claims"))

    base, random, top = Run(IN_POOL, ANY, "base", 0), Run(IN_POOL, ANY, "random", 0), Run(IN_POOL, "sums", "nag top", 0)
    rows = go([base, random])
    assert [row["arm"] for row in rows] == ["base", "random"] and len(read_runs(path)) == 2
    assert set(rows[0]["evaluated"]) == {"general", "sums", "texts"} and "steps" not in rows[0]
    assert (rows[1]["steps"], rows[1]["response_tokens"]) == (RECIPE.steps, TOKENS)
    assert sum(rows[1]["of_sources"].values()) == pytest.approx(1, abs=0.01) and rows[1]["cpu_seconds"] >= 0
    (row,) = go([base, random, top])
    assert row["arm"] == "nag top" and set(row["evaluated"]) == {"general", "sums"} and row["of"] == digest(setting)
    assert go([base, random, top]) == []
    assert len(go([replace(random, seed=1), random])) == 1  # another seed
    assert len(go([base], {**setting, "held_out": 7})) == 1  # another setting
    assert [row["selector"] for row in go([replace(top, selector="other"), top])] == ["other"]
    turned = replace(material, orders={loaded.name: lambda *_: np.arange(40)[::-1]})
    assert len(go([base, random, top], of=turned)) == 1  # other rows
    assert len(read_runs(path)) == 7 and read_runs(path)[0]["environment"]["cpu"]
    repeated = go([random], {**setting, "held_out": 8})[0]
    assert repeated["evaluated"] == rows[1]["evaluated"]  # a seed repeats
    # One run that another process is at is left to it.
    wanted = replace(random, seed=2)
    config = validate_table.configuration(digest(setting), wanted, rows_of(material, wanted, TOKENS))
    with claimed(tmp_path / "claims", config) as mine:
        assert mine and go([wanted]) == []
    assert len(go([wanted])) == 1


def test_the_sequential_rule_names_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(validate_table, "undecided", lambda rows, setting: [(IN_POOL, "sums", "nag top", 3, "")])
    assert seeds(tmp_path / "none.jsonl", "x") == [Run(IN_POOL, "sums", "nag top", 3)]


def test_orders_are_made_once(tmp_path, monkeypatch):
    calls = []

    def order(work, names, *asked):
        calls.append(asked)
        return np.array([2, 0, 1])

    monkeypatch.setattr(validate_table, "order_of", order)
    orders = Orders(tmp_path, ("sums",))
    for _ in range(2):
        assert orders(IN_POOL, "sums", "contrast").tolist() == [2, 0, 1]
    assert orders(REMOVED, "sums", "contrast").tolist() == [2, 0, 1]
    assert calls == [(IN_POOL, "sums", "contrast"), (REMOVED, "sums", "contrast")]
    assert [file.suffix for file in (tmp_path / "orders").iterdir()] == [".npy", ".npy"]


@pytest.mark.slow
def test_orders_of_every_way_come_from_the_indexes(tiny_model, tmp_path):
    """A target's own kind comes first by the ways that tell kinds apart; without its source no row of it is there."""
    dataset = write_jsonl(tmp_path / "dataset.jsonl", make_rows(60))
    own = [row for row in make_rows(80, seed=7) if row["source"] == "sums"]
    other = [row for row in make_rows(80, seed=7) if row["source"] == "texts"]
    targets = [f"sums={write_jsonl(tmp_path / 's.jsonl', own)}", f"texts={write_jsonl(tmp_path / 't.jsonl', other)}"]
    arguments = Namespace(
        model=tiny_model,
        dataset=dataset,
        target=targets,
        rows=40,
        max_length=60,
        seed=0,
        work=tmp_path / "work",
        samples=16,
        mix=["sums", "texts"],
        leave_out=[],
        dtype="float32",
    )
    validate_table.make_indexes(arguments)
    validate_table.make_indexes(arguments)  # all is there
    orders = Orders(arguments.work, ("sums", "texts"))
    pool = [json.loads(line)["source"] for line in validate_table.lines_of(arguments.work / "pool.jsonl")]
    usable = set(orders(IN_POOL, "sums", "contrast").tolist())
    assert len(usable) == len(pool) == 40
    for setting in SETTINGS:
        for way in (*FIRST, *MORE, "nll", "ifd"):
            if way == "nag roundrobin" and setting == REMOVED:
                continue
            rows = orders(setting, "sums", way)
            wanted = usable if setting == IN_POOL or way in ("nll", "ifd") else {r for r in usable if pool[r] != "sums"}
            assert set(rows.tolist()) == wanted and len(rows) == len(wanted), (setting, way)
    for way in ("contrast", "contrast response", "contrast 1/3"):
        rows = orders(IN_POOL, "sums", way)[:20]
        assert np.mean([pool[row] == "sums" for row in rows]) > 0.7, way
    with pytest.raises(ValueError, match="not made"):
        orders(REMOVED, "sums", "nag roundrobin")
