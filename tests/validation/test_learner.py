"""LoRA on a tiny random model's last layers, against the model itself."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nait_fast.data.formats import parse_any
from nait_fast.data.template import Template
from nait_fast.errors import BadInput, NaitError
from nait_fast.models import packed
from nait_fast.models.load import prepare
from nait_fast.models.packed import ATTENTION, VARLEN
from nait_fast.notices import NaitWarning, recorded
from nait_fast.validation.learner import Learner, Recipe, adapters, common_prefix
from nait_fast.validation.steps import lengths_of, make_steps
from nait_fast.validation.training_samples import TrainingSample, training_encoder, training_samples
from tests.conftest import make_rows, make_tokenizer
from tests.models.tiny import build, config_of
from tests.validation.conftest import CONVERSATION


class Experts(nn.Module):
    """A linear layer beside weights that are none."""

    def __init__(self):
        super().__init__()
        self.plain, self.experts = nn.Linear(4, 6, bias=False), nn.Parameter(torch.zeros(3, 4, 6))

    def forward(self, x):
        return self.plain(x) + (x @ self.experts).sum(0)


def test_weights_that_get_no_adapter_are_told():
    with pytest.warns(NaitWarning, match="25% of the weights"):
        assert len(adapters(Experts(), RECIPE)) == 1
    with recorded() as warnings:
        adapters(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6)), RECIPE)
    assert not warnings


RECIPE = Recipe(tokens=400, steps=8, rank=2, alpha=4, layers=2, lr=1e-2, product="torch", pack_tokens=200)
TURNS = 40  # the conversation among the samples


@pytest.fixture
def learner(headed, samples) -> Learner:
    return Learner(headed, samples, RECIPE)


def stir(parameters) -> None:
    """A fresh adapter adds nothing: make it add something."""
    generator = torch.Generator().manual_seed(1)
    for parameter in parameters:
        parameter.data.normal_(0, 0.05, generator=generator)


def plain_losses(body, head, sample: TrainingSample, n: int) -> torch.Tensor:
    """Of the first ``n`` tokens with a loss, by a forward over the sample alone."""
    ids, places = torch.from_numpy(sample.ids).long(), torch.from_numpy(sample.labels[:n])
    states = body(input_ids=ids[None]).last_hidden_state[0, places - 1]
    return F.cross_entropy(head(states), ids[places], reduction="none")


def head_in_autograd(head):
    """The formula of ``LMHead``, with gradients."""

    def logits(states: torch.Tensor) -> torch.Tensor:
        made = head.scale * F.linear(states, head.weight, head.bias)
        return made if head.softcap is None else head.softcap * torch.tanh(made / head.softcap)

    return logits


def whole_of(learner: Learner):
    """A body of all layers: the trunk's, and the adapted ones."""
    body = learner.upper
    body.layers = nn.ModuleList([*learner.trunk.layers, *body.layers])
    return body


def compare(headed, learner: Learner, batch) -> None:
    learner.upper.zero_grad(set_to_none=True)
    with learner.fresh(0) as parameters:
        stir(parameters)
        nll, order = learner.losses(batch)
        nll.sum().backward()
        mine = [p.grad.clone() for p in parameters]
        for p in parameters:
            p.grad = None
        upper = learner.upper.layers
        try:
            body, head = whole_of(learner), head_in_autograd(headed.head)
            whole = torch.cat([plain_losses(body, head, learner.samples[row], n) for row, n in order])
        finally:
            learner.upper.layers = upper
        whole.sum().backward()
    assert sorted(order) == sorted(batch)
    torch.testing.assert_close(nll, whole, rtol=1e-4, atol=1e-4)
    for got, parameter in zip(mine, parameters, strict=True):
        torch.testing.assert_close(got, parameter.grad, rtol=2e-3, atol=2e-4)
    assert max(float(g.abs().max()) for g in mine) > 1e-2


@pytest.mark.parametrize("layers", [1, 2, 0])
def test_losses_and_gradients_equal_the_plain_models(headed, samples, layers):
    learner = Learner(headed, samples, replace(RECIPE, layers=layers))
    assert len(learner.prefix) == 3 and len(learner.upper.layers) == (layers or 3)
    conversation = samples[TURNS]
    assert (np.diff(conversation.labels) > 1).any()  # a turn of the user's lies between
    compare(headed, learner, [(0, samples[0].response), (7, 3), (8, samples[8].response), (TURNS, 4), (3, 1)])
    compare(headed, learner, [(TURNS, conversation.response)])


