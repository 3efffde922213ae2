"""``--foreign-scores``: rules and constraints for any scorer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from nait_fast.index.reader import Index
from tests.commands import run
from tests.ranking.test_rules import _made, _ranked
from tests.rules.test_round_robin import by_definition


@pytest.fixture
def made(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> tuple[Index, list[Path]]:
    folder, files = _made(tmp_path, tiny_model, "contrast", capsys)
    return Index(folder), files


def test_a_table_of_our_own_scores_ranks_as_we_do(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    index, (file, other) = made
    rows, table, _ = _ranked(capsys, index, [file], "--top-k", 20)
    order = np.random.default_rng(0).permutation(len(table["row"]))
    for key in ("row", "id"):
        held = {key: np.array(table[key])[order], "score": np.array(table["score.a"])[order], "beside": order}
        parquet.write_table(pa.table(held), index.folder.parent / "theirs.parquet")
        theirs = ["--foreign-scores", f"x={index.folder.parent / 'theirs.parquet'}"]
        again, scores, told = _ranked(capsys, index, [], *theirs, "--top-k", 20)
        assert (again, scores["score.x"], told["method"]) == (rows, table["score.a"], ["foreign"])
        both, _, _ = _ranked(capsys, index, [other], *theirs, "--top-k", 20, "--combine", "roundrobin")
        ours, _, _ = _ranked(capsys, index, [other, file], "--top-k", 20, "--combine", "roundrobin")
        assert both == ours
    rows, _, told = _ranked(capsys, index, [], *theirs, "--top-k", 20, "--near-duplicates", 0.35)
    ours, _, _ = _ranked(capsys, index, [file], "--top-k", 20, "--near-duplicates", 0.35)
    assert rows == ours and told["constraints"][0]["dropped"] > 0


def test_a_matrix_of_queries(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    index, _ = made
    scores = np.random.default_rng(0).normal(size=(7, 90)).astype(np.float32)
    np.save(index.folder.parent / "t_cossim.npy", scores)
    theirs = ["--foreign-scores", f"t={index.folder.parent / 't_cossim.npy'}"]
    rows, table, told = _ranked(capsys, index, [], *theirs, "--top-k", 40, "--rule", "roundrobin")
    assert rows == [row for row, _ in by_definition(scores.astype(float), [7], 40)]
    assert np.array_equal(table["score.t"], scores.max(axis=0)) and told["rule"] == "roundrobin"
    rows, table, _ = _ranked(capsys, index, [], *theirs, "--top-k", 40)
    assert np.allclose(table["score.t"], scores.mean(axis=0))


def test_what_is_refused(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    index, _ = made
    folder = index.folder.parent

    def error(name: str, content: Any) -> str:
        if isinstance(content, np.ndarray):
            np.save(folder / name, content)
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        elif content is not None:
            parquet.write_table(pa.table(content), folder / name)
        asked = ["rank", "--index", index.folder, "--output", folder / "none", "--foreign-scores", f"x={folder / name}"]
        return run(capsys, *asked).error.removeprefix(f"--foreign-scores x={folder / name}: ")

    rows, numbers = np.arange(90), np.arange(90.0)
    assert error("none.npy", None) == "no such file"
    assert error("scores.csv", b"row,score\n").startswith("is no table or array that can be read")
    assert error("broken.npy", b"xx").startswith("is no array")
    assert error("broken.parquet", b"xx").startswith("cannot be read")
    assert error("short.npy", numbers[:80]) == "has scores of 80 rows, the pool has 90"
    assert error("words.npy", np.array(["a"] * 90)).startswith("is no matrix of scores")
    assert error("cube.npy", np.zeros((2, 3, 90))).startswith("is no matrix of scores")
    assert error("nan.npy", np.where(rows == 7, np.nan, numbers)) == "row 7 has no finite score"
    assert error("a.parquet", {"row": rows, "value": numbers}).startswith("has the columns row, value")
    assert error("b.parquet", {"row": rows[:-1], "score": numbers[:-1]}) == "row 89 has no finite score"
    twice = {"row": np.append(rows, 3), "score": np.append(numbers, 1)}
    assert error("c.parquet", twice) == "row 3 is there twice"
    assert error("d.parquet", {"row": rows + 1, "score": numbers}) == "row 90 is none of the pool's"
    assert error("e.parquet", {"id": [f"no {row}" for row in rows], "score": numbers}).startswith(
        "id 'no 0' is of no row"
    )
    asked = ["rank", "--index", index.folder, "--output", folder / "none"]
    assert run(capsys, *asked).error == "rank: --signature (or --foreign-scores) is missing"
    assert run(capsys, *asked, "--foreign-scores", "a/b=c=d.npy").error.startswith("--foreign-scores a/b=c=d.npy: ")
    assert run(capsys, *asked, "--foreign-scores", f"x={folder / 'nan.npy'}", "--length", "matched").status == 2
    assert not list((folder / "none").glob("*.jsonl"))


def test_a_selection_never_writes_over_what_it_reads(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    index, files = made
    _ranked(capsys, index, files[:1], "--top-k", 20)
    chosen = index.folder.parent / "chosen"
    table = parquet.read_table(chosen / "scores.parquet").rename_columns(
        ["row", "id", "n_tokens", "score", "rank", "selected"]
    )
    (chosen / "scores.parquet").unlink()
    parquet.write_table(table, chosen / "scores.parquet")
    asked = ["--index", index.folder, "--output", chosen, "--foreign-scores", f"x={chosen / 'scores.parquet'}"]
    assert "would be written over" in run(capsys, "rank", *asked, "--overwrite").error
