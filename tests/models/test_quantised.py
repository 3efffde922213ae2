"""Quantised checkpoints are read as the numbers that they stand for, or refused in one line before a weight is read."""

import importlib.util
import json
import shutil
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedModel
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

from benchmarks.quantised import FORMATS
from nait_fast.errors import NaitError
from nait_fast.models.find import find_specs
from nait_fast.models.load import load_model, prepare
from nait_fast.models.mixers import only_mixes
from nait_fast.models.quantised import quantisation, refuse_batch_dependent
from nait_fast.models.spec import input_width
from nait_fast.verbs.model_inspection import inspect_model
from tests.conftest import make_tokenizer
from tests.models.tiny import build, config_of, llama, run, sequences, worst_error

SIZE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}
MODELS = {
    "llama": ("llama", {}),
    "gpt_oss": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64}),
}
IDS = sequences((1, 2, 9, 33))
ON_GPU = "load it on a GPU .* or use the model's unquantised checkpoint"
# What is said of a method's checkpoint; None: without a GPU it is read, see below.
REFUSALS = {
    "aqlm": "aqlm.*; install that package",
    "auto-round": "auto-round.*; install that package",
    "awq": "gptqmodel.*; install that package",
    "bitnet": None,
    "bitsandbytes_4bit": "bitsandbytes.*; install that package",
    "bitsandbytes_8bit": "8 bits, by which a token's activations depend on the other samples",
    "compressed-tensors": "compressed-tensors.*; install that package",
    "eetq": "kernels.*; install that package",
    "fbgemm_fp8": ON_GPU,
    "fouroversix": "fouroversix.*; install that package",
    "fp8": None,
    "fp_quant": ON_GPU,
    "gemma": None,
    "gguf": None,
    "gptq": "optimum.*; install that package",
    "higgs": ON_GPU,
    "hqq": "HQQ version .* is not available.*; install that package",
    "metal": None,
    "mxfp4": None,
    "mxfp8": None,
    "nvfp4": "Loading pre-quantized NVFP4 checkpoints is not supported yet.*; use the model's unquantised checkpoint",
    "quanto": "optimum-quanto.*; install that package",
    "quark": "Quark.*; install that package",
    "sinq": "sinq.*; install that package",
    "spqr": ON_GPU,
    "torchao": "torchao.*; install that package",
    "vptq": "vptq.*; install that package",
}
# The packages of those that are refused without them.
PACKAGES = {"awq": "gptqmodel", "auto-round": "auto_round", "quanto": "optimum", "gptq": "optimum", "eetq": "kernels"}
EXTRA = {
    "bitsandbytes_4bit": {"load_in_4bit": True},
    "bitsandbytes_8bit": {"load_in_8bit": True},
    "spqr": {"bits": 3, "beta1": 16, "beta2": 16},
}
BITS = {"bits": 4, "group_size": 64}


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Name -> folder of a tiny model with plain weights."""
    folders: dict[str, Path] = {}
    for name, (model_type, extra) in MODELS.items():
        folders[name] = tmp_path_factory.mktemp(name)
        build(config_of(model_type, **SIZE | extra, vocab_size=600)).save_pretrained(folders[name])
        make_tokenizer().save_pretrained(folders[name])
    return folders


def said_of(folder: Path, quantisation: dict) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quantization_config": quantisation}))


def refusal(folder: Path) -> str:
    with pytest.raises(NaitError) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def no_weights(*arguments, **named):
    raise AssertionError("weights are read")


@pytest.mark.parametrize("method", AUTO_QUANTIZATION_CONFIG_MAPPING)
def test_what_cannot_be_read_here_is_said_before_a_weight_is_read(plain, tmp_path, monkeypatch, method) -> None:
    """By loading and by ``inspect``; a method that a later transformers brings has no line above, and fails."""
    folder, pattern = tmp_path / "model", REFUSALS[method]
    package = PACKAGES.get(method, method.removesuffix("_4bit").replace("-", "_"))
    if pattern is None or importlib.util.find_spec(package) or (pattern == ON_GPU and torch.cuda.is_available()):
        pytest.skip("it is read here, or may be")
    shutil.copytree(plain["llama"], folder)
    called = method.removesuffix("_4bit").removesuffix("_8bit")
    said_of(folder, {"quant_method": called, **BITS, **EXTRA.get(method, {})})
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", no_weights)
    with pytest.raises(NaitError, match=pattern) as caught:
        load_model(str(folder))
    assert "\n" not in str(caught.value)
    seen = inspect_model(str(folder))
    assert seen["supported"] is False and seen["not_supported"] in str(caught.value) and seen["layers"] == 2


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ({"quant_method": "modelopt"}, "weights quantised by modelopt, which transformers .* does not read; use the"),
        ({"bits": 4, "group_size": 64}, "a quantisation without a quant_method, which transformers .* does not read"),
    ],
)
def test_a_method_that_transformers_does_not_know(plain, tmp_path, monkeypatch, kept, message) -> None:
    """It would take the stored numbers for the weights."""
    folder = shutil.copytree(plain["llama"], tmp_path / "model")
    said_of(folder, kept)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", no_weights)
    with pytest.raises(NaitError, match=message):
        load_model(str(folder))


def test_a_quantisation_that_only_the_text_part_tells_of() -> None:
    text = SimpleNamespace(quantization_config={"quant_method": "awq"})
    assert quantisation(SimpleNamespace(get_text_config=lambda decoder: text)) == {"quant_method": "awq"}


# ---------------------------------------------------------------------------------------------------------- read right


@pytest.mark.parametrize(
    ("name", "dtype"),
    [(name, dtype) for name in FORMATS for dtype in ("float32", "bfloat16") if name not in ("LLM.int8()", "bitnet")],
)
def test_read_as_the_numbers_that_they_stand_for(plain, tmp_path, name, dtype) -> None:
    """All parameters have the dtype asked for, and readings are those of a plain checkpoint of the same numbers."""
    form = FORMATS[name]
    if any(importlib.util.find_spec(package) is None for package in form.packages):
        pytest.skip(f"needs {', '.join(form.packages)}")
    pytest.importorskip("accelerate")
    source, folder, twin = plain["gpt_oss" if name == "mxfp4" else "llama"], tmp_path / "model", tmp_path / "twin"
    stands_for = form.make(source, folder)
    loaded = load_model(str(folder), dtype=dtype)
    assert loaded.precision == dtype
    if not stands_for:  # a package's: that it is read at all, and refused nowhere
        return
    shutil.copytree(source, twin)
    save_file(
        load_file(source / "model.safetensors") | {k: v.contiguous() for k, v in stands_for.items()},
        twin / "model.safetensors",
        metadata={"format": "pt"},
    )
    expected = load_model(str(twin), dtype=dtype)
    got, wanted = (run(model, IDS, readings=("mean",)).readings["mean"] for model in (loaded, expected))
    assert worst_error(got, wanted) < (1e-5 if dtype == "float32" else 0.2)


@pytest.fixture
def not_compiled():
    """transformers compiles BitNet's rounding, which takes longer than these tests."""
    with torch.compiler.set_stance("force_eager"):
        yield


