"""The downstream ablation on a tiny random Llama: equal budgets, resuming, statistics, products, matching, removal."""

import json
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import ablation, ablation_data, ablation_train
from benchmarks.ablation import ANY, Material, Run
from benchmarks.ablation_data import Sft
from benchmarks.ablation_train import Frozen, Learner, Recipe, common_prefix, freeze_linears, head_nll, load_causal
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder
from nait_fast.errors import NaitError
from tests.conftest import make_rows, write_jsonl

RECIPE = Recipe(tokens=400, steps=8, rank=2, alpha=4, layers=2, lr=1e-2, product="torch", pack_tokens=200)


@pytest.fixture(scope="module")
def causal(tiny_model):
    pytest.importorskip("peft")
    return load_causal(tiny_model, "float32", "cpu")


@pytest.fixture(scope="module")
def encoder(causal):
    _, tokenizer, loaded = causal
    return Encoder(tokenizer, Template("auto", tokenizer), 60, loaded.vocabulary)


@pytest.fixture(scope="module")
def material(encoder) -> Material:
    rows = make_rows(80)
    samples = ablation_data.encode(encoder, rows)
    assert all(samples)
    pool = np.arange(60)
    sources = [row["source"] for row in rows]
    scores = {("sums", m): np.random.default_rng(i).random(60) for i, m in enumerate(ablation_data.METHODS)}
    held_out = {"general": list(range(60, 70)), "sums": list(range(70, 80))}
    own = {"sums": np.flatnonzero(np.array(sources[:60]) == "sums")}
    return Material(samples, sources, pool, held_out, own, lambda: scores)


@pytest.fixture
def learner(causal, material) -> Learner:
    return Learner(causal[0], causal[2], material.samples, RECIPE)


def test_the_response_is_told_from_the_prompt(encoder):
    row = {"instruction": "add seven", "input": "", "output": "plus eight"}
    (sample,) = ablation_data.encode(encoder, [row])
    decode = encoder.tokenizer.decode
    assert decode(sample.ids[sample.start :]) == "plus eight<|end|>" and sample.ended
    assert decode(sample.ids[: sample.start]).endswith("assistant\n")
    short = Encoder(encoder.tokenizer, encoder.template, len(sample.ids) - 2, encoder.vocabulary)
    (cut,) = ablation_data.encode(short, [row])
    assert not cut.ended and cut.response == sample.response - 2 and cut.start == sample.start
    none = Encoder(encoder.tokenizer, encoder.template, sample.start, encoder.vocabulary)
    assert ablation_data.encode(none, [row]) == [None]


def test_every_arm_trains_on_the_same_tokens_in_the_same_steps(learner, material):
    arms = [Run("sums", f"{m} {end}", 0) for m in ablation_data.METHODS for end in ("top", "bottom")]
    arms += [
        Run("sums", "own_source", 0),
        Run("sums", "random_length", 0),
        Run(ANY, "random", 1),
        Run(ANY, "longest", 2),
    ]
    for run in arms:
        rows = ablation.rows_of(material, run, RECIPE.tokens)
        steps = ablation_data.make_steps(material.samples, rows, RECIPE.tokens, RECIPE.steps, run.seed)
        assert len(steps) == RECIPE.steps and all(steps)
        assert sum(n for batch in steps for _, n in batch) == RECIPE.tokens
        assert {row for batch in steps for row, _ in batch} <= set(rows.tolist())
    out = ablation.perform(learner, material, arms[0], ablation.rows_of(material, arms[0], RECIPE.tokens))
    assert (out["steps"], out["response_tokens"]) == (RECIPE.steps, RECIPE.tokens)
    assert out["all_tokens"] > out["response_tokens"] and set(out["evaluated"]) == {"sums", "general"}


def test_rows_that_are_used_up_start_again(material):
    rows = material.pool[:3]
    steps = ablation_data.make_steps(material.samples, rows, 400, 4, 0)
    order = [row for batch in steps for row, _ in batch]
    assert sorted(order[:3]) == sorted(order[3:6]) == rows.tolist()


