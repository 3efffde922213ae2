"""Losses of tokens: each backend against fp64, and against torch's cross-entropy of whole logits."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.kernels import token_losses
from nait_fast.kernels.nll import cpu, launch, reference
from tests.ops.device import DEVICE, poisoned

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
BACKENDS = ["triton", "reference"] + (["cpu"] if DEVICE == "cpu" else [])


@pytest.fixture(params=BACKENDS)
def backend(request, monkeypatch):
    if request.param == "triton":
        pytest.importorskip("triton")
    monkeypatch.setenv("NAIT_FAST_BACKEND", request.param)
    monkeypatch.setattr(launch, "INTERPRETED", (64, 128, 64))  # several blocks and parts of these small vocabularies
    monkeypatch.setattr(launch, "PART", 256)
    monkeypatch.setattr(reference, "BLOCK", 100)
    monkeypatch.setattr(cpu, "ROWS", 32)
    monkeypatch.setattr(cpu, "TILE", 32 * 96)
    return request.param


def draw(rows, width, words, dtype=torch.float32, bias=False, size=1.0, seed=0):
    """x, weight, labels and bias; logits are about ``size`` large. The first label is the vocabulary's last entry."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, width, generator=generator) * size
    weight = torch.randn(words, width, generator=generator) * width**-0.5
    labels = torch.randint(words, (rows,), generator=generator)
    labels[:1] = words - 1
    own = torch.randn(words, generator=generator).to(dtype).to(DEVICE) if bias else None
    return x.to(dtype).to(DEVICE), weight.to(dtype).to(DEVICE), labels.to(DEVICE), own


def of_torch(x, weight, labels, bias, scale, softcap):
    """What transformers does: logits in the model's dtype, their loss in fp32."""
    logits = F.linear(x, weight, bias) * scale
    if softcap is not None:
        logits = torch.tanh(logits / softcap) * softcap
    return F.cross_entropy(logits.to(torch.promote_types(logits.dtype, torch.float32)), labels, reduction="none")


def alike(x, labels, n=64):
    """``x`` and ``labels``, then ``n`` rows more of its numbers with other signs: what torch's error is on a handful of
    rows is chance."""
    generator = torch.Generator().manual_seed(1)
    taken = torch.randint(len(x), (n,), generator=generator).to(DEVICE)
    signs = torch.randint(2, (n, x.shape[1]), generator=generator).to(DEVICE) * 2 - 1
    return torch.cat([x, x[taken] * signs]), torch.cat([labels, labels[taken]])


def check(x, weight, labels, bias=None, scale=1.0, softcap=None):
    """At most twice as far from fp64 as torch's own, and a few units of fp32 at the size of the logits."""
    losses = token_losses(x, weight, labels, bias, scale, softcap)
    assert losses.shape == (len(x),) and losses.dtype == torch.float32 and losses.device == x.device
    if not len(x):
        return losses
    more, theirs = alike(x, labels)
    doubled = more.double(), weight.double(), theirs, None if bias is None else bias.double()
    exact = of_torch(*doubled, scale, softcap)
    of_torchs = (of_torch(more, weight, theirs, bias, scale, softcap) - exact).abs().max()
    largest = (doubled[0] @ doubled[1].T).abs().max() * abs(scale) + 10
    assert (losses - exact[: len(x)]).abs().max() <= 2 * of_torchs + 4 * torch.finfo(torch.float32).eps * largest
    return losses


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("rows", "width", "words"), [(1, 1, 1), (1, 31, 33), (33, 33, 31), (31, 64, 129), (130, 65, 640), (5, 257, 1001)]
)
def test_as_good_as_torchs_own(backend, rows, width, words, dtype):
    check(*draw(rows, width, words, dtype))
    check(*draw(rows, width, words, dtype, bias=True), scale=0.25, softcap=3.0)


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 40),
    st.integers(1, 90),
    st.integers(1, 300),
    st.sampled_from(DTYPES),
    st.booleans(),
    st.sampled_from([1.0, -0.5, 1 / 16]),
    st.sampled_from([None, 2.0, 30.0]),
    st.sampled_from(BACKENDS),
)
def test_any_shape(rows, width, words, dtype, bias, scale, softcap, name):
    pytest.importorskip("triton")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NAIT_FAST_BACKEND", name)
        patch.setattr(launch, "INTERPRETED", (16, 64, 32))
        patch.setattr(launch, "PART", 64)
        check(*draw(rows, width, words, dtype, bias, seed=rows), scale, softcap)


