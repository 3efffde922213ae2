"""Hostile values for every option, hostile configs, environments and streams: one line, never a traceback."""

import contextlib
import dataclasses
import io
import json
import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.cli import VERBS, main
from nait_fast.config import MergeOptions, RankOptions, SelectOptions
from nait_fast.config_file import MOST_BYTES, read_config
from nait_fast.env import VARIABLES as VARIABLES_KNOWN
from nait_fast.env import check_variables, pick_device
from nait_fast.errors import NaitError
from nait_fast.models.spec import parse_layers
from nait_fast.options import Options, flag_of
from tests.commands import ROOT, run
from tests.conftest import make_rows, write_jsonl

NOT_UTF8 = os.fsdecode(b"/tmp/\xff\xfe")
HOSTILE = {
    str: ["", "\0", "a\0b", NOT_UTF8, "\ud800", "x" * 5000, "/proc/self/mem", "/dev/null", "-", "9" * 5000, "a=b\nc"],
    int: ["", "9" * 5000, "1e9", "-1", "0x10", "١", "1.5", "nan", "\0", str(1 << 64)],
    float: ["", "nan", "inf", "-inf", "1e400", "9" * 5000, "one", "\0"],
}
FLAGS = [
    (verb, field.name)
    for verb, (kind, _, _) in VERBS.items()
    for field in dataclasses.fields(kind)
    if field.type not in ("bool", bool)
]


