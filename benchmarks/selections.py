"""What every method retrieves of a target's own source, by every rule, over which tokens, at which lengths.

    python -m benchmarks.selections --model DIR --dataset POOL.jsonl.gz --target NAME=FILE ... --work DIR
        [--rows 3040] [--samples 64] [--dtype auto] [--part index|table|all]

A target's NAME is its own source. For tokens all and response each: readings of the model are captured once
(benchmarks.remembered), and the verbs index and signature run on them.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.pools import lines_of, pool_parser, stratified
from benchmarks.remembered import remembering
from nait_fast import api
from nait_fast.methods.signature import load_signature
from nait_fast.storage.files import make_folder

TOKENS = ("all", "response")
MIXED = "mixed"


def write_inputs(arguments: argparse.Namespace) -> list[str]:
    """The pool and each target's first samples as files of the work folder, and a target of all kinds but the general
    one together; returns NAME=FILE of the targets."""
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    (work / "pool.jsonl").write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    targets = []
    for text in arguments.target:
        name, _, file = text.partition("=")
        lines = lines_of(Path(file), arguments.samples)
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
    with remembering(folder / "readings", arguments.rows + 100 + arguments.samples * len(targets)):
        for reading in ("drift", "mean"):
            output = folder / f"nait-{reading}"
            api.build_signature(**signing, method="nait", reading=reading, output=str(output))
            for file in sorted(output.glob("*.safetensors")):
                signature = load_signature(file)
                replace(signature, name=f"{signature.name}-{reading}").save(make_folder(str(folder / "nait")))
        exact = sorted(map(str, (folder / "nait").glob("*.safetensors")))
        api.build_index(
            **common, dataset=pool, embed="last,rds", exact=exact, output=bits, workers=1, seed=arguments.seed
        )
        api.build_index(**common, dataset=pool, codec="nag", output=str(folder / "index-nag"), workers=1)
        for method in ("contrast", "embed", "nag", "rds", "crds"):
            codebook = bits if method in ("contrast", "embed") else None
            kept = method not in ("rds", "crds")  # they always keep their samples
            api.build_signature(
                **signing, method=method, codebook=codebook, keep_samples=kept, output=str(folder / method)
            )


def main() -> None:
    parser = pool_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="keep the indexes and signatures here")
    parser.add_argument("--samples", type=int, default=64, help="of each target")
    parser.add_argument("--mix", nargs="+", required=True, metavar="NAME", help="targets that a mixed one is made of")
    parser.add_argument("--dtype", default="auto", help="of the model")
    parser.add_argument("--part", choices=("index", "table", "all"), default="all")
    arguments = parser.parse_args()
    targets = write_inputs(arguments)
    for tokens in TOKENS:
        if not (arguments.work / tokens / "crds").exists():
            make(arguments, targets, tokens)


if __name__ == "__main__":
    main()
