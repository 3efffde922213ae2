"""Checks, chunk table and backend choice of the capture op."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

from nait_fast.device_copies import to_device
from nait_fast.kernels.bitpack.reference import layer_bytes
from nait_fast.kernels.capture import reference
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.kernels.common.dispatch import current, interpreted, pick

# What the kernel computes in fp32; the reference takes the others.
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
CHUNK = 256  # tokens of one program: of 128 to 256 the faster on an H100 (2 to 3%)
BLOCK = (8, 128)  # tokens, neurons of a tile
UNALIGNED = (4, 128)  # the same where rows begin anywhere: narrow loads need more addresses
WARPS = 2
INTERPRETED_TOKENS = 32  # of a tile in Triton's interpreter, which pays for each step and not for its size
JOIN_BLOCK = (16, 128)  # partial rows, neurons


@dataclass
class LaunchPlan:
    """Chunks of one batch on the device (see kernel.py): ``chunks`` int32 [C, 8], ``joins`` int32 [S, 4],
    ``n_partial`` rows of partial sums; ``everywhere``: each sequence has a token where its first and last are read."""

    chunks: torch.Tensor
    joins: torch.Tensor
    n_partial: int
    everywhere: bool


def make_launch_plan(segments: Segments, n_tokens: int, chunk: int = CHUNK) -> tuple[np.ndarray, np.ndarray, int]:
    """(chunks, joins, n_partial) of ``segments`` in ``n_tokens`` tokens; tokens of no sequence get their own chunks."""
    starts, ends = segments.starts.numpy().astype(np.int64), segments.ends.numpy().astype(np.int64)
    lengths = ends - starts
    if len(lengths) and (lengths.min() < 1 or starts.min() < 0 or ends.max() > n_tokens):
        raise ValueError(f"every sequence needs a token, inside the {n_tokens} given")
    if segments.weights is not None and segments.weights.shape != (n_tokens,):
        raise ValueError(f"weights {tuple(segments.weights.shape)} of {n_tokens} tokens do not fit")
    first, last = (at.numpy().astype(np.int64) for at in (segments.first_tokens, segments.last_tokens))
    for at in (first, last):
        if not ((at == -1) | ((starts <= at) & (at < ends))).all():
            raise ValueError("a sequence's first and last are read at its own tokens, or at none (-1)")
    counts = lengths if segments.counts is None else segments.counts.numpy()
    skip = segments.skip_first.numpy() & (lengths > 1)
    pieces = -(-lengths // chunk)
    sequence = np.repeat(np.arange(len(lengths)), pieces)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(pieces) - pieces, pieces)  # of the chunk in its sequence
    begin = starts[sequence] + number * chunk
    several = pieces > 1
    slots = np.where(several, pieces, 0)
    first_slot = np.cumsum(slots) - slots
    slot = np.where(several[sequence], first_slot[sequence] + number, -1)
    chunks = np.stack(
        [
            begin,
            np.minimum(begin + chunk, ends[sequence]),
            sequence,
            first[sequence],
            last[sequence],
            (starts + skip)[sequence],
            slot,
            counts[sequence],
        ],
        axis=1,
    )
    joins = np.stack([np.arange(len(lengths)), first_slot, first_slot + slots, counts], axis=1)[several]
    padding = [
        [begin, min(begin + chunk, end), -1, -1, -1, end, -1, 1]
        for start, end in _gaps(starts, ends, n_tokens)
        for begin in range(start, end, chunk)
    ]
    if padding:
        chunks = np.concatenate([chunks, np.array(padding)])
    return chunks.astype(np.int32), joins.astype(np.int32), int(slots.sum())


def _gaps(starts: np.ndarray, ends: np.ndarray, n_tokens: int) -> list[tuple[int, int]]:
    """Runs of tokens that no sequence owns. Raises ValueError where sequences overlap."""
    order = np.argsort(starts)
    edges = np.concatenate([[0], ends[order]]), np.concatenate([starts[order], [n_tokens]])
    if (edges[1] < edges[0]).any():
        raise ValueError("sequences overlap")
    return [(int(a), int(b)) for a, b in zip(*edges, strict=True) if a < b]


def plan_of(segments: Segments, n_tokens: int, device: torch.device) -> LaunchPlan:
    """The plan on ``device``: made once a batch, used by every layer."""
    if segments.plan is not None and segments.plan[0] == (n_tokens, device):
        return segments.plan[1]
    chunks, joins, n_partial = make_launch_plan(segments, n_tokens)
    table = torch.from_numpy(np.concatenate([chunks.reshape(-1), joins.reshape(-1)]))
    table, split = to_device(table, device), chunks.size
    everywhere = not any(bool((at < 0).any()) for at in (segments.first_tokens, segments.last_tokens))
    plan = LaunchPlan(table[:split].view(-1, 8), table[split:].view(-1, 4), n_partial, everywhere)
    segments.plan = ((n_tokens, device), plan)
    return plan


@cache
def exact(act: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the kernel's ``act`` is torch's in every bit; where that can be proved, in 16 bits on a GPU.

    There an activation is a function of 65,536 numbers, and all finite ones are compared, at the first use. CUDA's
    mathematical functions change between releases (erf in 12.8), and Triton brings those of its own.
    """
    if device.type == "cpu" or dtype == torch.float32 or act not in reference.ACTIVATIONS:
        return True
    every = torch.arange(1 << 16, dtype=torch.int32, device=device).to(torch.int16).view(dtype)
    numbers = every[every.isfinite()][None]
    one = torch.ones(1, dtype=torch.int64)
    got, _ = _launch(None, numbers, act, Segments(one - 1, one, one == 0), frozenset(), None, write=True)
    return torch.equal(got, reference.activate(None, numbers, act))


