"""What is not supported is refused before a weight is read; what is, is found there as it is after loading."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModel, PreTrainedModel

from nait_fast.errors import NaitError
from nait_fast.models.find import find_specs
from nait_fast.models.load import load_model, prepare
from nait_fast.models.packing_checks import known_to_pad
from nait_fast.models.quantised import prepare_quantised, quantiser
from nait_fast.models.unloaded import find_unloaded
from nait_fast.notices import NaitWarning
from tests.conftest import make_tokenizer
from tests.models import test_experts, test_families
from tests.models.tiny import NEURONS, build, config_of


def no_weights(*arguments, **named):
    raise AssertionError("weights are read")


def folder_of(config, folder: Path) -> str:
    config.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    "model_type, extra, layers, message",
    [
        ("mamba", {}, "all", "no MLP"),
        ("jetmoe", {"kv_channels": 8}, "all", "a mixture of experts of its own kind"),
        ("llama", {}, "7", "'7' does not lie in this model's 3 layers"),
    ],
)
def test_refused_without_weights(tmp_path, monkeypatch, model_type, extra, layers, message) -> None:
    folder = folder_of(config_of(model_type, **extra), tmp_path)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", no_weights)
    with pytest.raises(NaitError, match=message) as caught:
        load_model(folder, layers=layers)
    assert "\n" not in str(caught.value)


def test_an_encoder_decoder_is_refused_without_weights(tmp_path, monkeypatch) -> None:
    tiny = {"d_model": 16, "vocab_size": 60, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    sizes = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 24, "decoder_ffn_dim": 24}
    folder = folder_of(config_of("bart", {}, **tiny, **sizes), tmp_path)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", no_weights)
    with pytest.raises(NaitError, match="an encoder-decoder; nait_fast reads decoders"):
        load_model(folder)


@pytest.mark.parametrize("name", test_families.FAMILIES)
def test_what_is_found_is_what_is_read(name: str) -> None:
    config = test_families.config_for(name)
    model = build(config)
    found = find_unloaded(config, [AutoModel])
    decoder, specs = found.decoder, found.specs
    assert [spec.n_neurons for spec in specs] == [spec.n_neurons for spec in find_specs(model)] == [NEURONS] * 3
    assert name == "diffllama" or {p.device.type for p in decoder.parameters()} == {"meta"}  # it makes some by itself
    assert sum(p.numel() for p in decoder.parameters()) == sum(p.numel() for p in model.base_model.parameters())
    packs = test_families.FAMILIES[name][0]
    assert not (packs and known_to_pad(decoder)), "what is said to run padded does"


@pytest.mark.parametrize("name", test_experts.KINDS)
def test_experts_are_found(name: str) -> None:
    config = test_experts.config_for(name)
    found = find_unloaded(config, [AutoModel])
    decoder, specs = found.decoder, found.specs
    built = find_specs(build(config))
    assert [(s.layer, s.n_neurons, s.hidden_width) for s in specs] == [
        (s.layer, s.n_neurons, s.hidden_width) for s in built
    ]
    if known_to_pad(decoder):
        assert not prepare(build(config), None).packs


def test_it_takes_no_time() -> None:
    """A model of 70B parameters."""
    config = config_of(
        "llama", {}, hidden_size=8192, intermediate_size=28672, num_hidden_layers=80, num_attention_heads=64
    )
    start = time.perf_counter()
    specs = find_unloaded(config, [AutoModel]).specs
    assert len(specs) == 80 and time.perf_counter() - start < 5


def test_what_cannot_be_built_is_left_to_loading() -> None:
    assert find_unloaded(config_of("llama"), [SimpleNamespace(from_config=no_weights)]) is None
    decoder = find_unloaded(config_of("llama"), [SimpleNamespace(from_config=no_weights), AutoModel]).decoder
    assert type(decoder).__name__ == "LlamaModel"


def test_experts_are_loaded_as_plain_numbers() -> None:
    """Where their kernels show no activation: FP8's and MXFP4's."""
    for method, experts, wanted in (("fp8", True, True), ("mxfp4", True, True), ("fp8", False, None)):
        config = SimpleNamespace(quantization_config={"quant_method": method})
        named: dict = {}
        assert prepare_quantised(config, torch.device("cuda"), named, experts) is bool(wanted)
        assert quantiser(config) == method and config.quantization_config.get("dequantize") is wanted
        assert named.get("config") is (config if wanted else None) and named["device_map"] == {"": torch.device("cuda")}


def quantise(weight: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(float8 [.., N, K], a scale for each ``block`` square)."""
    n, k = weight.shape
    tiles = weight.reshape(n // block, block, k // block, block)
    scale = tiles.abs().amax(dim=(1, 3)) / 448
    return (tiles / scale[:, None, :, None]).reshape(n, k).to(torch.float8_e4m3fn), scale


def test_fp8_experts(tmp_path) -> None:
    pytest.importorskip("accelerate")
    from safetensors.torch import load_file, save_file

    extra = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "hidden_size": 32, "head_dim": 16}
    model = build(config_of("qwen3_moe", **extra, vocab_size=600))
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    weights, file = {}, tmp_path / "model.safetensors"
    for name, weight in load_file(file).items():
        if name.endswith("proj.weight"):
            weight, weights[name + "_scale_inv"] = quantise(weight, 16)
        weights[name] = weight
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [16, 16]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(NaitWarning, match="experts are kept as fp8, .* loaded dequantised"):
        loaded = load_model(str(tmp_path))
    assert loaded.widths == [4 * 32] * 3
    for got, plain in zip(loaded.specs, find_specs(model), strict=True):
        error = (got.module.down_proj - plain.module.down_proj).norm() / plain.module.down_proj.norm()
        assert got.module.down_proj.dtype == torch.float32 and 1e-4 < error < 0.05


def test_mxfp4_experts(tmp_path) -> None:
    pytest.importorskip("accelerate")
    from safetensors.torch import load_file, save_file
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    extra = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 64, "hidden_size": 32}
    model = build(config_of("gpt_oss", **extra, vocab_size=600))
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    generator = torch.Generator().manual_seed(0)
    weights, expected, file = {}, {}, tmp_path / "model.safetensors"
    for name, weight in load_file(file).items():
        if name.endswith(("gate_up_proj", "down_proj")):  # [E, in, out] -> [E, out, in / 32, 16]
            shape = (weight.shape[0], weight.shape[2], weight.shape[1] // 32)
            blocks = torch.randint(256, (*shape, 16), generator=generator, dtype=torch.uint8)
            scales = torch.randint(120, 126, shape, generator=generator, dtype=torch.uint8)
            weights |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            expected[name.removeprefix("model.")] = convert_moe_packed_tensors(blocks, scales)
        else:
            weights[name] = weight
    save_file(weights, file, metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head", "self_attn"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.warns(NaitWarning, match="experts are kept as mxfp4, .* loaded dequantised"):
        loaded = load_model(str(tmp_path))
    assert loaded.widths == [4 * 64] * 3
    for name, values in expected.items():
        got = loaded.body.get_parameter(name)
        assert got.dtype == torch.float32 and torch.equal(got, values.float())
