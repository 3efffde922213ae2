"""Codec rotated and embeddings: what an index holds of them, and nait scores out of codes against the exact ones."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.codecs.codebook import load_codebook
from nait_fast.codecs.rotated.estimate import RotatedScan
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.kernels.rotate.reference import rotate
from nait_fast.ranking.scan import scan as scan_index
from nait_fast.storage.files import pack_tensors, read_tensors
from tests import naive
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest, naive_ids, naive_readings
from tests.index.made import check_codebook_damage, put
from tests.index.test_index import build, flat
from tests.ops.device import DEVICE

ROWS = make_rows(60)


def columns(index: Index) -> dict[str, np.ndarray]:
    shards = list(index.shards())
    return {name: np.concatenate([s.columns[name] for s in shards]) for name in index.columns} | {
        "codes": np.concatenate([s.codes for s in shards])
    }


def scores(index: Index, *signatures) -> np.ndarray:
    return np.concatenate([block.scores for block in scan_index(index, signatures)])


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", ROWS)


@pytest.fixture(scope="module")
def rotated(tmp_path_factory, tiny_model: str, pool: Path) -> Index:
    folder = tmp_path_factory.mktemp("rotated")
    return build(folder / "index", tiny_model, pool, codec="rotated:9", embed="last", shard_rows=16)


@pytest.fixture(scope="module")
def signature(tmp_path_factory, tiny_model: str):
    folder = tmp_path_factory.mktemp("signature")
    target = write_jsonl(folder / "sums.jsonl", [r for r in make_rows(40, seed=1) if r["source"] == "sums"])
    nait_fast.build_signature(model=tiny_model, target=[f"sums={target}"], method="nait", output=folder)
    return nait_fast.load_signature(folder / "sums.safetensors")


def test_codes_by_the_definition(rotated: Index, tiny_model: str) -> None:
    drift = flat(naive_readings(tiny_model, ROWS)["drift"])
    codebook, held = rotated.codebook, columns(rotated)
    rotation = codebook.part
    assert rotated.manifest["reading"] == "drift" and rotated.manifest["row_bytes"] == 3 * 128 // 8
    assert rotation is not None
    assert codebook.threshold == pytest.approx(codebook.drift_mean, rel=1e-6)
    centred = drift - codebook.threshold
    sample = centred[read_tensors(rotated.folder / "calibration.safetensors", "calibration")[0]["row"]]
    assert len(sample) == 20 and rotation.outliers.tolist() == naive_outliers(sample.var(axis=0), 9, rotated.layout)
    kept = held["outliers"] * rotation.outlier_scale.astype(np.float64)
    step = np.abs(centred[:, rotation.outliers] - kept) / rotation.outlier_scale
    inside = np.abs(held["outliers"]) < 127
    assert inside.any() and (step[inside] <= 0.51).all()
    centred[:, rotation.outliers] = 0
    sample[:, rotation.outliers] = 0
    for layer in range(3):
        neurons = rotated.layout.neurons(layer)
        components = np.linalg.svd(sample[:, neurons], full_matrices=False)[2][: len(rotation.leading)]
        alike = np.abs(np.einsum("kj,kj->k", components, rotation.leading[:, neurons]))
        np.testing.assert_allclose(alike, 1, atol=2e-3)
    bits = rotated.code_layout.unpack(held["codes"])
    for layer in range(3):
        padded = rotated.code_layout.neurons(layer)
        order, signs = (torch.from_numpy(x[:, padded]) for x in (rotation.permutations, rotation.signs))
        z = rotate(torch.from_numpy(centred[:, rotated.layout.neurons(layer)]), order, signs).numpy()
        near = np.abs(z) < 1e-3 * np.abs(z).max(axis=1, keepdims=True)
        assert not ((bits[:, padded] != (z > 0)) & ~near).any() and near.mean() < 0.01
        factor = (z**2).sum(axis=1) / np.abs(z).sum(axis=1) / rotation.factor_scale[layer]
        np.testing.assert_allclose(held["factors"][:, layer], factor, rtol=2e-3)
    assert rotated.verify() == []


def naive_outliers(variance: np.ndarray, number: int, layout) -> list[int]:
    """One after another, the neuron that leaves the least Σ_l T_l² / (T_l of all neurons)."""
    layers = [layout.neurons(ordinal) for ordinal in range(len(layout.widths))]
    left = variance.astype(np.float64)
    for _ in range(number):
        held = np.array([left[s].sum() for s in layers])
        first = np.array([variance[s].sum() for s in layers])
        gains = [(t**2 - (t - left[s]) ** 2) / w for s, t, w in zip(layers, held, first, strict=True)]
        left[np.concatenate(gains).argmax()] = 0
    return np.flatnonzero(left == 0).tolist()


@pytest.mark.parametrize("reading", ["drift", "mean"])
def test_the_estimate_meets_the_exact_scores(tmp_path: Path, tiny_model: str, pool: Path, target_file, reading) -> None:
    """Over rotations (seeds) the mean estimate is the exact score; outliers sharpen it."""
    nait_fast.build_signature(
        model=tiny_model, target=[f"sums={target_file}"], method="nait", reading=reading, output=tmp_path
    )
    mine = nait_fast.load_signature(tmp_path / "sums.safetensors")
    plain = build(tmp_path / "plain", tiny_model, pool, exact=[tmp_path / "sums.safetensors"])
    exact = scores(plain, mine)[:, 0]
    error = {}
    for outliers in (0, 100):
        got = []
        for seed in range(3):
            index = build(
                tmp_path / f"i{outliers}-{seed}",
                tiny_model,
                pool,
                codec="rotated",
                reading=reading,
                outliers=outliers,
                seed=seed,
            )
            got.append(scores(index, mine)[:, 0])
            assert np.corrcoef(got[-1], exact)[0, 1] > 0.8
        error[outliers] = np.abs(np.mean(got, axis=0) - exact).mean() / exact.std()
        spread = np.std(got, axis=0).mean() / exact.std()
        assert error[outliers] < spread  # the mean of three is nearer than one is
    assert error[100] < error[0]


def test_exact_scores_in_the_index_win(tmp_path: Path, tiny_model: str, pool: Path, signature) -> None:
    file = signature.save(tmp_path)
    index = build(tmp_path / "index", tiny_model, pool, codec="rotated", exact=[file])
    plain = build(tmp_path / "plain", tiny_model, pool, exact=[file])
    np.testing.assert_array_equal(scores(index, signature), scores(plain, signature))
    told = nait_fast.rank(index=tmp_path / "index", signature=[file], output=tmp_path / "out")
    assert told["approximate"] == []


def test_the_direction_is_cut_to_four_bits_as_well_as_even_steps_can(rotated: Index) -> None:
    """Error of 16 even steps for normal numbers: 1.15% of their variance (Max 1960); the outliers are left out."""
    rotation, widths, share = rotated.codebook.part, rotated.code_layout, 0.0
    v = np.random.default_rng(3).standard_normal(rotated.layout.n_neurons).astype(np.float32)
    scan = RotatedScan(rotated.codebook, v[None].copy()).scan
    v[rotation.outliers] = 0
    for layer in range(3):
        padded = widths.neurons(layer)
        order, signs = (torch.from_numpy(x[:, padded]) for x in (rotation.permutations, rotation.signs))
        u = rotate(torch.from_numpy(v[rotated.layout.neurons(layer)])[None], order, signs).numpy()[0]
        bits = widths.unpack(scan.planes)[:, padded]
        cut = scan.weights[:, layer] @ bits / 2 / rotation.factor_scale[layer]
        share += np.square(cut - u).sum() / np.square(u).sum() / 3
    assert share < 0.016


def test_the_shards_sizes_do_not_matter(tmp_path: Path, tiny_model: str, pool: Path, rotated: Index, signature) -> None:
    options = {"codec": "rotated", "codebook": rotated.folder, "embed": "last", "shard_rows": 2048}
    whole = build(tmp_path / "index", tiny_model, pool, **options)
    assert len(whole.entries) == 1 and len(rotated.entries) == 4
    assert scores(whole, signature).tobytes() == scores(rotated, signature).tobytes()


def test_rank_says_what_is_approximate(tmp_path: Path, rotated: Index, signature) -> None:
    told = nait_fast.rank(index=rotated.folder, signature=[signature.save(tmp_path)], output=tmp_path / "out", top_k=5)
    assert told["approximate"] == ["sums"] and told["rows_selected"] == 5


def test_backends_agree(rotated: Index, signature, monkeypatch) -> None:
    held, got = columns(rotated), {}
    directions = np.stack([signature.tensors["direction"]] * 2)
    for backend in ("reference", "cpu", "triton"):
        monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
        device = DEVICE if backend == "triton" else "cpu"
        got[backend] = RotatedScan(rotated.codebook, directions, device)(held["codes"], held)
    np.testing.assert_allclose(got["cpu"], got["reference"], rtol=1e-12)
    np.testing.assert_allclose(got["triton"], got["reference"], rtol=1e-5, atol=1e-5 * got["cpu"].std())


def test_embeddings(tmp_path: Path, tiny_model: str, rotated: Index, target_file: Path) -> None:
    """Cosines of int8 embeddings next to those of the naive mean hidden states."""
    hidden = naive_hidden(tiny_model, ROWS)
    mean = rotated.codebook.hidden_mean
    rows = [json.loads(line) for line in target_file.read_text().splitlines()]
    centroid = (naive_hidden(tiny_model, rows) - mean).mean(axis=0)
    centred = hidden - mean
    expected = centred @ centroid / np.linalg.norm(centred, axis=1) / np.linalg.norm(centroid)
    nait_fast.build_signature(
        model=tiny_model, target=[f"sums={target_file}"], method="embed", codebook=rotated.folder, output=tmp_path
    )
    signature = nait_fast.load_signature(tmp_path / "sums.safetensors")
    np.testing.assert_allclose(signature.tensors["centroid"], centroid, atol=1e-4 * np.abs(centroid).max())
    got = scores(rotated, signature)[:, 0]
    np.testing.assert_allclose(got, expected, atol=0.01)
    assert np.corrcoef(got, expected)[0, 1] > 0.9999
    scorer = nait_fast.Scorer(tiny_model, [signature])
    np.testing.assert_allclose(scorer.score(ROWS)[:, 0], got, atol=1e-3)


def naive_hidden(folder: str, rows: list[dict]) -> np.ndarray:
    """Mean over the tokens but the first of what goes into the last layer's MLP: float64 [n, H]."""
    from tests.index.bits import model

    network, _ = model(folder)
    seen: list[torch.Tensor] = []
    last = network.model.layers[-1].mlp
    hook = last.register_forward_pre_hook(lambda module, args: seen.append(args[0][0].double()))
    try:
        with torch.no_grad():
            for row in rows:
                network(torch.tensor([naive_ids(folder, row)]))
    finally:
        hook.remove()
    return np.stack([(x[1:] if len(x) > 1 else x).mean(dim=0).numpy() for x in seen])


