"""A model's identity: a hash of all that decides what its forward computes up to the last chosen layer.

That is the value of every weight and persistent buffer outside of the decoder's layers and in those up to the last
chosen one, the configuration but its inert keys, the chosen layers, and of adapters which are on and how strong. Values
count, not how they are kept: a tensor is hashed in blocks, as bf16 where every number of the block is one, else as
fp32, else as fp64, so that a checkpoint in bf16 has one identity in bf16 and fp32, from files or in memory, on any
device. Weights of other types (quantised ones) are hashed as they are kept, together with the configuration of the
quantisation.
"""

import copy
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from nait_fast.compatibility import DIGITS
from nait_fast.errors import BadInput
from nait_fast.models.adapters import state_of_adapters
from nait_fast.models.spec import Spec, text_part
from nait_fast.models.weight_cache import CacheEntry

BLOCK = 1 << 22  # numbers hashed at once: fixed, as a block has one form
SAMPLES = 64  # of each tensor, which tell whether a kept hash is that of these weights

# Keys of a configuration that the decoder's forward does not read in evaluation mode, or that decide none of its
# numbers. Any other key counts, known or not.
_INERT_TEXT = {
    "names and origin": "_name_or_path _commit_hash architectures auto_map transformers_version tokenizer_class",
    "storage": "dtype torch_dtype quantization_config",  # the last counts where weights are not plain numbers
    "token ids": "bos_token_id eos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id "
    "forced_eos_token_id image_token_id image_token_index video_token_id audio_token_id",
    "what is returned": "use_cache output_attentions output_hidden_states output_router_logits return_dict "
    "return_dict_in_generate",
    "heads": "id2label label2id num_labels problem_type finetuning_task task_specific_params tie_word_embeddings "
    "final_logit_softcapping summary_type summary_use_proj summary_activation summary_proj_to_labels",
    "training": "initializer_range initializer_factor pretraining_tp router_aux_loss_coef router_z_loss_coef",
    "other modalities": "vision_config audio_config",
}
INERT = frozenset(key for keys in _INERT_TEXT.values() for key in keys.split())
_INERT_PARTS = ("dropout", "pdrop", "unsloth", "_version", "_attn_implementation", "_experts_implementation")
_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def identity_of(decides: Mapping[str, Any], specs: Sequence[Spec]) -> str:
    """The identity of a model of which this ``decides``, with the layers of ``specs``: ``DIGITS`` hex digits."""
    return hashlib.sha256(_json({**decides, "layers": [spec.layer for spec in specs]})).hexdigest()[:DIGITS]


def decisive(body: Any, specs: Sequence[Spec], entry: CacheEntry | None = None) -> dict[str, Any]:
    """What decides the numbers of a forward of the decoder ``body`` to the last of ``specs``, its chosen layers, or to
    the body's end where there are none.

    ``entry``: where the hash of the weights is kept, for those read from files. Raises NaitError for weights that
    cannot be read.
    """
    tensors = dict(read_tensors(body, specs))
    sample = _sampled(tensors) if entry is not None else ""
    weights = entry.get(sample) if entry is not None else None
    if weights is None:
        weights = weights_hash(tensors)
        if entry is not None:
            entry.put(sample, weights)
    plain = all(tensor.dtype in _FLOATS for tensor in tensors.values() if isinstance(tensor, torch.Tensor))
    decides = {
        "weights": weights,
        "config": config_values(body.config, quantised=not plain),
        "rotary": _own_rotary(body),
    }
    if adapters := state_of_adapters(body, tuple(_beyond(body, specs))):
        decides["adapters"] = adapters
    return decides


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str, separators=(",", ":")).encode(errors="backslashreplace")


def config_values(config: Any, quantised: bool = False) -> dict[str, Any]:
    """The values of ``config`` (its text part, where it has several) that count, in one form.

    What is None or False counts as what is absent: so a later transformers may bring new keys that are off.
    ``quantised``: how the weights were quantised counts, too.
    """
    text = text_part(config)
    canonical = _canonical(text.to_dict())
    if quantised:
        given: Any = getattr(config, "quantization_config", None) or getattr(text, "quantization_config", None)
        canonical["quantization_config"] = _canonical(given.to_dict() if hasattr(given, "to_dict") else given)
    return canonical


