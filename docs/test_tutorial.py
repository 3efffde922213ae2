"""The commands of the tutorial and of README, one after another as they stand there, with a tiny model in place of
theirs."""

import json
import os
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nait_fast.demo import HELD_OUT, TARGETS, data, held_out
from tests.commands import ROOT, beside_cautions, run

LINE = re.compile(r"([A-Z]+)=(\S.*)")


def commands(page: Path) -> Iterator[str]:
    """Each command of the page's bash blocks: continued lines joined, without comments."""
    for block in re.findall(r"^```bash\n(.*?)^```", page.read_text(), re.S | re.M):
        for line in block.replace("\\\n", " ").splitlines():
            if words := shlex.split(line, comments=True, posix=False):
                yield " ".join(words)


def check_install(command: str) -> None:
    """That the extras are there; nothing is installed."""
    section = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    (named,) = re.findall(r"\[(.*?)\]", command)
    assert {*named.split(",")} <= {*re.findall(r"^(\w+) = \[", section, re.M)}


def write_demo() -> None:
    """What is read of the demo's output here: its data."""
    Path("demo-output").mkdir()
    for name in ("pool", *TARGETS):
        Path("demo-output", f"{name}.jsonl").write_bytes(data(name))
    for name, file in HELD_OUT.items():
        Path("demo-output", file).write_bytes(held_out(name))


def run_page(page: Path, model: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Run the page's commands in the current folder; returns those of nait-fast, without its name."""
    done = []
    for command in commands(page):
        first = command.split()[0]
        if first == "pip":
            check_install(command)
        elif first == "make":
            makefile = (ROOT / "Makefile").read_text()
            assert (
                command == "make demo" and re.search("^demo:", makefile, re.M) and "[demo,report,validate]" in makefile
            )
            write_demo()
        elif command == "nait-fast demo --model $MODEL --output demo-output":  # tests/test_demo.py runs it
            write_demo()
        elif first == ".":
            assert command == ". .venv/bin/activate"
        elif assigned := LINE.fullmatch(command):
            assert assigned[1] == "MODEL"
        elif first == "nait-fast":
            words = [model if word in ("$MODEL", '"$MODEL"') else word for word in command.split()[1:]]
            ran = run(capsys, *words)
            assert (ran.status, beside_cautions(ran.err.splitlines())) == (0, []), (command, ran.err)
            done.append(" ".join(words))
        else:
            subprocess.run(command, shell=True, check=True, capture_output=True)
    return done


def rows(file: str) -> int:
    return len(Path(file).read_text().splitlines())


@pytest.mark.filterwarnings("ignore")
def test_tutorial(tiny_model: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_page(ROOT / "docs" / "tutorial.md", tiny_model, capsys)
    assert [line.split()[0] for line in done[:4]] == ["inspect", "inspect", "index", "signature"]
    assert rows("chosen/selected.jsonl") == rows("chosen/messages.jsonl") == 42 and rows("code-40/selected.jsonl") == 40
    assert rows("both/selected.jsonl") > 0 and rows("random/selected.jsonl") > 0 and Path("chosen/report.html").exists()


@pytest.mark.filterwarnings("ignore")
def test_readme(tiny_model: str, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nait_fast.verbs.validate.ENOUGH", 512)  # as much as a tiny model wants
    done = run_page(ROOT / "README.md", tiny_model, capsys)
    assert [line.split()[0] for line in done] == ["select", "inspect", "validate", "rank", "report"]
    assert "Does it train better?" in Path("chosen/report.html").read_text(encoding="utf-8")
    assert rows("chosen/selected.jsonl") == 42 and rows("chosen-20/selected.jsonl") == 20
    assert os.path.getsize("chosen/report.html") > 50_000
    (program,) = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
    monkeypatch.setattr("glob.glob", lambda pattern: [tiny_model])
    names: dict[str, Any] = {}
    exec(program, names)
    best = [json.loads(line)["instruction"] for line in Path("chosen/selected.jsonl").read_text().splitlines()[:5]]
    pool = [json.loads(line)["instruction"] for line in Path("demo-output/pool.jsonl").read_text().splitlines()]
    assert [pool[row] for row in names["chosen"].rows] == best