def test_select_by_embeddings(tmp_path: Path, tiny_model: str, pool: Path, target_file: Path) -> None:
    told = nait_fast.select(
        model=tiny_model,
        dataset=pool,
        target=[f"sums={target_file}"],
        method="embed",
        output=tmp_path / "out",
        fraction=0.2,
        calibration_size=20,
    )
    chosen = [json.loads(line)["source"] for line in (tmp_path / "out" / "selected.jsonl").read_text().splitlines()]
    assert told["rows_selected"] == 12 and chosen.count("sums") >= 10


def test_a_late_start_resumes_and_parts_join(tmp_path: Path, tiny_model: str, rotated: Index, pool: Path) -> None:
    """Killed between shards, appended, and merged: the same bytes as one run."""
    options = {"codec": "rotated:9", "embed": "last", "shard_rows": 16}
    half = [write_jsonl(tmp_path / f"{k}.jsonl", ROWS[k * 32 : k * 32 + 32]) for k in range(2)]
    first = build(tmp_path / "a", tiny_model, half[0], **options)
    second = build(tmp_path / "b", tiny_model, half[1], **{**options, "codebook": first.folder, "codec": "rotated"})
    appended = tmp_path / "appended"
    build(appended, tiny_model, half[0], **options)
    build(appended, tiny_model, half[1], **options, append=True)
    nait_fast.merge(index=[first.folder, second.folder], output=tmp_path / "merged")
    assert digest(tmp_path / "merged") == digest(appended)
    assert Index(appended).verify() == []


