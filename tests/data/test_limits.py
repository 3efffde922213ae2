"""Rows and blank space of more bytes than a row may take are refused while they are read, in little memory."""

import gzip
import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nait_fast.data import json_rows, parts, streams
from nait_fast.data.pool import Pool
from tests.data.pools import ROWS, dump, refusal, write_parquet

MIB = 1 << 20
PIECE = b"a" * MIB


def row(mib: int) -> Iterator[bytes]:
    """A JSON row of so much text and a little more."""
    yield b'{"instruction": "'
    for _ in range(mib):
        yield PIECE
    yield b'", "output": "b"}'


def pack(path: Path, pieces: Iterator[bytes]) -> Path:
    if path.suffix == ".gz":
        with gzip.open(path, "wb", 1) as file:
            file.writelines(pieces)
    elif path.suffix == ".zst":
        with pytest.importorskip("zstandard").open(path, "wb") as file:
            for piece in pieces:
                file.write(piece)
    else:
        with open(path, "wb") as file:
            file.writelines(pieces)
    return path


def framed(name: str, pieces: Iterator[bytes]) -> Iterator[bytes]:
    """A good row, and the pieces behind it, as the file of that name holds rows."""
    good = json.dumps(ROWS[0]).encode()
    before, between, after = {
        "list": (b"[", b",\n", b"]"),
        "object": (b'{"version": 1,\n"data": [', b",\n", b"]}"),
        "lines": (b"", b"\n", b"\n"),
    }[name]
    yield before + good + between
    yield from pieces
    yield after


NAMES = [
    "lines.jsonl",
    "lines.jsonl.gz",
    "lines.jsonl.zst",
    "list.json",
    "list.json.gz",
    "list.json.zst",
    "object.json",
    "object.json.gz",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_limit_of_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = pack(tmp_path / name, framed(name.split(".")[0], row(2)))
    where = f"{path}:2: a line" if name.startswith("lines") else f"{path} row 1: a value"
    assert Pool(path).scan().rows == 2
    monkeypatch.setenv(streams.MAX_ROW, "1")
    assert refusal(path) == (
        f"{where} of more than 1 MiB, the limit of a row; remove it, or set NAIT_FAST_MAX_ROW_MIB to what it takes"
    )
    assert "of more than 1 MiB" in refusal(path, skip_bad_rows=True)
    monkeypatch.setenv(streams.MAX_ROW, "3")
    assert Pool(path).lines([0, 1])[1] == b"".join(row(2)).replace(b"\n", b"")


def test_the_limit_of_a_row_in_a_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [*ROWS[:2], {**ROWS[2], "output": "b" * (2 * MIB)}, *ROWS[3:]]
    path = write_parquet(tmp_path / "pool.parquet", rows)
    assert Pool(path).lines(range(5)) == dump(rows)
    monkeypatch.setattr(parts, "BATCH_BYTES", MIB)  # rows of so many bytes are read one at a time
    assert Pool(path, unit_rows=1).lines([4, 2, 0]) == [dump(rows)[i] for i in (4, 2, 0)]
    monkeypatch.setenv(streams.MAX_ROW, "1")
    assert f"{path} row 2: a row of more than 1 MiB" in refusal(path)


def test_a_row_group_of_huge_rows_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write_parquet(
        tmp_path / "pool.parquet", [{**row, "output": chr(97 + i) * (2 * MIB)} for i, row in enumerate(ROWS)]
    )
    monkeypatch.setenv(streams.MAX_ROW, "1")

    def unpack(*_: object, **__: object) -> None:
        raise AssertionError("unpacked")

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", unpack)
    assert f"{path} row group 0: a row of more than 1 MiB" in refusal(path)


def test_the_limit_of_a_row_of_datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list([*ROWS[:2], {**ROWS[2], "output": "b" * (2 * MIB)}]).save_to_disk(str(tmp_path / "set"))
    assert Pool(tmp_path / "set").scan().rows == 3
    monkeypatch.setenv(streams.MAX_ROW, "1")
    assert f"{tmp_path / 'set'} row 2: a row of more than 1 MiB" in refusal(tmp_path / "set")


@pytest.mark.parametrize("name", ["blank.jsonl", "blank.jsonl.gz", "blank.json", "list.json"])
def test_floods_of_blank_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(streams.MAX_ROW, "1")
    path = pack(tmp_path / name, framed("list" if name[0] == "l" else "lines", iter([b"\n" * MIB, b" \n" * MIB])))
    assert "blank space of more than 1 MiB" in refusal(path)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of a process")
def test_a_line_of_one_gigabyte_takes_little_memory(tmp_path: Path) -> None:
    """Resident memory of a process of its own, at the default limit, from 1 MB of gzip and 32 KB of Zstandard."""
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "bomb.jsonl.zst").write_bytes(zstandard.compress(bytes(64 * MIB)) * 16)
    (tmp_path / "bomb.jsonl.gz").write_bytes(gzip.compress(bytes(MIB), 1) * 1024)
    code = (
        "import sys\nfrom nait_fast.data.pool import Pool\nfrom nait_fast.errors import NaitError\n"
        "try:\n    Pool(sys.argv[1]).scan()\nexcept NaitError as error:\n    print(error)\n"
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    for name in ("bomb.jsonl.zst", "bomb.jsonl.gz"):
        ran = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, check=True
        )
        told, peak = ran.stdout.splitlines()[:2]
        assert f"{name}:1: a line of more than 16 MiB" in told
        assert int(peak.split()[1]) < 200 << 10, peak


