"""Codec components: what an index holds of them, and nait scores out of them against the exact ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast.codecs.components import split_bytes
from nait_fast.codecs.components.coder import ComponentCoder, _allotted, make_components
from nait_fast.codecs.components.estimate import levels_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from tests.codecs.test_rotated import columns, scores
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest, naive_readings
from tests.index.made import check_codebook_damage
from tests.index.test_index import build, flat

ROWS = make_rows(60)
OPTIONS = {"codec": "components:24", "shard_rows": 16}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", ROWS)


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model: str, pool: Path) -> Index:
    return build(tmp_path_factory.mktemp("components") / "index", tiny_model, pool, **OPTIONS)


@pytest.fixture(scope="module")
def signature(tmp_path_factory, tiny_model: str):
    folder = tmp_path_factory.mktemp("signature")
    target = write_jsonl(folder / "sums.jsonl", [r for r in make_rows(40, seed=1) if r["source"] == "sums"])
    nait_fast.build_signature(model=tiny_model, target=[f"sums={target}"], method="nait", output=folder)
    return nait_fast.load_signature(folder / "sums.safetensors")


@pytest.mark.parametrize("n_bytes", [16, 17, 60, 512, 1023, 1024])
def test_bytes_are_spent_to_the_last(n_bytes: int) -> None:
    wide, narrow = split_bytes(n_bytes)
    assert wide + narrow / 2 == n_bytes and narrow % 2 == 0 and wide == n_bytes // 4


@pytest.mark.parametrize(
    ("n", "wide", "narrow", "groups", "widths"),
    [(40, 3, 8, [3], [91]), (7, 5, 6, [1, 1, 1], [31, 40, 20]), (41, 3, 20, [2, 1], [71, 20]), (90, 0, 30, [3], [91])],
)
def test_components_are_the_principal_ones(n: int, wide: int, narrow: int, groups: list, widths: list) -> None:
    """Against the eigenvectors of each group's covariance matrix; odd widths, fewer samples than neurons and more."""
    rng = np.random.default_rng(n)
    layout = CodeLayout.of([31, 40, 20])
    values = (rng.standard_normal((n, 91)) @ np.diag(rng.uniform(0.1, 5, 91))).astype(np.float32)
    centre = values.mean(axis=0)
    found = make_components(values, centre, layout, wide, narrow)
    assert found.component_layers.tolist() == groups and found.component_layers.dtype == np.int32
    assert [x.shape[1] for _, x in found.directions(layout)] == widths
    assert found.numbers == (wide, narrow) and not (found.component_counts[:, 1] % 2).any()
    strengths = []
    for group, (neurons, basis) in enumerate(found.directions(layout)):
        x = (values - centre)[:, neurons].astype(np.float64)
        variances, vectors = np.linalg.eigh(x.T @ x)
        expected = vectors[:, ::-1][:, : len(basis)].T
        np.testing.assert_allclose(np.abs((basis * expected).sum(axis=1)), 1, atol=2e-3)  # fp16
        strengths.append(variances[::-1])
        scale = found.component_scale[found.of(group)]
        largest = np.abs(x @ basis.T).max(axis=0)
        split = found.component_counts[group, 0]
        np.testing.assert_allclose(largest / scale, [127] * split + [7] * (len(basis) - split), rtol=1e-3)
    kept = found.component_counts.sum(axis=1)
    weakest = min(s[k - 1] for s, k in zip(strengths, kept, strict=True) if k)
    ranked = np.sort(np.concatenate(strengths))[::-1]
    assert weakest >= ranked[min(len(ranked) - 1, wide + narrow + 2)]  # but for the pairs that make counts even


def test_groups_that_are_full_give_to_one_that_is_not() -> None:
    """Two groups whose every component is kept, an odd number of 4 bits each: a third takes their last ones."""
    variances = [np.full(5, 9.0), np.full(7, 8.0), np.full(20, 1.0)]
    assert _allotted(variances, 4, 10).tolist() == [[4, 0], [0, 6], [0, 4]]
    assert _allotted(variances, 2, 12).tolist() == [[2, 2], [0, 6], [0, 4]]
    with pytest.raises(NaitError, match="too few components"):
        _allotted(variances[:2], 2, 10)


@pytest.mark.parametrize(("calibration_size", "groups"), [(20, [1, 1, 1]), (60, [2, 1])])
def test_numbers_by_the_definition(tmp_path: Path, tiny_model: str, pool: Path, calibration_size, groups) -> None:
    index = build(tmp_path / "index", tiny_model, pool, **OPTIONS, calibration_size=calibration_size)
    drift = flat(naive_readings(tiny_model, ROWS)["drift"])
    codebook, held = index.codebook, columns(index)
    components = codebook.part
    assert components is not None and components.numbers == (6, 36)
    assert (index.manifest["row_bytes"], index.manifest["components"]) == (0, [6, 36])
    assert sum(held[name][:1].nbytes for name in ("components", "nibbles")) == 24
    log = json.loads((index.folder / "log.json").read_text())
    assert log["bytes_per_row"] == 24
    wide, narrow = levels_of(held)
    assert narrow.min() >= -7 and narrow.max() <= 7 and len(np.unique(narrow)) > 8
    assert components.component_layers.tolist() == groups
    for group, (neurons, basis) in enumerate(components.directions(codebook.layout)):
        x = (drift - codebook.threshold)[:, neurons] @ basis.T.astype(np.float64)
        x /= components.component_scale[components.of(group)]
        split = components.component_counts[group, 0]
        for got, expected, most in (
            (wide[:, components.kept(group, narrow=False)], x[:, :split], 127),
            (narrow[:, components.kept(group, narrow=True)], x[:, split:], 7),
        ):
            assert np.abs(got - np.clip(expected, -most, most)).max(initial=0) < 0.51
    assert index.verify() == []


