"""Cosines of vectors: on a device as on the CPU, in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.errors import BadInput
from nait_fast.index.reader import Index
from nait_fast.index.stream import Part
from nait_fast.methods import similarity
from nait_fast.methods.similarity import Cosines
from nait_fast.methods.whitening import Whitening
from nait_fast.ranking import scan as scanning
from tests.conftest import make_rows, write_jsonl

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


def part_of(vectors: np.ndarray) -> Part:
    n = len(vectors)
    return Part(np.zeros((n, 0), np.uint8), np.arange(n), np.ones(n, np.int32), {}, {"v": vectors})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("rows", [1, 31, 33, 200])
@pytest.mark.parametrize("whitened", [False, True])
def test_on_a_device(monkeypatch: pytest.MonkeyPatch, device: str, rows: int, whitened: bool) -> None:
    monkeypatch.setattr(similarity, "DEVICE_CHUNK_NUMBERS", 37 * 40)
    generator = np.random.default_rng(rows)
    vectors = generator.normal(1, 3, (rows, 37)).astype(np.float32)
    vectors[rows // 2] = 0
    samples = generator.normal(size=(5, 37)).astype(np.float32)
    moved = Whitening(generator.normal(size=37), generator.normal(size=(11, 37))) if whitened else None
    given = (samples, ["v"], lambda columns: columns["v"])
    plain = Cosines(*given, "cpu", moved)(part_of(vectors))
    monkeypatch.setattr(similarity, "cosines", None)  # the other way must not be taken
    there = Cosines(*given, f"{device}:0", moved)(part_of(vectors))
    assert plain.shape == there.shape == (rows, 5) and there.dtype == np.float64
    np.testing.assert_allclose(there, plain, rtol=0, atol=1e-14)
    ours, rows64 = samples.astype(float), vectors.astype(float)
    if moved is not None:
        ours, rows64 = ((x - moved.mean) @ moved.components.T for x in (ours, rows64))
    norms = np.linalg.norm(rows64, axis=1)[:, None] * np.linalg.norm(ours, axis=1)
    expected = np.divide(rows64 @ ours.T, norms, out=np.zeros((rows, 5)), where=norms > 0)
    np.testing.assert_allclose(there, expected, rtol=0, atol=1e-14)


def test_a_device_without_float64_is_refused() -> None:
    with pytest.raises(BadInput, match=r"--device meta: cannot compare vectors in float64 \(.*\); try --device cpu"):
        Cosines(np.ones((2, 3)), ["v"], lambda columns: columns["v"], "meta")(part_of(np.ones((2, 3))))


def test_vectors_are_compared_on_a_device(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(30))
    common = {"model": tiny_model, "output": str(tmp_path)}
    nait_fast.build_index(**{**common, "output": str(tmp_path / "index")}, dataset=str(pool), embed="last,rds")
    signatures = []
    for method, options in (("embed", {"codebook": str(tmp_path / "index"), "keep_samples": True}), ("rds", {})):
        nait_fast.build_signature(**common, target=f"{method}={pool}", method=method, **options)
        signatures.append(nait_fast.load_signature(tmp_path / f"{method}.safetensors"))
    index, (embed, rds) = Index(tmp_path / "index"), signatures
    monkeypatch.setattr(scanning, "pick_device", lambda device: "cpu:0")  # torch's, which is another way than "cpu"
    for signature, rule in ((embed, "max"), (embed, "roundrobin"), (rds, "roundrobin"), (rds, "centroid")):
        assert scanning.scan_device("auto", index, [signature], rule) == "cpu"  # so few rows
        ours, there = (
            np.concatenate([block.scores for block in scanning.scan(index, [signature], device, rule)])
            for device in ("cpu", "cuda")
        )
        np.testing.assert_allclose(there, ours, rtol=0, atol=1e-14)
        scanning.check_device("cuda", index, [signature], rule=rule)
    with pytest.raises(BadInput, match="codes are scanned on a device, and vectors compared, but none of these"):
        scanning.check_device("cuda", index, [embed])
