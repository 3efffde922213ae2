"""What a validation trains on and measures: rows of a pool and held-out samples, as tokens of one model."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nait_fast.data.formats import Sample, parse
from nait_fast.data.pool import Pool, decode
from nait_fast.data.row_conventions import conventions_of
from nait_fast.data.tokenize import Encoded, Encoder, Refused
from nait_fast.data.unread import counted, warn_unread
from nait_fast.errors import BadInput
from nait_fast.index.pool_rows import PoolRows, datasets_of
from nait_fast.index.reader import Index
from nait_fast.index.token_hashes import hashes_of
from nait_fast.notices import warn
from nait_fast.validation.training_samples import TrainingSample, end_of_turn, training_sample

CHUNK = 1024


@dataclass(frozen=True)
class HeldOut:
    """Samples of a set that losses are measured on. ``role``: target or general; ``texts``: what each was made of;
    ``choices``: of each, what could be said instead, the right one first, where that is asked for."""

    name: str
    role: str
    samples: list[TrainingSample]
    texts: list[Sample]
    choices: list[list[TrainingSample]]


def pool_samples(index: Index, pool: PoolRows, rows: np.ndarray) -> Iterator[tuple[int, Sample]]:
    """(number, sample) of the ascending ``rows`` of the pool."""
    lines = zip(pool.lines(rows), datasets_of(index, rows), rows.tolist(), strict=True)
    for line, dataset, row in lines:
        yield row, parse(decode(line), dataset["format"], row, conventions_of(dataset))


def trained_rows(
    encoder: Encoder, index: Index, pool: PoolRows, rows: np.ndarray
) -> tuple[dict[int, TrainingSample], np.ndarray, str]:
    """(row -> its sample, of those that can be trained on; 64-bit hash of each one's tokens, in that order; why most of
    the others cannot, "" without any)."""
    end, out, ids = end_of_turn(encoder), dict[int, TrainingSample](), list[np.ndarray]()
    reasons: Counter[str] = Counter()
    waiting: list[tuple[int, Sample]] = []

    def flush() -> None:
        for (row, sample), encoded in zip(waiting, encoder.encode([s for _, s in waiting]), strict=True):
            made = None if isinstance(encoded, Refused) else training_sample(encoded, sample, end)
            if made is None or isinstance(encoded, Refused):
                reasons[_why_not(encoded, encoder)] += 1
                continue
            out[row] = made
            ids.append(encoded.ids)
        waiting.clear()

    for pair in pool_samples(index, pool, np.sort(rows)):
        waiting.append(pair)
        if len(waiting) == CHUNK:
            flush()
    flush()
    return out, hashes_of(ids), _most(reasons)


def _why_not(encoded: Encoded | Refused, encoder: Encoder) -> str:
    return encoded.reason if isinstance(encoded, Refused) else f"no response within {encoder.max_length} tokens"


def _most(reasons: Counter[str]) -> str:
    return reasons.most_common(1)[0][0] if reasons else ""


@dataclass(frozen=True)
class Known:
    """Samples that a signature was made of: ``hashes`` int64 of their tokens, as ``encoder`` gives them."""

    encoder: Encoder
    hashes: np.ndarray

    def holds(self, samples: Sequence[Sample]) -> list[bool]:
        """Of each sample, whether it is one of them."""
        ids = [None if isinstance(one, Refused) else one.ids for one in self.encoder.encode(samples)]
        return [one is not None and bool(np.isin(hashes_of([one]), self.hashes)[0]) for one in ids]


def held_out_of(
    encoder: Encoder, name: str, role: str, pool: Pool, most: int, known: Known | None, likelihood: bool
) -> HeldOut:
    """The first ``most`` samples of ``pool`` that a loss can be measured on. ``known``: what a signature was made of,
    which is left out, and that is said; ``likelihood``: their ``choices`` are wanted, too.

    Raises BadInput where fewer than two are left, and for a row without choices."""
    end, again, without = end_of_turn(encoder), 0, Counter[str]()
    samples, texts = list[TrainingSample](), list[Sample]()
    records = list(pool.samples())
    results = encoder.encode(records)
    usable = [one for one in results if not isinstance(one, Refused)]
    ignore = (*pool.conventions.ignore, *(["choices"] if likelihood else []))
    warn_unread(pool.path, counted(e.unread for e in usable), counted(e.unshown for e in usable), ignore)
    seen = [False] * len(records) if known is None else known.holds(records)
    for sample, encoded, is_known in zip(records, results, seen, strict=True):
        made = None if isinstance(encoded, Refused) else training_sample(encoded, sample, end)
        if made is None or isinstance(encoded, Refused):
            without[_why_not(encoded, encoder)] += 1
            continue
        if is_known:
            again += 1
            continue
        samples.append(made)
        texts.append(sample)
        if len(samples) == most:
            break
    if again:
        warn(
            f"{pool.path}: {again:,} of its samples are among those that the signature was made of, and are left out: "
            "a loss on them would speak for the selection"
        )
    if without:
        warn(f"{pool.path}: {without.total():,} of its samples cannot be measured on (most: {_most(without)})")
    if len(samples) < 2:
        raise BadInput(
            f"{len(samples)} samples of it can be measured on",
            where=pool.path,
            remedy="give held-out samples with responses, that the signature was not made of (64 and more are better)",
        )
    return HeldOut(name, role, samples, texts, _choices(encoder, pool, texts) if likelihood else [])


def _saying(sample: Sample, content: str) -> Sample:
    """``sample`` with another last response."""
    messages = (*sample.messages[:-1], replace(sample.messages[-1], content=content))
    alpaca = None if sample.alpaca is None else (*sample.alpaca[:2], content)
    return replace(sample, messages=messages, alpaca=alpaca)


def _choices(encoder: Encoder, pool: Pool, texts: list[Sample]) -> list[list[TrainingSample]]:
    """Of each of ``texts`` its response, and then the others of its row's ``choices``. Raises BadInput."""
    end, out = end_of_turn(encoder), []
    rows = pool.lines([text.row for text in texts])
    for text, line in zip(texts, rows, strict=True):
        where, choices, said = f"{pool.path} row {text.row}", json.loads(line).get("choices"), text.messages[-1]
        if not isinstance(choices, list) or len(choices) < 2 or not all(isinstance(one, str) for one in choices):
            raise BadInput("has no list of texts 'choices'", where=where, remedy="leave --answer likelihood out")
        others = [one for one in choices if one.strip() != said.content.strip()]
        if len(others) != len(choices) - 1:
            raise BadInput("its response is not one of its 'choices', once", where=where, remedy="fix the row")
        every = [_saying(text, one) for one in others]
        made = []
        for encoded in encoder.encode([text, *every]):
            sample = None if isinstance(encoded, Refused) else training_sample(encoded, text, end)
            if sample is None:
                raise BadInput("a choice of it has no token", where=where, remedy="fix the row, or raise --max-length")
            made.append(sample)
        out.append(made)
    return out
