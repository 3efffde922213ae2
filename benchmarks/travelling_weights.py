"""A GGUF model in files small enough to be carried to a machine that has no ``gguf`` and no network.

    python -m benchmarks.travelling_weights MODEL.gguf FOLDER [--parts 2]

The blocks of numbers stay as the GGUF file has them (Q4_1: 32 numbers in 20 bytes; Q8_0: 32 in 34), under transformers'
names, spread over ``blocks-0.safetensors``, ``blocks-1.safetensors`` …; configuration and tokenizer lie beside them.
SmolLM2-135M is 97 MB, two files of 46 MiB: where at most 64 MiB travel at a time, and what has travelled stays, it goes
in two calls. ``unpack`` makes an ordinary folder of safetensors of them. The files are written only if what they unpack
to is, every number of it, what transformers reads of the GGUF file: the weights are the real ones. Llama's names only.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch

BLOCK = 32
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def name_of(gguf_name: str) -> str:
    """transformers' name of a tensor of a Llama-like GGUF file."""
    layer = re.fullmatch(r"blk\.(\d+)\.(.+)\.weight", gguf_name)
    if layer:
        return f"model.layers.{layer[1]}.{NAMES[layer[2]]}.weight"
    return f"{NAMES[gguf_name.removesuffix('.weight')]}.weight"


def numbers_of(raw: np.ndarray, kind: str) -> np.ndarray:
    """fp32 [rows, columns] of the blocks ``raw`` uint8 [rows, bytes], of ``kind`` Q4_1 or Q8_0."""
    size = {"Q4_1": 20, "Q8_0": 34}[kind]
    blocks = raw.reshape(len(raw), -1, size)
    scale = blocks[..., :2].copy().view(np.float16).astype(np.float32)
    if kind == "Q8_0":
        return (scale * blocks[..., 2:].view(np.int8).astype(np.float32)).reshape(len(raw), -1)
    least = blocks[..., 2:4].copy().view(np.float16).astype(np.float32)
    codes = np.concatenate([blocks[..., 4:] & 15, blocks[..., 4:] >> 4], axis=-1).astype(np.float32)
    return (scale * codes + least).reshape(len(raw), -1)


def _unpermuted(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection as transformers orders them: llama.cpp pairs a head's halves."""
    return rows.reshape(heads, len(rows) // heads // 2, 2, -1).swapaxes(1, 2).reshape(rows.shape)


def pack(gguf: Path, folder: Path, parts: int) -> list[Path]:
    """Write the files; returns those of blocks. Raises ValueError where they do not unpack to the model's numbers."""
    from gguf import GGUFReader
    from safetensors.numpy import save_file
    from transformers import AutoModelForCausalLM

    from nait_fast.models.load import load_tokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    tensors: dict[str, np.ndarray] = {}
    kinds: dict[str, str] = {}
    for tensor in GGUFReader(gguf).tensors:
        raw = np.array(tensor.data)
        part = tensor.name.split(".")[-2]
        if part in heads:
            raw = _unpermuted(raw, heads[part])
        name, kind = name_of(tensor.name), tensor.tensor_type.name
        tensors[name], kinds[name] = raw, kind
        numbers = raw if kind == "F32" else numbers_of(raw, kind)
        if not np.array_equal(numbers, model.state_dict()[name].numpy()):
            raise ValueError(f"{name} does not unpack to the numbers that transformers reads")
    folder.mkdir(parents=True, exist_ok=True)
    model.config.save_pretrained(folder)
    load_tokenizer(str(gguf)).save_pretrained(folder)
    shares: list[dict[str, np.ndarray]] = [{} for _ in range(parts)]
    for name, raw in sorted(tensors.items(), key=lambda item: -item[1].nbytes):
        min(shares, key=lambda share: sum(x.nbytes for x in share.values()))[name] = raw
    files = []
    for number, share in enumerate(shares):
        files.append(folder / f"blocks-{number}.safetensors")
        save_file(share, files[-1], metadata={"kinds": json.dumps({name: kinds[name] for name in share})})
    return files


def unpack(folder: Path, target: Path, dtype: torch.dtype) -> None:
    """An ordinary folder ``target`` of the model packed in ``folder``, in ``dtype``. Raises FileNotFoundError."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    weights: dict[str, torch.Tensor] = {}
    files = sorted(folder.glob("blocks-*.safetensors"))
    if not files:
        raise FileNotFoundError(
            f"{folder}: no blocks-*.safetensors; python -m benchmarks.travelling_weights makes them"
        )
    for file in files:
        with safe_open(file, "np") as opened:
            kinds = json.loads(opened.metadata()["kinds"])
            for name, kind in kinds.items():
                raw = opened.get_tensor(name)
                numbers = raw if kind == "F32" else numbers_of(raw, kind)
                weights[name] = torch.from_numpy(numbers).to(dtype)
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.glob("*.json"):
        (target / file.name).write_bytes(file.read_bytes())
    for file in folder.glob("*.jinja"):
        (target / file.name).write_bytes(file.read_bytes())
    save_file(weights, target / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--parts", type=int, default=2)
    arguments = parser.parse_args()
    for file in pack(arguments.model, arguments.folder, arguments.parts):
        print(f"{file}: {file.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
