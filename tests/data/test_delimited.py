"""CSV and TSV: every row, or one line that says where and why not; from any place on, as the plan cuts them."""

import csv
import gzip
import io
import json
import random
from pathlib import Path

import pytest

from nait_fast.data import streams
from nait_fast.data.delimited import DelimitedText
from nait_fast.data.parts import Delimited, RowPlace
from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from tests.data.pools import refusal

ROWS = [
    {"id": "0", "prompt": "why", "response": "rain"},
    {"id": "1", "prompt": 'say "hi",\nthen\r\n\r\ngo', "response": "\n"},
    {"id": "2", "prompt": " né, 😀 ", "response": 'a"b'},
    {"id": "3", "prompt": "tab\there", "response": '"'},
    {"id": "4", "prompt": None, "response": "only"},
]


def written(rows: list[dict], **options: str) -> bytes:
    out = io.StringIO()
    table = csv.DictWriter(out, list(rows[0]), **options)
    table.writeheader()
    table.writerows(rows)
    return out.getvalue().encode()


def make(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    if name.endswith(".zst"):
        content = pytest.importorskip("zstandard").compress(content)
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def rows_of(pool: Pool) -> list[dict]:
    return [json.loads(line) for line in pool.lines(range(pool.plan().rows))]


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.tsv", "a.csv.gz", "a.tsv.zst"])
def test_rows_are_objects_of_texts(tmp_path: Path, name: str, end: str, bom: bytes) -> None:
    delimiter = "\t" if ".tsv" in name else ","
    path = make(tmp_path, name, bom + written(ROWS, delimiter=delimiter, lineterminator=end))
    pool = Pool(path, skip_bad_rows=True)
    info = pool.scan()
    assert (info.kind, info.format, info.rows, info.good) == ("csv", "prompt_completion", 5, 3)
    assert [(skipped.where.rpartition(":")[2], skipped.reason) for skipped in info.skipped] == [
        ("3", "empty response"),
        ("10", '"prompt" is null, not a string'),
    ]
    assert rows_of(pool) == ROWS
    assert pool.lines([2]) == [json.dumps(ROWS[2], ensure_ascii=False).encode()]
    assert [sample.id for sample in pool.samples()] == ["0", "2", "3"]


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
@pytest.mark.parametrize("unit_rows", [1, 2, 3])
def test_units_begin_anywhere(tmp_path: Path, name: str, unit_rows: int) -> None:
    rows = [{"text": f"{n}\n,\"'{n}" * (n % 4), "n": str(n)} for n in range(1, 11)]
    rows = [{**row, "text": row["text"] or None} for row in rows]
    path = make(tmp_path, name, written(rows))
    plan = Pool(path, unit_rows=unit_rows).plan()
    for units in (plan.units, plan.units[::-1], plan.units[::2]):
        pool = Pool(path, unit_rows=unit_rows)
        pool.plan(plan)
        reader = pool.reader()
        for unit in units:
            read = [record.payload for _, record in reader.unit(unit)]
            assert read == rows[unit.row : unit.row + unit.rows], unit
            lines = [record.line for _, record in pool.reader().unit(unit)]
            assert lines[0] == unit.place.line


def test_folders_of_files_with_headers_of_their_own(tmp_path: Path) -> None:
    make(tmp_path, "1.csv", b"text,n\na,1\n\nb,2")
    make(tmp_path, "2.csv.gz", b"n,text\n3,c\n")
    make(tmp_path, "3.tsv", b"text\nd\n")
    pool = Pool(tmp_path, unit_rows=2)
    assert (pool.scan().kind, [sample.text for sample in pool.samples()]) == ("csv", ["a", "b", "c", "d"])
    assert [unit.part for unit in pool.plan().units] == [0, 1]
    assert refusal(tmp_path, unit_rows=2, format="alpaca").startswith(f"{tmp_path / '1.csv'}:2: no key")


@pytest.mark.parametrize("seed", range(20))
def test_fields_are_those_of_the_standard_library(seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(200):
        text = "".join(generator.choice(['"', '"', ",", "\n", "a", "é", " ", '""', '"\n', ',"']) for _ in range(12))
        for end in ("\n", "\r\n"):
            ended = text.replace("\n", end)
            try:
                wanted = [row for row in csv.reader(io.StringIO(ended, newline=""), strict=True) if row]
            except csv.Error:
                wanted = None
            try:
                table = DelimitedText(io.BytesIO(ended.encode()), "t", b",")
                found = []
                while table.place() is not None:
                    found.append([field.decode() for field in table.record()])
            except NaitError:
                found = None
            assert found == wanted, ended


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.csv", b"", ": holds no rows"),
        ("a.csv", b"text\n\n\r\n", ": holds no rows"),
        ("a.csv", b"text,n\na,1\nb\n", ":3: 1 field for 2 columns: quote fields that hold a comma or a quote; fix the"),
        ("a.csv", b"text,n\na,b,c\n", ":2: 3 fields for 2 columns: quote fields that hold a comma or a quote"),
        ("a.tsv", b"text\tn\na,b\tc\td\n", ":2: 3 fields for 2 columns: quote fields that hold a tab or a quote"),
        ("a.csv", b'text,n\n"a\nb,1\nc,2\n', ":2: the quotes that open a field are never closed, and no row after it"),
        ("a.csv", b'text,n\n"a\nb"c,1\n', ":3: text follows the quotes that close a field, and no row after it can"),
        ("a.csv", b'text,n\n"say \\"hi\\"",1\n', ":2: text follows the quotes that close a field"),
        ("a.csv", b"text,n\na\rb,1\n", ":2: a carriage return outside of quotes; fix the row"),
        ("a.csv", b"text,n\ra,1\rb,2\r", ":1: its lines end in carriage returns alone; store it with newlines"),
        ("a.csv", b"text,n\n\xff,1\n", ":2: not UTF-8 text (byte 1 of column 'text')"),
        ("a.csv", b"t\xffxt,n\n\xff,1\n", ":1: not UTF-8 text; store the file as UTF-8"),
        ("a.csv", "text,n\na,1\n".encode("utf-16"), ":1: UTF-16 text; store the file as UTF-8"),
        ("a.csv", b"text,n,text\na,1,b\n", ":1: two columns are called 'text'; rename one"),
        ("a.csv", b"text;n\na;1\n", ":1: its columns seem to be separated by a semicolon, not by a comma; write .csv"),
        ("a.csv", b"text\tn\na\t1\n", ":1: its columns seem to be separated by a tab, not by a comma"),
        ("a.tsv", b"text,n\na,1\n", ":1: its columns seem to be separated by a comma, not by a tab"),
        ("a.csv", b"why,rain\nwho,sun\n", ":2: no known format (alpaca, sharegpt, messages, prompt_completion, text, "),
        ("a.csv", b"input_ids\n1 2\n", ':2: "input_ids" is str, not a list'),
    ],
)
def test_what_is_no_table(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = make(tmp_path, name, content)
    assert refusal(path).startswith(f"{path}{reason}")
    assert refusal(make(tmp_path, f"{name}.gz", content)).startswith(f"{path}.gz{reason}")


def test_bad_rows_are_skipped_where_the_next_one_is_known(tmp_path: Path) -> None:
    path = make(tmp_path, "a.csv", b'text,n\na,1\nb\n"c\n",2\n\xff,3\nd,4\n')
    info = Pool(path, skip_bad_rows=True).scan()
    assert (info.rows, info.good) == (5, 3)
    assert [(skipped.row, skipped.where) for skipped in info.skipped] == [(1, f"{path}:3"), (3, f"{path}:6")]


def test_columns_without_a_name(tmp_path: Path) -> None:
    path = make(tmp_path, "a.csv", b",text,\n0,a,\n1,b,x\n")  # as pandas writes its index
    pool = Pool(path)
    assert rows_of(pool)[1] == {"Unnamed: 0": "1", "text": "b", "Unnamed: 2": "x"}
    assert [sample.unread for sample in pool.samples()] == [(), ()]


def test_labels_and_empty_fields(tmp_path: Path) -> None:
    path = make(tmp_path, "a.csv", b'prompt,completion,label,system\nwhy,rain,True,\nwho,sun,False,""\nhow,so,,brief\n')
    pool = Pool(path)
    assert [sample.turns[0] for sample in pool.samples()] == [("user", "why"), ("system", "brief")]
    assert [skipped.row for skipped in pool.scan().skipped] == [1]


def test_rows_longer_than_a_block_and_than_a_row_may_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": f'{"x" * length}\n"{length}', "n": "1"} for length in (1, 50, 3, 200)]
    with monkeypatch.context() as patch:
        patch.setattr(streams, "BLOCK", 7)
        for name in ("a.csv", "a.csv.gz"):
            assert rows_of(Pool(make(tmp_path, name, written(rows)), unit_rows=2)) == rows
    monkeypatch.setenv(streams.MAX_ROW, "1")
    limit = 1 << 20
    line = b"x" * 1020 + b"\n"
    for content, reason in (
        (
            b'text\n"' + line * 1100 + b'"\n',
            ":2: a record (are its quotes closed?) of more than 1 MiB, the limit of a row",
        ),
        (b"text,n\n" + (b'"' + line + b'",') * 1100, ":1025: a record (are its quotes closed?) of more than 1 MiB"),
        (b"text\n" + b"x" * limit + b"\n", ":2: a line of more than 1 MiB"),
        (b"text\n" + b"\r\n" * (limit // 2 + 1), ":524291: blank space of more than 1 MiB"),
    ):
        assert reason in refusal(make(tmp_path, "b.csv", content))


def test_a_part_reads_from_any_of_its_places(tmp_path: Path) -> None:
    path = make(tmp_path, "a.csv", written(ROWS))
    part = Delimited(path, b",")
    import hashlib

    digest = hashlib.sha256()
    places = [place for place, _ in part.places(digest)]
    assert digest.hexdigest() == hashlib.sha256(path.read_bytes()).hexdigest()
    for number, place in enumerate(places):
        read = [record.payload for record in Delimited(path, b",").records(place)]
        assert read == ROWS[number:]
    assert [record.payload for record in part.records(RowPlace(0, 1))] == ROWS
