"""``evaluate`` from end to end on a tiny random model: what it writes, and that a plain computation gives the same."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.config import EvaluateOptions
from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from nait_fast.evaluation.comparison import top_overlap
from nait_fast.evaluation.confounds import estimated_parts, layer_scan
from nait_fast.evaluation.rankings import Rankings
from nait_fast.evaluation.stability import rebuilt
from nait_fast.index.pool_rows import open_rows
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signature
from nait_fast.notices import NaitWarning
from nait_fast.ranking.scan import scan
from nait_fast.ranking.spearman import spearman
from nait_fast.storage.files import read_sealed
from nait_fast.verbs.evaluate_model import layer_scores, material_of, open_for, reading_of, target_readings
from nait_fast.verbs.inspection import inspect
from tests.commands import run, summary
from tests.conftest import write_jsonl
from tests.evaluation.conftest import ROWS, World


@pytest.fixture(scope="module")
def whole(world: World) -> dict:
    """Everything at once."""
    return nait_fast.evaluate(
        index=world.index,
        signature=world.files("contrast", "nait", "drift", "nag"),
        output=world.folder / "whole",
        label="source",
        fraction=0.25,
        model=world.model,
        target=world.target(),
        rows=40,
        sizes=["8", "16", "64"],
        repeats=3,
    )


def means(world: World, folder: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """(rows, scores) of one signature by a plain scan."""
    signature = load_signature(world.folder / folder / f"{kind}.safetensors")
    blocks = list(scan(Index(world.index), [signature]))
    return np.concatenate([b.row for b in blocks]), np.concatenate([b.scores[:, 0] for b in blocks])


def entry(entries: list[dict], label: str) -> dict:
    (found,) = [e for e in entries if e["signature"] == label]
    return found


def why(measures: dict, what: str) -> str:
    (found,) = [m["why"] for m in measures["missing"] if m["what"] == what]
    return found


def test_the_files(world: World, whole: dict) -> None:
    folder = world.folder / "whole"
    written = read_sealed(folder / "evaluation.json")
    assert {k: v for k, v in whole.items() if k not in ("output", "text")} == {
        k: v for k, v in written.items() if k != "checksum"
    }
    assert (folder / "evaluation.md").read_text() == whole["text"]
    assert "NaN" not in (folder / "evaluation.json").read_text()
    assert (written["kind"], written["format_version"], written["rows"]) == ("nait_fast evaluation", 1, ROWS)
    seen = inspect(str(folder))
    assert (seen["kind"], seen["rows"]) == ("nait_fast evaluation", ROWS) and seen["signatures"] == written[
        "signatures"
    ]
    keys = "index fraction signatures fidelity retrieval stability confounds agreement transfer core unique missing"
    assert set(keys.split()) | {"environment", "options"} <= written.keys()
    for title in ("Fidelity", "Retrieval", "Stability", "Confounds", "Agreement", "Transfer", "Core", "Not measured"):
        assert f"\n## {title}" in whole["text"]
    rows = [line for line in whole["text"].splitlines() if line.startswith("|")]
    assert all(line.endswith("|") for line in rows)


def test_labels_and_what_cannot_be_scored(whole: dict) -> None:
    scored = ["sums (contrast, mean)", "texts (contrast, mean)", "sums (nait, mean)", "texts (nait, mean)"]
    assert [s["label"] for s in whole["signatures"] if s["scored"]] == scored == whole["transfer"]["names"]
    assert "does not fit codec neuron" in why(whole, "scores of sums (nag, up_abs)")
    assert "no exact scores" in why(whole, "scores of sums (nait, drift)")


@pytest.mark.parametrize("kind", ["sums", "texts"])
def test_retrieval(world: World, whole: dict, kind: str) -> None:
    rows, scores = means(world, "contrast", kind)
    of_kind = np.array([world.rows[row]["source"] == kind for row in rows])
    ranked = np.lexsort((rows, -scores))
    measures = entry(whole["retrieval"], f"{kind} (contrast, mean)")
    assert (measures["relevant"], measures["rows"], measures["chance"]) == (60, ROWS, 0.5)
    assert measures["r_precision"] == pytest.approx(of_kind[ranked[:60]].mean(), abs=1e-6)
    assert measures["p_at"] == {"10": of_kind[ranked[:10]].mean(), "100": of_kind[ranked[:100]].mean()}
    assert measures["r_precision"] > 0.7 and measures["auc"] > 0.8
    assert why(whole, "precision at 1000") == f"the index has {ROWS} rows"


@pytest.mark.parametrize("kind", ["sums", "texts"])
def test_fidelity_and_agreement(world: World, whole: dict, kind: str) -> None:
    measures = entry(whole["fidelity"], f"{kind} (nait, mean)")
    assert (
        measures["against"] == "exact scores in the index" and measures["rows"] == ROWS and measures["spearman"] > 0.5
    )
    planes = entry(whole["fidelity"], f"{kind} (contrast, mean)")
    assert planes["against"] == "its unrounded weights" and planes["spearman"] > 0.99
    assert "its reading is drift, the index's is mean" in why(whole, f"fidelity of {kind} (nait, drift)")
    names = whole["agreement"]["names"]
    i, j = names.index(f"{kind} (contrast, mean)"), names.index(f"{kind} (nait, mean)")
    (_, a), (_, b) = means(world, "contrast", kind), means(world, "nait", kind)
    assert whole["agreement"]["spearman"][i][j] == pytest.approx(spearman(a, b), abs=1e-6)
    assert whole["agreement"]["top"][i][j] == pytest.approx(top_overlap(a, b, 0.25), abs=1e-6)
    sampled = whole["agreement"]["sampled"]
    assert sampled["rows"] == 40 and f"{kind} (nait, drift)" in sampled["names"]


def test_confounds(world: World, whole: dict) -> None:
    lengths = np.concatenate([np.array(shard.n_tokens) for shard in Index(world.index).shards()])
    for label, folder in (("sums (contrast, mean)", "contrast"), ("sums (nait, mean)", "nait")):
        measures = entry(whole["confounds"], label)
        _, scores = means(world, folder, "sums")
        assert measures["spearman_with_length"] == pytest.approx(spearman(scores, lengths), abs=1e-6)
        assert sum(measures["layer_share"]) == pytest.approx(1, abs=1e-5) and measures["layers"] == [0, 1, 2]
    drift = entry(whole["confounds"], "sums (nait, drift)")
    assert drift["rows"] == 40 and sum(drift["layer_share"]) == pytest.approx(1, abs=1e-5)


def test_exact_parts_add_up_to_the_index_s_scores(world: World) -> None:
    signatures = [load_signature(file) for file in world.files("nait")]
    rankings = Rankings(Index(world.index), signatures)
    options = EvaluateOptions(index=str(world.index), signature=("x",), output="x", model=world.model)
    session = open_for(rankings.index, options, quiet=True)
    places = np.array([0, 3, 49, 50, 51, ROWS - 1])
    parts = layer_scores(session, rankings.index, open_rows(rankings.index), rankings.scores, places, signatures)
    for of_kind, column in zip(parts, rankings.scores.columns, strict=True):
        assert of_kind.shape == (6, 3) and of_kind.sum(axis=1) == pytest.approx(column[places], rel=1e-3, abs=1e-4)


def test_all_samples_again_make_the_same_signature(world: World) -> None:
    files = [file for folder in ("contrast", "nait", "drift", "nag", "embed") for file in world.files(folder)[:1]]
    signatures = [load_signature(file) for file in files]
    rankings = Rankings(Index(world.index), signatures)
    options = EvaluateOptions(index=str(world.index), signature=("x",), output="x", model=world.model)
    session = open_for(Index(world.rotated), options, quiet=True)
    wanted = sorted({reading_of(signature) for signature in signatures})
    assert wanted == ["drift", "hidden", "mean", "up_abs"]
    readings = target_readings(session, "sums", Pool(world.targets["sums"]), wanted)
    for signature in signatures:
        codebook = Index(world.rotated).codebook if signature.method == "embed" else rankings.codebook
        again = rebuilt(signature, material_of(signature, readings), codebook, "sums")
        for key in ("planes", "plane_weights", "direction", "centroid"):
            if key in signature.tensors:
                assert np.allclose(again.tensors[key], signature.tensors[key], rtol=1e-3, atol=1e-5)


def test_stability(whole: dict) -> None:
    measures = entry(whole["stability"], "texts (contrast, mean)")
    assert [b["size"] for b in measures["bootstrap"]] == [8, 16] and measures["halves"]["repeats"] == 3
    assert 0.5 < measures["bootstrap"][0]["spearman"] < 1 and measures["rows"] == ROWS
    assert why(whole, "stability of texts (contrast, mean) at 64 samples") == "its target has 24 samples"
    nait = entry(whole["stability"], "texts (nait, mean)")
    assert nait["halves"]["spearman"] is None and nait["bootstrap"] == [] and len(nait["sign_margin"]) == 3
    assert len(nait["directions"]["cosine"]) == 3 and max(nait["directions"]["cosine"]) <= 1
    assert "codec components" in why(whole, "stability of the scores of texts (nait, mean)")


def test_a_signature_of_another_length_or_of_other_samples(world: World, tmp_path: Path) -> None:
    (target,) = world.target()[:1]
    lines = Path(target.partition("=")[2]).read_text().splitlines(keepends=True)
    (tmp_path / "fewer.jsonl").write_text("".join(lines[:-2]))
    given = {"model": world.model, "target": [f"sums={tmp_path / 'fewer.jsonl'}"], "codebook": world.index}
    with pytest.raises(NaitError, match="another max_length"):
        nait_fast.build_signature(output=tmp_path, max_length=20, **given)
    nait_fast.build_signature(output=tmp_path, **given)
    with pytest.raises(NaitError, match="is not the data that signature 'sums' was made from"):
        nait_fast.evaluate(
            index=world.index,
            signature=tmp_path / "sums.safetensors",
            output=tmp_path / "out",
            model=world.model,
            target=[target],
            sizes=["4"],
            repeats=2,
        )


def test_core_and_unique_rows(world: World, whole: dict) -> None:
    chosen = {}
    for kind in ("sums", "texts"):
        rows, scores = means(world, "contrast", kind)
        chosen[kind] = set(rows[np.lexsort((rows, -scores))[:30]].tolist())
    shared = chosen["sums"] & chosen["texts"]
    core = whole["core"]
    assert (core["method"], core["at_least"], core["count"]) == ("contrast", 2, len(shared)) and core[
        "by_chance"
    ] == 7.5
    assert {e["row"] for e in core["examples"]} <= shared and len(core["examples"]) == min(5, len(shared))
    assert [c["method"] for c in whole["cores"]] == ["contrast", "nait"]
    measures = whole["unique"]["texts (contrast, mean)"]
    assert measures["count"] == len(chosen["texts"] - shared)
    rows, scores = means(world, "contrast", "texts")
    alone = [row for row in rows[np.lexsort((rows, -scores))] if row in chosen["texts"] - shared]
    assert [e["row"] for e in measures["examples"]] == alone[:5]
    for example in measures["examples"]:
        row = world.rows[example["row"]]
        assert example["text"] == f"{row['instruction']}\n{row['output']}"[:300]
        assert example["score"] == pytest.approx(scores[example["row"]], abs=1e-6)


def test_transfer(world: World, whole: dict) -> None:
    measures = whole["transfer"]
    (_, a), (_, b) = means(world, "contrast", "sums"), means(world, "contrast", "texts")
    assert measures["spearman"][0][1] == measures["spearman"][1][0] == pytest.approx(spearman(a, b), abs=1e-6)
    assert measures["overlap"][0][1] == pytest.approx(top_overlap(a, b, 0.25), abs=1e-6)
    x, y = (load_signature(file).tensors["weights"].astype(float) for file in world.files("contrast"))
    expected = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
    assert measures["cosine"][0][1] == pytest.approx(expected, abs=1e-6) and measures["cosine"][0][2] is None


def test_the_least(capsys, world: World, tmp_path: Path) -> None:
    """One signature, no label, no model, and a pool that is gone: all that is missing is told."""
    pool = Path(shutil.copy(world.pool, tmp_path / "gone.jsonl"))
    nait_fast.build_index(model=world.model, dataset=pool, output=tmp_path / "index", codebook=world.index)
    pool.unlink()
    words = ["--index", tmp_path / "index", "--signature", world.files("contrast")[0], "--output", tmp_path / "out"]
    measures = summary(capsys, "evaluate", *words)
    assert (
        measures["transfer"]["spearman"] == [[1.0]]
        and measures["agreement"]["names"] == []
        and measures["core"]["count"] == 0
    )
    assert measures["retrieval"] == measures["stability"] == [] and measures["unique"] == {} and measures["fidelity"]
    assert {m["what"] for m in measures["missing"]} == {
        "texts of the examples",
        "retrieval",
        "agreement of methods",
        "stability of sums",
        "core and unique rows of contrast, mean, planes=4",
    }
    assert (tmp_path / "out" / "config.yaml").exists()
    words = ["--index", tmp_path / "index", "--signature", *world.files("contrast"), "--output", tmp_path / "out"]
    measures = summary(capsys, "evaluate", *words)
    assert {e["text"] for e in measures["unique"]["sums"]["examples"]} == {None}
    assert "pass --dataset" in run(capsys, "evaluate", *words, "--label", "source").error
    moved = summary(capsys, "evaluate", *words, "--label", "source", "--dataset", world.pool)
    assert moved["unique"]["sums"]["examples"][0]["text"] and len(moved["retrieval"]) == 2


def test_the_same_command_gives_the_same_bytes(capsys, world: World, whole: dict, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(json.dumps({**whole["options"], "output": str(tmp_path / "again")}))
    printed = run(capsys, "evaluate", "--config", tmp_path / "c.yaml")
    assert printed.status == 0 and printed.out.strip() == whole["text"].strip()
    again = read_sealed(tmp_path / "again" / "evaluation.json")
    for key in ("environment", "options", "checksum"):
        again.pop(key)
    assert again == {key: whole[key] for key in again}
    other = nait_fast.evaluate(**{**whole["options"], "output": tmp_path / "other", "seed": 1})
    assert other["stability"] != whole["stability"] and other["transfer"] == whole["transfer"]


def test_other_relevant_labels(world: World, tmp_path: Path) -> None:
    options = {"index": world.index, "signature": world.files("contrast"), "output": tmp_path, "label": "source"}
    with pytest.warns(
        NaitWarning, match="retrieval of texts is not measured: no row of the index has the label 'poems'"
    ):
        measures = nait_fast.evaluate(**options, relevant=["sums=texts", "sums=sums", "texts=poems"])
    assert (
        entry(measures["retrieval"], "sums")["auc"] is None and why(measures, "AUC of sums") == "all rows are relevant"
    )
    measures = why(measures, "retrieval of texts")
    assert measures.endswith("name one that there is (sums, texts): --relevant texts=VALUE")


def test_rows_without_the_label(world: World, tmp_path: Path) -> None:
    rows = [{k: v for k, v in row.items() if i % 3 or k != "source"} for i, row in enumerate(world.rows)]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    nait_fast.build_index(model=world.model, dataset=pool, output=tmp_path / "index", codebook=world.index)
    measures = nait_fast.evaluate(
        index=tmp_path / "index", signature=world.files("contrast"), output=tmp_path / "out", label="source"
    )
    assert (
        "no key 'source'" in why(measures, "label of 40 rows")
        and entry(measures["retrieval"], "sums")["relevant"] == 40
    )


def test_a_rotated_index_with_embeddings(world: World, tmp_path: Path) -> None:
    options = {"index": world.rotated, "signature": world.files("drift", "embed", "contrast"), "label": "source"}
    measures = nait_fast.evaluate(
        **options, output=tmp_path / "model", model=world.model, target=world.target(), rows=60, sizes=["8"], repeats=2
    )
    fidelity = entry(measures["fidelity"], "sums (nait, drift)")
    assert (fidelity["by"], fidelity["against"]) == ("codec rotated", "exact scores by the model")
    assert fidelity["rows"] == 60 and 0.7 < fidelity["spearman"] < 1
    for label in ("sums (nait, drift)", "texts (embed, hidden)"):
        stable = entry(measures["stability"], label)
        assert 0 < stable["bootstrap"][0]["spearman"] < 1 and stable["halves"]["repeats"] == 2
    assert "another codebook" in why(measures, "scores of sums (contrast, mean)")
    assert "no sum over layers" in why(measures, "layer shares of sums (embed, hidden)")
    assert measures["transfer"]["cosine"][2][3] is not None and measures["transfer"]["cosine"][0][2] is None
    assert entry(measures["retrieval"], "sums (embed, hidden)")["auc"] > 0.8
    assert [c["method"] for c in measures["cores"]] == ["nait", "embed"]
    alone = nait_fast.evaluate(**options, output=tmp_path / "alone")
    exact = entry(measures["confounds"], "texts (nait, drift)")["layer_share"]
    estimate = entry(alone["confounds"], "texts (nait, drift)")["layer_share"]
    assert sum(estimate) == pytest.approx(1, abs=1e-5) and estimate == pytest.approx(exact, abs=0.15)
    assert "pass --model" in why(alone, "fidelity of texts (nait, drift)")


def test_estimated_parts_add_up_to_the_scores(world: World) -> None:
    signature = load_signature(world.files("drift")[1])
    rankings = Rankings(Index(world.rotated), [signature])
    assert rankings.codebook is not None
    parts = estimated_parts(rankings.sampled, layer_scan(rankings.index, signature))
    assert parts.shape == (ROWS, 3) and (parts.std(axis=0) > 0).all()
    rest = rankings.scores.columns[0] - parts.sum(axis=1)
    assert rest == pytest.approx(rest.mean(), abs=1e-9)


def test_an_index_of_components(world: World, tmp_path: Path) -> None:
    nait_fast.build_index(
        model=world.model, dataset=world.pool, output=tmp_path / "index", calibration_size=60, codec="components:32"
    )
    measures = nait_fast.evaluate(
        index=tmp_path / "index",
        signature=world.files("drift"),
        output=tmp_path / "out",
        model=world.model,
        target=world.target(),
        rows=60,
        sizes=["8"],
        repeats=2,
    )
    fidelity = entry(measures["fidelity"], "sums")
    assert (fidelity["by"], fidelity["against"]) == ("codec components", "exact scores by the model")
    assert 0.7 < fidelity["spearman"] < 1 and entry(measures["stability"], "sums")["halves"]["repeats"] == 2
    rankings = Rankings(Index(tmp_path / "index"), [load_signature(file) for file in world.files("drift")])
    assert rankings.codebook is not None
    parts = estimated_parts(rankings.sampled, layer_scan(rankings.index, rankings.signatures[0]))
    assert parts.sum(axis=1) == pytest.approx(rankings.scores.columns[0], rel=1e-9, abs=1e-9)


def test_a_rotated_index_with_exact_scores(world: World, tmp_path: Path) -> None:
    """Fidelity is of the codes, though the scan takes the exact scores."""
    nait_fast.build_index(
        model=world.model,
        dataset=world.pool,
        output=tmp_path / "index",
        codebook=world.rotated,
        codec="rotated",
        exact=world.files("drift"),
    )
    measures = nait_fast.evaluate(index=tmp_path / "index", signature=world.files("drift"), output=tmp_path / "out")
    fidelity = entry(measures["fidelity"], "sums")
    assert (fidelity["against"], fidelity["rows"]) == ("exact scores in the index", ROWS)
    assert 0.7 < fidelity["spearman"] < 1


def test_an_index_of_nag(world: World, tmp_path: Path) -> None:
    nait_fast.build_index(model=world.model, dataset=world.pool, output=tmp_path / "index", codec="nag:5")
    measures = nait_fast.evaluate(
        index=tmp_path / "index",
        signature=world.files("nag", "nait"),
        output=tmp_path / "out",
        model=world.model,
        target=world.target(),
        sizes=["8"],
        repeats=2,
    )
    stable = entry(measures["stability"], "sums (nag, up_abs)")
    assert 0 < stable["bootstrap"][0]["spearman"] < 1 and stable["halves"]["repeats"] == 2
    assert sum(entry(measures["confounds"], "sums (nag, up_abs)")["layer_share"]) == pytest.approx(1, abs=1e-5)
    assert "nothing of NAIT's score" in why(measures, "fidelity of sums (nait, mean)")
    assert "no score that bits stand in for" in why(measures, "fidelity of sums (nag, up_abs)")
    assert "sums (nait, mean)" in measures["agreement"]["sampled"]["names"]
