"""The capture op's Triton kernels, statistics and bits: against the reference on a GPU, or in Triton's interpreter."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import mlp_capture
from nait_fast.kernels.bitpack.reference import pack_bits, unpack
from nait_fast.kernels.capture.launch import CHUNK
from nait_fast.kernels.capture.reference import STATISTICS
from nait_fast.kernels.capture.types import BitSpec, Segments
from tests.ops.captured import DTYPES, EVERYTHING, activated, check_statistics, inputs, same, same_stats
from tests.ops.device import DEVICE, poisoned
from tests.ops.sums import segments_of

pytestmark = pytest.mark.usefixtures("triton_backend")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("skip_first, form", [(True, "fused"), (False, "plain")])
def test_sums_are_as_good_as_torchs_own(skip_first, form, dtype):
    lengths = (1, 2, 9, 33, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK + 1)
    gate, up = inputs(sum(lengths), 33, dtype, form)
    segments = segments_of(lengths, skip_first=skip_first)
    hidden, stats = mlp_capture(gate, up, "silu", segments, EVERYTHING)
    check_statistics(stats, hidden, up, segments, beside_torch=True)


batch_lengths = st.one_of(
    st.lists(st.integers(1, 40), min_size=1, max_size=5),
    st.lists(st.sampled_from([1, CHUNK - 1, CHUNK, CHUNK + 1]), min_size=1, max_size=3),
    st.sampled_from([[1] * 9, [2 * CHUNK + 1], [3, 2 * CHUNK - 1]]),
)


@settings(deadline=None, max_examples=40)
@given(
    batch_lengths,
    st.sampled_from([1, 31, 33, 127, 128, 129, 71]),
    st.sampled_from(DTYPES),
    st.sampled_from(["gated", "plain", "fused"]),
    st.sampled_from(["relu", "relu2"]),
    st.sampled_from([set(), {"sum"}, {"first", "last"}, {"up_abs_sum"}, EVERYTHING]),
    st.data(),
)
def test_any_batch(lengths, width, dtype, form, act, statistics, data):
    n = len(lengths)
    gaps = torch.tensor(data.draw(st.lists(st.sampled_from([0, 0, 1, 7]), min_size=n + 1, max_size=n + 1)))
    order = torch.tensor(data.draw(st.permutations(range(n))))
    skip = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    lengths = torch.tensor(lengths)
    starts = (lengths + gaps[:-1]).cumsum(0) - lengths
    segments = Segments(starts[order], (starts + lengths)[order], skip)

    n_tokens = int(lengths.sum() + gaps.sum())
    gate, up = inputs(n_tokens, width, dtype, form, seed=data.draw(st.integers(0, 99)))
    owned = torch.zeros(n_tokens, dtype=torch.bool)
    for a, b in zip(segments.starts, segments.ends, strict=True):
        owned[a:b] = True
    if data.draw(st.booleans()):
        (up if gate is None else gate)[~owned.to(DEVICE)] = math.nan  # it must reach hidden, and no statistic
    hidden, stats = mlp_capture(gate, up, act, segments, frozenset(statistics))
    assert same(hidden, activated(gate, up, act))
    assert {name for name in STATISTICS if getattr(stats, name) is not None} == statistics
    check_statistics(stats, hidden, up, segments)


def test_statistics_do_not_depend_on_which_are_asked_for():
    lengths = [CHUNK + 2, 1, 5]
    gate, up = inputs(sum(lengths), 33, torch.bfloat16)
    hidden, everything = mlp_capture(gate, up, "silu", segments_of(lengths), EVERYTHING)
    for chosen in range(2 ** len(STATISTICS)):
        names = frozenset(name for i, name in enumerate(STATISTICS) if chosen >> i & 1)
        again, stats = mlp_capture(gate, up, "silu", segments_of(lengths), names)
        assert torch.equal(again, hidden)
        for name in STATISTICS:
            found = getattr(stats, name)
            assert (found is not None) == (name in names) and (
                found is None or torch.equal(found, getattr(everything, name))
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_long_sequence(dtype):
    """Thousands of activations of one sign: where a careless sum loses digits or overflows."""
    lengths = (5000, 3)
    _, up = inputs(sum(lengths), 5, dtype)
    up = up.abs() + 10
    segments = segments_of(lengths)
    hidden, stats = mlp_capture(None, up, "relu", segments, EVERYTHING)
    assert torch.isfinite(stats.sum).all()
    check_statistics(stats, hidden, up, segments, beside_torch=True)


def test_many_sequences_of_one_token():
    gate, up = inputs(70, 31, torch.float32)
    for skip_first in (True, False):
        hidden, stats = mlp_capture(gate, up, "relu", segments_of([1] * 70, skip_first=skip_first), EVERYTHING)
        for name in ("first", "last", "sum"):
            assert torch.equal(getattr(stats, name), hidden)
        assert torch.equal(stats.up_abs_sum, up.abs())


@pytest.mark.parametrize("n_tokens", [0, 5])
@pytest.mark.parametrize("bits", [None, BitSpec(torch.zeros(33, device=DEVICE))], ids=["", "bits"])
def test_no_sequence_at_all(n_tokens, bits):
    gate, up = inputs(n_tokens, 33, torch.float32)
    hidden, stats = mlp_capture(gate, up, "relu", segments_of([]), EVERYTHING, bits)
    assert same(hidden, activated(gate, up, "relu"))
    assert all(getattr(stats, name).shape == (0, 33) for name in STATISTICS)
    assert (stats.codes is None) if bits is None else stats.codes.shape == (0, 8)


# ----------------------------------------------------------------------------------------------- bits of the mean


def check_codes(stats, segments: Segments, bits: BitSpec) -> None:
    """The codes are those of the kernel's own sums, bit for bit."""
    width = len(bits.threshold)
    counts = segments.ends - segments.starts if segments.counts is None else segments.counts
    total = stats.sum if bits.prefix_sum is None else stats.sum + bits.prefix_sum
    expected = pack_bits(total / counts[:, None].to(DEVICE), bits.threshold)
    assert stats.codes.dtype == torch.uint8 and torch.equal(stats.codes, expected)
    assert not unpack(stats.codes, 8 * stats.codes.shape[1])[:, width:].any()


