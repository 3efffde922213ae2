"""The baselines: neuron bits of a pool as one writes it today with transformers and forward hooks.

They are meant to be fair. The model is in eval and inference mode with transformers' default attention, every down
projection has a forward pre-hook that pools on the device, and batches are right-padded.

- Naive: batches in file order with their padding and an attention mask, one copy a batch off the device, and the
  language model head at every position, as AutoModelForCausalLM does.
- Strong (`--strong`): batches of similarly long samples under a budget of tokens, the body alone, no mask, which right
  padding does not need before causal layers, and means that stay on the device until the end.

    python -m benchmarks.baseline --model FOLDER [--gguf FILE] --dataset POOL.jsonl --rows 64 [--strong]

Prints one JSON line. The time is the pass over the tokenised samples; loading, templating, tokenising and one small
batch to warm up come before it. The tokens are real ones: a sample's content under its template, no padding.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import resource
import sys
import time
from itertools import islice

import numpy as np
import torch

DOWN = (".mlp.down_proj", ".mlp.dense_4h_to_h", ".mlp.c_proj")  # Llama-like and Phi3, GPT-NeoX, GPT-2


# ------------------------------------------------------------------------------------- what any tool is given


ALPACA = (  # without and with an input, as Stanford Alpaca writes them
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n",
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
)
TEMPLATES = ("chat", "alpaca")


def read_rows(path, rows=None):
    """Rows of a JSONL file (or .gz)."""
    with gzip.open(path, "rt", encoding="utf-8") if path.endswith(".gz") else open(path, encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, rows)]


def rendered(tokenizer, row, template):
    """(text, answer) of an Alpaca row, a prompt/completion row or one with `messages`, under the tokenizer's chat
    template or, an Alpaca row, under Alpaca's."""
    if template == "alpaca":
        return ALPACA[bool(row.get("input"))].format(**row) + row["output"], row["output"]
    if "messages" in row:
        messages = row["messages"]
    else:
        if "instruction" in row:
            question, answer = "\n".join(filter(None, (row["instruction"], row.get("input")))), row["output"]
        else:
            question, answer = row["prompt"], row["completion"]
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return tokenizer.apply_chat_template(messages, tokenize=False), messages[-1]["content"]


def tokenise(tokenizer, rows, max_length, template="chat"):
    """Token ids of each row, cut after the last token of its answer, then truncated."""
    samples = []
    for row in rows:
        text, answer = rendered(tokenizer, row, template)
        end = text.rindex(answer.strip()) + len(answer.strip())
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        tokens = sum(begin < end for begin, _ in encoded["offset_mapping"])
        samples.append(encoded["input_ids"][:tokens][:max_length])
    return samples


