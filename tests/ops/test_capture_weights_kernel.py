"""The capture op over chosen and weighted tokens, on the reference and in Triton: against float64."""

import math

import numpy as np
import pytest
import torch

from nait_fast.kernels import mlp_capture, segment_sums
from nait_fast.kernels.bitpack.reference import pack_bits
from nait_fast.kernels.capture.launch import CHUNK
from nait_fast.kernels.capture.types import BitSpec, Segments
from tests.ops.captured import DTYPES, EVERYTHING, activated, inputs, same, same_stats
from tests.ops.device import DEVICE, poisoned
from tests.ops.sums import EPSILON, check_sums, exact_sum, segments_of

LENGTHS = (1, 2, 9, 33, CHUNK + 1, 2 * CHUNK + 3)
FEW = (1, 9, CHUNK + 1)


@pytest.fixture(scope="module", params=["reference", "triton"], autouse=True)
def backend(request):
    if request.param == "triton":
        pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAIT_FAST_BACKEND", request.param)
        yield request.param


def chosen(n_tokens, seed=0) -> torch.Tensor:
    """Weights fp32 [T]: runs of 0 and of numbers of both signs."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randn(n_tokens, generator=generator)
    return weights * (torch.rand(n_tokens // 5 + 1, generator=generator) < 0.6).repeat_interleave(5)[:n_tokens]


def weighted_parts(x, segments, skip=True) -> list[torch.Tensor]:
    """w_t · x_t in fp64, which holds it exactly, of each sequence's counted tokens (zeros where there is none)."""
    weights, out = segments.weights.double().to(x.device), []
    for a, b, s in zip(segments.starts.tolist(), segments.ends.tolist(), segments.skip_first.tolist(), strict=True):
        a += skip and s and b - a > 1
        part = (x[a:b].double() * weights[a:b, None])[weights[a:b] != 0]
        out.append(part if len(part) else torch.zeros(1, x.shape[1], dtype=torch.float64, device=x.device))
    return out


def rms_error(got, part) -> float:
    return float(np.sqrt(np.mean((got.double().cpu().numpy() - exact_sum(part)) ** 2)))


def check_weighted_sums(got, parts) -> None:
    """Within pairwise summation's bound, and over columns enough at most twice torch's own error."""
    check_sums(got, parts, beside_torch=False)
    for row, part in zip(got, parts, strict=True):
        if len(row) > 100:
            of_torch = part.float().sum(0)
            assert rms_error(row, part) <= 2 * rms_error(of_torch, part) + EPSILON * float(of_torch.abs().mean()) / 4


def check_weighted(stats, hidden, up, segments) -> None:
    check_weighted_sums(stats.sum, weighted_parts(hidden, segments))
    check_weighted_sums(stats.up_abs_sum, weighted_parts(up.abs(), segments, skip=False))


@pytest.mark.parametrize(
    "width, dtype", [(1, torch.float32), (31, torch.bfloat16), (33, torch.float16), (129, torch.float32)]
)
@pytest.mark.parametrize("skip_first, form", [(True, "fused"), (False, "plain")])
def test_weighted_sums_are_as_good_as_torchs_own(skip_first, form, width, dtype):
    gate, up = inputs(sum(LENGTHS) + 3 * (len(LENGTHS) + 1), width, dtype, form)
    segments = segments_of(LENGTHS, gap=3, skip_first=skip_first)
    segments.weights = chosen(len(up))
    hidden, stats = mlp_capture(gate, up, "relu", segments, EVERYTHING)
    assert same(hidden, activated(gate, up, "relu"))
    check_weighted(stats, hidden, up, segments)
    check_weighted_sums(segment_sums(up, segments), weighted_parts(up, segments))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_places_as_weights(dtype):
    """7, 8, 9, … over a thousand activations of one sign."""
    lengths = (1027, 1, 31)
    _, up = inputs(sum(lengths), 129, dtype)
    segments = segments_of(lengths, skip_first=False)
    segments.weights = torch.cat([torch.arange(7, 7 + n) for n in lengths]).float()
    check_weighted_sums(segment_sums(up.abs(), segments), weighted_parts(up.abs(), segments))


