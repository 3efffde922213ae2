"""Checkpoints of quantised weights, made of a folder of plain ones: by hand where a format is a matter of bytes, else
by the package that the format is of.

Each maker returns the numbers that the quantised weights stand for, by their names in the plain checkpoint; a package's
does not tell them, and an empty dict comes back.
"""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

Weights = dict[str, torch.Tensor]
# (what is stored, by the end of its name; the numbers that it stands for), of a weight [N, K] or [E, K, N]
Quantise = Callable[[torch.Tensor], tuple[Weights, torch.Tensor]]
NF4 = {"bnb_4bit_quant_type": "nf4"}
GROUP = 32  # input features that share a scale
LINEAR = re.compile(r"(proj|\.w[123])\.weight$")
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # of the eight numbers of a word
E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
LARGEST_E4M3 = 448.0


@dataclass(frozen=True)
class Format:
    """How a checkpoint is kept: ``make(source, folder)``; ``packages`` that loading needs."""

    make: Callable[[Path, Path], Weights]
    packages: tuple[str, ...] = ()


def by_hand(quantise: Quantise, quantised: re.Pattern[str] = LINEAR, **config: Any) -> Callable[[Path, Path], Weights]:
    """A maker that stores the weights whose names ``quantised`` matches as ``quantise`` says, and ``config`` in
    config.json."""

    def make(source: Path, folder: Path) -> Weights:
        stored, stands_for = Weights(), Weights()
        for name, weight in load_file(source / "model.safetensors").items():
            if not quantised.search(name) or weight.shape[-1] % GROUP or weight.shape[-2] % GROUP:
                stored[name] = weight
                continue
            parts, stands_for[name] = quantise(weight.float())
            stem = name.removesuffix(".weight")
            stored |= {f"{stem}{end}": tensor.contiguous() for end, tensor in parts.items()}
        shutil.copytree(source, folder)
        save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
        _configure(folder, config)
        return stands_for

    return make


def _configure(folder: Path, quantisation: dict[str, Any]) -> None:
    file = folder / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"quantization_config": quantisation}, default=str))


# --------------------------------------------------------------------------------------------------------- by hand


