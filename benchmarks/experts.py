"""What reading a mixture of experts costs: a forward with capture against the same forward without, on random models.

    python -m benchmarks.experts [--rounds 3]

Qwen3-MoE's architecture in three sizes, a right-padded batch of ragged samples through the whole body, in turn, best of
the rounds. First the readings are checked against a loop over tokens and experts; a wrong one ends with status 1.
"""

import argparse
import sys
import time
from typing import Any

import torch

from benchmarks.record import record, table

# name: experts, neurons of each, hidden size, experts a token, layers
SIZES = {"tiny": (8, 96, 128, 2, 4), "mid": (32, 256, 512, 4, 4), "a layer of Qwen3-30B-A3B": (128, 768, 2048, 8, 1)}
SAMPLES, LONGEST = 8, 256  # of a batch, and its tokens
TOLERANCE = 1e-5


def model_of(experts: int, neurons: int, hidden: int, of_token: int, layers: int) -> Any:
    """A causal LM's body with random weights."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "qwen3_moe",
        num_experts=experts,
        moe_intermediate_size=neurons,
        hidden_size=hidden,
        num_experts_per_tok=of_token,
        num_hidden_layers=layers,
        intermediate_size=3 * neurons,
        num_attention_heads=8,
        num_key_value_heads=2,
        head_dim=64,
        vocab_size=2000,
    )
    return AutoModel.from_config(config).eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask), both int64 [SAMPLES, LONGEST]."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(LONGEST // 4, LONGEST + 1, (SAMPLES,), generator=generator)
    mask = (torch.arange(LONGEST)[None, :] < lengths[:, None]).long()
    return torch.randint(0, 2000, mask.shape, generator=generator), mask


@torch.no_grad()
def error_of(model: Any) -> float:
    """Largest relative error of a sample's mean in the first layer, against the loop, over 3 short samples."""
    import nait_fast

    ids, mask = torch.arange(36).reshape(3, 12) * 7, torch.ones(3, 12, dtype=torch.long)
    mask[1, 5:] = 0
    seen: list[torch.Tensor] = []
    module = model.layers[0].mlp.experts
    handle = module.register_forward_pre_hook(lambda module, args: seen.extend(args))
    with nait_fast.capture(model, ["mean"], layers="0", first_token="include") as captured:
        model(input_ids=ids, attention_mask=mask, use_cache=False)
    handle.remove()
    x, index, weights = seen
    sums = torch.zeros(3, module.num_experts, module.down_proj.shape[2], dtype=torch.float64)
    for token in mask.flatten().nonzero().flatten().tolist():
        for expert, weight in zip(index[token].tolist(), weights[token].double(), strict=True):
            gate, up = (module.gate_up_proj[expert].double() @ x[token].double()).chunk(2)
            sums[token // 12, expert] += weight * torch.nn.functional.silu(gate) * up
    expected = (sums / mask.sum(dim=1)[:, None, None]).flatten(1)
    return float(((captured["mean"][0] - expected).norm(dim=1) / expected.norm(dim=1)).max())


@torch.no_grad()
def seconds_of(model: Any, rounds: int) -> tuple[float, float]:
    """Best (with capture, without) of a forward of one batch, in turn."""
    import nait_fast

    ids, mask = batch()

    def best() -> float:
        """Seconds of the fastest of some: the first have memory to fault in that a capture's proofs gave back."""
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            model(input_ids=ids, attention_mask=mask, use_cache=False)
            seconds.append(time.perf_counter() - start)
        return min(seconds)

    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(rounds):
        with nait_fast.capture(model, ["mean"]):
            times[True].append(best())
        times[False].append(best())
    return min(times[True]), min(times[False])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    rows = []
    for name, size in SIZES.items():
        model = model_of(*size)
        error = error_of(model)
        if not error <= TOLERANCE:
            print(f"{name}: readings are off by {error:.1e}", file=sys.stderr)
            return 1
        with_capture, without = seconds_of(model, rounds)
        experts, neurons, hidden, of_token, layers = size
        rows.append(
            {
                "model": name,
                "experts": experts,
                "neurons": neurons,
                "hidden": hidden,
                "experts_a_token": of_token,
                "layers": layers,
                "tokens": SAMPLES * LONGEST,
                "error": error,
                "seconds": with_capture,
                "seconds_without": without,
                "over": with_capture / without - 1,
                "threads": torch.get_num_threads(),
            }
        )
        print(table(rows[-1:], ["model", "seconds", "seconds_without", "over", "error"]))
    record("experts", rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