@pytest.mark.parametrize(
    ("model_type", "extra"),
    [
        ("gemma2", {"final_logit_softcapping": 7.0}),
        ("cohere", {"logit_scale": 0.3}),
        ("granite", {"logits_scaling": 6.0}),
        ("qwen2", {}),
    ],
)
def test_heads_and_layers_of_other_families(model_type, extra):
    pytest.importorskip("peft")
    tokenizer = make_tokenizer()
    loaded = prepare(build(config_of(model_type, vocab_size=600, **extra)), tokenizer, head=True)
    encoder = training_encoder(tokenizer, Template("auto", tokenizer), 60, loaded.vocabulary)
    made, _ = training_samples(encoder, [parse_any(row, i) for i, row in enumerate([*make_rows(9), CONVERSATION])])
    learner = Learner(loaded, made, RECIPE)
    compare(loaded, learner, [(0, made[0].response), (9, made[9].response), (4, 2)])


def test_layers_that_run_again_give_the_same_gradients(headed, samples):
    batch, found = [(0, samples[0].response), (TURNS, samples[TURNS].response), (5, 2)], []
    for checkpoint in (False, True):
        learner = Learner(headed, samples, replace(RECIPE, checkpoint=checkpoint))
        with learner.fresh(0) as parameters:
            stir(parameters)
            nll, _ = learner.losses(batch)
            nll.sum().backward()
            found.append([nll.detach(), *(p.grad for p in parameters)])
    for kept, again in zip(*found, strict=True):
        torch.testing.assert_close(again, kept, rtol=1e-5, atol=1e-6)
    assert max(float(g.abs().max()) for g in found[0][1:]) > 1e-2


def test_evaluation_keeps_the_end_apart_and_in_order(headed, samples):
    cut = replace_end(samples[5])
    learner = Learner(headed, [*samples, cut], RECIPE)
    rows = [TURNS, 31, len(samples), 5]
    with learner.fresh(0):
        losses = learner.evaluate(rows)
    for place, row in enumerate(rows):
        sample = learner.samples[row]
        with torch.no_grad():
            nll = plain_losses(headed.body, head_in_autograd(headed.head), sample, sample.response).numpy()
        content = nll[:-1] if sample.ended else nll
        assert losses["tokens"][place] == len(content)
        assert losses["nll"][place] == pytest.approx(content.sum(), abs=2e-3)
        assert losses["end"][place] == (pytest.approx(nll[-1], abs=2e-3) if sample.ended else None)
    assert losses["end"][2] is None and losses["nll"][2] == pytest.approx(losses["nll"][3], abs=2e-3)


def replace_end(sample: TrainingSample) -> TrainingSample:
    """The same without its end, as if it had been cut there."""
    return TrainingSample(sample.ids[:-1], sample.labels[:-1], False)


def test_a_fresh_adapter_is_the_model_as_it_was(headed, learner, samples):
    with learner.fresh(0):
        before = learner.evaluate([0, TURNS])["nll"]
    learner.train(make_steps(lengths_of(samples), np.arange(40), RECIPE.tokens, RECIPE.steps, 0), 0)
    assert learner.evaluate([0, TURNS])["nll"] != before
    with learner.fresh(3):
        assert learner.evaluate([0, TURNS])["nll"] == before


def test_training_learns_and_a_seed_repeats(learner, samples):
    sums = np.arange(0, 40, 2)
    steps = make_steps(lengths_of(samples), sums, RECIPE.tokens, RECIPE.steps, 0)
    results = []
    for seed in (0, 0, 1):
        out = learner.train(steps, seed)
        results.append(learner.evaluate([30, 32, 34])["nll"])
    assert results[0] == results[1] != results[2]
    assert out["last_loss"] < out["first_loss"]
    assert (out["steps"], out["response_tokens"]) == (RECIPE.steps, RECIPE.tokens)
    assert out["samples"] == sum(map(len, steps)) and out["rows"] == 20 and out["all_tokens"] > RECIPE.tokens


