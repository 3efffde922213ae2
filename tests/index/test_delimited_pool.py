"""An index of a CSV file: the codes of the same rows as JSON lines, the same bytes however it is made."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.index.stopping import Stopped, stopping_at

ROWS = [
    {"q": f'{row["instruction"]},\n"{n}"\n', "a": row["output"], "difficulty": str(n % 5), "note": None}
    for n, row in enumerate(make_rows(26))
]
OPTIONS: dict[str, Any] = {"calibration_size": 10, "batch_tokens": 200, "shard_rows": 4}
COLUMNS = ["prompt=q,response=a"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model: str) -> Path:
    folder = tmp_path_factory.mktemp("delimited")
    with open(folder / "pool.csv", "w", newline="") as file:
        table = csv.DictWriter(file, list(ROWS[0]))
        table.writeheader()
        table.writerows(ROWS)
    write_jsonl(folder / "pool.jsonl", ROWS)
    for name in ("pool.csv", "pool.jsonl"):
        given = {"model": tiny_model, "dataset": folder / name, "columns": COLUMNS, **OPTIONS}
        nait_fast.build_index(**given, output=folder / f"{name}-index")
    return folder


def test_the_codes_are_those_of_the_same_rows_as_json(place: Path) -> None:
    indexes = [Index(place / f"{name}-index") for name in ("pool.csv", "pool.jsonl")]
    assert [index.datasets[0]["kind"] for index in indexes] == ["csv", "jsonl"]
    assert all(index.rows == 26 and index.verify() == [] for index in indexes)
    for table, lines in zip(*(index.shards() for index in indexes), strict=True):
        assert np.array_equal(table.codes, lines.codes)


def test_a_stopped_run_goes_on_to_the_same_bytes(tmp_path: Path, place: Path, tiny_model: str) -> None:
    given = {"model": tiny_model, "dataset": place / "pool.csv", "columns": COLUMNS, "output": tmp_path, **OPTIONS}
    with stopping_at(3), pytest.raises(Stopped):
        nait_fast.build_index(**given)
    nait_fast.build_index(**given)
    assert digest(tmp_path) == digest(place / "pool.csv-index")


def test_chosen_rows_are_objects(tmp_path: Path, place: Path, tiny_model: str) -> None:
    nait_fast.build_signature(
        model=tiny_model,
        target=[f"goal={place / 'pool.csv'}"],
        codebook=place / "pool.csv-index",
        output=tmp_path,
        columns=COLUMNS,
    )
    ranked: dict[str, Any] = {"index": place / "pool.csv-index", "signature": [tmp_path / "goal.safetensors"]}
    nait_fast.rank(**ranked, output=tmp_path / "chosen", fraction=1.0, export=["llama_factory", "messages"])
    lines = (tmp_path / "chosen" / "selected.jsonl").read_text().splitlines()
    assert sorted(lines) == sorted(json.dumps(row, ensure_ascii=False) for row in ROWS)
    entry = json.loads((tmp_path / "chosen" / "dataset_info.json").read_text())["selected"]
    assert entry == {"file_name": "selected.jsonl", "columns": {"prompt": "q", "response": "a"}}
    # Its numbers are texts: --quality reads them, and a quota takes them for groups.
    told = nait_fast.rank(**ranked, output=tmp_path / "hard", top_k=5, quality="difficulty", quality_weight=1.0)
    lines = (tmp_path / "hard" / "selected.jsonl").read_text().splitlines()
    assert {json.loads(line)["difficulty"] for line in lines} == {"4"} and told["rows_selected"] == 5
    nait_fast.rank(**ranked, output=tmp_path / "even", top_k=5, quota=["difficulty:equal"])
    lines = (tmp_path / "even" / "selected.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["difficulty"] for line in lines) == ["0", "1", "2", "3", "4"]
    with pytest.raises(NaitError, match="26 of 26 rows have no finite number there"):
        nait_fast.rank(**ranked, output=tmp_path / "none", top_k=5, quality="q")
    (tmp_path / "numbers.csv").write_text("row,score\n" + "".join(f"{n},{-n}.5\n" for n in range(26)))
    told = nait_fast.rank(
        **ranked, output=tmp_path / "first", top_k=1, quality=f"{tmp_path / 'numbers.csv'}#score", quality_weight=1.0
    )
    assert json.loads((tmp_path / "first" / "selected.jsonl").read_text()) == ROWS[0]
