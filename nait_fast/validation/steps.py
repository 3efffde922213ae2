"""Rows under one budget of response tokens, and the steps of a training run: the same for every arm."""

from collections.abc import Sequence

import numpy as np

from nait_fast.ranking.streaming_topk import order

NEIGHBOURS = 16  # rows nearest in length that a length-matched draw chooses among


def take(ranked: np.ndarray, response: np.ndarray, budget: int) -> np.ndarray:
    """The first of ``ranked`` whose response tokens reach ``budget``; all of them if they do not."""
    reached = np.cumsum(response[ranked]) >= budget
    return ranked[: int(reached.argmax()) + 1] if reached.any() else ranked


def top(rows: np.ndarray, scores: np.ndarray, response: np.ndarray, budget: int, bottom: bool = False) -> np.ndarray:
    """The best (or worst) of ``rows`` by ``scores``, until their response tokens make up ``budget``.

    ``scores`` float64, ``response`` int64: of the whole pool, as ``rows`` number it.
    """
    return take(rows[order(rows, -scores[rows] if bottom else scores[rows])], response, budget)


def matched(like: np.ndarray, rows: np.ndarray, response: np.ndarray, seed: int) -> np.ndarray:
    """For each row of ``like`` a random one of ``rows`` of nearly its response length, none twice; all of ``rows``
    where they are fewer.

    Longest first: of them there are the fewest to choose from.
    """
    generator = np.random.default_rng(seed)
    free = rows[np.argsort(response[rows], kind="stable")].tolist()
    lengths = response[free].tolist()
    out = []
    for row in sorted(like.tolist(), key=lambda r: (-response[r], r))[: len(rows)]:
        near = np.argsort(np.abs(np.array(lengths) - response[row]), kind="stable")[:NEIGHBOURS]
        place = int(generator.choice(near))
        out.append(free.pop(place))
        lengths.pop(place)
    return np.array(out)


def make_steps(
    response: np.ndarray, rows: np.ndarray, tokens: int, steps: int, seed: int
) -> list[list[tuple[int, int]]]:
    """``steps`` batches of (row, response tokens used of it) with ``tokens`` response tokens in all, whatever the arm.

    A sample belongs to the step in which its first response token falls, so a step holds ``tokens / steps`` of them but
    for part of a sample; the last sample is cut, and one that is longer than a step. Rows that are used up start again,
    in another order. No step is empty.
    """
    generator = np.random.default_rng(seed)
    batches: list[list[tuple[int, int]]] = [[] for _ in range(steps)]
    used = 0
    while used < tokens:
        for row in generator.permutation(np.sort(rows)).tolist():
            n = min(int(response[row]), tokens // steps, tokens - used)
            batches[used * steps // tokens].append((row, n))
            used += n
            if used >= tokens:
                break
    return batches


def lengths_of(samples: Sequence) -> np.ndarray:
    """Response tokens int64 of every sample."""
    return np.array([sample.response for sample in samples], dtype=np.int64)
