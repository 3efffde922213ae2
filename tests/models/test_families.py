"""Every family that the engine knows, against plain hooks one sample at a time."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from nait_fast.errors import NaitError
from nait_fast.models.load import prepare
from tests import naive
from tests.models.tiny import GPT, MODERN, NEURONS, READINGS, build, config_of, run, sequences, worst_error

SLIDING = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
GEMMA = SLIDING | {"query_pre_attn_scalar": 8}
FALCON = {"head_dim": None, "ffn_hidden_size": NEURONS}
GRANITE = {"num_local_experts": 0, "shared_intermediate_size": NEURONS, "position_embedding_type": "rope"}
MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_n_groups": 1, "mamba_chunk_size": 8}
NARROW = {"intermediate_size": None, "num_hidden_layers": None, "num_attention_heads": None, "head_dim": None}
BLOOM = NARROW | {"hidden_size": NEURONS // 4, "n_layer": 3, "n_head": 2}
MPT = NARROW | {"hidden_size": None, "d_model": NEURONS // 4, "n_layers": 3, "n_heads": 2, "max_seq_len": 128}
MODERNBERT = {"local_attention": 16, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2}
LFM2 = {"layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False, "head_dim": None}
DELTA = {"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
DELTA |= {"layer_types": ["linear_attention", "full_attention", "linear_attention"]}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8}
LATENT |= {"num_key_value_heads": 2, "head_dim": None}
GEMMA3N = GEMMA | {
    "num_kv_shared_layers": 0,
    "intermediate_size": [NEURONS] * 3,
    "activation_sparsity_pattern": [0.7, 0.7, 0.0],
    "hidden_size_per_layer_input": 4,
    "vocab_size_per_layer_input": 60,
    "laurel_rank": 4,
}
# name: (packs, model type, what differs from the tiny configuration)
FAMILIES = {
    "llama": (True, "llama", {}),
    "llama bias": (True, "llama", {"mlp_bias": True, "attention_bias": True}),
    "mistral": (True, "mistral", {"sliding_window": 8}),
    "mistral wide window": (True, "mistral", {"sliding_window": 4096}),
    "ministral": (True, "ministral", SLIDING),
    "qwen2": (True, "qwen2", {}),
    "qwen2 sliding": (True, "qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": (True, "qwen3", {}),
    "gemma": (True, "gemma", {}),
    "gemma2": (True, "gemma2", GEMMA),
    "gemma3": (True, "gemma3_text", GEMMA),
    "vaultgemma": (True, "vaultgemma", GEMMA),
    "phi3": (True, "phi3", {"sliding_window": 8}),
    "gpt_neox": (True, "gpt_neox", {}),
    "gpt2": (True, "gpt2", GPT),
    "gpt_bigcode": (True, "gpt_bigcode", GPT),
    "starcoder2": (True, "starcoder2", {"sliding_window": 8}),
    "phi": (True, "phi", {}),
    "persimmon": (True, "persimmon", {}),
    "cohere": (True, "cohere", {}),
    "cohere2": (True, "cohere2", SLIDING),
    "olmo": (True, "olmo", {}),
    "olmo2": (True, "olmo2", {}),
    "olmo3": (True, "olmo3", SLIDING),
    "smollm3": (True, "smollm3", {}),
    "granite": (True, "granite", {}),
    "glm": (True, "glm", {}),
    "glm4": (True, "glm4", {}),
    "helium": (True, "helium", {}),
    "arcee": (True, "arcee", {}),
    "apertus": (True, "apertus", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}}),
    "exaone4": (True, "exaone4", SLIDING),
    "ernie4_5": (True, "ernie4_5", {}),
    "seed_oss": (True, "seed_oss", {}),
    "hunyuan": (True, "hunyuan_v1_dense", {}),
    "nemotron": (True, "nemotron", {}),
    "stablelm": (True, "stablelm", {}),
    "gptj": (False, "gptj", GPT | {"rotary_dim": 4}),
    "codegen": (False, "codegen", GPT | {"rotary_dim": 4, "n_head": 4}),
    "falcon": (False, "falcon", FALCON),
    "falcon new": (False, "falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1}),
    "granite_swa": (True, "granite_swa", {}),
    "diffllama": (False, "diffllama", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "lfm2": (True, "lfm2", LFM2),
    "granite 4": (True, "granitemoehybrid", GRANITE | MAMBA | {"layer_types": ["attention"] * 3}),
    "granite 4 h": (True, "granitemoehybrid", GRANITE | MAMBA | {"layer_types": ["mamba", "attention", "mamba"]}),
    "bamba": (True, "bamba", MAMBA | {"attn_layer_indices": [1]}),
    "falcon_h1": (True, "falcon_h1", MAMBA | {"mamba_d_ssm": 32}),
    "olmo_hybrid": (True, "olmo_hybrid", DELTA | {"linear_num_key_heads": 4}),
    "qwen3.5": (True, "qwen3_5_text", DELTA),
    "minicpm3": (True, "minicpm3", LATENT),
    "bitnet": (True, "bitnet", {}),
    "modernbert-decoder": (True, "modernbert-decoder", MODERNBERT),
    "gemma3n": (True, "gemma3n_text", GEMMA3N),
    "opt": (True, "opt", {"ffn_dim": NEURONS, "word_embed_proj_dim": 16}),
    "opt 350m": (True, "opt", {"ffn_dim": NEURONS, "word_embed_proj_dim": 8, "do_layer_norm_before": False}),
    "xglm": (False, "xglm", {"ffn_dim": NEURONS, "d_model": 16, "num_layers": 3, "attention_heads": 2}),
    "biogpt": (True, "biogpt", {}),
    "bloom": (False, "bloom", BLOOM),
    "mpt": (False, "mpt", MPT),
    "recurrent_gemma": (True, "recurrent_gemma", {"intermediate_size": 2 * NEURONS}),
}
WEIGHTS = {"qwen3.5": 0.1}  # with larger ones the plain run itself is 9e-6 from fp64
PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)  # longer than the sliding window
SEQUENCES = sequences()
# The second half starts with the prefix; the last sample is the prefix and nothing else.
PREFIXED = [*SEQUENCES, *sequences(seed=2, prefix=PREFIX), PREFIX]


def config_for(name):
    _, model_type, extra = FAMILIES[name]
    return config_of(model_type, {} if "n_embd" in extra else MODERN, **extra)


@pytest.mark.parametrize("name", FAMILIES)
def test_readings(name):
    config, weight = config_for(name), WEIGHTS.get(name, 0.3)
    loaded = prepare(build(config, weight=weight), None)
    assert loaded.widths == [NEURONS] * 3
    assert loaded.packs is FAMILIES[name][0]
    # Eager attention is the model as it was defined: transformers' SDPA leaves Gemma 2's softcapping out.
    expected = naive.pooled_all(build(config, "eager", weight), PREFIXED)
    for prefix in (None, PREFIX):
        for batch_tokens in (40, 10_000):
            sink = run(loaded, PREFIXED, prefix=prefix, batch_tokens=batch_tokens)
            assert sink.finite.all()
            for reading in READINGS:
                got = sink.readings[reading].reshape(expected[reading].shape)
                error = worst_error(got, expected[reading])
                assert error <= 1e-5, f"{reading}, prefix {prefix is not None}, batch_tokens {batch_tokens}: {error}"


@pytest.mark.parametrize("name", ["llama", "gptj"])
def test_mean_with_the_first_token(name):
    config = config_for(name)
    loaded = prepare(build(config), None)
    expected = naive.pooled_all(build(config, "eager"), PREFIXED)["mean_all"]
    for prefix in (None, PREFIX):
        sink = run(loaded, PREFIXED, prefix=prefix, readings=["mean"], first_token="include")
        assert worst_error(sink.readings["mean"].reshape(expected.shape), expected) <= 1e-5


def test_layers_of_different_widths():
    extra = {"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 8}
    shared = {"num_kv_shared_layers": 2, "use_double_wide_mlp": True, "global_head_dim": 8}
    per_layer = {"vocab_size_per_layer_input": 60, "hidden_size_per_layer_input": 4}
    config = config_of("gemma4_text", **extra, **shared, **per_layer)
    loaded, reference = prepare(build(config), None), build(config, "eager")
    assert loaded.widths == [40, 40, 80, 80] and loaded.packs
    for prefix in (None, PREFIX):
        sink = run(loaded, PREFIXED, prefix=prefix)
        for i, ids in enumerate(PREFIXED):
            for position, (a, up) in enumerate(zip(*naive.activations(reference, ids), strict=True)):
                neurons = sink.layout.neurons(position)
                mean = a[1:].mean(axis=0) if len(a) > 1 else a[0]
                for reading, expected in (("drift", a[-1] - a[0]), ("mean", mean), ("up_abs", abs(up).mean(axis=0))):
                    assert worst_error(sink.readings[reading][i, neurons], expected) <= 1e-5


# ------------------------------------------------------------------------------------------ what is not supported


@pytest.mark.parametrize(
    "model_type, extra, message",
    [
        ("jetmoe", {"kv_channels": 8}, r"model JetMoeModel: layer 0 is a mixture of experts of its own kind \(JetMoe"),
        (
            "longcat_flash",
            {"num_layers": 2, "num_hidden_layers": None, "num_key_value_heads": 2},
            "model LongcatFlashModel: its configuration counts 4 layers, but its lists of layers with MLPs hold 2",
        ),
        (
            "inkling_text",
            {"mlp_layer_types": ["dense", "sparse", "sparse"], "n_routed_experts": 4, "num_experts_per_tok": 1},
            r"layer 1 has shared experts of no known family \(mlp.shared_experts: InklingSharedExperts\)",
        ),
        (
            "mamba",
            {},
            r"model MambaModel: its layers have no MLP \(attention or a state space alone\), so there are no",
        ),
        (
            "ctrl",
            {"n_embd": 16, "dff": NEURONS, "n_layer": 2, "n_head": 2},
            "model CTRLModel: no MLP of a known family",
        ),
        # These have the parts of a family's MLP but compute something else.
        (
            "bloom",
            BLOOM | {"pretraining_tp": 2, "slow_but_exact": True},
            "layer 0: BloomMLP looks like the family of BLOOM but computes something else",
        ),
        ("moshi", {}, "layer 0: MoshiGatingMLP looks like the family of Phi.* but computes something else"),
    ],
)
def test_refused(model_type, extra, message):
    with pytest.raises(NaitError, match=message) as caught:
        prepare(build(config_of(model_type, **extra)), None)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_a_decoders_mlp_is_refused():
    model = AutoModel.from_config(config_of("modernbert", **MODERNBERT)).eval()
    message = "model ModernBertModel: layer 0 is an encoder's, whose tokens see later ones; nait_fast reads decoders"
    with pytest.raises(NaitError, match=message):
        prepare(model, None)


def twice(self, x):
    hidden = self.ffn_sub_norm(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return self.down_proj(hidden) + self.down_proj(hidden)


def in_part(self, x):
    return self.down_proj(self.ffn_sub_norm(self.act_fn(self.gate_proj(x)) * self.up_proj(x))[:, :2])


def told(self, x):
    hidden = self.ffn_sub_norm(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
    return self.down_proj(hidden) * (2 if isinstance(self, torch.nn.Module) else 1)


@pytest.mark.parametrize("forward", [twice, in_part, told])
def test_what_is_no_one_reading_a_token_is_refused(forward):
    """The class's own forward runs, but ``down`` must run once, for each token, and the outcome be the module's."""
    model = build(config_for("bitnet"))
    mlp = model.model.layers[1].mlp
    mlp.__class__ = type("Another", (type(mlp),), {"forward": forward})
    with pytest.raises(NaitError, match="layer 1: Another looks like the family of BitNet but computes something else"):
        prepare(model, None)


@pytest.mark.parametrize("name", ["opt", "mpt", "gpt2", "biogpt"])
def test_positions_that_end(name):
    assert prepare(build(config_for(name)), None).positions == 128


def test_training_mode_is_refused():
    with pytest.raises(NaitError, match=r"LlamaForCausalLM is in training mode: call model.eval\(\) first"):
        prepare(build(config_of("llama")).train(), None)