def fp8(block: int) -> Quantise:
    """e4m3 with a scale for each ``block`` square (DeepSeek's)."""

    def quantise(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
        n, k = weight.shape
        tiles = weight.reshape(n // block, block, k // block, block)
        scale = tiles.abs().amax(dim=(1, 3)) / LARGEST_E4M3
        kept = (tiles / scale[:, None, :, None]).to(torch.float8_e4m3fn)
        stands_for = (kept.float() * scale[:, None, :, None]).reshape(n, k)
        return {".weight": kept.reshape(n, k), ".weight_scale_inv": scale}, stands_for

    return quantise


def mxfp8(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """e4m3 with a power of two, kept as its exponent and 127, for ``GROUP`` input features."""
    n, k = weight.shape
    groups = weight.reshape(n, k // GROUP, GROUP)
    exponent = (groups.abs().amax(dim=2) / LARGEST_E4M3).log2().ceil()
    kept = (groups / exponent.exp2()[..., None]).to(torch.float8_e4m3fn)
    stands_for = (kept.float() * exponent.exp2()[..., None]).reshape(n, k)
    return {".weight": kept.reshape(n, k), ".weight_scale_inv": (exponent + 127).to(torch.uint8)}, stands_for


def mxfp4(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """e2m1, two in a byte, of experts' weights [E, K, N]; scales as ``mxfp8``'s, over K."""
    e, k, n = weight.shape
    groups = weight.transpose(1, 2).reshape(e, n, k // GROUP, GROUP)
    exponent = groups.abs().amax(dim=3).log2().floor() - 2  # the largest e2m1 number lies between 2² and 2³
    scaled = groups / exponent.exp2()[..., None]
    code = (scaled.abs()[..., None] - E2M1).abs().argmin(dim=-1)
    values = torch.where(scaled < 0, -E2M1[code], E2M1[code]) * exponent.exp2()[..., None]
    bits = (code + 8 * (scaled < 0)).to(torch.uint8)
    blocks = bits[..., 0::2] | bits[..., 1::2] << 4
    return (
        {"_blocks": blocks, "_scales": (exponent + 127).to(torch.uint8)},
        values.reshape(e, n, k).transpose(1, 2).contiguous(),
    )


def _grouped(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four bits with a zero point: (numbers int32 [N, K], zeros int32 and scales fp16 [N, K / GROUP], what they stand
    for fp32 [N, K])."""
    n, k = weight.shape
    groups = weight.reshape(n, k // GROUP, GROUP)
    low, high = groups.amin(dim=2).clamp(max=0), groups.amax(dim=2).clamp(min=0)
    scale = ((high - low) / 15).half()
    zero = (-low / scale).round().clamp(1, 15)  # GPTQ keeps one less
    numbers = ((groups / scale[..., None]).round() + zero[..., None]).clamp(0, 15)
    stands_for = ((numbers - zero[..., None]) * scale[..., None].float()).reshape(n, k)
    return numbers.reshape(n, k).int(), zero.int(), scale, stands_for


def _packed(numbers: torch.Tensor, order: tuple[int, ...] = tuple(range(8))) -> torch.Tensor:
    """Eight numbers of four bits along the last axis to an int32, ``order[i]`` at its place i."""
    eights = numbers.reshape(*numbers.shape[:-1], -1, 8).long()
    words = sum(eights[..., place] << 4 * i for i, place in enumerate(order))
    return torch.as_tensor(words).to(torch.int32)


def gptq(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    numbers, zero, scale, stands_for = _grouped(weight)
    parts = {
        ".qweight": _packed(numbers).T,  # [K / 8, N]
        ".qzeros": _packed((zero - 1).T.contiguous()),  # [K / GROUP, N / 8]
        ".scales": scale.T,
        ".g_idx": torch.arange(weight.shape[1], dtype=torch.int32) // GROUP,
    }
    return parts, stands_for


def auto_round(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """GPTQ's, whose groups lie in their order."""
    parts, stands_for = gptq(weight)
    return {end: tensor for end, tensor in parts.items() if end != ".g_idx"}, stands_for


def awq(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    numbers, zero, scale, stands_for = _grouped(weight)
    parts = {
        ".qweight": _packed(numbers.T.contiguous(), AWQ_ORDER),  # [K, N / 8]
        ".qzeros": _packed(zero.T.contiguous(), AWQ_ORDER),
        ".scales": scale.T,
    }
    return parts, stands_for


def metal(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """Four bits, a scale and a bias for ``GROUP`` input features, as Apple's MLX keeps them."""
    n, k = weight.shape
    groups = weight.reshape(n, k // GROUP, GROUP)
    bias = groups.amin(dim=2)
    scale = (groups.amax(dim=2) - bias) / 15
    numbers = ((groups - bias[..., None]) / scale[..., None]).round().clamp(0, 15)
    stands_for = (numbers * scale[..., None] + bias[..., None]).reshape(n, k)
    packed = _packed(numbers.reshape(n, k)).view(torch.uint32)
    return {".weight": packed, ".scales": scale, ".qbiases": bias}, stands_for


def gemma(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """Four bits, two in a byte, with a scale for each output feature; activations as they are."""
    scale = weight.abs().amax(dim=1, keepdim=True) / 7
    numbers = (weight / scale).round()
    bits = (numbers + 8).to(torch.uint8)
    parts = {
        ".weight": bits[:, 0::2] | bits[:, 1::2] << 4,
        ".weight_scale": scale,
        ".input_activation_scale": torch.tensor(0.0),
        ".output_activation_scale": torch.tensor(0.0),
    }
    return parts, numbers * scale


def bitnet(weight: torch.Tensor) -> tuple[Weights, torch.Tensor]:
    """Numbers of {-1, 0, 1}, four in a byte, with one scale in bf16; activations become 8 bits at each token."""
    n = len(weight)
    scale = weight.abs().mean().reshape(1).bfloat16()
    numbers = (weight / scale.float()).round().clamp(-1, 1)
    quarters = (numbers + 1).to(torch.uint8).reshape(4, n // 4, -1)
    packed = quarters[0] | quarters[1] << 2 | quarters[2] << 4 | quarters[3] << 6
    return {".weight": packed, ".weight_scale": scale}, numbers * scale.float()


# ----------------------------------------------------------------------------------------------------- by packages


def by_transformers(config: Callable[[], Any]) -> Callable[[Path, Path], Weights]:
    """A maker that has transformers quantise as ``config()`` says."""

    def make(source: Path, folder: Path) -> Weights:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, quantization_config=config())
        model.save_pretrained(folder)
        for file in source.glob("*token*"):
            shutil.copy(file, folder)
        return {}

    return make


def _bitsandbytes(bits: int) -> Any:
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(load_in_8bit=True) if bits == 8 else BitsAndBytesConfig(load_in_4bit=True, **NF4)


def _torchao() -> Any:
    from torchao.quantization import Int8WeightOnlyConfig
    from transformers import TorchAoConfig

    return TorchAoConfig(Int8WeightOnlyConfig())


def compressed_tensors(kind: str, **arguments: Any) -> Callable[[Path, Path], Weights]:
    """A maker of vLLM's format; ``kind``: 'pack-quantized' or 'float-quantized', ``arguments`` of the weights."""

    def make(source: Path, folder: Path) -> Weights:
        from compressed_tensors.compressors import ModelCompressor
        from compressed_tensors.quantization import (
            QuantizationArgs,
            QuantizationConfig,
            QuantizationScheme,
            apply_quantization_config,
        )
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
        scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(symmetric=True, **arguments))
        config = QuantizationConfig(
            config_groups={"group_0": scheme}, ignore=["lm_head"], quantization_status="compressed", format=kind
        )
        apply_quantization_config(model, config)
        for module in model.modules():
            if hasattr(module, "weight_scale"):
                groups = module.weight.data.reshape(*module.weight_scale.shape, -1)
                largest = 7 if kind == "pack-quantized" else LARGEST_E4M3
                module.weight_scale.data.copy_(groups.abs().amax(dim=-1) / largest)
        (ModelCompressor.from_pretrained_model(model) or ModelCompressor(config)).compress_model(model)
        model.save_pretrained(folder)
        for file in source.glob("*token*"):
            shutil.copy(file, folder)
        method = {"quant_method": "compressed-tensors", "quantization_status": "compressed"}
        _configure(folder, config.to_dict() | method)
        return {}

    return make


EXPERTS = re.compile(r"experts\.(gate_up|down)_proj$")
_FOUR_BITS = {"bits": 4, "group_size": GROUP}
FORMATS = {
    "nf4": Format(by_transformers(lambda: _bitsandbytes(4)), ("bitsandbytes",)),
    "LLM.int8()": Format(by_transformers(lambda: _bitsandbytes(8)), ("bitsandbytes",)),
    "torchao int8": Format(by_transformers(_torchao), ("torchao",)),
    "W4A16": Format(
        compressed_tensors("pack-quantized", num_bits=4, type="int", strategy="group", group_size=GROUP),
        ("compressed_tensors",),
    ),
    "W8A16 fp8": Format(
        compressed_tensors("float-quantized", num_bits=8, type="float", strategy="channel"), ("compressed_tensors",)
    ),
    "awq": Format(by_hand(awq, quant_method="awq", zero_point=True, version="gemm", **_FOUR_BITS), ("gptqmodel",)),
    "gptq": Format(
        by_hand(gptq, quant_method="gptq", sym=False, desc_act=False, **_FOUR_BITS), ("optimum", "gptqmodel")
    ),
    "auto-round": Format(
        by_hand(auto_round, quant_method="auto-round", sym=False, packing_format="auto_round:auto_gptq", **_FOUR_BITS),
        ("auto_round", "auto_round_kernel"),
    ),
    "fp8": Format(by_hand(fp8(GROUP), quant_method="fp8", fmt="e4m3", weight_block_size=[GROUP, GROUP])),
    "mxfp8": Format(by_hand(mxfp8, quant_method="mxfp8", weight_block_size=[1, GROUP])),
    "mxfp4": Format(by_hand(mxfp4, EXPERTS, quant_method="mxfp4", modules_to_not_convert=["lm_head", "self_attn"])),
    "metal": Format(by_hand(metal, quant_method="metal", **_FOUR_BITS)),
    "gemma": Format(by_hand(gemma, quant_method="gemma", num_bits=4, modules_to_not_convert=["lm_head"])),
    "bitnet": Format(by_hand(bitnet, quant_method="bitnet", linear_class="autobitlinear", quantization_mode="offline")),
}
