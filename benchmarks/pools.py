"""Pools to measure on: their lines, a stratified sample of them, and the options that name one."""

import argparse
import hashlib
import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.data.streams import open_stream


def lines_of(dataset: Path, rows: int | None = None) -> list[bytes]:
    """The first ``rows`` lines of a JSONL file (None: all), also of a compressed one; blank ones left out."""
    with open_stream(dataset, hashlib.sha256()) as file:
        return list(islice((line for line in file if line.strip()), rows))


def stratified(dataset: Path, n: int, seed: int) -> list[bytes]:
    """About ``n`` lines, each source in its share of the pool, in the pool's order."""
    lines = lines_of(dataset)
    sources = [json.loads(line)["source"] for line in lines]
    generator = np.random.default_rng(seed)
    keep: list[int] = []
    for source, count in sorted(Counter(sources).items()):
        members = np.flatnonzero([s == source for s in sources])
        keep += generator.choice(members, size=max(1, round(n * count / len(lines))), replace=False).tolist()
    return [lines[i] for i in sorted(keep)]


def write_pool(arguments: argparse.Namespace) -> Path:
    """The stratified sample of the pool as a file of the work folder, which is made."""
    arguments.work.mkdir(parents=True, exist_ok=True)
    file = arguments.work / "pool.jsonl"
    file.write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    return file


def described(arguments: argparse.Namespace, *options: str) -> dict[str, Any]:
    """What a row of results says of its run: the model's name and these options."""
    return {"model": Path(arguments.model).name} | {option: getattr(arguments, option) for option in options}


def pool_parser(about: str | None) -> argparse.ArgumentParser:
    """The options of a measurement on a stratified sample of a pool."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--target", required=True, nargs="+", metavar="NAME=FILE")
    parser.add_argument("--rows", type=int, default=3040)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--seed", type=int, default=0)
    return parser
