"""Capture and the faster matrix product leave a model exactly as they found it, whatever happens inside."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nait_fast import live_capture
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import NaitError
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Sink
from nait_fast.models.find import find_specs
from nait_fast.models.linear import BLOCKED, TORCH, blocked_linear, products_as, usable
from nait_fast.models.load import prepare
from nait_fast.models.probe import probe
from tests.models.tiny import GPT, READINGS, build, config_of, llama, run, sequences, worst_error

KINDS = {
    "llama": {},
    "phi3": {},
    "gpt_neox": {},
    "gemma2": {"sliding_window": 8},
    "falcon": {"head_dim": None},
    "bitnet": {},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 16},
}
IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))


def make(kind):
    return build(config_of(kind, GPT | {"head_dim": None}) if kind == "gpt2" else config_of(kind, **KINDS[kind]))


def snapshot(model: nn.Module) -> list:
    """Everything that a patch could leave behind: attributes and hooks of every module, and the configurations."""
    state: list = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key == "config":
                state.append((name, copy.deepcopy(vars(value)), value._attn_implementation))
            state.append((name, key, {k: id(v) for k, v in value.items()} if isinstance(value, dict) else id(value)))
    return state


def logits(model, ids=IDS, **extra):
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False, **extra).logits


# ------------------------------------------------------------------------------------------------------- capture


@pytest.mark.parametrize("kind", [*KINDS, "gpt2"])
def test_capture_changes_no_output_and_leaves_nothing(kind):
    model = make(kind)
    before, expected = snapshot(model), logits(model)
    with live_capture.capture(model, READINGS):
        assert snapshot(model) != before
        assert torch.equal(logits(model), expected)
        assert torch.equal(logits(model), expected)
    assert snapshot(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_are_bit_equal_in_low_precision(dtype):
    model = llama().to(dtype)
    expected = logits(model)
    with live_capture.capture(model, READINGS) as captured:
        assert torch.equal(logits(model), expected)
    assert {x.dtype for r in READINGS for x in captured[r] if r != "drift"} == {torch.float32}
    assert {x.dtype for x in captured["drift"]} == {torch.float64}


def test_capture_is_undone_after_an_exception_in_the_block():
    model = llama()
    before, expected = snapshot(model), logits(model)
    with pytest.raises(ZeroDivisionError), live_capture.capture(model):
        logits(model)
        _ = 1 / 0
    assert snapshot(model) == before and torch.equal(logits(model), expected)


def test_capture_is_undone_after_an_exception_in_the_forward():
    model = llama()
    before, expected = snapshot(model), logits(model)
    with pytest.raises(IndexError), live_capture.capture(model):
        logits(model, torch.tensor([[1, 10_000]]))
    assert snapshot(model) == before and torch.equal(logits(model), expected)


def test_a_forward_that_was_there_before_comes_back():
    """As accelerate's device hooks leave one on every module."""
    model = llama()
    expected = logits(model)
    calls = []

    def wrap(module):
        own = module.forward

        def forward(*args, **kwargs):
            calls.append(module)
            return own(*args, **kwargs)

        module.forward = forward

    layer = model.model.layers[1]
    wrap(layer.mlp)
    wrap(layer.mlp.down_proj)
    before = snapshot(model)
    loaded = prepare(model, None)
    with live_capture.capture(model):
        assert torch.equal(logits(model), expected)
    run(loaded, sequences())
    assert snapshot(model) == before
    calls.clear()
    assert torch.equal(logits(model), expected)
    assert calls == [layer.mlp, layer.mlp.down_proj]


# -------------------------------------------------------------------------------------------- preparing, the engine


@pytest.mark.parametrize("kind", [*KINDS, "gpt2"])
def test_preparing_and_running_leave_nothing(kind):
    model = make(kind)
    before, expected = snapshot(model), logits(model)
    loaded = prepare(model, None)
    assert snapshot(model) == before
    prefix = sequences((5,))[0]
    run(loaded, [*sequences(), *sequences(prefix=prefix)], prefix=prefix)
    assert snapshot(model) == before
    assert torch.equal(logits(model), expected)


@pytest.mark.parametrize("kind", ["llama", "falcon"])
def test_engine_leaves_nothing_after_a_failure(kind):
    class Failing(Sink):
        def layer(self, items, position, readings, codes):
            raise OSError("disk full")

        def finish(self, items, finite): ...

    model = make(kind)
    before, expected = snapshot(model), logits(model)
    loaded = prepare(model, None)
    with pytest.raises(OSError, match="disk full"):
        Engine(loaded, READINGS).run([Encoded(i, None, x) for i, x in enumerate(sequences())], Failing())
    assert snapshot(model) == before and torch.equal(logits(model), expected)