@pytest.mark.filterwarnings("ignore:overflow encountered")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_large_logits(backend, dtype):
    """Of 1e4, where exp overflows but for the largest one's being taken off first; the cap bounds them again."""
    arguments = draw(40, 48, 200, dtype, size=3000.0)
    assert check(*arguments).max() > 1000
    assert check(*arguments, softcap=30.0).max() <= 60 + 6


def test_whichever_block_a_label_is_in(backend):
    """Every label in turn, those of the last, partial block too; one below or beyond the vocabulary has no loss."""
    x, weight, _, bias = draw(1, 16, 333, bias=True)
    labels = torch.arange(-1, 334, device=DEVICE)
    losses = token_losses(x.expand(335, -1), weight, labels, bias)
    assert losses[0].isnan() and losses[-1].isnan()
    expected = -torch.log_softmax(F.linear(x, weight, bias), dim=1)[0]
    assert torch.allclose(losses[1:-1], expected, rtol=0, atol=1e-5)


def test_a_sure_token_loses_nothing(backend):
    """Its loss is of one logit and the sum that holds it: never below 0 by more than a rounding."""
    x, weight, labels, _ = draw(64, 64, 300, torch.bfloat16)
    losses = token_losses((weight[labels].float() * 300).to(torch.bfloat16), weight, labels)
    assert losses.abs().max() < 1e-3


@pytest.mark.filterwarnings("ignore:All-NaN slice", "ignore:invalid value")
def test_what_is_not_finite_stays_so(backend):
    x, weight, labels, _ = draw(9, 40, 150)
    plain = token_losses(x, weight, labels)
    x[4, 3] = torch.nan
    x[6, 3] = torch.inf
    losses = token_losses(x, weight, labels)
    assert not losses[[4, 6]].isfinite().any()
    assert torch.equal(losses[[0, 1, 2, 3, 5, 7, 8]], plain[[0, 1, 2, 3, 5, 7, 8]])


def test_every_output_is_written(backend):
    arguments = draw(33, 70, 300, bias=True)
    plain = token_losses(*arguments)
    with poisoned():
        assert torch.equal(token_losses(*arguments), plain)


def test_rows_of_wider_tensors(backend):
    x, weight, labels, _ = draw(20, 96, 150)
    got = token_losses(x[:, 32:64], weight[:, 32:64], labels)
    assert torch.equal(got, token_losses(x[:, 32:64].contiguous(), weight[:, 32:64].contiguous(), labels))
    assert torch.allclose(token_losses(x.T.contiguous().T, weight, labels), token_losses(x, weight, labels), atol=1e-5)


def test_memory_does_not_grow_with_the_vocabulary():
    """On a CPU a tile is all that is there of the logits: measured by torch's own count of what it allocates."""
    if DEVICE != "cpu":
        pytest.skip("of the CPU's path")
    x, weight, labels, _ = draw(2048, 8, 8192)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        token_losses(x, weight, labels)
    largest = max(event.cpu_memory_usage for event in profile.events())
    assert cpu.TILE * 4 <= largest < 2048 * 8192 * 4 / 8


def test_doubles_go_to_the_reference():
    x, weight, labels, _ = draw(5, 8, 40)
    assert torch.allclose(token_losses(x.double(), weight.double(), labels), token_losses(x, weight, labels), atol=1e-5)


def test_what_does_not_fit():
    x, weight, labels, bias = draw(5, 8, 40, bias=True)
    for wrong in (
        (x[0], weight, labels),
        (x, weight[:, 1:], labels),
        (x, weight, labels[1:]),
        (x, weight, labels, bias[1:]),
        (x, weight[:0], labels),
    ):
        with pytest.raises(ValueError, match="do not fit"):
            token_losses(*wrong)
    for wrong in ((x, weight.half(), labels), (x, weight, labels.int()), (x, weight, labels, bias.half())):
        with pytest.raises(ValueError, match="one dtype"):
            token_losses(*wrong)
    with pytest.raises(ValueError, match="not positive"):
        token_losses(x, weight, labels, softcap=0.0)
