"""Data of the ablation: the pool without the removed sources, the targets in two parts, samples with their response
marked, the scores of every pool row by every method, the arms, and the steps of a training run."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pools import lines_of, stratified
from benchmarks.retrieval import every_method
from nait_fast.data.formats import parse_any
from nait_fast.data.tokenize import Encoder, Refused
from nait_fast.errors import NaitError
from nait_fast.ranking.scan import scan
from nait_fast.ranking.streaming_topk import order
from nait_fast.storage.files import make_folder

METHODS = ("contrast", "nait-drift", "nait-mean", "nag", "embed")
NEIGHBOURS = 16  # rows nearest in length that a length-matched draw chooses among
Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Sft:
    """``ids`` int32 [K]: a sample's tokens, the end-of-turn token last if ``ended``; ``start``: first of the response.

    The response is ``ids[start:]``; a sample that was cut to the maximum length has no end.
    """

    ids: np.ndarray
    start: int
    ended: bool

    @property
    def response(self) -> int:
        """Tokens with a loss, the end among them."""
        return len(self.ids) - self.start


def end_of_turn(encoder: Encoder) -> int:
    """The token that ends a response. Raises NaitError if neither template nor tokenizer has one."""
    template, tokenizer = encoder.template, encoder.tokenizer
    closing = template.closing() if template.kind == "chat" else None
    ids = tokenizer(closing, add_special_tokens=False)["input_ids"] if closing else []
    end = ids[0] if ids else tokenizer.eos_token_id
    if end is None:
        raise NaitError("this tokenizer has no end-of-sequence token to train on")
    return int(end)


def encode(encoder: Encoder, rows: Sequence[dict[str, Any]]) -> list[Sft | None]:
    """Rows as ``Sft``; the ids before the end are the engine's own. None for a row whose prompt fills the length.

    Raises NaitError for a row that has no response, or that the template refuses.
    """
    end, out = end_of_turn(encoder), []
    for number, row in enumerate(rows):
        sample = parse_any(row, number)
        (encoded,) = encoder.encode([sample])
        if not sample.messages or isinstance(encoded, Refused):
            raise NaitError(f"row {number} cannot be trained on: it has no response, or the template refuses it")
        start = _response_start(encoder, sample, encoded.length)
        ids = encoded.ids if encoded.truncated else np.append(encoded.ids, np.int32(end))
        out.append(Sft(ids, start, not encoded.truncated) if start < len(encoded.ids) else None)
    return out


def _response_start(encoder: Encoder, sample: Any, length: int) -> int:
    """Where the response begins among the ``length`` ids that the encoder made of ``sample`` (before it cut them)."""
    text, _ = encoder.template.render(sample)
    content = sample.messages[-1].content
    content = content if text.endswith(content) else content.strip()
    if not text.endswith(content):
        raise NaitError("the template changes the response: it cannot be told from the prompt")
    offsets = encoder.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    first = len(text) - len(content)
    before = next(i for i, (_, stop) in enumerate(offsets) if stop > first)
    return length - (len(offsets) - before)  # from the end: the encoder adds or drops a BOS in front


def read_rows(path: Path) -> list[dict[str, Any]]:
    """JSON lines, also compressed."""
    return [json.loads(line) for line in lines_of(path)]


def make_pool(dataset: Path, rows: int, seed: int, removed: Sequence[str]) -> list[dict[str, Any]]:
    """The stratified sample of the pool without the sources ``removed``. Raises NaitError for a source it lacks."""
    pool = [json.loads(line) for line in stratified(dataset, rows, seed)]
    missing = sorted(set(removed) - {row["source"] for row in pool})
    if missing:
        raise NaitError(f"--remove {missing[0]}: the pool has no such source")
    return [row for row in pool if row["source"] not in removed]


def digest(value: Any) -> str:
    """16 hexadecimal digits over a value that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def top(rows: np.ndarray, scores: np.ndarray, response: np.ndarray, budget: int, bottom: bool = False) -> np.ndarray:
    """The best (or worst) of ``rows`` by ``scores``, until their response tokens make up ``budget``.

    ``scores`` float64, ``response`` int64: of the whole pool, as ``rows`` number it.
    """
    ranked = rows[order(rows, -scores[rows] if bottom else scores[rows])]
    return take(ranked, response, budget)


def take(ranked: np.ndarray, response: np.ndarray, budget: int) -> np.ndarray:
    """The first of ``ranked`` whose response tokens reach ``budget``; all of them if they do not."""
    reached = np.cumsum(response[ranked]) >= budget
    return ranked[: int(reached.argmax()) + 1] if reached.any() else ranked


def matched(like: np.ndarray, rows: np.ndarray, response: np.ndarray, seed: int) -> np.ndarray:
    """For each row of ``like`` a random one of ``rows`` of nearly its response length, none twice.

    Longest first: of them there are the fewest to choose from.
    """
    generator = np.random.default_rng(seed)
    free = rows[np.argsort(response[rows], kind="stable")].tolist()
    lengths = response[free].tolist()
    out = []
    for row in sorted(like.tolist(), key=lambda r: (-response[r], r)):
        near = np.argsort(np.abs(np.array(lengths) - response[row]), kind="stable")[:NEIGHBOURS]
        place = int(generator.choice(near))
        out.append(free.pop(place))
        lengths.pop(place)
    return np.array(out)


def make_steps(
    samples: Sequence[Sft], rows: np.ndarray, tokens: int, steps: int, seed: int
) -> list[list[tuple[int, int]]]:
    """``steps`` batches of (row, response tokens used of it) with ``tokens`` response tokens in all, whatever the arm.

    A sample belongs to the step in which its first response token falls, so a step holds ``tokens / steps`` of them but
    for part of a sample; the last sample is cut. Rows that are used up start again, in another order. No step is empty
    as long as no response is longer than ``tokens / steps``.
    """
    generator = np.random.default_rng(seed)
    batches: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    used = 0
    while used < tokens:
        for row in generator.permutation(np.sort(rows)).tolist():
            n = min(samples[row].response, tokens - used)
            batches[used * steps // tokens].append((row, n))
            used += n
            if used >= tokens:
                break
    return batches


def score_file(work: Path, model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int, seed: int) -> Path:
    """Where these scores are kept: another pool, target or length has another file."""
    key = digest([Path(model).name, list(pool), {n: list(rows) for n, rows in targets.items()}, max_length, seed])
    return work / f"scores-{key}.npz"


def all_scores(
    work: Path, model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    """(target, method) -> float64 [n] over ``pool``; ``targets``: the rows that signatures are made of."""
    path = score_file(work, model, pool, targets, max_length, seed)
    if not path.exists():
        made = _make_scores(make_folder(path.with_suffix("")), model, pool, targets, max_length, seed)
        np.savez(path, **{f"{target}/{method}": scores for (target, method), scores in made.items()})
    with np.load(path) as file:
        return {(name.partition("/")[0], name.partition("/")[2]): file[name] for name in file.files}


def _make_scores(
    work: Path, model: str, pool: Rows, targets: Mapping[str, Rows], max_length: int, seed: int
) -> dict[tuple[str, str], np.ndarray]:
    def write(name: str, rows: Rows) -> str:
        (work / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(work / f"{name}.jsonl")

    named = [f"{name}={write(name, rows)}" for name, rows in targets.items()]
    out: dict[tuple[str, str], np.ndarray] = {}
    for method, (index, signatures) in every_method(work, model, write("pool", pool), named, max_length, seed).items():
        scores = np.concatenate([block.scores for block in scan(index, signatures)])
        out |= {(name, method): scores[:, c] for c, name in enumerate(targets)}
    return out
