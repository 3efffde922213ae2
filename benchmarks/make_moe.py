"""Mixtures of experts small enough for a CPU, to measure on: a dense model's MLPs split into experts and tuned, or
random weights trained.

    python -m benchmarks.make_moe --model FOLDER --dataset POOL.jsonl --experts 16 --of-token 8 --output DIR [--scratch]

The MLP neurons of a Llama of FOLDER that fire together become one expert ("MoEfication", Zhang et al., arXiv
2110.01786): each cluster is halved at the median along the first principal component of its neurons' activations. The
router starts as the ridge regression of the log-norms of the experts' outputs on the MLP's input. Then router and
experts are trained for some minutes of CPU time on rows that ``benchmarks.pools.stratified`` leaves for ``--rows`` and
``--seed``, with Mixtral's loss that balances the experts. ``--scratch``: a model of ``SCRATCH``'s size instead, random
but for the tokenizer. A row records the loss on rows kept aside, and how far the router specialises, before and after.
"""

import argparse
import itertools
import json
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.pools import lines_of, stratified
from benchmarks.record import record, table
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.extract.session import encode_rows, open_session

LENGTH = 256  # tokens of a sequence: samples one after the other
BATCH = 4  # sequences of a step
MOST_ROWS = 6000  # of the pool, to train on: more than minutes can use
ASIDE = 16  # sequences that are not trained on
TAUGHT = 16  # sequences that the split and the router's start rest on
SPREAD = 0.05  # standard deviation of a token's router logits at the start: all chosen experts count nearly alike
BALANCE = 0.01  # weight of the loss that balances the experts
RATES = {"router": 1e-3, "experts": 3e-4, "scratch": 1e-3}
SCRATCH = {
    "hidden_size": 256,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
}

Sequences = tuple[torch.Tensor, np.ndarray]  # ids int64 [n, LENGTH], the source of each token [n, LENGTH]


def masked_experts(
    module: Any, hidden_states: torch.Tensor, top_k_index: torch.Tensor, top_k_weights: torch.Tensor
) -> torch.Tensor:
    """All experts as one wide MLP whose neurons are weighted, by 0 where a token was not sent: faster on a CPU than to
    gather rows of many small experts, and with gradients."""
    weight = torch.zeros(len(hidden_states), module.num_experts).scatter(1, top_k_index, top_k_weights.float())
    up = nn.functional.linear(hidden_states, module.gate_up_proj.flatten(0, 1))
    gate, up = up.unflatten(1, (module.num_experts, -1)).chunk(2, dim=-1)
    neurons = (module.act_fn(gate) * up * weight[..., None].to(up.dtype)).flatten(1)
    down = nn.functional.linear(neurons, module.down_proj.permute(1, 0, 2).flatten(1))
    return down.to(hidden_states.dtype)


def clusters(activations: torch.Tensor, number: int) -> torch.Tensor:
    """int64 [number, J / number]: neurons of like ``activations`` [T, J], ``number`` a power of 2."""
    shape = activations.abs()
    shape = shape - shape.mean(dim=0)
    shape = (shape / shape.norm(dim=0).clamp(min=1e-12)).T  # [J, T]
    parts = [torch.arange(len(shape))]
    while len(parts) < number:
        halves = []
        for part in parts:
            mine = shape[part] - shape[part].mean(dim=0)
            along, _, _ = torch.svd_lowrank(mine, q=2)
            halves += list(part[along[:, 0].argsort()].chunk(2))
        parts = halves
    return torch.stack(parts)


def router_start(x: torch.Tensor, outputs: torch.Tensor) -> torch.Tensor:
    """Router weights [E, H] whose logits follow the log-norms of the experts' ``outputs`` [T, E], by ridge regression
    on ``x`` [T, H]."""
    wanted = outputs.clamp(min=1e-6).log()
    wanted = wanted - wanted.mean(dim=1, keepdim=True)
    gram = (x.T @ x).double()
    ridge = 1e-2 * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    weight = torch.linalg.solve(gram + ridge, (x.T @ wanted).double()).T.float()
    return weight * (SPREAD / (x @ weight.T).std(dim=1).mean())