def _canonical(value: Any) -> Any:
    if isinstance(value, Mapping):
        items = {str(key): _canonical(item) for key, item in value.items() if not _inert(str(key))}
        return {key: item for key, item in items.items() if item is not None and item is not False}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _inert(key: str) -> bool:
    return key in INERT or any(part in key for part in _INERT_PARTS)


def read_tensors(body: nn.Module, specs: Sequence[Spec]) -> Iterator[tuple[str, Any]]:
    """(name, weight or persistent buffer, or what else a module keeps as its state) that a forward to the last of
    ``specs`` may read (to the body's end, without any), by name. Raises NaitError for a weight that has no values."""
    unread = tuple(_beyond(body, specs))
    state = _state_of(body)
    for name in sorted(state):
        if name.startswith(unread):
            continue
        value = state[name]
        if isinstance(value, torch.Tensor) and value.device.type == "meta":
            value = _offloaded(body, name)
        yield name.replace("_orig_mod.", ""), value  # of a compiled module


def _state_of(body: nn.Module) -> dict[str, Any]:
    """``body``'s state, and ``body`` as it was: bitsandbytes unpacks 4-bit weights that a CPU has run for it, for good
    and not as they were."""
    packed: list[tuple[Any, torch.Tensor, Any]] = []
    for module in body.modules():
        weight: Any = getattr(module, "weight", None)
        if getattr(getattr(weight, "quant_state", None), "packing_format_for_cpu", False):
            packed.append((module, weight.data, copy.copy(weight.quant_state)))
    state: dict[str, Any] = body.state_dict(keep_vars=True)
    if not packed:
        return state
    state = {name: value.detach() if isinstance(value, torch.Tensor) else value for name, value in state.items()}
    for holder, data, quantised in packed:
        holder.weight.data, holder.weight.quant_state = data, quantised
        if getattr(holder, "quant_state", None) is not None:
            holder.quant_state = quantised
    return state


def _beyond(body: nn.Module, specs: Sequence[Spec]) -> Iterator[str]:
    """Prefixes of the names of what lies in layers after the last one of ``specs``."""
    if not specs:
        return
    last = specs[-1]
    for name, module in body.named_modules():
        if not isinstance(module, nn.ModuleList) or len(module) <= last.layer:
            continue
        if any(part is last.module for part in module[last.layer].modules()):
            yield from (f"{name}.{number}." for number in range(last.layer + 1, len(module)))


def _offloaded(body: nn.Module, name: str) -> Callable[[], torch.Tensor]:
    """What reads a weight that accelerate keeps on the CPU or on disk. Raises NaitError for one that is nowhere."""
    path, _, tensor_name = name.rpartition(".")
    hook = getattr(body.get_submodule(path), "_hf_hook", None)
    for each in (hook, *getattr(hook, "hooks", ())):
        weights = getattr(each, "weights_map", None)
        if weights is not None:
            return lambda: weights[tensor_name]
    raise BadInput(
        f"its weight {name} has no values (it is on the meta device)",
        where="model",
        remedy="load the model with its weights",
    )


def weights_hash(tensors: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and values. Blocks are hashed by several threads: hashlib lets go of the GIL."""
    with ThreadPoolExecutor(_threads()) as pool:
        parts = [(name, [pool.submit(read) for read in _parts(name, value)]) for name, value in tensors.items()]
        digest = hashlib.sha256()
        for name, futures in parts:
            digest.update(_json([name]) + b"".join(future.result() for future in futures))
    return digest.hexdigest()


def _parts(name: str, value: Any) -> Iterator[Callable[[], bytes]]:
    """What hashes the shape of a tensor and each of its blocks, or a module's state."""
    if isinstance(value, torch.Tensor):
        yield lambda: _json(list(value.shape))
        yield from _blocks(value)
    elif callable(value):  # one at a time: they may be more than memory holds
        yield lambda: b"".join(read() for read in _parts(name, value()))
    else:
        yield lambda: _state(name, value)


def _threads() -> int:
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(16, available))


