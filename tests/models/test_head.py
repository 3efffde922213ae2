"""The language-model head: losses of final states are transformers' own, or the model is refused."""

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

from benchmarks.models import randomise
from benchmarks.tiny_configs import tiny_config
from nait_fast.errors import NaitError
from nait_fast.models.head import class_with_head, head_of
from nait_fast.models.load import load_model, prepare
from nait_fast.models.spec import text_decoder
from tests.conftest import make_tokenizer
from tests.models.tiny import GPT, build, config_of, llama

EVERY = {"vocab_size": 600}
IDS = torch.randint(3, 600, (1, 40), generator=torch.Generator().manual_seed(3))
# Model, what of its head is not plain: (scale, cap, bias).
HEADS = {
    "llama": (config_of("llama", **EVERY), (1.0, None, False)),
    "llama, tied": (config_of("llama", **EVERY, tie_word_embeddings=True), (1.0, None, False)),
    "gemma2": (config_of("gemma2", **EVERY, final_logit_softcapping=7.0), (1.0, 7.0, False)),
    "cohere": (config_of("cohere", **EVERY, logit_scale=0.3), (0.3, None, False)),
    "granite": (config_of("granite", **EVERY, logits_scaling=6.0), (1 / 6, None, False)),
    "gpt2": (config_of("gpt2", GPT, **EVERY), (1.0, None, False)),
    "gptj": (config_of("gptj", GPT, **EVERY, rotary_dim=4), (1.0, None, True)),
    "falcon_h1": (tiny_config("falcon_h1", **EVERY, lm_head_multiplier=0.05), (0.05, None, False)),
    "opt, projected": (tiny_config("opt", **EVERY, word_embed_proj_dim=24), (1.0, None, False)),
    "minicpm3": (tiny_config("minicpm3", **EVERY, dim_model_base=5), (5 / 32, None, False)),
    "muse_glimmer": (tiny_config("muse_glimmer", text_config=EVERY), (26**-0.5, 20.0, False)),
}


