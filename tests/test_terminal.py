"""Text of a pool, a file's name or a message reaches a terminal as text, never as an order."""

import json
from pathlib import Path

import pytest

from nait_fast import cli
from nait_fast.notices import warn
from nait_fast.terminal import printable
from tests.conftest import write_jsonl

ORDERS = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\x9b2J\x7f\r\u202egnirts\u2066\u2028end"


def test_orders_become_escapes() -> None:
    shown = printable(ORDERS)
    assert shown == "\\x1b]0;owned\\x07\\x1b[2J\\x1b[31mred\\x9b2J\\x7f\\r\\u202egnirts\\u2066\\u2028end"
    assert printable("né – 😀 👩‍👩‍👧 فارسی\u200cها") == "né – 😀 👩‍👩‍👧 فارسی\u200cها"
    assert printable("a\tb\nc") == "a\\tb\\nc" and printable("a\tb\nc\r\x1b", lines=True) == "a\tb\nc\\r\\x1b"


def clean(text: str) -> bool:
    return all(character == "\n" or printable(character) == character for character in text)


def test_inspect_of_a_pool(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"instruction": f"say {ORDERS}", "output": f"{ORDERS}\nforged: line"}, {ORDERS: 1}]
    pool = write_jsonl(tmp_path / "pool\x1b[1m.jsonl", rows)
    assert cli.main(["inspect", str(pool)]) == 0
    out = capsys.readouterr().out
    assert "\\x1b]0;owned" in out and clean(out)
    assert not any(line.startswith("forged") for line in out.splitlines())
    assert cli.main(["inspect", "--json", str(pool)]) == 0
    assert json.loads(capsys.readouterr().out)["first_sample"][0].startswith(f"user: say {ORDERS[:20]}")


def test_errors_and_warnings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = write_jsonl(tmp_path / "pool\x1b[1m.jsonl", [{ORDERS: 1}])
    assert cli.main(["inspect", str(pool)]) == 2
    err = capsys.readouterr().err
    assert "\\x1b[1m.jsonl" in err and clean(err)
    assert cli.main(["inspect", str(tmp_path / ORDERS)]) == 2
    assert clean(capsys.readouterr().err)

    def run(arguments: object) -> dict[str, object]:
        warn(f"rows hold {ORDERS}")
        return {"text": f"a\n{ORDERS}"}

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["inspect", "x"]) == 0
    said = capsys.readouterr()
    assert clean(said.out) and clean(said.err) and said.out.startswith("a\n\\x1b") and "\\x1b[2J" in said.err
