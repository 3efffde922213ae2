"""Small pools in every container, and the message with which a pool is refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError

ROWS = [{"id": f"r{i}", "instruction": f"Say {i} – né?", "input": "", "output": f"{i} 😀"} for i in range(5)]


def dump(rows: list) -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def write(path: Path, lines: list[bytes], end: bytes = b"\n") -> Path:
    path.write_bytes(b"".join(line + end for line in lines))
    return path


def refusal(source: object, **options: object) -> str:
    """The message with which a scan refuses the source: always one line."""
    with pytest.raises(NaitError) as error:
        Pool(source, **options).scan()
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message
    return message


def make_jsonl(folder: Path) -> Path:
    return write(folder / "pool.jsonl", dump(ROWS))


def make_gz(folder: Path) -> Path:
    half = len(ROWS) // 2
    parts = [gzip.compress(b"\n".join(part) + b"\n") for part in (dump(ROWS[:half]), dump(ROWS[half:]))]
    (folder / "pool.jsonl.gz").write_bytes(b"".join(parts))
    return folder / "pool.jsonl.gz"


def make_zst(folder: Path) -> Path:
    zstandard = pytest.importorskip("zstandard")
    half = len(ROWS) // 2
    parts = [zstandard.compress(b"\n".join(part) + b"\n") for part in (dump(ROWS[:half]), dump(ROWS[half:]))]
    (folder / "pool.ndjson.zst").write_bytes(b"".join(parts))
    return folder / "pool.ndjson.zst"


def make_json(folder: Path) -> Path:
    (folder / "pool.json").write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    return folder / "pool.json"


def make_json_gz(folder: Path) -> Path:
    (folder / "pool.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    return folder / "pool.json.gz"


def make_json_data(folder: Path) -> Path:
    (folder / "pool.json").write_text(json.dumps({"version": 1, "data": ROWS}), encoding="utf-8-sig")
    return folder / "pool.json"


def make_json_lines(folder: Path) -> Path:
    return write(folder / "pool.json", [b"", *dump(ROWS)])


def write_parquet(path: Path, rows: list) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def make_parquet(folder: Path) -> Path:
    return write_parquet(folder / "pool.parquet", ROWS)


def make_parquet_folder(folder: Path) -> Path:
    (folder / "shards").mkdir()
    write_parquet(folder / "shards" / "b.parquet", ROWS[3:])
    write_parquet(folder / "shards" / "a.parquet", ROWS[:3])
    (folder / "shards" / "README.md").write_text("not data")
    return folder / "shards"


def make_jsonl_folder(folder: Path) -> Path:
    (folder / "shards").mkdir()
    write(folder / "shards" / "1.jsonl", dump(ROWS[:2]))
    (folder / "shards" / "2.jsonl.gz").write_bytes(gzip.compress(b"\n".join(dump(ROWS[2:]))))
    return folder / "shards"


def make_disk(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(ROWS).save_to_disk(str(folder / "saved"))
    return folder / "saved"


MAKERS: list[tuple[Callable[[Path], Path], str]] = [
    (make_jsonl, "jsonl"),
    (make_gz, "jsonl"),
    (make_zst, "jsonl"),
    (make_json, "json"),
    (make_json_gz, "json"),
    (make_json_data, "json"),
    (make_json_lines, "jsonl"),
    (make_parquet, "parquet"),
    (make_parquet_folder, "parquet"),
    (make_jsonl_folder, "jsonl"),
    (make_disk, "disk"),
]
