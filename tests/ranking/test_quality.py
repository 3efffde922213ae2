"""Quality beside relevance: where the numbers come from, how they are scaled, what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from nait_fast.errors import BadInput, NaitError
from nait_fast.index.reader import Index
from nait_fast.ranking.mixing import SCALES, mixed, scaled
from nait_fast.ranking.quality import Quality, read_quality
from nait_fast.storage.files import sha256_file
from tests.conftest import write_jsonl
from tests.rules.made import MadePool, make_pool, rows_of
from tests.rules.test_near_duplicates import families


def rankdata(x: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties at their mean rank."""
    return np.array([(x < value).sum() + ((x == value).sum() + 1) / 2 for value in x])


DEFINED: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "minmax": lambda x: (x - x.min()) / (x.max() - x.min()),
    "z": lambda x: (x - x.mean()) / x.std(),
    "rank": lambda x: (rankdata(x) - 1) / (len(x) - 1),
}


def quality_of(row: int) -> dict[str, Any]:
    return {"q": row * 37 % 11 - 3, "text_q": "good", "hole": 1.5 if row != 16 else None}


@pytest.fixture
def made(tmp_path: Path) -> MadePool:
    return make_pool(tmp_path / "made", families(90, 32, 200, seed=1), 3, quality_of)


@pytest.mark.parametrize("scale", SCALES)
def test_scales_as_defined(scale: str) -> None:
    values = np.random.default_rng(0).integers(-5, 9, 200).astype(np.float64)
    other = np.random.default_rng(1).random(200)
    np.testing.assert_allclose(scaled(values, scale), DEFINED[scale](values), atol=1e-12)
    expected = 0.7 * DEFINED[scale](other) + 0.3 * DEFINED[scale](values)
    np.testing.assert_allclose(mixed(other, values, 0.3, scale), expected, atol=1e-12)
    for factor in (1e-300, 1e300):  # no square and no difference overflows
        np.testing.assert_allclose(scaled(values * factor, scale), DEFINED[scale](values), atol=1e-12)
    assert scaled(np.full(7, 0.1), scale).tolist() == [0.0] * 7 == scaled(np.zeros(7), scale).tolist()
    assert len(scaled(np.zeros(0), scale)) == 0


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("suffix", ["", ":asc"])
def test_of_the_pool(made: MadePool, tmp_path: Path, scale: str, suffix: str) -> None:
    out = tmp_path / "out"
    options: dict[str, Any] = {"quality": f"q{suffix}", "quality_weight": 0.4, "quality_scale": scale}
    summary = made.rank(out, top_k=15, **options)
    numbers = np.array([quality_of(row)["q"] for row in made.row.tolist()], dtype=np.float64)
    both = mixed(made.scores, -numbers if suffix else numbers, 0.4, scale)
    order = np.lexsort((made.row, -both))
    assert [row["id"] for row in rows_of(out / "selected.jsonl")] == [f"é{row}" for row in made.row[order[:15]]]
    table = parquet.read_table(out / "scores.parquet").to_pydict()
    assert list(table)[-2:] == ["selected", "quality"] and table["quality"] == numbers.tolist()
    assert np.allclose(table["score.a"], made.scores) and np.argsort(table["rank"]).tolist() == order.tolist()
    said = {"column": f"q{suffix}", "weight": 0.4, "scale": scale, "least": -3.0, "greatest": 7.0}
    assert summary["quality"] == said and "constraints" not in summary


def test_none_and_all_of_it(made: MadePool, tmp_path: Path) -> None:
    made.rank(tmp_path / "none", top_k=15, quality="q", quality_weight=0)
    made.rank(tmp_path / "plain", top_k=15)
    assert (tmp_path / "none" / "selected.jsonl").read_bytes() == (tmp_path / "plain" / "selected.jsonl").read_bytes()
    made.rank(tmp_path / "all", top_k=15, quality="q", quality_weight=1.0)
    assert [row["q"] for row in rows_of(tmp_path / "all" / "selected.jsonl")] == sorted(
        [quality_of(row)["q"] for row in made.row.tolist()], reverse=True
    )[:15]


def test_of_another_file(made: MadePool, tmp_path: Path) -> None:
    numbers = {int(row): float(row * row % 17) for row in made.row}
    files = {
        "by_row.jsonl": [{"row": row, "x": number} for row, number in reversed(numbers.items())],
        "by_id.jsonl": [{"id": f"é{row}", "x": number} for row, number in numbers.items()],
        "by_both.jsonl": [{"id": "alike", "row": row, "x": number} for row, number in numbers.items()],
    }
    paths = [write_jsonl(tmp_path / name, rows) for name, rows in files.items()]
    parquet.write_table(pa.table({"row": [*numbers], "x": [*numbers.values()]}), tmp_path / "by_row.parquet")
    chosen = set()
    for path in [*paths, tmp_path / "by_row.parquet"]:
        told = made.rank(tmp_path / "out", top_k=12, quality=f"{path}#x", overwrite=True)
        assert told["quality"]["sha256"] == sha256_file(path)
        chosen.add((tmp_path / "out" / "selected.jsonl").read_bytes())
    order = np.lexsort((made.row, -mixed(made.scores, np.array([*numbers.values()]), 0.5, "minmax")))
    assert len(chosen) == 1
    assert [row["id"] for row in rows_of(tmp_path / "out" / "selected.jsonl")] == [
        f"é{made.row[p]}" for p in order[:12]
    ]


