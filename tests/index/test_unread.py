"""What an index does not read of its pool is counted in notes, manifest and summaries, and said once of each key."""

import json
import shlex
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import nait_fast
from nait_fast.cli import build_parser
from nait_fast.data.unread import warn_unread
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.notices import NaitWarning, recorded
from tests.commands import beside_cautions, run
from tests.conftest import make_rows, write_jsonl
from tests.data.shapes import TOOL, call, said
from tests.data.test_template_date import LLAMA
from tests.index.bits import digest
from tests.index.stopping import Stopped, stopping_at

OPTIONS: dict[str, Any] = {"shard_rows": 4, "calibration_size": 20, "batch_tokens": 200}
DATED: dict[str, Any] = {**OPTIONS, "calibration_size": 4}


def rows_of(n: int, seed: int = 0) -> list[dict]:
    """Conversations, every third with a rationale, every fifth with tools, every seventh with a call and reasoning."""
    made = []
    for i, row in enumerate(make_rows(n, seed)):
        answer = said("assistant", row["output"])
        if i % 7 == 0:
            answer |= {"tool_calls": [call(port="Hull")], "reasoning_content": "because of the moon"}
        turns = [said("user", row["instruction"]), answer]
        made.append({"id": f"{seed}-{i}", "messages": turns, "source": "web"})
        made[-1] |= {"rationale": "so it is"} if i % 3 == 0 else {}
        made[-1] |= {"tools": [TOOL]} if i % 5 == 0 else {}
    return made


UNREAD, UNSHOWN = {"rationale": 14}, {"reasoning_content": 6, "tool_calls": 6, "tools": 8}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", rows_of(40))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model: str, pool: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "index"
    with pytest.warns(NaitWarning, match="14 rows hold 'rationale', which is not read; --ignore rationale silences"):
        nait_fast.build_index(model=tiny_model, dataset=pool, output=folder, **OPTIONS)
    return folder


def told(folder: Path) -> tuple[dict, dict]:
    manifest = Index(folder).manifest
    return manifest["unread"], manifest["unshown"]


def quietly(call, **options) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NaitWarning)
        with recorded() as said_of:
            call(**options)
    return said_of


def test_it_is_in_the_manifest_and_the_summary(whole: Path, tiny_model: str, pool: Path) -> None:
    assert told(whole) == (UNREAD, UNSHOWN)
    assert Index(whole).verify() == []
    log = json.loads((whole / "log.json").read_text())
    assert (log["unread"], log["unshown"]) == (UNREAD, UNSHOWN)
    lines = quietly(
        nait_fast.build_index, model=tiny_model, dataset=pool, output=whole, **OPTIONS
    )  # complete: says it again
    assert lines == [
        f"{pool}: 14 rows hold 'rationale', which is not read; --ignore rationale silences this",
        *(
            f"{pool}: {n} rows hold '{what}', which the template does not show the model (all or part of it); --ignore "
            f"{what} silences this"
            for what, n in UNSHOWN.items()
        ),
    ]


@pytest.mark.parametrize("kind", [pytest.param("workers", marks=pytest.mark.slow), "ignored", "stopped"])
def test_the_bytes_do_not_depend_on_how(kind: str, tmp_path: Path, tiny_model: str, pool: Path, whole: Path) -> None:
    given = {"model": tiny_model, "dataset": pool, "output": tmp_path, **OPTIONS}
    if kind == "workers":
        lines = quietly(nait_fast.build_index, workers=2, **given)
        assert len(lines) == 4
    elif kind == "ignored":
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            nait_fast.build_index(ignore=["rationale", *UNSHOWN], **given)
    else:
        with stopping_at(3), pytest.raises(Stopped):
            nait_fast.build_index(**given)
        notes = [json.loads(p.read_text()) for p in sorted((tmp_path / "work").glob("shard-*.json"))]
        assert len(notes) == 3 and all(note["unread"].keys() <= {"rationale"} for note in notes)
        assert sum(note["unshown"].get("tools", 0) for note in notes) == 3
        quietly(nait_fast.build_index, **given)
    assert digest(tmp_path) == digest(whole)


