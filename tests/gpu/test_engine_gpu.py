"""The engine and the ops on a GPU, against the CPU and the reference: ``python -m pytest -m gpu``."""

import dataclasses
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.bench.kernels import capture_op, pack_op, topk_op
from nait_fast.codecs import codec_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.neuron import NeuronCoder
from nait_fast.data.tokenize import Encoded
from nait_fast.extract.calibrate import make_codebook
from nait_fast.extract.engine import Engine
from nait_fast.extract.sinks import HOST, Collect, Encode
from nait_fast.kernels import mlp_capture, popcount_scan
from nait_fast.kernels.popcount import reference
from nait_fast.kernels.popcount.device import DeviceScan, stream
from nait_fast.models import packed as packing
from nait_fast.models.load import prepare
from nait_fast.models.pack import Pack, PrefixState, packed_as
from nait_fast.models.packed import ATTENTION, VARLEN, packed_attention
from tests.conftest import make_rows, write_jsonl
from tests.models.tiny import READINGS, build, config_of, run, sequences, worst_error
from tests.ops.sums import segments_of

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA or ROCm device")]

DEVICE = torch.device("cuda")
LENGTHS = (1, 2, 9, 9, 33, 60, 17, 17, 17, 40, 3, 25)
PREFIX = np.arange(3, 27, dtype=np.int32)  # 24 tokens, as a chat template's
NEAR = 1e-3  # σ of a neuron: a bit whose value lies this near its threshold may differ


def llama(**extra):
    """Head width 64, as FlashAttention wants it; 200 neurons: no multiple of 32."""
    wide = {
        "hidden_size": 128,
        "intermediate_size": 200,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
    }
    return build(config_of("llama", **wide | extra), weight=0.1)


@pytest.fixture(scope="module")
def on_cpu():
    return prepare(llama(), None)


@pytest.fixture(scope="module")
def on_gpu():
    return prepare(llama().to(DEVICE), None)


@pytest.fixture(scope="module")
def in_bf16():
    return prepare(llama().to(DEVICE, torch.bfloat16), None)


@pytest.fixture
def flash(in_bf16) -> None:
    """Skips where FlashAttention cannot run at all: elsewhere it must be the one that is used."""
    old = torch.version.hip is None and torch.cuda.get_device_capability(DEVICE) < (8, 0)
    if old or not packing.suits(in_bf16.body):
        pytest.skip("no variable-length FlashAttention here")


def samples(ids) -> list[Encoded]:
    return [Encoded(i, None, x) for i, x in enumerate(ids)]


def values_of(loaded, ids, reading="mean", **options) -> np.ndarray:
    """One reading [n, L, J]."""
    return run(loaded, ids, **options).readings[reading].numpy().reshape(len(ids), len(loaded.widths), -1)


def bits_of(loaded, ids, threshold: torch.Tensor, prefix=None) -> np.ndarray:
    """Bool [n, N], packed in the capture op."""
    layout = CodeLayout.of(loaded.widths)
    sink = Encode(len(ids), layout, NeuronCoder(layout, "mean", threshold, loaded.device), device=loaded.device)
    Engine(loaded, ["mean"], batch_tokens=100).run(samples(ids), sink, prefixes=[] if prefix is None else [prefix])
    assert sink.finite.all()
    return layout.unpack(sink.codes)


# ------------------------------------------------------------------------------------------------------ the engine


@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["alone", "behind a prefix"])
@pytest.mark.parametrize("first_token", ["exclude", "include"])
def test_readings_equal_the_cpus(on_cpu, on_gpu, prefix, first_token) -> None:
    ids = sequences(LENGTHS, prefix=prefix)
    expected = run(on_cpu, ids, prefix=prefix, first_token=first_token)
    got = run(on_gpu, ids, prefix=prefix, first_token=first_token)
    assert got.finite.all()
    for reading in READINGS:
        layers = [x.readings[reading].numpy().reshape(len(ids), 3, -1) for x in (got, expected)]
        assert worst_error(*layers) < 1e-4, reading


@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["alone", "behind a prefix"])
def test_bits_equal_the_cpus_but_for_those_on_their_threshold(on_cpu, on_gpu, prefix, record_property) -> None:
    ids = sequences(LENGTHS * 8, prefix=prefix)
    values = values_of(on_cpu, ids, prefix=prefix).reshape(len(ids), -1)
    threshold = torch.from_numpy(values.mean(axis=0))
    differ = bits_of(on_gpu, ids, threshold, prefix) != bits_of(on_cpu, ids, threshold, prefix)
    distance = np.abs(values - values.mean(axis=0)) / values.std(axis=0)
    record_property("differing_bits", int(differ.sum()))
    print(f"{differ.sum()} of {differ.size} bits differ")
    assert not (differ & (distance > NEAR)).any()
    assert differ.mean() < 1e-3