def test_what_does_not_fit_is_told(tmp_path: Path, tiny_model: str, rotated: Index, pool: Path, target_file, signature):
    def contrast(**options):
        return nait_fast.build_signature(model=tiny_model, target=[f"sums={target_file}"], output=tmp_path, **options)

    with pytest.raises(NaitError, match="codec rotated; method contrast ranks neuron bits"):
        contrast(method="contrast", codebook=rotated.folder)
    with pytest.raises(NaitError, match="method embed needs the index that it will rank"):
        contrast(method="embed")
    with pytest.raises(NaitError, match="--reading: method embed has none"):
        contrast(method="embed", reading="mean", codebook=rotated.folder)
    with pytest.raises(NaitError, match="--codec rotated:outliers=217: the chosen layers have only 216 neurons"):
        build(tmp_path / "x", tiny_model, pool, codec="rotated:217")
    with pytest.raises(NaitError, match="--codec rotated:outliers=3: that codebook has 9"):
        build(tmp_path / "y", tiny_model, pool, codec="rotated:3", codebook=rotated.folder)
    with pytest.raises(NaitError, match="--embed 5: write none, last or one of the captured layers"):
        build(tmp_path / "z", tiny_model, pool, embed="5")
    with pytest.raises(NaitError, match="codec nag has no codebook"):
        build(tmp_path / "n", tiny_model, pool, codec="nag", embed="last")
    with pytest.raises(NaitError, match="made with another codec"):
        build(tmp_path / "c", tiny_model, pool, codebook=rotated.folder, reading="drift")
    other = nait_fast.Signature("mean", {**signature.meta, "reading": "mean"}, signature.tensors)
    with pytest.raises(NaitError, match=r"scores with reading mean, the codes of index .* are of drift"):
        scores(rotated, other)
    embed = nait_fast.Signature(
        "e",
        {**signature.meta, "method": "embed", "embed_layer": 1, "codebook": rotated.codebook_hash},
        {"centroid": np.ones(4, np.float32), "hidden_mean": np.ones(4, np.float32)},
    )
    with pytest.raises(NaitError, match=r"compares embeddings of layer 1, .* has embeddings of layer 2"):
        scores(rotated, embed)


