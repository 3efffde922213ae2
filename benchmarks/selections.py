"""What every method retrieves of a target's own source, by every rule, over which tokens, at which lengths.

    python -m benchmarks.selections --model DIR --dataset POOL.jsonl.gz --target NAME=FILE ... --work DIR
        [--rows 3040] [--samples 64] [--dtype auto] [--part index|table|all]

A target's NAME is its own source; one more is of samples of the kinds that --mix names. For tokens all and response
each: readings of the model are captured once (benchmarks.remembered), and the verbs index and signature run on them;
then every method, rule and length ranks the index.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pools import described, lines_of, pool_parser, write_pool
from benchmarks.record import record, table
from benchmarks.remembered import remembering, sign_by_both_readings
from nait_fast import Index, api, selection_of
from nait_fast.methods import method_of
from nait_fast.methods.signature import LENGTHS, load_signature
from nait_fast.ranking.spearman import spearman

TOKENS = ("all", "response")
MIXED = "mixed"
TOP = 0.1


def write_inputs(arguments: argparse.Namespace) -> list[str]:
    """The pool and each target's first samples as files of the work folder, and a target of all kinds but the general
    one together; returns NAME=FILE of the targets."""
    work = write_pool(arguments).parent
    targets = []
    for text in arguments.target:
        name, _, file = text.partition("=")
        out = {int(row) for other, _, row in (one.partition("=") for one in arguments.leave_out) if other == name}
        lines = lines_of(Path(file), arguments.samples + len(out))
        lines = [line for row, line in enumerate(lines) if row not in out]
        (work / f"{name}.jsonl").write_bytes(b"".join(lines))
        targets.append(f"{name}={work / name}.jsonl")
    kinds = [text.partition("=")[0] for text in arguments.mix]
    each = arguments.samples // len(kinds)
    mixed = [line for kind in kinds for line in lines_of(work / f"{kind}.jsonl", each)]
    (work / f"{MIXED}.jsonl").write_bytes(b"".join(mixed))
    return [*targets, f"{MIXED}={work / MIXED}.jsonl"]


def make(arguments: argparse.Namespace, targets: list[str], tokens: str) -> None:
    """Both indexes of the pool, and the signatures of every method, in a folder of the work folder."""
    folder = arguments.work / tokens
    common: dict[str, Any] = {
        "model": arguments.model,
        "max_length": arguments.max_length,
        "dtype": arguments.dtype,
        "tokens": tokens,
        "quiet": False,
    }
    signing: dict[str, Any] = {**common, "target": targets}
    pool, bits = str(arguments.work / "pool.jsonl"), str(folder / "index")
    indexing = {**common, "dataset": pool, "workers": 1, "skip_bad_rows": True}  # those whose responses are cut off
    with remembering(folder / "readings", arguments.rows + 100 + arguments.samples * len(targets)):
        exact = sign_by_both_readings(signing, folder)
        api.build_index(**indexing, embed="last,rds", exact=exact, output=bits, seed=arguments.seed)
        api.build_index(**indexing, codec="nag", output=str(folder / "index-nag"))
        for method in ("contrast", "embed", "nag", "rds", "crds"):
            codebook = bits if method in ("contrast", "embed") else None
            kept = method not in ("rds", "crds")  # they always keep their samples
            api.build_signature(
                **signing, method=method, codebook=codebook, keep_samples=kept, output=str(folder / method)
            )


def variants(method: str) -> Iterator[tuple[str, str]]:
    """(rule, length) of every way to select by ``method``."""
    kind = method_of(method.partition(", ")[0])
    for rule in kind.rules:
        for length in ("free", "matched") if kind.has_background else ("free",):
            yield rule, length


def files_of(folder: Path, name: str) -> dict[str, Path]:
    """Method -> the signature of target ``name``."""
    nait = {f"nait, {reading}": folder / "nait" / f"{name}-{reading}.safetensors" for reading in ("drift", "mean")}
    others = ("contrast", "embed", "nag", "rds", "crds")
    return nait | {method: folder / method / f"{name}.safetensors" for method in others}


def measured(work: Path, tokens: str, names: Sequence[str], mix: Sequence[str]) -> Iterator[dict[str, Any]]:
    """One result row for each target, method, rule and length."""
    folder, sources = work / tokens, np.array([json.loads(line)["source"] for line in lines_of(work / "pool.jsonl")])
    indexes = {name: Index(folder / name) for name in ("index", "index-nag")}
    for name in (*names, MIXED):
        of_target = load_signature(folder / "contrast" / f"{name}.safetensors").tensors[LENGTHS]
        for method, file in files_of(folder, name).items():
            index = indexes["index-nag" if method == "nag" else "index"]
            for rule, length in variants(method):
                asked: dict[str, Any] = {"length": length} if length != "free" else {}
                order = selection_of(index, file, rule=rule, top_k=index.rows, **asked)
                best = max(1, round(TOP * len(order)))
                row = {
                    "target": name,
                    "method": method,
                    "rule": rule,
                    "tokens": tokens,
                    "length": length,
                    "rows": len(order),
                    "samples": len(of_target),
                    "spearman_with_length": round(spearman(-np.arange(len(order)), order.n_tokens), 3),
                    "tokens_of_best": round(float(order.n_tokens[:best].mean()), 1),
                    "tokens_of_target": round(float(of_target.mean()), 1),
                }
                of_best = sources[order.rows]
                if name == MIXED:
                    yield row | {"best": best, "of_kinds": {kind: int((of_best[:best] == kind).sum()) for kind in mix}}
                else:
                    relevant = of_best == name
                    share = float(relevant[: relevant.sum()].mean())
                    yield row | {"relevant": int(relevant.sum()), "r_precision": round(share, 4)}


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The tables of docs/methods.md for the rows of one model."""
    names = list(dict.fromkeys(row["target"] for row in rows if row["target"] != MIXED))
    retrieval: dict[tuple[str, ...], dict[str, str]] = {}
    mixed: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in rows:
        of = (row["method"], row["rule"], row["length"], row["tokens"])
        if row["target"] != MIXED:
            shown = retrieval.setdefault(of, dict(zip(("method", "rule", "length", "tokens"), of, strict=True)))
            cell = f"{row['r_precision']:.3f} ({row['spearman_with_length']:+.2f}), {row['tokens_of_best']:.0f}"
            shown[row["target"]] = cell
        elif row["length"] == "free":
            line = mixed.setdefault(of[:2] + of[3:], {"method": of[0], "tokens": of[3]} | {"rule": of[1]})
            line |= {kind: f"{count / row['best']:.0%}" for kind, count in row["of_kinds"].items()}
    own = {row["target"]: row["tokens_of_target"] for row in rows}
    retrieval[("target",)] = {"method": "the target itself"} | {name: f"{own[name]:.0f}" for name in names}
    kinds = next(list(row["of_kinds"]) for row in rows if row["target"] == MIXED)
    first, (best, mixed_samples) = rows[0], next((r["best"], r["samples"]) for r in rows if r["target"] == MIXED)
    number = {row["tokens"]: f"{row['rows']:,}" for row in rows}
    among = number.pop("all", None) or number.pop("response")
    if number and set(number.values()) != {among}:
        among += f" ({' and '.join(number.values())} by the response, where it is not cut off)"
    return (
        f"**Rules, tokens and lengths** by {first['model']} ({first['dtype']}): R-precision of a target's own source "
        f"among {among} samples, targets of {first['samples']} samples; in brackets the rank's Spearman "
        "correlation with length; then the mean tokens of the best tenth.\n\n"
        f"{table(list(retrieval.values()), ['method', 'rule', 'length', 'tokens', *names])}\n\n"
        f"**A target of several kinds**, {' and '.join(kinds)} alike ({mixed_samples} samples): the share of each "
        f"kind's source among the best {best} of the same samples.\n\n"
        f"{table(list(mixed.values()), ['method', 'rule', 'tokens', *kinds])}\n"
    )


def main() -> None:
    parser = pool_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="keep the indexes and signatures here")
    parser.add_argument("--samples", type=int, default=64, help="of each target")
    parser.add_argument("--mix", nargs="+", required=True, metavar="NAME", help="targets that a mixed one is made of")
    parser.add_argument(
        "--leave-out", nargs="+", default=[], metavar="NAME=ROW", help="samples of targets: those with no response left"
    )
    parser.add_argument("--dtype", default="auto", help="of the model")
    parser.add_argument("--tokens", nargs="+", choices=TOKENS, default=list(TOKENS))
    parser.add_argument("--part", choices=("index", "table", "all"), default="all")
    arguments = parser.parse_args()
    targets = write_inputs(arguments)
    for tokens in arguments.tokens:
        if arguments.part != "table":
            make(arguments, targets, tokens)
    if arguments.part == "index":
        return
    names = [text.partition("=")[0] for text in arguments.target]
    about = described(arguments, "dtype", "max_length", "seed") | {"left_out": arguments.leave_out}
    rows = [
        about | row for tokens in arguments.tokens for row in measured(arguments.work, tokens, names, arguments.mix)
    ]
    path = record("selections", rows)
    print(lines(rows))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
