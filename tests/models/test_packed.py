"""The padding-free forward: what it must refuse, shared prefixes, and that samples never touch one another."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from nait_fast.codecs.layout import CodeLayout
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import NaitError
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect
from nait_fast.models import packing_checks
from nait_fast.models.load import prepare
from nait_fast.models.pack import Pack, packed_as
from nait_fast.models.packed import ATTENTION, packed_attention, packed_attention_on, packed_forward
from nait_fast.models.packing_checks import packs_exactly
from tests import naive
from tests.models.tiny import GPT, READINGS, build, config_of, llama, run, sequences, worst_error

PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)
PREFIXED = [*sequences(), *sequences(seed=2, prefix=PREFIX), PREFIX]


def check(loaded, reference, ids, prefix, **options):
    expected = naive.pooled_all(reference, ids)
    sink = run(loaded, ids, prefix=prefix, **options)
    for reading in READINGS:
        assert worst_error(sink.readings[reading].reshape(expected[reading].shape), expected[reading]) <= 1e-5


def test_packed_hidden_states_equal_separate_ones():
    model = llama().base_model
    ids = [torch.from_numpy(x).long() for x in sequences()]
    with torch.no_grad():
        separate = torch.cat([model(input_ids=x[None], use_cache=False).last_hidden_state[0] for x in ids])
        with packed_attention_on(model):
            hidden = packed_forward(model, torch.cat(ids), Pack([len(x) for x in ids])).last_hidden_state[0]
    assert worst_error(hidden, separate) <= 1e-5


def test_what_attention_gives_is_contiguous():
    """As transformers' own functions give it: some models (AFMoE) take a view of it."""
    query, key, value = torch.randn(1, 4, 10, 8), torch.randn(1, 2, 10, 8), torch.randn(1, 2, 10, 6)
    with packed_as(Pack([3, 3, 4])):
        out, _ = packed_attention(SimpleNamespace(layer_idx=0), query, key, value, None)
    assert out.shape == (1, 10, 4, 6) and out.is_contiguous()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packs_exactly_in_each_dtype(dtype):
    assert packs_exactly(llama().base_model.to(dtype))
    assert not packs_exactly(build(config_of("gptj", {}, **GPT, rotary_dim=4)).base_model.to(dtype))


def test_deep_models_in_half_precision_are_judged_by_their_own_noise():
    """Here SDPA and eager attention, both right, lie 9% apart: a fixed bound would refuse one of them."""
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
    model = build(config_of("llama", **shape, num_hidden_layers=48), weight=0.2).base_model.to(torch.bfloat16)
    with torch.no_grad():
        ids = packing_checks._random_sequences(model, (3, 9, 9))
        assert (
            packing_checks._error(
                packing_checks._separate(model, ids, "sdpa"), packing_checks._separate(model, ids, "eager")
            )
            > 0.05
        )
    assert packs_exactly(model) and packing_checks.pads_exactly(model)


@pytest.mark.parametrize("scale", [0.3, 0.9])
def test_softcapping(scale):
    """Gemma 2 with logits that reach its soft cap: SDPA, which ignores the cap, must not be taken for the truth."""
    config = config_of("gemma2", sliding_window=8, query_pre_attn_scalar=8)
    model, reference = build(config), build(config, "eager")
    for part in (model, reference):
        for name, parameter in part.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                parameter.data *= scale / 0.3
    assert model.config._attn_implementation == "sdpa"
    loaded = prepare(model, None)
    assert loaded.packs
    check(loaded, reference, PREFIXED, PREFIX)


@pytest.mark.parametrize("sink", [-14, 3])
def test_attention_sinks_are_not_packed_away(sink):
    """One is so small that three short sequences would not show it."""
    config = config_of("granite_swa")
    model, reference = build(config), build(config, "eager")
    for part in (model, reference):
        for name, parameter in part.named_parameters():
            if name.endswith("sinks"):
                parameter.data.fill_(sink)
    loaded = prepare(model, None)
    assert loaded.packs
    check(loaded, reference, PREFIXED, PREFIX)


# ------------------------------------------------------------------------------------------------- shared prefix


@pytest.mark.parametrize("n", [1, 2, 3, 12])
@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_prefix_of_any_length(model_type, n):
    config = config_of(model_type)
    prefix = PREFIX[:n]
    ids = [*sequences(), *sequences((1, 2, 7, 30), seed=3, prefix=prefix), prefix]
    check(prepare(build(config), None), build(config, "eager"), ids, prefix)


def test_prefix_changes_between_runs_of_one_engine():
    loaded, reference = prepare(llama(), None), llama()
    engine = Engine(loaded, READINGS, batch_tokens=40)
    for seed, n in ((3, 5), (4, 5), (5, 9), (3, 5)):
        prefix = np.random.default_rng(seed).integers(3, 60, n).astype(np.int32)
        ids = sequences((1, 2, 7, 30), seed=seed, prefix=prefix)
        sink = Collect(len(ids), CodeLayout.of(loaded.widths), READINGS)
        engine.run([Encoded(i, None, x) for i, x in enumerate(ids)], sink, prefixes=[prefix])
        expected = naive.pooled_all(reference, ids)
        for reading in READINGS:
            assert worst_error(sink.readings[reading].reshape(expected[reading].shape), expected[reading]) <= 1e-5


