"""Training for a validation on a GPU, in bf16 through variable-length attention, against fp32 on the CPU."""

import numpy as np
import pytest
import torch

from nait_fast.data.formats import parse_any
from nait_fast.data.template import Template
from nait_fast.models.load import prepare
from nait_fast.models.packed import ATTENTION, VARLEN
from nait_fast.validation.learner import Learner, Recipe, checkpointed
from nait_fast.validation.steps import lengths_of, make_steps
from nait_fast.validation.training_samples import training_encoder, training_samples
from tests.conftest import make_rows

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]

RECIPE = Recipe(tokens=800, steps=8, rank=4, alpha=8, layers=0, lr=1e-2, product="torch", pack_tokens=200)


@pytest.fixture(scope="module")
def learners(tokenizer) -> tuple[Learner, Learner]:
    """(on the CPU in fp32, on the GPU in bf16) of the same weights and samples."""
    pytest.importorskip("peft")
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 200, "num_hidden_layers": 3, "head_dim": 64}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), max_position_embeddings=512, **shape, **heads)
    model = LlamaForCausalLM(config).bfloat16()
    rows, found = make_rows(60), []
    for device, dtype in (("cpu", torch.float32), ("cuda", torch.bfloat16)):
        mine = LlamaForCausalLM(config).to(device, dtype).eval()
        mine.load_state_dict(model.state_dict())
        loaded = prepare(mine, tokenizer, head=True)
        encoder = training_encoder(tokenizer, Template("auto", tokenizer), 60, loaded.vocabulary)
        samples, _ = training_samples(encoder, [parse_any(row, i) for i, row in enumerate(rows)])
        found.append(Learner(loaded, samples, RECIPE))
    return found[0], found[1]


def gradients(learner: Learner, rows: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """(losses by row, gradients of all adapters), the adapters drawn alike everywhere."""
    batch = [(row, learner.samples[row].response) for row in rows]
    learner.upper.zero_grad(set_to_none=True)
    with learner.fresh(0) as parameters:
        generator = torch.Generator().manual_seed(1)
        for parameter in parameters:  # a fresh adapter adds nothing: make it add something
            parameter.data.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        nll, items = learner.losses(batch)
        nll.sum().backward()
        flat = torch.cat([p.grad.reshape(-1) for p in parameters]).float().cpu().numpy()
        learner.upper.zero_grad(set_to_none=True)
    parts = dict(zip((row for row, _ in items), nll.detach().float().cpu().split([n for _, n in items]), strict=True))
    return torch.cat([parts[row] for row in rows]).numpy(), flat


def test_losses_and_gradients_are_the_cpus(learners: tuple[Learner, Learner], monkeypatch) -> None:
    cpu, gpu = learners
    assert gpu.attention == VARLEN and cpu.attention == ATTENTION
    rows = [0, 5, 7, 8, 31]
    losses, flat = gradients(cpu, rows)
    errors = {}
    for attention in (VARLEN, ATTENTION):
        monkeypatch.setattr(gpu, "attention", attention)
        mine, own = gradients(gpu, rows)
        errors[attention] = [
            np.linalg.norm(mine - losses) / np.linalg.norm(losses),
            np.linalg.norm(own - flat) / np.linalg.norm(flat),
        ]
    for fast, plain in zip(errors[VARLEN], errors[ATTENTION], strict=True):
        assert fast <= 2 * plain and plain < 0.05


def test_training_learns(learners: tuple[Learner, Learner]) -> None:
    _, gpu = learners
    steps = make_steps(lengths_of(gpu.samples), np.arange(40), RECIPE.tokens, RECIPE.steps, 0)
    told = gpu.train(steps, 0)
    assert told["response_tokens"] == RECIPE.tokens and told["last_loss"] < told["first_loss"]
    with gpu.fresh(0):
        assert np.isfinite(gpu.evaluate([50, 51])["nll"]).all()


def test_layers_that_run_again_give_the_same_gradients(learners: tuple[Learner, Learner]) -> None:
    _, gpu = learners
    losses, flat = gradients(gpu, [0, 5, 7, 8, 31])
    kept = [layer.__dict__.get("forward") for layer in gpu.upper.layers]
    try:
        for layer in gpu.upper.layers:
            layer.__dict__["forward"] = checkpointed(layer)
        again, own = gradients(gpu, [0, 5, 7, 8, 31])
    finally:
        for layer, forward in zip(gpu.upper.layers, kept, strict=True):
            layer.__dict__.pop("forward")
            layer.__dict__.update({} if forward is None else {"forward": forward})
    assert np.linalg.norm(again - losses) <= 1e-3 * np.linalg.norm(losses)
    assert np.linalg.norm(own - flat) <= 1e-2 * np.linalg.norm(flat)