def load(folder, gguf=None, device=None, dtype=None, **options):
    """(model, tokenizer) on the device: fp32 on a CPU and bf16 on a GPU unless told."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    dtype = getattr(torch, dtype) if dtype else (torch.float32 if device == "cpu" else torch.bfloat16)
    extra = {"gguf_file": os.path.basename(gguf)} if gguf else {}
    tokenizer = AutoTokenizer.from_pretrained(folder, **extra)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **extra, **options)
    return model.eval().to(device), tokenizer


def pad_id(tokenizer):
    return next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)


def peak_rss_mb():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


# ------------------------------------------------------------------------------------------------- the baseline


@torch.inference_mode()
def run_baseline(model, tokenizer, samples, batch_size=8, tau=None, calibration=512, features=False):
    """(packed bits uint8 [n, L * bytes of a layer], or with `features` means float32 [n, L, J]; seconds; real tokens).

    samples: lists of token ids. A feature is the mean over a sample's tokens, the first left out. A bit is
    feature > tau [L, J]; without a tau it is the mean of the first `calibration` samples.
    """
    downs = [module for name, module in model.named_modules() if name.endswith(DOWN)]
    if len(downs) != model.config.num_hidden_layers:
        raise ValueError(f"found {len(downs)} down projections in {model.config.num_hidden_layers} layers")
    means = [None] * len(downs)
    weights = None

    def hook_of(layer):
        def hook(module, args):
            means[layer] = torch.einsum("btj,bt->bj", args[0].float(), weights)

        return hook

    handles = [down.register_forward_pre_hook(hook_of(layer)) for layer, down in enumerate(downs)]
    pad, device = pad_id(tokenizer), model.device
    waiting, done = [], []
    started = time.perf_counter()
    try:
        for begin in range(0, len(samples), batch_size):
            batch = samples[begin : begin + batch_size]
            lengths = torch.tensor([len(ids) for ids in batch])
            width = int(lengths.max())
            ids = torch.tensor([list(x) + [pad] * (width - len(x)) for x in batch]).to(device)
            mask = (torch.arange(width) < lengths[:, None]).to(device)
            counted = mask.float()
            counted[:, 0] = (lengths == 1).float().to(device)
            weights = counted / counted.sum(dim=1, keepdim=True)
            model(input_ids=ids, attention_mask=mask.long(), use_cache=False)
            waiting.append(torch.stack(means, dim=1).cpu().numpy())
            if features:
                continue
            if tau is None and (begin + len(batch) >= min(calibration, len(samples))):
                tau = np.concatenate(waiting)[:calibration].mean(axis=0, dtype=np.float64)
            if tau is not None:
                done += [np.packbits(x > tau, axis=-1, bitorder="little").reshape(len(x), -1) for x in waiting]
                waiting.clear()
    finally:
        for handle in handles:
            handle.remove()
    result = np.concatenate(waiting if features else done)
    return result, time.perf_counter() - started, sum(map(len, samples))


@torch.inference_mode()
def run_strong(model, samples, budget=2048, calibration=512):
    """(packed bits uint8 [n, L * bytes of a layer]; seconds; real tokens), as `run_baseline`, as well as one can write
    it: at most `budget` tokens a batch, padding counted."""
    body = model.base_model
    downs = [module for name, module in model.named_modules() if name.endswith(DOWN)]
    means = [None] * len(downs)
    weights = None

    def hook_of(layer):
        def hook(module, args):
            x = args[0]
            if x.dtype == torch.float32:
                means[layer] = torch.einsum("btj,bt->bj", x, weights)
            else:  # sums in fp32 without a copy of x in fp32
                total = (x * (weights > 0)[..., None]).sum(dim=1, dtype=torch.float32)
                means[layer] = total * weights.amax(dim=1, keepdim=True)

        return hook

    handles = [down.register_forward_pre_hook(hook_of(layer)) for layer, down in enumerate(downs)]
    device, done = model.device, []
    started = time.perf_counter()
    order = sorted(range(len(samples)), key=lambda i: -len(samples[i]))
    waiting = list(order)
    try:
        while waiting:
            width = len(samples[waiting[0]])
            size = max(1, budget // width)
            batch, waiting = [samples[i] for i in waiting[:size]], waiting[size:]
            lengths = torch.tensor([len(ids) for ids in batch])
            ids = torch.tensor([list(x) + [0] * (width - len(x)) for x in batch]).to(device)
            counted = (torch.arange(width) < lengths[:, None]).float()
            counted[:, 0] = (lengths == 1).float()
            weights = (counted / counted.sum(dim=1, keepdim=True)).to(device)
            body(input_ids=ids, use_cache=False)
            done.append(torch.stack(means, dim=1))
    finally:
        for handle in handles:
            handle.remove()
    values = torch.cat(done)
    values = torch.empty_like(values).index_copy_(0, torch.tensor(order, device=device), values)
    bits = (values > values[:calibration].mean(dim=0)).cpu().numpy()
    codes = np.packbits(bits, axis=-1, bitorder="little").reshape(len(samples), -1)
    return codes, time.perf_counter() - started, sum(map(len, samples))


def report(tool, rows, real_tokens, seconds):
    print(
        json.dumps(
            {
                "tool": tool,
                "rows": rows,
                "real_tokens": real_tokens,
                "seconds": round(seconds, 3),
                "tokens_per_s": round(real_tokens / seconds, 1),
                "peak_rss_mb": peak_rss_mb(),
            }
        )
    )


def arguments(description, max_length):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--model", required=True, metavar="FOLDER")
    parser.add_argument("--gguf", metavar="FILE", help="name of a GGUF file inside the folder")
    parser.add_argument("--dataset", required=True, metavar="JSONL")
    parser.add_argument("--rows", type=int, help="only the first N rows")
    parser.add_argument("--max-length", type=int, default=max_length)
    parser.add_argument("--template", choices=TEMPLATES, default="chat", help="what a row's text is written in")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"))
    parser.add_argument("--strong", action="store_true", help="the strong baseline")
    return parser


def main(argv=None):
    args = arguments("Neuron bits with transformers and forward hooks.", 384).parse_args(argv)
    model, tokenizer = load(args.model, args.gguf, args.device, args.dtype)
    samples = tokenise(tokenizer, read_rows(args.dataset, args.rows), args.max_length, args.template)
    warm = sorted(samples, key=len)[-1:]
    if args.strong:
        run_strong(model, warm)
        codes, seconds, real_tokens = run_strong(model, samples)
    else:
        run_baseline(model, tokenizer, warm)
        codes, seconds, real_tokens = run_baseline(model, tokenizer, samples, args.batch_size)
    report("transformers-hooks, strong" if args.strong else "transformers-hooks", len(codes), real_tokens, seconds)


if __name__ == "__main__":
    main()
