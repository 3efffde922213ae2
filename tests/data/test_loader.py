"""The streaming loader: the same windows as without threads, bounded, closed cleanly, errors where they belong."""

import itertools
import json
import threading
import time
from pathlib import Path

import pytest

from nait_fast.data import encode
from nait_fast.data.loader import Loader, Window
from nait_fast.data.plan import Unit
from nait_fast.data.pool import Pool
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder
from nait_fast.errors import NaitError
from tests.conftest import make_rows, write_jsonl


@pytest.fixture
def encoder(tokenizer) -> Encoder:
    return Encoder(tokenizer, Template("chat", tokenizer), 30)


def windows(pool: Pool, encoder: Encoder, units: list[Unit] | None = None, fmt: str = "alpaca") -> list[Window]:
    remaining = iter(units if units is not None else pool.plan().units)
    loader = Loader(pool, fmt, encoder, lambda: next(remaining, None))
    try:
        return list(loader)
    finally:
        loader.close()


@pytest.mark.parametrize("chunk", [1, 3, 7, 1024])
def test_windows_are_what_the_encoder_gives(tmp_path: Path, encoder, monkeypatch, chunk: int) -> None:
    monkeypatch.setattr(encode, "CHUNK_ROWS", chunk)
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", make_rows(50)), unit_rows=8)
    expected = encoder.encode(list(pool.samples()))
    got = windows(pool, encoder)
    assert [window.unit for window in got] == list(pool.plan().units)
    flat = [e for window in got for e in window.encoded]
    assert [(e.row, e.id, e.length) for e in flat] == [(e.row, e.id, e.length) for e in expected]
    assert all((a.ids == b.ids).all() for a, b in zip(flat, expected, strict=True))
    assert any(e.truncated for e in flat) and not all(e.truncated for e in flat)
    assert got[2].where(17) == f"{pool.path}:18"


def test_bad_rows_are_listed_in_order(tmp_path: Path, encoder, monkeypatch) -> None:
    monkeypatch.setattr(encode, "CHUNK_ROWS", 2)
    lines = [json.dumps({"input_ids": [5, 6, 7 + i]}) for i in range(9)]
    lines[1] = '{"input_ids": [5, 999999]}'
    lines[3] = "{"
    lines[6] = '{"input_ids": []}'
    lines[8] = '{"input_ids": [999998]}'
    (tmp_path / "pool.jsonl").write_text("\n".join(lines))
    pool = Pool(tmp_path / "pool.jsonl", skip_bad_rows=True)
    (window,) = windows(pool, encoder, fmt="input_ids")
    assert [skipped.row for skipped in window.skipped] == [1, 3, 6, 8]
    assert [skipped.where for skipped in window.skipped] == [f"{pool.path}:{n}" for n in (2, 4, 7, 9)]
    assert [e.row for e in window.encoded] == [0, 2, 4, 5, 7]

    strict = Pool(tmp_path / "pool.jsonl", unit_rows=3)
    loader = Loader(strict, "input_ids", encoder, iter([strict.plan().units[0], strict.plan().units[1]]).__next__)
    with pytest.raises(NaitError, match=r":2: token id 999999 is outside"):
        list(loader)
    assert loader.failed and loader.loading == strict.plan().units[0]
    loader.close()


def test_windows_before_a_bad_unit_arrive(tmp_path: Path, encoder) -> None:
    rows = make_rows(12)
    rows[7]["output"] = ""
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", rows), unit_rows=3)
    units = iter(pool.plan().units)
    loader = Loader(pool, "alpaca", encoder, lambda: next(units, None))
    seen = []
    with pytest.raises(NaitError, match=":8: empty response"):
        for window in loader:
            seen.append(window.unit.number)
    assert seen == [0, 1] and loader.loading is not None and loader.loading.number == 2
    loader.close()


def test_it_runs_ahead_but_not_far(tmp_path: Path, encoder) -> None:
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", make_rows(60)), unit_rows=2)
    asked: list[int] = []

    def next_unit() -> Unit | None:
        asked.append(len(asked))
        return pool.plan().units[asked[-1]] if asked[-1] < 30 else None

    loader = Loader(pool, "alpaca", encoder, next_unit)
    iterator = iter(loader)
    for done in range(1, 6):
        next(iterator)
        for _ in range(1000):
            if len(asked) > done:
                break
            time.sleep(0.01)
        time.sleep(0.1)
        assert done < len(asked) <= done + 2  # one waits, one is in the making
    loader.close()
    assert len(asked) < 10


def test_closing_ends_the_threads_at_once(tmp_path: Path, encoder) -> None:
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", make_rows(4000)), unit_rows=2000)
    for wait in (0.0, 0.02, 0.2):
        before = threading.active_count()
        endless = itertools.cycle(pool.plan().units)
        loader = Loader(pool, "alpaca", encoder, lambda endless=endless: next(endless))
        time.sleep(wait)
        started = time.perf_counter()
        loader.close()
        assert time.perf_counter() - started < 2
        assert threading.active_count() == before


def test_a_failing_source_of_units_is_told(tmp_path: Path, encoder) -> None:
    pool = Pool(write_jsonl(tmp_path / "pool.jsonl", make_rows(4)))

    def failing() -> Unit | None:
        raise RuntimeError("no more")

    loader = Loader(pool, "alpaca", encoder, failing)
    with pytest.raises(RuntimeError, match="no more"):
        list(loader)
    loader.close()


def test_a_changed_pool_is_noticed(tmp_path: Path, encoder) -> None:
    path = write_jsonl(tmp_path / "pool.jsonl", make_rows(9))
    pool = Pool(path, unit_rows=4)
    pool.plan()
    write_jsonl(path, [*make_rows(8), make_rows(1, seed=5)[0]])
    with pytest.raises(NaitError, match="changed since"):
        windows(pool, encoder)
    assert len(windows(pool, encoder, list(pool.plan().units[:2]))) == 2
