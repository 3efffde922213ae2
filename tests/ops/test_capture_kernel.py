"""The capture op's Triton kernel, hidden state: against the reference on a GPU, or in Triton's interpreter."""

import math

import pytest
import torch

from nait_fast.kernels import mlp_capture
from nait_fast.kernels.capture import launch, reference
from nait_fast.kernels.capture.launch import CHUNK
from nait_fast.kernels.capture.reference import ACTIVATIONS
from tests.ops.captured import DTYPES, EVERYTHING, EXACT, activated, check_statistics, inputs, same, same_stats
from tests.ops.device import DEVICE
from tests.ops.sums import segments_of

pytestmark = pytest.mark.usefixtures("triton_backend")

# Of the elements in 16 bits, the share that may round the other way than torch's.
ROUNDED_OTHERWISE = 0.001


def as_on_a_gpu(act):
    """torch's activation, less two habits of its CPU code: gelu's erf has errors of 1e-6 and makes inf NaN, and a cube
    in fp16 is rounded once, not after each product."""
    if act == "gelu":
        return lambda x: (x.float() * 0.5 * (1.0 + torch.erf(x.float() * math.sqrt(0.5)))).to(x.dtype)
    if act == "gelu_new":
        return lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * (x * x * x))))
    return act


def ulp(x: torch.Tensor) -> torch.Tensor:
    """Distance from ``x`` to the next larger number of its type, in fp64."""
    info = torch.finfo(x.dtype)
    exponent = torch.frexp(x.double().abs()).exponent - 1
    return torch.ldexp(torch.full_like(x, info.eps, dtype=torch.float64), exponent).clamp_min(
        info.smallest_normal * info.eps
    )


def check_hidden(hidden, gate, up, act) -> None:
    """As good against fp64 as torch's own, and where it has 16 bits, nearly always the same bits."""
    assert hidden.dtype == up.dtype and hidden.shape == up.shape
    exact = activated(None if gate is None else gate.double(), up.double(), act)
    error, of_torch = ((x.double() - exact).abs() for x in (hidden, activated(gate, up, act)))
    scale = (up.double() if gate is None else up.double() * gate.double()).abs().clamp_min(1e-30)
    assert error.max() <= 2 * of_torch.max()
    assert (error / scale).max() <= 2 * (of_torch / scale).max()
    if up.dtype == torch.float32:
        return
    expected = activated(gate, up, act if DEVICE == "cuda" else as_on_a_gpu(act))
    # One ulp of the activation is up to two of its product with up. What cancels in 1 + erf and 1 + tanh is an fp32
    # rounding, in gelu_new a rounding of the type: next to nothing beside x, but several ulp of a tiny result.
    largest = torch.maximum(ulp(hidden), ulp(expected))
    cancelled = {"silu": 0.0, "gelu_new": torch.finfo(up.dtype).eps}.get(act, 4 * 2.0**-24) * scale
    difference = (hidden.double() - expected.double()).abs()
    assert (difference <= (1 if gate is None else 2) * largest + cancelled).all()
    assert (difference > 0).double().mean() <= ROUNDED_OTHERWISE


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["gated", "plain"])
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_hidden_is_as_good_as_torchs_own(act, form, dtype):
    gate, up = inputs(CHUNK + 3, 129, dtype, form)
    hidden, _ = mlp_capture(gate, up, act, segments_of([CHUNK, 3]), frozenset())
    if act in EXACT:
        assert same(hidden, activated(gate, up, act))
    else:
        check_hidden(hidden, gate, up, act)


@pytest.mark.parametrize("form", ["gated", "plain"])
def test_an_activation_whose_bits_differ_is_torchs_own(form, monkeypatch):
    gate, up = inputs(CHUNK + 3, 129, torch.bfloat16, form)
    asked = []
    monkeypatch.setattr(launch, "exact", lambda *of: asked.append(of) or False)
    segments = segments_of([CHUNK, 3])
    hidden, stats = mlp_capture(gate, up, "gelu", segments, EVERYTHING)
    assert asked == [("gelu", torch.bfloat16, up.device)]
    assert same(hidden, activated(gate, up, "gelu"))
    check_statistics(stats, hidden, up, segments)


