"""Scores inside a training, against the definition written out over plain hooks."""

import copy
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nait_fast import NaitError
from nait_fast.integrations.in_training import LiveScorer, TokenRows, padded_batches, taken_in_turns
from tests import naive
from tests.models.tiny import NEURONS, build, config_of, llama, sequences

POOL = sequences([int(n) for n in np.random.default_rng(3).integers(2, 40, 24)], seed=1)
TARGETS = {"near": sequences((9, 14, 20, 31), seed=2), "far": sequences((3, 5, 6), seed=3)}


class OneProcess:
    """What of an Accelerator is asked."""

    device, distributed_type, num_processes, process_index, is_main_process = torch.device("cpu"), "NO", 1, 0, True
    autocast = staticmethod(nullcontext)

    def unwrap_model(self, model):
        return model

    def reduce(self, values, reduction):
        return values


class OneOfSeveral(OneProcess):
    """A process among ``totals``, in a thread: they meet to sum up."""

    def __init__(self, number: int, barrier: threading.Barrier, totals: list):
        self.process_index, self.num_processes = number, barrier.parties
        self._barrier, self._totals = barrier, totals

    def reduce(self, values, reduction):
        assert reduction == "sum"
        self._totals[self.process_index] = values
        self._barrier.wait()
        total = torch.stack(self._totals).sum(dim=0)
        self._barrier.wait()
        return total


def rows(ids, name: str = "dataset") -> TokenRows:
    return TokenRows(
        [{"input_ids": one.tolist(), "attention_mask": [1] * len(one)} for one in ids], range(len(ids)), name
    )


def scored(model, accelerator=None, batch_tokens: int = 64) -> np.ndarray:
    """[n, targets] of POOL under a signature of TARGETS."""
    scorer = LiveScorer(accelerator or OneProcess(), batch_tokens=batch_tokens)
    targets = {name: rows(ids, name) for name, ids in TARGETS.items()}
    signature = scorer.signature(model, rows(POOL), targets, step=7)
    assert (signature.step, signature.names, signature.widths) == (7, ("near", "far"), (NEURONS,) * 3)
    scores, lengths = scorer.scores(model, signature, rows(POOL))
    assert lengths.tolist() == [len(ids) for ids in POOL]
    return scores


def defined(model) -> np.ndarray:
    """The same by the definition: weights, in 15 levels, of bits above the pool's mean."""
    means = [naive.pooled_all(model, ids)["mean"] for ids in (POOL, *TARGETS.values())]
    threshold = naive.threshold(means[0])
    pool, *targets = [naive.bits(mean, threshold) for mean in means]
    out = []
    for bits in targets:
        weights = naive.contrast_weights(bits, pool).astype(np.float32)
        unit = float(np.abs(weights).max()) / 7
        out.append(naive.contrast_scores(pool, np.rint(weights / unit).astype(int)) * unit)
    return np.stack(out, axis=1)


def test_scores_are_those_of_the_definition() -> None:
    model = llama()
    assert np.allclose(scored(model), defined(model), rtol=1e-6, atol=1e-9)
    assert np.array_equal(scored(model), scored(model))


def test_a_training_model_is_left_as_it_was() -> None:
    model = build(config_of("llama", attention_dropout=0.5))
    rested = scored(model)
    model.train()
    model.model.layers[1].eval()  # part of it is frozen
    model(input_ids=torch.from_numpy(POOL[5])[None].long()).logits.sum().backward()
    modes = [module.training for module in model.modules()]
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    assert np.array_equal(scored(model), rested)  # without dropout
    assert torch.equal(torch.rand(3), wanted)
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(p.grad, g) for p, g in zip(model.parameters(), gradients, strict=True))
    assert all("forward" not in vars(module) for module in model.modules())


def test_weights_of_the_moment() -> None:
    model = llama()
    before = scored(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1 + 0.5 * torch.rand(parameter.shape, generator=torch.Generator().manual_seed(1)))
    assert np.allclose(scored(model), defined(model), rtol=1e-6, atol=1e-9)
    assert not np.allclose(scored(model), before, rtol=1e-2)


