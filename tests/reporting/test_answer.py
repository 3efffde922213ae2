"""What ``rank`` and ``inspect`` say at their end, against the files, and what they warn of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from nait_fast.data.pool import Pool
from nait_fast.ranking.columns import Spill
from nait_fast.ranking.overview import RUN_ROWS, RUNS, SourceCounter, last_places, spread_places
from nait_fast.storage.files import read_json
from tests.commands import run
from tests.conftest import write_jsonl
from tests.ranking.indexes import nait, write_index

WIDTHS, ROWS = [40, 33], 100
pytestmark = pytest.mark.filterwarnings("ignore::nait_fast.notices.NaitWarning")


class Made:
    """An index of a pool of two sources, in turns of three and one, whose scores are as given."""

    def __init__(self, folder: Path, scores: dict[str, np.ndarray], samples: int = 64, truncated: int = 0, **columns):
        folder.mkdir(exist_ok=True)
        question = "Question {} of a kind that is asked at length, " + "so " * 30
        sources = "aaab" * (ROWS // 4)
        rows = [{"instruction": question.format(i), "output": "Yes.", "source": s} for i, s in enumerate(sources)]
        pool = write_jsonl(folder / "pool.jsonl", rows)
        digest = Pool(str(pool)).plan().sha256
        shard = {
            "codes": np.zeros((ROWS, 16), np.uint8),
            "row": np.arange(ROWS),
            "n_tokens": np.full(ROWS, 50, np.int32),
            **columns,
            **{f"exact.{name}": values for name, values in scores.items()},
        }
        signatures = [nait(name, WIDTHS) for name in scores]
        signatures = [replace(s, meta={**s.meta, "samples": samples}) for s in signatures]
        self.index = write_index(
            folder / "index",
            [shard],
            WIDTHS,
            exact={signature.name: signature.hash for signature in signatures},
            datasets=[{"path": str(pool), "kind": "jsonl", "format": "alpaca", "rows": ROWS, "sha256": digest}],
            truncated=truncated,
        )
        self.files = [signature.save(folder) for signature in signatures]
        self.out = folder / "chosen"

    def rank(self, capsys, *more: object):
        return run(capsys, "rank", "--index", self.index, "--signature", *self.files, "--output", self.out, *more)


def falling() -> np.ndarray:
    """Scores whose order is 7, 14, 21, … (mod 100): 43 steps of 7 are row 1."""
    scores = np.empty(ROWS)
    scores[np.arange(1, ROWS + 1) * 7 % ROWS] = -np.arange(ROWS, dtype=np.float64)
    return scores


def test_the_answer_is_what_the_files_hold(capsys, tmp_path: Path) -> None:
    made = Made(tmp_path, {"math": falling()})
    ran = made.rank(capsys, "--top-k", 20)
    assert ran.status == 0 and ran.err == ""
    lines = ran.out.splitlines()
    assert lines[0] == "20 of 100 rows (20.0%), 1,000 of 5,000 tokens (20.0%)"
    assert max(len(line) for line in lines if str(tmp_path) not in line) <= 80
    chosen = [json.loads(line) for line in (made.out / "selected.jsonl").read_text().splitlines()]
    share = sum(row["source"] == "a" for row in chosen) / 20
    assert [line.split()[:3] for line in lines if line[:2] in ("a ", "b ")] == [
        ["a", f"{share:.1%}", "75.0%"],
        ["b", f"{1 - share:.1%}", "25.0%"],
    ]
    at = lines.index("best rows")
    for place in range(3):
        assert lines[at + 1 + place].split()[:4] == [
            str(place + 1),
            chosen[place]["source"],
            *chosen[place]["instruction"].split()[:2],
        ]
    scores = parquet.read_table(made.out / "scores.parquet").to_pydict()
    by_rank = dict(zip(scores["rank"], scores["row"], strict=True))
    at = lines.index("worst rows of the pool")
    assert [line.split()[0] for line in lines[at + 1 : at + 3]] == ["99", "100"]
    for line, rank in zip(lines[at + 1 : at + 3], (99, 100), strict=True):
        assert f" Question {by_rank[rank]} " in line
    assert lines[-1] == f"next: nait-fast report {made.out}"
    assert run(capsys, "inspect", made.out).out == ran.out
    manifest = read_json(made.out / "manifest.json")
    assert manifest["mean_scores"]["math"] == {"pool": -49.5, "selected": -9.5}
    assert manifest["signatures"]["math"] not in ran.out and "sha256" not in ran.out


def test_rows_at_random_have_no_best(capsys, tmp_path: Path) -> None:
    lines = Made(tmp_path, {"math": falling()}).rank(capsys, "--top-k", 20, "--pick", "random").out.splitlines()
    assert "first rows (--pick random)" in lines and "worst rows of the pool" not in lines


def test_opposed_targets_take_turns_by_default(capsys, tmp_path: Path) -> None:
    """The mean of two scores of which one falls as the other rises is 0 throughout: it chooses rows for neither."""
    scores = falling()
    made = Made(tmp_path, {"up": scores, "down": -scores})
    assert made.rank(capsys, "--top-k", 20).err == ""
    manifest = read_json(made.out / "manifest.json")
    means = manifest["mean_scores"]
    assert manifest["warnings"] == []
    assert all(mean["selected"] == pytest.approx(mean["pool"]) for mean in means.values())  # half of it for each
    table = parquet.read_table(made.out / "scores.parquet").to_pydict()
    best = dict(zip(table["rank"], table["row"], strict=True))
    assert [best[1], best[2]] == [int(np.argmax(scores)), int(np.argmin(scores))]
    ran = made.rank(capsys, "--top-k", 20, "--combine", "mean", "--overwrite")
    assert any("score no better than the pool" in text for text in read_json(made.out / "manifest.json")["warnings"])
    assert "to mind" in ran.out and "--combine roundrobin" in ran.out


def test_targets_in_turns_are_told_what_each_got(capsys, tmp_path: Path) -> None:
    """A row belongs to the target whose turn named it first, by the definition played through."""
    scores, tokens = falling(), np.arange(ROWS, dtype=np.int32) + 10
    other = np.roll(scores, 1)
    made = Made(tmp_path, {"one": scores, "two": other}, n_tokens=tokens)
    for combine, size in (("roundrobin", 21), ("union", 21)):
        ran = made.rank(capsys, "--top-k", size, "--combine", combine, "--overwrite")
        orders, owner = [np.argsort(-s, kind="stable") for s in (scores, other)], dict[int, str]()
        for turn in range(ROWS):
            for name, order in zip(("one", "two"), orders, strict=True):
                owner.setdefault(int(order[turn]), name)
        chosen = list(owner)[:size]
        if combine == "union":
            chosen = sorted({int(row) for order in orders for row in order[:size]})
        mine = {name: [row for row in chosen if owner[row] == name] for name in ("one", "two")}
        expected = {name: {"rows": len(rows), "tokens": int(tokens[rows].sum())} for name, rows in mine.items()}
        assert read_json(made.out / "manifest.json")["turns"] == expected
        each = [f"{n} {len(r)} rows ({tokens[r].mean():,.0f} tokens each)" for n, r in mine.items()]
        assert f"by turns: {', '.join(each)}" in ran.out.splitlines()
    made.rank(capsys, "--top-k", 20, "--combine", "mean", "--overwrite")
    assert "turns" not in read_json(made.out / "manifest.json")


def test_a_selection_that_takes_anothers_place_says_so(capsys, tmp_path: Path) -> None:
    made = Made(tmp_path, {"math": falling()})
    assert made.rank(capsys, "--top-k", 20, "--export", "messages").err == ""
    assert made.rank(capsys, "--top-k", 20, "--export", "messages").err == ""
    fewer = made.rank(capsys, "--top-k", 20).err
    assert "messages.jsonl of the selection before, which was of the same rows, was removed" in fewer
    ran = made.rank(capsys, "--fraction", 0.1)
    assert f"{made.out}: took the place of another selection by --top-k 20 (20 rows); another --output" in ran.err
    assert read_json(made.out / "manifest.json")["warnings"] == []  # it is of what was there, not of what is
    assert made.rank(capsys, "--fraction", 0.2, "--overwrite").err == ""
    assert "by --fraction 0.2 (20 rows)" in made.rank(capsys, "--token-budget", 700).err


def test_a_fresh_report_leads_to_the_trainer(capsys, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = Made(tmp_path, {"math": falling()})
    made.rank(capsys, "--top-k", 20)
    said = run(capsys, "report", made.out).out.splitlines()[-1]
    assert said.startswith(f"next: train on {made.out / 'selected.jsonl'} ")
    assert run(capsys, "inspect", made.out).out.splitlines()[-1] == said
    made.rank(capsys, "--top-k", 21, "--overwrite")  # now the page is of another one
    assert run(capsys, "inspect", made.out).out.splitlines()[-1] == f"next: nait-fast report {made.out}"


def test_a_score_that_goes_with_length(capsys, tmp_path: Path) -> None:
    scores = falling()
    made = Made(tmp_path, {"math": scores}, n_tokens=(200 + scores).astype(np.int32))
    made.rank(capsys, "--top-k", 20)
    (warning,) = read_json(made.out / "manifest.json")["warnings"]
    assert warning == (
        "target 'math': its score goes with length (Spearman +1.00): the selected rows have 190 tokens on average, the "
        "pool's 150; --length quota chooses rows of the pool's own lengths"
    )
    made.rank(capsys, "--top-k", 20, "--length", "quota", "--overwrite")
    assert read_json(made.out / "manifest.json")["warnings"] == []


def test_few_samples_and_cut_rows(capsys, tmp_path: Path) -> None:
    made = Made(tmp_path, {"math": falling()}, truncated=11, samples=15)
    made.rank(capsys, "--top-k", 20)
    cut, few = read_json(made.out / "manifest.json")["warnings"]
    assert "11 of 100 rows (11%) are longer than the 512 tokens" in cut
    assert few.startswith("target 'math': made from 15 samples")
    other = Made(tmp_path / "other", {"math": falling()}, truncated=10, samples=16)
    assert other.rank(capsys, "--top-k", 20).status == 0
    assert read_json(other.out / "manifest.json")["warnings"] == []


def test_sources_of_a_large_pool_are_counted_all_over_it() -> None:
    most = RUNS * RUN_ROWS
    assert spread_places(most).tolist() == list(range(most))
    places = spread_places(10 * most)
    assert len(places) == most and places[0] == 0 and places[-1] == 10 * most - 1
    assert np.diff(places).max() <= 10 * most // RUNS
    counter = SourceCounter(3 * most)
    lines = [json.dumps({"source": "ab"[i < 2 * most]}).encode() for i in range(3 * most)]
    assert list(counter.passing(lines)) == lines
    assert counter.key() == "source" and counter.of("source") == {"b": 2 * most // 3 + 1, "a": most - 2 * most // 3 - 1}


def test_what_is_no_source() -> None:
    counter = SourceCounter(10)
    list(counter.passing([json.dumps({"source": str(i), "subset": "x"}).encode() for i in range(9)] + [b"{"]))
    assert counter.key() is None and counter.rows == 10
    assert counter.of("subset") == {"x": 9, "(none)": 1}


@pytest.mark.parametrize("rows", [1, 2, 5, 300_000])
def test_the_last_places(tmp_path: Path, rows: int) -> None:
    keys = np.random.default_rng(rows).integers(0, max(2, rows // 3), rows).astype(np.uint64)
    with Spill(tmp_path, np.uint64, rows) as spill:
        spill.write(0, keys)
        expected = np.lexsort((np.arange(rows), keys))[::-1][:2]
        assert last_places(spill, 2).tolist() == expected.tolist()