@pytest.mark.parametrize("model_type", ["llama", "gemma2", "mistral"])
def test_several_prefixes(model_type):
    """Nested ones, one of another beginning, one that is too short, and samples behind none; each is run once."""
    config = config_of(model_type, **({"sliding_window": 8} if model_type == "mistral" else {}))
    loaded = prepare(build(config), None)
    prefixes = [PREFIX[:4], PREFIX, PREFIX[::-1].copy(), PREFIX[:1] + 1]
    ids = [*sequences(), *(x for n, p in enumerate(prefixes) for x in sequences((1, 2, 9, 30), seed=n, prefix=p))]
    encoded = [Encoded(i, None, x) for i, x in enumerate(ids)]
    engine, ran = Engine(loaded, READINGS, batch_tokens=40), []
    expected = naive.pooled_all(build(config, "eager"), ids)
    for given in (prefixes, prefixes[1:]):
        before, sink = engine.run_tokens, Collect(len(ids), CodeLayout.of(loaded.widths), READINGS)
        engine.run(encoded, sink, prefixes=given)
        ran.append(engine.run_tokens - before)
        for reading in READINGS:
            assert worst_error(sink.readings[reading].reshape(expected[reading].shape), expected[reading]) <= 1e-5
    if loaded.packs:
        behind = 4 * sum(len(p) for p in prefixes[:3]), sum(len(p) for p in prefixes[:3])
        assert ran[0] == sum(map(len, ids)) - behind[0] + behind[1] and ran[1] == ran[0] + 4 * 4 - behind[1]


def test_a_prefix_that_failed_is_run_again(monkeypatch):
    loaded = prepare(llama(), None)
    ids = sequences((1, 2, 7), prefix=PREFIX)
    encoded = [Encoded(i, None, x) for i, x in enumerate(ids)]
    engine = Engine(loaded, READINGS)
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), READINGS)
    with monkeypatch.context() as patch:
        patch.setattr("nait_fast.extract.engine.packed_forward", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            engine.run(encoded, sink, prefixes=[PREFIX])
    engine.run(encoded, sink, prefixes=[PREFIX])
    expected = run(loaded, ids, prefix=PREFIX, batch_tokens=2048)
    for reading in READINGS:
        assert torch.equal(sink.readings[reading], expected.readings[reading])


@pytest.mark.parametrize("prefix, batch_tokens", [(PREFIX, 40), (None, 10_000)])
def test_rope_that_depends_on_the_length(prefix, batch_tokens):
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": 32}
    rope |= {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = config_of("phi3", original_max_position_embeddings=32, rope_parameters=rope)
    with pytest.raises(NaitError, match="--max-length 32"):
        check(prepare(build(config), None), build(config, "eager"), PREFIXED, prefix, batch_tokens=batch_tokens)


# ----------------------------------------------------------------------------------- samples and their neighbours


@pytest.mark.parametrize("model_type, extra", [("llama", {}), ("falcon", {"head_dim": None})])
def test_a_broken_sample_breaks_no_other(model_type, extra):
    """Token 59 is NaN: its samples are reported, the others of the same batch come out as without them."""
    model = build(config_of(model_type, **extra))
    loaded = prepare(model, None)  # before the poison: packing is checked with random tokens
    model.get_input_embeddings().weight.data[59] = float("nan")
    ids = [x % 56 + 3 for x in PREFIXED]  # 3 … 58
    broken = {1, 4, 9}
    for i in broken:
        ids[i] = ids[i].copy()
        ids[i][-1] = 59
    prefix = PREFIX % 56 + 3
    good = [i for i in range(len(ids)) if i not in broken]
    for batch_tokens in (40, 10_000):
        sink = run(loaded, ids, prefix=prefix, batch_tokens=batch_tokens)
        assert set(np.flatnonzero(~sink.finite)) == broken
        alone = run(loaded, [ids[i] for i in good], prefix=prefix, batch_tokens=1)
        for reading in READINGS:
            assert worst_error(sink.readings[reading][good], alone.readings[reading]) <= 1e-5


def test_order_of_samples_does_not_matter():
    loaded = prepare(llama(), None)
    order = np.random.default_rng(0).permutation(len(PREFIXED))
    sink = run(loaded, PREFIXED, prefix=PREFIX)
    shuffled = run(loaded, [PREFIXED[i] for i in order], prefix=PREFIX)
    for reading in READINGS:
        assert worst_error(shuffled.readings[reading], sink.readings[reading][order]) <= 1e-6


def test_every_sample_and_token_is_reported_once():
    loaded = prepare(llama(), None)
    seen: list[tuple[int, int]] = []
    sink = Collect(len(PREFIXED), CodeLayout.of(loaded.widths), READINGS)
    Engine(loaded, READINGS, batch_tokens=40).run(
        [Encoded(i, None, x) for i, x in enumerate(PREFIXED)],
        sink,
        prefixes=[PREFIX],
        on_batch=lambda samples, tokens: seen.append((samples, tokens)),
    )
    assert len(seen) > 3
    assert np.sum(seen, axis=0).tolist() == [len(PREFIXED), sum(len(x) for x in PREFIXED)]


def test_attention_is_the_models_own_after_a_failure():
    model = llama().base_model
    with pytest.raises(ZeroDivisionError), packed_attention_on(model):
        assert model.config._attn_implementation == ATTENTION
        _ = 1 / 0
    assert model.config._attn_implementation == "sdpa"
