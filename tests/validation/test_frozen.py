"""Products with frozen weights, and the head's losses and gradients, against torch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nait_fast.models.head import LMHead
from nait_fast.validation import frozen
from nait_fast.validation.frozen import Frozen, FrozenHead, freeze_linears, product_kind

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
needs_onednn = pytest.mark.skipif(not ONEDNN, reason="no oneDNN here")
EXACT = ["torch", pytest.param("onednn", marks=needs_onednn)]
KINDS = [*EXACT, pytest.param("onednn-bf16", marks=needs_onednn)]
BOUNDS = {"torch": 1e-6, "onednn": 1e-5, "onednn-bf16": 2e-2}
# Scale, softcap, whether there is a bias.
FORMULAS = [(1.0, None, False), (1.0, None, True), (0.3, None, True), (1.0, 7.0, False), (0.3, 5.0, True)]


@pytest.fixture
def poisoned(monkeypatch):
    """Memory that nobody has written yet holds NaN."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)

        def poison(*arguments, make=make, **named):
            out = make(*arguments, **named)
            return out.fill_(float("nan")) if out.is_floating_point() else out

        monkeypatch.setattr(torch, name, poison)


def off(mine: torch.Tensor, theirs: torch.Tensor) -> float:
    """The error's norm as a share of the other's."""
    return float((mine.double() - theirs.double()).norm() / theirs.double().norm().clamp_min(1e-12))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 1), (31, 33), (33, 1), (48, 72)])
def test_products_equal_torchs(kind, shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    product = Frozen(weight, kind)
    for rows in (1, 31, 33):
        x, g = torch.randn(rows, shape[1], generator=generator), torch.randn(rows, shape[0], generator=generator)
        assert off(product.times(x), x.double() @ weight.double().t()) <= BOUNDS[kind]
        assert off(product.back(g), g.double() @ weight.double()) <= BOUNDS[kind]
        assert product.times(x[:, None]).shape == (rows, 1, shape[0])
        assert product.times(x).dtype == product.back(g).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_layers_and_their_gradients_equal_torchs(kind):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(48, 72), nn.SiLU(), nn.Linear(72, 40, bias=False))
    quick = nn.Sequential(nn.Linear(48, 72), nn.SiLU(), nn.Linear(72, 40, bias=False))
    quick.load_state_dict(plain.state_dict())
    freeze_linears(quick, kind)
    results = []
    for model in (plain, quick):
        x = torch.randn(2, 31, 48, generator=torch.Generator().manual_seed(1)).requires_grad_()
        y = model(x)
        (y * torch.linspace(0, 1, y.numel()).view_as(y)).sum().backward()
        results.append((y.detach(), x.grad))
    for mine, theirs in zip(results[1], results[0], strict=True):
        assert off(mine, theirs) <= BOUNDS[kind]
    assert all(p.grad is None for p in quick.parameters()) and all(p.grad is not None for p in plain.parameters())


def reference(head: LMHead, states: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor):
    """Losses and the gradient of their weighted sum to the states, by torch's autograd in fp64."""
    states = states.double().requires_grad_()
    logits = states @ head.weight.double().t()
    logits = head.scale * (logits if head.bias is None else logits + head.bias.double())
    logits = logits if head.softcap is None else head.softcap * torch.tanh(logits / head.softcap)
    losses = F.cross_entropy(logits, labels, reduction="none")
    (losses * weights.double()).sum().backward()
    return losses.detach(), states.grad


def made(rows: int, vocabulary: int, hidden: int, scale: float, softcap: float | None, bias: bool):
    generator = torch.Generator().manual_seed(rows * 1000 + vocabulary)
    weight = torch.randn(vocabulary, hidden, generator=generator)
    of_bias = torch.randn(vocabulary, generator=generator) if bias else None
    states = torch.randn(rows, hidden, generator=generator)
    labels = torch.randint(vocabulary, (rows,), generator=generator)
    return LMHead(weight, of_bias, scale, softcap), states, labels, torch.linspace(-1, 2, rows)


@pytest.mark.parametrize("kind", EXACT)
@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("vocabulary", [1, 31, 257])
@pytest.mark.parametrize("rows", [1, 31, 33])
def test_losses_and_gradients_of_the_head_equal_autograds_in_fp64(
    kind, formula, vocabulary, rows, poisoned, monkeypatch
):
    # Pieces of 8 rows, of which 3 are worked on at once: neither divides the rows.
    monkeypatch.setattr(frozen, "LOGIT_BYTES", 1)
    monkeypatch.setattr(frozen, "CACHED", 3 * vocabulary)
    head, states, labels, weights = made(rows, vocabulary, 33, *formula)
    mine = FrozenHead(head, kind)
    asked = states.clone().requires_grad_()
    losses = mine.losses(asked, labels)
    (losses * weights).sum().backward()
    expected, gradient = reference(head, states, labels, weights)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses.detach().double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(asked.grad.double(), gradient, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mine.losses(states, labels), losses.detach(), rtol=0, atol=0)  # without a gradient, too
    torch.testing.assert_close(mine.logits(states).double(), head.logits(states), rtol=1e-4, atol=1e-5)


@needs_onednn
@pytest.mark.parametrize("formula", FORMULAS)
def test_rounded_losses_are_near(formula, poisoned):
    head, states, labels, weights = made(33, 257, 31, *formula)
    asked = states.clone().requires_grad_()
    losses = FrozenHead(head, "onednn-bf16").losses(asked, labels)
    (losses * weights).sum().backward()
    expected, gradient = reference(head, states, labels, weights)
    assert off(losses.detach(), expected) <= 2e-2 and off(asked.grad, gradient) <= 3e-2


def test_a_head_in_half_precision_keeps_its_states_precision(poisoned):
    head, states, labels, weights = made(31, 257, 33, 0.3, 5.0, True)
    half = LMHead(head.weight.bfloat16(), head.bias.bfloat16(), head.scale, head.softcap)
    asked = states.bfloat16().requires_grad_()
    losses = FrozenHead(half, "torch").losses(asked, labels)
    (losses * weights).sum().backward()
    expected, gradient = reference(half, states.bfloat16(), labels, weights)
    assert losses.dtype == torch.float32 and asked.grad.dtype == torch.bfloat16
    assert off(losses.detach(), expected) <= 2e-2 and off(asked.grad, gradient) <= 3e-2


def test_large_logits_do_not_overflow():
    head = LMHead(torch.tensor([[1000.0], [-1000.0], [999.0]]))
    losses = FrozenHead(head, "torch").losses(torch.ones(2, 1), torch.tensor([0, 1]))
    assert losses.tolist() == pytest.approx([0.3133, 2000.3133], abs=1e-3)


def test_as_many_logits_are_alive_as_memory_is_meant_for_them():
    head = FrozenHead(LMHead(torch.zeros(1000, 4)), "torch")
    assert head.rows_at_once(False) == frozen.LOGIT_BYTES // 4000
    assert head.rows_at_once(True) == frozen.GPU_LOGIT_BYTES // 4000
    assert FrozenHead(LMHead(torch.zeros(10_000_000, 1)), "torch").rows_at_once(False) == 8


def test_a_product_that_is_asked_for_is_taken():
    assert product_kind(nn.Linear(2, 2), "torch") == "torch" and product_kind(nn.Linear(2, 2), "onednn") == "onednn"
    assert product_kind(nn.Linear(2, 2)) in frozen.PRODUCTS
