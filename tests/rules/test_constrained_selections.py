"""Constraints in ``rank``: what the files of a selection say, and what ``report`` and ``verify`` make of them."""

import json
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

import nait_fast
from nait_fast.cli import main
from nait_fast.config import RankOptions
from nait_fast.errors import NaitError
from tests.rules.made import MadePool, make_pool, rows_of
from tests.rules.test_near_duplicates import defined, families


@pytest.fixture
def made(tmp_path: Path) -> MadePool:
    return make_pool(tmp_path / "made", families(90, 32, 25, seed=1))


def test_what_the_files_say(made: MadePool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    summary = made.rank(out, top_k=12, near_duplicates=0.3)
    kept, gone = defined(made.codes, made.order, 76)
    before = made.order.tolist().index(kept[11])
    gone = [entry for entry in gone if made.order.tolist().index(entry[0]) < before]
    selected = rows_of(out / "selected.jsonl")
    assert [row["id"] for row in selected] == [f"é{made.row[place]}" for place in kept[:12]]
    assert gone and rows_of(out / "dropped.jsonl") == [
        {
            "row": int(made.row[place]),
            "id": f"é{made.row[place]}",
            "constraint": "near-duplicates",
            "duplicate_of": int(made.row[other]),
            "bits": bits,
        }
        for place, other, bits in sorted(gone)
    ]
    table = parquet.read_table(out / "scores.parquet").to_pydict()
    assert list(table)[-2:] == ["selected", "dropped_by"] and len(table["row"]) == 90
    places = {place for place, _, _ in gone}
    assert table["dropped_by"] == ["near-duplicates" if place in places else None for place in range(90)]
    assert np.flatnonzero(table["selected"]).tolist() == sorted(kept[:12])
    assert np.argsort(table["rank"]).tolist() == made.order.tolist()
    manifest = json.loads((out / "manifest.json").read_text())
    said = [{"constraint": "near-duplicates", "dropped": len(gone), "share": 0.3, "most_bits": 76}]
    assert summary["constraints"] == manifest["constraints"] == said
    assert manifest["rows_looked_at"] == before + 1 and manifest["config"]["near_duplicates"] == 0.3
    assert main(["verify", str(out)]) == 0
    assert set(manifest["files"]) == {"selected.jsonl", "scores.parquet", "dropped.jsonl", "dataset_info.json"}
    capsys.readouterr()
    again = [f"--index={made.index}", f"--signature={made.signature}", f"--output={out}", "--top-k=12"]
    assert main(["rank", *again, "--near-duplicates=0.3"]) == 0
    assert f"near-duplicates took {len(gone)}" in " ".join(capsys.readouterr().out.split())


def test_without_constraints_nothing_is_said_of_them(made: MadePool, tmp_path: Path) -> None:
    made.rank(tmp_path / "out", top_k=12, near_duplicates=0.3)
    summary = made.rank(tmp_path / "out", top_k=12, overwrite=True)
    assert "constraints" not in summary and "rows_looked_at" not in summary
    assert not (tmp_path / "out" / "dropped.jsonl").exists()
    assert "dropped_by" not in parquet.read_schema(tmp_path / "out" / "scores.parquet").names


@pytest.mark.parametrize("scores", ["selected", "none"])
def test_a_report_and_a_check_of_it(made: MadePool, tmp_path: Path, scores: str) -> None:
    pytest.importorskip("matplotlib")
    out = tmp_path / "out"
    made.rank(out, fraction=0.2, near_duplicates=0.3, scores=scores)
    nait_fast.report(selection=out)
    page = (out / "report.html").read_text()
    assert ("a selection by more than scores is not made again" in page) == (scores == "none")
    assert ("Only the selected rows" in page) == (scores == "selected")
    if scores != "none":
        held = parquet.read_table(out / "scores.parquet")["dropped_by"].to_pylist()
        assert not any(held)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"near_duplicates": 0.0}, "--near-duplicates 0.0: is a share of a code's bits"),
        ({"near_duplicates": 1.5}, "--near-duplicates 1.5: is a share of a code's bits"),
        ({"near_duplicates": float("nan")}, "--near-duplicates nan: is a share"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_read(options: dict, words: str, tmp_path: Path) -> None:
    with pytest.raises(NaitError, match=words):
        nait_fast.rank(index=tmp_path / "none", signature=["none"], output=tmp_path / "out", **options)


def test_union_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(NaitError, match="--combine union: chooses for each target by itself"):
        nait_fast.rank(
            index=tmp_path / "none", signature=["a", "b"], output=tmp_path, combine="union", near_duplicates=0.1
        )
    assert RankOptions.from_mapping({"index": "a", "signature": ["b"], "output": "c"}).near_duplicates is None