def test_top_and_bottom_are_the_ends_of_the_ranking():
    scores, response = np.array([0.1, 0.9, 0.5, 0.7, 0.3]), np.full(5, 10)
    assert ablation_data.top(np.arange(5), scores, response, 20).tolist() == [1, 3]
    assert ablation_data.top(np.arange(5), scores, response, 15, bottom=True).tolist() == [0, 4]
    assert ablation_data.top(np.array([0, 2, 4]), scores, response, 1).tolist() == [2]


def test_matched_rows_have_the_lengths_they_should():
    response = np.random.default_rng(0).integers(5, 300, 1000)
    like = np.argsort(-response)[:120]
    draws = [ablation_data.matched(like, np.arange(1000), response, seed) for seed in (0, 1)]
    for rows in draws:
        assert len(set(rows.tolist())) == len(like)
        assert abs(response[rows].mean() - response[like].mean()) < 0.05 * response[like].mean()
        assert response[rows].min() > np.median(response)
    assert set(draws[0].tolist()) != set(draws[1].tolist()) and set(draws[0].tolist()) != set(like.tolist())


def test_a_removed_source_is_gone_from_pool_and_arms(tmp_path, encoder, monkeypatch):
    rows = make_rows(60)
    dataset = write_jsonl(tmp_path / "pool.jsonl", rows)
    kept = ablation_data.make_pool(dataset, 40, 0, ["sums"])
    assert len(kept) == 20 and {row["source"] for row in kept} == {"texts"}
    with pytest.raises(NaitError, match="no such source"):
        ablation_data.make_pool(dataset, 40, 0, ["nothing"])

    seen = {}

    def scores(work, model, pool, targets, max_length, seed):
        seen.update(pool=pool, targets=targets)
        return {("sums", "nag"): np.arange(len(pool), dtype=float)}

    monkeypatch.setattr(ablation, "all_scores", scores)
    arguments = Namespace(
        dataset=dataset,
        rows=40,
        seed=0,
        remove=["sums"],
        target=[f"sums={write_jsonl(tmp_path / 't.jsonl', rows)}"],
        general=dataset,
        signature=20,
        held_out=8,
        work=tmp_path,
        model="m",
        max_length=60,
    )
    made, setting = ablation.gather(arguments, encoder)
    assert not seen  # the check before anything else needs no scores
    made.scores()
    assert {row["source"] for row in seen["pool"]} == {"texts"} and len(seen["targets"]["sums"]) == 20
    assert setting["pool_rows"] == len(made.pool) == 20
    of_arm = {
        arm: ablation.rows_of(made, Run("sums", arm, 0), 200) for arm in ("nag top", "random", "longest", "own_source")
    }
    assert {made.sources[row] for row in of_arm.pop("own_source")} == {"sums"}
    assert {made.sources[row] for rows in of_arm.values() for row in rows} == {"texts"}
    held = made.held_out["sums"]
    assert len(held) == 8 and not set(held) & (set(made.pool.tolist()) | set(made.held_out["general"]))
    first = ablation_data.encode(encoder, rows[20:21])[0]
    assert made.samples[held[0]].ids.tolist() == first.ids.tolist()  # behind those that the signature is made of


def _plain_nll(model, sample: Sft, n: int) -> torch.Tensor:
    ids = torch.from_numpy(sample.ids).long()
    logits = model(input_ids=ids[None]).logits[0, sample.start - 1 : sample.start - 1 + n]
    return nn.functional.cross_entropy(logits, ids[sample.start : sample.start + n], reduction="none")


def test_losses_and_gradients_equal_the_plain_models(causal, learner, material):
    model = causal[0]
    batch = [(0, material.samples[0].response), (7, 3), (8, material.samples[8].response)]
    assert len(learner.prefix) == 3
    with learner.fresh(0) as parameters:
        for parameter in parameters:  # a fresh adapter adds nothing: make it add something
            parameter.data.normal_(0, 0.05, generator=torch.Generator().manual_seed(1))
        nll, order = learner.nll(batch)
        nll.sum().backward()
        mine = [p.grad.clone() for p in parameters]
        for p in parameters:
            p.grad = None
        body, model.model = model.model, learner.upper
        lower, below = learner.upper.layers, learner.trunk.layers
        learner.upper.layers = nn.ModuleList([*below, *lower])
        try:
            whole = torch.cat([_plain_nll(model, material.samples[row], n) for row, n in order])
        finally:
            model.model, learner.upper.layers = body, lower
        whole.sum().backward()
    torch.testing.assert_close(nll, whole, rtol=1e-4, atol=1e-4)
    for got, parameter in zip(mine, parameters, strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=2e-3, atol=2e-4)
    assert max(float(g.abs().max()) for g in mine) > 1e-2