def test_adapters_count() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        llama(), peft.LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5)
    ).train()
    merged = copy.deepcopy(model).eval().merge_and_unload()
    assert np.allclose(scored(model), defined(merged), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("processes", [2, 5])
def test_several_processes_get_what_one_does(processes: int) -> None:
    """5: more than there are batches of target 'far'."""
    model, totals, barrier = llama(), [None] * processes, threading.Barrier(processes)
    ranks = [OneOfSeveral(number, barrier, totals) for number in range(processes)]
    with ThreadPoolExecutor(processes) as threads:
        every = list(threads.map(lambda rank: scored(copy.deepcopy(model), rank), ranks, timeout=60))
    assert all(np.array_equal(scores, every[0]) for scores in every)
    assert np.allclose(every[0], scored(model), rtol=1e-6, atol=1e-9)


def test_rows_that_are_not_finite_have_no_score() -> None:
    model = llama()
    scorer = LiveScorer(OneProcess())
    signature = scorer.signature(model, rows(POOL[1:]), {"near": rows(TARGETS["near"])}, step=0)
    token = int(POOL[0][0])
    without = [ids for ids in POOL[1:] if token not in ids]
    with torch.no_grad():
        model.get_input_embeddings().weight[token] = torch.inf
    scores, _ = scorer.scores(model, signature, rows([POOL[0], *without]))
    assert np.isnan(scores[0]).all() and np.isfinite(scores[1:]).all() and len(without) > 3
    assert taken_in_turns(scores, len(scores))[-1] == 0
    with pytest.raises(NaitError, match=r"^pool: 1 of 2 rows have finite activations, and at least 2 are needed$"):
        scorer.signature(model, rows([POOL[0], without[0]], "pool"), {"near": rows(TARGETS["near"])}, step=0)


def test_a_target_that_tells_nothing_is_refused() -> None:
    with pytest.raises(NaitError, match=r"^same: its rows fire the neurons that the pool's do, and tell no row from"):
        LiveScorer(OneProcess()).signature(llama(), rows(POOL), {"same": rows(POOL)}, step=0)


def test_a_signature_of_another_model_is_refused() -> None:
    signature = LiveScorer(OneProcess()).signature(llama(), rows(POOL), {"near": rows(TARGETS["near"])}, step=4)
    with pytest.raises(NaitError, match=r"^step 4: the signature is of another model$"):
        LiveScorer(OneProcess()).scores(llama(intermediate_size=24), signature, rows(POOL))


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ({"text": "a"}, "it has no input_ids; give tokenised rows"),
        ({"input_ids": []}, "it has no tokens"),
        ({"input_ids": [1, 2], "images": ["a.png"]}, "it holds images, and only text is read"),
        (
            {"input_ids": [1, 2], "attention_mask": [1, 2]},
            "its attention_mask is of several packed samples; do not pack",
        ),
    ],
)
def test_rows_that_cannot_be_read(feature: dict, message: str) -> None:
    mixed = TokenRows([{"input_ids": [4, 5], "images": None}, feature], [0, 1], "dataset")
    with pytest.raises(NaitError) as caught:
        list(mixed.chunks())
    assert str(caught.value) == f"dataset, row 1: {message}"


def test_padding_in_a_row_is_no_token() -> None:
    padded = TokenRows([{"input_ids": [0, 0, 7, 8], "attention_mask": [0, 0, 1, 1]}], [0], "dataset")
    assert [[ids.tolist() for ids in some] for _, some in padded.chunks()] == [[[7, 8]]]


IN_PARTS = (
    "each process holds a part of the weights (FSDP, ZeRO-3 or tensor parallelism); train with DDP, ZeRO-1 or ZeRO-2, "
    "or select before training"
)


@pytest.mark.parametrize(
    "set_up", [{"distributed_type": "FSDP"}, {"state": SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=3))}]
)
def test_a_training_of_weights_in_parts_is_refused_at_its_start(set_up: dict) -> None:
    accelerator = OneProcess()
    vars(accelerator).update(set_up)
    with pytest.raises(NaitError) as caught:
        LiveScorer(accelerator)
    assert str(caught.value) == f"this training: {IN_PARTS}"


def test_weights_in_parts_are_refused() -> None:
    model = llama()
    parameter = model.model.layers[0].mlp.up_proj.weight
    parameter.ds_id, parameter.data = 3, torch.zeros(0)  # as ZeRO-3 leaves it
    with pytest.raises(NaitError) as caught:
        scored(model)
    assert str(caught.value) == f"model LlamaForCausalLM: {IN_PARTS}"


def test_a_first_token_that_cannot_be() -> None:
    with pytest.raises(NaitError, match=r"^first_token drop: choose exclude or include$"):
        LiveScorer(OneProcess(), first_token="drop")


def test_prompts_of_an_adapter_are_refused() -> None:
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(llama(), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3))
    with pytest.raises(NaitError, match=r"its adapter \(PROMPT_TUNING\) puts tokens of its own before each row; train"):
        scored(model)


def test_batches_are_of_similar_rows_and_count_their_padding() -> None:
    assert list(padded_batches([3, 9, 4, 9, 1, 30], 18)) == [[5], [1, 3], [2, 0, 4]]


def test_targets_take_turns() -> None:
    scores = np.array([[5.0, 1], [4, 9], [4, 8], [np.nan, 7]])
    assert taken_in_turns(scores, 4) == [0, 1, 2, 3]
    assert taken_in_turns(scores[:, :1], 3) == [0, 1, 2]
    assert taken_in_turns(scores[:, ::-1], 3) == [1, 0, 2]