@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["alone", "behind a prefix"])
def test_variable_length_attention_is_as_exact_as_grouped(on_cpu, in_bf16, flash, prefix) -> None:
    assert in_bf16.attention == VARLEN
    ids = sequences(LENGTHS, prefix=prefix)
    grouped = dataclasses.replace(in_bf16, attention=ATTENTION)
    for reading in READINGS:
        exact = values_of(on_cpu, ids, reading, prefix=prefix)
        errors = {
            loaded.attention: np.linalg.norm(values_of(loaded, ids, reading, prefix=prefix) - exact)
            / np.linalg.norm(exact)
            for loaded in (in_bf16, grouped)
        }
        assert errors[VARLEN] < 0.05 and errors[VARLEN] < 2 * errors[ATTENTION] + 1e-3, (reading, errors)


@pytest.mark.parametrize("window", [None, 16])
@pytest.mark.parametrize("n_prefix", [0, 24])
@pytest.mark.parametrize("head", [64, 128])
def test_variable_length_attention_by_itself(flash, head, n_prefix, window) -> None:
    """What it raises is seen here: a model for which it fails goes back to the other one without a word."""
    if window and "window_size" not in packing._varlen()[1]:
        pytest.skip("this torch's has no window")
    generator = torch.Generator(DEVICE).manual_seed(head)

    def normal(heads: int, tokens: int) -> torch.Tensor:
        return torch.randn(1, heads, tokens, head, device=DEVICE, generator=generator).bfloat16()

    inputs = normal(8, sum(LENGTHS)), normal(4, sum(LENGTHS)), normal(4, sum(LENGTHS))
    before = normal(4, n_prefix), normal(4, n_prefix)

    def attend(function, dtype: torch.dtype) -> torch.Tensor:
        key, value = (x.to(dtype) for x in before)
        pack = Pack(LENGTHS, prefix=PrefixState({0: (key, value)} if n_prefix else {}))
        args = (x.to(dtype) for x in inputs)
        with packed_as(pack):
            out, _ = function(SimpleNamespace(layer_idx=0), *args, None, sliding_window=window)
        return out.double()

    exact = attend(packed_attention, torch.float32)
    mine, grouped = (
        float((attend(function, torch.bfloat16) - exact).norm() / exact.norm())
        for function in (packing.varlen_attention, packed_attention)
    )
    assert mine < 2 * grouped + 1e-3, (mine, grouped)


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
def test_a_prefix_run_once_changes_little(on_gpu, in_bf16, kind) -> None:
    loaded, tolerance = (on_gpu, 1e-4) if kind == "fp32" else (in_bf16, 5e-2)
    ids = sequences(LENGTHS, prefix=PREFIX)
    for reading in READINGS:
        with_it = values_of(loaded, ids, reading, prefix=PREFIX)
        without = values_of(loaded, ids, reading)
        assert worst_error(with_it, without) < tolerance, reading