def test_added_and_joined_indexes_add_up(tmp_path: Path, tiny_model: str, whole: Path) -> None:
    more = write_jsonl(tmp_path / "more.jsonl", rows_of(10, seed=1))
    shutil.copytree(whole, tmp_path / "added")
    given = {"model": tiny_model, "dataset": more, **OPTIONS}
    lines = quietly(nait_fast.build_index, output=tmp_path / "added", append=True, **given)
    total = ({"rationale": 18}, {"reasoning_content": 8, "tool_calls": 8, "tools": 10})
    assert told(tmp_path / "added") == total
    assert lines[0].startswith(f"the 2 datasets of {tmp_path / 'added'}: 18 rows hold 'rationale'")
    del given["calibration_size"]
    quietly(nait_fast.build_index, output=tmp_path / "other", codebook=whole, **given)
    nait_fast.merge(index=[whole, tmp_path / "other"], output=tmp_path / "joined")
    assert told(tmp_path / "joined") == total
    assert Index(tmp_path / "joined").verify() == []


def test_select_says_it_of_pool_and_target(capsys, tmp_path: Path, tiny_model: str, pool: Path) -> None:
    target = write_jsonl(tmp_path / "goal.jsonl", [{**row, "hint": "a long way"} for row in rows_of(6, seed=2)])
    arguments = [
        "--model",
        tiny_model,
        "--dataset",
        pool,
        "--target",
        target,
        "--output",
        tmp_path / "out",
        "--json",
        "--calibration-size",
        20,
        "--export",
        "dataflex",
    ]
    ran = run(capsys, "select", *arguments)
    assert ran.status == 0
    lines = ran.err.splitlines()
    assert f"nait-fast: warning: {target}: 6 rows hold 'hint', which is not read; --ignore hint silences this" in lines
    assert sum("rationale" in line for line in lines) == 2  # of the target, of the pool
    summary = json.loads(ran.out.splitlines()[-1])
    assert (summary["extraction"]["unread"], summary["extraction"]["unshown"]) == (UNREAD, UNSHOWN)
    assert [f"nait-fast: warning: {line}" for line in beside_cautions(summary["warnings"])] == lines
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["warnings"] == summary["warnings"]
    ran = run(
        capsys,
        "select",
        *arguments,
        "--ignore",
        "hint",
        "rationale",
        "tools",
        "--ignore",
        "tool_calls",
        "reasoning_content",
    )
    assert (ran.status, ran.err) == (0, "")


def test_a_scorer_says_each_key_once(tmp_path: Path, tiny_model: str) -> None:
    rows = rows_of(12)
    with pytest.warns(NaitWarning, match=r"the samples: 4 rows hold 'rationale', .*; ignore=\['rationale'\] silences"):
        signature = nait_fast.signature_of(tiny_model, rows, method="nait")
    scorer = nait_fast.Scorer(tiny_model, [signature])
    with pytest.warns(NaitWarning, match=r"Scorer: 2 rows hold 'rationale', .*; ignore=\['rationale'\] silences"):
        scorer.score(rows[:6])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer.score(rows)
        nait_fast.Scorer(tiny_model, [signature], ignore=["rationale", *UNSHOWN]).score(rows)
        nait_fast.Scorer(tiny_model, [signature], ignore="hint").score([{**make_rows(1)[0], "hint": "a long way"}])
    roles = nait_fast.Scorer(tiny_model, [signature], roles={"Kritiker": "user"})
    assert roles.score([{"messages": [said("Kritiker", "why"), said("assistant", "the rain")]}]).shape == (1, 1)


def test_rows_with_a_false_label(tmp_path: Path, tiny_model: str) -> None:
    rows = [
        {"prompt": r["instruction"], "completion": r["output"], "label": i % 4 > 0} for i, r in enumerate(make_rows(24))
    ]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    given = {"model": tiny_model, "dataset": pool, **OPTIONS}
    lines = quietly(nait_fast.build_index, output=tmp_path / "index", **given)
    reason = "its label is false: an answer not to learn from"
    assert lines == [f"{pool}: 6 rows are left out: {reason}; --ignore label reads them, too"]
    assert Index(tmp_path / "index").manifest["skipped"]["reasons"] == {reason: 6}
    listed = [json.loads(line) for line in (tmp_path / "index" / "skipped.jsonl").read_text().splitlines()]
    assert [entry["row"] for entry in listed] == [0, 4, 8, 12, 16, 20]
    nait_fast.build_index(output=tmp_path / "all", ignore=["label"], **given)
    assert Index(tmp_path / "all").rows == 24
    with pytest.raises(NaitError, match="holds an index made otherwise: dataset"):
        nait_fast.build_index(output=tmp_path / "index", ignore=["label"], **given)


