"""Downstream ablation: does training on what a method ranks first help the target more than training on anything?

    python -m benchmarks.ablation --model MODEL --dataset POOL --target NAME=FILE ... --general FILE --work DIR
    python -m benchmarks.ablation --report

LoRA on the top, the bottom or a random part of the pool, with equal response tokens and steps for every arm; loss on
held-out samples of the target and on a general set. Response tokens are what is held equal, as they alone have a loss:
with all tokens equal, arms of short responses, whose tokens are mostly prompt and template, would train on few of
them. All tokens are recorded beside them. The arms:

    base            the model as it is
    own_source      random rows of the target's own source: can this set-up see an effect at all?
    random          a fresh draw, order and start of the adapters for each seed
    random_length   random rows of the response lengths of contrast's top
    longest         the longest responses
    METHOD top      and METHOD bottom, for each method; a seed is another order and start

A target whose source is named by --remove has it taken out of the pool, for all targets; its own_source arm draws from
what was taken out. Each finished run is a row of its own; a rerun does what is missing, most important runs first.
Processes with a --part and an --output each share the work, once one of them has made the scores.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import ablation_data as data
from benchmarks.ablation_data import METHODS, Sft, all_scores, digest, take, top
from benchmarks.ablation_stats import report
from benchmarks.record import RESULTS, hardware, record
from nait_fast.config import split_target as name_and_file
from nait_fast.env import environment
from nait_fast.errors import NaitError

STAGES = ("check", "tops", "controls", "bottoms", "seeds")
ANY = "any"  # the target of arms that no target decides


@dataclass(frozen=True)
class Run:
    """One training: ``target`` is ``any`` for arms that are every target's."""

    target: str
    arm: str
    seed: int


def plan(targets: Sequence[str], methods: Sequence[str], seeds: int, draws: int, more: int) -> dict[str, list[Run]]:
    """Stage -> its runs, most important first.

    ``seeds``: of each arm but the random ones, which have ``draws``; stage ``seeds`` brings every arm to ``more``.
    """
    tops, bottoms = ([f"{method} {end}" for method in methods] for end in ("top", "bottom"))

    def rounds(arms: Sequence[str], wanted: range) -> list[Run]:
        # Seed by seed over the targets: what is there when time runs out says something of each.
        return [Run(target, arm, seed) for seed in wanted for target in targets for arm in arms]

    few, low, extra = range(seeds), range(draws), range(seeds, more)
    check = [
        Run(ANY, "base", 0),
        *(Run(targets[0], "own_source", s) for s in few),
        *(Run(ANY, "random", s) for s in low),
    ]
    return {
        "check": check,
        "tops": [run for run in rounds(["own_source", *tops], few) if run not in check],
        "controls": [*(Run(ANY, "longest", s) for s in few), *rounds(["random_length"], low)],
        "bottoms": rounds(bottoms, few),
        "seeds": [*(Run(ANY, "longest", s) for s in extra), *rounds(["own_source", *tops, *bottoms], extra)],
    }


@dataclass(frozen=True)
class Material:
    """All samples, and where among them is what: ``pool``, ``held_out`` of each set, ``own_rows`` of each target.

    ``scores()``: (target, method) -> float64 over the pool, which comes first; made when they are first needed.
    """

    samples: Sequence[Sft]
    sources: Sequence[str]
    pool: np.ndarray
    held_out: Mapping[str, list[int]]
    own_rows: Mapping[str, np.ndarray]
    scores: Callable[[], Mapping[tuple[str, str], np.ndarray]]

    @property
    def response(self) -> np.ndarray:
        """Response tokens int64 of every sample."""
        return np.array([sample.response for sample in self.samples])


def rows_of(material: Material, run: Run, tokens: int) -> np.ndarray:
    """The rows that ``run`` trains on, as many as its response tokens need."""
    response, pool = material.response, material.pool
    generator = np.random.default_rng([run.seed, 1])
    if run.arm == "random":
        return take(generator.permutation(pool), response, tokens)
    if run.arm == "own_source":
        return take(generator.permutation(material.own_rows[run.target]), response, tokens)
    if run.arm == "longest":
        return top(pool, response.astype(float), response, tokens)
    if run.arm == "random_length":
        like = top(pool, material.scores()[run.target, "contrast"], response, tokens)
        return data.matched(like, pool, response, run.seed)
    method, _, end = run.arm.rpartition(" ")
    return top(pool, material.scores()[run.target, method], response, tokens, bottom=end == "bottom")


