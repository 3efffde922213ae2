"""A pool's rows: which are good, what is said of the bad, and that they come back as they were stored."""

import json
import tempfile
from collections.abc import Callable
from math import isfinite
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from tests.data import pools
from tests.data.pools import (
    ROWS,
    dump,
    make_disk,
    make_gz,
    make_json,
    make_jsonl,
    make_jsonl_folder,
    make_parquet,
    make_parquet_folder,
    refusal,
    write,
)


def test_lines_are_byte_identical(tmp_path: Path) -> None:
    lines = [
        b'{"text": "plain"}',
        '  {"text" :\t"né 😀 \u2028 \\u00e9", "x": 1.0, "x": 1e5 } '.encode(),
        b'{"text":"NaN","v":NaN}',
        b'{"text":"last"}',
    ]
    for end in (b"\n", b"\r\n", b"\n\n", b"\r\n \t\r\n"):
        pool = Pool(write(tmp_path / "pool.jsonl", lines, end))
        assert pool.lines([3, 1, 0, 2]) == [lines[i] for i in (3, 1, 0, 2)]
    (tmp_path / "pool.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join(lines))
    assert Pool(tmp_path / "pool.jsonl").lines(range(4)) == lines


def test_bad_json_in_the_middle_names_the_line(tmp_path: Path) -> None:
    lines = dump(ROWS)
    path = write(tmp_path / "pool.jsonl", [*lines[:2], b"", b'{"instruction": oops}', *lines[2:]])
    message = refusal(path)
    assert message.startswith(f"{path}:4: not JSON: Expecting value, column 17")
    assert "fix the row or pass --skip-bad-rows" in message


BAD = [
    (b'{"instruction": "a"}', 'no key "output"'),
    (b'{"instruction": "a", "output": 1}', '"output" is int'),
    (b'{"instruction": "a", "output": " "}', "empty response"),
    (b'{"instruction": "a", "output"', "not JSON"),
    (b"[1]", "a row must be a JSON object, not list"),
    (b'{"instruction": "\xff", "output": "a"}', "not UTF-8 text (byte 18 of the line)"),
    (b'{"text": "another format"}', 'no key "instruction"'),
    (b'{"instruction": "a", "output": "\\ud800"}', "surrogate"),
    (b"[" * 100_000, "not JSON that can be read"),
    (b'{"n": ' + b"9" * 5000 + b"}", "not JSON that can be read"),
]


@pytest.mark.parametrize(("line", "reason"), BAD, ids=[reason for _, reason in BAD])
def test_bad_rows_stop_the_scan(tmp_path: Path, line: bytes, reason: str) -> None:
    path = write(tmp_path / "pool.jsonl", [dump(ROWS)[0], line])
    message = refusal(path)
    assert message.startswith(f"{path}:2: ") and reason in message and "--skip-bad-rows" in message


def test_bad_rows_are_counted_and_listed(tmp_path: Path) -> None:
    good = dump(ROWS)
    path = write(tmp_path / "pool.jsonl", [b"", *[line for line, _ in BAD], *good])
    pool = Pool(path, skip_bad_rows=True)
    # The first row with a known format that parses fixes the format: here the text row.
    assert pool.scan().format == "text"

    lines = [good[0], *[line for line, _ in BAD], b"  ", *good[1:]]
    pool = Pool(write(path, lines), skip_bad_rows=True)
    info = pool.scan()
    assert (info.format, info.rows, info.good) == ("alpaca", len(BAD) + 5, 5)
    assert [skipped.row for skipped in info.skipped] == list(range(1, len(BAD) + 1))
    assert [skipped.where for skipped in info.skipped] == [f"{path}:{n}" for n in range(2, len(BAD) + 2)]
    for skipped, (_, reason) in zip(info.skipped, BAD, strict=True):
        assert reason in skipped.reason
    rows = [sample.row for sample in pool.samples()]
    assert rows == [0, *range(len(BAD) + 1, len(BAD) + 5)]
    assert [sample.id for sample in pool.samples()] == [f"r{i}" for i in range(5)]
    assert pool.lines(rows) == good
    assert pool.lines([1]) == [BAD[0][0]]


@pytest.mark.parametrize("make", [make_json, make_parquet, make_disk])
def test_bad_rows_elsewhere_are_named_by_their_number(
    tmp_path: Path, make: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "ROWS", [*ROWS[:3], {**ROWS[3], "output": ""}])
    source = make(tmp_path)
    assert refusal(source).startswith(f"{source} row 3: empty response; ")
    info = Pool(source, skip_bad_rows=True).scan()
    assert (info.rows, info.good, info.skipped[0].where) == (4, 3, f"{source} row 3")


def test_no_row_is_usable(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [b"{", b"}"])
    message = refusal(path, skip_bad_rows=True)
    assert "not one of its 2 rows" in message and f"{path}:1: not JSON" in message


def test_unknown_keys(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", [b'{"foo": "a", "b\\nr": "c"}'])
    for options in ({}, {"skip_bad_rows": True}):
        message = refusal(path, **options)
        for part in (f"{path}:1", "foo", "alpaca, sharegpt, messages", "--format"):
            assert part in message


def test_format_override(tmp_path: Path) -> None:
    path = write(tmp_path / "pool.jsonl", dump([{**row, "text": "whole"} for row in ROWS]))
    assert Pool(path).scan().format == "alpaca"
    pool = Pool(path, format="text")
    assert pool.scan().format == "text"
    assert [sample.text for sample in pool.samples()] == ["whole"] * 5


def test_wrong_format_flag(tmp_path: Path) -> None:
    path = make_jsonl(tmp_path)
    message = refusal(path, format="sharegpt")
    assert f'{path}:1: no key "conversations"' in message and "--format alpaca" in message
    assert "sharegpt, messages" in refusal(path, format="chatml")
    assert "not one of its 5 rows" in refusal(path, format="sharegpt", skip_bad_rows=True)


@pytest.mark.parametrize("make", [make_jsonl, make_gz, make_json, make_jsonl_folder, make_parquet_folder])
def test_a_changed_pool_is_noticed(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    source = make(tmp_path)
    pool = Pool(source)
    pool.scan()
    changed = tmp_path / "changed"
    changed.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pools, "ROWS", [*ROWS[:4], {**ROWS[4], "output": "other"}])
        other = make(changed)
    for path in [source] if source.is_file() else sorted(source.iterdir()):
        path.write_bytes((other if source.is_file() else other / path.name).read_bytes())
    for read in (lambda: pool.lines([0]), lambda: list(pool.samples())):
        with pytest.raises(NaitError, match="changed since"):
            read()


def test_a_row_gone_bad_since_the_scan_is_a_change(tmp_path: Path) -> None:
    path = make_jsonl(tmp_path)
    pool = Pool(path)
    pool.scan()
    write(path, [b'{"other": 1}'])
    with pytest.raises(NaitError, match="changed since"):
        list(pool.samples())


def test_rows_out_of_range(tmp_path: Path) -> None:
    pool = Pool(make_jsonl(tmp_path))
    for row in (-1, 5):
        with pytest.raises(NaitError, match=f"no row {row}"):
            pool.lines([row])


def test_sha256_is_that_of_the_file(tmp_path: Path) -> None:
    import hashlib

    for path in (make_jsonl(tmp_path), make_gz(tmp_path), make_json(tmp_path), make_parquet(tmp_path)):
        assert Pool(path).scan().sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
spoken = text.filter(str.strip)
role = st.sampled_from(["system", "user", "assistant", "tool"])
by_format = {
    "alpaca": st.fixed_dictionaries(
        {"instruction": text, "output": spoken}, optional={"input": text, "x": st.floats()}
    ),
    "sharegpt": st.fixed_dictionaries(
        {"conversations": st.lists(st.fixed_dictionaries({"from": st.just("gpt"), "value": spoken}), min_size=1)}
    ),
    "messages": st.fixed_dictionaries(
        {"messages": st.lists(st.fixed_dictionaries({"role": role, "content": spoken}), min_size=1)}
    ),
    "prompt_completion": st.fixed_dictionaries({"prompt": text, "completion": spoken}, optional={"id": text}),
    "text": st.fixed_dictionaries({"text": spoken}, optional={"id": st.integers()}),
    "input_ids": st.fixed_dictionaries({"input_ids": st.lists(st.integers(0, 10**9), min_size=1)}),
}


@settings(max_examples=60, deadline=None)
@given(data=st.data(), fmt=st.sampled_from(sorted(by_format)), ascii_only=st.booleans(), indent=st.booleans())
def test_any_rows_come_back_byte_for_byte(data: st.DataObject, fmt: str, ascii_only: bool, indent: bool) -> None:
    rows = data.draw(st.lists(by_format[fmt], min_size=1, max_size=8))
    separators = (" , ", "  :  ") if indent else (",", ":")
    lines = [json.dumps(row, ensure_ascii=ascii_only, separators=separators).encode() for row in rows]
    order = data.draw(st.permutations(range(len(rows))))
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "pool.jsonl", lines, data.draw(st.sampled_from([b"\n", b"\r\n"])))
        pool = Pool(path)
        assert (pool.scan().format, pool.scan().good) == (fmt, len(rows))
        assert pool.lines(order) == [lines[i] for i in order]
        assert [sample.row for sample in pool.samples()] == list(range(len(rows)))
        whole = Path(folder) / "whole.json"
        whole.write_text(json.dumps(rows, ensure_ascii=ascii_only), encoding="utf-8")
        # Written anew, where JSON has no NaN and no infinite numbers.
        plain = [{k: None if isinstance(v, float) and not isfinite(v) else v for k, v in row.items()} for row in rows]
        assert Pool(whole).lines(order) == [json.dumps(plain[i], ensure_ascii=False).encode() for i in order]