def test_roles_of_the_user(capsys, tmp_path: Path, tiny_model: str) -> None:
    rows = [{"messages": [said("Kritiker", r["instruction"]), said("assistant", r["output"])]} for r in make_rows(24)]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    command = ["index", "--model", tiny_model, "--dataset", pool, "--output", tmp_path / "index"]
    assert "unknown role 'Kritiker' (--roles Kritiker=user would read it)" in run(capsys, *command).error
    assert run(capsys, *command, "--roles", "Kritiker=user", "--json").summary["rows_indexed"] == 24
    assert Index(tmp_path / "index").datasets[0]["roles"] == {"Kritiker": "user"}
    assert "write NAME=ROLE" in run(capsys, *command, "--roles", "Kritiker").error


@pytest.fixture(scope="module")
def dated(tmp_path_factory, tiny_model: str) -> str:
    """The tiny model with a template that asks for the date."""
    folder = tmp_path_factory.mktemp("dated") / "model"
    shutil.copytree(tiny_model, folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.chat_template = LLAMA
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_another_date_is_another_template(tmp_path: Path, dated: str) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(12))
    target = write_jsonl(tmp_path / "sums.jsonl", make_rows(6, seed=1))
    given = {"model": dated, "dataset": pool, **DATED}
    nait_fast.build_index(output=tmp_path / "index", **given)
    manifest = Index(tmp_path / "index").manifest
    assert manifest["template_date"] == "2024-07-26"
    later = {"template_date": "2031-03-03"}
    with pytest.raises(NaitError, match=r"template_date \(2024-07-26 -> 2031-03-03"):
        nait_fast.build_index(output=tmp_path / "index", **given, **later)
    nait_fast.build_index(output=tmp_path / "later", **given, **later)
    assert Index(tmp_path / "later").manifest["template"] != manifest["template"]
    with pytest.raises(NaitError, match="another template"):
        nait_fast.merge(index=[tmp_path / "index", tmp_path / "later"], output=tmp_path / "joined")
    for codebook, date in (("index", {}), ("later", later)):
        nait_fast.build_signature(
            model=dated,
            target=[f"{codebook}={target}"],
            codebook=tmp_path / codebook,
            output=tmp_path / "signatures",
            **date,
        )
    with pytest.raises(NaitError, match="made with another template"):
        nait_fast.build_signature(model=dated, target=[target], codebook=tmp_path / "later", output=tmp_path / "s")
    files = {name: tmp_path / "signatures" / f"{name}.safetensors" for name in ("index", "later")}
    with pytest.raises(NaitError, match="was made with another template"):
        nait_fast.rank(index=tmp_path / "index", signature=[files["later"]], output=tmp_path / "ranked")
    row = make_rows(1)[0]
    scores = {name: nait_fast.Scorer(dated, [file]).score([row])[0, 0] for name, file in files.items()}
    assert scores["index"] != scores["later"]  # each with its signature's date
    with pytest.raises(NaitError, match="was made with another template"):
        nait_fast.Scorer(dated, [files["later"]], template_date="2024-07-26")


@pytest.mark.parametrize("key", ["hint", "a'b", "-x", "--x y", "é ß", "$(a)", "x=y", ""])
def test_what_silences_a_key_can_be_typed(key: str, recwarn) -> None:
    warn_unread("the pool", {key: 1}, {}, ())
    told = str(recwarn.pop(NaitWarning).message)
    assert told.startswith(f"the pool: 1 row holds '{key}', which is not read")
    if not key:  # no option names it
        assert told.endswith("not read")
        return
    flags = shlex.split(told.split("not read; ")[1].removesuffix(" silences this"))
    pool = ["index", "--model", "m", "--dataset", "d", "--output", "o"]
    assert build_parser().parse_args([*pool, *flags]).ignore == [key]
