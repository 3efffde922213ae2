"""--export: a selection's files for the tools that train on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast import NaitError
from nait_fast.config import SELECTED_EXPORTS, SelectOptions
from nait_fast.notices import NaitWarning
from nait_fast.outputs.recognise import CLAIM
from nait_fast.ranking import exports
from nait_fast.storage.lock import FOLDER_LOCK
from nait_fast.verbs.inspection import verify
from tests.conftest import make_rows, write_jsonl


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model: str) -> dict[str, Any]:
    """Options of a rank: rows in three formats, two datasets."""
    folder = tmp_path_factory.mktemp("exports")
    rows = make_rows(40)
    chats = [
        {
            "messages": [
                {"role": "system", "content": "be brief"},
                {"role": "user", "content": r["instruction"]},
                {"role": "assistant", "content": r["output"]},
            ]
        }
        for r in rows[20:30]
    ]
    pools = [write_jsonl(folder / "a.jsonl", rows[:20]), write_jsonl(folder / "b.jsonl", chats)]
    target = write_jsonl(folder / "t.jsonl", rows[30:])
    place = str(folder / "index")
    for number, pool in enumerate(pools):
        nait_fast.build_index(model=tiny_model, dataset=str(pool), output=place, calibration_size=10, append=number > 0)
    nait_fast.build_signature(model=tiny_model, target=[f"t={target}"], codebook=place, output=str(folder))
    return {"index": place, "signature": [str(folder / "t.safetensors")]}


def test_names_are_those_of_the_options() -> None:
    assert tuple(exports.WRITERS) == SELECTED_EXPORTS
    assert SelectOptions.from_mapping({"model": "m", "dataset": "d", "target": ["t"], "output": "o"}).export == (
        "llama_factory",
    )


@pytest.mark.parametrize("names", [("llama_factory",), ("dataflex",), SELECTED_EXPORTS, ()])
def test_the_files_that_are_asked_for(tmp_path: Path, index, names) -> None:
    out = tmp_path / "out"
    nait_fast.rank(**index, output=str(out), fraction=1.0, export=list(SELECTED_EXPORTS))
    told = nait_fast.rank(**index, output=str(out), fraction=0.9, export=list(names))
    files = {exports.WRITERS[name][0] for name in names}
    assert {path.name for path in out.iterdir()} - {"manifest.json", CLAIM, FOLDER_LOCK} == {
        "selected.jsonl",
        "scores.parquet",
        *files,
    }
    assert set(told["files"]) == {"selected.jsonl", "scores.parquet", *files} and verify(str(out))["ok"]


def test_dataflex_reads_the_rows_best_first(tmp_path: Path, index) -> None:
    nait_fast.rank(**index, output=str(tmp_path), top_k=25, export=["dataflex"])
    top = np.load(tmp_path / "top_indices.npy", allow_pickle=False)
    assert top.shape == (25, 1) and top.dtype == np.int64  # its near selector wants a matrix, and goes down its columns
    folder = Path(index["index"]).parent
    lines = [line for name in "ab" for line in (folder / f"{name}.jsonl").read_bytes().splitlines()]
    assert (tmp_path / "selected.jsonl").read_bytes().splitlines() == [lines[row] for row in top[:, 0]]


def test_messages_of_every_format(tmp_path: Path, index) -> None:
    nait_fast.rank(**index, output=str(tmp_path), fraction=1.0, export=["messages"])
    rows = [json.loads(line) for line in (tmp_path / "selected.jsonl").read_text().splitlines()]
    made = [json.loads(line) for line in (tmp_path / "messages.jsonl").read_text().splitlines()]
    assert len(rows) == len(made) == 30
    for row, conversation in zip(rows, made, strict=True):
        assert conversation.keys() == {"messages", "id"} and conversation["id"] == row.get("id")
        turns = (
            row["messages"]
            if "messages" in row
            else [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        )
        assert conversation["messages"] == turns


def test_an_entry_that_all_rows_fit_or_none(tmp_path: Path, index) -> None:
    with pytest.warns(NaitWarning, match=r"no entry for LLaMA-Factory.*: the rows are of several formats \(line \d+\)"):
        told = nait_fast.rank(**index, output=str(tmp_path), fraction=1.0)
    assert json.loads((tmp_path / "dataset_info.json").read_text()) == {}
    assert any(
        "no entry for LLaMA-Factory" in line
        for line in json.loads((tmp_path / "manifest.json").read_text())["warnings"]
    )
    assert told["rows_selected"] == 30


def test_calls_tools_reasoning_and_ids_stay_in_messages(tmp_path: Path, tiny_model: str, index) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "tide", "arguments": {"port": "Hull"}}}
    tool = {"type": "function", "function": {"name": "tide", "description": "the tide"}}
    agent = {
        "id": 7,
        "tools": [tool],
        "messages": [
            {"role": "user", "content": "tide"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "3.1", "tool_call_id": "c1", "name": "tide"},
            {"role": "assistant", "content": "It is 3.1", "reasoning_content": "so it is"},
        ],
    }
    plain = {"messages": [{"role": "user", "content": "why"}, {"role": "assistant", "content": "rain"}]}
    named = {"id": "b", **plain}
    pool = write_jsonl(tmp_path / "pool.jsonl", [agent, plain])
    place = str(tmp_path / "index")
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=place, codebook=index["index"])
    nait_fast.rank(
        index=place, signature=index["signature"], output=str(tmp_path / "o"), fraction=1.0, export=["messages"]
    )
    made = [json.loads(line) for line in (tmp_path / "o" / "messages.jsonl").read_text().splitlines()]
    assert sorted(made, key=str) == sorted([agent, {**plain, "tools": None, "id": None}], key=str)
    # Readers of columns want ids of one kind.
    write_jsonl(pool, [agent, named])
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=str(tmp_path / "two"), codebook=index["index"])
    nait_fast.rank(
        index=str(tmp_path / "two"),
        signature=index["signature"],
        output=str(tmp_path / "p"),
        fraction=1.0,
        export=["messages"],
    )
    made = [json.loads(line) for line in (tmp_path / "p" / "messages.jsonl").read_text().splitlines()]
    assert {row["id"] for row in made} == {"7", "b"}


def test_roles_that_the_user_has_named(tmp_path: Path, tiny_model: str, index) -> None:
    rows = [{"messages": [{"role": "boss", "content": "why"}, {"role": "assistant", "content": "rain"}]}] * 2
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    place = str(tmp_path / "index")
    nait_fast.build_index(
        model=tiny_model, dataset=str(pool), output=place, codebook=index["index"], roles=["boss=user"]
    )
    out = tmp_path / "o"
    files = list(SELECTED_EXPORTS)
    nait_fast.rank(index=place, signature=index["signature"], output=str(out), fraction=1.0, export=files)
    assert json.loads((out / "messages.jsonl").read_text().splitlines()[0])["messages"][0] == {
        "role": "user",
        "content": "why",
    }
    assert json.loads((out / "dataset_info.json").read_text())["selected"]["tags"]["user_tag"] == "boss"


def test_numbers_that_json_does_not_know(tmp_path: Path, tiny_model: str, index) -> None:
    text = (
        '{"instruction": "NaN \\"Infinity\\" \\\\", "input": %s, "output": "rain", "n": -Infinity, "x": [NaN,1.50]}\n'
    )
    pool = tmp_path / "pool.jsonl"
    pool.write_text(text % "NaN" + text.replace("-Infinity", "1e0").replace("[NaN,", "[") % '"or"')
    place = str(tmp_path / "index")
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=place, codebook=index["index"])
    with pytest.warns(NaitWarning, match="1 chosen rows hold NaN or infinite numbers"):
        nait_fast.rank(index=place, signature=index["signature"], output=str(tmp_path / "o"), fraction=1.0)
    lines = (tmp_path / "o" / "selected.jsonl").read_text().splitlines(keepends=True)
    first = (text % "NaN").replace(": NaN", ": null").replace("-Infinity", "null").replace("[NaN,", "[null,")
    assert sorted(lines) == sorted([first, pool.read_text().splitlines(keepends=True)[1]])
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(name))


def test_what_cannot_be_exported(tmp_path: Path, tiny_model: str, index) -> None:
    pool = write_jsonl(tmp_path / "text.jsonl", [{"text": f"the cat has {r['output']}"} for r in make_rows(12)])
    place = str(tmp_path / "index")
    codebook = index["index"]
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=place, codebook=codebook)
    with pytest.raises(NaitError, match="--export messages: rows of format text are no conversations"):
        nait_fast.rank(index=place, signature=index["signature"], output=str(tmp_path / "o"), export=["messages"])
    with pytest.raises(NaitError, match="--export trl: choose llama_factory, dataflex, messages"):
        nait_fast.rank(**index, output=str(tmp_path / "o"), export=["trl"])
