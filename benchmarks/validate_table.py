"""Which selection trains better, at equal response tokens: methods × rules × tokens × depth, on several targets.

    python -m benchmarks.validate_table --part index --model MODEL --dataset POOL --target NAME=FILE ... --work DIR
    python -m benchmarks.validate_table --part train --model MODEL --work DIR --dataset POOL --target NAME=FILE ...
        [--selector NAME=DIR ...] [--stages ...]
    python -m benchmarks.validate_table --part report

LoRA on what each way to select takes first from the pool, under one budget of response tokens; loss on held-out
samples of the target and on rows of the pool's kinds that nothing is trained on. Two settings: the target's own source
is in the pool, or it is removed from pool and index. A target's NAME is its own source. The arms:

    base            the model as it is
    own_source      random rows of the target's own source: can this set-up see an effect at all?
    random          a fresh draw, order and start of the adapters for each seed
    random_length   random rows of the response lengths of contrast's top
    longest         the longest responses
    nll, ifd        the highest loss of the response, and the highest IFD, which know no target
    WAY top         and WAY bottom: the ends of that order; a seed is another order and start
    WAY tenth K     a draw for each seed from the K-th tenth of that order

A run's rows are those of its own model's order; with --selector NAME=DIR also those of another model's (WAY top by
NAME). Each finished run is a row of its own: a rerun, and any number of processes at once, do what is missing, most
important runs first.

The sequential rule: every top has ``SEEDS`` seeds, random ``DRAWS``. A top that its 1 - .05 / LOOKS interval against
random doesn't tell from it then gets one seed more, up to ``MOST`` (so there are at most LOOKS looks at a comparison,
and the chance that any of them is wrong stays below .05). Stage ``seeds`` gives one more: name it LOOKS - 1 times.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import selections
from benchmarks.pools import lines_of, pool_parser
from benchmarks.record import RESULTS, hardware, record
from benchmarks.remembered import remembering
from benchmarks.validate_plan import ANY, QUALITY, REMOVED, STAGES, Material, Run, plan, rows_of
from benchmarks.validate_report import report, undecided
from nait_fast import Index, api, selection_of
from nait_fast.env import environment
from nait_fast.errors import NaitError
from nait_fast.validation import steps as arms
from nait_fast.validation.runs import claimed, digest, read_runs

FILE = "validate_table"
SKIPPED = 128  # rows of a target file that its held-out samples lie behind


# What the orders are made of


def make_indexes(arguments: argparse.Namespace) -> None:
    """Indexes and signatures of the whole pool, and of the pool without each target's source; then the losses."""
    targets = selections.write_inputs(arguments)
    names = [text.partition("=")[0] for text in arguments.target]
    work = arguments.work
    for tokens in selections.TOKENS:
        if not (work / tokens / "crds" / f"{names[-1]}.safetensors").exists():
            selections.make(arguments, targets, tokens)
    pool = [json.loads(line) for line in lines_of(work / "pool.jsonl")]
    for name in names:
        rest = [row for row in pool if row["source"] != name]
        (work / f"pool-without-{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rest))
    common: dict[str, Any] = {"model": arguments.model, "max_length": arguments.max_length, "dtype": arguments.dtype}
    for tokens, depth in (("all", "all"), ("all", "1/3"), ("response", "all")):
        with remembering(work / tokens / "readings", arguments.rows + 100 + arguments.samples * len(targets)):
            for removed in ("", *names):
                _make_removed(arguments, common, tokens, depth, removed, targets)
    quality = {**common, "dataset": str(work / "pool.jsonl"), "skip_bad_rows": True, "workers": 1}
    if not (work / "quality" / "manifest.json").exists():
        api.build_index(**quality, nll="ifd", output=str(work / "quality"), quiet=False)


def folder_of(work: Path, removed: str, tokens: str, depth: str) -> Path:
    """Where the index without ``removed`` ("": of all) over ``tokens``, of the first layers ``depth``, is."""
    if not removed and depth == "all":
        return work / tokens
    return work / f"{'without-' + removed if removed else 'whole'}-{tokens}-{depth.replace('/', '_')}"


def _make_removed(
    arguments: argparse.Namespace, common: dict[str, Any], tokens: str, depth: str, removed: str, targets: list[str]
) -> None:
    folder = folder_of(arguments.work, removed, tokens, depth)
    methods = ("contrast", "embed", "crds") if tokens == depth == "all" else ("contrast", "embed")
    methods = methods if depth == "all" else ("contrast",)
    wanted = [text for text in targets if not removed or text.partition("=")[0] == removed]
    last = wanted[-1].partition("=")[0]
    if (folder / methods[-1] / f"{last}.safetensors").exists():
        return
    pool = arguments.work / (f"pool-without-{removed}.jsonl" if removed else "pool.jsonl")
    layers = {} if depth == "all" else {"depth": depth}
    indexing = {**common, **layers, "dataset": str(pool), "workers": 1, "skip_bad_rows": True, "tokens": tokens}
    if not (folder / "index" / "manifest.json").exists():
        embed = "last,rds" if depth == "all" else "none"
        api.build_index(**indexing, embed=embed, output=str(folder / "index"), seed=arguments.seed, quiet=False)
    for method in methods:
        kept = {"codebook": str(folder / "index")} if method != "crds" else {}
        kept |= {"keep_samples": True} if method != "crds" else {}
        signing = {**common, **layers, "tokens": tokens, "target": wanted, "method": method, **kept}
        api.build_signature(**signing, output=str(folder / method))


def _order(index: Path, signature: Path, **asked: Any) -> np.ndarray:
    opened = Index(index)
    return selection_of(opened, signature, top_k=opened.rows, **asked).rows


def order_of(work: Path, names: Sequence[str], setting: str, target: str, way: str) -> np.ndarray:
    """The pool's rows, int64, best first by ``way`` for ``target``; without its source in the setting removed."""
    method, _, detail = way.partition(" ")
    removed = target if setting == REMOVED else ""
    tokens, depth = ("response" if detail == "response" else "all"), ("1/3" if detail == "1/3" else "all")
    asked: dict[str, Any] = {"rule": detail} if detail in ("roundrobin", "centroid") else {}
    asked |= {"length": "matched"} if detail == "matched" else {}
    pool = [json.loads(line)["source"] for line in lines_of(work / "pool.jsonl")]
    kept = np.array([source != removed for source in pool])
    whole = work / tokens
    if method in QUALITY:
        table = _column(work / "quality", method)
        return table[0][np.argsort(-table[1], kind="stable")]
    if method == "nait":
        rows = _order(whole / "index", whole / "nait" / f"{target}-drift.safetensors")
    elif method == "nag" and (not removed or not detail):
        rows = _order(whole / "index-nag", whole / "nag" / f"{target}.safetensors", **asked)
    elif method == "nag":
        raise ValueError("round-robin over the sets of a pool without the source is not made")
    else:
        folder = folder_of(work, removed, tokens, depth)
        signature = (whole if method == "rds" else folder) / method / f"{target}.safetensors"
        rows = _order(folder / "index", signature, **asked)
        if removed:  # numbers in the pool without the source
            return np.flatnonzero(kept)[rows]
        return rows
    return rows[kept[rows]]


def _column(index: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    shards = list(Index(index).shards())
    rows, values = [shard.row for shard in shards], [shard.columns[name] for shard in shards]
    return np.concatenate(rows), np.concatenate(values).astype(np.float64)


@dataclass(frozen=True)
class Orders:
    """The orders of the pool by one ``selector`` model, of its ``work`` folder, made when they are first needed."""

    work: Path
    names: tuple[str, ...]

    def __call__(self, setting: str, target: str, way: str) -> np.ndarray:
        name = digest([setting, target, way])
        file = self.work / "orders" / f"{name}.npy"
        if not file.exists():
            file.parent.mkdir(exist_ok=True)
            made = order_of(self.work, self.names, setting, target, way)
            part = file.with_suffix(f".{time.time_ns()}.tmp")
            with open(part, "wb") as out:
                np.save(out, made)
            part.rename(file)
        return np.load(file)


def configuration(setting: str, run: Run, rows: np.ndarray) -> str:
    """Hash of all that decides a run's result."""
    return digest([setting, asdict(run), np.sort(rows).tolist()])


def perform(learner: Any, material: Material, run: Run, rows: np.ndarray) -> dict[str, Any]:
    """Train and evaluate; what the row says of them."""
    recipe, out, cpu = learner.recipe, {}, time.process_time()
    if run.arm == "base":
        with learner.fresh(0):  # untrained adapters add nothing
            pass
    else:
        steps = arms.make_steps(material.response, rows, recipe.tokens, recipe.steps, 1000 + run.seed)
        out = learner.train(steps, run.seed)
        sources = [material.sources[row] for batch in steps for row, _ in batch]
        out["mean_response"] = round(out["response_tokens"] / out["samples"], 1)
        out["of_sources"] = {s: round(sources.count(s) / len(sources), 3) for s in sorted(set(sources))}
    sets = list(material.held_out) if run.target == ANY else [run.target, "general"]
    evaluated = {name: learner.evaluate(material.held_out[name]) for name in sets}
    return {**out, "cpu_seconds": round(time.process_time() - cpu, 1), "evaluated": evaluated}


def work_through(
    runs: Sequence[Run], learner: Any, material: Material, setting: dict[str, Any], path: Path, claims: Path
) -> Iterator[dict[str, Any]]:
    """Do the ``runs`` that the rows of ``path`` do not have and no other process is at; append a row for each."""
    name = digest(setting)
    for run in runs:
        empty = np.zeros(0, dtype=int)
        rows = empty if run.arm == "base" else rows_of(material, run, learner.recipe.tokens)
        config = configuration(name, run, rows)
        with claimed(claims, config) as mine:
            if not mine or any(row["config"] == config for row in read_runs(path)):
                continue
            started = time.perf_counter()
            about = {**asdict(run), "config": config, "of": name, **setting}
            row = {**about, **perform(learner, material, run, rows)}
            row["seconds"] = round(time.perf_counter() - started, 1)
            record(FILE, [row], path.parent)
            yield row


def gather(arguments: argparse.Namespace, loaded: Any) -> tuple[Material, dict[str, Any]]:
    """(the samples and orders, what of them decides results)."""
    from nait_fast.data.formats import parse_any
    from nait_fast.data.template import Template
    from nait_fast.validation.training_samples import training_encoder, training_samples

    encoder = training_encoder(
        loaded.tokenizer, Template("auto", loaded.tokenizer), arguments.max_length, loaded.vocabulary
    )

    def encode(lines: Sequence[bytes]) -> list[Any]:
        return training_samples(encoder, [parse_any(json.loads(line), i) for i, line in enumerate(lines)])[0]

    pool = lines_of(arguments.work / "pool.jsonl")
    samples = encode(pool)
    sources = np.array([json.loads(line)["source"] for line in pool])
    chosen = set(pool)
    rest = [line for line in lines_of(arguments.dataset) if line not in chosen]
    general = [rest[i] for i in np.random.default_rng(arguments.seed).permutation(len(rest))[: 4 * arguments.held_out]]
    lines = {"general": general}
    names = []
    for text in arguments.target:
        name, _, path = text.partition("=")
        names.append(name)
        lines[name] = lines_of(Path(path))[SKIPPED:]
    held_out: dict[str, list[int]] = {}
    kept: list[bytes] = []
    for name, some in lines.items():
        usable = [(line, sample) for line, sample in zip(some, encode(some), strict=True) if sample is not None]
        usable = usable[: arguments.held_out]
        if len(usable) < arguments.held_out:
            raise NaitError(f"{name}: {len(usable)} held-out samples; --held-out wants {arguments.held_out}")
        held_out[name] = list(range(len(samples), len(samples) + len(usable)))
        samples += [sample for _, sample in usable]
        kept += [line for line, _ in usable]
    filler = next(sample for sample in samples if sample is not None)
    response = np.array([0 if sample is None else sample.response for sample in samples], dtype=np.int64)
    usable_rows = np.flatnonzero(response[: len(pool)])
    orders = {loaded.name: Orders(arguments.work, tuple(names))}
    for text in arguments.selector:
        name, _, work = text.partition("=")
        orders[name] = Orders(Path(work), tuple(names))
    setting = {
        "model": Path(arguments.model).name,
        "max_length": arguments.max_length,
        "pool_rows": len(pool),
        "left_out": len(pool) - len(usable_rows),
        "held_out": arguments.held_out,
        "targets": names,
        "data": digest([line.decode() for line in (*pool, *kept)]),
    }
    filled = [filler if sample is None else sample for sample in samples]
    return Material(filled, sources, usable_rows, held_out, response, orders, loaded.name), setting


def train(arguments: argparse.Namespace, path: Path) -> None:
    from nait_fast.models.load import load_model
    from nait_fast.validation.learner import Learner, Recipe

    recipe = Recipe(
        tokens=arguments.tokens,
        steps=arguments.tokens // arguments.batch_tokens,
        rank=arguments.rank,
        alpha=2 * arguments.rank,
        layers=arguments.layers,
        lr=arguments.lr,
        product=arguments.product,
        pack_tokens=arguments.pack_tokens,
    )
    if arguments.batch_tokens < arguments.max_length:
        raise NaitError("--batch-tokens: a step may not be shorter than the longest response")
    loaded = load_model(arguments.model, dtype=arguments.train_dtype, device=arguments.device, head=True)
    material, setting = gather(arguments, loaded)
    learner = Learner(loaded, material.samples, recipe)
    dtype = str(next(loaded.body.parameters()).dtype).removeprefix("torch.")
    setting |= {"recipe": asdict(recipe) | {"product": learner.product}, "attention": learner.attention, "dtype": dtype}
    learner.expect([*material.pool.tolist(), *(row for rows in material.held_out.values() for row in rows)])
    others = [text.partition("=")[0] for text in arguments.selector]
    stages = plan(material, setting["targets"], arguments.tokens, others)
    claims = arguments.work / "claims"
    for stage in arguments.stages:
        runs = seeds(path, digest(setting)) if stage == "seeds" else stages[stage]()
        for row in work_through(runs, learner, material, setting, path, claims):
            losses = {name: round(sum(e["nll"]) / sum(e["tokens"]), 4) for name, e in row["evaluated"].items()}
            run = " ".join(str(row[key]) for key in ("setting", "target", "arm", "selector", "seed"))
            took = f"{row['seconds']} s, {row['cpu_seconds']} CPU-s"
            print(time.strftime("%H:%M:%S"), stage, run, losses, took, file=sys.stderr, flush=True)


def seeds(path: Path, setting: str) -> list[Run]:
    """The runs that the sequential rule wants next."""
    return [Run(*key) for key in undecided(read_runs(path), setting)]


def parse() -> argparse.Namespace:
    parser = pool_parser(__doc__)
    add = parser.add_argument
    add("--part", choices=("index", "train", "report"), required=True)
    add("--work", type=Path, required=True, help="indexes, signatures and orders are kept here")
    add("--samples", type=int, default=64, help="of each target that its signature is made of")
    add("--mix", nargs="+", default=["gsm8k", "code_alpaca", "roleplay"], help="as of benchmarks.selections")
    add("--leave-out", nargs="+", default=[], metavar="NAME=ROW", help="samples of targets with no response left")
    add("--dtype", default="auto", help="of the model that selects")
    add("--selector", nargs="+", default=[], metavar="NAME=DIR", help="another model's name and work folder")
    add("--held-out", type=int, default=64, help="rows of each set that losses are measured on")
    add("--tokens", type=int, default=10240, help="response tokens that each arm trains on")
    add("--batch-tokens", type=int, default=640, help="response tokens a step")
    add("--rank", type=int, default=8)
    add("--layers", type=int, default=6, help="how many of the last layers are adapted (0: all)")
    add("--lr", type=float, default=1e-3)
    add("--product", default="auto", help="frozen products: auto, torch, onednn, onednn-bf16")
    add("--pack-tokens", type=int, default=2048, help="tokens that run at once in evaluations")
    add("--device", default="auto")
    add("--train-dtype", default="auto")
    add("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    add("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    return parser.parse_args()


def main() -> int:
    import torch  # noqa: F401  so that the hardware's name knows of GPUs

    arguments = parse()
    path = (arguments.output or RESULTS / hardware(environment())) / f"{FILE}.jsonl"
    if arguments.part == "index":
        make_indexes(arguments)
    elif arguments.part == "train":
        train(arguments, path)
    else:
        print(report(read_runs(path)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NaitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
