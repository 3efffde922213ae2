"""Writes a selection: the chosen rows, all scores, a manifest and LLaMA-Factory's dataset_info.json."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.data.pool import Pool, PoolInfo
from nait_fast.index.files import sha256, write_atomic, write_json
from nait_fast.ranking.select import Selection

SELECTED, SCORES, DATASET_INFO = "selected.jsonl", "scores.parquet", "dataset_info.json"


def write_scores(
    path: Path,
    rows: np.ndarray,
    ids: Sequence[str | None],
    n_tokens: np.ndarray,
    names: Sequence[str],
    scores: np.ndarray,
    selection: Selection,
) -> None:
    """``scores.parquet``: row int64, id string, n_tokens int32, score.<target> float64, rank int64, selected bool."""
    import pyarrow as pa
    from pyarrow import parquet

    columns: dict[str, Any] = {
        "row": pa.array(rows, pa.int64()),
        "id": pa.array(ids, pa.string()),
        "n_tokens": pa.array(n_tokens, pa.int32()),
        **{f"score.{name}": pa.array(scores[:, c], pa.float64()) for c, name in enumerate(names)},
        "rank": pa.array(selection.rank, pa.int64()),
        "selected": pa.array(selection.selected, pa.bool_()),
    }
    buffer = io.BytesIO()
    parquet.write_table(pa.table(columns), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def write_selected(path: Path, pool: Pool, rows: np.ndarray) -> str:
    """The rows of ``pool`` in the given order, each as it stands in the pool; returns the file's SHA-256."""
    data = b"".join(line + b"\n" for line in pool.lines(rows))
    write_atomic(path, data)
    return sha256(data)


def write_dataset_info(path: Path, info: PoolInfo, first_line: bytes) -> None:
    """LLaMA-Factory's description of ``selected.jsonl`` (pre-tokenised rows have none there: an empty object)."""
    row = json.loads(first_line)

    def present(**names: Sequence[str]) -> dict[str, str]:
        found = {column: next((n for n in keys if row.get(n) is not None), None) for column, keys in names.items()}
        return {column: name for column, name in found.items() if name}

    entry: dict[str, Any] = {"file_name": SELECTED}
    if info.format == "alpaca":
        entry["columns"] = present(prompt=["instruction"], query=["input", "context"], response=["output", "response"],
                                   system=["system"], history=["history"])  # fmt: skip
    elif info.format == "sharegpt":
        entry |= {"formatting": "sharegpt", "columns": present(messages=["conversations", "conversation"],
                                                               system=["system"], tools=["tools"])}  # fmt: skip
    elif info.format == "messages" or isinstance(row.get("prompt"), list):
        tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant",
                "system_tag": "system"}  # fmt: skip
        entry |= {"formatting": "sharegpt", "columns": {"messages": "messages"}, "tags": tags}
    elif info.format == "prompt_completion":
        entry["columns"] = present(
            prompt=["prompt", "query", "question"], response=["completion", "response", "answer"]
        )
    elif info.format == "text":
        entry["columns"] = {"prompt": "text"}
    write_json(path, {} if info.format == "input_ids" else {"selected": entry})