def test_weights_of_one_change_nothing():
    gate, up = inputs(sum(FEW), 33, torch.bfloat16)
    bits = BitSpec(torch.full((33,), 0.1, device=DEVICE))
    hidden, plain = mlp_capture(gate, up, "silu", segments_of(FEW), EVERYTHING, bits)
    segments = segments_of(FEW)
    segments.weights = torch.ones(len(up))
    segments.first_at, segments.last_at = segments.starts, segments.ends - 1
    again, stats = mlp_capture(gate, up, "silu", segments, EVERYTHING, bits)
    assert same(again, hidden) and same_stats(stats, plain)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in the interpreter
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("act", ["relu", torch.relu], ids=["name", "callable"])
def test_an_unchosen_token_may_be_anything(act, value):
    gate, up = inputs(sum(FEW), 33, torch.bfloat16)
    segments = segments_of(FEW)
    segments.weights = chosen(len(up))
    bits = BitSpec(torch.full((33,), 0.1, device=DEVICE))
    _, clean = mlp_capture(gate, up, act, segments, frozenset({"sum", "up_abs_sum"}), bits)
    nobody = (segments.weights == 0).to(DEVICE)
    assert 0 < int(nobody.sum()) < len(up)
    gate[nobody], up[nobody] = value, value
    hidden, stats = mlp_capture(gate, up, act, segments, frozenset({"sum", "up_abs_sum"}), bits)
    assert same(hidden, activated(gate, up, act))  # what the model computes is not touched
    assert same_stats(stats, clean) and torch.isfinite(stats.sum).all()
    assert torch.isfinite(segment_sums(up, segments)).all()


def test_a_chosen_token_that_is_no_number_shows():
    _, up = inputs(2 * CHUNK, 33, torch.float32)
    segments = segments_of([2 * CHUNK])
    segments.weights = torch.ones(2 * CHUNK)
    segments.weights[3] = 0
    up[5, 7] = math.nan
    assert segment_sums(up, segments).isnan().nonzero().tolist() == [[0, 7]]


def test_no_token_chosen():
    gate, up = inputs(CHUNK + 9, 33, torch.float32)
    segments = segments_of([CHUNK + 2, 7])
    segments.weights = torch.zeros(len(up))
    segments.weights[-1] = 2
    _, stats = mlp_capture(gate, up, "relu", segments, EVERYTHING)
    assert not stats.sum[0].any() and not stats.up_abs_sum[0].any()
    assert torch.equal(stats.up_abs_sum[1], 2 * up[-1].abs())


def test_first_and_last_are_read_where_told():
    lengths = [1, 5, CHUNK + 4, CHUNK + 2, 3]
    gate, up = inputs(sum(lengths) + 2 * 6, 33, torch.bfloat16)
    segments = segments_of(lengths, gap=2)
    starts = segments.starts
    segments.first_at = starts + torch.tensor([0, 4, CHUNK - 1, CHUNK, 0])
    segments.last_at = starts + torch.tensor([0, 0, CHUNK, CHUNK + 1, 1])
    segments.first_at[4] = -1
    segments.last_at[1] = -1
    hidden, stats = mlp_capture(gate, up, "relu", segments, EVERYTHING)
    for got, places in ((stats.first, segments.first_at), (stats.last, segments.last_at)):
        nowhere = (places < 0).to(DEVICE)
        assert int(nowhere.sum()) == 1 and not got[nowhere].any()
        assert torch.equal(got[~nowhere], hidden[places[places >= 0]].float())
    plain = segments_of(lengths, gap=2)
    _, expected = mlp_capture(gate, up, "relu", plain, EVERYTHING)
    assert torch.equal(stats.sum, expected.sum) and torch.equal(stats.up_abs_sum, expected.up_abs_sum)