def mlp_capture(
    gate: torch.Tensor | None,
    up: torch.Tensor,
    act: str | Callable[[torch.Tensor], torch.Tensor],
    segments: Segments,
    statistics: frozenset[str],
    bits: BitSpec | None = None,
) -> tuple[torch.Tensor, Stats]:
    """The activation of one MLP, its statistics and, with ``bits``, its thresholded and packed mean, in one pass.

    ``gate`` [..., J] or None, ``up`` [..., J] (leading axes flatten to the token axis T of ``segments``); ``act`` a
    name of ``reference.ACTIVATIONS`` or a callable. Returns ``(hidden [..., J] in the input dtype, Stats)``; hidden is
    what torch's own operations give, statistics are sums in fp32. Raises ValueError on shapes that do not fit.
    """
    if gate is not None and gate.shape != up.shape:
        raise ValueError(f"gate and up differ in shape: {tuple(gate.shape)}, {tuple(up.shape)}")
    taken = up.dtype in DTYPES and (gate is None or gate.dtype == up.dtype)
    if not taken or pick(up.device.type, ("triton", "reference")) == "reference":
        return reference.mlp_capture(gate, up, act, segments, statistics, bits)
    with current(up.device):
        if isinstance(act, str) and exact(act, up.dtype, up.device):
            return _launch(gate, up, act, segments, statistics, bits, write=True)
        # An activation of unknown form, or of other bits than torch's, runs as it is; one more pass pools it.
        hidden = reference.activate(gate, up, act)
        of_hidden, stats = statistics - {"up_abs_sum"}, Stats()
        if of_hidden or bits:
            _, stats = _launch(None, hidden, "identity", segments, of_hidden, bits, write=False)
        if "up_abs_sum" in statistics:
            _, of_up = _launch(None, up, "identity", segments, frozenset({"up_abs_sum"}), None, write=False)
            stats.up_abs_sum = of_up.up_abs_sum
        return hidden, stats


def segment_sums(x: torch.Tensor, segments: Segments) -> torch.Tensor:
    """Sums fp32 [B, H] of ``x`` [..., H] over the tokens of each sequence, but for a skipped first one, each times its
    weight."""
    flat = x.reshape(-1, x.shape[-1])
    if x.dtype not in DTYPES or pick(x.device.type, ("triton", "reference")) == "reference":
        sums = reference.pool(flat, segments, frozenset({"sum"})).sum
    else:
        with current(x.device):
            sums = _launch(None, flat, "identity", segments, frozenset({"sum"}), None, write=False)[1].sum
    assert sums is not None
    return sums


