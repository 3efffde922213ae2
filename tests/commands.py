"""Runs the command line: in this process, or as a user does."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from nait_fast.cli import main

ROOT = Path(__file__).parent.parent


# What is said of targets and pools as small as most tests have them.
CAUTIONS = (": made from ", "its score goes with length", "the selected rows score no better than the pool")


def beside_cautions(warnings: Iterable[str]) -> list[str]:
    """``warnings`` but those that every small target or pool gives."""
    return [text for text in warnings if not any(caution in text for caution in CAUTIONS)]


@dataclass
class Ran:
    status: int
    out: str
    err: str

    def __post_init__(self) -> None:
        self.err = "".join(beside_cautions(self.err.splitlines(keepends=True)))

    @property
    def summary(self) -> dict:
        """The JSON on the last line of stdout, of a run that succeeded silently."""
        assert (self.status, self.err) == (0, ""), self.err
        return json.loads(self.out.splitlines()[-1])

    @property
    def error(self) -> str:
        """The one line on stderr of a run that was refused."""
        assert self.status == 2, (self.status, self.out, self.err)
        assert self.err.startswith("nait-fast: error: ") and self.err.count("\n") == 1 and self.err.endswith("\n")
        assert "Traceback" not in self.err and self.out == ""
        return self.err.removeprefix("nait-fast: error: ").strip()


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> Ran:
    """``nait-fast ARGUMENTS`` in this process."""
    import transformers

    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()  # as the command line sets it where transformers is not yet imported
    capsys.readouterr()
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        transformers.logging.set_verbosity(before)
    captured = capsys.readouterr()
    return Ran(status, captured.out, captured.err)


def shell(*arguments: object, **environment: str) -> Ran:
    """``nait-fast ARGUMENTS`` in a process of its own, offline."""
    found = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, "PYTHONPATH": found, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **environment}
    command = [sys.executable, "-m", "nait_fast", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
    return Ran(done.returncode, done.stdout, done.stderr)


def summary(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict:
    """The ``--json`` summary of a run in this process that succeeds silently."""
    return run(capsys, *arguments, "--json").summary
