"""rds, e = Σ_t t · h_t / Σ t of the body's last hidden states: against transformers, one sample at a time."""

import numpy as np
import pytest
import torch

from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import RDS_TYPES, Embeddings, embeddings_of
from nait_fast.data.tokenize import Encoded
from nait_fast.errors import BadInput
from nait_fast.extract.body_end import position_sums, rds_of
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import Collect, Encode, Tee, rds_parts
from nait_fast.index.format import rds_vectors
from nait_fast.kernels.capture.types import Segments
from nait_fast.models.load import prepare
from nait_fast.models.spec import text_decoder
from tests import naive
from tests.models.test_families import config_for
from tests.models.tiny import build, llama, run, sequences, worst_error

PREFIX = np.random.default_rng(1).integers(3, 60, 12).astype(np.int32)
SAMPLES = [*sequences((1, 2, 9, 33)), *sequences((1, 2, 9), seed=2, prefix=PREFIX), PREFIX]


def plain(model, samples) -> np.ndarray:
    """float64 [n, H]."""
    return np.stack([naive.rds(text_decoder(model), ids) for ids in samples])


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "opt 350m", "gptj", "qwen3.5"])
def test_against_transformers(name):
    """Packed, padded (gptj), with mixers in rows (qwen3.5), projected at its end (opt 350m)."""
    config = config_for(name)
    loaded, reference = prepare(build(config), None), build(config, "eager")
    expected = plain(reference, SAMPLES)
    assert loaded.forward == {"gptj": "padded", "qwen3.5": "packed, mixers in rows"}.get(name, "packed")
    assert loaded.end_width == expected.shape[1] == (8 if name == "opt 350m" else 16)
    for prefix in (None, PREFIX):
        for batch_tokens in (40, 10_000):
            sink = run(loaded, SAMPLES, prefix=prefix, batch_tokens=batch_tokens, readings=("mean", "rds"))
            assert sink.finite.all() and worst_error(sink.rds, expected) <= 1e-5


def test_alone_or_with_others_and_whatever_layers_are_read():
    model = llama()
    both = run(prepare(model, None), SAMPLES, readings=("mean", "rds"))
    alone = run(prepare(model, None, layers="0"), SAMPLES, readings=("rds",))
    assert torch.equal(both.rds, alone.rds) and alone.readings == {}
    plain = run(prepare(model, None), SAMPLES, readings=("mean",))
    assert torch.equal(both.readings["mean"], plain.readings["mean"]) and plain.rds.shape[1] == 0


def test_the_body_runs_to_its_end_only_where_it_is_asked_for():
    loaded, runs = prepare(llama(), None, layers="0,1"), []
    for number, layer in enumerate(loaded.body.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: runs.append(number))
    loaded.body.norm.register_forward_pre_hook(lambda *_: runs.append("norm"))
    run(loaded, SAMPLES[:1], readings=("mean",))
    assert runs == [0, 1]
    runs.clear()
    run(loaded, SAMPLES[:1], readings=("mean", "rds"))
    assert runs == [0, 1, 2, "norm"]


def test_chosen_tokens():
    """Weights of tokens multiply in, behind a prefix of which one token is chosen, too."""
    generator = torch.Generator().manual_seed(0)
    lengths, n_prefix = [5, 1, 9], 4
    states = torch.randn(n_prefix + sum(lengths), 8, generator=generator)
    weights = (torch.rand(len(states), generator=generator) < 0.5).float()
    weights[2], weights[n_prefix + 5] = 1, 1
    ends = torch.tensor(lengths).cumsum(0)
    own = Segments(ends - torch.tensor(lengths), ends, torch.ones(3, dtype=torch.bool), weights=weights[n_prefix:])
    before = Segments(torch.tensor([0]), torch.tensor([n_prefix]), torch.tensor([True]), weights=weights[:n_prefix])
    prefix = position_sums(states[:n_prefix], before, 0)
    got = rds_of(position_sums(states[n_prefix:], own, n_prefix), prefix)
    for i, (start, end) in enumerate(zip(own.starts.tolist(), own.ends.tolist(), strict=True)):
        every = torch.cat([torch.arange(n_prefix), torch.arange(start, end) + n_prefix])
        weighted = (torch.arange(1, len(every) + 1) * weights[every]).double()
        expected = weighted @ states[every].double() / weighted.sum()
        assert worst_error(got[i], expected) <= 1e-6