def save(model, folder: Path) -> str:
    model.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def expected_losses(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        logits = model(input_ids=ids).logits[0, :-1]
    return F.cross_entropy(logits.float(), ids[0, 1:], reduction="none")


def losses(loaded, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        states = loaded.body(input_ids=ids).last_hidden_state[0, :-1]
        return loaded.head.losses(states, ids[0, 1:])


@pytest.mark.parametrize("name", HEADS)
def test_losses_are_those_of_transformers(tmp_path, name):
    """Whatever a class does with its logits; and the body is the one that loads without a head."""
    config, (scale, softcap, bias) = HEADS[name]
    cls = class_with_head(config, None)
    model = cls(config).eval()
    randomise(model)
    folder = save(model, tmp_path)
    loaded = load_model(folder, head=True)
    assert torch.allclose(losses(loaded, IDS), expected_losses(model, IDS), rtol=1e-5, atol=1e-6)
    head = loaded.head
    assert head.scale == pytest.approx(scale, rel=1e-6) and head.softcap == softcap and (head.bias is not None) == bias
    if name == "gemma2":
        plain = load_model(folder)
        assert plain.head is None and plain.fingerprint == loaded.fingerprint and type(plain.body) is type(loaded.body)


@pytest.mark.parametrize("name", ["gemma2", "granite", "cohere"])
def test_in_sixteen_bits(tmp_path, name):
    model = build(HEADS[name][0]).to(torch.bfloat16)
    loaded = load_model(save(model, tmp_path), dtype="bfloat16", head=True)
    scale, softcap, _ = HEADS[name][1]
    assert (loaded.head.scale, loaded.head.softcap) == (scale, softcap) and loaded.head.weight.dtype == torch.bfloat16
    expected = expected_losses(model, IDS)
    assert (losses(loaded, IDS) - expected).abs().max() < 4 * 2**-8 * expected.max()


def test_a_tied_head_is_no_copy(tmp_path):
    loaded = load_model(save(build(HEADS["llama, tied"][0]), tmp_path), head=True)
    assert loaded.head.weight.data_ptr() == loaded.body.get_input_embeddings().weight.data_ptr()


# ---------------------------------------------------------------------------------------------------- what is refused


def refusal(model, **options) -> str:
    with pytest.raises(NaitError) as caught:
        load_model(str(model), head=True, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def saved(tmp_path) -> Path:
    return Path(save(llama(**EVERY), tmp_path / "saved"))


def test_a_checkpoint_without_its_head(saved):
    weights = load_file(saved / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if k != "lm_head.weight"}, saved / "model.safetensors", {"format": "pt"}
    )
    assert "lacks lm_head.weight, of the language-model head" in refusal(saved)
    assert load_model(str(saved)).head is None


def test_a_checkpoint_whose_head_has_another_shape(saved):
    weights = load_file(saved / "model.safetensors")
    weights["lm_head.weight"] = weights["lm_head.weight"][:500].clone()
    save_file(weights, saved / "model.safetensors", {"format": "pt"})
    assert "lm_head.weight" in refusal(saved)


def test_the_checkpoint_of_a_body(saved, tmp_path):
    """Of embeddings that are the head, too, it has all; else not."""
    for tied in (False, True):
        config = json.loads((saved / "config.json").read_text()) | {"tie_word_embeddings": tied}
        (saved / "config.json").write_text(json.dumps(config))
        folder = save(AutoModel.from_pretrained(saved), tmp_path / f"body {tied}")
        if tied:
            assert load_model(folder, head=True).head is not None
        else:
            assert "lacks lm_head.weight" in refusal(folder)


def test_a_body_in_memory():
    with pytest.raises(NaitError, match="LlamaModel has no language-model head"):
        prepare(llama(**EVERY).model, None, head=True)
    assert prepare(llama(**EVERY), None, head=True).head is not None


def of(model):
    return head_of(model, text_decoder(model), "it")


def test_other_arithmetics_are_refused():
    """One logit taken away; a cap that the configuration does not tell of; states that are changed before."""
    model = llama(**EVERY)
    plain = type(model).forward
    assert of(model).softcap is None

    def masked(self, **named):
        out = plain(self, **named)
        out.logits[..., 5] = torch.finfo(out.logits.dtype).min
        return out

    def capped(self, **named):
        out = plain(self, **named)
        out.logits = 20 * torch.tanh(out.logits / 20)
        return out

    def squared(self, **named):
        out = plain(self, **named)
        out.logits = out.logits + 1e-3 * out.logits.square()
        return out

    def constant(self, **named):
        out = plain(self, **named)
        out.logits = torch.zeros_like(out.logits)
        return out

    for odd in (masked, capped, squared, constant):
        model.forward = odd.__get__(model)
        with pytest.raises(NaitError, match="no linear map, scaled or capped"):
            of(model)
    model.forward = capped.__get__(model)
    model.config.some_cap = 20
    assert of(model).softcap == 20


def test_a_head_that_is_more_than_a_linear_layer():
    with pytest.raises(NaitError, match="ModernBertDecoderForCausalLM makes of its final states is no linear map"):
        of(AutoModelForCausalLM.from_config(tiny_config("modernbert-decoder")).eval())


class Packed(torch.nn.Module):
    """A layer whose weight is whole numbers, as a quantiser keeps it."""

    def __init__(self, linear: torch.nn.Linear):
        super().__init__()
        self.scale = linear.weight.detach().abs().amax() / 127
        self.weight = torch.nn.Parameter((linear.weight.detach() / self.scale).round().to(torch.int8), False)

    def forward(self, x):
        return F.linear(x, self.weight.to(x.dtype) * self.scale)


def test_a_quantised_head_is_the_map_that_it_computes():
    model = llama(**EVERY)
    model.lm_head = Packed(model.lm_head)
    loaded = prepare(model, None, head=True)
    assert torch.allclose(losses(loaded, IDS), expected_losses(model, IDS), rtol=1e-5, atol=1e-6)


def test_an_adapter_on_the_head(saved, tmp_path):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=4, target_modules=["q_proj", "lm_head"], task_type="CAUSAL_LM")
    adapted = peft.get_peft_model(AutoModelForCausalLM.from_pretrained(saved), settings)
    generator = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    with pytest.warns(UserWarning, match="embedding layers found"):
        adapted.save_pretrained(tmp_path / "adapter")
    loaded = load_model(str(tmp_path / "adapter"), head=True)
    assert torch.allclose(losses(loaded, IDS), expected_losses(adapted.eval(), IDS), rtol=1e-5, atol=1e-6)
    assert loaded.fingerprint == load_model(str(tmp_path / "adapter")).fingerprint
