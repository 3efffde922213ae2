"""Result rows: JSON lines under ``benchmarks/results/<hardware>/``, each with hardware, versions and commit."""

import json
import re
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nait_fast.env import environment

RESULTS = Path(__file__).resolve().parent / "results"


def hardware(env: dict[str, Any]) -> str:
    """Folder name of this machine's results: its first GPU, or its CPU and number of cores."""
    name = f"{env['gpus'][0]}" if env["gpus"] else f"cpu-{env['cpu']}-{env['cores']}c"
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def record(benchmark: str, rows: list[dict[str, Any]], folder: Path | None = None) -> Path:
    """Append ``rows`` to ``<benchmark>.jsonl`` of this hardware; returns the file."""
    env = environment()
    path = (folder or RESULTS / hardware(env)) / f"{benchmark}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    # Paths of the machine say nothing to a reader: the command keeps file names only.
    command = " ".join(["python", "-m", f"benchmarks.{benchmark}", *(Path(a).name or a for a in sys.argv[1:])])
    stamp = datetime.now(timezone.utc).isoformat(timespec="seconds")
    with open(path, "a", encoding="utf-8") as file:
        for row in rows:
            row = {"benchmark": benchmark, **row, "time": stamp, "command": command, "environment": env}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    return path


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """A Markdown table of ``rows``."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(c, "") for c in columns]
        lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)
