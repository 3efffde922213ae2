"""The one table of MLP families: how a decoder layer's MLP is built, by the names of its parts.

A row fits a module that has all of its parts; ``probe`` in ``patch.py`` then checks on random input that the row's
formula reproduces the module, so that a look-alike with other arithmetic is refused, not misread.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """``gated``: down(act(gate(x)) · up(x)); ``fused``: gate and up are the halves of one projection; ``plain``:
    down(act(up(x))). ``tail``: modules applied after ``down`` (dropout, identity in evaluation)."""

    kind: str
    up: str
    down: str
    act: str
    gate: str | None = None
    tail: tuple[str, ...] = ()
    examples: str = ""


FAMILIES = (
    Family(
        "gated",
        "up_proj",
        "down_proj",
        "act_fn",
        gate="gate_proj",
        examples="Llama, Mistral, Ministral, Qwen2, Qwen3, Gemma 1-3, SmolLM3, OLMo 1-3, Granite, Cohere, StableLM",
    ),
    Family("fused", "gate_up_proj", "down_proj", "activation_fn", examples="Phi3, Phi4, GLM, GLM4"),
    Family("plain", "up_proj", "down_proj", "act_fn", examples="Nemotron, Arcee"),
    Family("plain", "dense_h_to_4h", "dense_4h_to_h", "act", examples="GPT-NeoX, Pythia"),
    Family("plain", "c_fc", "c_proj", "act", tail=("dropout",), examples="GPT-2"),
    Family("plain", "c_fc", "c_proj", "act", examples="StarCoder2"),
    Family("plain", "fc1", "fc2", "activation_fn", examples="Phi 1, 1.5, 2"),
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
