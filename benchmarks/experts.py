"""What reading a mixture of experts costs: a forward with capture against the same forward without, on random models.

    python -m benchmarks.experts [--device cpu] [--rounds 3]

Qwen3-MoE's architecture, a right-padded batch of ragged samples through the whole body, in turn, best of the rounds: in
three sizes on a CPU, on a GPU Qwen3-30B-A3B in bfloat16, cut to as many layers as fit. First the readings are checked
against a loop over tokens and experts; a wrong one ends with status 1.
"""

import argparse
import ctypes
import sys
import time
from dataclasses import dataclass, replace
from typing import Any

import torch

from benchmarks.record import record, table

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
FORWARDS = 5  # of a round: the first one warms up
VOCABULARY = 2000


@dataclass(frozen=True)
class Size:
    """A model: ``neurons`` of each of ``experts``, ``of_token`` of them a token; and a batch: ``samples`` of up to
    ``longest`` tokens."""

    name: str
    experts: int
    neurons: int
    hidden: int
    of_token: int
    layers: int
    samples: int = 8
    longest: int = 256

    @property
    def layer_bytes(self) -> int:
        """Of the experts' weights of a layer, in bfloat16."""
        return 2 * 3 * self.experts * self.neurons * self.hidden


ON_CPU = (
    Size("tiny", 8, 96, 128, 2, 4),
    Size("mid", 32, 256, 512, 4, 4),
    Size("a layer of Qwen3-30B-A3B", 128, 768, 2048, 8, 1),
)


def on_gpu(free: int) -> Size:
    """Qwen3-30B-A3B, cut to the layers that half of ``free`` bytes hold, and a batch that fills a GPU."""
    whole = Size("Qwen3-30B-A3B", 128, 768, 2048, 8, 48, samples=128, longest=512)
    layers = max(1, min(16, free // 2 // whole.layer_bytes))  # of 16 a forward takes about a second
    return replace(whole, name=f"{whole.name}, {layers} layers", layers=layers)


def model_of(size: Size, device: torch.device, dtype: torch.dtype) -> Any:
    """A causal LM's body with random weights."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe",
        num_experts=size.experts,
        moe_intermediate_size=size.neurons,
        hidden_size=size.hidden,
        num_experts_per_tok=size.of_token,
        num_hidden_layers=size.layers,
        intermediate_size=3 * size.neurons,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=VOCABULARY,
    )
    with device:
        return AutoModel.from_config(config, dtype=dtype).eval()


def batch(size: Size, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both int64 [samples, longest]."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(size.longest // 4, size.longest + 1, (size.samples,), generator=generator)
    mask = (torch.arange(size.longest)[None, :] < lengths[:, None]).long()
    return torch.randint(0, VOCABULARY, mask.shape, generator=generator).to(device), mask.to(device)


@torch.no_grad()
def error_of(model: Any) -> float:
    """Largest relative error of a sample's mean in the first layer, against the loop in fp64, over 3 short samples."""
    import nait_fast

    device = model.device
    ids, mask = torch.arange(36).reshape(3, 12) * 7, torch.ones(3, 12, dtype=torch.long)
    mask[1, 5:] = 0
    seen: list[torch.Tensor] = []
    module = model.layers[0].mlp.experts
    handle = module.register_forward_pre_hook(lambda module, args: seen.extend(args))
    with nait_fast.capture(model, ["mean"], layers="0", first_token="include") as captured:
        seen.clear()  # of the proofs
        model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    handle.remove()
    x, index, weights = seen
    sums = torch.zeros(3, module.num_experts, module.down_proj.shape[2], dtype=torch.float64, device=device)
    for token in mask.flatten().nonzero().flatten().tolist():
        for expert, weight in zip(index[token].tolist(), weights[token].double(), strict=True):
            gate, up = (module.gate_up_proj[expert].double() @ x[token].double()).chunk(2)
            sums[token // 12, expert] += weight * torch.nn.functional.silu(gate) * up
    expected = (sums / mask.sum(dim=1).to(device)[:, None, None]).flatten(1)
    return float(((captured["mean"][0] - expected).norm(dim=1) / expected.norm(dim=1)).max())


@torch.no_grad()
def seconds_of(model: Any, size: Size, rounds: int) -> tuple[float, float]:
    """Best (with capture, without) of a forward of one batch, in turn."""
    import nait_fast

    ids, mask = batch(size, model.device)
    asynchronous = model.device.type == "cuda"

    def best() -> float:
        seconds = []
        for _ in range(FORWARDS):
            start = time.perf_counter()
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            if asynchronous:
                torch.cuda.synchronize(model.device)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        with nait_fast.capture(model, ["mean"]):
            times[True].append(best())
        times[False].append(best())
    return min(times[True]), min(times[False])


def measured(size: Size, device: torch.device, dtype: torch.dtype, rounds: int) -> dict[str, Any]:
    """A row; nothing is timed where its ``check`` has failed."""
    model = model_of(size, device, dtype)
    error = error_of(model)
    right = error <= TOLERANCE[dtype]
    row = {
        "name": size.name,
        "experts": size.experts,
        "neurons": size.neurons,
        "hidden": size.hidden,
        "experts_a_token": size.of_token,
        "layers": size.layers,
        "tokens": int(batch(size, device)[1].sum()),
        "dtype": str(dtype).removeprefix("torch."),
        "error": error,
        "threads": torch.get_num_threads(),
        "check": f"{'ok' if right else 'failed'}: readings are within {error:.1e} of a loop's",
    }
    if right:
        with_capture, without = seconds_of(model, size, rounds)
        row |= {"seconds": with_capture, "seconds_without": without, "over": with_capture / without - 1}
    return row


def rows_on_gpu(device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """Of the size that fits ``device``."""
    free, _ = torch.cuda.mem_get_info(device)
    return [measured(on_gpu(free), device, torch.bfloat16, rounds)]


def keep_memory() -> None:
    """Let glibc keep what is freed: giving it back and faulting it in again costs either forward up to a sixth of its
    time, now the one and now the other."""
    if sys.platform == "linux":
        trim, mapped = -1, -3  # M_TRIM_THRESHOLD, M_MMAP_THRESHOLD of malloc.h
        for what in (trim, mapped):
            ctypes.CDLL(None).mallopt(what, 2**31 - 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", type=torch.device)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keep_memory()
    if options.device.type == "cuda":
        rows = rows_on_gpu(options.device, options.rounds)
    else:
        rows = [measured(size, options.device, torch.float32, options.rounds) for size in ON_CPU]
    print(table(rows, ["name", "seconds", "seconds_without", "over", "check"]))
    record("experts", rows)
    return int(any(row["check"].startswith("failed") for row in rows))


if __name__ == "__main__":
    sys.exit(main())