@pytest.mark.parametrize("width", [1, 31, 33, 129])
def test_codes_are_those_of_the_weighted_mean(width):
    lengths = [5, CHUNK + 1, 1, 2 * CHUNK + 5]
    gate, up = inputs(sum(lengths), width, torch.float32, seed=width)
    segments = segments_of(lengths)
    segments.weights = chosen(len(up), seed=width)
    segments.counts = torch.tensor([2, 100, 1, 300])
    prefix = torch.randn(width, device=DEVICE)
    _, plain = mlp_capture(gate, up, "silu", segments, frozenset({"sum"}))
    means = (plain.sum + prefix) / segments.counts[:, None].to(DEVICE)
    bits = BitSpec(means.median(0).values, prefix)  # of one of them, the very mean
    _, stats = mlp_capture(gate, up, "silu", segments, frozenset(), bits)
    assert stats.sum is None and torch.equal(stats.codes, pack_bits(means, bits.threshold))


def test_every_output_is_written():
    lengths = [1, CHUNK + 3, 7, 40]
    gate, up = inputs(sum(lengths) + 5 * 5, 33, torch.bfloat16)
    segments = segments_of(lengths, gap=5)
    segments.weights = chosen(len(up))
    segments.first_at, segments.last_at = segments.starts.clone(), segments.ends - 1
    segments.first_at[[0, 1]] = segments.last_at[[1, 2]] = -1
    bits = BitSpec(torch.zeros(33, device=DEVICE), torch.ones(33, device=DEVICE))
    hidden, stats = mlp_capture(gate, up, "relu", segments, EVERYTHING, bits)
    with poisoned():
        again, of_poisoned = mlp_capture(gate, up, "relu", segments, EVERYTHING, bits)
    assert same(again, hidden) and same_stats(of_poisoned, stats)
    assert not any(x.isnan().any() for x in (stats.first, stats.last, stats.sum, stats.up_abs_sum))
    check_weighted(of_poisoned, again, up, segments)


def test_a_sequences_sums_do_not_depend_on_its_batch():
    lengths = [3, CHUNK, 2 * CHUNK + 1, 40]
    _, up = inputs(sum(lengths), 33, torch.float32)
    segments = segments_of(lengths)
    segments.weights = chosen(len(up))
    sums = segment_sums(up, segments)
    for i, (start, end) in enumerate(zip(segments.starts, segments.ends, strict=True)):
        alone = segments_of([end - start])
        alone.weights = segments.weights[start:end]
        assert torch.equal(segment_sums(up[start:end].clone(), alone)[0], sums[i])


def test_the_weights_move_once(monkeypatch):
    moved = []
    monkeypatch.setattr(
        "nait_fast.kernels.capture.types.to_device", lambda x, device: moved.append(device) or x.to(device)
    )
    segments = segments_of([4])
    segments.weights = torch.ones(4)
    device = torch.device(DEVICE)
    assert segments.weights_on(device) is segments.weights_on(device) and moved == [device]
    assert segments_of([4]).weights_on(device) is None


def test_what_does_not_fit_is_refused(backend):
    if backend == "reference":
        pytest.skip("the launcher of kernels checks")
    _, up = inputs(9, 5, torch.float32)
    starts, ends, skip = torch.tensor([0, 4]), torch.tensor([4, 9]), torch.tensor([True, True])
    with pytest.raises(ValueError, match=r"weights \(8,\) of 9 tokens"):
        segment_sums(up, Segments(starts, ends, skip, weights=torch.ones(8)))
    for wrong in ([4, 4], [0, 9], [-2, 4]):
        for name in ("first_at", "last_at"):
            with pytest.raises(ValueError, match="read at its own tokens, or at none"):
                segment_sums(up, Segments(starts, ends, skip, **{name: torch.tensor(wrong)}))
