"""Rows become tokens in one way, whoever asks."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from nait_fast.data import encode as module
from nait_fast.data.encode import encode, parsed
from nait_fast.data.formats import RowError, parse_any
from nait_fast.data.template import Template
from nait_fast.data.tokenize import Encoder, Refused
from tests.conftest import make_rows

ROWS = [
    *make_rows(7),
    {"instruction": "", "output": ""},
    {"text": " "},
    {"input_ids": [10**6]},
    {"x": 1},
    *make_rows(3),
]


@pytest.mark.parametrize("chunk", [1, 2, 13, 1024])
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_chunks_and_threads_change_nothing(tokenizer, monkeypatch, chunk: int, threads: int) -> None:
    monkeypatch.setattr(module, "CHUNK_ROWS", chunk)
    encoder = Encoder(tokenizer, Template("alpaca", tokenizer), 32)
    bad: list[tuple[int, str]] = []
    refused: list[Refused] = []

    def tell(number: int, row: dict, error: RowError) -> None:
        assert row is ROWS[number]
        bad.append((number, str(error)))

    samples = parsed(enumerate(ROWS), lambda row, number: parse_any(row, number), tell)
    if threads:
        with ThreadPoolExecutor(threads) as pool:
            encoded = list(encode(encoder, samples, refused.append, pool))
    else:
        encoded = list(encode(encoder, samples, refused.append))
    one_by_one = [encoder.encode([parse_any(ROWS[e.row], e.row)])[0] for e in encoded]
    assert [(e.row, e.ids.tolist()) for e in encoded] == [(o.row, o.ids.tolist()) for o in one_by_one]
    rows = [e.row for e in encoded]
    told = [number for number, _ in bad] + [r.row for r in refused]
    assert rows == sorted(rows) and sorted(rows + told) == list(range(len(ROWS)))
    assert {*range(7), *range(11, 14)} <= {*rows} and 9 in {r.row for r in refused} and 10 in dict(bad)


def test_who_is_told_may_raise(tokenizer) -> None:
    encoder = Encoder(tokenizer, Template("alpaca", tokenizer), 32)

    def tell(number: int, _: dict, error: RowError) -> None:
        raise ValueError(number)

    with pytest.raises(ValueError, match="7"):
        list(encode(encoder, parsed(enumerate(ROWS), lambda row, number: parse_any(row, number), tell), print))
