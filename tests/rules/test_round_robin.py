"""Rule roundrobin against its definition: every line of the matrix sorted, the samples in turns."""

from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from nait_fast.rules import round_robin as module
from nait_fast.rules.round_robin import RoundRobin, Sifted, round_robin


def by_definition(scores: np.ndarray, samples: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """[(row, sample that takes it)]: turns between targets, then between a target's samples."""
    n = scores.shape[1]
    lines = [np.lexsort((np.arange(n), -line)).tolist() for line in scores]
    starts, turn, taken = np.cumsum([0, *samples]), 0, dict[int, int]()
    while len(taken) < min(limit, n):
        target, round_ = turn % len(samples), turn // len(samples)
        sample = int(starts[target]) + round_ % samples[target]
        row = next(row for row in lines[sample] if row not in taken)
        taken[row] = sample
        turn += 1
    return list(taken.items())


@pytest.mark.parametrize("seed", range(60))
def test_as_by_definition(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the lists are, and whatever is tied."""
    generator = np.random.default_rng(seed)
    monkeypatch.setattr(module, "LEAST", int(generator.integers(1, 6)))
    monkeypatch.setattr(module, "MOST", int(generator.integers(1, 300)))
    samples = generator.integers(1, 6, generator.integers(1, 4)).tolist()
    n, levels = int(generator.integers(1, 120)), int(generator.integers(2, 60))
    scores = generator.integers(-levels, levels, (sum(samples), n)) / 7
    if seed % 4 == 0:  # all samples alike: each list is used up by the others
        scores[:] = scores[0]
    limit = int(generator.integers(1, n + 10))
    rows, takers = round_robin(scores, samples, limit)
    assert list(zip(rows.tolist(), takers.tolist(), strict=True)) == by_definition(scores, samples, limit)


def test_memory_is_bounded_and_passes_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 samples that like the same rows in the same order, 3,000 of 20,000 rows are taken."""
    monkeypatch.setattr(module, "MOST", 40 * 256)
    generator = np.random.default_rng(0)
    line = generator.random(20_000)
    scores, rows = np.repeat(line[:, None], 40, axis=1), np.arange(20_000)
    passes, most = 0, 0

    def blocks(order: RoundRobin) -> Iterator[Sifted]:
        nonlocal passes, most
        passes += 1
        for start in range(0, len(rows), 500):
            yield order.sift(rows[start : start + 500], scores[start : start + 500])
            most = max(most, sum(map(len, order._best.lists())))

    order = RoundRobin([40], len(rows), 3000, blocks)
    for sifted in blocks(order):
        order.add(sifted)
    taken = list[int]()
    for some, _ in order.chunks():
        taken += some.tolist()
        if len(taken) >= 3000:
            break
    assert taken[:3000] == np.argsort(-line, kind="stable")[:3000].tolist()
    assert most <= 40 * 256 and passes <= 3000 // 256 + 2


def test_lines_and_samples_must_agree() -> None:
    for samples in ([], [2], [4, -1], [3, 0]):
        with pytest.raises(ValueError, match="3 lines of scores"):
            round_robin(np.zeros((3, 5)), samples, 2)
