"""A pool whose columns and roles have names of their own gives what the same pool under known names gives."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.integrations.batch import BatchScorer
from nait_fast.notices import NaitWarning
from nait_fast.reporting.samples import WantedRows, read_rows
from nait_fast.reporting.selection_folder import open_selection
from tests.conftest import make_rows, write_jsonl

KNOWN = [
    {
        "id": f"r{n}",
        "system": "be brief" if n % 2 else None,
        "messages": [
            {"role": "user", "content": row["instruction"]},
            {"role": "assistant", "content": "one moment"},
            {"role": "tool", "content": str(n)},
            {"role": "assistant", "content": row["output"]},
        ],
    }
    for n, row in enumerate(make_rows(30))
]
WORDS = {"user": "Client", "assistant": "gpt", "tool": "sensor"}
OWN = [
    {
        "key": row["id"],
        "persona": row["system"],
        "dialog": [{"role": WORDS[turn["role"]], "content": turn["content"]} for turn in row["messages"]],
        "messages": "of another kind",
    }
    for row in KNOWN
]
COLUMNS = {"messages": "dialog", "system": "persona", "id": "key"}
ROLES = ["Client=user,sensor=tool"]
MAPPED: dict[str, Any] = {"columns": COLUMNS, "roles": ROLES, "ignore": ["messages"]}
OPTIONS: dict[str, Any] = {"calibration_size": 12, "batch_tokens": 200}


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_model: str) -> Path:
    folder = tmp_path_factory.mktemp("mapped")
    for name, rows, said in (("known", KNOWN, {}), ("own", OWN, MAPPED)):
        write_jsonl(folder / f"{name}.jsonl", rows)
        write_jsonl(folder / f"{name}-goal.jsonl", rows[:8])
        nait_fast.build_index(
            model=tiny_model, dataset=folder / f"{name}.jsonl", output=folder / name, **OPTIONS, **said
        )
        nait_fast.build_signature(
            model=tiny_model,
            target=[f"goal={folder / f'{name}-goal.jsonl'}"],
            codebook=folder / name,
            output=folder / f"{name}-signature",
            batch_tokens=200,
            **said,
        )
    return folder


def rank(place: Path, name: str, output: Path, **budget: Any) -> list[dict]:
    nait_fast.rank(
        index=place / name,
        signature=[place / f"{name}-signature" / "goal.safetensors"],
        output=output,
        export=["llama_factory", "messages", "dataflex"],
        **(budget or {"fraction": 1.0}),
    )
    return [json.loads(line) for line in (output / "selected.jsonl").read_text().splitlines()]


def test_codes_scores_and_conversations_are_the_same(tmp_path: Path, place: Path) -> None:
    known, own = (Index(place / name) for name in ("known", "own"))
    assert own.datasets[0]["columns"] == COLUMNS and own.datasets[0]["roles"] == {"Client": "user", "sensor": "tool"}
    for a, b in zip(known.shards(), own.shards(), strict=True):
        assert np.array_equal(a.codes, b.codes) and np.array_equal(a.n_tokens, b.n_tokens)
    assert [row["id"] for row in rank(place, "known", tmp_path / "known")] == [
        row["key"] for row in rank(place, "own", tmp_path / "own")
    ]
    scores = [(tmp_path / name / "scores.parquet").read_bytes() for name in ("known", "own")]
    conversations = [(tmp_path / name / "messages.jsonl").read_text() for name in ("known", "own")]
    assert scores[0] == scores[1] and conversations[0] == conversations[1]
    assert {turn["role"] for turn in json.loads(conversations[1].splitlines()[0])["messages"]} >= {"user", "tool"}
    entry = json.loads((tmp_path / "own" / "dataset_info.json").read_text())["selected"]
    assert entry["columns"] == {"messages": "dialog", "system": "persona"}
    tags = {"user_tag": "Client", "assistant_tag": "gpt", "observation_tag": "sensor", "role_tag": "role"}
    assert entry["formatting"] == "sharegpt" and entry["tags"].items() >= tags.items()


def test_a_report_shows_the_turns(tmp_path: Path, place: Path) -> None:
    shown = {}
    for name in ("known", "own"):
        rank(place, name, tmp_path / name, top_k=3)
        rows = WantedRows(frozenset(range(30)), frozenset(), np.load(tmp_path / name / "top_indices.npy")[:, 0])
        shown[name] = read_rows(open_selection(tmp_path / name), rows, None, None).texts
    assert len(shown["own"]) == 30 and shown["own"] == shown["known"]
    assert shown["own"][1].turns[:2] == [("system", "be brief"), ("user", make_rows(30)[1]["instruction"])]


def test_another_mapping_is_another_index(place: Path, tiny_model: str) -> None:
    given: dict[str, Any] = {"model": tiny_model, "dataset": place / "own.jsonl", "output": place / "own", **OPTIONS}
    before = (place / "own" / "manifest.json").read_bytes()
    nait_fast.build_index(**given, **MAPPED)
    for changed in (
        {**MAPPED, "columns": {"messages": "dialog", "system": "persona"}},
        {**MAPPED, "roles": ["Client=user,sensor=tool,nobody=user"]},
    ):
        with pytest.raises(NaitError, match=r"holds an index made otherwise: dataset \((columns|roles) \{.*\} -> \{"):
            nait_fast.build_index(**given, **changed)
    with pytest.raises(NaitError, match=r'own\.jsonl:1: "messages" is str, not a list'):
        nait_fast.build_index(**given)
    known = {**given, "dataset": place / "known.jsonl", "output": place / "known"}
    with pytest.raises(NaitError, match=r"known\.jsonl: --columns messages=dialog: no row has the column 'dialog' \("):
        nait_fast.build_index(**known, **MAPPED)
    assert (place / "own" / "manifest.json").read_bytes() == before


def test_select_reads_targets_of_either_kind(tmp_path: Path, place: Path, tiny_model: str) -> None:
    chosen = {}
    for name in ("known", "own"):
        goal = f"goal={place / f'{name}-goal.jsonl'}"
        given: dict[str, Any] = {"model": tiny_model, "dataset": place / "own.jsonl", "target": [goal], **OPTIONS}
        output = tmp_path / name
        if name == "own":
            nait_fast.select(**given, output=output, **MAPPED, fraction=0.5)
            said = json.loads((output / "manifest.json").read_text())["warnings"]
            assert not any("columns" in line for line in said)
        else:
            with pytest.warns(NaitWarning, match="has none of the columns that --columns names, and is read by its"):
                nait_fast.select(**given, output=output, **MAPPED, fraction=0.5)
        chosen[name] = (output / "selected.jsonl").read_bytes()
    assert chosen["known"] == chosen["own"] and len(chosen["own"].splitlines()) == 15


def test_targets_that_have_no_such_column(tmp_path: Path, place: Path, tiny_model: str) -> None:
    given = {"model": tiny_model, "target": [f"goal={place / 'known-goal.jsonl'}"], "codebook": place / "known"}
    with (
        pytest.warns(NaitWarning, match="none of the columns"),
        pytest.raises(NaitError, match=r"^--columns: no target has 'q', 'a'; name columns that are there"),
    ):
        nait_fast.build_signature(**given, output=tmp_path, columns=["prompt=q,response=a"])
    own = {**given, "target": [f"goal={place / 'own-goal.jsonl'}"], "codebook": place / "own"}
    with (
        pytest.warns(NaitWarning, match="no row has 'functions', which --columns names"),
        pytest.raises(NaitError, match=r"^--columns: no target has 'functions'"),
    ):
        nait_fast.build_signature(**own, output=tmp_path, **{**MAPPED, "columns": {**COLUMNS, "tools": "functions"}})


def test_stability_is_measured_on_mapped_targets(tmp_path: Path, place: Path, tiny_model: str) -> None:
    given = {"model": tiny_model, "target": [f"goal={place / 'own-goal.jsonl'}"], "repeats": 1, "sizes": ["4"]}
    measured = nait_fast.evaluate(
        index=place / "own",
        signature=[place / "own-signature" / "goal.safetensors"],
        output=tmp_path,
        **given,
        **MAPPED,
    )
    assert measured["stability"]


def test_rows_in_memory(place: Path, tiny_model: str) -> None:
    signature = place / "own-signature" / "goal.safetensors"
    known = nait_fast.Scorer(tiny_model, [signature], batch_tokens=200).score(KNOWN[:5])
    mapped = nait_fast.Scorer(tiny_model, [signature], batch_tokens=200, **MAPPED)
    assert np.array_equal(mapped.score(OWN[:5]), known)
    with pytest.raises(NaitError, match=r'sample 1: no column "dialog" for messages \(the row has: key\)'):
        mapped.score([OWN[0], {"key": "a"}])
    kept = [{name: row[name] for name in COLUMNS.values()} for row in OWN[:5]]
    batch = {name: [row[name] for row in kept] for name in COLUMNS.values()}
    scorer = BatchScorer(tiny_model, signature, columns=COLUMNS, roles=ROLES, batch_tokens=200)
    assert np.array_equal(scorer(batch)["score.goal"], known[:, 0])
    with pytest.raises(NaitError, match="key is no column of the batch"):
        scorer({name: values for name, values in batch.items() if name != "key"})
    with pytest.raises(NaitError, match="no format reads 'promt'"):
        BatchScorer(tiny_model, signature, columns={"promt": "q"})
    with pytest.raises(NaitError, match=r"^columns: tools=functions: no sample has the column 'functions'"):
        nait_fast.signature_of(
            tiny_model, OWN[:5], codebook=place / "own", **{**MAPPED, "columns": {**COLUMNS, "tools": "functions"}}
        )
    with pytest.raises(NaitError, match=r"^--columns promt=q: no format reads 'promt'"):
        nait_fast.Scorer("no/such-model", [signature], columns=["promt=q"])
