"""Variable-length attention: boundaries, prefix and options, with a plain loop in the place of torch's GPU kernel."""

import pytest
import torch

from nait_fast.models import packed, packing_checks
from nait_fast.models.load import prepare
from nait_fast.models.pack import Pack
from tests import naive
from tests.models.test_packed import PREFIX, PREFIXED
from tests.models.tiny import READINGS, build, config_of, llama, run, worst_error

FULL = frozenset({"scale", "window_size", "enable_gqa", "num_splits"})


def loop(query, key, value, cu_q, cu_k, max_q, max_k, *, scale=None, window_size=None, is_causal=False, **options):
    """softmax(q·k) · v of each sequence, causal from the last key on, as FlashAttention aligns it."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert window_size is not None or is_causal
    assert query.shape[1] == key.shape[1] or options["enable_gqa"]
    assert max_q == int(cu_q.diff().max()) and max_k == int(cu_k.diff().max())
    left = window_size[0] if window_size else -1
    out = torch.empty_like(query)
    for i in range(len(cu_q) - 1):
        a, b, c, d = int(cu_q[i]), int(cu_q[i + 1]), int(cu_k[i]), int(cu_k[i + 1])
        groups = query.shape[1] // key.shape[1]
        k, v = (x[c:d].repeat_interleave(groups, 1) for x in (key, value))
        scores = torch.einsum("qhd,khd->hqk", query[a:b], k) * (scale or query.shape[-1] ** -0.5)
        at = torch.arange(b - a)[:, None] + (d - c) - (b - a)
        hidden = (torch.arange(d - c) > at) | ((torch.arange(d - c) < at - left) if left >= 0 else False)
        out[a:b] = torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, float("-inf")).softmax(-1), v)
    return out


@pytest.fixture
def parameters(monkeypatch):
    """Sets what the loop admits to know, and has every model try it."""

    def use(names=FULL):
        monkeypatch.setattr(packed, "_varlen", lambda: (loop, frozenset(names)))
        monkeypatch.setattr(packing_checks, "suits", lambda model: True)

    return use


@pytest.mark.parametrize(
    "names", [FULL, {"is_causal", "scale"}, {"window_size"}], ids=lambda names: "-".join(sorted(names))
)
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen3", "phi3", "gpt_neox"])
def test_readings_with_a_prefix(model_type, names, parameters):
    parameters(names)
    config = config_of(model_type)
    loaded = prepare(build(config), None)
    assert loaded.attention == packed.VARLEN
    reference = build(config, "eager")
    expected = naive.pooled_all(reference, PREFIXED)
    sink = run(loaded, PREFIXED, prefix=PREFIX)
    for reading in READINGS:
        assert worst_error(sink.readings[reading].reshape(expected[reading].shape), expected[reading]) <= 1e-5


def test_sliding_windows(parameters):
    parameters()
    config = config_of("mistral", sliding_window=8)
    loaded = prepare(build(config), None)
    assert loaded.attention == packed.VARLEN
    expected = naive.pooled_all(build(config, "eager"), PREFIXED)
    sink = run(loaded, PREFIXED, prefix=PREFIX)
    for reading in READINGS:
        assert worst_error(sink.readings[reading].reshape(expected[reading].shape), expected[reading]) <= 1e-5


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        ("gemma2", FULL),  # softcapping
        ("gemma3_text", {"window_size"}),  # a scale that the kernel does not take
    ],
)
def test_what_it_cannot_do_goes_back_to_sdpa(model_type, names, parameters):
    parameters(names)
    extra = {"query_pre_attn_scalar": 3} if model_type.startswith("gemma") else {}
    assert prepare(build(config_of(model_type, **extra)), None).attention == packed.ATTENTION


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_kernel_that_aligns_its_mask_otherwise_is_found_out(parameters, monkeypatch, dtype):
    parameters()

    def top_left(query, key, value, cu_q, cu_k, *rest, **options):
        return loop(query, key[: len(query)], value[: len(query)], cu_q, cu_q, rest[0], rest[0], **options)

    monkeypatch.setattr(packed, "_varlen", lambda: (top_left, FULL))
    assert prepare(llama().to(dtype), None).attention == packed.ATTENTION


def test_cpu_models_do_not_try_it():
    assert not packed.suits(llama()) and prepare(llama(), None).attention == packed.ATTENTION


@pytest.mark.parametrize("n_prefix", [0, 1, 5])
def test_bounds(n_prefix):
    lengths = [3, 1, 4]
    bounds = Pack(lengths).bounds(n_prefix, torch.device("cpu"))
    assert bounds.query.tolist() == [0, 3, 4, 8]
    assert bounds.key.tolist() == [0, 3 + n_prefix, 4 + 2 * n_prefix, 8 + 3 * n_prefix]
    assert (bounds.longest_query, bounds.longest_key) == (4, 4 + n_prefix)
    own = torch.arange(8.0).reshape(8, 1, 1) + 100
    shared = torch.arange(float(n_prefix)).reshape(n_prefix, 1, 1)
    if n_prefix:
        numbers = iter(range(100, 108))
        expected = [x for n in lengths for x in [*range(n_prefix), *(next(numbers) for _ in range(n))]]
        assert bounds.behind(shared, own).flatten().tolist() == expected
