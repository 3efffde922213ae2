"""Whether two versions write the same bytes: every codec, method, rule and verb on one small pool.

    python -m benchmarks.same_bytes --model FOLDER --pool POOL.jsonl --target NAME=FILE … --work NEW --save before.json
    python -m benchmarks.same_bytes … --work OTHER --compare before.json

Each verb runs as a process of its own, of the tree that the command stands in, one thread each. What is compared: the
SHA-256 of every file that holds no JSON; of JSON files the values, without times, versions, hardware, paths, the
options' spelling and checksums of these. ``--compare`` names what differs, and ends with status 1 where something does.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

# What may differ between two runs or two versions.
VARYING = {
    "time",
    "seconds",
    "scan_seconds",
    "tokens_per_s",
    "environment",
    "config",
    "options",
    "checksum",
    "index",
    "nait_fast",
    "commit",
    "command",
    "output",
    "file",
    "stamps",
    "path",
    "identity",
    "workers",
}
CODECS = {
    "neuron": ["--codec", "neuron", "--reading", "mean", "--embed", "last"],
    "drift": ["--codec", "neuron", "--reading", "drift"],
    "nag": ["--codec", "nag"],
    "components": ["--codec", "components"],
    "components-mean": ["--codec", "components", "--reading", "mean"],
    "rotated": ["--codec", "rotated"],
}
METHODS = {
    "contrast": ("neuron", ["--method", "contrast"]),
    "logodds": ("neuron", ["--method", "contrast:weights=logodds,planes=8"]),
    "contrast-drift": ("drift", ["--method", "contrast", "--reading", "drift"]),
    "embed": ("neuron", ["--method", "embed"]),
    "nag": ("nag", ["--method", "nag"]),
    "nait": ("components", ["--method", "nait"]),
    "nait-rotated": ("rotated", ["--method", "nait"]),
    "nait-mean": ("components-mean", ["--method", "nait", "--reading", "mean"]),
}
RULES = {
    "mean": ["--fraction", "0.1"],
    "max": ["--combine", "max", "--top-k", "9", "--export", "llama_factory", "dataflex", "messages"],
    "union": ["--combine", "union", "--token-budget", "900", "--pick", "bottom", "--scores", "selected"],
    "roundrobin": ["--combine", "roundrobin", "--top-k", "12", "--scores", "none"],
}


def run(*arguments: Any) -> None:
    """One verb; ends the program where it fails."""
    command = [sys.executable, "-m", "nait_fast", *map(str, arguments), "--quiet", "--json"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": os.getcwd()}
    ran = subprocess.run(command, env=env, capture_output=True, text=True)
    if ran.returncode:
        sys.exit(f"{' '.join(command)}\n{ran.stderr[-2000:]}")
    print(" ".join(command[3:9]), file=sys.stderr)


def make(work: Path, model: str, pool: Path, targets: list[str]) -> None:
    """All that is compared, in ``work``."""
    lines = pool.read_bytes().splitlines(keepends=True)
    work.mkdir(parents=True)
    first, second = work / "first.jsonl", work / "second.jsonl"
    first.write_bytes(b"".join(lines[: len(lines) // 2]))
    second.write_bytes(b"".join(lines[len(lines) // 2 :]))
    common = ["--model", model, "--max-length", "256"]
    shards, sample = ["--shard-rows", "16"], ["--calibration-size", "48"]
    for name, options in CODECS.items():
        calibrated = sample if name != "nag" else []
        run("index", *common, *shards, *calibrated, "--dataset", first, "--output", work / name, *options)
    for name, (codec, options) in METHODS.items():
        codebook = [] if name in ("nag", "nait", "nait-rotated", "nait-mean") else ["--codebook", work / codec]
        run("signature", *common, "--target", *targets, "--output", work / "signatures" / name, *codebook, *options)
        files = sorted((work / "signatures" / name).glob("*.safetensors"))
        rules = RULES if name in ("contrast", "nait") else {"mean": RULES["mean"]}
        for rule, chosen in rules.items():
            given = chosen if len(files) > 1 or "--combine" not in chosen else chosen[2:]
            run(
                "rank",
                "--index",
                work / codec,
                "--signature",
                *files,
                "--output",
                work / "ranked" / f"{name}-{rule}",
                *given,
            )
        run("evaluate", "--index", work / codec, "--signature", *files, "--output", work / "evaluated" / name)
    nait = sorted((work / "signatures" / "nait").glob("*.safetensors"))
    scored, joined = work / "scored", work / "second"
    run(
        "index",
        *common,
        *shards,
        *sample,
        "--dataset",
        first,
        "--output",
        scored,
        "--reading",
        "mean",
        "--exact",
        *nait,
    )
    run("rank", "--index", scored, "--signature", *nait, "--output", work / "ranked" / "scored")
    adding = [*common, *shards, "--dataset", second]
    run("index", *adding, "--output", joined, "--codebook", work / "neuron", "--reading", "mean", "--embed", "last")
    run("merge", "--index", work / "neuron", joined, "--output", work / "merged")
    for codec, options in CODECS.items():
        run("index", *adding, "--output", work / codec, "--append", *options)
    for method in ("contrast", "nait", "nag", "embed"):
        run(
            "select",
            *common,
            "--dataset",
            first,
            "--target",
            *targets,
            "--output",
            work / "selected" / method,
            "--method",
            method,
            "--fraction",
            "0.2",
            *(sample if method != "nag" else []),
        )


def plain(value: Any) -> Any:
    """``value`` without what may differ."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items() if key not in VARYING}
    return [plain(item) for item in value] if isinstance(value, list) else value


def digests(work: Path) -> dict[str, str]:
    """File -> digest of what is compared of it."""
    out = {}
    for path in sorted(work.rglob("*")):
        name = path.relative_to(work).as_posix()
        if not path.is_file() or path.name.startswith(".") or path.suffix in (".yaml", ".md") or "log" in path.stem:
            continue
        data = path.read_bytes()
        if path.suffix == ".json":
            data = json.dumps(plain(json.loads(data)), sort_keys=True).replace(str(work), "").encode()
        if path.name != "events.jsonl":
            out[name] = hashlib.sha256(data).hexdigest()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--pool", type=Path, required=True)
    parser.add_argument("--target", nargs="+", action="extend", required=True)
    parser.add_argument("--work", type=Path, required=True, help="a new folder")
    parser.add_argument("--save", type=Path)
    parser.add_argument("--compare", type=Path)
    arguments = parser.parse_args()
    make(arguments.work, arguments.model, arguments.pool, arguments.target)
    made = digests(arguments.work)
    print(f"{len(made)} files")
    if arguments.save:
        arguments.save.write_text(json.dumps(made, indent=1) + "\n")
    if arguments.compare:
        before = json.loads(arguments.compare.read_text())
        differ = sorted(name for name in {*before, *made} if before.get(name) != made.get(name))
        print("\n".join(differ) or "the same bytes")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
