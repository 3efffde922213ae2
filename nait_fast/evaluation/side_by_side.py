"""What ``compare`` tells of rankings: what they share, find, weigh and leave to others, as plain values."""

import string
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from nait_fast.evaluation.comparison import alone, correlations, shared_places
from nait_fast.evaluation.contenders import Contender, RowLabels, first_of
from nait_fast.evaluation.retrieval import nothing_relevant
from nait_fast.notices import warn
from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.spearman import sampled_ranks

FORMAT_VERSION = 1
LETTERS = string.ascii_uppercase  # what the contenders are called in tables
RANDOM = "random"
EXAMPLES = 2

Missing = list[dict[str, str]]


def miss(missing: Missing, what: str, why: str) -> None:
    """Note that ``what`` is not told."""
    missing.append({"what": what, "why": why})


def names_of_columns(contenders: Sequence[Contender]) -> list[str]:
    """A letter each; the random rows, which come last, by their own name."""
    return [*LETTERS[: len(contenders) - 1], RANDOM]


def overlap(contenders: Sequence[Contender]) -> dict[str, Any]:
    """Of every two: rows that both select, and Jaccard's index."""
    shared, jaccard = shared_places([one.places for one in contenders])
    return {"shared": shared.tolist(), "jaccard": jaccard.tolist()}


def orders(contenders: Sequence[Contender], rows: ScoreTable, missing: Missing) -> dict[str, Any]:
    """Spearman of the scores of every two that have any (``spearman``), and of each one's with the rows' tokens
    (``with_length``): over every row, or every n-th one (``spearman_rows``)."""
    known = [number for number, one in enumerate(contenders) if one.scores is not None]
    ranks = [sampled_ranks(one.scores) for one in contenders if one.scores is not None]
    tokens = sampled_ranks(rows.n_tokens)
    found = correlations(np.stack([*ranks, tokens]))
    between, length = np.full((len(contenders),) * 2, np.nan), np.full(len(contenders), np.nan)
    between[np.ix_(known, known)], length[known] = found[:-1, :-1], found[:-1, -1]
    for name, one in zip(names_of_columns(contenders)[:-1], contenders[:-1], strict=True):
        if one.scores is None:
            miss(missing, f"order of {name}", "its folder has the scores of the selected rows only (--scores)")
    return {"spearman": between.tolist(), "with_length": length.tolist(), "spearman_rows": len(tokens)}


def lengths(contenders: Sequence[Contender], rows: ScoreTable) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """(tokens of each one's rows and of its targets' samples; those of the pool)."""
    counts = np.zeros(1, np.int64)  # of rows of so many tokens
    for _, block in rows.n_tokens.blocks():
        more = np.bincount(block)
        counts, more = (np.pad(some, (0, max(len(counts), len(more)) - len(some))) for some in (counts, more))
        counts = counts + more
    tokens = int(counts @ np.arange(len(counts)))
    pool = {"rows": rows.rows, "tokens": tokens, "mean_tokens": tokens / rows.rows, "median_tokens": _median(counts)}
    each = []
    for one in contenders:
        n_tokens = rows.n_tokens.take(one.places)
        each.append(
            {
                "rows": len(n_tokens),
                "tokens": int(n_tokens.sum(dtype=np.int64)),
                "mean_tokens": float(n_tokens.mean()),
                "median_tokens": float(np.median(n_tokens)),
                "target_tokens": None if one.lengths is None else float(one.lengths.mean()),
            }
        )
    return each, pool


def _median(counts: np.ndarray) -> float:
    """Of numbers that are there so often, int64 [greatest + 1]."""
    ends, n = np.cumsum(counts), int(counts.sum())
    return float(np.mean([np.searchsorted(ends, place, side="right") for place in ((n - 1) // 2, n // 2)]))


def retrieval(
    contenders: Sequence[Contender],
    rows: ScoreTable,
    labels: RowLabels,
    relevant: Mapping[str, Collection[str]],
    missing: Missing,
) -> list[dict[str, Any]]:
    """How well each finds the rows whose label is one of the values that ``relevant`` has of one of its targets, and
    random rows for each set of values that is looked for. ``share``: of such rows in a selection; ``chance``: in the
    pool."""
    names, out, sought = names_of_columns(contenders), list[dict[str, Any]](), list[list[str]]()
    told: set[str] = set()
    for name, one in zip(names[:-1], contenders[:-1], strict=True):
        for target in one.targets:
            wanted = sorted(relevant.get(target, {target}))
            measures = _found(name, one, rows, labels, wanted)
            if measures is None:
                if target not in told:
                    told.add(target)
                    why = nothing_relevant(target, wanted, labels.values)
                    miss(missing, f"retrieval of '{target}'", why)
                    warn(f"retrieval of '{target}' is not measured: {why}")
                continue
            if len(one.targets) > 1:  # its best rows are those of all of them
                measures["r_precision"] = None
            out.append(measures)
            sought += [wanted] if wanted not in sought else []
    beside = (_found(RANDOM, contenders[-1], rows, labels, wanted) for wanted in sought)
    return out + [measures for measures in beside if measures is not None]


def _found(
    name: str, one: Contender, rows: ScoreTable, labels: RowLabels, wanted: Sequence[str]
) -> dict[str, Any] | None:
    numbers = np.array([labels.values[value] for value in wanted if value in labels.values], dtype=np.int64)
    number = int(labels.counts[numbers].sum())
    if not number:
        return None
    return {
        "column": name,
        "label": list(wanted),
        "relevant": number,
        "r_precision": None if one.order is None else labels.share(first_of(one.order, rows, number), numbers),
        "share": labels.share(one.places, numbers),
        "chance": number / rows.rows,
    }


def composition(contenders: Sequence[Contender], rows: ScoreTable, labels: RowLabels) -> dict[str, Any]:
    """Rows of each value of the label, the most frequent of the pool first: of the pool, and of each selection; and of
    those without one."""
    order = sorted(labels.values, key=lambda value: (-labels.counts[labels.values[value]], value))
    counts = {"pool": labels.counts} | {
        name: labels.counted(one.places) for name, one in zip(names_of_columns(contenders), contenders, strict=True)
    }
    sizes = {"pool": rows.rows} | {
        name: len(one.places) for name, one in zip(names_of_columns(contenders), contenders, strict=True)
    }
    numbers = [labels.values[value] for value in order]
    return {
        "label": labels.column,
        "values": order,
        "rows": {name: count[numbers].tolist() for name, count in counts.items()},
        "without": {name: sizes[name] - int(count.sum()) for name, count in counts.items()},
    }


def only_here(contenders: Sequence[Contender], rows: ScoreTable) -> list[dict[str, Any]]:
    """Of each but the random rows: how many rows no other selects, and the best of them."""
    selections = [one.places for one in contenders[:-1]]
    out = []
    for number, name in enumerate(names_of_columns(contenders)[:-1]):
        places = alone(selections, number)
        out.append({"column": name, "count": len(places), "rows": rows.row.take(places[:EXAMPLES]).tolist()})
    return out