# ---------------------------------------------------------------------------------------------------------- probe


class Clipped(nn.Module):
    """A Llama MLP with other arithmetic."""

    def __init__(self, mlp, change):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj, self.act_fn = mlp.gate_proj, mlp.up_proj, mlp.down_proj, F.silu
        self.change = change

    def forward(self, x):
        gate, up, down = self.gate_proj(x), self.up_proj(x), self.down_proj
        return {
            "none": lambda: down(F.silu(gate) * up),
            "clipped": lambda: down((F.silu(gate) * up).clamp(-0.5, 0.5)),
            "swapped": lambda: down(F.silu(up) * gate),
            "other activation": lambda: down(F.gelu(gate) * up),
            "shifted": lambda: down(F.silu(gate) * (up + 1)),
            "scaled": lambda: down(F.silu(gate) * up) * 1.001,
        }[self.change]()


@pytest.mark.parametrize("change", ["none", "clipped", "swapped", "other activation", "shifted", "scaled"])
def test_a_look_alike_is_refused(change):
    model = llama()
    for layer in model.model.layers:
        layer.mlp = Clipped(layer.mlp, change)
    if change == "none":
        probe(find_specs(model))
        return
    message = "layer 0: Clipped looks like the family of Llama.* but computes something else; it is not supported"
    for use in (lambda: probe(find_specs(model)), lambda: prepare(model, None), live_capture.capture(model).__enter__):
        with pytest.raises(NaitError, match=message):
            use()


def test_a_look_alike_in_a_later_layer_is_refused():
    model = llama()
    model.model.layers[2].mlp = Clipped(model.model.layers[2].mlp, "scaled")
    with pytest.raises(NaitError, match="layer 2: Clipped looks like"):
        prepare(model, None)


# --------------------------------------------------------------------------------------------- faster matrix product

needs_onednn = pytest.mark.skipif(not usable(nn.Linear(2, 2)), reason="no oneDNN linear on this machine")


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@needs_onednn
def test_blocked_products_is_close_and_goes_away():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(48, 33), nn.Linear(48, 1, bias=False), Doubled(48, 33)])
    before = snapshot(model)
    shapes = [torch.randn(1, 48), torch.randn(7, 48), torch.randn(2, 65, 48), torch.randn(48, 65).T]
    expected = [[module(x) for module in model] for x in shapes]
    with torch.inference_mode(), products_as(BLOCKED, model):
        assert ["forward" in vars(module) for module in model] == [True, True, False]
        for x, (first, second, doubled) in zip(shapes, expected, strict=True):
            assert worst_error(model[0](x), first.detach()) <= 1e-5
            assert (model[1](x) - second).norm() <= 1e-5 * second.norm()
            assert torch.equal(model[2](x), doubled)  # a subclass keeps its own forward
    assert snapshot(model) == before
    assert torch.equal(model[0](shapes[2]), expected[2][0])


@needs_onednn
@pytest.mark.parametrize("n_in", [1, 33, 191, 192, 193, 1536, 1999])
@pytest.mark.parametrize("shape", [(1,), (1, 7), (2, 65)])
@pytest.mark.parametrize("bias", [False, True])
def test_blocked_linear_errs_at_most_twice_as_much_as_torch(n_in, shape, bias):
    generator = torch.Generator().manual_seed(n_in)
    x, weight = torch.randn(*shape, n_in, generator=generator), torch.randn(33, n_in, generator=generator)
    offset = torch.randn(33, generator=generator) if bias else None
    exact = nn.functional.linear(x.double(), weight.double(), offset.double() if bias else None)
    error = (blocked_linear(x, weight, offset) - exact).norm()
    assert error <= 2 * (nn.functional.linear(x, weight, offset) - exact).norm() + 1e-7 * exact.norm()


@needs_onednn
def test_blocked_products_is_undone_after_an_exception():
    model = llama()
    before, expected = snapshot(model), logits(model)
    with pytest.raises(ZeroDivisionError), products_as(BLOCKED, model):
        assert snapshot(model) != before
        _ = 1 / 0
    assert snapshot(model) == before and torch.equal(logits(model), expected)


def test_torch_products_are_the_modules_own():
    model = llama()
    before = snapshot(model)
    with products_as(TORCH, model):
        assert snapshot(model) == before


def test_blocked_products_is_for_fp32_only():
    assert not usable(nn.Linear(2, 2, dtype=torch.bfloat16))
