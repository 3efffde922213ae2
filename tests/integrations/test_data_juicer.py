"""The operator ``nait_fast_filter`` in data-juicer: by hand, and in a recipe that data-juicer's own command runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nait_fast import NaitError
from tests.conftest import write_jsonl
from tests.integrations.conftest import BAD, BATCH, KEYS, Made
from tests.test_scorer import close

pytest.importorskip("data_juicer")

from data_juicer.core.data import NestedDataset
from data_juicer.utils.constant import Fields

from nait_fast.integrations.data_juicer import NaitFastFilter

ONE = {"auto_op_parallelism": False, "batch_size": BATCH}  # in this process


def ids(kept) -> list[str]:
    return [row["id"] for row in kept]


def test_scores_and_bounds(made: Made) -> None:
    op = NaitFastFilter(made.model, made.signatures, **ONE)
    everything = NestedDataset.from_list(made.rows).process(op)
    stats = [row[Fields.stats] for row in everything]
    scores = np.array([[s.get(name) for name in made.names] for s in stats])
    # datasets 5 keeps the stats as JSON text, with ten decimals.
    assert np.allclose(scores, made.batched, rtol=0, atol=1e-9) and "nait_error" not in stats[0]
    for c in range(2):
        assert close(scores[:, c].round(8), made.scores[:, c].round(8), "contrast")
    low, high = (float(q) + 1e-6 for q in np.quantile(made.batched[:, 0], [0.3, 0.8]))  # at no score
    for bounds, mask in [
        ({"min_score": {"sums": low}, "max_score": {"sums": high}}, (scores[:, 0] >= low) & (scores[:, 0] <= high)),
        ({"min_score": low}, (scores >= low).all(axis=1)),
        ({"max_score": {"texts": 0.5}}, scores[:, 1] <= 0.5),
    ]:
        kept = NestedDataset.from_list(made.rows).process(NaitFastFilter(made.model, made.signatures, **bounds, **ONE))
        assert ids(kept) == [row["id"] for row, keep in zip(made.rows, mask, strict=True) if keep]


def test_bad_rows(made: Made) -> None:
    rows = [*made.rows[:100], BAD, *made.rows[100:]]
    # A recipe's own default would drop the batch in silence.
    op = NaitFastFilter(made.model, made.signatures, skip_op_error=True, **ONE)
    with pytest.raises(NaitError, match=r"sample 36 of a batch: .*empty response"):
        NestedDataset.from_list(rows).process(op)
    for keep in (True, False):
        op = NaitFastFilter(made.model, made.signatures, columns=list(KEYS), keep_bad=keep, min_score=-1e9, **ONE)
        kept = NestedDataset.from_list(rows).process(op)
        assert ids(kept) == [row["id"] for row in rows if keep or row is not BAD]
        bad = [row[Fields.stats] for row in kept if row[Fields.stats].get("nait_error")]
        assert len(bad) == keep
        assert all(b.get("score.sums") is None and "empty response" in b.get("nait_error") for b in bad)


def test_options_are_checked(made: Made) -> None:
    with pytest.raises(NaitError, match="min_score: no signature is named maths; there are sums, texts"):
        NaitFastFilter(made.model, made.signatures, min_score={"maths": 0.0})
    with pytest.raises(NaitError, match="keep_bad=null: choose raise, true or false"):
        NaitFastFilter(made.model, made.signatures, keep_bad="null")
    with pytest.raises(NaitError, match="no such file"):
        NaitFastFilter(made.model, "absent.safetensors")
    op = NaitFastFilter(made.model, made.signatures, columns=["question"], **ONE)
    with pytest.raises(NaitError, match="question is no column of the dataset"):
        NestedDataset.from_list(made.rows[:4]).process(op)


def test_a_recipe(made: Made, tmp_path: Path) -> None:
    """dj-process with two processes, each of which loads the model."""
    threshold = float(np.median(made.batched[:, 0])) - 1e-6
    (tmp_path / "ops.py").write_text("import nait_fast.integrations.data_juicer\n")
    recipe = {
        "dataset_path": str(write_jsonl(tmp_path / "pool.jsonl", made.rows)),
        "export_path": str(tmp_path / "out" / "chosen.jsonl"),
        "text_keys": "output",
        "np": 2,
        "custom_operator_paths": [str(tmp_path / "ops.py")],
        "keep_stats_in_res_ds": True,
        "process": [
            {
                "nait_fast_filter": {
                    "model": made.model,
                    "signatures": made.signatures,
                    "columns": {key: key for key in KEYS},
                    "min_score": {"sums": threshold},
                    "batch_size": BATCH,
                }
            }
        ],
    }
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))  # JSON is YAML
    command = [sys.executable, "-m", "data_juicer.tools.process_data", "--config", str(tmp_path / "recipe.yaml")]
    own = {"HF_DATASETS_CACHE": str(tmp_path / "cache"), "DATA_JUICER_CACHE_HOME": str(tmp_path / "home")}
    root = str(Path(__file__).parents[2])
    ran = subprocess.run(
        command,
        cwd=tmp_path,
        env={**os.environ, **own, "PYTHONPATH": root},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-4000:]
    chosen = [json.loads(line) for line in (tmp_path / "out" / "chosen.jsonl").read_text().splitlines()]
    expected = {row["id"]: score for row, score in zip(made.rows, made.batched, strict=True)}
    scores = np.array([[row[Fields.stats][name] for name in made.names] for row in chosen])
    for c in range(2):
        assert close(scores[:, c].round(8), np.array([expected[row["id"]][c] for row in chosen]).round(8), "contrast")
    assert (scores[:, 0] >= threshold).all() and abs(len(chosen) - (made.batched[:, 0] >= threshold).sum()) <= 10
