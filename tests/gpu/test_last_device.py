"""The engine and the ops on another device than the current one: the last of several."""

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.bench.kernels import capture_op, pack_op, topk_op
from nait_fast.extract.pooling import READINGS
from nait_fast.kernels import apply_rotary, expert_sums, mlp_capture, rms_norm, rotate_bits, token_losses
from nait_fast.kernels.capture import reference as capture_reference
from nait_fast.kernels.popcount import reference
from nait_fast.kernels.popcount.device import DeviceScan, scaled_scores, stream
from nait_fast.kernels.popcount.topk import DeviceTopK
from nait_fast.models.load import prepare
from tests.conftest import make_rows, write_jsonl
from tests.models.tiny import build, config_of, llama, run, sequences, worst_error
from tests.ops.sums import segments_of

COUNT = torch.cuda.device_count()
FIRST, LAST = torch.device("cuda", 0), torch.device("cuda", max(0, COUNT - 1))
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(COUNT < 2, reason="needs two CUDA or ROCm devices")]

PREFIX = np.arange(3, 15, dtype=np.int32)
IDS = [*sequences(), *sequences(seed=1, prefix=PREFIX)]
SHAPE = {"hidden_size": 128, "intermediate_size": 200, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(autouse=True)
def first_is_current():
    torch.cuda.set_device(0)
    yield
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_readings_are_the_first_devices(dtype: torch.dtype) -> None:
    """In 16 bits with every fused forward and variable-length attention."""
    config = config_of("llama", **SHAPE, head_dim=64)
    there, here = (prepare(build(config, weight=0.1).to(device, dtype), None) for device in (LAST, FIRST))
    assert there.device == LAST and there.attention == here.attention and len(there.fused) == len(here.fused)
    for prefix in (None, PREFIX):
        got, expected = (run(loaded, IDS, prefix=prefix) for loaded in (there, here))
        assert got.finite.all()
        for reading in READINGS:
            error = worst_error(got.readings[reading], expected.readings[reading])
            assert error < (1e-5 if dtype == torch.float32 else 1e-2)


def test_readings_of_a_caller_who_runs_the_model() -> None:
    model, ids = llama(), torch.randint(3, 60, (2, 9))
    found = []
    for device in ("cpu", LAST):
        model.to(device)
        with torch.no_grad(), nait_fast.capture(model, READINGS) as captured:
            model(input_ids=ids.to(device))
        found.append([captured.stacked(reading).cpu() for reading in READINGS])
    for expected, got in zip(*found, strict=True):
        assert worst_error(got, expected) < 1e-4


def test_an_index_and_a_search(tiny_model, tmp_path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(60))
    target = write_jsonl(tmp_path / "sums.jsonl", make_rows(8, seed=1))
    orders = []
    for device in ("cpu", str(LAST)):
        folder, signatures = (tmp_path / f"{name}-{len(orders)}" for name in ("index", "signatures"))
        options = {"model": tiny_model, "device": device, "dtype": "float32"}
        nait_fast.build_index(dataset=str(pool), output=str(folder), shard_rows=25, **options)
        nait_fast.build_signature(target=[f"sums={target}"], codebook=str(folder), output=str(signatures), **options)
        index = nait_fast.Index(folder)
        assert not index.verify()
        signature = nait_fast.load_signature(next(signatures.glob("*.safetensors")))
        rows, _ = nait_fast.ResidentIndex(index, device).search(signature, 20)
        assert np.array_equal(rows, nait_fast.search(index, signature, 20, device=device)[0])
        orders.append(set(rows.tolist()))
    assert len(orders[0] & orders[1]) >= 18


def test_ops() -> None:
    generator = torch.Generator(LAST).manual_seed(0)

    def draw(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, device=LAST, dtype=dtype, generator=generator)

    gate, up = draw(160, 200, dtype=torch.bfloat16), draw(160, 200, dtype=torch.bfloat16)
    capture_op(frozenset({"first", "last", "sum", "up_abs_sum"}), [1, 31, 128], gate, up).check()
    lengths = segments_of([160])
    hidden, _ = mlp_capture(gate, up, torch.nn.functional.silu, lengths, frozenset({"sum"}))  # a callable's own pass
    assert torch.equal(hidden, capture_reference.activate(gate, up, "silu"))
    values = draw(33, 1000)
    pack_op(values, torch.zeros(1000, device=LAST)).check()
    topk_op(values, 20).check()
    x, weight = draw(64, 128, dtype=torch.bfloat16), draw(128, dtype=torch.bfloat16)
    query = draw(1, 4, 64, 32, dtype=torch.bfloat16)
    turned = draw(1, 64, 32, dtype=torch.bfloat16), draw(1, 64, 32, dtype=torch.bfloat16)
    head, labels = draw(300, 128, dtype=torch.bfloat16), torch.arange(64, device=LAST)
    offsets = torch.tensor([0, 20, 33, 50, 64], device=LAST)
    permutations = torch.stack([torch.randperm(128, generator=torch.Generator().manual_seed(i)) for i in range(2)])
    signs = torch.ones(2, 128)
    signs[:, ::3] = -1
    calls = {
        "rms_norm": lambda d: rms_norm(x.to(d), weight.to(d), 1e-6),
        "apply_rotary": lambda d: apply_rotary(query.to(d), *(t.to(d) for t in turned)),
        "token_losses": lambda d: token_losses(x.to(d), head.to(d), labels.to(d)),
        "expert_sums": lambda d: expert_sums(x.to(d), labels.to(d).float(), offsets.to(d), 2),
        "rotate_bits": lambda d: rotate_bits(values.to(d)[:, :100], permutations.int().to(d), signs.to(d))[1],
    }
    for name, call in calls.items():
        there, here = call(LAST), call(FIRST)
        assert there.device == LAST and torch.equal(there.cpu(), here.cpu()), name


def test_scans() -> None:
    rng = np.random.default_rng(0)
    codes, planes = (rng.integers(0, 256, (n, 5760), dtype=np.uint8) for n in (3001, 17))
    owners, weights = np.arange(17) * 3 // 17, rng.integers(-8, 8, 17)
    expected = reference.popcount_scan(codes, planes, weights, owners, 3)
    for method in ("count", "dot", "auto"):
        scan = DeviceScan(planes, weights, owners, 3, LAST, method)
        assert np.array_equal(scan(torch.from_numpy(codes).to(LAST)).cpu().numpy(), expected), method
        assert np.array_equal(stream(codes, scan, tile_bytes=300 * 5760), expected), method
    best = DeviceTopK(10, LAST)
    best.push(torch.arange(3001, device=LAST), torch.from_numpy(expected[:, 0]).to(LAST))
    rows, scores = best.result()
    assert np.array_equal(scores, np.sort(expected[:, 0])[::-1][:10]) and np.array_equal(expected[rows, 0], scores)
    scales = torch.rand(3001, 2).half()
    arguments = torch.from_numpy(codes), torch.from_numpy(planes), torch.rand(17, 2), scales
    there, here = (scaled_scores(*(x.to(d) for x in arguments), 2880).cpu() for d in (LAST, FIRST))
    assert torch.equal(there, here)
