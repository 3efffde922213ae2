"""Tiny random configurations of nearly every text decoder in transformers, made by shrinking each class's defaults.

``tiny_config(model_type)`` walks the fields of the configuration's class: whole numbers become small ones by the
field's name (``RULES``), lists with an item for each layer are cut to a few layers that keep every kind of layer, parts
are shrunk alike, and ``OVERRIDES`` has what the rules cannot guess. The fields are those of the transformers that is
pinned.
"""

import dataclasses
import re
from typing import Any

VOCABULARY = 320
LAYERS = 4
WINDOW = 8

# (patterns of a field's whole name, its number); the first that fits wins.
RULES: list[tuple[tuple[str, ...], int]] = [
    ((r"(.*_)?vocab_size(_per_layer_input)?", r"num_embeddings", r"audio_vocab_size"), VOCABULARY),
    ((r"max_position_embeddings", r"n_positions", r"n_ctx", r"max_seq_len"), 256),
    ((r"max_target_positions", r"context_length", r"prompt_length"), 256),
    ((r"max_source_positions", r"max_2d_position_embeddings", r"max_vit_seq_len"), 64),
    ((r"original_max_position_embeddings",), 128),
    ((r"sliding_window(_size)?", r"attention_window_size", r"local_attention"), WINDOW),
    ((r"attention_chunk_size",), 16),
    ((r"hidden_size_per_layer_input", r"laurel_rank", r"ple_embed_dim"), 8),
    ((r"(.*_)?hidden_size(_global)?", r"n_embd", r"d_model", r"dim", r"emb_dim", r"embed_dim", r"hidden_dim"), 32),
    ((r"embedding_size", r"embedding_dim", r"word_embed_proj_dim", r"lru_width", r"encoder_hidden_size"), 32),
    ((r"input_embedding_size", r"output_embedding_size", r"mm_embed_dim", r"audio_embed_dim"), 32),
    ((r"(.*_)?intermediate_size(_mlp)?", r"n_inner", r".*ffn_dim", r"d_ff", r"dff", r"dim_ff"), 48),
    ((r".*ffn_hidden_size", r"mlp_dim", r"d_inner", r"feed_forward_size", r"share_expert_dim"), 48),
    ((r"num_hidden_layers", r"n_layers?", r"num_layers", r"(.*_)?(decoder|encoder)_layers"), LAYERS),
    ((r"num_decoder_layers", r"num_encoder_layers"), LAYERS),
    ((r"depth", r"resampler_depth", r"conf_num_hidden_layers", r"merger_times"), 2),
    ((r"num_key_value_heads", r"kv_n_heads", r"swa_num_key_value_heads", r"num_kv_heads", r"indexer_kv_heads"), 2),
    ((r"num_attention_heads", r"n_heads?", r"num_heads", r"(.*_)?attention_heads", r"swa_num_attention_heads"), 4),
    ((r"num_sliding_attention_heads", r"resampler_n_heads", r"resampler_heads", r"index_n_heads"), 4),
    ((r"indexer_n_heads",), 4),
    ((r"head_dim", r"global_head_dim", r"swa_head_dim", r"d_head", r"d_kv", r"index_head_dim", r"indexer_head_dim"), 8),
    ((r"dim_head", r"resampler_head_dim", r"kv_channels", r"attention_head_dim", r"attention_head_size"), 8),
    ((r"num_(local_)?experts", r"n_routed_experts", r"moe_num_experts"), 4),
    ((r"num_experts_per_tok", r"moe_top_k", r"moe_topk", r"moe_k", r"top_k_experts"), 2),
    ((r"n_shared_experts", r"num_shared_experts", r"moe_num_shared_experts", r"n_group", r"topk_group"), 1),
    ((r"first_k_dense_replace", r"num_dense_layers"), 1),
    ((r"(num_nextn_predict|num_mtp)_layers",), 0),
    ((r"q_lora_rank", r"kv_lora_rank", r"o_lora_rank"), 16),
    ((r"qk_rope_head_dim",), 4),
    ((r"qk_nope_head_dim", r"v_head_dim"), 8),
    ((r"qk_head_dim",), 12),
    ((r"linear_num_(key_|value_)?heads",), 4),
    ((r"linear_(key_|value_)?head_dim",), 8),
    ((r"mamba_d_state", r"ssm_state_size", r"state_size", r"mamba_chunk_size"), 8),
    ((r"mamba_n_heads", r"mamba_num_heads", r"n_mamba_heads", r"mamba_dt_rank", r"time_step_rank"), 4),
    ((r"mamba_d_head", r"mamba_head_dim"), 16),
    ((r"mamba_(n_)?n?groups", r"n_groups"), 1),
    ((r"image_size", r"crop_size", r"resolution"), 28),
    ((r"projection_dim",), 16),
    ((r"query_pre_attn_scalar",), 8),
    ((r"index_topk", r"num_position_embeddings", r"max_num_patches"), 64),
    ((r"out_hidden_size", r"projector_hidden_size", r"aligner_.*hidden.*"), 32),
    ((r"num_query_tokens", r"num_image_tokens", r"resampler_n_latents", r"latent_query_num", r"image_seq_length"), 4),
    ((r"pad_token_id",), 0),
    ((r"bos_token_id",), 1),
    ((r"eos_token_id",), 2),
    ((r".*(image|video|audio|vision|visual|img|im_|boi|eoi|boa|eoa|bov|eov|soft).*token_(id|index)",), 310),
    ((r".*(user|cls|sep|mask|unk|start|end|eod|eop).*token_(id|index)",), 310),
]
_RULES = [(re.compile("|".join(f"(?:{pattern})" for pattern in patterns)), value) for patterns, value in RULES]
_TEXT = re.compile(r"text|language|llm|decoder|global|thinker")  # parts that are text decoders; towers get two layers

