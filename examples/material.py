"""Small data for the examples: the demo's labelled pool and targets, as files."""

import json
import sys
from pathlib import Path

from nait_fast import demo
from nait_fast.verbs.demo import find_model


def arguments() -> tuple[Path, str]:
    """(folder to work in, model) of the command line."""
    work = Path(sys.argv[1] if len(sys.argv) > 1 else "work")
    work.mkdir(parents=True, exist_ok=True)
    return work, sys.argv[2] if len(sys.argv) > 2 else find_model()


def write(path: Path, rows: list[dict]) -> str:
    """JSON lines."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pool_rows(step: int = 12) -> list[dict]:
    """Every ``step``-th row of the demo's pool: Alpaca format, with ``source``."""
    return demo.pool_rows()[::step]


def target_rows(name: str, n: int = 12) -> list[dict]:
    """``n`` in-domain samples of 'arithmetic' or 'code'; none is in the pool."""
    return demo.target_rows(name)[:n]
