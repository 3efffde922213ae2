"""A re-statement of what NAG's public extractor (arXiv 2604.15706, github.com/asillycat/NAG) computes per batch.

NAG ships modified copies of modelling files that need transformers below 5. To compare on one transformers version,
this file repeats the work of its loop with hooks on unmodified modules of a Llama-like model; it is written anew and
shares no code with it. Per batch, in file order: left padding, eager attention, the up projection evaluated a second
time in each layer, the masked mean |·| of all of its score types (up, down, q, k, v, o) and of the hidden states,
logits at every position, the top-K indices copied to the host at once, and one line of JSON text a row.

Left out: its tokenising in four loader processes (every tool here is given token ids), reading Parquet, and
NAG's score hooks inside attention (here on the projections' outputs, the same number of elements).

    python -m benchmarks.nag_style --model FOLDER [--gguf FILE] --dataset POOL.jsonl --rows 64 --max-length 120
"""

from __future__ import annotations

import json
import os
import tempfile
import time

import torch

from benchmarks.baseline import arguments, load, pad_id, read_rows, report, tokenise


@torch.no_grad()
def run_nag_style(model, tokenizer, samples, out, batch_size=8, top_k=20):
    """Write one JSON line a row to the text file `out`; (seconds, real tokens)."""
    scores, mask, denominator = {}, None, None
    handles = []

    def record(kind, layer, x):
        scores[kind, layer] = torch.sum(torch.abs(x) * mask, dim=1) / denominator

    def output_hook(kind, layer):
        def hook(module, args, output):
            record(kind, layer, output[0] if isinstance(output, tuple) else output)

        return hook

    def mlp_hook(layer):
        def hook(module, args, output):
            record("up", layer, module.up_proj(args[0]))  # the second evaluation
            record("down", layer, output)

        return hook

    layers = model.model.layers
    for layer, block in enumerate(layers):
        handles.append(block.register_forward_hook(output_hook("hidden", layer)))
        handles.append(block.mlp.register_forward_hook(mlp_hook(layer)))
        for kind in "qkvo":
            projection = getattr(block.self_attn, f"{kind}_proj")
            handles.append(projection.register_forward_hook(output_hook(kind, layer)))
    pad, device = pad_id(tokenizer), model.device
    started = time.perf_counter()
    try:
        for begin in range(0, len(samples), batch_size):
            batch = samples[begin : begin + batch_size]
            width = max(map(len, batch))
            ids = torch.tensor([[pad] * (width - len(x)) + list(x) for x in batch]).to(device)
            valid = torch.tensor([[0] * (width - len(x)) + [1] * len(x) for x in batch]).to(device)
            mask = valid.unsqueeze(-1)
            denominator = mask.sum(dim=1).clamp_min(1e-6)
            model(input_ids=ids, attention_mask=valid, use_cache=False)
            up = torch.stack([scores["up", layer] for layer in range(len(layers))], dim=1).float()
            top = up.topk(min(top_k, up.shape[-1]), dim=2).indices.flatten(1).cpu().numpy().astype("int64")
            for row, indices in enumerate(top, start=begin):
                out.write(json.dumps({"docid": str(row), "up": {"indices": indices.tolist()}}) + "\n")
        out.flush()
    finally:
        for handle in handles:
            handle.remove()
    return time.perf_counter() - started, sum(map(len, samples))


def main(argv=None):
    args = arguments("The work of NAG's extraction loop.", 120).parse_args(argv)
    model, tokenizer = load(args.model, args.gguf, args.device, args.dtype, attn_implementation="eager")
    samples = tokenise(tokenizer, read_rows(args.dataset, args.rows), args.max_length, args.template)
    with tempfile.TemporaryDirectory() as folder, open(os.path.join(folder, "nag.jsonl"), "w") as out:
        run_nag_style(model, tokenizer, samples[:1], out)  # warm up
        seconds, real_tokens = run_nag_style(model, tokenizer, samples, out, args.batch_size)
    report("nag-style", len(samples), real_tokens, seconds)


if __name__ == "__main__":
    main()
