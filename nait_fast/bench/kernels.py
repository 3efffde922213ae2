"""The ops at one model's width: each is checked against the reference on the same device, and only then timed.

Bytes are what an op must move, however it does it:

- capture: gate and up read, hidden written, 3·T·J·s (2·T·J·s for a plain MLP), s bytes an element; each statistic
  4·B·J written; packed bits B·⌈J/32⌉·4 written and thresholds 4·J read. Partial sums of long sequences are the op's own
  affair and not counted.
- rotate_bits: values 4·B·J read, a round's numbers written and read again 8·B·J, codes B·⌈J/32⌉·4 written.
- rms_norm, apply_rotary: hidden state (or query) read and written, 2·T·H·s; rotary angles 2·T·D·s read.
- quantise_rows: hidden state read, T·H·s, and its e4m3 numbers written, T·H, and scales, 4·T.
- pack_bits, topk_bits: values 4·B·J read, codes B·⌈J/32⌉·4 written (and thresholds 4·J read).

T tokens, B samples, J neurons, H width of the hidden state, D of a head.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from nait_fast import kernels
from nait_fast.bench.checks import ULP_SHARE, Wrong, backend, check_codes, check_hidden, check_sum, failure
from nait_fast.bench.lengths import PREFIX, sample_lengths
from nait_fast.bench.timing import Ceilings, Job, Stopwatch, free_memory, synchronize
from nait_fast.kernels.capture.reference import pool
from nait_fast.kernels.capture.types import BitSpec, Segments, Stats
from nait_fast.kernels.common.dispatch import pick
from nait_fast.kernels.rotate import ROUNDS, rotated_width
from nait_fast.kernels.rotate.reference import rotate
from nait_fast.progress import say

TOP_K = 20
OPS = (  # in the order of ``make_ops``
    "capture, first + last + sum",
    "capture, sum + packed bits",
    "capture, |up| sum",
    "capture, one long sequence",
    "rms_norm",
    "quantise_rows",
    "apply_rotary",
    "pack_bits",
    "rotate_bits",
    f"topk_bits, k {TOP_K}",
)
NORM_TOLERANCE = {True: 1e-3, False: 1e-6}  # in 16 bits, in fp32
FACTOR_TOLERANCE = 1e-5  # fp32 sums of as many numbers as a layer has neurons


@dataclass
class Op:
    """``run`` is the op; ``check`` compares its result with the reference and returns words for the row, or raises
    ``Wrong``; ``bytes`` as the op must move; ``about`` describes the input."""

    run: Job
    check: Callable[[], str]
    bytes: int
    about: dict[str, Any]


# ------------------------------------------------------------------------------------------------------ the ops


def batch_lengths(n_tokens: int, seed: int) -> list[int]:
    """Lengths of samples behind their shared prefix, as they lie in a batch, that fill ``n_tokens`` exactly."""
    drawn = np.maximum(sample_lengths(max(2, n_tokens // 16), seed, max(PREFIX + 1, min(2048, n_tokens))) - PREFIX, 1)
    ends = np.cumsum(drawn)
    whole = drawn[: int(np.searchsorted(ends, n_tokens))]
    rest = n_tokens - int(whole.sum())
    return sorted([*whole.tolist(), *([rest] if rest else [])])


def _segments(lengths: list[int]) -> Segments:
    sizes = torch.tensor(lengths)
    ends = sizes.cumsum(0)
    return Segments(ends - sizes, ends, torch.ones(len(sizes), dtype=torch.bool), (sizes - 1).clamp(min=1))


def capture_op(
    statistics: frozenset[str], lengths: list[int], gate: torch.Tensor, up: torch.Tensor, packed: bool = False
) -> Op:
    """``mlp_capture`` with gated SiLU over sequences of ``lengths`` tokens."""
    n_tokens, width = up.shape
    segments, samples = _segments(lengths), len(lengths)
    bits: BitSpec | None = None
    if packed:
        with backend("reference"):
            total = kernels.mlp_capture(gate, up, "silu", segments, frozenset({"sum"}))[1].sum
        assert total is not None and segments.counts is not None
        mean = total / segments.counts[:, None].to(up.device)
        # Not the mean itself: with one sequence every bit would lie on its threshold.
        noise = torch.randn(width, generator=torch.Generator().manual_seed(width)).to(up.device)
        bits = BitSpec(mean.mean(dim=0) + 0.1 * mean.abs().mean() * noise)

    def run() -> tuple[torch.Tensor, Stats]:
        # A table made from the sequences belongs to the batch and is shared by its layers: it is made in the warm-up.
        return kernels.mlp_capture(gate, up, "silu", segments, statistics, bits)

    def check() -> str:
        with backend("reference"):
            expected, _ = kernels.mlp_capture(gate, up, "silu", segments, frozenset())
        hidden, stats = run()
        words = [check_hidden(hidden, expected)]
        del expected
        for which, places in (("first", segments.starts), ("last", segments.ends - 1)):
            got = getattr(stats, which)
            if which in statistics and not torch.equal(got, hidden[places.to(up.device)].float()):
                raise Wrong(f"{which} is not the hidden state at that token")
        if "sum" in statistics:
            words.append(check_sum("sum", stats.sum, hidden, segments))
        if "up_abs_sum" in statistics:
            words.append(check_sum("|up| sum", stats.up_abs_sum, up, segments, up=True))
        if bits is not None:
            assert stats.codes is not None and segments.counts is not None
            counts = segments.counts[:, None].to(up.device)
            mean, size = (pool(x, segments, frozenset({"sum"})).sum for x in (hidden, hidden.abs()))
            words.append(check_codes(stats.codes, mean / counts, bits.threshold, size / counts))
        return "; ".join(words)

    moved = 3 * n_tokens * width * up.element_size() + 4 * samples * width * len(statistics)
    if packed:
        moved += samples * kernels.layer_bytes(width) + 4 * width
    about = {"tokens": n_tokens, "sequences": samples, "longest": max(lengths)}
    return Op(run, check, moved, about)


def pack_op(values: torch.Tensor, threshold: torch.Tensor) -> Op:
    rows, width = values.shape

    def check() -> str:
        return check_codes(kernels.pack_bits(values, threshold), values, threshold, None)

    moved = rows * (4 * width + kernels.layer_bytes(width)) + 4 * width
    return Op(lambda: kernels.pack_bits(values, threshold), check, moved, {"rows": rows})


def rotate_op(values: torch.Tensor, seed: int) -> Op:
    (rows, width), padded = values.shape, rotated_width(values.shape[1])
    generator = np.random.default_rng(seed)
    orders = np.stack([generator.permutation(padded) for _ in range(ROUNDS)]).astype(np.int32)
    signs = generator.choice([-1.0, 1.0], (ROUNDS, padded)).astype(np.float32)
    order, sign = (torch.from_numpy(x).to(values.device) for x in (orders, signs))

    def check() -> str:
        codes, factor = kernels.rotate_bits(values, order, sign)
        z = rotate(values.double(), order, sign)
        words = check_codes(codes, z, torch.zeros(padded, device=z.device), values.norm(dim=1, keepdim=True))
        expected = z.square().sum(1) / z.abs().sum(1)
        worst = float(((factor - expected).abs() / expected).max())
        if not worst <= FACTOR_TOLERANCE:
            raise Wrong(f"factors off by {worst:.1e} of themselves")
        return f"{words}; factors within {worst:.0e}"

    moved = rows * (12 * width + kernels.layer_bytes(padded))
    return Op(lambda: kernels.rotate_bits(values, order, sign), check, moved, {"rows": rows})


def topk_op(values: torch.Tensor, k: int) -> Op:
    rows, width = values.shape

    def check() -> str:
        got = kernels.topk_bits(values, k)
        with backend("reference"):
            expected = kernels.topk_bits(values, k)
        differing = int((got != expected).any(dim=1).sum())
        if differing:
            raise Wrong(f"{differing:,} of {rows:,} sets differ")
        return f"{rows:,} sets equal"

    moved = rows * (4 * width + kernels.layer_bytes(width))
    return Op(lambda: kernels.topk_bits(values, k), check, moved, {"rows": rows})


def _bits_of_reference(op: Job, half: bool) -> str:
    """Words on how many numbers of ``op``'s result are not the reference's. Raises Wrong."""
    got = op()
    with backend("reference"):
        expected = op()
    differing = int((got != expected).sum())
    words = f"{differing:,} of {got.numel():,} differ"
    error = float((got - expected).float().norm() / expected.float().norm())
    if (differing > ULP_SHARE * got.numel() and half) or not error <= NORM_TOLERANCE[half]:
        raise Wrong(f"{words}, by {error:.1e} of all")
    return words


def norm_op(x: torch.Tensor, weight: torch.Tensor) -> Op:
    def run() -> torch.Tensor:
        return kernels.rms_norm(x, weight, 1e-5)

    about = {"tokens": len(x), "width": x.shape[1]}
    return Op(run, lambda: _bits_of_reference(run, x.itemsize == 2), 2 * x.numel() * x.itemsize, about)


def quantise_op(x: torch.Tensor) -> Op:
    def run() -> torch.Tensor:
        return kernels.quantise_rows(x)[0]

    def check() -> str:
        got = run()
        with backend("reference"):
            expected = run()
        if differing := int((got.view(torch.uint8) != expected.view(torch.uint8)).sum()):
            raise Wrong(f"{differing:,} of {got.numel():,} differ")
        return f"0 of {got.numel():,} differ"

    about = {"tokens": len(x), "width": x.shape[1]}
    return Op(run, check, x.numel() * (x.itemsize + 1) + 4 * len(x), about)


def rotary_op(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> Op:
    def run() -> torch.Tensor:
        return kernels.apply_rotary(x, cos, sin)

    about = {"tokens": x.shape[2], "heads": x.shape[1], "width": x.shape[3]}
    moved = 2 * (x.numel() + cos.numel()) * x.itemsize
    return Op(run, lambda: _bits_of_reference(run, x.itemsize == 2), moved, about)


def _sizes(watch: Stopwatch, width: int, dtype: torch.dtype, small: bool) -> tuple[int, int]:
    """(tokens of a batch, rows of the bit ops): the engine's own batch, less where memory is short."""
    if small:
        return 256, 64
    if watch.device.type != "cuda":
        return 2048, 512
    free = free_memory(watch.device) or 0
    item = torch.empty(0, dtype=dtype).element_size()
    fitting = free // 2 // (width * 6 * item)  # gate, up, two hidden states and the reference's intermediates
    return max(1024, min(65536, int(fitting) // 1024 * 1024)), 16384 if free > 16 << 30 else 2048


def make_ops(
    watch: Stopwatch, width: int, heads: tuple[int, int], dtype: torch.dtype, seed: int, small: bool
) -> Iterator[Callable[[], Op]]:
    """What makes each of ``OPS`` with its input; inputs are random and shared where they can be."""
    device = watch.device
    n_tokens, rows = _sizes(watch, width, dtype, small)
    generator = torch.Generator(device).manual_seed(seed)

    def normal(*shape: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=kind, generator=generator)

    gate, up = normal(n_tokens, width), normal(n_tokens, width)
    lengths = batch_lengths(n_tokens, seed)
    readings = frozenset({"first", "last", "sum"})
    total = frozenset({"sum"})
    yield partial(capture_op, readings, lengths, gate, up)
    yield partial(capture_op, total, lengths, gate, up, packed=True)
    yield partial(capture_op, frozenset({"up_abs_sum"}), lengths, gate, up)
    yield partial(capture_op, total, [n_tokens], gate, up, packed=True)
    del gate, up
    x, angle = normal(1, n_tokens, *heads).transpose(1, 2), normal(1, n_tokens, heads[1], kind=torch.float32)
    yield partial(norm_op, normal(n_tokens, heads[0] * heads[1]), normal(heads[0] * heads[1]))
    yield partial(quantise_op, normal(n_tokens, heads[0] * heads[1]))
    yield partial(rotary_op, x, angle.cos().to(dtype), angle.sin().to(dtype))
    del x, angle
    values = normal(rows, width, kind=torch.float32)
    threshold = normal(width, kind=torch.float32) * 0.1
    yield partial(pack_op, values, threshold)
    yield partial(rotate_op, values, seed)
    yield partial(topk_op, values.abs_(), min(TOP_K, width))


def measure_kernels(
    watch: Stopwatch,
    width: int,
    heads: tuple[int, int],
    dtype: torch.dtype,
    ceilings: Ceilings,
    seconds: float,
    seed: int = 0,
    quiet: bool = True,
    small: bool = False,
) -> Iterator[dict[str, Any]]:
    """One row an op at ``width`` neurons and ``heads`` (number, width of one) of attention: its check and, if that
    passed, its times beside the reference's."""
    chosen = pick(watch.device.type, ("triton", "reference"))
    ops = zip(OPS, make_ops(watch, width, heads, dtype, seed, small), strict=True)
    while True:
        try:
            name, make = next(ops)
        except StopIteration:
            return
        except Exception as error:
            yield {"name": "inputs", "neurons": width, "check": failure(error)}
            return
        row: dict[str, Any] = {"name": name, "neurons": width, "backend": chosen}
        say(f"bench: {name}", quiet)
        try:
            op = make()
            row |= op.about
            row["check"] = f"ok: {op.check()}"
            row |= _timed(watch, op, chosen, ceilings, seconds / len(OPS))
        except Exception as error:  # a kernel that does not compile here must not cost the other ops
            row["check"] = failure(error)
        yield row


def _timed(watch: Stopwatch, op: Op, chosen: str, ceilings: Ceilings, seconds: float) -> dict[str, Any]:
    def reference() -> None:
        with backend("reference"):
            op.run()

    jobs = {"op": op.run} if chosen == "reference" else {"op": op.run, "reference": reference}
    times = watch.in_turn(jobs, seconds)
    synchronize(watch.device)
    rate = op.bytes / (times["op"].p50 / 1e3)
    fields = {**times["op"].fields(), "bytes": op.bytes, "gb_per_s": rate / 1e9, "of_copy": rate / ceilings.copy}
    if "reference" in times:
        fields |= times["reference"].fields("reference_") | {
            "times_reference": times["reference"].p50 / times["op"].p50
        }
    return fields