def test_long_samples_count_their_positions_exactly():
    """Σ t of 9,001 tokens is beyond 2 ** 24; states that are all the same come out as they are."""
    n = 9001
    segments = Segments(torch.tensor([0]), torch.tensor([n]), torch.tensor([True]))
    sums = position_sums(torch.full((n, 3), 0.3), segments, 0)
    assert sums.positions.tolist() == [n * (n + 1) // 2]
    assert worst_error(rds_of(sums, None), torch.full((1, 3), 0.3)) <= 1e-6


def test_what_is_not_finite_is_no_rows_rds():
    loaded = prepare(llama(), None)
    loaded.body.norm.weight.data[4] = torch.inf
    sink = run(loaded, SAMPLES, readings=("mean", "rds"))
    assert not sink.finite.any() and torch.isfinite(sink.readings["mean"]).all()


# ------------------------------------------------------------------------------------------------ what is kept


def vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    e = torch.randn(6, 400, generator=generator) * torch.tensor([1, 1e-30, 1e30, 0, 40, 1])[:, None]
    e[4, 0] = 1e7  # of Llama's kind: one number dwarfs all others
    return e


@pytest.mark.parametrize("dtype", RDS_TYPES)
def test_how_well_it_is_kept(dtype):
    e = vectors()
    parts = rds_parts(e, dtype)
    got = rds_vectors({name: values.numpy() for name, values in parts.items()})
    assert got.dtype == np.float32 and np.isfinite(got).all() and not got[3].any()
    difference, largest = np.abs(got - e.numpy()), e.abs().amax(dim=1).numpy()
    if dtype == "float32":
        assert not difference.any()
    elif dtype == "int8":
        assert (difference <= largest[:, None] * (0.5 + 1e-5) / 127).all()
    else:  # 11 bits of each number, of those far below the largest as many as a step of 2 ** -24 leaves
        assert (difference <= np.maximum(e.abs().numpy() * 2**-11, largest[:, None] * 2**-38)).all()
        assert np.all(np.frexp(parts["rds_scale"].numpy())[0] == 0.5)  # a power of two


@pytest.mark.parametrize("dtype", RDS_TYPES)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_a_row_that_is_not_finite_is_kept_as_zeros(dtype, bad):
    e = vectors()
    expected = rds_parts(e, dtype)
    e[1, 5] = bad
    for name, values in rds_parts(e, dtype).items():
        assert torch.isfinite(values.float()).all()
        assert torch.equal(values[2:], expected[name][2:]) and (name != "rds" or not values[1].any())


def test_sinks_keep_it():
    loaded = prepare(llama(), None)
    layout, width = CodeLayout.of(loaded.widths), loaded.end_width
    collect = Collect(len(SAMPLES), layout, ("mean", "rds"))
    encode = Encode(len(SAMPLES), layout, None, rds=("float32", width))
    encoded = [Encoded(i, None, x) for i, x in enumerate(SAMPLES)]
    Engine(loaded, ("mean", "rds"), batch_tokens=40).run(encoded, Tee([collect, encode]), prefixes=[PREFIX])
    np.testing.assert_array_equal(encode.columns["rds"], collect.rds.numpy())
    again = Encode(len(SAMPLES), layout, None, rds=("float16", width))
    collect.replay(again, loaded.device)
    expected = rds_parts(collect.rds, "float16")
    assert set(again.columns) == {"rds", "rds_scale"}
    for name, values in expected.items():
        np.testing.assert_array_equal(again.columns[name], values.numpy())


# --------------------------------------------------------------------------------------- what decides its numbers


def test_the_whole_fingerprint_counts_what_lies_behind_the_chosen_layers():
    model, other = llama(), llama()
    other.model.layers[2].mlp.up_proj.weight.data[0, 0] += 1
    some, changed = (prepare(m, None, layers="0-1") for m in (model, other))
    every = prepare(model, None)
    assert some.fingerprint == changed.fingerprint and some.fingerprint != every.fingerprint
    assert some.whole_fingerprint == every.whole_fingerprint != changed.whole_fingerprint


@pytest.mark.parametrize(
    "text, expected",
    [
        ("none", Embeddings()),
        ("last", Embeddings("last")),
        ("rds", Embeddings(None, "float16")),
        ("rds:int8,3", Embeddings("3", "int8")),
        ("last,rds:float32", Embeddings("last", "float32")),
    ],
)
def test_what_can_be_asked_for(text, expected):
    assert embeddings_of(text) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("rds:int4", "--embed rds:int4: 'rds:int4' is no rds; write rds, rds:float16, rds:int8, rds:float32"),
        ("rds:", "'rds:' is no rds"),
        ("rds,last,rds:int8", "'rds:int8' is the second rds; one index keeps one"),
        ("1,rds,last", "'last' is the second layer; one index keeps one"),
    ],
)
def test_what_cannot(text, message):
    with pytest.raises(BadInput) as caught:
        embeddings_of(text)
    assert message in str(caught.value)
