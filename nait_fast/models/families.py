"""The one table of MLP families: how a decoder layer's MLP is built, by the names of its parts.

A row fits a module that has all of its parts; ``probe.py`` then checks on random input that the row's formula
reproduces the module, so that a look-alike with other arithmetic is refused, not misread.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Family:
    """``gated``: down(act(gate(x)) · up(x)); ``fused``: gate and up are the halves of one projection; ``plain``:
    down(act(up(x))). ``act``: the part that is the activation function, or None where the class calls ``function``, one
    of the capture op's. ``tail``: modules applied after ``down`` (dropout, identity in evaluation).

    ``own``: what goes into ``down`` is no such formula, or more than it comes out of the module (a residual): the
    class's own forward runs and is read on its way. ``when``: the row is for modules where this attribute is there, and
    is not 0. ``causal``: encoders have such modules too, so that the layer's attention must say what it is.
    """

    kind: str
    up: str
    down: str
    act: str | None
    gate: str | None = None
    tail: tuple[str, ...] = ()
    function: str | None = None
    own: bool = False
    causal: bool = False
    when: str | None = None
    examples: str = ""

    @property
    def linears(self) -> tuple[str, ...]:
        """The projections' names."""
        return (self.up, self.down, *([self.gate] if self.gate else []))

    def fits(self, module: Any) -> bool:
        """Whether ``module`` has the row's parts, and modules for its projections."""
        parts = (getattr(module, name, None) for name in (*self.linears, *self.tail))
        marks = (getattr(module, name, None) for name in (self.act, self.when) if name)
        return all(isinstance(part, nn.Module) for part in parts) and all(
            mark is not None and not (isinstance(mark, int | float) and not mark) for mark in marks
        )


# Where two rows fit, the first one is meant.
FAMILIES = (
    Family(
        "gated", "up_proj", "down_proj", "act_fn", gate="gate_proj", own=True, when="ffn_sub_norm", examples="BitNet"
    ),
    Family(
        "gated",
        "up_proj",
        "down_proj",
        "act_fn",
        gate="gate_proj",
        own=True,
        when="activation_sparsity",
        examples="Gemma 3n",
    ),
    Family(
        "gated",
        "up_proj",
        "down_proj",
        "act_fn",
        gate="gate_proj",
        examples="Llama, Mistral, Ministral, Qwen2, Qwen3, Gemma 1-3, SmolLM3, OLMo 1-3, Granite, Cohere, StableLM",
    ),
    Family("gated", "up_proj", "down_proj", "activation_fn", gate="gate_proj", examples="Llama 4"),
    Family("gated", "w3", "w2", None, gate="w1", function="silu", examples="LFM2"),
    Family("fused", "gate_up_proj", "down_proj", None, own=True, when="swiglu_alpha", examples="MiniMax M3"),
    Family("fused", "gate_up_proj", "down_proj", "activation_fn", examples="Phi3, Phi4, GLM, GLM4"),
    Family("fused", "input_linear", "output_linear", "activation", examples="Granite 4"),
    Family("fused", "Wi", "Wo", "act", causal=True, examples="ModernBERT's decoder"),
    Family("plain", "up_proj", "down_proj", "act_fn", examples="Nemotron, Arcee"),
    Family("plain", "up_proj", "down_proj", "act", own=True, examples="MPT"),
    Family("plain", "dense_h_to_4h", "dense_4h_to_h", "act", examples="GPT-NeoX, Pythia"),
    Family("plain", "dense_h_to_4h", "dense_4h_to_h", "gelu_impl", own=True, examples="BLOOM"),
    Family("plain", "c_fc", "c_proj", "act", tail=("dropout",), examples="GPT-2"),
    Family("plain", "c_fc", "c_proj", "act", examples="StarCoder2"),
    Family("plain", "fc1", "fc2", "activation_fn", examples="Phi 1, 1.5, 2, OPT"),
    Family("plain", "fc_in", "fc_out", "act", tail=("dropout",), examples="GPT-J, CodeGen"),
)

# transformers' name of an activation function (config.hidden_act and its like) -> the capture op's name
ACTIVATION_NAMES = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_new",
    "relu": "relu",
    "relu2": "relu2",
}
