"""Progress: what a person at a terminal is told of the time left."""

import io
import sys

import pytest

from nait_fast.config import DataOptions, ModelOptions
from nait_fast.extract.session import open_session
from nait_fast.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def terminal(monkeypatch) -> Terminal:
    made = Terminal()
    monkeypatch.setattr(sys, "stderr", made)
    return made


def share(progress: Progress) -> float:
    return progress._bar.n / progress._bar.total


def test_time_left_is_of_tokens_where_they_are_known(monkeypatch) -> None:
    """The longest come first: of ten samples one has half of all tokens."""
    shown = terminal(monkeypatch)
    progress = Progress(10, "calibrate", expected=100)
    progress.add(1, 50)
    assert share(progress) == 0.5
    progress.add(4, 25)
    assert share(progress) == 0.75
    progress.add(5, 25)
    assert share(progress) == 1.0
    progress.close()
    assert "10/10 samples" in shown.getvalue() and "100" in shown.getvalue()


@pytest.mark.parametrize("tokens", [4, 9])
def test_an_estimate_gives_way(tokens: int, monkeypatch) -> None:
    terminal(monkeypatch)
    progress = Progress(100, "index", expected=600)
    shares = []
    for _ in range(100):
        progress.add(1, tokens)
        shares.append(share(progress))
    assert shares == sorted(shares) and shares[-1] == 1.0 and shares[-2] < 1.0 and progress._bar.n == 100 * tokens


def test_skipped_rows_have_no_tokens(monkeypatch) -> None:
    terminal(monkeypatch)
    progress = Progress(10, "index", expected=100)
    progress.add(5, 0, skipped=5)
    progress.add(1, 10)
    assert share(progress) == 10 / 50


def test_samples_where_nothing_is_known_of_tokens(monkeypatch) -> None:
    shown = terminal(monkeypatch)
    progress = Progress(10, "merge")
    progress.add(5, 70)
    assert share(progress) == 0.5
    progress.close()
    assert "tokens/s" in shown.getvalue()


def test_what_is_loaded_is_said_before(tiny_model: str, monkeypatch) -> None:
    """From a Hub that does not answer a model may take minutes."""
    shown = terminal(monkeypatch)
    open_session(ModelOptions(model=tiny_model), DataOptions())
    assert f"nait-fast: loading {tiny_model}\n" in shown.getvalue()
    monkeypatch.setattr("nait_fast.extract.session.load_model", lambda *given, **named: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        open_session(ModelOptions(model="somebody/a-model"), DataOptions())
    assert "loading somebody/a-model, which is not here, from the Hugging Face Hub\n" in shown.getvalue()
