"""Rows that cannot be indexed: an error without --skip-bad-rows, counted and listed with it, never silent."""

import json
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import arrays, differing

VOCABULARY = 458


def build(folder: Path, **options) -> Index:
    calibration = {} if "codebook" in options else {"calibration_size": 20}
    nait_fast.build_index(output=folder, **{"shard_rows": 8, **calibration, **options})
    return Index(folder)


def listed(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


def test_every_kind_of_bad_row(tmp_path: Path, tiny_model: str) -> None:
    generator = np.random.default_rng(0)
    good = [{"input_ids": generator.integers(4, 450, size=n).tolist()} for n in generator.integers(2, 30, size=30)]
    lines = [json.dumps(row) for row in good]
    bad = {
        3: ('{"input_ids": [1,', "not JSON: Expecting value, column 18"),
        9: ('{"ids": [1]}', 'no key "input_ids", which input_ids needs (the row has: ids)'),
        10: ('{"input_ids": [5, 458]}', f"token id 458 is outside the model's {VOCABULARY} tokens"),
        11: ('{"input_ids": [1, 1]}', "no content tokens"),
        25: ('{"input_ids": []}', "empty response"),
        34: ('{"input_ids": [457, 458, 7]}', f"token id 458 is outside the model's {VOCABULARY} tokens"),
    }
    for row, (line, _) in sorted(bad.items()):
        lines.insert(row, line)
    pool = tmp_path / "pool.jsonl"
    pool.write_text("\n".join(lines) + "\n")
    index = build(tmp_path / "index", model=tiny_model, dataset=pool, skip_bad_rows=True)
    assert index.verify() == []
    rows = listed(tmp_path / "index")
    assert {entry["row"]: entry["reason"] for entry in rows} == {row: reason for row, (_, reason) in bad.items()}
    assert [entry["row"] for entry in rows] == sorted(bad)
    assert rows[0]["where"] == f"{pool}:4" and rows[2]["where"] == f"{pool}:11"
    skipped = index.manifest["skipped"]
    assert skipped["rows"] == 6 and skipped["reasons"][f"token id 458 is outside the model's {VOCABULARY} tokens"] == 2
    assert (index.rows, index.manifest["datasets"][0]["rows"]) == (30, 36)
    held = arrays(index)
    assert held["row"].tolist() == [row for row in range(36) if row not in bad]
    assert held["n_tokens"].tolist() == [len(row["input_ids"]) for row in good]
    # The good rows' codes are those of a pool without the bad ones.
    clean = write_jsonl(tmp_path / "clean.jsonl", good)
    same = arrays(build(tmp_path / "clean", model=tiny_model, dataset=clean, codebook=tmp_path / "index"))
    assert (same["codes"] == held["codes"]).mean() > 0.9999

    for row in (10, 11):  # the encoder's refusals: those of the pool are tested with it
        write_jsonl(pool, [*good, json.loads(bad[row][0])])
        with pytest.raises(NaitError) as error:
            build(tmp_path / f"strict{row}", model=tiny_model, dataset=pool)
        assert str(error.value) == f"{pool}:31: {bad[row][1]}; fix the row or pass --skip-bad-rows"


def test_a_shard_without_a_good_row(tmp_path: Path, tiny_model: str) -> None:
    rows = make_rows(24)
    for row in rows[8:16]:
        row["output"] = " "
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    index = build(tmp_path / "index", model=tiny_model, dataset=pool, skip_bad_rows=True)
    assert [len(shard.row) for shard in index.shards()] == [8, 0, 8]
    assert index.verify() == [] and index.manifest["skipped"]["reasons"] == {"empty response": 8}
    write_jsonl(tmp_path / "sums.jsonl", make_rows(10, seed=1))
    nait_fast.build_signature(
        model=tiny_model, target=[f"sums={tmp_path / 'sums.jsonl'}"], codebook=index.folder, output=tmp_path
    )
    summary = nait_fast.rank(index=index.folder, signature=[tmp_path / "sums.safetensors"], output=tmp_path / "ranked")
    assert (summary["rows_read"], summary["rows_scored"], summary["rows_selected"]) == (24, 16, 2)


def test_too_few_rows_to_calibrate(tmp_path: Path, tiny_model: str) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [{"input_ids": [5]}, {"input_ids": [458]}])
    with pytest.raises(NaitError, match="calibration needs at least 2 usable samples, found 1"):
        build(tmp_path / "index", model=tiny_model, dataset=pool, skip_bad_rows=True)


@pytest.fixture(scope="module")
def sick_model(tmp_path_factory, tiny_model: str) -> str:
    """The tiny model with a token whose embedding is not a number."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = tmp_path_factory.mktemp("sick")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    with torch.no_grad():
        model.get_input_embeddings().weight[457] = float("nan")
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return str(folder)


def test_activations_that_are_not_finite(tmp_path: Path, sick_model: str) -> None:
    generator = np.random.default_rng(1)
    rows = [{"input_ids": generator.integers(4, 450, size=12).tolist()} for _ in range(24)]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    healthy = build(tmp_path / "healthy", model=sick_model, dataset=pool)
    sick = [1, 8, 9, 10, 23]
    for row in sick:
        rows[row]["input_ids"][5] = 457
    write_jsonl(pool, rows)
    with pytest.raises(NaitError) as error:
        build(tmp_path / "strict", model=sick_model, dataset=pool)
    message = f"{pool}:2: activations are not finite in float32; pass --skip-bad-rows"
    assert str(error.value) == message
    with pytest.raises(NaitError, match="not finite in bfloat16; try --dtype float32 or pass --skip-bad-rows"):
        build(tmp_path / "half", model=sick_model, dataset=pool, dtype="bfloat16")

    index = build(tmp_path / "index", model=sick_model, dataset=pool, skip_bad_rows=True)
    assert [(entry["row"], entry["reason"]) for entry in listed(index.folder)] == [
        (row, "activations are not finite in float32") for row in sick
    ]
    threshold, samples = index.codebook.threshold, index.codebook.meta["samples"]
    assert np.isfinite(threshold).all() and 15 <= samples < 20
    assert arrays(index)["row"].tolist() == [row for row in range(24) if row not in sick]
    # A sick row in the batch does not touch the others: under the same thresholds they have the same codes.
    same = build(tmp_path / "same", model=sick_model, dataset=pool, skip_bad_rows=True, codebook=healthy.folder)
    kept = arrays(healthy)["codes"][arrays(same)["row"]]
    assert differing(arrays(same)["codes"], kept) <= 2

    write_jsonl(pool, [rows[row] for row in sick])
    with pytest.raises(NaitError, match="calibration: only 0 of 5 samples have finite activations; try --dtype"):
        build(tmp_path / "none", model=sick_model, dataset=pool, skip_bad_rows=True)
