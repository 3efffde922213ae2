"""Readings that are captured once give what a run of their own does; the table of selections."""

import argparse
from pathlib import Path

import numpy as np

import nait_fast
from benchmarks import depth
from benchmarks.remembered import remembering
from benchmarks.selections import lines
from nait_fast.index.format import rds_vectors
from nait_fast.index.reader import Index
from tests.conftest import make_rows, write_jsonl


def test_remembered_readings_index_and_sign_as_the_model_does(tmp_path: Path, tiny_model: str) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [*make_rows(40), *make_rows(3)])  # some of them twice
    target = write_jsonl(tmp_path / "t.jsonl", make_rows(6, seed=5))

    def made(folder: Path) -> tuple[Index, Index, list[nait_fast.Signature]]:
        common = {"model": tiny_model, "tokens": "response"}
        folder.mkdir()
        nait_fast.build_index(**common, dataset=pool, embed="last,rds", output=folder / "index")
        nait_fast.build_index(**common, dataset=pool, codec="nag:5", output=folder / "nag")
        signatures = []
        for method in ("contrast", "nait", "rds"):
            codebook = folder / "index" if method == "contrast" else None
            output = folder / method
            nait_fast.build_signature(**common, target=target, method=method, codebook=codebook, output=output)
            signatures.append(nait_fast.load_signature(output / "t.safetensors"))
        return Index(folder / "index"), Index(folder / "nag"), signatures

    with remembering(tmp_path / "readings", 50):
        ours, our_sets, our_signatures = made(tmp_path / "ours")
    index, sets, signatures = made(tmp_path / "plain")
    for mine, plain in ((ours, index), (our_sets, sets)):
        (one,), (other,) = mine.shards(), plain.shards()
        bits = mine.layout.unpack(np.array(one.codes)) != mine.layout.unpack(np.array(other.codes))
        assert bits.mean() < 1e-3  # next to a threshold
        if "embedding" in mine.columns:  # of 127 levels
            levels = (shard.columns["embedding"].astype(int) for shard in (one, other))
            assert np.abs(np.subtract(*levels)).max() <= 1
            states, theirs = rds_vectors(one.columns), rds_vectors(other.columns)
            np.testing.assert_allclose(states, theirs, atol=2e-3 * np.abs(theirs).max())
    for mine, plain in zip(our_signatures, signatures, strict=True):
        assert mine.meta["method"] == plain.meta["method"]
        for name, values in mine.tensors.items():
            np.testing.assert_allclose(values.astype(float), plain.tensors[name].astype(float), atol=2e-3)


def test_table() -> None:
    about = {"model": "m", "dtype": "auto", "rows": 30, "samples": 6, "tokens": "all", "length": "free"}
    row = {**about, "method": "rds", "rule": "max", "spearman_with_length": -0.254, "tokens_of_best": 51.6}
    row["tokens_of_target"] = 70.4
    rows = [
        {**row, "target": "t", "r_precision": 0.55, "relevant": 4},
        {**row, "target": "mixed", "best": 8, "of_kinds": {"a": 6, "b": 1}},
    ]
    text = lines(rows)
    assert "| rds | max | free | all | 0.550 (-0.25), 52 |" in text and "| the target itself |  |  |  | 70 |" in text
    assert "| rds | max | all | 75% | 12% |" in text and "a and b alike" in text


def test_depths(tmp_path: Path, tiny_model: str) -> None:
    """Of the first layer and of all, from one pass; a target's halves are every other sample of it."""
    pool = [{**row, "source": "ts"[i % 2]} for i, row in enumerate(make_rows(40))]
    files = [
        write_jsonl(tmp_path / f"{name}.jsonl", rows) for name, rows in (("pool", pool), ("t", make_rows(8, seed=5)))
    ]
    options = argparse.Namespace(
        model=tiny_model, dataset=Path(files[0]), target=[f"t={files[1]}"], work=tmp_path / "work", rows=40, samples=8
    )
    vars(options).update(max_length=64, seed=0, dtype="auto")
    targets = depth.write_inputs(options)
    assert [text.partition("=")[0] for text in targets] == ["t", "t.a", "t.b"]
    with remembering(tmp_path / "readings", 40 + 24):
        for count in (3, 1):
            depth.make(options, targets, count, options.work / str(count))
    rows = list(depth.measured(options.work, [("1/3", 1), ("1", 3)], ["t"]))
    assert [(row["method"], row["layers"]) for row in rows] == [(m, n) for m in depth.METHODS for n in (1, 3)]
    for half, whole in zip(rows[::2], rows[1::2], strict=True):
        assert whole["spearman_with_all"] == whole["top10_with_all"] == 1 > half["spearman_with_all"]
        assert half["relevant"] == whole["relevant"] == 20
    plain = nait_fast.build_index(model=tiny_model, dataset=files[0], layers="0", output=tmp_path / "plain")
    assert plain["rows_indexed"] == 40
    ours, theirs = (Index(folder) for folder in (options.work / "1" / "index", tmp_path / "plain"))
    bits = [
        np.concatenate([index.layout.unpack(np.array(s.codes)) for s in index.shards()]) for index in (ours, theirs)
    ]
    assert np.mean(bits[0] != bits[1]) < 1e-3
    text = depth.lines([{"model": "m", "dtype": "auto", "samples": 8} | row for row in rows])
    assert text.count("\n| contrast | ") == 2 and "| contrast | 1/3 (1) | " in text