@contextmanager
def room_for(extra_bytes: int):
    """Inside the block torch can allocate ``extra_bytes`` more than it holds."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(DEVICE).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + extra_bytes) / total)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def test_memory_that_runs_out_halves_the_batch() -> None:
    loaded = prepare(llama(intermediate_size=4096, num_hidden_layers=2).to(DEVICE), None)
    ids = [np.tile(x, 8) for x in sequences((60, 100, 120) * 30)]
    tokens = sum(map(len, ids))
    expected = values_of(loaded, ids, batch_tokens=2000)
    sink = Collect(len(ids), CodeLayout.of(loaded.widths), ["mean"])
    engine = Engine(loaded, ["mean"], batch_tokens=tokens)
    with room_for(tokens * 4096 * 4):  # one of the layer's three tensors of the whole batch
        engine.run(samples(ids), sink)
    assert 1000 < engine.batch_tokens < tokens
    assert sink.finite.all()
    assert worst_error(sink.readings["mean"].numpy().reshape(expected.shape), expected) < 1e-4


def test_a_calibration_sample_may_stay_on_the_device(on_gpu) -> None:
    ids, layout = sequences(LENGTHS), CodeLayout.of(on_gpu.widths)
    sinks = [Collect(len(ids), layout, ["drift", "mean"], place) for place in (HOST, on_gpu.device)]
    for sink in sinks:
        Engine(on_gpu, ["drift", "mean"], batch_tokens=200).run(samples(ids), sink)
    for name, kept in sinks[1].readings.items():
        assert kept.is_cuda and torch.equal(kept.cpu(), sinks[0].readings[name])
    home, there = (make_codebook(sink, "mean", {"widths": on_gpu.widths}, codec_of("neuron"), {}) for sink in sinks)
    for name in ("threshold", "scale", "drift_mean"):
        np.testing.assert_allclose(getattr(there, name), getattr(home, name), rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(there.frequency, home.frequency, atol=1.5 / len(ids))


@pytest.mark.parametrize("kind", ["fp32", "bf16"])
@pytest.mark.parametrize("prefix", [None, PREFIX], ids=["alone", "behind a prefix"])
def test_the_host_waits_for_nothing_inside_a_batch(on_gpu, in_bf16, kind, prefix, monkeypatch) -> None:
    loaded = on_gpu if kind == "fp32" else in_bf16
    ids = sequences(LENGTHS, prefix=prefix)
    threshold = torch.zeros(sum(loaded.widths))
    bits_of(loaded, ids, threshold, prefix)  # compiles
    run_batch, batches = Engine._run_batch, []

    def watched(self, *arguments):
        torch.cuda.set_sync_debug_mode("error")
        try:
            run_batch(self, *arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        batches.append(arguments)

    monkeypatch.setattr(Engine, "_run_batch", watched)
    bits_of(loaded, ids, threshold, prefix)
    assert len(batches) > 1


def test_an_index_made_on_the_gpu(tiny_model, tmp_path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(120))
    bits = []
    for device in ("cpu", "cuda"):
        folder = tmp_path / device
        nait_fast.build_index(
            model=tiny_model, dataset=str(pool), output=str(folder), device=device, dtype="float32", shard_rows=50
        )
        index = nait_fast.Index(folder)
        assert not index.verify()
        bits.append(np.concatenate([index.layout.unpack(np.array(shard.codes)) for shard in index.shards()]))
    assert bits[0].shape == bits[1].shape and (bits[0] != bits[1]).mean() < 1e-3


# --------------------------------------------------------------------------------------------------------- the ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [31, 1000, 11008])
def test_capture_equals_the_reference(dtype, width) -> None:
    generator = torch.Generator(DEVICE).manual_seed(width)
    lengths = [1, 1, 2, 127, 128, 129, 300, 1031]
    gate, up = (torch.randn(sum(lengths), width, device=DEVICE, dtype=dtype, generator=generator) for _ in range(2))
    readings = frozenset({"first", "last", "sum", "up_abs_sum"})
    for packed in (False, True):
        capture_op(readings, lengths, gate, up, packed).check()
    capture_op(frozenset({"sum"}), [sum(lengths)], gate, up, packed=True).check()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_silu_of_every_number_of_16_bits_is_torchs(dtype) -> None:
    every = torch.arange(1 << 16, dtype=torch.int32, device=DEVICE).to(torch.int16).view(dtype).view(64, 1024)
    got, _ = mlp_capture(None, every, "silu", segments_of([64]), frozenset())
    expected = torch.nn.functional.silu(every)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num().view(torch.int16), expected.nan_to_num().view(torch.int16))


def test_capture_past_two_billion_elements() -> None:
    tokens, width = 65536 + 77, 33000
    assert tokens * width > 2**31
    if torch.cuda.mem_get_info(DEVICE)[0] < 40 << 30:
        pytest.skip("needs 40 GiB")
    lengths = [511] * (tokens // 511) + [tokens % 511]
    gate, up = (torch.randn(tokens, width, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    capture_op(frozenset({"last"}), lengths, gate, up).check()
    del gate, up
    torch.cuda.empty_cache()


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (3, 33), (257, 1000), (1000, 11008), (5, 40000)])
def test_bits_equal_the_reference(rows, width) -> None:
    values = torch.randn(rows, width, device=DEVICE, generator=torch.Generator(DEVICE).manual_seed(rows))
    values[:, ::7] = 0.5  # equal values
    pack_op(values, torch.full((width,), 0.5, device=DEVICE)).check()
    topk_op(values, min(20, width)).check()
    topk_op(values, width).check()


@pytest.mark.parametrize("n_planes", [1, 17, 130])
@pytest.mark.parametrize(("rows", "row_bytes"), [(1, 16), (129, 7008), (20011, 5760)])
def test_scan_equals_the_reference(rows, row_bytes, n_planes) -> None:
    rng = np.random.default_rng(rows)
    codes, planes = (rng.integers(0, 256, (n, row_bytes), dtype=np.uint8) for n in (rows, n_planes))
    owners = np.arange(n_planes) * 3 // n_planes
    weights = rng.integers(-8, 8, n_planes)
    expected = reference.popcount_scan(codes, planes, weights, owners, 3)
    there = torch.from_numpy(codes).to(DEVICE)
    for method in ("count", "dot", "auto"):
        scan = DeviceScan(planes, weights, owners, 3, DEVICE, method)
        assert np.array_equal(scan(there).cpu().numpy(), expected), method
    assert np.array_equal(stream(codes, scan, tile_bytes=300 * row_bytes), expected)
    assert np.array_equal(popcount_scan(codes, planes, weights, owners, 3, device="cuda"), expected)
