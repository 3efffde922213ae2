"""The chunk table of the capture op: which tokens each program takes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels.capture.launch import make_launch_plan, plan_of
from nait_fast.kernels.capture.types import Segments
from tests.ops.sums import segments_of


@st.composite
def placed(draw):
    """(starts, lengths, n_tokens): sequences in any order, with and without padding between them."""
    lengths = np.array(draw(st.lists(st.integers(1, 40), max_size=8)), dtype=np.int64)
    gaps = np.array(draw(st.lists(st.integers(0, 20), min_size=len(lengths) + 1, max_size=len(lengths) + 1)))
    starts = np.cumsum(lengths + gaps[:-1]) - lengths
    order = draw(st.permutations(range(len(lengths))))
    return starts[order], lengths[order], int(lengths.sum() + gaps.sum())


def as_segments(starts, lengths, skip=None, counts=None) -> Segments:
    skip = np.zeros(len(starts), dtype=bool) if skip is None else skip
    tensors = [torch.from_numpy(np.asarray(x)) for x in (starts, starts + lengths, skip)]
    return Segments(*tensors, counts=None if counts is None else torch.from_numpy(counts))


@settings(deadline=None)
@given(placed(), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_each_token_is_in_one_chunk_and_each_slot_in_one_join(problem, chunk, seed):
    starts, lengths, n_tokens = problem
    rng = np.random.default_rng(seed)
    skip, counts = rng.random(len(starts)) < 0.5, lengths + rng.integers(0, 9, len(lengths))
    chunks, joins, n_partial = make_launch_plan(as_segments(starts, lengths, skip, counts), n_tokens, chunk)
    assert chunks.dtype == joins.dtype == np.int32 and chunks.shape[1] == 8 and joins.shape[1] == 4
    covered = np.zeros(n_tokens, dtype=int)
    for begin, end, *_ in chunks:
        assert 0 < end - begin <= chunk
        covered[begin:end] += 1
    assert (covered == 1).all()

    joined = {int(sequence): (first, end, count) for sequence, first, end, count in joins}
    assert len(joined) == len(joins)
    for i, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        mine = chunks[chunks[:, 2] == i]
        assert mine[:, 0].tolist() == list(range(start, start + length, chunk))  # cut from the sequence's own start
        assert mine[-1, 1] == start + length
        assert (mine[:, 3] == start).all() and (mine[:, 4] == start + length - 1).all()
        assert (mine[:, 5] == start + (skip[i] and length > 1)).all() and (mine[:, 7] == counts[i]).all()
        if len(mine) == 1:
            assert mine[0, 6] == -1 and i not in joined
        else:
            first, end, count = joined.pop(i)
            assert mine[:, 6].tolist() == list(range(first, end)) and count == counts[i]
    assert not joined
    slots = chunks[:, 6]
    assert sorted(slots[slots >= 0]) == list(range(n_partial))

    padding = chunks[chunks[:, 2] < 0]
    assert (padding[:, [3, 4, 6]] == -1).all() and (padding[:, 5] >= padding[:, 1]).all()


@settings(deadline=None)
@given(placed(), st.data())
def test_overlapping_empty_or_outlying_sequences_are_refused(problem, data):
    starts, lengths, n_tokens = problem
    if not len(starts):
        return
    i = data.draw(st.integers(0, len(starts) - 1))
    kind = data.draw(st.sampled_from(["empty", "negative", "before", "behind", "twice"]))
    if kind == "twice":
        starts, lengths = np.append(starts, starts[i]), np.append(lengths, lengths[i])
    elif kind == "before":
        starts[i] = -1
    elif kind == "behind":
        lengths[i] = n_tokens - starts[i] + 1
    else:
        lengths[i] = 0 if kind == "empty" else -1
    with pytest.raises(ValueError, match="overlap" if kind == "twice" else "every sequence needs a token"):
        make_launch_plan(as_segments(starts, lengths), n_tokens)


def test_one_shared_token_is_an_overlap():
    with pytest.raises(ValueError, match="overlap"):
        make_launch_plan(as_segments(np.array([5, 0]), np.array([4, 6])), 9)
    make_launch_plan(as_segments(np.array([6, 0]), np.array([3, 6])), 9)


def test_no_sequence_at_all():
    chunks, joins, n_partial = make_launch_plan(segments_of([]), 0)
    assert (chunks.shape, joins.shape, n_partial) == ((0, 8), (0, 4), 0)
    chunks, joins, n_partial = make_launch_plan(segments_of([]), 5, 3)
    assert chunks[:, :3].tolist() == [[0, 3, -1], [3, 5, -1]] and (len(joins), n_partial) == (0, 0)


def test_a_plan_is_kept_for_the_batch():
    segments = segments_of([3, 300])
    device = torch.device("cpu")
    plan = plan_of(segments, 303, device)
    assert plan_of(segments, 303, device) is plan
    assert plan.chunks.shape == (3, 8) and plan.joins.tolist() == [[1, 0, 2, 300]] and plan.n_partial == 2
    again = plan_of(segments, 304, device)  # another batch's tokens
    assert again is not plan and len(again.chunks) == 4
