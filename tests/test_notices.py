"""What is said though the work goes on reaches whoever runs it, once."""

import json
import warnings

import pytest

from nait_fast import cli
from nait_fast.notices import NaitWarning, recorded, warn


def test_each_text_is_kept_and_shown_once() -> None:
    with pytest.warns(NaitWarning) as shown, recorded() as texts:
        warn("one")
        warn("two")
        warn("one")
    assert texts == ["one", "two"]
    assert [str(w.message) for w in shown] == texts


def test_blocks_nest_and_other_warnings_pass() -> None:
    with pytest.warns() as shown, recorded() as outer:
        warn("before")
        with recorded() as inner:
            warn("inside")
            warnings.warn("another's", RuntimeWarning, stacklevel=1)
    assert (outer, inner) == (["before", "inside"], ["inside"])
    assert [w.category for w in shown] == [NaitWarning, NaitWarning, RuntimeWarning]


def test_the_command_line_prints_it_and_puts_it_into_the_summary(monkeypatch, capsys) -> None:
    def run(arguments):
        warn("3 rows of 5 hold\n'rationale'")
        return {"rows": 5}

    monkeypatch.setattr(cli, "_run", run)
    assert cli.main(["inspect", "x"]) == 0
    out = capsys.readouterr()
    assert out.err == "nait-fast: warning: 3 rows of 5 hold 'rationale'\n"
    assert out.out == "rows: 5\n"
    assert cli.main(["inspect", "x", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["warnings"] == ["3 rows of 5 hold\n'rationale'"]
