"""Every family that the engine knows, against plain hooks one sample at a time."""

import numpy as np
import pytest

from nait_fast.errors import NaitError
from nait_fast.models.load import prepare
from tests import naive
from tests.models.tiny import GPT, MODERN, NEURONS, READINGS, build, config_of, run, sequences, worst_error

SLIDING = {"sliding_window": 8, "layer_types": ["full_attention", "sliding_attention", "sliding_attention"]}
GEMMA = SLIDING | {"query_pre_attn_scalar": 8}
FALCON = {"head_dim": None, "ffn_hidden_size": NEURONS}
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
    "nemotron": (False, "nemotron", {}),
    "stablelm": (False, "stablelm", {}),
    "gptj": (False, "gptj", GPT | {"rotary_dim": 4}),
    "codegen": (False, "codegen", GPT | {"rotary_dim": 4, "n_head": 4}),
    "falcon": (False, "falcon", FALCON),
    "falcon new": (False, "falcon", FALCON | {"new_decoder_architecture": True, "num_kv_heads": 1}),
    "granite_swa": (False, "granite_swa", {}),
    "diffllama": (False, "diffllama", {"num_attention_heads": 4, "num_key_value_heads": 2}),
    "recurrent_gemma": (False, "recurrent_gemma", {"intermediate_size": 2 * NEURONS}),
}
PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)  # longer than the sliding window
SEQUENCES = sequences()
# The second half starts with the prefix; the last sample is the prefix and nothing else.
PREFIXED = [*SEQUENCES, *sequences(seed=2, prefix=PREFIX), PREFIX]


def config_for(name):
    _, model_type, extra = FAMILIES[name]
    return config_of(model_type, {} if "n_embd" in extra else MODERN, **extra)


@pytest.mark.parametrize("name", FAMILIES)
def test_readings(name):
    config = config_for(name)
    loaded = prepare(build(config), None)
    assert loaded.widths == [NEURONS] * 3
    assert loaded.packs is FAMILIES[name][0]
    # Eager attention is the model as it was defined: transformers' SDPA leaves Gemma 2's softcapping out.
    expected = naive.pooled_all(build(config, "eager"), PREFIXED)
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
        ("mamba", {}, "model MambaModel: no MLP of a known family"),
        ("opt", {"ffn_dim": NEURONS, "word_embed_proj_dim": 16}, "model OPTDecoder: no MLP of a known family"),
        ("bloom", {"n_layer": 2}, "model BloomModel: no MLP of a known family"),
        # These have the parts of a family's MLP but compute something else.
        ("bitnet", {}, "layer 0: BitNetMLP looks like the family of Llama.* but computes something else"),
        ("moshi", {}, "layer 0: MoshiGatingMLP looks like the family of Phi.* but computes something else"),
    ],
)
def test_refused(model_type, extra, message):
    with pytest.raises(NaitError, match=message) as caught:
        prepare(build(config_of(model_type, **extra)), None)
    assert "\n" not in str(caught.value)


def test_training_mode_is_refused():
    with pytest.raises(NaitError, match=r"LlamaForCausalLM is in training mode: call model.eval\(\) first"):
        prepare(build(config_of("llama")).train(), None)