def test_scores_of_another_selection(made: MadePool, tmp_path: Path) -> None:
    made.rank(tmp_path / "one", top_k=5)
    scores = tmp_path / "one" / "scores.parquet"
    made.rank(tmp_path / "two", top_k=5, quality=f"{scores}#score.a", quality_weight=0.9)
    assert (tmp_path / "one" / "selected.jsonl").read_bytes() == (tmp_path / "two" / "selected.jsonl").read_bytes()


def test_of_a_column_of_the_index(made: MadePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Index.__init__

    def with_column(self: Index, *given: Any) -> None:  # n_tokens is there as a column would be
        real(self, *given)
        self.columns = {**self.columns, "n_tokens": ("<i4", ())}

    monkeypatch.setattr(Index, "__init__", with_column)
    made.rank(tmp_path / "out", top_k=9, quality="n_tokens:asc", quality_weight=1.0)
    assert [row["id"] for row in rows_of(tmp_path / "out" / "selected.jsonl")] == [
        f"é{made.row[place]}" for place in np.lexsort((made.row, made.n_tokens))[:9]
    ]


def test_with_constraints_and_in_a_report(made: MadePool, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import nait_fast

    for number, scores in enumerate(("all", "none")):
        out = tmp_path / str(number)
        made.rank(out, top_k=12, quality="q", length="quota", scores=scores)
        nait_fast.report(selection=out)
        page = (out / "report.html").read_text()
        assert "lost their places to length" in page and "q, weight 0.5, minmax" in page
    table = parquet.read_table(tmp_path / "0" / "scores.parquet")
    assert table.column_names[-2:] == ["quality", "dropped_by"]


@pytest.mark.parametrize(
    ("quality", "words"),
    [
        ("none", "--quality none: no row of the pool has this key, and the index no such column"),
        ("text_q", "--quality text_q: 90 of 90 rows have no finite number there, row 0 of the pool is the first"),
        ("hole:asc", "--quality hole: 1 of 90 rows have no finite number there, row 16 of the pool is the first"),
    ],
)
def test_what_the_pool_does_not_have(made: MadePool, tmp_path: Path, quality: str, words: str) -> None:
    with pytest.raises(NaitError) as error:
        made.rank(tmp_path / "out", quality=quality)
    assert str(error.value).startswith(words)
    assert not (tmp_path / "out" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"row": 0, "x": 1}, {"row": 0, "x": 1}], "f.jsonl:2: row 0 is there twice"),
        ([{"id": "é1", "x": 1}, {"id": "é1", "x": 2}], "f.jsonl:2: id é1 is there twice"),
        ([{"row": 0, "x": 1}, {"x": 1}], "f.jsonl:2: has no 'row' that names a row"),
        ([{"row": "first", "x": 1}], "f.jsonl:1: has no 'row' that names a row"),
        ([{"row": 1.0, "x": 1}], "f.jsonl:1: has no 'row' that names a row"),
        ([{"x": 1}], "its rows need a column 'row'"),
        ([{"row": 0, "y": 1}], "its rows have row, y"),
        ([{"row": 0, "x": float("nan")}], "90 of 90 rows have no finite number"),
        ([{"row": 0, "x": 1}], "89 of 90 rows have no finite number there, row 1 of the pool is the first"),
        ([{"id": "other", "x": 1}], "90 of 90 rows have no finite number"),
        ([[1]], "f.jsonl:1: a row must be a JSON object"),
    ],
)
def test_files_that_do_not_say_it(made: MadePool, tmp_path: Path, rows: list, words: str) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", rows)
    with pytest.raises(NaitError, match=words) as error:
        made.rank(tmp_path / "out", quality=f"{file}#x")
    assert "--quality" in str(error.value) and "\n" not in str(error.value)


def test_ids_that_several_rows_have_join_nothing(tmp_path: Path) -> None:
    made = make_pool(tmp_path / "made", families(20, 32, 200, seed=1), ids=lambda row: f"id{row // 2}")
    file = write_jsonl(tmp_path / "f.jsonl", [{"id": f"id{n}", "x": n} for n in range(20)])
    with pytest.raises(NaitError, match="several rows of the pool have id id0; join by row"):
        made.rank(tmp_path / "out", quality=f"{file}#x")


def test_rows_of_the_file_that_the_pool_does_not_have_are_said(made: MadePool, tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "f.jsonl", [{"row": row, "x": row % 5} for row in range(int(made.row[-1]) + 3)])
    with pytest.warns(
        UserWarning, match=f"{int(made.row[-1]) + 3 - 90} of its {int(made.row[-1]) + 3} rows name no row"
    ):
        made.rank(tmp_path / "out", quality=f"{file}#x")


@pytest.mark.parametrize("text", ["", "#x", "a#", ":asc", "a#:asc"])
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(BadInput, match="write COLUMN, COLUMN:asc, or FILE#COLUMN"):
        read_quality(text)


def test_what_can_be_read() -> None:
    assert read_quality("q") == Quality("", "q", False)
    assert read_quality("a:b:asc") == Quality("", "a:b", True)
    assert read_quality("a:b") == Quality("", "a:b", False)
    assert read_quality("x#y/f.parquet#q:desc") == Quality("x#y/f.parquet", "q", False)


def test_what_has_no_scores_to_mix_it_into(made: MadePool, tmp_path: Path) -> None:
    for other, words in (({"pick": "random"}, "rows drawn at random"), ({"rule": "roundrobin"}, "by rule roundrobin")):
        with pytest.raises(NaitError, match=f"--quality q: {words}"):
            made.rank(tmp_path / "out", quality="q", **other)
    made.rank(tmp_path / "out", top_k=5, quality="q", pick="bottom")
    with pytest.raises(NaitError, match="would be written over, but --quality"):
        made.rank(tmp_path / "out", quality=f"{tmp_path / 'out' / 'selected.jsonl'}#q")
