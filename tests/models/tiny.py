"""Tiny random models of many families, ragged token sequences, and the engine's readings of them."""

import copy

import numpy as np
import pytest
import torch
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect

READINGS = ("drift", "mean", "up_abs")
VOCABULARY = 60
NEURONS = 40  # no multiple of 32
COMMON = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
MODERN = COMMON | {
    "hidden_size": 16,
    "intermediate_size": NEURONS,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 128,
}
GPT = COMMON | {"n_embd": 16, "n_inner": NEURONS, "n_layer": 3, "n_head": 2, "n_positions": 128}


def config_of(model_type: str, base: dict = MODERN, **extra):
    """A tiny configuration; None among ``extra`` leaves a key of ``base`` out."""
    if model_type not in CONFIG_MAPPING:
        pytest.skip(f"this transformers has no {model_type}")
    return AutoConfig.for_model(model_type, **{k: v for k, v in (base | extra).items() if v is not None})


def build(config, attention: str | None = None, weight: float = 0.3):
    """A causal LM in evaluation mode with weights large enough that tokens differ, the same ones at each call."""
    torch.manual_seed(0)  # some parameters keep their own random start
    extra = {"attn_implementation": attention} if attention else {}
    model = AutoModelForCausalLM.from_config(copy.deepcopy(config), **extra).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = noise * weight if parameter.dim() > 1 else parameter.data + 0.1 * noise
    model.tie_weights()
    return model


def llama(**extra):
    return build(config_of("llama", **extra))


def sequences(lengths=(1, 2, 9, 9, 33, 60), seed: int = 0, prefix: np.ndarray | None = None) -> list[np.ndarray]:
    """Random token ids int32, each behind ``prefix`` where there is one."""
    rng = np.random.default_rng(seed)
    before = np.zeros(0, dtype=np.int32) if prefix is None else prefix
    return [np.concatenate([before, rng.integers(3, VOCABULARY, n).astype(np.int32)]) for n in lengths]


def run(loaded, ids, *, prefix=None, batch_tokens=40, readings=READINGS, first_token="exclude") -> Collect:
    """The engine's readings of ``ids``, samples in the order given."""
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), readings)
    engine = Engine(loaded, readings, first_token=first_token, batch_tokens=batch_tokens)
    engine.run([Encoded(i, None, x) for i, x in enumerate(ids)], sink, prefixes=[] if prefix is None else [prefix])
    return sink


def worst_error(got, expected) -> float:
    """Largest relative error, norm-wise over the last axis; a zero vector must be met exactly."""
    got, expected = np.asarray(got, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert got.shape == expected.shape and np.isfinite(got).all()
    error, norm = np.linalg.norm(got - expected, axis=-1), np.linalg.norm(expected, axis=-1)
    assert not error[norm == 0].any()
    return float((error / np.where(norm == 0, 1, norm)).max())