def _rows(x: torch.Tensor) -> torch.Tensor:
    flat = x.reshape(-1, x.shape[-1])
    return flat if flat.stride(1) == 1 or flat.shape[1] == 1 else flat.contiguous()


def _launch(
    gate: torch.Tensor | None,
    up: torch.Tensor,
    act: str,
    segments: Segments,
    statistics: frozenset[str],
    bits: BitSpec | None,
    write: bool,
) -> tuple[torch.Tensor, Stats]:
    from nait_fast.kernels.capture.kernel import capture_kernel, join_kernel

    u = _rows(up)
    g = u if gate is None else _rows(gate)
    n_tokens, width = u.shape
    n = len(segments.starts)
    plan = plan_of(segments, n_tokens, up.device)
    with_sum = "sum" in statistics or bits is not None

    def fp32(rows: int, wanted: bool, written: bool = True) -> torch.Tensor:
        make = torch.empty if written else torch.zeros
        return make(rows if wanted else 0, width, dtype=torch.float32, device=up.device)

    hidden = torch.empty(up.shape, dtype=up.dtype, device=up.device) if write else up
    first, last = (fp32(n, name in statistics, plan.everywhere) for name in ("first", "last"))
    total, partial = fp32(n, with_sum), fp32(plan.n_partial, with_sum)
    ups, up_partial = fp32(n, "up_abs_sum" in statistics), fp32(plan.n_partial, "up_abs_sum" in statistics)
    words = layer_bytes(width) // 4
    codes = torch.empty(n if bits else 0, words, dtype=torch.int32, device=up.device)
    weights = segments.weights_on(up.device)
    threshold = total if bits is None else bits.threshold.float().contiguous()
    prefix = None if bits is None else bits.prefix_sum
    pack = {"PACK": bits is not None, "PREFIX": prefix is not None}
    prefix = total if prefix is None else prefix.float().reshape(-1).contiguous()
    aligned = all(stride * u.element_size() % 16 == 0 for stride in (g.stride(0), u.stride(0), width))
    tokens, neurons = BLOCK if aligned else UNALIGNED
    tokens = INTERPRETED_TOKENS if interpreted() else tokens
    if len(plan.chunks):
        capture_kernel[(len(plan.chunks) * -(-width // neurons),)](
            g,
            u,
            hidden,
            plan.chunks,
            total if weights is None else weights,
            first,
            last,
            total,
            partial,
            ups,
            up_partial,
            threshold,
            prefix,
            codes,
            width,
            g.stride(0),
            u.stride(0),
            words,
            ACT=act,
            HAS_GATE=gate is not None,
            WRITE=write,
            FIRST="first" in statistics,
            LAST="last" in statistics,
            SUM=with_sum,
            UP="up_abs_sum" in statistics,
            **pack,
            WEIGHTED=weights is not None,
            BLOCK_T=tokens,
            BLOCK_J=neurons,
            INTERPRETED=interpreted(),
            num_warps=WARPS,
            enable_fp_fusion=act != "gelu_new",  # its operations round one by one in eager torch
        )
    if len(plan.joins):
        rows, neurons = JOIN_BLOCK
        grid = (len(plan.joins) * -(-width // neurons),)
        nothing = {"PACK": False, "PREFIX": False}
        for source, target, packing in ((partial, total, pack), (up_partial, ups, nothing)):
            if len(source):
                join_kernel[grid](
                    plan.joins,
                    source,
                    target,
                    threshold,
                    prefix,
                    codes,
                    width,
                    words,
                    **packing,
                    BLOCK_P=rows,
                    BLOCK_J=neurons,
                    num_warps=4,
                )
    return hidden, Stats(
        first if "first" in statistics else None,
        last if "last" in statistics else None,
        total if "sum" in statistics else None,
        ups if "up_abs_sum" in statistics else None,
        codes.view(torch.uint8) if bits else None,
    )
