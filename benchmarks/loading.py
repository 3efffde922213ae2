"""What the checks and hashes at load cost: a model's weights hashed, its formula proved, its layers watched.

    python -m benchmarks.loading [--model FOLDER ...] [--billion] [--rounds 3]

Each model is loaded ``--rounds`` times from files in the page cache, with a cache of hashes of its own that is empty at
first; a tiny model is always among them, and with ``--billion`` a random one of 1.1 billion parameters in bf16.
``guards``: what the checkpoint lacks, and the proof of each layer's formula. ``forwards``: the watched ones, which also
prove that packing and padding are exact, and ran for that before anything was watched.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from benchmarks.record import record, table
from nait_fast.env import CACHE
from nait_fast.models import checkpoint, load
from nait_fast.models.weight_cache import SETTLED_NS

STAGES = {"refuse_absent": "guards", "probe": "guards", "exercised": "forwards", "model_identity": "identity"}


@contextlib.contextmanager
def watched(spent: dict[str, float], cpu: dict[str, float]) -> Iterator[None]:
    """Inside, the seconds and the processor's seconds of each stage of a load are added up."""

    def timed(call: Callable[..., Any], stage: str) -> Callable[..., Any]:
        def run(*arguments: Any, **named: Any) -> Any:
            started, before = time.perf_counter(), time.process_time()
            try:
                return call(*arguments, **named)
            finally:
                spent[stage] = spent.get(stage, 0.0) + time.perf_counter() - started
                cpu[stage] = cpu.get(stage, 0.0) + time.process_time() - before

        return run

    with contextlib.ExitStack() as stack:
        for name, stage in STAGES.items():
            stack.enter_context(mock.patch.object(load, name, timed(getattr(load, name), stage)))
        check = timed(checkpoint.Loading.check, "guards")
        stack.enter_context(mock.patch.object(checkpoint.Loading, "check", lambda *given: check(*given)))
        yield


def random_model(folder: Path, tokenizer: str, dtype: torch.dtype, **sizes: int) -> str:
    """A Llama of random weights with the tokenizer of another model."""
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    words = AutoTokenizer.from_pretrained(tokenizer)
    torch.manual_seed(0)
    torch.set_default_dtype(dtype)
    try:
        model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **sizes))
    finally:
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return str(folder)


def measure(model: str, label: str, dtype: str, rounds: int) -> dict[str, Any]:
    """A result row."""
    runs: list[Any] = []
    with tempfile.TemporaryDirectory() as cache, mock.patch.dict(os.environ, {CACHE: cache}):
        for _ in range(rounds):
            spent: dict[str, float] = {}
            cpu: dict[str, float] = {}
            with watched(spent, cpu):
                started = time.perf_counter()
                loaded = load.load_model(model, dtype=dtype, device="cpu")
                whole = time.perf_counter() - started
            runs.append((whole, spent, cpu))
            size = sum(p.numel() * p.element_size() for p in loaded.body.parameters())
            number = sum(p.numel() for p in loaded.body.parameters())
            del loaded

    def median(stage: str, of: int = 1) -> float:
        return statistics.median(run[of][stage] for run in runs)

    load_s = statistics.median(run[0] for run in runs)
    return {
        "model": label,
        "dtype": dtype,
        "parameters": number,
        "weights_gb": size / 1e9,
        "rounds": rounds,
        "load_s": load_s,
        "guards_s": median("guards"),
        "guards_of_load": median("guards") / load_s,
        "forwards_s": median("forwards"),
        "identity_first_s": runs[0][1]["identity"],
        "identity_first_cpu_s": runs[0][2]["identity"],
        "identity_again_s": statistics.median(run[1]["identity"] for run in runs[1:]),
        "identity_again_cpu_s": statistics.median(run[2]["identity"] for run in runs[1:]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", nargs="*", default=[], help="folders of models")
    parser.add_argument("--tokenizer", help="of the random models (default: that of the first --model)")
    parser.add_argument("--billion", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="folder for the result rows instead of benchmarks/results")
    arguments = parser.parse_args()
    words = arguments.tokenizer or (arguments.model or [None])[0]
    if words is None:
        parser.error("name a --model or a --tokenizer")
    rows = []
    with tempfile.TemporaryDirectory() as work:
        given = [(model, Path(model).name, "auto") for model in arguments.model]
        tiny = dict(hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4)
        given.append(
            (random_model(Path(work, "tiny"), words, torch.float32, **tiny), "random, 2 layers of 160", "auto")
        )
        if arguments.billion:
            sizes = dict(
                hidden_size=2048,
                intermediate_size=5632,
                num_hidden_layers=22,
                num_attention_heads=32,
                num_key_value_heads=4,
            )
            folder = random_model(Path(work, "billion"), words, torch.bfloat16, **sizes)
            given.append((folder, "random, 1.1B", "bfloat16"))
        time.sleep(SETTLED_NS / 1e9 + 1)  # a hash of files that have just been written is not kept
        for model, label, dtype in given:
            rows.append(measure(model, label, dtype, arguments.rounds))
            print(rows[-1], file=sys.stderr)
    path = record("loading", rows, arguments.output)
    print(
        table(
            rows,
            ["model", "load_s", "guards_s", "guards_of_load", "forwards_s", "identity_first_s", "identity_again_s"],
        )
    )
    print(f"rows appended to {path}")


if __name__ == "__main__":
    main()
