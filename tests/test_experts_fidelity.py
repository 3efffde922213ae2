"""benchmarks/make_moe and benchmarks/experts_fidelity: the split of a dense model, and what codes of experts keep."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

import benchmarks
from benchmarks.experts_fidelity import Kept, chosen, kept_of, levels, lines, measured, of_each_expert, page
from benchmarks.make_moe import bits, clusters, masked_experts, router_start, split
from benchmarks.readings import Readings
from nait_fast.codecs.layout import CodeLayout
from nait_fast.ranking.spearman import spearman

EXPERTS, NEURONS, LAYERS = 4, 12, 2


@pytest.fixture(scope="module")
def dense():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=EXPERTS * NEURONS,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        num_key_value_heads=1,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


@torch.no_grad()
def test_a_split_model_that_sends_every_token_everywhere_is_the_dense_one(dense):
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    moe = split(dense, ids, EXPERTS, EXPERTS).eval()
    for layer in moe.model.layers:
        layer.mlp.gate.weight.zero_()
    torch.testing.assert_close(moe(ids).logits, dense(ids).logits, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_masked_experts_are_the_class_s_own(dense):
    ids = torch.randint(0, 50, (3, 12), generator=torch.Generator().manual_seed(1))
    experts = copy.deepcopy(split(dense, ids, EXPERTS, 2).model.layers[0].mlp.experts)
    x, index, weight = torch.randn(9, 16), torch.rand(9, EXPERTS).topk(2).indices, torch.rand(9, 2)
    torch.testing.assert_close(masked_experts(experts, x, index, weight), experts(x, index, weight))


def test_clusters_are_of_neurons_that_fire_together():
    together = np.random.default_rng(0).permutation(np.repeat(range(4), 8))
    strength = np.random.default_rng(1).random((300, 4)) ** 4
    parts = clusters(torch.from_numpy(strength[:, together].astype(np.float32)), 4)
    assert sorted(parts.flatten().tolist()) == list(range(32))
    assert all(len(set(together[part])) == 1 for part in parts.numpy())


def test_the_router_starts_as_the_norms_are():
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    true = torch.randn(3, 6, generator=torch.Generator().manual_seed(1))
    logits = x @ router_start(x, (x @ true.T).exp()).T
    assert (logits.argmax(dim=1) == (x @ true.T).argmax(dim=1)).float().mean() > 0.9
    assert bits(torch.full((8,), 1 / 8)) == pytest.approx(3)


@pytest.fixture(scope="module")
def routed() -> tuple[tuple[Readings, dict[str, Readings]], tuple[Readings, dict[str, Readings]], np.ndarray]:
    """(neurons, router, sources): rows of source 'mine' are sent to expert 0 of each layer, others to 1 to 3, and what
    the neurons of an expert do beside tells nothing. Those of expert 3 are large."""
    rng = np.random.default_rng(0)
    width = EXPERTS * NEURONS

    def of(sources: np.ndarray) -> tuple[Readings, Readings]:
        weight = rng.random((len(sources), LAYERS, EXPERTS)) * (rng.random((len(sources), LAYERS, EXPERTS)) < 0.5)
        weight[:, :, 0] = np.where(sources == "mine", 1.0, 0.1)[:, None] * (0.5 + rng.random((len(sources), LAYERS)))
        neurons = weight[..., None] * rng.standard_normal((*weight.shape, NEURONS)) * np.array([1, 1, 1, 9])[:, None]
        made = []
        for values, each in ((neurons, width), (weight, EXPERTS)):
            flat = values.reshape(len(sources), -1).astype(np.float32)
            made.append(Readings(CodeLayout.of([each] * LAYERS), {"mean": flat, "drift": flat}, {}, np.ones(len(flat))))
        return made[0], made[1]

    sources = np.where(rng.random(400) < 0.25, "mine", "other")
    pool, target = of(sources), of(np.full(40, "mine"))
    return (pool[0], {"mine": target[0]}), (pool[1], {"mine": target[1]}), sources


def test_the_chosen_neurons_are_those_of_each_layer_that_vary_most(routed):
    (pool, _), _, _ = routed
    layout, at = chosen(pool.layout, pool.pool["mean"].var(axis=0), NEURONS)
    assert layout.widths == (NEURONS, NEURONS)
    assert at.tolist() == [*range(36, 48), *range(84, 96)]


def test_the_best_of_each_expert_come_first(routed):
    (pool, _), (router, _), _ = routed
    variance = pool.pool["mean"].var(axis=0, dtype=np.float64)
    order = of_each_expert(variance, pool.layout, router.layout)
    _, at = chosen(pool.layout, order, 2 * EXPERTS)
    experts = variance.reshape(LAYERS * EXPERTS, NEURONS)
    expected = NEURONS * np.arange(LAYERS * EXPERTS)[:, None] + np.argsort(-experts, axis=1)[:, :2]
    assert at.tolist() == sorted(expected.ravel().tolist())


def test_a_bit_is_set_where_a_token_was_sent_and_the_mean_is_above_that_of_such_samples(routed):
    (pool, targets), _, _ = routed
    at, sample = np.array([12, 55]), np.arange(0, 400, 3)
    kept = Kept("two", pool, targets, CodeLayout.of([1, 1]), at, routed=True)
    mean = pool.pool["mean"][:, at].astype(np.float64)
    expected = [column[sample][column[sample] != 0].mean() for column in mean.T]
    np.testing.assert_allclose(kept._threshold(pool.pool["mean"][sample][:, at]), expected, rtol=1e-5)


def test_rows_say_that_the_router_tells_these_sources_apart(routed):
    neurons, router, sources = routed
    rows = list(measured(kept_of(neurons, router, np.arange(200), 0), sources, np.arange(200)))
    found = {(row["code"], row["method"]): row for row in rows}
    assert found["router", "contrast"]["r_precision"] > 0.95
    assert found["all neurons", "contrast"]["spearman"] == 1
    # the threshold of routed samples sees what the plain one, and this made-up model's neurons, cannot
    assert found["router", "contrast"]["r_precision"] > found["all neurons", "contrast"]["r_precision"]
    assert (found["router", "contrast"]["bytes"], found["router", "nait, mean, int8"]["bytes"]) == (16, 8)
    assert {row["method"] for row in rows if row["code"] == "all neurons"} == {
        "contrast",
        "nait, mean, bits",
        "nait, mean, exact",
        "nait, drift, exact",
    }
    assert "| router | 16 |" in lines([{**row, "model": "made"} for row in rows])


def test_the_page_shows_the_rows():
    file = Path(benchmarks.__path__[0]) / "results" / "cpu-amd-epyc-2c" / "experts_fidelity.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert page(rows) in (Path(benchmarks.__path__[0]).parent / "docs" / "methods.md").read_text()


def test_a_dense_model_has_no_router_and_levels_are_close(routed):
    neurons, _, sources = routed
    rows = list(measured(kept_of(neurons, None, np.arange(200), 0), sources, np.arange(200)))
    assert not any("rout" in row["code"] for row in rows)
    values = neurons[0].pool["mean"]
    assert spearman(levels(values, values[:200])[:, 5], values[:, 5]) > 0.99
