"""Score columns in NeMo Curator's document batches: in a Pipeline on a local Ray, and called directly."""

import os
import pickle

import numpy as np
import pyarrow as pa
import pytest

from nait_fast import NaitError
from tests.integrations.conftest import BAD, BATCH, KEYS, Made
from tests.test_scorer import close

pytest.importorskip("nemo_curator")
pytest.importorskip("ray")

import pandas as pd
import ray
from nemo_curator.backends.ray_data import RayDataExecutor
from nemo_curator.pipeline import Pipeline
from nemo_curator.tasks import DocumentBatch

from nait_fast.integrations.nemo_curator import NaitScoreStage
from nait_fast.workers.ray_cluster import shut_down


def batches(rows: list[dict], arrow: bool = False) -> list[DocumentBatch]:
    parts = [pd.DataFrame(rows[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
    return [DocumentBatch("pool", pa.Table.from_pandas(part) if arrow else part) for part in parts]


def scores(tasks: list[DocumentBatch], made: Made) -> np.ndarray:
    return np.concatenate([task.to_pandas()[made.names].to_numpy() for task in tasks])


def test_a_pipeline_on_ray(made: Made, monkeypatch) -> None:
    # Workers import nait_fast and this file from where pytest does.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", "")]))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 << 20)
    try:
        stage = NaitScoreStage(made.model, made.signatures, columns=KEYS).with_(num_workers=1)
        tasks = Pipeline("scores", stages=[stage]).run(RayDataExecutor(), initial_tasks=batches(made.rows))
    finally:
        shut_down(ray)
    table = pd.concat([task.to_pandas() for task in tasks]).set_index("id").loc[[row["id"] for row in made.rows]]
    assert len(table) == 200
    for c, name in enumerate(made.names):
        assert close(table[name].to_numpy(), made.scores[:, c], "contrast")


@pytest.mark.parametrize("arrow", [False, True])
def test_the_table_stays_of_its_kind(made: Made, arrow: bool) -> None:
    columns = {key: key for key in KEYS} if arrow else KEYS
    stage = pickle.loads(pickle.dumps(NaitScoreStage(made.model, made.signatures, columns=columns)))
    assert (stage.inputs(), stage.outputs()) == ((["data"], list(KEYS)), (["data"], made.names))
    stage.setup()
    given = batches(made.rows, arrow)
    tasks = stage.process_batch(given)
    assert np.array_equal(scores(tasks, made), made.batched)
    assert all(type(task.data) is type(old.data) for task, old in zip(tasks, given, strict=True))
    again = stage.process(tasks[0])  # the columns are replaced, not doubled
    assert again.get_columns() == [*given[0].get_columns(), *made.names]


@pytest.mark.parametrize("arrow", [False, True])
def test_bad_rows(made: Made, arrow: bool) -> None:
    task = batches([*made.rows[:5], BAD, {**made.rows[5], "input": None}], arrow)[0]
    with pytest.raises(NaitError, match=r"sample 5 of a batch: .*empty response"):
        NaitScoreStage(made.model, made.signatures).process(task)
    stage = NaitScoreStage(made.model, made.signatures, bad_rows="null")
    table = stage.process(task).to_pandas()
    assert stage.outputs()[1] == [*made.names, "nait_error"]
    assert table["nait_error"].isna().tolist() == [True] * 5 + [False, True]
    assert table["score.sums"].isna().tolist() == [False] * 5 + [True, False]
    assert "empty response" in table["nait_error"].iloc[5]
