"""Checkpoints whose weights are quantised: what config.json tells of it, which cannot be read here and why, and what
transformers must be asked for so that activations show."""

import copy
import importlib
import re
from typing import Any

import torch

from nait_fast.errors import BadInput, first_line
from nait_fast.models.spec import text_part

# Experts of these run in kernels of their own, where no activation shows; transformers can load them dequantised.
EXPERTS_TO_DEQUANTISE = ("fp8", "mxfp8", "mxfp4")
_PLAIN = "use the model's unquantised checkpoint"
_NEEDS_DEVICE = re.compile(r"\b(GPU|CUDA|XPU|MPS)\b")
_UNASKED = ("fouroversix", "sinq")  # packages that transformers does not ask for early
_OUTLIERS = 6.0  # bitsandbytes' own llm_int8_threshold


def quantisation(config: Any) -> Any:
    """What a configuration, or its part that is of text, says of its weights' quantisation: a dict, transformers' own
    object, or None."""
    return getattr(config, "quantization_config", None) or getattr(text_part(config), "quantization_config", None)


def _of(kept: Any, key: str, default: Any = None) -> Any:
    return kept.get(key, default) if isinstance(kept, dict) else getattr(kept, key, default)


def quantiser(config: Any) -> str | None:
    """What a configuration says its weights were quantised with: bitsandbytes, fp8, mxfp4 …"""
    method = _of(quantisation(config), "quant_method")
    return None if method is None else str(getattr(method, "value", method))


def refuse_batch_dependent(config: Any, where: str) -> None:
    """Raise BadInput for weights whose products with a token depend on what else is in its batch.

    bitsandbytes' LLM.int8() computes an input feature apart, in 16 bits, where it exceeds a threshold at any token of a
    batch (Dettmers et al. 2022, section 3.2); short random sequences need not show that.
    """
    kept = quantisation(config)
    given = _of(kept, "llm_int8_threshold", _OUTLIERS)
    threshold = given if isinstance(given, (int, float)) else _OUTLIERS  # transformers refuses what is no number
    if quantiser(config) == "bitsandbytes" and _of(kept, "load_in_8bit") and threshold > 0:
        raise BadInput(
            "its weights are bitsandbytes' 8 bits, by which a token's activations depend on the other samples of its "
            f"batch (features above llm_int8_threshold {threshold:g} in any of them are computed apart)",
            where=where,
            remedy="use its weights in 4 bits or unquantised",
        )


def refuse_unreadable(config: Any, device: torch.device, where: str) -> None:
    """Raise BadInput, before a weight is read, for weights whose quantisation cannot be read on ``device``, or not
    without a package that is missing: transformers' own quantiser is asked."""
    import transformers
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING, AutoHfQuantizer

    kept, method = quantisation(config), quantiser(config)
    if kept is None:
        return
    names = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    if method not in names:
        said = "a quantisation without a quant_method" if method is None else f"weights quantised by {method}"
        raise BadInput(
            f"its config.json tells of {said}, which transformers {transformers.__version__} does not read",
            where=where,
            remedy=f"{_PLAIN}; if these weights are plain numbers, take quantization_config out of config.json",
        )
    refuse_batch_dependent(config, where)
    try:
        asked = AutoHfQuantizer.from_config(copy.deepcopy(kept), pre_quantized=True)
        asked.validate_environment(device_map=device_map(config, device), weights_only=True)
        if method in _UNASKED:
            importlib.import_module(method)
    except Exception as error:  # a quantiser's own, of any kind
        why = first_line(error)
        if device.type == "cpu" and _NEEDS_DEVICE.search(why):
            remedy = f"load it on a GPU that this quantisation runs on, or {_PLAIN}"
        else:
            remedy = "install that package" if isinstance(error, ImportError) else _PLAIN
        raise BadInput(
            f"its weights are quantised by {method} and cannot be loaded ({why})", where=where, remedy=remedy
        ) from None


def device_map(config: Any, device: torch.device) -> dict[str, torch.device] | None:
    """Where from_pretrained puts quantised weights: on a GPU at once. Metal's go to a Mac's unless another is named."""
    return {"": device} if device.type != "cpu" or quantiser(config) == "metal" else None


def prepare_quantised(config: Any, device: torch.device, named: dict[str, Any], experts: bool) -> bool:
    """What a quantised checkpoint needs of from_pretrained: its device at once, and weights unpacked from the start.

    ``experts``: the model has some, whose activations show only where their weights are plain numbers. Whether it is
    for their sake that the model is loaded dequantised.
    """
    kept = quantisation(config)
    if kept is None:
        return False
    if (place := device_map(config, device)) is not None:
        named["device_map"] = place
    method = quantiser(config)
    for_experts = experts and method in EXPERTS_TO_DEQUANTISE
    # compressed-tensors: else at the first forward of the outermost module, which may never run here
    if for_experts or method == "compressed-tensors":
        if isinstance(kept, dict):
            kept["dequantize"] = True
        else:
            kept.dequantize = True
        named["config"] = config
    return for_experts
