"""What an index holds, against the naive method run one sample at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.extract.calibrate import drawn_rows
from nait_fast.index.reader import Index
from nait_fast.ranking.scan import scan
from tests import naive
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import arrays, differing, naive_ids, naive_readings, unexplained

ROWS = make_rows(60)


def build(folder: Path, model: str, dataset: Path, **options) -> Index:
    calibrates = "codebook" not in options and options.get("codec", "").partition(":")[0] != "nag"
    options = {**({"calibration_size": 20} if calibrates else {}), **options}
    nait_fast.build_index(model=model, dataset=dataset, output=folder, **options)
    return Index(folder)


@pytest.fixture(scope="module")
def readings(tiny_model: str) -> dict[str, np.ndarray]:
    return naive_readings(tiny_model, ROWS)


@pytest.fixture(scope="module")
def plain(tmp_path_factory, tiny_model: str) -> Index:
    """Four shards of the 60 rows, with the defaults otherwise."""
    folder = tmp_path_factory.mktemp("plain")
    return build(folder / "index", tiny_model, write_jsonl(folder / "pool.jsonl", ROWS), shard_rows=16)


def flat(values: np.ndarray) -> np.ndarray:
    return values.reshape(len(values), -1)


def test_shards_and_manifest(plain: Index, tiny_model: str) -> None:
    assert [len(shard.row) for shard in plain.shards()] == [16, 16, 16, 12]
    held = arrays(plain)
    assert held["row"].tolist() == list(range(60))
    lengths = [len(naive_ids(tiny_model, row)) for row in ROWS]
    assert held["n_tokens"].tolist() == lengths
    manifest = plain.manifest
    assert (manifest["rows"], manifest["tokens"], manifest["truncated"]) == (60, sum(lengths), 0)
    assert manifest["skipped"] == {"rows": 0, "reasons": {}}
    assert (manifest["widths"], manifest["row_bytes"]) == ([72, 72, 72], 48)
    assert plain.verify() == []
    log = json.loads((plain.folder / "log.json").read_text())
    assert log["tokens_served"] == sum(lengths) >= log["tokens_run"]  # the calibration sample is not run twice


def test_codebook_and_bits(plain: Index, readings: dict[str, np.ndarray]) -> None:
    sample = flat(readings["mean"])[np.sort(drawn_rows(60, 20, seed=0)[:20])]
    codebook = plain.codebook
    assert codebook.meta["samples"] == 20 and codebook.hash == plain.codebook_hash
    np.testing.assert_allclose(codebook.threshold, sample.mean(axis=0), rtol=1e-4, atol=1e-5 * sample.std())
    np.testing.assert_allclose(codebook.scale, sample.std(axis=0), rtol=1e-4)
    np.testing.assert_allclose(codebook.frequency, (sample > codebook.threshold).mean(axis=0), atol=1.5 / 20)
    assert unexplained(arrays(plain)["codes"], flat(readings["mean"]), plain) == 0
    padding = plain.layout.pack(np.ones((1, plain.layout.n_neurons), dtype=bool)) ^ 255
    assert not (arrays(plain)["codes"] & padding).any()


@pytest.mark.parametrize(
    ("options", "reading"),
    [
        ({"reading": "drift"}, "drift"),
        ({"first_token": "include"}, "mean_all"),
        ({"template": "alpaca"}, "mean"),
        ({"template": "alpaca", "reading": "drift"}, "drift"),
        ({"max_length": 9}, "mean"),
    ],
)
def test_bits_under_other_options(tmp_path: Path, tiny_model: str, options: dict, reading: str) -> None:
    rows = ROWS[:24]
    index = build(tmp_path / "index", tiny_model, write_jsonl(tmp_path / "pool.jsonl", rows), **options)
    shown = {key: value for key, value in options.items() if key in ("template", "max_length")}
    values = flat(naive_readings(tiny_model, rows, **shown)[reading])
    assert unexplained(arrays(index)["codes"], values, index) == 0
    lengths = [len(naive_ids(tiny_model, row, **shown)) for row in rows]
    assert arrays(index)["n_tokens"].tolist() == lengths
    log = json.loads((tmp_path / "index" / "log.json").read_text())
    assert bool(log["shared_prefix_tokens"]) == ("template" in options) and log["forward"] == "packed"
    assert index.manifest["truncated"] == sum(n == 9 for n in lengths) * ("max_length" in options)


def test_nag_sets(tmp_path: Path, tiny_model: str, readings: dict[str, np.ndarray]) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    index = build(tmp_path / "index", tiny_model, pool, codec="nag:7")
    bits = index.layout.unpack(arrays(index)["codes"])
    assert (bits.reshape(60, 3, 72).sum(axis=2) == 7).all()
    for row, values in zip(bits.reshape(60, 3, 72), readings["up_abs"], strict=True):
        for layer, expected in enumerate(naive.nag_sets(values, 7)):
            edge = np.sort(values[layer])[-7]
            clear = np.abs(values[layer] - edge) > 1e-5 * edge
            assert {j for j in np.flatnonzero(row[layer]) if clear[j]} == {j for j in expected if clear[j]}
    assert index.codebook_hash is None and not (tmp_path / "index" / "codebook.safetensors").exists()
    with pytest.raises(NaitError, match="--codec nag:top_k=73: the model's layers have only 72"):
        build(tmp_path / "other", tiny_model, pool, codec="nag:73")


@pytest.mark.parametrize("reading", ["drift", "mean"])
def test_exact_scores(tmp_path: Path, tiny_model: str, readings: dict, target_file: Path, reading: str) -> None:
    nait_fast.build_signature(
        model=tiny_model, target=[f"sums={target_file}"], method="nait", reading=reading, output=tmp_path
    )
    pool = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    index = build(tmp_path / "index", tiny_model, pool, exact=[tmp_path / "sums.safetensors"], shard_rows=13)
    target = [json.loads(line) for line in target_file.read_text().splitlines()]
    directions = naive.principal_directions(naive_readings(tiny_model, target)["drift"])
    expected = naive.nait_scores(readings[reading], directions)
    np.testing.assert_allclose(arrays(index)["sums"], expected, atol=2e-5 * expected.std())
    assert index.exact == {"sums": nait_fast.load_signature(tmp_path / "sums.safetensors").hash}


def test_neither_batches_nor_shards_nor_order_change_a_code(tmp_path: Path, tiny_model: str, plain: Index) -> None:
    values = arrays(plain)
    pool = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    order = np.random.default_rng(0).permutation(60)
    shuffled = write_jsonl(tmp_path / "shuffled.jsonl", [ROWS[i] for i in order])
    total = 0
    for i, (dataset, rows, options) in enumerate(
        [(pool, np.arange(60), {"batch_tokens": tokens}) for tokens in (1, 64, 300)]
        + [(pool, np.arange(60), {"shard_rows": 7}), (shuffled, order, {}), (shuffled, order, {"batch_tokens": 100})]
    ):
        index = build(tmp_path / str(i), tiny_model, dataset, codebook=plain.folder, **options)
        assert index.codebook_hash == plain.codebook_hash
        held = arrays(index)
        assert (held["n_tokens"] == values["n_tokens"][rows]).all()
        total += differing(held["codes"], values["codes"][rows])
        assert unexplained(held["codes"], flat(naive_readings(tiny_model, ROWS)["mean"])[rows], index) == 0
    assert total <= 6 * 60 * 216 * 1e-4  # those within a rounding error of the threshold: a few in a million


def test_a_codebook_is_reused_or_refused(tmp_path: Path, tiny_model: str, plain: Index) -> None:
    pool = write_jsonl(tmp_path / "other.jsonl", make_rows(20, seed=5))
    index = build(tmp_path / "index", tiny_model, pool, codebook=plain.folder / "codebook.safetensors")
    assert index.codebook_hash == plain.codebook_hash != build(tmp_path / "own", tiny_model, pool).codebook_hash
    for options, word in (
        ({"first_token": "include"}, "first_token"),
        ({"reading": "drift"}, "reading"),
        ({"template": "alpaca"}, "template"),
        ({"layers": "0,2"}, "layers"),
    ):
        with pytest.raises(NaitError, match=f"--codebook .*: made with another {word}"):
            build(tmp_path / "refused", tiny_model, pool, codebook=plain.folder, **options)
    with pytest.raises(NaitError, match="codec nag has no codebook"):
        build(tmp_path / "nag", tiny_model, pool, codebook=plain.folder, codec="nag")


def test_chosen_layers(tmp_path: Path, tiny_model: str, readings: dict[str, np.ndarray]) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    index = build(tmp_path / "index", tiny_model, pool, layers="0,-1")
    assert (index.manifest["layers"], index.manifest["widths"]) == ([0, 2], [72, 72])
    assert unexplained(arrays(index)["codes"], flat(readings["mean"][:, [0, 2]]), index) == 0


def test_search_is_the_top_of_a_ranking(tmp_path: Path, tiny_model: str, plain: Index, target_file: Path) -> None:
    nait_fast.build_signature(model=tiny_model, target=[f"sums={target_file}"], codebook=plain.folder, output=tmp_path)
    signature = nait_fast.load_signature(tmp_path / "sums.safetensors")
    rows, scores = nait_fast.search(plain, signature, 10)
    every, all_scores = nait_fast.search(plain, signature, 1000)
    assert len(every) == 60 and (rows == every[:10]).all() and (scores == all_scores[:10]).all()
    weights = signature.tensors["weights"].reshape(3, 72)
    bits = plain.layout.unpack(arrays(plain)["codes"]).reshape(60, 3, 72)
    quantised = np.rint(weights / signature.meta["scale"]).astype(int)
    expected = naive.contrast_scores(bits, quantised) * signature.meta["scale"]
    assert (all_scores == expected[every]).all()
    for k in (0, -1):
        with pytest.raises(NaitError, match="k must be at least 1"):
            nait_fast.search(plain, signature, k)


def test_search_and_scan_on_the_device_give_the_same(
    tmp_path: Path, tiny_model: str, plain: Index, target_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("triton")
    nait_fast.build_signature(model=tiny_model, target=[f"sums={target_file}"], codebook=plain.folder, output=tmp_path)
    signature = nait_fast.load_signature(tmp_path / "sums.safetensors")
    expected = nait_fast.search(plain, signature, 10)
    blocks = list(scan(plain, [signature]))
    monkeypatch.setenv("NAIT_FAST_BACKEND", "triton")  # in the interpreter where there is no GPU
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for got, wanted in zip(nait_fast.search(plain, signature, 10, device=device), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    for block, wanted in zip(scan(plain, [signature], device), blocks, strict=True):
        np.testing.assert_array_equal(block.scores, wanted.scores)


@pytest.mark.parametrize("backend", ["", "triton"])
def test_a_resident_index_scores_as_the_one_on_disk(
    tmp_path: Path, tiny_model: str, target_file: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", ROWS)
    index = build(tmp_path / "index", tiny_model, pool, shard_rows=25)
    files = [f"{name}={target_file}" for name in ("sums", "other")]
    nait_fast.build_signature(model=tiny_model, target=files, codebook=index.folder, output=tmp_path)
    signatures = [nait_fast.load_signature(tmp_path / f"{name}.safetensors") for name in ("sums", "other")]
    expected = np.concatenate([block.scores for block in scan(index, signatures)])
    found = nait_fast.search(index, signatures[0], 7)
    monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
    monkeypatch.setattr("nait_fast.ranking.resident.TILE_ROWS", 17)
    resident = nait_fast.ResidentIndex(index)
    np.testing.assert_array_equal(resident.rows, np.arange(60))
    np.testing.assert_array_equal(resident.scores(signatures), expected)
    for got, wanted in zip(resident.search(signatures[0], 7), found, strict=True):
        np.testing.assert_array_equal(got, wanted)
    with pytest.raises(NaitError, match="k must be at least 1"):
        resident.search(signatures[0], 0)