@torch.no_grad()
def split(dense: Any, ids: torch.Tensor, experts: int, of_token: int) -> Any:
    """A Mixtral of the weights of ``dense``, a Llama, split by what its neurons do on ``ids`` [n, LENGTH]."""
    from transformers import MixtralConfig, MixtralForCausalLM

    alike = dense.config.to_dict().keys() & MixtralConfig().to_dict().keys()
    keep = alike - {
        "_name_or_path",
        "model_type",
        "architectures",
        "transformers_version",
        "dtype",
        "intermediate_size",
    }
    width = dense.config.intermediate_size // experts
    config = MixtralConfig(
        **{key: getattr(dense.config, key) for key in keep},
        intermediate_size=width,
        num_local_experts=experts,
        num_experts_per_tok=of_token,
    )
    seen: list[torch.Tensor] = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda _, args: seen.append(args[0].flatten(0, 1)))
        for layer in dense.model.layers
    ]
    dense.model(ids)
    for handle in handles:
        handle.remove()
    state = {key: value for key, value in dense.state_dict().items() if ".mlp." not in key}
    for number, (layer, x) in enumerate(zip(dense.model.layers, seen, strict=True)):
        mlp, at = layer.mlp, f"model.layers.{number}.mlp"
        neurons = mlp.act_fn(mlp.gate_proj(x)) * mlp.up_proj(x)
        parts = clusters(neurons * mlp.down_proj.weight.norm(dim=0), experts)
        outputs = [(neurons[:, part] @ mlp.down_proj.weight[:, part].T).norm(dim=1) for part in parts]
        state[f"{at}.gate.weight"] = router_start(x, torch.stack(outputs, dim=1))
        both = torch.cat([mlp.gate_proj.weight[parts], mlp.up_proj.weight[parts]], dim=1)
        state[f"{at}.experts.gate_up_proj"] = both
        # A chosen expert's weight is about 1 / k: its output was whole.
        state[f"{at}.experts.down_proj"] = of_token * mlp.down_proj.weight.T[parts].transpose(1, 2)
    moe = MixtralForCausalLM(config)
    moe.load_state_dict(state)
    return moe


def sequences(model: str, lines: Sequence[bytes], seed: int) -> Sequences:
    """The samples of ``lines``, shuffled, with the tokenizer's template, cut into sequences."""
    session = open_session(ModelOptions(model=model), DataOptions(max_length=LENGTH), quiet=True)
    rows = [json.loads(line) for line in lines]
    shuffled = np.random.default_rng(seed).permutation(len(rows))
    _, encoded = encode_rows(session.encoder, [rows[i] for i in shuffled], session.conventions)
    ids = np.concatenate([sample.ids for sample in encoded])
    source = np.repeat([rows[i]["source"] for i in shuffled], [len(sample.ids) for sample in encoded])
    n = len(ids) // LENGTH * LENGTH
    return torch.from_numpy(ids[:n].astype(np.int64)).view(-1, LENGTH), source[:n].reshape(-1, LENGTH)


@torch.no_grad()
def examined(model: Any, ids: torch.Tensor, source: np.ndarray) -> dict[str, float]:
    """``loss``, nats a token; of experts also, in bits and means over layers: ``token_entropy`` of a token's router
    weights, ``use_entropy`` of the experts' shares of all tokens, ``source_information`` mutual information of expert
    and source of a token (with the bias of so few tokens)."""
    model.eval()
    losses, weights = [], []
    routers = [layer.mlp.gate for layer in model.model.layers if hasattr(layer.mlp, "experts")]
    handles = [router.register_forward_hook(lambda _, args, out: weights.append(out[1:])) for router in routers]
    for part in ids.split(BATCH):
        with torch.autocast("cpu", torch.bfloat16):
            losses.append(float(model(part, labels=part).loss) * len(part))
    for handle in handles:
        handle.remove()
    told = {"loss": sum(losses) / len(ids)}
    if not routers:
        return told
    entropies = []
    for number, router in enumerate(routers):
        scores, index = (torch.cat(parts) for parts in zip(*weights[number :: len(routers)], strict=True))
        w = torch.zeros(len(index), router.num_experts).scatter(1, index, scores.float())
        shares = np.unique(source, return_counts=True)
        each = [w[torch.from_numpy(source.ravel() == name)].mean(dim=0) for name in shares[0]]
        within = sum(bits(p) * n / source.size for p, n in zip(each, shares[1], strict=True))
        used = bits(w.mean(dim=0))
        entropies.append([float(torch.special.entr(w).sum(dim=1).mean()) / math.log(2), used, used - within])
    means = np.mean(entropies, axis=0)
    return {**told, **dict(zip(("token_entropy", "use_entropy", "source_information"), map(float, means), strict=True))}