ROPE = {"rope_type": "default", "rope_theta": 1e4}
YARN = ROPE | {"rope_type": "yarn", "factor": 4.0}
SLIDE = ["sliding_attention", "full_attention"] * 2
ONE_DENSE = ["dense", "sparse", "sparse", "sparse"]
LATENT_ATTENTION = (
    "axk1",
    "axk2",
    "deepseek_v2",
    "deepseek_v3",
    "deepseek_v32",
    "glm4_moe_lite",
    "glm_moe_dsa",
    "kimi_linear",
    "minicpm3",
    "youtu",
    "mistral4",
)
SECTIONED_ROPE = (
    "qwen2_vl_text",
    "qwen2_5_vl_text",
    "qwen3_vl_text",
    "qwen3_vl_moe_text",
    "glm4v_text",
    "glm4v_moe_text",
    "glm_ocr_text",
    "qwen2_5_omni_text",
    "qwen3_omni_moe_text",
    "paddleocr_vl_text",
)
VQ = {"base_channels": 32, "channel_multiplier": [1, 1], "num_res_blocks": 1, "embed_dim": 32, "latent_channels": 32}
DECODER = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": VOCABULARY,
}
GEMMA4 = {"layer_types": SLIDE, "head_dim": 8, "global_head_dim": 8}
GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "position_embedding_size": 64,
}
ASSISTANT = DECODER | GEMMA4 | {"num_kv_shared_layers": 4, "hidden_size_per_layer_input": 0}
NGRAM = {
    "ngram_vocab_size_base": 100,
    "split_ngram_parts": 2,
    "make_ngram_vocab_size_divisible_by": 8,
    "heads_per_ngram": 2,
}
INDEXER = {
    "indexer_n_heads": 2,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 8,
    "indexer_budget": 64,
    "indexer_compress_ratio": 4,
}
# Model type, of a whole or of a part -> what the rules get wrong; None leaves a field to the class's default.
OVERRIDES: dict[str, dict[str, Any]] = {
    **{name: {"rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}} for name in SECTIONED_ROPE},
    **{name: {"num_key_value_heads": 4} for name in LATENT_ATTENTION},
    "bamba": {"attn_layer_indices": [1, 3]},
    "blt": {"encoder_hash_byte_group_vocab": 500},
    "chameleon": {"vocabulary_map": {"<image>": 310}},
    "chameleon_vqgan": VQ,
    "codegen": {"rotary_dim": 4},
    "cohere_compass_text": {
        "layer_types": SLIDE,
        "head_dim": 32,
        "rope_parameters": {kind: ROPE | {"mrope_interleaved": True, "mrope_section": [4, 4, 8]} for kind in SLIDE},
    },
    "cosmos3_edge_text": {"rope_parameters": ROPE | {"mrope_interleaved": True, "mrope_section": [2, 1, 1]}},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 1e4, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 48, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_ocr2_sam_vision_model": {"downsample_channels": [16, 16]},
    "deepseek_ocr2_text": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_shared_experts": 1,
        "mlp_layer_types": ONE_DENSE,
    },
    "deepseek_v2": {"num_key_value_heads": 4, "num_experts_per_tok": 2, "first_k_dense_replace": 1},
    "diffusion_gemma": {"vision_config": GEMMA4_VISION},
    "diffusion_gemma_text": GEMMA4 | {"num_experts": 4, "top_k_experts": 2, "moe_intermediate_size": 24},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1, "first_k_dense_replace": 1},
    "emu3": {"vocabulary_map": {"<image>": 310, "<|extra_200|>": 311}},
    "emu3_text_model": {"vocab_size": VOCABULARY},
    "emu3_vqgan": VQ,
    "ernie4_5_vl_moe_text": {
        "rope_parameters": ROPE | {"mrope_section": [1, 1, 2]},
        "moe_intermediate_size": [24, 24],
        "mlp_layer_types": ONE_DENSE,
    },
    "falcon_h1": {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16},
    "gemma3n_text": {
        "layer_types": SLIDE,
        "num_kv_shared_layers": 2,
        "activation_sparsity_pattern": [0.95, 0.95, 0.0, 0.0],
        "intermediate_size": [48] * 4,
    },
    "gemma4_assistant": {
        "text_config": ASSISTANT | {"model_type": "gemma4_text", "vocab_size_per_layer_input": 0},
        "backbone_hidden_size": 32,
    },
    "gemma4_text": GEMMA4,
    "gemma4_unified_assistant": {
        "text_config": ASSISTANT | {"model_type": "gemma4_unified_text"},
        "backbone_hidden_size": 32,
    },
    "gemma4_unified_text": GEMMA4,
    "gemma4_vision": {"position_embedding_size": 64},
    "glm5_next_text": {"num_key_value_heads": 4, "qk_rope_head_dim": 0, "head_dim": 0},
    "glm4v_moe_text": {"rope_parameters": ROPE | {"mrope_section": [2, 1, 1]}, "head_dim": 16},
    "gpt_neo": {
        "attention_types": [[["global", "local"], 2]],
        "num_layers": 4,
        "intermediate_size": 48,
        "window_size": 8,
    },
    "gptj": {"rotary_dim": 4},
    "granite4_vision": {"text_config": DECODER | {"model_type": "granite4_vision_text"}},
    "hunyuan_v1_dense": {"head_dim": 8},
    "hunyuan_v1_moe": {"head_dim": 8, "moe_topk": 2, "num_experts": 4},
    "hunyuan_vl_text": {
        "head_dim": 8,
        "num_key_value_heads": 2,
        "rope_parameters": ROPE | {"xdrope_section": [1, 1, 1, 1]},
    },
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "janus_vqgan": VQ,
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention", "conv", "full_attention"]},
    "longcat_flash": {"num_key_value_heads": 4, "num_layers": 2, "head_dim": 4, "qk_rope_head_dim": 4},
    "mamba2": {"num_heads": 4, "head_dim": 16},
    "ministral": {"head_dim": 8, "layer_types": SLIDE},
    "musicgen": {"num_hidden_layers": 4},
    "musicgen_melody": {"num_hidden_layers": 4},
    "nemotron": {"num_key_value_heads": 2},
    "qwen4_exp_text": NGRAM | INDEXER,
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 16], "axial_pos_shape": [16, 16], "num_buckets": 8},
    "xmod": {"languages": ["en_XX"], "default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "linear_attention", "hybrid"],
        "attention_hidden_size": 64,
        "attention_head_dim": 16,
        "n_mamba_heads": 2,
    },
}

