"""The verbs from the command line: what they write, print and replay."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from nait_fast.cli import EXAMPLES, _respelled, build_parser, main
from tests.commands import ROOT, run, shell, summary
from tests.conftest import make_rows, write_jsonl

KINDS = {"contrast": [], "nait": ["--reading", "drift"], "nag:top_k=9": []}


@pytest.fixture
def words(tiny_model: str, pool_file: Path, target_file: Path) -> list[str]:
    """The arguments that ``select`` needs but for --output."""
    return ["--model", tiny_model, "--dataset", str(pool_file), "--target", f"sums={target_file}"]


def read_scores(folder: Path):
    from pyarrow import parquet

    return parquet.read_table(folder / "scores.parquet")


def test_examples_are_commands_of_their_verbs() -> None:
    parser = build_parser()
    assert EXAMPLES.keys() == parser.verbs.keys()
    for verb, lines in EXAMPLES.items():
        words = shlex.split(" ".join(line.removesuffix("\\") for line in lines))
        assert words[:2] == ["nait-fast", verb] and parser.parse_args(words[1:]).verb == verb
        assert all(len(line) <= 78 for line in lines)
        assert "\n".join(f"  {line}" for line in lines) in parser.verbs[verb].format_help()


@pytest.mark.parametrize(
    ("given", "begins"),
    [("", "usage: nait-fast "), ("help", "usage: nait-fast "), ("help rank", "usage: nait-fast rank ")],
)
def test_help_without_its_flag(given: str, begins: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(given.split())
    assert end.value.code == 0 and capsys.readouterr().out.startswith(begins)


def test_help_lists_what_is_required_first_and_what_all_verbs_have_last(capsys, monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        main(["select", "--help"])
    shown = capsys.readouterr().out
    titles = [line for line in shown.splitlines() if line.endswith(":") and not line.startswith(" ")]
    assert titles[0] == "required:" and titles[-2:] == ["options:", "example:"] and "constraints:" in titles
    required = shown[shown.index("\nrequired:") : shown.index("\nmodel:")]
    assert all(flag in required for flag in ("--model", "--dataset", "--target", "--output"))
    usage = shown[: shown.index("\n\n")].splitlines()
    assert usage[-1].endswith("--output OUTPUT [options]") and all(len(line) <= 80 for line in usage)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("selekt", "did you mean select?"),
        ("help rnak", "did you mean rank?"),
        ("select --model m --fracton 0.1", "unrecognized arguments: --fracton 0.1; did you mean --fraction?"),
        ("select --model m --pool p", "unrecognized arguments: --pool p; did you mean --dataset?"),
        ("rank --index i --budget 5", "unrecognized arguments: --budget 5; did you mean --top-k?"),
        ("select --model m --shard-rows 16", "--shard-rows is an option of index"),
        ("rank --index i --pick topp", "did you mean top?"),
    ],
)
def test_what_may_have_been_meant(given: str, meant: str, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        main(given.split())
    error = capsys.readouterr().err
    assert end.value.code == 2 and meant in error and error.count("\n") == 1


def test_all_that_is_missing_is_told_at_once(capsys) -> None:
    assert main(["select", "--model", "m"]) == 2
    assert "nait-fast select: --dataset, --target, --output are missing" in capsys.readouterr().err


def test_flags_may_be_written_with_underscores() -> None:
    given = ["select", "--max_length", "7", "--top_k=5", "--target", "a_b=c_d.jsonl", "--output=x_y"]
    arguments = build_parser().parse_args(_respelled(given))
    assert (arguments.max_length, arguments.top_k, arguments.target, arguments.output) == (
        7,
        5,
        ["a_b=c_d.jsonl"],
        "x_y",
    )


def test_help_is_quick() -> None:
    best = 9.0
    for _ in range(3):
        began = time.perf_counter()
        ran = shell("--help")
        best = min(best, time.perf_counter() - began)
        assert ran.status == 0 and ran.err == ""
    assert best < 0.5
    for verb in ("select", "index", "signature", "rank", "compare", "validate", "report", "bench", "inspect", "verify"):
        assert verb in ran.out


@pytest.mark.parametrize(
    "verb",
    ["select", "index", "signature", "rank", "compare", "validate", "report", "bench", "inspect", "verify", "demo"],
)
def test_each_verb_has_help(capsys, verb: str) -> None:
    ran = run(capsys, verb, "--help")
    assert ran.status == 0 and ran.out.startswith(f"usage: nait-fast {verb}") and "--json" in ran.out


def test_version(capsys) -> None:
    from nait_fast import __version__

    ran = run(capsys, "--version")
    assert (ran.status, ran.out, ran.err) == (0, f"nait-fast {__version__}\n", "")


def test_importing_loads_nothing_heavy() -> None:
    code = (
        "import sys, nait_fast, nait_fast.cli; "
        "sys.exit(', '.join({'torch', 'transformers', 'numba', 'numpy', 'pyarrow', 'yaml'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_public_names_are_what_they_say() -> None:
    import types

    import nait_fast

    for _ in range(2):  # a first use must not put a submodule in a name's place
        for name in nait_fast.__all__:
            assert not isinstance(getattr(nait_fast, name), types.ModuleType), name
        assert set(nait_fast.__all__) <= set(dir(nait_fast))


@pytest.mark.parametrize("method", KINDS)
def test_select(capsys, tmp_path: Path, words: list[str], pool_file: Path, method: str) -> None:
    out = tmp_path / "out"
    arguments = ["--output", out, "--method", method, *KINDS[method], "--top-k", 7]
    result = summary(capsys, "select", *words, *arguments)
    assert result["method"] == [method.partition(":")[0]] and result["targets"] == ["sums"]
    counts = {key: result[key] for key in ("rows_read", "rows_scored", "rows_selected")}
    assert counts == {"rows_read": 60, "rows_scored": 60, "rows_selected": 7}
    scores = read_scores(out)
    assert [(f.name, str(f.type)) for f in scores.schema] == [
        ("row", "int64"),
        ("id", "string"),
        ("n_tokens", "int32"),
        ("score.sums", "double"),
        ("rank", "int64"),
        ("selected", "bool"),
    ]
    table = scores.to_pydict()
    assert table["row"] == list(range(60)) and table["id"] == [f"r{i}" for i in range(60)]
    by_score = sorted(range(60), key=lambda i: (-table["score.sums"][i], i))
    assert [table["rank"][i] for i in by_score] == list(range(1, 61))
    assert [i for i in range(60) if table["selected"][i]] == sorted(by_score[:7])
    lines = pool_file.read_bytes().splitlines(keepends=True)
    assert (out / "selected.jsonl").read_bytes() == b"".join(lines[i] for i in by_score[:7])
    info = json.loads((out / "dataset_info.json").read_text())
    columns = {"prompt": "instruction", "query": "input", "response": "output"}
    assert info == {"selected": {"file_name": "selected.jsonl", "columns": columns}}
    manifest = json.loads((out / "manifest.json").read_text())
    for key in ("config", "environment", "model", "template", "datasets", "rows_skipped", "tokens_selected", "files"):
        assert key in manifest
    assert manifest["tokens_selected"] == sum(table["n_tokens"][i] for i in by_score[:7])
    assert {p.name for p in out.iterdir()} == {
        ".nait-fast.json",
        ".nait-fast.lock",
        "config.yaml",
        "dataset_info.json",
        "index",
        "manifest.json",
        "scores.parquet",
        "selected.jsonl",
        "signatures",
    }
    assert summary(capsys, "verify", out)["ok"] is True


def test_the_method_tells_the_target(capsys, tmp_path: Path, words: list[str]) -> None:
    result = summary(capsys, "select", *words, "--output", tmp_path / "out", "--fraction", "0.5")
    chosen = [json.loads(line)["source"] for line in (tmp_path / "out" / "selected.jsonl").read_text().splitlines()]
    assert result["rows_selected"] == 30 and chosen.count("sums") > 20


@pytest.mark.parametrize("method", KINDS)
def test_step_by_step_equals_select(capsys, tmp_path: Path, words: list[str], method: str) -> None:
    options = [*KINDS[method]] if method != "nait" else []
    summary(capsys, "select", *words, "--output", tmp_path / "whole", "--method", method, *options)
    codec = ["--codec", method] if method.startswith("nag") else []
    index, signature = tmp_path / "index", tmp_path / "sums.safetensors"
    model, pool, target = words[:2], words[2:4], words[4:]
    if method == "nait":
        summary(capsys, "signature", *model, *target, "--method", method, "--output", tmp_path)
        summary(capsys, "index", *model, *pool, "--output", index, "--exact", signature)
    else:
        result = summary(capsys, "index", *model, *pool, "--output", index, *codec, *options)
        assert (result["rows_indexed"], result["format"], result["template"]) == (60, "alpaca", "chat")
        codebook = ["--codebook", index] if method == "contrast" else []
        arguments = [*model, *target, "--method", method, *codebook, *options, "--output", tmp_path]
        (described,) = summary(capsys, "signature", *arguments)["signatures"]
        assert described["name"] == "sums" and described["samples"] == 20
    summary(capsys, "rank", "--index", index, "--signature", signature, "--output", tmp_path / "ranked")
    for name in ("scores.parquet", "selected.jsonl", "dataset_info.json"):
        assert (tmp_path / "ranked" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    for path in (index, tmp_path / "ranked"):
        assert summary(capsys, "verify", path)["ok"] is True
    assert summary(capsys, "inspect", index)["rows"] == 60
    assert summary(capsys, "inspect", signature)["method"] == method.partition(":")[0]
    assert summary(capsys, "inspect", tmp_path / "ranked")["verb"] == "rank"
    assert summary(capsys, "inspect", words[3])["format"] == "alpaca"


def test_a_config_replays_a_run(capsys, tmp_path: Path, words: list[str]) -> None:
    first, again, other = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    given = [
        "--fraction",
        "0.3",
        "--max-length",
        "200",
        "--method",
        "contrast:planes=3",
        "--seed",
        "5",
        "--template",
        "alpaca",
    ]
    summary(capsys, "select", *words, *given, "--output", first, "--pick", "random")
    config = yaml.safe_load((first / "config.yaml").read_text())
    assert config["target"] == [words[5]] and (config["method"], config["fraction"]) == ("contrast:planes=3", 0.3)
    summary(capsys, "select", "--config", first / "config.yaml", "--output", again)
    for name in ("selected.jsonl", "scores.parquet", "signatures/sums.safetensors", "index/manifest.json"):
        assert (first / name).read_bytes() == (again / name).read_bytes()
    replay = ["select", "--config", first / "config.yaml", "--output", other, "--pick", "top", "--seed", "6"]
    summary(capsys, *replay)  # flags win
    config |= {"output": str(other), "pick": "top", "seed": 6}
    assert yaml.safe_load((other / "config.yaml").read_text()) == config
    # In place, and once more: nothing changes.
    before = {p: p.read_bytes() for p in first.rglob("*") if p.suffix in (".safetensors", ".parquet", ".jsonl")}
    # A budget given as a flag takes the place of the file's, whichever kind it is.
    smaller = summary(
        capsys, "select", "--config", first / "config.yaml", "--output", again, "--top-k", 2, "--overwrite"
    )
    assert smaller["rows_selected"] == 2
    result = summary(capsys, "select", "--config", first / "config.yaml")
    assert result["extraction"]["tokens_run"] == 0 and {p: p.read_bytes() for p in before} == before
    rank = ["rank", "--index", first / "index", "--signature", first / "signatures" / "sums.safetensors"]
    summary(capsys, *rank, "--output", tmp_path / "d", "--token-budget", "200")
    summary(capsys, "rank", "--config", tmp_path / "d" / "config.yaml", "--output", tmp_path / "e")
    assert (tmp_path / "d" / "selected.jsonl").read_bytes() == (tmp_path / "e" / "selected.jsonl").read_bytes()


def test_several_targets(capsys, tmp_path: Path, words: list[str]) -> None:
    texts = write_jsonl(tmp_path / "texts.jsonl", [r for r in make_rows(40, seed=2) if r["source"] == "texts"])
    selected = {}
    for combine in ("mean", "max", "union", "roundrobin"):
        out = tmp_path / combine
        arguments = ["--target", texts, "--combine", combine, "--top-k", 4, "--output", out]
        selected[combine] = summary(capsys, "select", *words, *arguments)["rows_selected"]
        table = read_scores(out)
        assert table.column_names[3:5] == ["score.sums", "score.texts"]
        ranked = np.argsort(table["rank"].to_numpy())
        lines = (out / "selected.jsonl").read_text().splitlines()
        chosen = [i for i in ranked if table["selected"][int(i)].as_py()]
        assert [json.loads(line)["id"] for line in lines] == [f"r{i}" for i in chosen]
    assert (selected["mean"], selected["max"], selected["roundrobin"]) == (4, 4, 4) and 4 <= selected["union"] <= 8


def test_bad_rows_are_counted(capsys, tmp_path: Path, words: list[str], pool_file: Path) -> None:
    lines = pool_file.read_bytes().splitlines(keepends=True)
    lines[10:10] = [b"{oops\n", b'{"instruction": "x"}\n']
    pool_file.write_bytes(b"".join(lines))
    out = tmp_path / "out"
    result = summary(capsys, "select", *words, "--skip-bad-rows", "--output", out, "--fraction", 1)
    assert (result["rows_read"], result["rows_scored"], result["rows_selected"]) == (62, 60, 60)
    assert result["rows_skipped"]["rows"] == 2
    assert {json.loads(line)["row"] for line in (out / "index" / "skipped.jsonl").read_text().splitlines()} == {10, 11}
    assert sorted((out / "selected.jsonl").read_bytes().splitlines(keepends=True)) == sorted(
        line for i, line in enumerate(lines) if i not in (10, 11)
    )


def test_plain_output(capsys, tmp_path: Path, words: list[str]) -> None:
    ran = run(capsys, "select", *words, "--output", tmp_path / "out", "--layers=-2--1")
    assert (ran.status, ran.err) == (0, "") and ran.out.startswith("6 of ")


def test_as_a_user_runs_it(tmp_path: Path, words: list[str]) -> None:
    ran = shell("select", *words, "--output", tmp_path / "out", "--json")
    assert ran.summary["rows_selected"] == 6 and ran.out.count("\n") == 1
    again = shell("rank", "--index", tmp_path / "out", "--signature", "x", "--output", tmp_path / "ranked")
    assert "x: no such file" in again.error


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_completion_is_a_script_that_the_shell_takes(capsys, name: str) -> None:
    ran = run(capsys, "--completion", name)
    assert ran.status == 0 and "--near-duplicates" in ran.out
    if shutil.which(name):
        assert subprocess.run([name, "-n"], input=ran.out, text=True, capture_output=True).stderr == ""
    assert "choose bash, zsh" in run(capsys, "--completion", "other").error


@pytest.mark.parametrize(
    ("verb", "flags", "words"),
    [
        ("select", ["--dataset", "{pool}", "--target", "a={none}.jsonl"], "{none}.jsonl: no such file or folder"),
        ("select", ["--dataset", "{pool}", "--target", "{pool}", "--fraction", "2"], "--fraction 2.0: must be"),
        ("index", ["--dataset", "{pool}", "--codebook", "{none}"], "--codebook {none}: no such file or folder"),
    ],
)
def test_files_and_numbers_are_checked_before_torch_is_imported(
    tmp_path: Path, verb: str, flags: list[str], words: str
) -> None:
    """As a process: torch must not even be there."""
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(4))
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (tmp_path / "config.json").touch()
    named = {"pool": pool, "none": tmp_path / "none"}
    given = [flag.format(**named) for flag in flags]
    ran = shell(verb, "--model", tmp_path, "--output", tmp_path / "out", *given, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert words.format(**named) in ran.error