def one_line(capsys: pytest.CaptureFixture[str], *words: str, old: bool = False) -> str:
    """``old``: a flag that is an old spelling, of which a warning may come first."""
    ran = run(capsys, *words)
    said, error = "", ran.err
    if old and error.startswith("nait-fast: warning: "):
        said, _, error = error.partition("\n")
        assert said.endswith("; the old flag will go")
    assert ran.status == 2 and error.startswith("nait-fast: error: ") and error.count("\n") == 1, (words, ran)
    assert len(ran.err) < 1000 and "Traceback" not in ran.err
    return error


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_with_hostile_values(capsys, monkeypatch, tmp_path: Path, verb: str) -> None:
    """The other options name what is not there, so that whatever is not refused before fails on that."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    kind = VERBS[verb][0]
    absent = str(tmp_path / "absent")
    needed = {f.name: absent for f in dataclasses.fields(kind) if f.metadata.get("required")}
    needed |= (
        {"compare": absent} if verb == "bench" else {"output": str(tmp_path / "out")} if "output" in needed else {}
    )
    for field in dataclasses.fields(kind):
        of = int if "int" in str(field.type) else float if "float" in str(field.type) else str
        for value in HOSTILE[of] if "bool" not in str(field.type) else ["x"]:
            if value.startswith("/") and field.name in ("output", "plots"):
                continue
            words = [f"{flag_of(name)}={given}" for name, given in needed.items() if name != field.name]
            old = bool({"setting", "renamed"} & field.metadata.keys())
            one_line(capsys, verb, *words, f"{flag_of(field.name)}={value}", old=old)


@pytest.mark.parametrize("path", ["\0", NOT_UTF8, "", "x" * 5000, "/dev/null", "/proc/self/mem"])
def test_hostile_paths(capsys, tmp_path: Path, path: str) -> None:
    for verb in ("inspect", "verify"):
        one_line(capsys, verb, path)
    if not path.startswith("/dev"):
        one_line(capsys, "demo", "--model", "./nowhere", "--output", path or "\0")


VALUES = [
    "2026-01-02",
    "2026-99-99",
    "12:30:45",
    "017",
    "1:30.5",
    "!!timestamp x",
    "!!int ''",
    "!!int x",
    "!!float x",
    "!!bool maybe",
    "!!binary x",
    "!!set {a, b}",
    "!!python/name:os.system ''",
    "!own x",
    ".nan",
    ".inf",
    "1.0",
    "0x" + "f" * 5000,
    "9" * 5000,
    "{}",
    "{a: b}",
    "[[a]]",
    "[{a: b}]",
    "[2026-01-02]",
    "[1.5]",
    "[null]",
    '"\\0"',
    '"\\ud800"',
    "''",
    "[]",
    "true",
    "null",
    "[" * 5,
    "[" * 100_000,
    "{" * 100_000,
    "{a: " * 5000 + "1" + "}" * 5000,
    "[" * 3000 + "]" * 3000,
]


@pytest.mark.parametrize("kind", [SelectOptions, RankOptions, MergeOptions])
def test_every_option_with_hostile_yaml(tmp_path: Path, kind: type[Options]) -> None:
    import yaml

    needed = {f.name: "x" for f in dataclasses.fields(kind) if f.metadata.get("required")}
    path, taken = tmp_path / "c.yaml", 0
    for value in VALUES:
        for field in dataclasses.fields(kind):
            path.write_text(f"{field.name}: {value}\n")
            try:
                read = read_config(str(path), kind)
            except NaitError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
                if "cannot be read" in str(error):
                    break  # whatever the option
                continue
            try:
                options = kind.from_mapping({**needed, **read}, "here")
            except NaitError as error:
                assert "\n" not in str(error) and len(str(error)) < 1000
                continue
            mapping = options.to_mapping()
            assert kind.from_mapping(mapping) == options  # a nan would not be equal
            assert "\0" not in yaml.safe_dump({field.name: mapping.get(field.name)})
            taken += 1
    assert taken < len(VALUES) * len(dataclasses.fields(kind)) / 4


CONFIGS = {
    "a: &a [x]\nb: *a\n": "aliases",
    "&a top_k: 3\n*a : 4\n": "aliases",
    "a: &a ["
    + "x," * 9
    + "]\n"
    + "".join(f"{c}: &{c} [" + f"*{p}," * 9 + "]\n" for p, c in pairwise("abcdefghi")): "aliases",
    "top_k: 3\ntop_k: 4\n": "a key is there twice",
    "? [a]\n: b\n": "cannot be read",
    "? {a: b}\n: c\n": "cannot be read",
    "top_k: " + "[" * 100_000: "nested too deep",
    "- " * 100_000 + "x": "nested too deep",
    "a:\n b:\n  c:\n   d:\n    e: 1\n": "nested too deep",
    "x: '" + "y" * MOST_BYTES + "'": "larger than",
    "2026-01-02: x\n": "unknown option '2026-01-02'",
    "? " + "9" * 4000 + "\n: x\n": "unknown option '9999",
    "top_k: 12:30:45\n": "write 12:30:45 as a plain number",
    "top_k: 017\n": "write 017 as a plain number",
    "fraction: 0:30.5\n": "write 0:30.5 as a plain number",
    "null: x\n": "unknown option 'None'",
    "~\n": "",
    "--- a\n--- b\n": "cannot be read",
    "%YAML 9.9\n---\na: b\n": "cannot be read",
    "\tx: y\n": "cannot be read",
}


@pytest.mark.parametrize("text", CONFIGS, ids=[f"{n}-{words}" for n, words in enumerate(CONFIGS.values())])
def test_hostile_configs(capsys, tmp_path: Path, text: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    words = ["rank", "--index", "nowhere", "--signature", "nowhere", "--output", str(tmp_path / "out")]
    assert CONFIGS[text] in one_line(capsys, *words, "--config", str(tmp_path / "c.yaml"))


def test_a_config_from_python_costs_one_line_too() -> None:
    import datetime

    needed: dict[str, Any] = {"index": "x", "signature": ["x"], "output": "x"}
    nested: list[Any] = []
    nested.append(nested)
    deep: list[Any] = []
    for _ in range(5000):
        deep = [deep]
    for value in (
        datetime.date(2026, 1, 2),
        nested,
        deep,
        10**5000,
        10**400,
        b"x",
        {"a"},
        object(),
        1j,
        NOT_UTF8,
        "\0",
    ):
        for name in ("top_k", "fraction", "pick", "dataset", "output", "index"):
            with pytest.raises(NaitError) as error:
                nait_fast.rank(**{**needed, name: value})
            assert "\n" not in str(error.value) and len(str(error.value)) < 500


def test_the_config_of_an_older_run_still_runs(tmp_path: Path) -> None:
    """It holds every option, those of other methods at what was their default."""
    whole = {f.name: f.default for f in dataclasses.fields(SelectOptions)}
    whole |= {
        "model": "m",
        "dataset": "d",
        "target": ["a=b"],
        "output": "o",
        "method": "nait",
        "export": ["llama_factory"],
        "weights": "difference",
        "planes": 4,
        "sign": "mean",
        "nag_top_k": 20,
    }
    import yaml

    (tmp_path / "c.yaml").write_text(yaml.safe_dump(whole, sort_keys=False))
    options = SelectOptions.from_mapping(read_config(str(tmp_path / "c.yaml"), SelectOptions))
    assert options == SelectOptions.from_mapping(
        {"model": "m", "dataset": "d", "target": ["a=b"], "output": "o", "method": "nait"}
    )
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**whole, "planes": 7}))
    with pytest.raises(NaitError, match="--planes 7: is for method contrast, not nait; leave it out"):
        SelectOptions.from_mapping(read_config(str(tmp_path / "c.yaml"), SelectOptions))
    again = SelectOptions.from_mapping(options.to_mapping())
    assert again == options and not {"planes", "sign"} & options.to_mapping().keys()


VARIABLES = [
    ("NAIT_FAST_BACKEND", "bogus", "choose triton, cpu, reference"),
    ("NAIT_FAST_BACKEND", "x" * 9999, "choose triton"),
    ("NAIT_FAST_LINEAR", "mkl", "choose torch, blocked"),
    ("NUMBA_NUM_THREADS", "abc", "must be a whole number of threads"),
    ("NUMBA_NUM_THREADS", "0", "must be a whole number of threads"),
]


@pytest.mark.parametrize(("name", "value", "words"), VARIABLES)
def test_variables_that_mean_nothing(capsys, monkeypatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    error = one_line(capsys, "inspect", "nowhere")
    assert error.startswith(f"nait-fast: error: {name}={value[:20]}") and words in error


def test_every_variable_is_known() -> None:
    files = [path for folder in ("nait_fast", "kernels") for path in (ROOT / folder).rglob("*.py")]
    read = {name for path in files for name in re.findall(r"\bNAIT_FAST_[A-Z_]*[A-Z]\b", path.read_text())}
    assert read == set(VARIABLES_KNOWN)


def test_a_variable_that_nobody_reads(capsys, monkeypatch) -> None:
    monkeypatch.setenv("NAIT_FAST_BACKNED", "cpu")
    ran = run(capsys, "inspect", "nowhere")
    assert "nait-fast: warning: NAIT_FAST_BACKNED: no variable that is read; known are NAIT_FAST_BACKEND" in ran.err
    check_variables(
        {
            "NAIT_FAST_CACHE": "/some/where",
            "NAIT_FAST_BACKEND": "",
            "NAIT_FAST_LINEAR": "torch",
            "NUMBA_NUM_THREADS": "2",
            "HOME": "\0",
        }
    )


@pytest.mark.parametrize(
    "device", ["meta", "cpu:x", "", "\0", "cuda:-1", "cuda:" + "9" * 5000, "xla", "fpga", "lazy", "vulkan", "hpu", "0"]
)
def test_devices_that_do_not_compute(device: str) -> None:
    with pytest.raises(NaitError) as error:
        pick_device(device)
    assert "not usable here" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400


@pytest.mark.parametrize("layers", ["9" * 5000, "0-" + "9" * 5000, "0," * 5000, "", "--", "٣٣", "1e3", "\0", "0-1-2"])
def test_layers(layers: str) -> None:
    with pytest.raises(NaitError) as error:
        parse_layers(layers, 3)
    assert len(str(error.value)) < 400


def test_a_fault_of_the_program_costs_one_line(capsys, monkeypatch) -> None:
    def broken(path: str) -> None:
        raise ValueError("first\nsecond")

    monkeypatch.setattr("nait_fast.verbs.inspection.inspect", broken)
    ran = run(capsys, "inspect", "x")
    assert ran.status == 70 and ran.out == "" and ran.err.count("\n") == 1
    assert (
        "a fault of nait-fast itself (ValueError: first second); please report it" in ran.err and "--debug" in ran.err
    )
    with pytest.raises(ValueError, match="first"):
        main(["inspect", "x", "--debug"])

    for error in (MemoryError(), RuntimeError("CUDA error: out of memory")):

        def full(path: str, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("nait_fast.verbs.inspection.inspect", full)
        assert "not enough memory" in one_line(capsys, "inspect", "x")


def test_a_summary_is_json_whatever_is_in_it(monkeypatch) -> None:
    import numpy as np

    odd = {
        "nan": float("nan"),
        "inf": [float("-inf")],
        "number": np.float32(0.5),
        "array": np.arange(2),
        "path": Path("x"),
        1: {"set": {3}},
        "none": None,
        "truth": True,
        "text": "\ud800\x1b[2J",
    }
    monkeypatch.setattr("nait_fast.verbs.inspection.inspect", lambda path: odd)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["inspect", "x", "--json"]) == 0
    printed = json.loads(out.getvalue(), parse_constant=lambda name: pytest.fail(name))
    assert printed == {
        "nan": None,
        "inf": [None],
        "number": 0.5,
        "array": [0, 1],
        "path": "x",
        "1": {"set": "{3}"},
        "none": None,
        "truth": True,
        "text": "\ud800\x1b[2J",
        "warnings": [],
    }


def test_streams_that_take_nothing(tmp_path: Path) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", [{**row, "output": "é😀"} for row in make_rows(4)])
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}

    def nait(redirect: str) -> tuple[int, str, str]:
        command = f"{sys.executable} -m nait_fast inspect {pool} {redirect}"
        done = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {command}"], env=environment, capture_output=True, text=True
        )
        return done.returncode, done.stdout, done.stderr

    assert nait("| (exec true)")[::2] in ((141, ""), (0, ""))  # by who is faster
    status, out, _ = nait("2>&-")
    assert status == 0 and "\\xe9\\U0001f600" in out
    assert nait(">&-") == (0, "", "")
    status, _, err = nait("> /dev/full")
    assert status == 2 and err == "nait-fast: error: standard output: No space left on device; the work is done\n"
