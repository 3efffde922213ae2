"""``selection_of``: what ``rank`` selects, as objects."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast import BadInput, Index, NaitError
from nait_fast.rules.constraints.base import Constraint, Walk
from nait_fast.rules.constraints.near_duplicates import NearDuplicateFilter
from tests.ranking.test_rules import _made, _ranked


@pytest.fixture
def made(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> tuple[Index, list[Path]]:
    folder, files = _made(tmp_path, tiny_model, "contrast", capsys)
    return Index(folder), files


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"fraction": 0.3, "combine": "union"},
        {"token_budget": 400, "combine": "max"},
        {"top_k": 20, "rule": "max"},
        {"top_k": 20, "rule": "roundrobin", "near_duplicates": 0.35},
        {"top_k": 12, "length": "matched"},
        {"top_k": 12, "length": "quota:target", "near_duplicates": 0.35},
        {"top_k": 12, "pick": "random", "seed": 3},
        {"top_k": 12, "pick": "bottom"},
    ],
    ids=str,
)
def test_as_rank_does(made: Any, capsys: pytest.CaptureFixture[str], options: dict[str, Any]) -> None:
    index, files = made
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", value)]
    rows, table, told = _ranked(capsys, index, files, *flags)
    ours = nait_fast.selection_of(index, files, **options)
    assert ours.rows.tolist() == rows and len(ours) == len(rows) and ours.targets == ("a", "b")
    by_row = {row: i for i, row in enumerate(table["row"])}
    assert ours.n_tokens.tolist() == [table["n_tokens"][by_row[row]] for row in rows]
    expected = [[table[f"score.{name}"][by_row[row]] for name in ours.targets] for row in rows]
    np.testing.assert_array_equal(ours.scores, expected)
    assert ours.rule == told.get("rule", "centroid") and ours.about["constraints"] == told.get("constraints", [])
    lost = {row: table["dropped_by"][by_row[row]] for row in table["row"]} if "dropped_by" in table else {}
    told_of = {int(row): one.constraint for one in ours.dropped for row in one.rows}
    assert told_of == {row: name for row, name in lost.items() if name}


def test_coverage_has_an_order_of_its_own(made: Any, tmp_path: Path) -> None:
    index, files = made
    given = {"top_k": 12, "coverage": 0.5}
    nait_fast.rank(index=index.folder, signature=files, output=tmp_path / "chosen", **given)
    pool = Path(index.datasets[0]["path"]).read_text().splitlines()
    chosen = (tmp_path / "chosen" / "selected.jsonl").read_text().splitlines()
    assert [pool[row] for row in nait_fast.selection_of(index, files, **given).rows] == chosen


class Odd(Constraint):
    """Takes the rows of even places."""

    name = "odd"

    @classmethod
    def wanted(cls, options: Any) -> bool:
        return False

    @classmethod
    def of(cls, options: Any, rows: Any) -> Constraint:
        return cls()

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        for places in offered:
            walk.drop(self.name, places[places % 2 == 0])
            yield places[places % 2 == 1]


def test_constraints_as_objects(made: Any) -> None:
    index, (file, _) = made
    (shard,) = index.shards()
    apart = NearDuplicateFilter([shard.codes], 0.35, index.layout.n_neurons)
    signature = nait_fast.load_signature(file)
    ours = nait_fast.selection_of(index, signature, constraints=apart, top_k=15)
    asked = nait_fast.selection_of(str(index.folder), [file], near_duplicates=0.35, top_k=15)
    assert ours.rows.tolist() == asked.rows.tolist() and len(ours.dropped[0].rows)
    odd = nait_fast.selection_of(index, file, constraints=[Odd()], top_k=15)
    ranked = nait_fast.selection_of(index, file, top_k=90).rows
    assert odd.rows.tolist() == [row for row in ranked if np.searchsorted(shard.row, row) % 2][:15]
    assert odd.about == {"constraints": [{"constraint": "odd", "dropped": sum(len(one.rows) for one in odd.dropped)}]}


def test_scores_of_another_tool_in_memory(made: Any) -> None:
    index, (file, _) = made
    every = nait_fast.selection_of(index, file, top_k=90)
    scores = np.full(index.pool_rows, np.nan)
    scores[every.rows] = every.scores[:, 0]
    assert nait_fast.selection_of(index, foreign={"x": scores}, top_k=20).rows.tolist() == every.rows[:20].tolist()
    with pytest.raises(BadInput, match="selection_of: foreign x: has scores of 3 rows, the pool has"):
        nait_fast.selection_of(index, foreign={"x": scores[:3]}, top_k=20)
    scores[every.rows[4]] = np.inf
    with pytest.raises(BadInput, match=f"selection_of: foreign x: row {every.rows[4]} has no finite score"):
        nait_fast.selection_of(index, foreign={"x": scores}, top_k=20)


def test_quality_is_told(made: Any, tmp_path: Path) -> None:
    index, (file, _) = made
    quality = np.random.default_rng(0).random(90)
    (tmp_path / "q.jsonl").write_text("".join(f'{{"row": {row}, "q": {value}}}\n' for row, value in enumerate(quality)))
    ours = nait_fast.selection_of(index, file, top_k=20, quality=f"{tmp_path / 'q.jsonl'}#q", quality_weight=0.7)
    assert np.array_equal(ours.quality, quality[ours.rows]) and ours.about["quality"]["weight"] == 0.7
    assert (np.diff(ours.scores[:, 0]) > 0).any() and ours.quality.mean() > quality.mean()


def test_the_pool_is_read_only_where_it_is_needed(made: Any, tmp_path: Path) -> None:
    index, (file, _) = made
    pool = Path(index.datasets[0]["path"])  # of other tests, too
    moved = shutil.move(pool, tmp_path / "elsewhere.jsonl")
    try:
        assert len(nait_fast.selection_of(index, file, top_k=5, length="quota")) == 5
        with pytest.raises(NaitError, match="no such file"):
            nait_fast.selection_of(index, file, top_k=5, quota="output:equal")
        assert len(nait_fast.selection_of(index, file, top_k=5, quota="output:equal", dataset=moved)) == 5
    finally:
        shutil.move(moved, pool)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_k": 5, "fraction": 0.1}, "--fraction and --top-k: give one budget only"),
        ({"top_k": 500}, "--top-k 500: the pool has only 90 usable samples"),
        (
            {"output": "x"},
            "selection_of: unknown option 'output'; known are combine, coverage, dataset, decontaminate,",
        ),
        ({"export": ["messages"]}, "unknown option 'export'"),
        ({"sed": 1}, "selection_of: unknown option 'sed'"),
        ({"combine": "max"}, "selection_of: --combine max: there is one signature, nothing to combine"),
        ({"rule": "max", "length": "quota:targets"}, "--length quota:targets"),
        ({"signatures": []}, "selection_of: no signatures given"),
        ({"foreign": {"y": [[1, 2], [3]]}}, "selection_of: foreign y: is no matrix of scores (setting an array"),
        (
            {"foreign": {"a": np.zeros(90)}},
            "selection_of: two signatures have the name 'a': give each a name of its own",
        ),
    ],
)
def test_refusals(made: Any, options: dict[str, Any], words: str) -> None:
    index, (file, _) = made
    given = {"signatures": file, **options}
    with pytest.raises(BadInput) as caught:
        nait_fast.selection_of(index, **given)
    assert words in str(caught.value)