def test_blank_lines_keep_places_and_numbers(tmp_path: Path) -> None:
    lines = [
        b" " * 5,
        b"",
        b"\t",
        *dump(ROWS[:1]),
        *[b""] * 300,
        b"  ",
        *dump(ROWS[1:2]),
        *[b" "] * 200_000,
        *dump(ROWS[2:4]),
    ]
    path = pack(tmp_path / "pool.jsonl", iter([b"\xef\xbb\xbf" + b"\r\n".join(lines)]))
    pool = Pool(path, unit_rows=1)
    assert pool.lines([3, 1, 0, 2]) == [dump(ROWS)[i] for i in (3, 1, 0, 2)]
    assert [unit.place.line for unit in pool.plan().units] == [4, 306, 200_307, 200_308]
    assert [record.line for _, record in pool.reader().rows()] == [4, 306, 200_307, 200_308]


@pytest.mark.parametrize("told", ["0", "-1", "1.5", "many", "٣", "9" * 400, "1048576"])
def test_a_limit_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str) -> None:
    monkeypatch.setenv(streams.MAX_ROW, told)
    assert "NAIT_FAST_MAX_ROW_MIB=" in refusal(pack(tmp_path / "pool.jsonl", row(0)))


@pytest.mark.parametrize("size", [1, 7, 1 << 14])
def test_archives_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Whatever the pieces, and however much one unpacks to, the bytes are those that were packed."""
    monkeypatch.setattr(streams, "_GZIP_PIECE", size)
    monkeypatch.setattr(streams, "_ZSTD_PIECE", size)
    text = b"".join(bytes([i % 251]) * (i * 37 % 1000) for i in range(700)) + bytes(3 * streams.BLOCK + 1)
    zstandard = pytest.importorskip("zstandard")
    for path, data in (
        (tmp_path / "a.gz", gzip.compress(text[:9000]) + bytes(3) + gzip.compress(text[9000:])),
        (tmp_path / "a.zst", zstandard.compress(text[:9000]) + zstandard.compress(text[9000:])),
    ):
        path.write_bytes(data)
        with streams.open_stream(path, hashlib.sha256()) as stream:
            assert stream.read() == text


def test_rows_nested_too_deep(tmp_path: Path) -> None:
    deep = b'{"text": ' + b"[" * 100_000
    assert "recursion" in refusal(pack(tmp_path / "pool.jsonl", iter([deep])))
    assert "recursion" in refusal(pack(tmp_path / "pool.json", iter([b"[", deep])))


@pytest.mark.parametrize("value", ["", '"a\nb"', "[1 2]", r'"\q"', "nulL"])
def test_what_is_no_json_is_not_taken_for_a_long_value(tmp_path: Path, monkeypatch, value: str) -> None:
    monkeypatch.setenv(streams.MAX_ROW, "1")
    rows = [json.dumps(ROWS[0])] * (3 * MIB // len(json.dumps(ROWS[0])))
    rows[5] = '{"instruction": ' + value + ', "output": "b"}'
    path = tmp_path / "pool.json"
    path.write_text("[" + ",\n".join(rows) + "]")
    assert refusal(path).startswith(f"{path} row 5: not JSON (")


def test_blocks_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        {"instruction": 'é "\\ \U0001f642', "output": "b", "n": [-1.5e10, True, False, None, {"m": {}}, []]},
        {"instruction": "-Infinity", "output": "NaN", "x": float("-inf"), "y": 12345678901234567890},
    ]
    path = tmp_path / "pool.json"
    for indent in (None, 40):
        path.write_text(json.dumps(rows, indent=indent))
        for size in range(1, 60):
            monkeypatch.setattr(json_rows, "BLOCK", size)
            assert list(json_rows.json_list(path, hashlib.sha256())) == rows


def test_parquet_rows_that_share_one_long_value(tmp_path: Path, monkeypatch) -> None:
    """A file of some hundred bytes whose rows take gigabytes is read a few of them at a time."""
    pa, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    text, n = "x" * (300 << 10), 100
    shared = pa.DictionaryArray.from_arrays(pa.array([0] * n, pa.int32()), pa.array([text]))
    path = tmp_path / "pool.parquet"
    parquet.write_table(pa.table({"text": shared, "id": list(range(n))}), path, compression="zstd")
    assert path.stat().st_size < 4096
    read: list[int] = []
    monkeypatch.setattr(parts, "UNPACKED_BYTES", 2 << 20)
    monkeypatch.setattr(parts, "_check", lambda batch, *_: read.append(batch.nbytes))
    rows = [record.payload["id"] for record in parts.ParquetFile(path).records(parts.RowPlace(3, 0))]
    assert rows == list(range(3, n)) and max(read) <= 3 << 20