@pytest.mark.parametrize(
    "name", ["permutations", "signs", "factor_scale", "outliers", "outlier_scale", "leading", "hidden_mean"]
)
def test_damaged_codebooks_are_refused(tmp_path: Path, rotated: Index, name: str) -> None:
    value = {"permutations": 5000, "signs": 0, "outliers": 1 << 20}.get(name, np.nan)
    check_codebook_damage(rotated.folder, tmp_path, name, value)


@pytest.mark.parametrize("damage", ["long", "alike", "an outlier's"])
def test_components_that_are_none_are_refused(tmp_path: Path, rotated: Index, damage: str) -> None:
    tensors, meta = read_tensors(rotated.folder / "codebook.safetensors", "codebook")
    held = {name: np.array(tensor) for name, tensor in tensors.items()}
    leading, outlier = held["leading"], held["outliers"][0]
    if damage == "long":
        leading[2] *= 2
    elif damage == "alike":
        leading[1] = leading[0]
    else:
        leading[0, outlier] = 1e-3
    (tmp_path / "codebook.safetensors").write_bytes(pack_tensors(held, meta))
    with pytest.raises(NaitError, match="not a valid codebook \\('leading' holds what are no components"):
        load_codebook(tmp_path)


def test_scores_are_the_papers_sum(rotated: Index, tiny_model: str, signature, target_file: Path) -> None:
    """The signature's directions are the naive ones, so the estimate stands for the naive method's score."""
    rows = [json.loads(line) for line in target_file.read_text().splitlines()]
    directions = naive.principal_directions(naive_readings(tiny_model, rows)["drift"])
    exact = naive.nait_scores(naive_readings(tiny_model, ROWS)["drift"], directions)
    got = scores(rotated, signature)[:, 0]
    assert np.corrcoef(got, exact)[0, 1] > 0.8 and abs(got.mean() - exact.mean()) < exact.std()


def test_verify_names_impossible_factors(tmp_path: Path, rotated: Index) -> None:
    """A shard whose bytes are as the manifest says, but that no writer makes."""
    folder = tmp_path / "index"
    shutil.copytree(rotated.folder, folder)
    tensors, meta = read_tensors(folder / "shard-00001.safetensors", "shard")
    for value in (np.nan, -1.0):
        held = {name: np.array(tensor) for name, tensor in tensors.items()}
        held["factors"][3, 1] = value
        put(folder, "shard-00001.safetensors", pack_tensors(held, meta))
        assert [p.partition(": ")[2] for p in Index(folder).verify()] == ["impossible 'factors'; rebuild the index"]
