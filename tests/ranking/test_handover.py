"""--export: a selection's files for the tools that train on it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast import NaitError
from nait_fast.config import EXPORTS, SelectOptions
from nait_fast.index.lock import FOLDER_LOCK
from nait_fast.outputs import CLAIM
from nait_fast.ranking import handover
from nait_fast.verbs.look import verify
from tests.conftest import make_rows, write_jsonl


@pytest.fixture(scope="module")
def index(tmp_path_factory, tiny_model: str) -> dict[str, Any]:
    """Options of a rank: rows in three formats, two datasets."""
    folder = tmp_path_factory.mktemp("handover")
    rows = make_rows(40)
    chats = [{"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": r["instruction"]},
                           {"role": "assistant", "content": r["output"]}]} for r in rows[20:30]]  # fmt: skip
    pools = [write_jsonl(folder / "a.jsonl", rows[:20]), write_jsonl(folder / "b.jsonl", chats)]
    target = write_jsonl(folder / "t.jsonl", rows[30:])
    place = str(folder / "index")
    for number, pool in enumerate(pools):
        nait_fast.build_index(model=tiny_model, dataset=str(pool), output=place, calibration_size=10, append=number > 0)
    nait_fast.build_signature(model=tiny_model, target=[f"t={target}"], codebook=place, output=str(folder))
    return {"index": place, "signature": [str(folder / "t.safetensors")]}


def test_names_are_those_of_the_options() -> None:
    assert tuple(handover.EXPORTS) == EXPORTS
    assert SelectOptions.from_mapping({"model": "m", "dataset": "d", "target": ["t"], "output": "o"}).export == (
        "llama_factory",
    )


@pytest.mark.parametrize("names", [("llama_factory",), ("dataflex",), EXPORTS, ()])
def test_the_files_that_are_asked_for(tmp_path: Path, index, names) -> None:
    out = tmp_path / "out"
    nait_fast.rank(**index, output=str(out), fraction=1.0, export=list(EXPORTS))
    told = nait_fast.rank(**index, output=str(out), fraction=0.9, export=list(names))
    files = {handover.EXPORTS[name][0] for name in names}
    assert {path.name for path in out.iterdir()} - {"manifest.json", CLAIM, FOLDER_LOCK} == {
        "selected.jsonl", "scores.parquet", *files,
    }  # fmt: skip
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
        assert conversation.keys() == {"messages"}
        turns = row["messages"] if "messages" in row else [
            {"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]},
        ]  # fmt: skip
        assert conversation["messages"] == turns


def test_what_cannot_be_exported(tmp_path: Path, tiny_model: str, index) -> None:
    pool = write_jsonl(tmp_path / "text.jsonl", [{"text": f"the cat has {r['output']}"} for r in make_rows(12)])
    place = str(tmp_path / "index")
    codebook = index["index"]
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=place, codebook=codebook)
    with pytest.raises(NaitError, match="--export messages: rows of format text are no conversations"):
        nait_fast.rank(index=place, signature=index["signature"], output=str(tmp_path / "o"), export=["messages"])
    with pytest.raises(NaitError, match="--export trl: choose llama_factory, dataflex, messages"):
        nait_fast.rank(**index, output=str(tmp_path / "o"), export=["trl"])