def test_bitnet(plain, tmp_path, not_compiled) -> None:
    """Its layers round activations too: as transformers runs it."""
    pytest.importorskip("accelerate")
    folder = tmp_path / "model"
    FORMATS["bitnet"].make(plain["llama"], folder)
    loaded = load_model(str(folder))
    seen: list[np.ndarray] = []
    with torch.no_grad():
        handle = loaded.body.layers[0].mlp.down_proj.register_forward_pre_hook(lambda m, args: seen.append(args[0][0]))
        for ids in IDS:
            loaded.body(input_ids=torch.from_numpy(ids).long()[None], use_cache=False)
        handle.remove()
    expected = np.stack([(a[1:] if len(a) > 1 else a).double().mean(dim=0).numpy() for a in seen])
    assert worst_error(run(loaded, IDS, readings=("mean",)).readings["mean"][:, :96], expected) < 1e-4


def test_scales_that_are_missing(plain, tmp_path, not_compiled) -> None:
    """A quantiser keeps them as buffers, which transformers fills with ones."""
    pytest.importorskip("accelerate")
    folder = tmp_path / "model"
    FORMATS["bitnet"].make(plain["llama"], folder)
    file = folder / "model.safetensors"
    stored = {name: tensor for name, tensor in load_file(file).items() if "weight_scale" not in name}
    save_file(stored, file, metadata={"format": "pt"})
    assert "lacks 14 weights" in (message := refusal(folder)) and "first layers.0.mlp.down_proj.weight_scale" in message


# ------------------------------------------------------------------------------------------------------ 8 bits, modules


def test_eight_bits_of_a_model_in_memory() -> None:
    """Short random sequences need not show that they depend on the batch."""
    model = llama()
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(NaitError, match=r"^model LlamaForCausalLM: its weights are bitsandbytes' 8 bits, .* 6 in any"):
        prepare(model, None)
    kept = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": 0.0}
    refuse_batch_dependent(SimpleNamespace(quantization_config=kept), "")  # no feature is an outlier


class Packed(nn.Module):
    """A quantiser's linear layer, whose bytes lie along one axis; ``infeatures`` as AutoGPTQ calls its width."""

    def __init__(self, linear: nn.Linear, tells: bool):
        super().__init__()
        self.bytes = nn.Parameter(linear.weight.data.flatten())
        self.shape = linear.weight.shape
        if tells:
            self.infeatures = linear.in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.bytes.view(self.shape))


@pytest.mark.parametrize("tells", [True, False])
def test_layers_whose_matrices_do_not_show(tells: bool) -> None:
    """They are no attention or state space alone, which would be left out."""
    model = llama()
    pack = partial(Packed, tells=tells)
    for layer in model.model.layers[:2]:
        for name in ("gate_proj", "up_proj", "down_proj"):
            setattr(layer.mlp, name, pack(getattr(layer.mlp, name)))
    assert only_mixes(model.model.layers[0]) is not tells
    if tells:
        assert [spec.n_neurons for spec in find_specs(model)] == [40] * 3
        assert input_width(model.model.layers[0].mlp.down_proj) == 40
        return
    with pytest.raises(NaitError, match="Packed does not tell how many numbers go in; load the checkpoint unquantised"):
        [spec.n_neurons for spec in find_specs(model)]


@pytest.mark.parametrize("threshold", [None, "six"])
def test_a_threshold_that_is_no_number(threshold) -> None:
    config = config_of("llama")
    config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True, "llm_int8_threshold": threshold}
    with pytest.raises(NaitError, match="8 bits, by which a token's activations depend on the other samples"):
        refuse_batch_dependent(config, "model")
