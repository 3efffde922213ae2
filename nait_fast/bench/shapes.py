"""Model shapes to measure with random weights, made on the device: nothing is downloaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from nait_fast.models.spec import input_width


@dataclass(frozen=True)
class Shape:
    """A decoder: ``neurons`` is the MLP width J, ``family`` transformers' model type."""

    name: str
    family: str
    layers: int
    hidden: int
    neurons: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool = True

    @property
    def parameters(self) -> int:
        """Weights of the body, embedding included (biases and norms, below 0.1%, are not)."""
        head = self.hidden // self.heads
        attention = self.hidden * head * (2 * self.heads + 2 * self.kv_heads)
        return self.vocabulary * self.hidden + self.layers * (attention + 3 * self.hidden * self.neurons)


SHAPES = {
    shape.name: shape
    for shape in (
        Shape("tiny", "llama", 3, 64, 200, 4, 2, 512),
        Shape("smollm2-135m", "llama", 30, 576, 1536, 9, 3, 49152),
        Shape("qwen2.5-1.5b", "qwen2", 28, 1536, 8960, 12, 2, 151936),
        Shape("llama-2-7b", "llama", 32, 4096, 11008, 32, 32, 32000, tied=False),
    )
}


def build(shape: Shape, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A transformers body of ``shape`` in evaluation mode, weights normal(0, 0.02) drawn on ``device`` in ``dtype``."""
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model(
        shape.family,
        hidden_size=shape.hidden,
        intermediate_size=shape.neurons,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=4096,
        initializer_range=0.02,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        body = AutoModel.from_config(config, dtype=dtype)
    return body.eval().requires_grad_(False)


def matmul_weights(body: nn.Module) -> int:
    """Weights of all linear layers of a body: the embedding and the norms multiply no matrix."""
    kinds = ("Linear", "Conv1D")  # transformers' Conv1D is a linear layer with its weight transposed
    weights = [m.weight for m in body.modules() if type(m).__name__ in kinds and isinstance(m.weight, torch.Tensor)]
    return sum(weight.numel() for weight in weights)


def forward_flops(body: Any, lengths: Sequence[int], n_prefix: int = 0) -> float:
    """Floating-point operations of the body's forward over sequences of ``lengths`` tokens of their own, each behind a
    prefix of ``n_prefix`` tokens whose keys and values are there already.

    Σ_k (2·W·k + 4·L·H·(k·n_prefix + k·(k + 1)/2)) over lengths k: W the weights of all linear layers, L the layers, H
    the width of all query heads. A token at position p multiplies p + 1 keys and as many values, 2 operations each.
    """
    config = body.config
    heads = config.num_attention_heads
    head = getattr(config, "head_dim", None) or config.hidden_size // heads
    tokens = sum(lengths)
    pairs = sum(k * n_prefix + k * (k + 1) / 2 for k in lengths)
    return 2.0 * matmul_weights(body) * tokens + 4.0 * config.num_hidden_layers * heads * head * pairs


def unused_flops(spec: Any, tokens: int) -> float:
    """What the engine saves of ``forward_flops``: it stops before the down projection of the last captured layer."""
    down = spec.part(spec.family.down)
    return 2.0 * input_width(down) * (down.weight.numel() // input_width(down)) * tokens