@pytest.mark.parametrize("width", [1, 31, 33, 128, 129])
@pytest.mark.parametrize("prefix, dtype", [(0, torch.float32), (7, torch.bfloat16)], ids=["fp32", "bf16, prefix"])
def test_codes_are_those_of_the_mean(width, prefix, dtype):
    lengths = [5, CHUNK + 1, 1, CHUNK, 2 * CHUNK + 5]
    gate, up = inputs(sum(lengths), width, dtype, seed=width)
    segments = segments_of(lengths)
    segments.counts = segments.ends - segments.starts + prefix - 1  # as where a prefix of ``prefix`` tokens is shared
    segments.counts[2] += 1
    prefix_sum = torch.randn(width, device=DEVICE) * prefix if prefix else None
    _, plain = mlp_capture(gate, up, "silu", segments, EVERYTHING)
    assert plain.codes is None
    total = plain.sum if prefix_sum is None else plain.sum + prefix_sum
    threshold = (total / segments.counts[:, None].to(DEVICE)).median(0).values  # of one of them, the very mean
    bits = BitSpec(threshold, prefix_sum)
    _, stats = mlp_capture(gate, up, "silu", segments, EVERYTHING, bits)
    check_codes(stats, segments, bits)
    assert 0 < unpack(stats.codes, width).sum() < 5 * width
    _, only_bits = mlp_capture(gate, up, "silu", segments, frozenset(), bits)
    assert torch.equal(only_bits.codes, stats.codes) and only_bits.sum is None
    stats.codes = None
    assert same_stats(stats, plain)


def test_a_mean_without_counts_divides_by_the_length():
    lengths = [5, CHUNK + 1]
    _, up = inputs(sum(lengths), 40, torch.float32)
    segments, bits = segments_of(lengths, skip_first=False), BitSpec(torch.linspace(-0.5, 0.5, 40, device=DEVICE))
    _, stats = mlp_capture(None, up, lambda x: x, segments, frozenset({"sum"}), bits)
    check_codes(stats, segments, bits)


def test_a_mean_that_is_no_number_gives_no_bit():
    lengths = [3, CHUNK + 1]
    _, up = inputs(sum(lengths), 40, torch.float32)
    up = up.abs() + 1
    up[[1, CHUNK], 7] = math.nan
    up[[1, CHUNK], 9] = math.inf
    threshold = torch.zeros(40, device=DEVICE)
    threshold[11] = math.nan
    threshold[12] = math.inf
    segments = segments_of(lengths)
    _, stats = mlp_capture(None, up, "relu", segments, frozenset({"sum"}), BitSpec(threshold))
    expected = torch.ones(2, 40, dtype=torch.bool, device=DEVICE)
    expected[:, [7, 11, 12]] = False
    assert torch.equal(unpack(stats.codes, 40), expected)


# --------------------------------------------------------------------------------------- what memory may not do


@pytest.mark.parametrize("act", ["relu", torch.relu], ids=["name", "callable"])
@pytest.mark.parametrize("width", [33, 129])
def test_every_output_is_written(width, act):
    """Uninitialised memory full of NaN and largest integers does not show, padding included."""
    lengths = [1, CHUNK + 3, 7]
    gap = CHUNK + 2
    gate, up = inputs(sum(lengths) + gap * 4, width, torch.bfloat16)
    segments = segments_of(lengths, gap=gap)
    bits = BitSpec(torch.zeros(width, device=DEVICE), torch.ones(width, device=DEVICE))
    hidden, stats = mlp_capture(gate, up, act, segments, EVERYTHING, bits)
    with poisoned():
        again, of_poisoned = mlp_capture(gate, up, act, segments, EVERYTHING, bits)
    assert same(again, activated(gate, up, act)) and same(again, hidden)
    assert same_stats(of_poisoned, stats)
    check_statistics(of_poisoned, again, up, segments)
    check_codes(of_poisoned, segments, bits)


def test_a_sequences_bits_do_not_depend_on_its_batch():
    lengths = [3, CHUNK, 2 * CHUNK + 1, 40]
    gate, up = inputs(sum(lengths), 129, torch.float32)
    segments = segments_of(lengths)
    bits = BitSpec(torch.full((129,), 0.1, device=DEVICE))
    hidden, stats = mlp_capture(gate, up, "silu", segments, EVERYTHING, bits)
    for i, (start, end) in enumerate(zip(segments.starts, segments.ends, strict=True)):
        # Alone, at another address.
        alone, of_alone = mlp_capture(
            gate[start:end].clone(), up[start:end].clone(), "silu", segments_of([end - start]), EVERYTHING, bits
        )
        assert torch.equal(alone, hidden[start:end])
        for name in (*STATISTICS, "codes"):
            assert torch.equal(getattr(of_alone, name)[0], getattr(stats, name)[i]), name
