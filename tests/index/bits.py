"""The naive method's readings of a pool, and codes compared with them bit by bit."""

import hashlib
import json
from functools import cache
from pathlib import Path

import numpy as np

from nait_fast.data.formats import detect, parse
from nait_fast.data.template import Template
from nait_fast.index.reader import Index
from tests import naive

SLACK = 1e-5  # of a neuron's standard deviation: nearer to the threshold a bit may fall either way


@cache
def model(folder: str):
    return naive.load(folder)


def naive_ids(folder: str, row: dict, max_length: int = 512, template: str = "chat") -> list[int]:
    _, tokenizer = model(folder)
    sample = parse(row, detect(row) or "", 0)
    if template == "chat":
        turns = [{"role": m.role, "content": m.content} for m in sample.messages]
        return naive.content_ids(tokenizer, turns, max_length)
    text, _ = Template(template, tokenizer).render(sample)
    return tokenizer(text, add_special_tokens=False)["input_ids"][:max_length]


def naive_readings(folder: str, rows: list[dict], **options) -> dict[str, np.ndarray]:
    """The naive readings of each row: float64 arrays [n, L, J]."""
    return naive.pooled_all(model(folder)[0], [naive_ids(folder, row, **options) for row in rows])


def arrays(index: Index) -> dict[str, np.ndarray]:
    """All shards of an index, one after another: codes, row, n_tokens and the exact scores."""
    shards = list(index.shards())
    out = {name: np.concatenate([getattr(s, name) for s in shards]) for name in ("codes", "row", "n_tokens")}
    return out | {name: np.concatenate([s.exact[name] for s in shards]) for name in index.exact}


def unexplained(got: np.ndarray, values: np.ndarray, index: Index) -> int:
    """Bits of codes ``got`` that differ from those of ``values`` [n, N] though they are not near the threshold."""
    codebook = index.codebook
    assert codebook.scale is not None
    bits = index.layout.unpack(got)
    near = np.abs(values - codebook.threshold) <= SLACK * codebook.scale
    return int(((bits != (values > codebook.threshold)) & ~near).sum())


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """Bits that differ between two sets of codes."""
    return int(np.bitwise_count(a ^ b).sum())


def digest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that makes up an index, and of the names of all others."""
    files = sorted(path for path in folder.iterdir())
    whole = [path for path in files if path.suffix == ".safetensors" or path.name in ("manifest.json", "skipped.jsonl")]
    beside = (".lock", "run.json", "log.json", "log-0.json", "log-1.json", "log-2.json", "events.jsonl", "config.yaml")
    beside = (*beside, ".nait-fast.lock", *(f"plan-{n:02d}.json" for n in range(3)))
    assert not [path.name for path in files if path not in whole and path.name not in beside]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in whole}


def manifest(folder: Path) -> dict:
    return json.loads((folder / "manifest.json").read_text())