def test_a_step_of_several_forwards_is_one_step(headed, samples):
    steps = make_steps(lengths_of(samples), np.arange(40), RECIPE.tokens, RECIPE.steps, 0)
    results = []
    for pack_tokens in (4096, 64):
        learner = Learner(headed, samples, replace(RECIPE, pack_tokens=pack_tokens))
        out = learner.train(steps, 0)
        results.append([out["first_loss"], out["last_loss"], *learner.evaluate([30, 32, 34])["nll"]])
    assert results[0] == pytest.approx(results[1], rel=2e-4)


def test_the_models_own_weights_stay_as_they_are(headed, learner, samples):
    before = {name: weight.clone() for name, weight in headed.body.state_dict().items()}
    learner.train(make_steps(lengths_of(samples), np.arange(40), RECIPE.tokens, RECIPE.steps, 0), 0)
    after = headed.body.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(after[name], weight) for name, weight in before.items())


def test_the_common_prefix_leaves_every_prompt_a_token():
    def sample(ids: list[int], first: int) -> TrainingSample:
        return TrainingSample(np.array(ids, np.int32), np.arange(first, len(ids)), True)

    samples = [sample([1, 2, 3, 4, 5, 9], 4), sample([1, 2, 3, 4, 6, 9], 5)]
    assert common_prefix(samples).tolist() == [1, 2, 3]
    assert common_prefix([*samples, sample([7, 8, 9], 2)]).tolist() == []
    assert common_prefix([*samples, sample([1, 2, 9], 1)]).tolist() == []


def test_samples_without_a_common_prefix_train(headed, samples):
    odd = TrainingSample(np.array([9, 8, 7, 6], np.int32), np.array([1, 3]), True)
    learner = Learner(headed, [*samples, odd], RECIPE)
    assert not len(learner.prefix)
    compare(headed, learner, [(0, samples[0].response), (len(samples), 2), (TURNS, 5)])


@pytest.mark.parametrize("checkpoint", [False, True])
def test_greedy_continuations_are_the_plain_models(headed, samples, checkpoint):
    """With the adapters as they are; prompts of different lengths in one batch, each up to its own end."""
    learner = Learner(headed, samples, replace(RECIPE, checkpoint=checkpoint))
    prompts = [samples[row].ids[: samples[row].labels[0]] for row in (0, 1, 5, TURNS)] + [np.array([7], np.int32)]
    with learner.fresh(0) as parameters:
        stir(parameters)
        upper = learner.upper.layers
        expected = []
        try:
            body, head = whole_of(learner), head_in_autograd(headed.head)
            for prompt in prompts:
                ids = prompt.tolist()
                for _ in range(6):
                    with torch.no_grad():
                        state = body(input_ids=torch.tensor([ids]), use_cache=False).last_hidden_state[0, -1:]
                    ids.append(int(head(state).argmax()))
                expected.append(ids[len(prompt) :])
        finally:
            learner.upper.layers = upper
        assert learner.generate(prompts, 6, end=-1) == expected
        end = expected[0][2]
        cut = [ids[: ids.index(end)] if end in ids else ids for ids in expected]
        assert learner.generate(prompts, 6, end) == cut and learner.generate(prompts[::-1], 6, end) == cut[::-1]


def test_states_do_not_depend_on_which_rows_come_first(headed, samples):
    found = []
    for first in ([3, 9], [30, 2, 17]):
        learner = Learner(headed, samples, RECIPE)
        learner.expect(range(40))
        learner.states(first)
        found.append(learner.states(range(40)))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_without_peft_there_is_one_clear_line(headed, samples, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(NaitError) as caught:
        Learner(headed, samples, RECIPE)
    assert "\n" not in str(caught.value) and "peft" in str(caught.value) and "nait-fast[validate]" in str(caught.value)


def test_more_layers_than_the_model_has_are_refused(headed, samples):
    with pytest.raises(BadInput, match=r"3 layers"):
        Learner(headed, samples, replace(RECIPE, layers=4))


def test_attention_with_other_gradients_is_not_trained_through(headed, samples, monkeypatch):
    assert Learner(headed, samples, RECIPE).attention == ATTENTION
    for function, expected in (
        (packed.packed_attention, VARLEN),
        (lambda module, query, *a, **k: packed.packed_attention(module, query.detach(), *a, **k), ATTENTION),
    ):
        monkeypatch.setattr(packed, "varlen_attention", function)
        assert Learner(replace(headed, attention=VARLEN), samples, RECIPE).attention == expected
