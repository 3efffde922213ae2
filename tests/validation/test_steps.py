"""Arms under one budget, and steps that are the same for each of them."""

import numpy as np
import pytest

from nait_fast.validation.steps import make_steps, matched, take, top


def test_top_and_bottom_are_the_ends_of_the_ranking():
    scores, response = np.array([0.1, 0.9, 0.5, 0.7, 0.3]), np.full(5, 10)
    assert top(np.arange(5), scores, response, 20).tolist() == [1, 3]
    assert top(np.arange(5), scores, response, 15, bottom=True).tolist() == [0, 4]
    assert top(np.array([0, 2, 4]), scores, response, 1).tolist() == [2]


def test_rows_are_taken_until_the_budget_is_reached():
    response, ranked = np.array([3, 5, 7, 1]), np.array([2, 0, 3, 1])
    assert take(ranked, response, 7).tolist() == [2]
    assert take(ranked, response, 8).tolist() == [2, 0]
    assert take(ranked, response, 16).tolist() == [2, 0, 3, 1]
    assert take(ranked, response, 17).tolist() == [2, 0, 3, 1]  # all there is
    assert take(ranked[:0], response, 5).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_every_arm_has_the_same_tokens_in_the_same_steps(seed):
    response = np.random.default_rng(seed).integers(1, 50, 200)
    for rows in (np.arange(200), np.argsort(response)[:30], np.argsort(-response)[:12], np.array([7])):
        steps = make_steps(response, rows, 400, 8, seed)
        assert len(steps) == 8 and all(steps)
        assert sum(n for batch in steps for _, n in batch) == 400
        assert {row for batch in steps for row, _ in batch} <= set(rows.tolist())
        used = [item for batch in steps for item in batch]
        assert all(n == response[row] for row, n in used[:-1]) and 1 <= used[-1][1] <= response[used[-1][0]]
        sizes = [sum(n for _, n in batch) for batch in steps]
        assert max(abs(size - 50) for size in sizes) < 50  # but for part of a sample


def test_rows_that_are_used_up_start_again():
    response = np.array([10, 20, 30])
    steps = make_steps(response, np.array([0, 1, 2]), 180, 4, 0)
    order = [row for batch in steps for row, _ in batch]
    assert len(order) == 9 and all(sorted(order[i : i + 3]) == [0, 1, 2] for i in (0, 3, 6))
    assert make_steps(response, np.array([2, 0, 1]), 180, 4, 0) == steps  # a set of rows and a seed, nothing else
    assert any(make_steps(response, np.array([0, 1, 2]), 180, 4, seed) != steps for seed in (1, 2))


def test_matched_rows_have_the_lengths_they_should():
    response = np.random.default_rng(0).integers(5, 300, 1000)
    like = np.argsort(-response)[:120]
    draws = [matched(like, np.arange(1000), response, seed) for seed in (0, 1)]
    for rows in draws:
        assert len(set(rows.tolist())) == len(like)
        assert abs(response[rows].mean() - response[like].mean()) < 0.05 * response[like].mean()
        assert response[rows].min() > np.median(response)
    assert set(draws[0].tolist()) != set(draws[1].tolist()) and set(draws[0].tolist()) != set(like.tolist())


def test_a_length_matched_draw_from_fewer_rows_takes_them_all():
    response = np.array([2, 3, 4, 5, 9, 9])
    assert sorted(matched(np.array([0, 1, 2]), np.array([4, 5]), response, 0).tolist()) == [4, 5]
