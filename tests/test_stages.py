"""Seconds by stage: each without those inside of it, and all of a command's in its log."""

import json
import threading
import time
from pathlib import Path

import pytest

from nait_fast.stages import counted_stages, stage
from tests.commands import run
from tests.conftest import make_rows, write_jsonl


def test_a_stage_is_without_those_inside_of_it() -> None:
    @stage("inner")
    def inner() -> None:
        time.sleep(0.03)

    with stage("nobody counts"):
        inner()
    with counted_stages() as seconds:
        with stage("outer"), counted_stages() as same:
            inner()
            inner()
        with pytest.raises(ZeroDivisionError), stage("outer"):
            time.sleep(0.01)
            raise ZeroDivisionError
        elsewhere = threading.Thread(target=inner)
        elsewhere.start()
        elsewhere.join()
    assert same is seconds and seconds.keys() == {"outer", "inner"}
    assert 0.06 <= seconds["inner"] < 0.3 and 0.01 <= seconds["outer"] < 0.05


def test_the_log_tells_where_an_index_spent_its_time(capsys, tmp_path: Path, tiny_model: str) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(12))
    started = time.perf_counter()
    command = ["index", "--model", tiny_model, "--dataset", pool, "--output", tmp_path / "out", "--shard-rows", "4"]
    assert run(capsys, *command).status == 0
    whole = time.perf_counter() - started
    stages = json.loads((tmp_path / "out" / "log.json").read_text())["stages"]
    names = ["import", "pool", "load", "proof", "calibrate", "pass", "read_wait", "write_wait", "finish"]
    assert stages.keys() == set(names)
    assert all(seconds >= 0 for seconds in stages.values()) and stages["load"] > 0 and sum(stages.values()) <= whole
