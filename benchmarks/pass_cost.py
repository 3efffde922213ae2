"""What each further representation costs in the index pass: CPU-seconds beside a pass for neuron bits alone.

    python -m benchmarks.pass_cost --model DIR --dataset POOL.jsonl.gz --work DIR [--rows 60] [--rounds 3]
        [--arms tokens rds nll ifd] [--dtype float32]

Same samples, one process, one thread, arms in turn there and back ``--rounds`` times, medians. ``tokens``: readings
over the response alone; ``rds``: position-weighted last states; ``nll`` and ``ifd``: losses. ``products``: what the
arm's further matrix products (the last layer's down projection, the head at response tokens, for ifd the responses once
more) take of the operations of the pass without; ``beside`` them: what else it costs.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import torch

from benchmarks.pools import stratified
from benchmarks.record import record, table
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.session import Session, encode_all, open_session
from nait_fast.extract.sinks import Encode
from nait_fast.index.format import loss_columns

ARMS = ("tokens", "rds", "nll", "ifd")


def seconds(session: Session, encoded: Sequence[Encoded], arm: str) -> float:
    """CPU-seconds of a pass over ``encoded`` for bits of the mean, with thresholds of 0, and what ``arm`` adds."""
    model, nll = session.model, {"nll": "loss", "ifd": "ifd"}.get(arm, "none")
    if arm != "tokens":
        encoder = copy.copy(session.encoder)
        encoder.tokens = "all"
        session, encoded = replace(session, encoder=encoder), [replace(e, reading_spans=None) for e in encoded]
    coder = NeuronCoder(session.layout, "mean", torch.zeros(session.layout.n_neurons))
    rds = ("float16", model.end_width) if arm == "rds" else None
    sink = Encode(len(encoded), session.layout, coder, rds=rds, nll=nll, device=model.device)
    readings = [coder.reading, *(["rds"] if rds else []), *loss_columns(nll)]
    start = process_time()
    session.run(encoded, sink, readings, shared_prefixes(encoded))
    return process_time() - start


def products(session: Session, encoded: Sequence[Encoded]) -> dict[str, float]:
    """By arm, its further multiply-adds over those of the pass without."""
    model, head = session.model, session.model.head
    assert head is not None
    weights = sum(p.numel() for p in model.body.layers.parameters() if p.dim() == 2)
    last = model.specs[-1].module.down_proj.weight.numel()
    tokens, own = (sum(len(e.ids) for e in encoded), sum(b - a for e in encoded for a, b in e.response or ()))
    end, logits = tokens * last, own * head.weight.numel()
    alone = (own + len(encoded) * len(session.encoder.front)) * weights
    of = {"tokens": 0, "rds": end, "nll": end + logits, "ifd": end + 2 * logits + alone}
    return {arm: round(count / (tokens * weights - end), 4) for arm, count in of.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--work", required=True, type=Path, help="folder for the sampled pool")
    parser.add_argument("--rows", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pool = arguments.work / "pool.jsonl"
    pool.write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    model, data = (
        ModelOptions(model=arguments.model, dtype=arguments.dtype),
        DataOptions(max_length=arguments.max_length, skip_bad_rows=True),
    )
    session = open_session(model, data, tokens="response", nll="ifd")
    _, encoded = encode_all(session.encoder, Pool(str(pool)))
    arms = ("without", *arguments.arms)
    for arm in arms:
        seconds(session, encoded[:8], arm)  # what is compiled or allocated once
    taken: dict[str, list[float]] = {arm: [] for arm in arms}
    for _ in range(arguments.rounds):
        for arm in (*arms, *reversed(arms)):
            taken[arm].append(seconds(session, encoded, arm))
            print(f"{arm}: {taken[arm][-1]:.2f} CPU-seconds", flush=True)
    further, without = products(session, encoded), median(taken["without"])
    rows: list[dict[str, Any]] = []
    for arm in arguments.arms:
        over = round(median(taken[arm]) / without - 1, 4)
        rows.append(
            {
                "arm": arm,
                "model": Path(arguments.model).name,
                "dtype": session.model.precision,
                "rows": len(encoded),
                "tokens": sum(len(e.ids) for e in encoded),
                "without_seconds": round(without, 2),
                "seconds": round(median(taken[arm]), 2),
                "over": over,
                "products": further[arm],
                "beside": round(over - further[arm], 4),
                "every": [round(s, 2) for s in taken[arm]],
                "every_without": [round(s, 2) for s in taken["without"]],
            }
        )
    print(table(rows, ["arm", "rows", "tokens", "without_seconds", "seconds", "over", "products", "beside"]))
    print(f"rows appended to {record('pass_cost', rows).name}")


if __name__ == "__main__":
    main()