def test_evaluation_keeps_the_end_apart_and_in_order(causal, learner, material):
    rows = [70, 61, 5]
    with learner.fresh(0):
        losses = learner.evaluate(rows)
    for place, row in enumerate(rows):
        sample = material.samples[row]
        with torch.no_grad():
            nll = _plain_nll(causal[0], sample, sample.response).numpy()
        assert losses["tokens"][place] == sample.response - 1
        assert losses["nll"][place] == pytest.approx(nll[:-1].sum(), abs=2e-3)
        assert losses["end"][place] == pytest.approx(nll[-1], abs=2e-3)


def test_training_learns_and_a_seed_repeats(learner, material):
    rows = ablation.rows_of(material, Run("sums", "own_source", 0), RECIPE.tokens)
    steps = ablation_data.make_steps(material.samples, rows, RECIPE.tokens, RECIPE.steps, 0)
    results = []
    for seed in (0, 0, 1):
        before = learner.train(steps, seed)
        results.append(learner.evaluate(material.held_out["sums"])["nll"])
    assert results[0] == results[1] != results[2]
    assert before["last_loss"] < before["first_loss"]


def test_the_common_prefix_leaves_every_prompt_a_token():
    samples = [Sft(np.array([1, 2, 3, 4, 5, 9]), 4, True), Sft(np.array([1, 2, 3, 4, 6, 9]), 5, True)]
    assert common_prefix(samples).tolist() == [1, 2, 3]
    assert common_prefix([*samples, Sft(np.array([7, 8, 9]), 2, True)]).tolist() == []


