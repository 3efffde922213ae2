"""Norms and rotary embeddings in kernels of their own: only where they are the same, and put back afterwards."""

import dataclasses

import pytest
import torch
from torch import nn

from nait_fast.models.fused import fused_forwards, replaced
from nait_fast.models.load import prepare
from tests.models.tiny import build, config_of, run, sequences, worst_error
from tests.ops.device import DEVICE

# Of the decoder layer's modules: two norms and an attention, and the last norm of the body.
FUSED = {"llama": 3 + 1, "gemma3_text": 7 + 1, "qwen3": 5 + 1, "olmo2": 5 + 1}


@pytest.fixture
def on_triton(monkeypatch):
    pytest.importorskip("triton")
    monkeypatch.setenv("NAIT_FAST_BACKEND", "triton")


# Narrower sums are added up in another way on a GPU; one layer, as the interpreter takes its time.
WIDE = {"hidden_size": 128, "head_dim": 128, "num_hidden_layers": 1}


def half(model_type: str, **extra):
    return build(config_of(model_type, **WIDE | extra), weight=0.1).to(DEVICE, torch.bfloat16)


def kinds(found) -> dict[str, int]:
    names = [type(module).__name__ for module in found]
    return {name: names.count(name) for name in names}


@pytest.mark.parametrize("model_type", FUSED)
def test_norms_and_attention_of_the_usual_families_are_found(model_type, on_triton):
    found = fused_forwards(half(model_type).model)
    assert len(found) == FUSED[model_type], kinds(found)


@pytest.mark.parametrize("model_type", FUSED)
def test_a_fused_forward_is_the_models_own(model_type, on_triton):
    model = half(model_type)
    loaded = prepare(model, None)
    assert loaded.fused and loaded.packs
    ids = sequences((1, 9, 33))
    fused, plain = run(loaded, ids), run(dataclasses.replace(loaded, fused={}), ids)
    for reading, values in plain.readings.items():
        shape = (len(ids), 1, -1)
        assert worst_error(fused.readings[reading].reshape(shape), values.reshape(shape)) < 0.02
        assert DEVICE == "cpu" or torch.equal(fused.readings[reading], values)
    assert not any("forward" in vars(module) for module in loaded.body.modules())


def test_interleaved_rotary_pairs_stay_the_models(on_triton):
    found = kinds(fused_forwards(half("cohere").model))
    assert not any("Attention" in name for name in found)


def test_another_norm_of_that_name_stays_itself(on_triton):
    class OddRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.eps = nn.Parameter(torch.ones(8, dtype=torch.bfloat16)), 1e-6

        def forward(self, x):
            return self.weight * x / x.norm(dim=-1, keepdim=True)

    class NoWeightRMSNorm(OddRMSNorm):
        def __init__(self):
            super().__init__()
            self.weight = None
            self.other = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))

    assert fused_forwards(nn.ModuleList([OddRMSNorm(), NoWeightRMSNorm()])) == {}


def test_a_forward_somebody_hung_into_a_module_is_kept(on_triton):
    model = half("llama").model
    hung = model.norm
    hung.forward = type(hung).forward.__get__(hung)
    assert hung not in fused_forwards(model) and len(fused_forwards(model)) == FUSED["llama"] - 1


def test_what_a_proof_cannot_be_made_of_keeps_its_forward(on_triton):
    class TupleRMSNorm(nn.Module):
        def __init__(self, weight, eps=1e-6):
            super().__init__()
            self.weight, self.eps = nn.Parameter(weight), eps

        def forward(self, x):
            return (x,)

    class StrangeRMSNorm(TupleRMSNorm):
        def forward(self, x):
            raise KeyError("no such scale")

    ones = torch.ones(8, dtype=torch.bfloat16)
    odd = [TupleRMSNorm(ones), StrangeRMSNorm(ones), TupleRMSNorm(ones, eps="small")]
    assert fused_forwards(nn.ModuleList(odd).to(DEVICE)) == {}
    mixed = half("llama").model
    mixed.norm.weight.data = mixed.norm.weight.float()  # as some keep their norms
    assert mixed.norm not in fused_forwards(mixed) and len(fused_forwards(mixed)) == FUSED["llama"] - 1


def test_a_norm_called_another_way_is_the_models_own(on_triton):
    class GivingRMSNorm(type(half("llama").model.norm)):
        def forward(self, hidden_states, residual=None):
            out = super().forward(hidden_states)
            return out if residual is None else (out, residual)

    model = half("llama").model
    norm = GivingRMSNorm(128).to(DEVICE, torch.bfloat16)
    model.norm = norm
    forwards = fused_forwards(model)
    x = torch.randn(1, 40, 128).to(DEVICE, torch.bfloat16)
    with replaced(forwards):
        assert "forward" in vars(norm) and norm(x, residual=7)[1] == 7
        assert torch.equal(norm(hidden_states=x), type(norm).forward(norm, x))
        assert torch.equal(norm(x[:, :3]), type(norm).forward(norm, x[:, :3]))  # few rows: torch adds otherwise
        assert norm(x.float()).dtype == torch.float32


def test_a_forward_hung_in_since_stays(on_triton):
    model = half("llama", num_hidden_layers=2).model
    forwards = fused_forwards(model)
    model.norm.forward = hung = lambda x: x
    with replaced(forwards):
        assert model.norm.forward is hung and "forward" in vars(model.layers[0].self_attn)
        model.layers[0].self_attn.forward = hung
    assert model.norm.forward is hung and model.layers[0].self_attn.forward is hung
    assert "forward" not in vars(model.layers[1].self_attn)


def test_nothing_is_fused_on_a_cpu_or_in_fp32(on_triton, monkeypatch):
    assert fused_forwards(build(config_of("llama")).model) == {}
    monkeypatch.delenv("NAIT_FAST_BACKEND")
    if not torch.cuda.is_available():
        assert fused_forwards(half("llama").model) == {}


def test_what_was_replaced_is_put_back_after_an_exception():
    module = nn.Linear(2, 2)
    with pytest.raises(ZeroDivisionError), replaced({module: lambda x: "fused"}):
        assert module(None) == "fused"
        _ = 1 / 0
    assert "forward" not in vars(module)
