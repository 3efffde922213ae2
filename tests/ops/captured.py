"""What the tests of the capture op share: inputs, torch's own activation, and what it is to be the same."""

import torch

from nait_fast.kernels.capture import reference
from nait_fast.kernels.capture.reference import STATISTICS
from nait_fast.kernels.capture.types import Segments
from tests.ops.device import DEVICE
from tests.ops.sums import check_sums

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
EVERYTHING = frozenset(STATISTICS)
EXACT = ("relu", "relu2", "identity")  # no function of a mathematical library in them


def inputs(n_tokens, width, dtype, form="gated", seed=0):
    """(gate or None, up) [T, J]: 'gated', 'plain', or 'fused' (the halves of one tensor)."""
    generator = torch.Generator().manual_seed(seed)
    both = torch.randn(n_tokens, 2 * width, generator=generator).mul(1.5).to(dtype).to(DEVICE)
    gate, up = both.chunk(2, dim=-1)
    if form == "fused":
        return gate, up
    return (gate.contiguous() if form == "gated" else None), up.contiguous()


def activated(gate, up, act):
    return reference.activate(gate, up, (lambda x: x) if act == "identity" else act)


def same(a, b) -> bool:
    """The same bits (of NaN, the same places)."""
    return a.dtype == b.dtype and torch.equal(a.isnan(), b.isnan()) and torch.equal(a.nan_to_num(), b.nan_to_num())


def same_stats(a, b) -> bool:
    pairs = [(getattr(a, name), getattr(b, name)) for name in (*STATISTICS, "codes")]
    return all(x is y if x is None or y is None else torch.equal(x, y) for x, y in pairs)


def check_statistics(stats, hidden, up, segments: Segments, beside_torch=False) -> None:
    """The statistics in ``stats``, whichever they are, are those of ``hidden`` [T, J] and ``up``."""
    starts, ends = segments.starts.tolist(), segments.ends.tolist()
    if stats.first is not None:
        assert torch.equal(stats.first, hidden[starts].float())
    if stats.last is not None:
        assert torch.equal(stats.last, hidden[[end - 1 for end in ends]].float())
    if stats.sum is not None:
        skip = segments.skip_first.tolist()
        parts = [hidden[a + (s and b - a > 1) : b] for a, b, s in zip(starts, ends, skip, strict=True)]
        check_sums(stats.sum, parts, beside_torch)
    if stats.up_abs_sum is not None:
        check_sums(stats.up_abs_sum, [up[a:b].abs() for a, b in zip(starts, ends, strict=True)], beside_torch)
