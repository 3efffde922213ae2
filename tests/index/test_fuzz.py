"""Manifests, lists and plans that an enemy wrote, checksums and all: every reader refuses them with one line, or reads
what they say. Tensors: test_fuzz_tensors.py."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from nait_fast.data.plan import load_plan
from nait_fast.index.duplicates import duplicate_ids
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signature
from nait_fast.storage.files import read_json
from nait_fast.storage.names import CALIBRATION, CODEBOOK, MANIFEST, SKIPPED
from nait_fast.verbs.inspection import inspect, verify
from tests.index.hostile import (
    PLAN,
    SHARD,
    SIGNATURE,
    arrays,
    changed,
    quick,
    read_all,
    read_file,
    refused,
    restored,
    shards,
    well_formed,
)
from tests.index.made import LAYOUT, make, put, seal


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    index = make(tmp_path_factory.mktemp("fuzz") / "index")
    told = verify(str(index))
    assert {**told, "text": ""} == {"path": str(index), "ok": True, "files": 2, "rows": 8, "text": ""}
    assert load_signature(index.parent / SIGNATURE).name == "sums"
    assert duplicate_ids(shards(index)) == [(4, 0)]
    return index


@given(data=st.data())
@settings(quick, max_examples=400)
def test_manifests(index: Path, data: st.DataObject) -> None:
    told = read_json(index / MANIFEST)
    hostile = data.draw(changed({k: v for k, v in told.items() if k != "checksum"}))
    before = arrays(index)
    with restored(index):
        seal(index / MANIFEST, hostile)
        if read_all(index, MANIFEST):  # it says the same of the shards
            assert arrays(index) == before
            assert Index(index).pool_rows == 10 and Index(index).layout == LAYOUT


@pytest.mark.parametrize("depth", [60, 250, 900, 100_000])
def test_deep_values(index: Path, depth: int) -> None:
    for name, keys in ((MANIFEST, ("widths", "shards", "skipped", "path")), (PLAN, ("units", "stamps", "path"))):
        for key in keys:
            with restored(index):
                nested: Any = 7
                for _ in range(min(depth, 250)):  # as deep as can be sealed
                    nested = [nested]
                seal(index / name, {**read_json(index / name), key: nested})
                assert not read_all(index, name) or (name, key) == (MANIFEST, "path")
                text = json.dumps({**read_json(index / name), key: "HERE"}, indent=1)
                (index / name).write_text(text.replace('"HERE"', "[" * depth + "]" * depth) + "\n")
                assert not read_all(index, name)


TYPED = [
    *((("shards", 0, key), value) for key in ("first_row", "pool_rows", "rows", "bytes") for value in (-1, 2**63)),
    (("shards", 0, "first_row"), False),
    (("shards", 0, "first_row"), 0.0),
    (("shards", 0, "rows"), 5.0),
    (("shards", 0, "rows"), "5"),
    (("shards", 0, "pool_rows"), 10),
    (("shards", 0, "file"), "../index/shard-00000.safetensors"),
    (("shards", 1, "file"), "shard-00000.safetensors"),
    (("shards", 1, "first_row"), 0),
    (("datasets", 0, "rows"), 10.0),
    (("datasets", 0, "rows"), 2**70),
    (("rows",), 8.0),
    (("rows",), "8"),
    (("tokens",), 55),
    (("truncated",), True),
    (("duplicate_ids",), 2),
    (("format_version",), 3.0),
    (("row_bytes",), 16.0),
    (("widths",), [40.0, 33]),
    (("widths",), ["40", 33]),
    (("widths",), [41, 33]),
    (("widths",), [2**62, 33]),
    (("layers",), [1, 0]),
    (("layers",), [0]),
    (("skipped", "rows"), 2.0),
    (("skipped", "rows"), 3),
    (("skipped", "reasons"), {}),
    (("skipped", "reasons"), {"empty response": 2}),
    (("skipped", "sha256"), None),
    (("codebook",), None),
    (("codebook",), ""),
    (("codebook",), 7),
    (("calibration",), ""),
    (("calibration",), None),
    (("exact",), {}),
    (("exact",), {"sums": "e" * 16, "more": "e" * 16}),
    (("exact",), {"../sums": "e" * 16}),
    (("exact",), ["sums"]),
    (("datasets",), []),
    (("codec",), "nag"),
    (("max_length",), 6),
    (("first_token",), "include"),
]


@pytest.mark.parametrize(("path", "value"), TYPED, ids=str)
def test_manifests_that_are_nearly_right(index: Path, path: tuple, value: Any) -> None:
    hostile: Any = read_json(index / MANIFEST)
    inside = hostile
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = value
    with restored(index):
        seal(index / MANIFEST, hostile)
        assert not read_all(index, MANIFEST)


@pytest.mark.parametrize("rows", [2**20, 2**40, 2**62])
def test_monstrous_numbers_take_no_memory(index: Path, rows: int) -> None:
    told = read_json(index / MANIFEST)
    other = {**told, "rows": rows, "datasets": [{**told["datasets"][0], "rows": rows}]}
    hostile = [
        {
            **other,
            "shards": [{**told["shards"][0], "pool_rows": rows, "rows": rows}],
            "skipped": {"rows": 0, "reasons": {}},
        },
        {
            **other,
            "rows": 5,
            "shards": [{**told["shards"][0], "pool_rows": rows}],
            "skipped": {**told["skipped"], "rows": rows - 5},
        },
        {
            **told,
            "rows": 0,
            "tokens": 0,
            "widths": [rows, 32],
            "row_bytes": (-(-rows // 32) * 4 + 4 + 15) // 16 * 16,
            "shards": [{**shard, "rows": 0} for shard in told["shards"]],
            "skipped": {**told["skipped"], "rows": 10},
        },
    ]
    with restored(index):
        for manifest in hostile:
            seal(index / MANIFEST, manifest)
            tracemalloc.start()
            assert not read_all(index, MANIFEST)
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 64 << 20


@given(data=st.data())
@quick
def test_lists_of_skipped_rows(index: Path, data: st.DataObject) -> None:
    lines = [json.loads(line) for line in (index / SKIPPED).read_bytes().splitlines()]
    hostile = data.draw(changed({"lines": lines}))
    assume(isinstance(hostile.get("lines"), list))
    written = [json.dumps(line).encode() for line in hostile["lines"]]
    with restored(index):
        put(index, SKIPPED, b"".join(line + b"\n" for line in written))
        if read_all(index, SKIPPED):  # the rows that it names are the same
            assert [line["row"] for line in hostile["lines"]] == [2, 3, 4, 9]


LINES = [
    b"",
    b"null\n",
    b"[]\n",
    b"{}\n",
    b'{"row": 3}\n',
    b"\xff\xfe{\x00}\x00\n",
    b"[" * 50_000,
    b'{"row": ' + b"9" * 5000,
    *(json.dumps({"row": row, "where": "p", "reason": "r"}).encode() for row in (-1, 3.0, True, "3", None, 10, 2**64)),
    b'{"row": 3, "where": "p", "reason": "empty response", "kept": false}\n',
    b'{"row": 3, "where": "p", "reason": "empty response", "kept": true}\n',
    b'{"row": 3, "where": 5, "reason": "empty response"}\n',
    b'{"row": 3, "where": "p", "reason": ["empty response"]}\n',
    b" " * (1 << 21),
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: repr(line[:40]))
def test_lines_that_are_nearly_right(index: Path, line: bytes) -> None:
    lines = (index / SKIPPED).read_bytes().splitlines(keepends=True)
    for place in range(4):
        with restored(index):
            put(index, SKIPPED, b"".join([*lines[:place], line, *lines[place + 1 :]]))
            assert not read_all(index, SKIPPED)
            assert SKIPPED in str(refused(lambda: verify(str(index))))


@given(data=st.data())
@settings(quick, max_examples=250)
def test_plans(index: Path, data: st.DataObject) -> None:
    told = read_json(index / PLAN)
    hostile = data.draw(changed({k: v for k, v in told.items() if k != "checksum"}))
    with restored(index):
        seal(index / PLAN, hostile)
        read_all(index, PLAN)
        refusal = refused(lambda: well_formed(load_plan(index / PLAN)))
        if refusal is not None:
            assert PLAN in refusal and "delete it" in refusal
            assert PLAN in str(refused(lambda: verify(str(index))))


@given(content=st.binary(max_size=80))
@settings(quick, max_examples=25)
def test_noise(index: Path, content: bytes) -> None:
    for name in (MANIFEST, PLAN, SHARD, CODEBOOK, CALIBRATION, SIGNATURE):
        with restored(index):
            (index.parent / name if name == SIGNATURE else index / name).write_bytes(content)
            assert not read_file(index, name)


SELECTIONS = [
    *({"files": value} for value in (None, [], {}, {"selected.jsonl": 3}, {"selected.jsonl": "0" * 64}, "x")),
    {"files": {"../x": "0" * 64, "selected.jsonl": "0" * 64, "dataset_info.json": "0" * 64}},
    *({"verb": value} for value in (None, "x", [], {})),
    *({"rows_selected": value} for value in (None, "x", -1, 1.5)),
    *({"signatures": value} for value in (None, [], {"../sums": "0" * 16}, {"sums": ""}, {"sums": 3})),
]


@pytest.mark.parametrize("change", SELECTIONS, ids=str)
def test_selections(tmp_path: Path, change: dict) -> None:
    for name in ("selected.jsonl", "dataset_info.json"):
        (tmp_path / name).write_bytes(b"")
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    whole = {
        "kind": "nait_fast selection",
        "verb": "rank",
        "signatures": {"sums": "0" * 16},
        "rows_selected": 0,
        "files": {"selected.jsonl": empty, "dataset_info.json": empty},
    }
    seal(tmp_path / MANIFEST, whole)
    assert verify(str(tmp_path))["ok"]
    seal(tmp_path / MANIFEST, {**whole, "verb": "select", **change})
    assert refused(lambda: verify(str(tmp_path)))
    refused(lambda: inspect(str(tmp_path)))
