"""The file of finished runs, and claims on runs."""

import json
import os
import subprocess
import sys

from nait_fast.validation.runs import append_run, claimed, digest, read_runs

HOLDER = """
import sys, time
from pathlib import Path
from nait_fast.validation.runs import claimed
with claimed(Path(sys.argv[1]), "run") as mine:
    print(mine, flush=True)
    time.sleep(600)
"""


def test_a_line_that_was_cut_short_costs_that_run_alone(tmp_path):
    path = tmp_path / "runs.jsonl"
    assert read_runs(path) == []
    for number in range(2):
        append_run(path, {"run": number, "said": "é\u2028"})
    whole = path.read_bytes()
    line = json.dumps({"run": 2, "said": "é\u2028"}, ensure_ascii=False).encode()
    for cut in range(1, len(line)):
        path.write_bytes(whole + line[:cut])
        assert [row["run"] for row in read_runs(path)] == [0, 1]
        append_run(path, {"run": 3})
        assert [row["run"] for row in read_runs(path)] == [0, 1, 3]
    path.write_bytes(whole + line)  # all but its newline
    append_run(path, {"run": 3})
    assert [row["run"] for row in read_runs(path)] == [0, 1, 2, 3] and read_runs(path)[0]["said"] == "é\u2028"


def test_a_claim_shuts_out_others_until_its_process_ends(tmp_path):
    with claimed(tmp_path / "claims", "run") as mine, claimed(tmp_path / "claims", "run") as again:
        assert mine and not again
        with claimed(tmp_path / "claims", "other") as other:
            assert other
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / "claims")], stdout=subprocess.PIPE, text=True, env=os.environ
    ) as process:
        assert process.stdout.readline().strip() == "True"
        with claimed(tmp_path / "claims", "run") as mine:
            assert not mine
        process.kill()
        process.wait()
        with claimed(tmp_path / "claims", "run") as mine:
            assert mine


def test_digests_do_not_know_the_order_of_keys():
    assert digest({"a": 1, "b": [2]}) == digest({"b": [2], "a": 1}) != digest({"a": 1, "b": [3]})
    assert len(digest(None)) == 16