GEMMA4_MOE = {
    "enable_moe_block": True,
    "num_experts": 4,
    "top_k_experts": 2,
    "moe_intermediate_size": 24,
    "hidden_size_per_layer_input": 0,
}
MINISTRAL3_ROPE = {
    "original_max_position_embeddings": 16,
    "llama_4_scaling_beta": 0.3,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
LAST_TWO_SLIDE = {
    "use_sliding_window": True,
    "sliding_window": WINDOW,
    "max_window_layers": 2,
    "layer_types": ["full_attention"] * 2 + ["sliding_attention"] * 2,
}
GRANITE_HYBRID = {"num_local_experts": 0, "layer_types": ["mamba", "attention"] * 2}
GRANITE_MICRO = {"num_local_experts": 0, "layer_types": ["attention"] * 4, "position_embedding_type": "rope"}
DEEP = {"vision_config": {"num_hidden_layers": 7}}  # a vision tower deeper than the text decoder beside it
DEEP_QWEN = {"vision_config": {"depth": 7}}
# (what is different, model type, causal or multimodal, arguments over the tiny ones)
VARIANTS: list[tuple[str, str, str, dict[str, Any]]] = [
    ("new decoder architecture", "falcon", "causal", {"new_decoder_architecture": True, "num_kv_heads": 2}),
    ("alibi", "falcon", "causal", {"alibi": True, "new_decoder_architecture": False}),
    ("sequential residual", "gpt_neox", "causal", {"use_parallel_residual": False}),
    ("biases", "llama", "causal", {"attention_bias": True, "mlp_bias": True}),
    ("rope llama3", "llama", "causal", {"rope_parameters": ROPE | LLAMA3_ROPE}),
    ("rope yarn", "qwen3", "causal", {"rope_parameters": YARN | {"original_max_position_embeddings": 32}}),
    (
        "rope dynamic",
        "llama",
        "causal",
        {"rope_parameters": ROPE | {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": 128},
    ),
    ("sliding layers", "qwen2", "causal", LAST_TWO_SLIDE),
    ("no window", "mistral", "causal", {"sliding_window": None}),
    ("query scaling by position", "ministral3", "causal", {"rope_parameters": YARN | MINISTRAL3_ROPE}),
    ("qk norm, parallel", "stablelm", "causal", {"qk_layernorm": True, "use_parallel_residual": True}),
    ("E2B: shared KV, wide MLP", "gemma4_text", "causal", {"num_kv_shared_layers": 2, "use_double_wide_mlp": True}),
    (
        "31B: no per-layer input, k = v",
        "gemma4_text",
        "causal",
        {"hidden_size_per_layer_input": 0, "attention_k_eq_v": True},
    ),
    ("26B-A4B: MoE beside the MLP", "gemma4_text", "causal", GEMMA4_MOE),
    ("sparse layers last", "gemma3n_text", "causal", {"activation_sparsity_pattern": [0.0, 0.0, 0.95, 0.95]}),
    ("no sparse layers", "gemma3n_text", "causal", {"activation_sparsity_pattern": [0.0] * 4}),
    ("Granite 4.0 H, dense", "granitemoehybrid", "causal", GRANITE_HYBRID),
    ("Granite 4.0 micro: dense attention", "granitemoehybrid", "causal", GRANITE_MICRO),
    ("dense", "jamba", "causal", {"num_experts": 1, "num_experts_per_tok": 1}),
    ("dense MLPs only", "qwen3_moe", "causal", {"mlp_only_layers": [0, 1, 2, 3]}),
    ("dense MLPs only", "qwen3_next", "causal", {"mlp_only_layers": [0, 1, 2, 3]}),
    ("dense MLPs only", "deepseek_v3", "causal", {"first_k_dense_replace": 4}),
    ("no MoE: Nemotron-H", "nemotron_h", "causal", {"layers_block_type": ["mamba", "mlp", "attention", "mlp"]}),
    ("deep vision", "qwen2_5_vl", "multimodal", DEEP_QWEN),
    ("deep vision", "qwen2_vl", "multimodal", DEEP_QWEN),
    ("deep vision", "qwen3_vl", "multimodal", DEEP_QWEN),
    ("deep vision", "gemma3", "multimodal", DEEP),
    ("deep vision", "llava", "multimodal", DEEP),
    ("deep vision", "internvl", "multimodal", DEEP),
    ("deep vision", "mistral3", "multimodal", DEEP),
    ("deep vision: 2.2B's shape", "smolvlm", "multimodal", DEEP),
    ("deep vision", "idefics3", "multimodal", DEEP),
    ("deep vision", "lighton_ocr", "multimodal", DEEP),
    ("deep vision", "qwen3_5", "multimodal", DEEP_QWEN),
    (
        "vision as deep as 11B's, in proportion",
        "mllama",
        "multimodal",
        {"vision_config": {"num_hidden_layers": 3, "num_global_layers": 1}},
    ),
    ("deep vision", "idefics2", "multimodal", DEEP),
    ("deep vision", "paligemma", "multimodal", DEEP),
]


def tiny_config(model_type: str, **extra: Any) -> Any:
    """A tiny configuration of ``model_type``, with ``extra`` over it."""
    from transformers import CONFIG_MAPPING

    cls = CONFIG_MAPPING[model_type]
    return cls(**_merged(_tiny_arguments(cls), extra))


def _merged(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``extra`` over it, the configurations of parts likewise."""
    out = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key.endswith("_config")
        out[key] = _merged(out[key], value) if both else value
    return out


def _tiny_arguments(cls: Any, default: Any = None, layers: int = LAYERS) -> dict[str, Any]:
    """Arguments that make a small ``cls``, whose defaults are those of ``default``."""
    default = cls() if default is None else default
    own = OVERRIDES.get(cls.model_type, {})
    layers = own.get("num_hidden_layers") or layers
    out: dict[str, Any] = {}
    count = getattr(default, "num_hidden_layers", None)
    lists = _lists_by_layer(default, count) if isinstance(count, int) else {}
    if lists:
        chosen = _chosen_layers(lists, count, layers)
        layers = len(chosen)
        out |= {name: [items[i] for i in chosen] for name, items in lists.items()}
    for field in dataclasses.fields(cls):
        value = _value(default, field.name)
        if field.name in cls.sub_configs:
            if value is None or not dataclasses.is_dataclass(value):
                continue
            part = _tiny_arguments(type(value), value, layers if _TEXT.search(field.name) else 2)
            out[field.name] = part | ({"model_type": value.model_type} if value.model_type else {})
        elif field.name in out or isinstance(value, bool) or not isinstance(value, int):
            continue
        elif (small := _small(field.name)) is not None:
            out[field.name] = small if field.name.endswith(("token_id", "token_index")) else min(value, small)
    name = next((key for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in out), None)
    if name:
        out[name] = layers
    return {key: value for key, value in (out | own).items() if value is not None}


def _small(field: str) -> int | None:
    """What a field of that name becomes; None: it stays."""
    return next((value for pattern, value in _RULES if pattern.fullmatch(field)), None)


def _value(config: Any, field: str) -> Any:
    """A field's value; None where there is none for the whole model."""
    try:
        return getattr(config, field, None)
    except Exception:  # attributes that differ by layer raise what they like
        return None


def _lists_by_layer(default: Any, count: int) -> dict[str, list]:
    """The fields of ``default`` that are lists with an item for each of ``count`` layers."""
    values = {field.name: _value(default, field.name) for field in dataclasses.fields(default)}
    return {
        name: list(value)
        for name, value in values.items()
        if isinstance(value, (list, tuple)) and len(value) == count > 0 and not name.endswith("token_id")
    }


def _chosen_layers(lists: dict[str, list], count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` layers, or two more, that show every combination of what ``lists`` say; in order."""
    first_of: dict[tuple[str, ...], int] = {}
    for i in range(count):
        first_of.setdefault(tuple(repr(items[i]) for items in lists.values()), i)
    chosen = sorted(first_of.values())[: wanted + 2]
    others = [i for i in reversed(range(count)) if i not in chosen]
    return sorted([*chosen, *others[: max(0, min(wanted, count) - len(chosen))]])
