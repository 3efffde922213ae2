"""What losses cost: the op beside torch's cross-entropy of whole logits, and ``index --nll`` beside a pass without.

    python -m benchmarks.losses --model DIR --dataset pool.jsonl.gz --work DIR [--rows 200] [--rounds 1] [--write]

CPU-seconds of one thread. A pass with losses is timed from within, so that what else the machine does shows less: all
that losses take of it ('losses'), of that the op ('op'), and beside it the head's matrix products alone ('products'),
in torch's own call over the same states. ``--rounds``: whole passes in turn, there and back, medians: 'codes', which
stops at the last activation, and 'nll'. The op's arms run in processes of their own; memory is what they add at most to
what they start with.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.pools import described, stratified
from benchmarks.record import record, table
from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.encode import encode
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.engine import Engine
from nait_fast.extract.session import Session, open_session
from nait_fast.extract.sinks import Collect
from nait_fast.kernels import token_losses
from nait_fast.models.head import LMHead

ROUNDS = 2


class _Timed(Engine):
    """Takes the time of losses and, of the same states, of the head's products alone."""

    losses_s = op_s = products_s = 0.0

    def _losses_of(self, samples, states, segments, prefix):
        model, before = self.model, self.products_s
        assert model.head is not None
        start = time.process_time()
        self.model = replace(model, head=_TimedHead(model.head, self))
        made = super()._losses_of(samples, states, segments, prefix)
        self.model = model
        self.losses_s += time.process_time() - start - (self.products_s - before)
        return made


class _TimedHead:
    def __init__(self, head: LMHead, engine: _Timed):
        self.head, self.engine = head, engine

    def losses(self, states: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        start = time.process_time()
        losses = self.head.losses(states, labels)
        between = time.process_time()
        states @ self.head.weight.T
        self.engine.op_s += between - start
        self.engine.products_s += time.process_time() - between
        return losses


def pass_row(session: Session, encoded: Sequence[Encoded], rounds: int) -> dict[str, Any]:
    """The pass over ``encoded`` with losses, timed from within, and in turn with one without."""
    model, prefixes = session.model, shared_prefixes(encoded)
    assert model.head is not None

    def run(kind: type[Engine], *readings: str) -> Engine:
        engine = kind(model, readings)
        engine.run(encoded, Collect(len(encoded), CodeLayout.of(model.widths), readings), prefixes=prefixes)
        return engine

    start = time.process_time()
    timed = run(_Timed, "mean", "nll")
    assert isinstance(timed, _Timed)
    total = time.process_time() - start - timed.products_s
    times: dict[str, list[float]] = {"codes": [], "nll": []}
    for _ in range(rounds):
        for arm in ("codes", "nll", "nll", "codes"):
            start = time.process_time()
            run(Engine, "mean", *(["nll"] if arm == "nll" else []))
            times[arm].append(time.process_time() - start)
    n_response = sum(end - max(start, 1) for e in encoded for start, end in e.response or ())
    body = sum(p.numel() for n, p in model.body.named_parameters() if p.dim() > 1 and "embed" not in n)
    return {
        "what": "pass",
        "samples": len(encoded),
        "tokens": timed.run_tokens,
        "response_tokens": n_response,
        "head_of_body_flops": round(n_response * model.head.weight.numel() / (timed.run_tokens * body), 4),
        "total_s": round(total, 3),
        **{name: round(getattr(timed, name), 3) for name in ("losses_s", "op_s", "products_s")},
        "beside_products": round((timed.losses_s - timed.products_s) / (total - timed.losses_s), 4),
        **{f"{arm}_s": round(statistics.median(values), 3) for arm, values in times.items() if values},
    }


def _alone(job: str, rows: int, width: int, words: int, dtype: str, sender: Any) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    kind = getattr(torch, dtype)
    x = torch.randn(rows, width, generator=generator).to(kind)
    weight = (torch.randn(words, width, generator=generator) * width**-0.5).to(kind)
    labels = torch.randint(words, (rows,), generator=generator)
    jobs: dict[str, Callable[[], object]] = {
        "op": lambda: token_losses(x, weight, labels),
        "whole": lambda: F.cross_entropy((x @ weight.T).float(), labels, reduction="none"),
    }
    token_losses(x[:2], weight[:64], labels[:2] % 64)
    before = _peak_mib()
    with torch.inference_mode():
        start = time.process_time()
        jobs[job]()
        seconds = time.process_time() - start
    sender.send((seconds, _peak_mib() - before))


def _peak_mib() -> float:
    # ru_maxrss of a process that was started by another begins with that one's
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def op_row(rows: int, width: int, words: int, dtype: str) -> dict[str, Any]:
    """The op and torch's cross-entropy of whole logits: median CPU-seconds, MiB that each adds."""
    seen: dict[str, list[tuple[float, float]]] = {"op": [], "whole": []}
    for _ in range(ROUNDS):
        for job in ("op", "whole", "whole", "op"):
            receiver, sender = get_context("spawn").Pipe(False)
            process = get_context("spawn").Process(target=_alone, args=(job, rows, width, words, dtype, sender))
            process.start()
            seen[job].append(receiver.recv())
            process.join()
    medians = {job: np.median(values, axis=0) for job, values in seen.items()}
    figures = {f"{job}_s": round(float(m[0]), 3) for job, m in medians.items()}
    figures |= {f"{job}_mib": round(float(m[1])) for job, m in medians.items()}
    return {"what": "op", "rows": rows, "width": width, "words": words, **figures}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--only", choices=("op", "pass"))
    parser.add_argument("--work", type=Path, required=True, help="folder for the rows of the pool")
    parser.add_argument("--write", action="store_true", help="keep the rows")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    pool = arguments.work / "pool.jsonl"
    pool.write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    options = ModelOptions(model=arguments.model, dtype=arguments.dtype)
    session = open_session(options, DataOptions(max_length=arguments.max_length), quiet=True, nll="loss")
    encoded = list(encode(session.encoder, Pool(str(pool)).samples(), lambda refused: None))  # prompts too long
    about = described(arguments, "dtype", "max_length")
    assert session.model.head is not None
    words, width = session.model.head.weight.shape
    rows = []
    if arguments.only != "pass":
        rows.append(about | op_row(2048, width, words, arguments.dtype))
    if arguments.only != "op":
        rows.append(about | pass_row(session, encoded, arguments.rounds))
    for row in rows:
        print(table([row], list(row)))
    if arguments.write:
        record("losses", rows)


if __name__ == "__main__":
    main()
