"""Scores as columns of Hugging Face ``datasets``."""

import pickle

import numpy as np
import pytest

from nait_fast import NaitError
from nait_fast.integrations.hf_datasets import ScoreColumns
from tests.integrations.conftest import BAD, BATCH, Made
from tests.test_scorer import close

datasets = pytest.importorskip("datasets")


def columns(dataset, made: Made) -> np.ndarray:
    return np.stack([np.array(dataset[name], dtype=np.float64) for name in made.names], axis=1)


def test_map_gives_the_scores_of_the_api(made: Made) -> None:
    pool = datasets.Dataset.from_list(made.rows)
    scored = pool.map(ScoreColumns(made.model, made.signatures), batched=True, batch_size=BATCH)
    assert scored.column_names == [*pool.column_names, *made.names]
    assert scored.features["score.sums"].dtype == "float64"
    assert np.array_equal(columns(scored, made), made.batched)
    for c in range(2):
        assert close(columns(scored, made)[:, c], made.scores[:, c], "contrast")
    stream = pool.to_iterable_dataset().map(ScoreColumns(made.model, made.signatures), batched=True, batch_size=BATCH)
    assert np.array_equal([[row[name] for name in made.names] for row in stream], made.batched)


@pytest.fixture
def spawned():
    """Workers that start afresh: one forked from a process that has run a model waits for threads that it lacks."""
    import multiprocess  # datasets' own

    before = multiprocess.get_start_method(allow_none=True)
    multiprocess.set_start_method("spawn", force=True)
    yield
    multiprocess.set_start_method(before, force=True)


def test_two_processes(made: Made, spawned) -> None:
    pool = datasets.Dataset.from_list(made.rows)
    scored = pool.map(ScoreColumns(made.model, made.signatures), batched=True, batch_size=BATCH, num_proc=2)
    for c in range(2):
        assert close(columns(scored, made)[:, c], made.scores[:, c], "contrast")


def test_a_pickled_copy_scores_the_same(made: Made) -> None:
    scorer = ScoreColumns(made.model, made.signatures, columns=["instruction", "input", "output"])
    batch = {key: [row[key] for row in made.rows[:BATCH]] for key in made.rows[0]}
    before = pickle.dumps(scorer)
    scores = scorer(batch)
    assert pickle.dumps(scorer) == before  # without the model, and the hash for a cache stays as it was
    assert pickle.loads(before)(batch) == scores
    assert list(scores) == made.names


def test_a_column_that_is_not_there(made: Made) -> None:
    batch = {"text": [row["output"] for row in made.rows[:2]], "id": ["a", "b"]}
    of_text = [ScoreColumns(made.model, made.signatures, columns=names)(batch) for names in ("text", ["text"])]
    assert of_text[0] == of_text[1]
    scorer = ScoreColumns(made.model, made.signatures, columns=["instruction", "inptu", "output"])
    with pytest.raises(NaitError, match="columns: inptu is no column of the batch; it has instruction, input, output"):
        scorer({key: [row[key] for row in made.rows[:2]] for key in made.rows[0]})


def test_bad_rows(made: Made) -> None:
    place = 150
    pool = datasets.Dataset.from_list([*made.rows[:place], BAD, *made.rows[place:]])
    with pytest.raises(NaitError, match=r"sample 22 of a batch: .*empty response.*bad_rows='null'"):
        pool.map(ScoreColumns(made.model, made.signatures), batched=True, batch_size=BATCH)
    scorer = ScoreColumns(made.model, made.signatures, bad_rows="null")
    scored = pool.map(scorer, batched=True, batch_size=BATCH)  # the bad row is not in the batch that sets the types
    assert [i for i, error in enumerate(scored["nait_error"]) if error] == [place]
    assert np.isnan(scored[place]["score.sums"]) and "empty response" in scored[place]["nait_error"]
    assert np.isfinite(np.delete(columns(scored, made), place, axis=0)).all()


def test_an_option_that_is_none(made: Made) -> None:
    with pytest.raises(NaitError, match=r"^Scorer: unknown option 'max_len'; known are tokenizer, .*max_length"):
        ScoreColumns(made.model, made.signatures, max_len=8)
