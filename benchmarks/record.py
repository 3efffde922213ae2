"""Result rows, JSON lines under ``benchmarks/results/<hardware>/`` with hardware, versions and commit: written, read,
shown."""

import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nait_fast.env import environment, processor_of
from nait_fast.evaluation.writing import table as markdown_table

RESULTS = Path(__file__).resolve().parent / "results"


def hardware(env: dict[str, Any]) -> str:
    """Folder name of this machine's results: its first GPU, or its CPU's model and number of cores."""
    cpu = re.sub(r"\((R|TM)\)|\b(CPU|Processor)\b|@ *[\d.]+ *GHz", "", env["cpu"])
    name = f"{env['gpus'][0]}" if env["gpus"] else f"cpu-{cpu}-{env['cores']}c"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def record(benchmark: str, rows: list[dict[str, Any]], folder: Path | None = None) -> Path:
    """Append ``rows`` to ``<benchmark>.jsonl`` of this hardware; returns the file."""
    env = environment()
    path = (folder or RESULTS / hardware(env)) / f"{benchmark}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", "-m", f"benchmarks.{benchmark}", *map(_shown, sys.argv[1:])])
    stamp = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with open(path, "a", encoding="utf-8") as file:
        for row in rows:
            row = {"benchmark": benchmark, **row, "processor": processor_of(env)}
            row |= {"time": stamp, "command": command, "environment": env}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def _shown(argument: str) -> str:
    """Of a path its name, for a machine's folders say nothing to a reader; a share, 1/3, as it is."""
    return argument if re.fullmatch(r"\d+/\d+", argument) else Path(argument).name or argument


def rows_in(path: Path) -> list[dict[str, Any]]:
    """All rows of a file; none where it is not there."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def newest(path: Path, **wanted: Any) -> list[dict[str, Any]]:
    """The rows of the last run in ``path`` whose fields equal ``wanted``."""
    rows = [row for row in rows_in(path) if all(row.get(k) == v for k, v in wanted.items())]
    return [row for row in rows if row["time"] == rows[-1]["time"]]


def source_of(rows: list[dict[str, Any]]) -> str:
    """Where the figures of ``rows`` are from: machine, versions, commit, command."""
    env = rows[0]["environment"]
    place = env["gpus"][0] if env["gpus"] else processor_of(env)
    versions = ", ".join(f"{p} {env[p]}" for p in ("torch", "transformers", "numba") if env.get(p))
    commit = env["commit"] or "not recorded"
    return f"{place}; Python {env['python']}, {versions}; commit {commit}; `{rows[0]['command']}`"


def sourced(text: str, rows: list[dict[str, Any]]) -> str:
    """``text`` with the source of its figures below."""
    return f"{text}\n{source_of(rows)}\n"


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """A Markdown table of ``rows``; nothing without rows."""
    return markdown_table(columns, ([row.get(column, "") for column in columns] for row in rows))