def _blocks(tensor: torch.Tensor) -> Iterator[Callable[[], bytes]]:
    """What hashes each block of ``tensor``; a tensor made of others (torchao's) has theirs."""
    if hasattr(tensor, "__tensor_flatten__"):
        for name in tensor.__tensor_flatten__()[0]:
            yield from _blocks(getattr(tensor, name))
        return
    flat = tensor.detach().reshape(-1)
    for start in range(0, flat.numel(), BLOCK):
        yield partial(block_digest, flat[start : start + BLOCK])


def block_digest(block: torch.Tensor) -> bytes:
    """SHA-256 of the values of ``block`` [n], whatever floating type holds them."""
    block = block.contiguous().to("cpu")
    if block.dtype not in _FLOATS:
        kind = str(block.dtype).removeprefix("torch.").encode()
        return _digest(kind, block.view(torch.uint8).numpy())
    if block.dtype == torch.bfloat16:
        return _digest(b"bf16", block.view(torch.int16).numpy())
    if block.dtype == torch.float64:
        short = block.float()
        if not torch.equal(short.double(), block):
            return _digest(b"fp64", block.numpy())
        block = short
    halves = block.float().numpy().view("<u2")
    if halves[:8192:2].any() or halves[::2].any():
        return _digest(b"fp32", halves)
    return _digest(b"bf16", np.ascontiguousarray(halves[1::2]))


def _digest(kind: bytes, values: np.ndarray) -> bytes:
    digest = hashlib.sha256(kind + b"\0")
    digest.update(values.data)
    return digest.digest()


def _state(name: str, value: Any) -> bytes:
    """A module's extra state: plain values as JSON, tensors in them by value. Raises NaitError for anything else."""
    if isinstance(value, torch.Tensor):
        return hashlib.sha256(b"".join(read() for read in _blocks(value))).digest()
    if isinstance(value, (bytes, bytearray)):
        return hashlib.sha256(value).digest()
    if isinstance(value, Mapping):
        return b"".join(_json(str(key)) + _state(name, value[key]) for key in sorted(value, key=str))
    if isinstance(value, (list, tuple)):
        return b"".join(_state(name, item) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype, torch.device)):
        return _json(str(value))
    raise BadInput(
        f"the state {name} is a {type(value).__name__}, which cannot be made part of the model's identity",
        where="model",
        remedy="load the model without that quantisation",
    )


def _sampled(tensors: Mapping[str, Any]) -> str:
    """A hash of some values of each tensor: of no use as an identity, but quick."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        digest.update(_json([name, str(getattr(value, "dtype", "")), list(getattr(value, "shape", ()))]))
        if isinstance(value, torch.Tensor) and not hasattr(value, "__tensor_flatten__"):
            flat = value.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // SAMPLES)][:SAMPLES]
            digest.update(some.contiguous().to("cpu").view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _own_rotary(body: nn.Module) -> dict[str, str]:
    """Rotary frequencies that are not what the configuration says: of a model in memory that somebody has changed, for
    instance by ``model.to(torch.bfloat16)``, which rounds them."""
    digests = {}
    for name, module in body.named_modules():
        buffers = [entry for entry in module.named_buffers(recurse=False) if entry[0].endswith("inv_freq")]
        if not buffers or not hasattr(module, "config"):
            continue
        rope = getattr(module.config, "rope_parameters", None) or {}
        if any(kind in str(rope) for kind in ("dynamic", "longrope")):  # these change with the longest sequence seen
            continue
        try:
            fresh = dict(type(module)(config=module.config).named_buffers(recurse=False))
        except Exception:  # a class of its own: whatever its constructor wants
            continue
        for buffer_name, buffer in buffers:
            got = buffer.detach().to("cpu", torch.float64)
            if buffer.device.type != "meta" and buffer_name in fresh and not buffer_name.startswith("original"):
                wanted = fresh[buffer_name].to("cpu", torch.float64)
                if got.shape != wanted.shape or not torch.allclose(got, wanted, rtol=1e-5, atol=0):
                    digests[f"{name}.{buffer_name}"] = hashlib.sha256(got.numpy().tobytes()).hexdigest()
    return digests