def bits(p: torch.Tensor) -> float:
    """Entropy of the distribution ``p`` [E]."""
    return float(torch.special.entr(p).sum()) / math.log(2)


def batches(ids: torch.Tensor, seed: int) -> Iterator[torch.Tensor]:
    """Of ``BATCH`` sequences, without end, shuffled anew each time all were seen."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        yield from ids[torch.randperm(len(ids), generator=generator)].split(BATCH)


def train(model: Any, ids: torch.Tensor, minutes: float, scratch: bool, seed: int) -> int:
    """Train for ``minutes`` of CPU time; returns the tokens seen. Of a split model attention and embeddings rest."""
    named = {"router": [], "experts": [], "scratch": []}
    for name, parameter in model.named_parameters():
        kind = "scratch" if scratch else "router" if ".gate." in name else "experts" if ".experts." in name else None
        parameter.requires_grad_(kind is not None)
        if kind:
            named[kind].append(parameter)
    groups = [{"params": parameters, "lr": RATES[kind]} for kind, parameters in named.items() if parameters]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    peak = [group["lr"] for group in optimizer.param_groups]
    model.train()
    start, tokens = time.process_time(), 0
    for step, batch in enumerate(batches(ids, seed)):
        done = (time.process_time() - start) / (60 * minutes)
        if done >= 1:
            return tokens
        rate = min(1, 20 * done + 0.05) * (0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2)
        for group, most in zip(optimizer.param_groups, peak, strict=True):
            group["lr"] = most * rate
        with torch.autocast("cpu", torch.bfloat16):
            out = model(batch, labels=batch, output_router_logits=True)
        out.loss.backward()
        nn.utils.clip_grad_norm_(itertools.chain(*named.values()), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        tokens += batch.numel()
        if step % 10 == 0:
            print(f"step {step}, {done:.0%}: loss {out.loss:.3f}, balance {out.aux_loss:.3f}", flush=True)
    raise AssertionError("batches have no end")


def options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--experts", required=True, type=int)
    parser.add_argument("--of-token", required=True, type=int)
    parser.add_argument("--output", required=True, type=Path)
    parser.add_argument("--scratch", action="store_true")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--rows", type=int, default=608, help="of the pool, that are not trained on")
    parser.add_argument("--seed", type=int, default=0)
    return parser


def main() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, MixtralConfig, MixtralForCausalLM
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    arguments = options().parse_args()
    torch.manual_seed(arguments.seed)
    ALL_EXPERTS_FUNCTIONS.register("masked", masked_experts)
    evaluated = set(stratified(arguments.dataset, arguments.rows, arguments.seed))
    others = [line for line in lines_of(arguments.dataset) if line not in evaluated]
    ids, source = sequences(arguments.model, others[:MOST_ROWS], arguments.seed)
    aside, rest = (ids[:ASIDE], source[:ASIDE]), ids[ASIDE:]
    dense = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    row: dict[str, Any] = {"model": arguments.output.name, "experts": arguments.experts, "of_token": arguments.of_token}
    if arguments.scratch:
        config = MixtralConfig(
            **SCRATCH,
            vocab_size=dense.config.vocab_size,
            num_local_experts=arguments.experts,
            num_experts_per_tok=arguments.of_token,
            tie_word_embeddings=True,
        )
        model = MixtralForCausalLM(config)
    else:
        row["dense"] = examined(dense, *aside)
        model = split(dense, rest[:TAUGHT], arguments.experts, arguments.of_token)
    model.config._experts_implementation = "masked"
    model.config.router_aux_loss_coef = BALANCE
    model.router_aux_loss_coef = BALANCE
    row["before"] = examined(model, *aside)
    print(row, flush=True)
    row["tokens"] = train(model, rest, arguments.minutes, arguments.scratch, arguments.seed)
    row |= {"minutes": arguments.minutes, "after": examined(model, *aside)}
    model.config._experts_implementation = "eager"
    model.save_pretrained(arguments.output)
    AutoTokenizer.from_pretrained(arguments.model).save_pretrained(arguments.output)
    record("make_moe", [row])
    shown = [{"": when, **row[when]} for when in ("dense", "before", "after") if when in row]
    print(table(shown, ["", "loss", "token_entropy", "use_entropy", "source_information"]))


if __name__ == "__main__":
    main()