@pytest.mark.skipif(DEVICE == "cpu", reason="a CPU has mathematical functions of its own")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_every_number_of_16_bits_is_torchs(act, dtype):
    every = torch.arange(1 << 16, dtype=torch.int32, device=DEVICE).to(torch.int16).view(dtype)
    numbers = every[every.isfinite()][None]
    hidden, _ = mlp_capture(None, numbers, act, segments_of([1]), frozenset())
    assert torch.equal(hidden, reference.activate(None, numbers, act))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of NumPy, in the interpreter
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_special_values(act, dtype):
    special = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-7, -1e-7, 50.0, -50.0, 6e4, -6e4])
    special = special.to(dtype).to(DEVICE)
    gate, up = inputs(2, len(special), dtype)
    gate[0], up[1] = special, special
    expected = activated(gate, up, act if DEVICE == "cuda" else as_on_a_gpu(act))
    hidden, _ = mlp_capture(gate, up, act, segments_of([2]), frozenset())
    # Infinities and NaN lie where torch's do.
    assert torch.equal(hidden.isnan(), expected.isnan()) and torch.equal(hidden.isinf(), expected.isinf())
    torch.testing.assert_close(hidden, expected, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_identity_keeps_the_bits(dtype):
    _, up = inputs(20, 33, dtype)
    hidden, _ = launch._launch(None, up, "identity", segments_of([20]), frozenset(), None, write=True)
    assert same(hidden, up)


def test_leading_axes_are_kept_and_flattened():
    for form in ("gated", "fused"):
        gate, up = inputs(12, 5, torch.float32, form)
        flat, expected = mlp_capture(gate, up, "relu", segments_of([5, 7]), EVERYTHING)
        shape = (2, 6, 5)
        hidden, stats = mlp_capture(
            gate.unflatten(0, (2, 6)), up.unflatten(0, (2, 6)), "relu", segments_of([5, 7]), EVERYTHING
        )
        assert hidden.shape == shape and same(hidden.view(12, 5), flat) and same_stats(stats, expected)
        # Neurons that do not lie one after another.
        turned = [x.t().contiguous().t() for x in (gate, up)]
        hidden, stats = mlp_capture(*turned, "relu", segments_of([5, 7]), EVERYTHING)
        assert same(hidden, flat) and same_stats(stats, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["fused", "plain"])
def test_a_callable_runs_as_it_is(form, dtype):
    gate, up = inputs(CHUNK + 9, 33, dtype, form)
    segments = segments_of([5, CHUNK + 1], gap=1)

    def act(x):
        return torch.sigmoid(x) * 2 - 0.5

    hidden, stats = mlp_capture(gate, up, act, segments, EVERYTHING)
    assert same(hidden, reference.activate(gate, up, act))
    check_statistics(stats, hidden, up, segments)
    _, only_up = mlp_capture(gate, up, act, segments, frozenset({"up_abs_sum"}))
    assert torch.equal(only_up.up_abs_sum, stats.up_abs_sum) and only_up.sum is None


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.float64), (torch.float32, torch.bfloat16)], ids=str)
def test_other_dtypes_run_on_the_reference(dtypes):
    gate, up = (x.to(dtype) for x, dtype in zip(inputs(9, 5, torch.float64), dtypes, strict=True))
    hidden, stats = mlp_capture(gate, up, "silu", segments_of([2, 7]), EVERYTHING)
    expected, of_reference = reference.mlp_capture(gate, up, "silu", segments_of([2, 7]), EVERYTHING)
    assert same(hidden, expected) and same_stats(stats, of_reference)


def test_what_does_not_fit_is_refused():
    gate, up = inputs(6, 5, torch.float32)
    with pytest.raises(ValueError, match="differ in shape"):
        mlp_capture(gate[:, :4], up, "silu", segments_of([6]), EVERYTHING)
    with pytest.raises(ValueError, match="every sequence needs a token"):
        mlp_capture(gate, up, "silu", segments_of([7]), EVERYTHING)