def test_a_batch_that_begins_again(tmp_path: Path, tiny_model: str, pool: Path) -> None:
    """Memory ran out within a group of layers: what was summed up of that batch is gone, half of it starts anew."""
    codebook = build(tmp_path / "index", tiny_model, pool, **OPTIONS, calibration_size=60).codebook
    values = torch.randn(6, codebook.layout.n_neurons, generator=torch.Generator().manual_seed(0))
    layers = [values[:, codebook.layout.neurons(ordinal)] for ordinal in range(3)]
    fresh, again = ComponentCoder(codebook), ComponentCoder(codebook)
    again.encode(0, layers[0])
    for ordinal, layer in enumerate(layers):
        (_, expected), (_, got) = fresh.encode(ordinal, layer[:3]), again.encode(ordinal, layer[:3])
        assert expected.keys() == got.keys() and len(got) == (0 if ordinal == 0 else 2)
        for name, (place, part) in got.items():
            assert place == expected[name][0] and part.shape[0] == 3 and torch.equal(part, expected[name][1])


@pytest.mark.parametrize("reading", ["drift", "mean"])
def test_the_estimate_meets_the_exact_scores(tmp_path: Path, tiny_model: str, pool: Path, target_file, reading) -> None:
    """More bytes, less error; with all components in 8 bits next to none."""
    nait_fast.build_signature(
        model=tiny_model, target=[f"sums={target_file}"], method="nait", reading=reading, output=tmp_path
    )
    file = tmp_path / "sums.safetensors"
    mine = nait_fast.load_signature(file)
    exact = scores(build(tmp_path / "plain", tiny_model, pool, exact=[file]), mine)[:, 0]
    errors = []
    for n_bytes in (16, 40, 90):
        index = build(
            tmp_path / str(n_bytes),
            tiny_model,
            pool,
            codec=f"components:{n_bytes}",
            reading=reading,
            calibration_size=60,
        )
        errors.append(np.abs(scores(index, mine)[:, 0] - exact).mean() / exact.std())
    assert errors[0] > errors[1] > errors[2] and errors[0] < 0.6 and errors[2] < 0.1


def test_rank_and_embeddings(tmp_path: Path, tiny_model: str, pool: Path, signature, target_file: Path) -> None:
    index = build(tmp_path / "index", tiny_model, pool, embed="last", **OPTIONS)
    nait_fast.build_signature(
        model=tiny_model, target=[f"like={target_file}"], method="embed", codebook=index.folder, output=tmp_path
    )
    told = nait_fast.rank(
        index=index.folder,
        signature=[signature.save(tmp_path), tmp_path / "like.safetensors"],
        output=tmp_path / "out",
        top_k=5,
    )
    assert told["approximate"] == ["sums"] and told["targets"] == ["sums", "like"] and told["rows_selected"] == 5
    rows, best = nait_fast.search(index, signature, 3)
    expected = scores(index, signature)[:, 0]
    assert rows.tolist() == np.argsort(-expected, kind="stable")[:3].tolist() and best[0] == expected.max()


def test_appended_and_merged_indexes_are_one(tmp_path: Path, tiny_model: str) -> None:
    half = [write_jsonl(tmp_path / f"{k}.jsonl", ROWS[k * 32 : k * 32 + 32]) for k in range(2)]
    first = build(tmp_path / "a", tiny_model, half[0], **OPTIONS)
    second = build(tmp_path / "b", tiny_model, half[1], **{**OPTIONS, "codec": "components"}, codebook=first.folder)
    appended = tmp_path / "appended"
    build(appended, tiny_model, half[0], **OPTIONS)
    build(appended, tiny_model, half[1], **{**OPTIONS, "codec": "components"}, append=True)  # its codebook tells
    nait_fast.merge(index=[first.folder, second.folder], output=tmp_path / "merged")
    assert digest(tmp_path / "merged") == digest(appended)
    assert Index(appended).verify() == []


def test_what_does_not_fit_is_told(tmp_path: Path, tiny_model: str, index: Index, pool: Path, signature) -> None:
    with pytest.raises(NaitError, match="--codec components:bytes=99: that codebook has 24"):
        build(tmp_path / "a", tiny_model, pool, **{**OPTIONS, "codec": "components:99"}, codebook=index.folder)
    with pytest.raises(NaitError, match="--codec components:bytes=400: would be 700 components, but 57 is all"):
        build(tmp_path / "b", tiny_model, pool, **{**OPTIONS, "codec": "components:400"})
    with pytest.raises(NaitError, match="the calibration sample has 15; ask for fewer bytes"):
        build(tmp_path / "c", tiny_model, write_jsonl(tmp_path / "p.jsonl", ROWS[:6]), **OPTIONS)
    other = nait_fast.Signature("mean", {**signature.meta, "reading": "mean"}, signature.tensors)
    with pytest.raises(NaitError, match="scores with reading mean"):
        scores(index, other)
    default = build(tmp_path / "d", tiny_model, pool, codec="components")
    assert sum(default.manifest["components"]) <= 57  # all that there is, where 1,024 bytes would be more


@pytest.mark.parametrize("name", ["basis", "component_layers", "component_counts", "component_scale"])
def test_damaged_codebooks_are_refused(tmp_path: Path, index: Index, name: str) -> None:
    check_codebook_damage(
        index.folder, tmp_path, name, {"component_layers": 2, "component_counts": 1}.get(name, np.nan)
    )