@pytest.mark.parametrize(("kind", "bound"), [("torch", 1e-6), ("onednn", 1e-5), ("onednn-bf16", 2e-2)])
def test_frozen_products_and_their_gradients_equal_torchs(kind, bound):
    if kind != "torch" and not (
        torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    ):
        pytest.skip("no oneDNN here")
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(48, 72), nn.SiLU(), nn.Linear(72, 40, bias=False))
    quick = nn.Sequential(nn.Linear(48, 72), nn.SiLU(), nn.Linear(72, 40, bias=False))
    quick.load_state_dict(plain.state_dict())
    freeze_linears(quick, kind)
    targets = torch.randint(0, 300, (2, 150)).flatten()
    embedding = torch.randn(300, 40)
    results = []
    for model, loss in (
        (plain, lambda h: nn.functional.cross_entropy(h @ embedding.t(), targets, reduction="none")),
        (quick, lambda h: head_nll(h, Frozen(embedding, kind), targets)),
    ):
        x = torch.randn(2, 150, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
        nll = loss(model(x).flatten(0, 1))
        (nll * torch.linspace(0, 1, 300)).sum().backward()
        results.append((nll.detach(), x.grad))
    for mine, theirs in zip(results[1], results[0], strict=True):
        assert (mine - theirs).norm() <= bound * theirs.norm()
    assert all(p.grad is None for p in quick.parameters()) and all(p.grad is not None for p in plain.parameters())


def test_a_rerun_does_only_what_is_missing(learner, material, tmp_path):
    runs = [Run(ANY, "base", 0), Run(ANY, "random", 0), Run("sums", "nag top", 0)]
    path = tmp_path / "ablation.jsonl"

    def go(wanted, setting):
        return list(ablation.work_through(wanted, learner, material, setting, tmp_path, ablation.done(path)))

    assert len(go(runs[:2], {"a": 1})) == 2 and len(path.read_text().splitlines()) == 2
    with open(path, "a") as file:
        file.write('{"cut short')
    assert [row["arm"] for row in ablation.done(path)] == ["base", "random"]
    path.write_text("".join(json.dumps(row) + "\n" for row in ablation.done(path)))
    assert [row["arm"] for row in go(runs, {"a": 1})] == ["nag top"]
    assert len(go([Run(ANY, "random", 1), runs[1]], {"a": 1})) == 1  # another seed
    assert len(go(runs[:1], {"a": 2})) == 1  # another setting
    better = {**material.scores(), ("sums", "nag"): -material.scores()["sums", "nag"]}
    again = replace(material, scores=lambda: better)
    assert len(list(ablation.work_through(runs, learner, again, {"a": 1}, tmp_path, ablation.done(path)))) == 1
    rows = ablation.done(path)
    assert set(rows[0]["evaluated"]) == {"general", "sums"} and rows[0]["environment"]["cpu"]


def test_the_plan_begins_with_the_check_and_names_each_run_once():
    stages = ablation.plan(["a", "b"], ["m", "n"], 3, 5, 5)
    runs = [run for stage in ablation.STAGES for run in stages[stage]]
    assert len(set(runs)) == len(runs)
    assert {run.arm for run in stages["check"]} == {"base", "own_source", "random"}
    count = {arm: sum(r.arm == arm and r.target in ("a", ANY) for r in runs) for arm in {r.arm for r in runs}}
    assert count.pop("base") == 1 and set(count.values()) == {5}
    first = stages["tops"][:5]  # a's own source is in the check
    assert first == [
        Run("a", "m top", 0),
        Run("a", "n top", 0),
        *(Run("b", arm, 0) for arm in ("own_source", "m top", "n top")),
    ]


def test_scores_are_made_through_nait_fast_once(tiny_model, tmp_path, monkeypatch):
    rows = make_rows(40)
    target = {"sums": [row for row in make_rows(40, seed=1) if row["source"] == "sums"]}
    made = ablation_data.all_scores(tmp_path, tiny_model, rows, target, 60, 0)
    assert set(made) == {("sums", method) for method in ablation_data.METHODS}
    own = np.array([row["source"] == "sums" for row in rows])
    for method in ("contrast", "embed"):
        assert made["sums", method][own].mean() > made["sums", method][~own].mean()
    monkeypatch.setattr(ablation_data, "_make_scores", None)
    again = ablation_data.all_scores(tmp_path, tiny_model, rows, target, 60, 0)
    assert all(np.array_equal(again[key], made[key]) for key in made)


def test_without_peft_there_is_one_clear_line(causal, material, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(NaitError, match=r"nait-fast\[ablation\]"):
        Learner(causal[0], causal[2], material.samples, RECIPE)


def test_steps_that_a_response_may_not_fit_in_are_refused():
    with pytest.raises(NaitError, match="--batch-tokens"):
        replace(RECIPE, tokens=400, steps=8).check(51)
    replace(RECIPE, tokens=400, steps=8).check(50)


def test_attention_with_other_gradients_is_not_trained_through(causal, material, monkeypatch):
    from nait_fast.models import packed
    from nait_fast.models.packed import VARLEN

    model, _, loaded = causal
    assert (
        Learner(model, replace(loaded, attention=VARLEN), material.samples, RECIPE).attention
        == ablation_train.ATTENTION
    )
    for function, expected in (
        (packed.packed_attention, VARLEN),
        (
            lambda module, query, *a, **k: packed.packed_attention(module, query.detach(), *a, **k),
            ablation_train.ATTENTION,
        ),
    ):
        monkeypatch.setattr(packed, "varlen_attention", function)
        learner = Learner(model, replace(loaded, attention=VARLEN), material.samples, RECIPE)
        assert learner.attention == expected


def test_parts_share_all_runs():
    assert ablation.part("1/1") == (0, 1) and ablation.part("3/4") == (2, 4)
    runs = list(range(11))
    parts = [runs[first::number] for first, number in (ablation.part(f"{i}/3") for i in (1, 2, 3))]
    assert sorted(x for own in parts for x in own) == runs
    for text in ("0/2", "3/2", "x", "1"):
        with pytest.raises(ValueError):
            ablation.part(text)