def configuration(setting: str, run: Run, rows: np.ndarray) -> str:
    """Hash of all that decides a run's result."""
    return digest([setting, run.target, run.arm, run.seed, np.sort(rows).tolist()])


def perform(learner: Any, material: Material, run: Run, rows: np.ndarray) -> dict[str, Any]:
    """Train and evaluate; what the row says of them."""
    recipe, out = learner.recipe, {}
    if run.arm == "base":
        with learner.fresh(0):  # untrained adapters add nothing
            pass
    else:
        steps = data.make_steps(material.samples, rows, recipe.tokens, recipe.steps, 1000 + run.seed)
        out = learner.train(steps, run.seed)
        used = [(row, n) for batch in steps for row, n in batch]
        sources = [material.sources[row] for row, _ in used]
        out["mean_response"] = round(out["response_tokens"] / out["samples"], 1)
        out["own_source"] = {t: round(sources.count(t) / len(sources), 3) for t in material.own_rows}
    sets = list(material.held_out) if run.target == ANY else [run.target, "general"]
    return {**out, "evaluated": {name: learner.evaluate(material.held_out[name]) for name in sets}}


def done(path: Path) -> list[dict[str, Any]]:
    """Rows that are there; a last line that was cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def work_through(
    runs: Sequence[Run],
    learner: Any,
    material: Material,
    setting: dict[str, Any],
    folder: Path | None,
    finished: Sequence,
) -> Iterator[dict[str, Any]]:
    """Do the ``runs`` that no row of ``finished`` has, and append a row for each at once."""
    name = digest(setting)
    configs = {row["config"] for row in finished}
    for run in runs:
        rows = rows_of(material, run, learner.recipe.tokens) if run.arm != "base" else np.zeros(0, dtype=int)
        config = configuration(name, run, rows)
        if config in configs:
            continue
        row = {**asdict(run), "config": config, "setting": name, **setting, **perform(learner, material, run, rows)}
        record("ablation", [row], folder)
        configs.add(config)
        yield row


def gather(arguments: argparse.Namespace, encoder: Any) -> tuple[Material, dict[str, Any]]:
    """(the samples and scores, what of them decides results). Rows with no room for a response are left out."""

    def usable(rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[Sft]]:
        pairs = [(row, sample) for row, sample in zip(rows, data.encode(encoder, rows), strict=True) if sample]
        return [row for row, _ in pairs], [sample for _, sample in pairs]

    drawn = data.make_pool(arguments.dataset, arguments.rows, arguments.seed, arguments.remove)
    pool, samples = usable(drawn)
    rows, more = usable([row for row in data.read_rows(arguments.dataset) if row["source"] in arguments.remove])
    sources, samples = [row["source"] for row in pool + rows], samples + more
    signature, held_out_files = {}, {"general": (arguments.general, 0)}
    for text in arguments.target:
        name, path = name_and_file(text)
        held_out_files[name] = (Path(path), arguments.signature)
        signature[name] = data.read_rows(Path(path))[: arguments.signature]
    rows, held_out = pool + rows, {}
    for name, (path, first) in held_out_files.items():
        some, more = usable(data.read_rows(path)[first:])
        if len(some) < arguments.held_out:
            raise NaitError(f"{path}: {len(some)} rows behind the first {first}; --held-out wants {arguments.held_out}")
        held_out[name] = list(range(len(samples), len(samples) + arguments.held_out))
        rows, samples = rows + some[: arguments.held_out], samples + more[: arguments.held_out]

    @cache
    def scores() -> Mapping[tuple[str, str], np.ndarray]:
        return all_scores(arguments.work, arguments.model, pool, signature, arguments.max_length, arguments.seed)

    own_rows = {name: np.flatnonzero(np.array(sources) == name) for name in signature}
    setting = {
        "model": Path(arguments.model).name,
        "max_length": arguments.max_length,
        "pool_rows": len(pool),
        "left_out": len(drawn) - len(pool),
        "removed": list(arguments.remove),
        "held_out": arguments.held_out,
        "targets": list(signature),
        "data": digest([rows, arguments.signature]),
    }
    return Material(samples, sources, np.arange(len(pool)), held_out, own_rows, scores), setting


def part(text: str) -> tuple[int, int]:
    """(I - 1, N) of ``I/N``. Raises ValueError."""
    first, number = (int(x) for x in text.split("/"))
    if not 1 <= first <= number:
        raise ValueError(text)
    return first - 1, number


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--report", action="store_true", help="only print the tables of the rows that are there")
    add("--model")
    add("--dataset", type=Path)
    add("--target", nargs="+", default=[], metavar="NAME=FILE", help="NAME is the target's own source in the pool")
    add("--general", type=Path, help="samples of no target")
    add("--remove", nargs="*", default=[], metavar="SOURCE", help="sources that the pool shall not have")
    add("--rows", type=int, default=3040, help="rows of the pool, stratified by source, before sources are removed")
    add("--signature", type=int, default=128, help="rows of each target that its signature is made of")
    add("--held-out", type=int, default=64, help="rows of each set that losses are measured on")
    add("--max-length", type=int, default=384)
    add("--seed", type=int, default=0, help="of the pool and its index")
    add("--tokens", type=int, default=20480, help="response tokens that each arm trains on")
    add("--batch-tokens", type=int, default=640, help="response tokens a step")
    add("--rank", type=int, default=8)
    add("--layers", type=int, default=6, help="how many of the last layers are adapted (0: all)")
    add("--lr", type=float, default=1e-3)
    add("--product", default="auto", help="frozen products: auto, torch, onednn, onednn-bf16")
    add("--pack-tokens", type=int, default=2048, help="tokens that run at once in evaluations")
    add("--device", default="auto")
    add("--dtype", default="auto")
    add("--methods", nargs="+", default=list(METHODS))
    add("--stages", nargs="+", default=list(STAGES), choices=STAGES)
    add("--arms", nargs="+", default=[], metavar="ARM", help="only these, such as random or 'contrast top'")
    add("--seeds", type=int, default=3)
    add("--draws", type=int, default=5, help="seeds of the random arms")
    add("--more-seeds", type=int, default=5, help="seeds of the other arms once all else is done")
    add("--part", type=part, default=(0, 1), metavar="I/N", help="every N-th run from the I-th on, for N processes")
    add("--work", type=Path, default=Path("ablation-work"), help="scores and indexes are kept here")
    add("--output", type=Path, help="folder for the rows (default: results of this hardware)")
    return parser.parse_args()


def main() -> int:
    import torch  # noqa: F401  so that the hardware's name knows of GPUs

    from benchmarks.ablation_train import ATTENTION, Learner, Recipe, load_causal
    from nait_fast.data.template import Template
    from nait_fast.data.tokenize import Encoder

    arguments = parse()
    path = (arguments.output or RESULTS / hardware(environment())) / "ablation.jsonl"
    if arguments.report:
        print(report(done(path)))
        return 0
    if not (arguments.model and arguments.dataset and arguments.target and arguments.general):
        raise NaitError("--model, --dataset, --target and --general are needed")
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
    recipe.check(arguments.max_length)
    causal, tokenizer, loaded = load_causal(arguments.model, arguments.dtype, arguments.device)
    encoder = Encoder(tokenizer, Template("auto", tokenizer), arguments.max_length, loaded.vocabulary)
    material, setting = gather(arguments, encoder)
    learner = Learner(causal, loaded, material.samples, recipe)
    if learner.attention != ATTENTION:
        setting["attention"] = learner.attention
    setting |= {"recipe": asdict(learner.recipe), "dtype": str(next(causal.parameters()).dtype).removeprefix("torch.")}
    stages = plan(setting["targets"], arguments.methods, arguments.seeds, arguments.draws, arguments.more_seeds)
    runs = [run for stage in arguments.stages for run in stages[stage]]
    runs = [run for run in runs if not arguments.arms or run.arm in arguments.arms]
    runs = runs[arguments.part[0] :: arguments.part[1]]
    for row in work_through(runs, learner, material, setting, arguments.output, done(path)):
        losses = {name: round(sum(e["nll"]) / sum(e["tokens"]), 4) for name, e in row["evaluated"].items()}
        print(row["target"], row["arm"], row["seed"], losses, row.get("train_seconds"), file=sys.stderr, flush=True)
    print(report(done(path)))
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except NaitError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
