"""Streaming top-k on the device: the order of a full sort, ties and tiles included."""

import numpy as np
import pytest
import torch

from nait_fast.kernels.popcount.topk import DeviceTopK
from tests.ops.device import DEVICE


@pytest.mark.parametrize("k", [1, 7, 100, 5000])
@pytest.mark.parametrize("tile", [1, 333, 2000])
def test_tiles_in_any_order_give_the_head_of_a_full_sort(k, tile):
    rng = np.random.default_rng(k)
    scores = rng.integers(-20, 20, 2000)  # many ties
    rows = rng.permutation(10_000)[:2000]
    best = DeviceTopK(k, torch.device(DEVICE))
    starts = rng.permutation(np.arange(0, 2000, tile)) if tile > 1 else np.arange(200)
    seen = np.concatenate([np.arange(start, min(start + tile, 2000)) for start in starts])
    for start in starts:
        part = slice(start, start + tile)
        best.push(*(torch.from_numpy(x[part]).to(DEVICE) for x in (rows, scores)))
    order = seen[np.lexsort((rows[seen], -scores[seen]))][:k]
    got_rows, got_scores = best.result()
    np.testing.assert_array_equal(got_rows, rows[order])
    np.testing.assert_array_equal(got_scores, scores[order])


def test_nothing_pushed_is_nothing_found():
    rows, scores = DeviceTopK(3, torch.device(DEVICE)).result()
    assert len(rows) == len(scores) == 0
