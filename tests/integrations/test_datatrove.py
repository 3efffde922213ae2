"""Scores in documents' metadata, and a threshold, in a datatrove pipeline."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from nait_fast import NaitError
from tests.integrations.conftest import BAD, BATCH, KEYS, Made, score
from tests.test_scorer import close

pytest.importorskip("datatrove")

from datatrove.data import Document
from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers import JsonlWriter

from nait_fast.integrations.datatrove import NaitFilter


def documents(rows: list[dict]) -> list[Document]:
    return [Document(text=f"{r['instruction']} {r['output']}", id=r["id"], metadata=dict(r)) for r in rows]


def as_sample(doc: Document) -> dict:
    return {key: doc.metadata[key] for key in KEYS}


def scores(docs: list[Document], made: Made) -> np.ndarray:
    return np.array([[doc.metadata[name] for name in made.names] for doc in docs])


def test_what_makes_the_sample(made: Made) -> None:
    texts = score(made.model, made.signatures, [{"text": doc.text} for doc in documents(made.rows)])
    own = {"columns": {"prompt": "instruction", "response": "output"}}
    prompts = [{"prompt": row["instruction"], "response": row["output"]} for row in made.rows]
    for options, expected in [
        ({}, texts),
        ({"columns": KEYS}, made.batched),
        (own, score(made.model, made.signatures, prompts)),
        ({"sample": as_sample}, made.batched),
    ]:
        step = NaitFilter(made.model, made.signatures, batch_size=BATCH, **options)
        docs = list(pickle.loads(pickle.dumps(step)).run(documents(made.rows)))
        assert np.array_equal(scores(docs, made), expected)
    for c in range(2):
        assert close(scores(docs, made)[:, c], made.scores[:, c], "contrast")


def test_threshold(made: Made) -> None:
    least = float(np.median(made.batched[:, 0]))
    for threshold, mask in [
        ({"sums": least}, made.batched[:, 0] >= least),
        (least, (made.batched >= least).all(axis=1)),
    ]:
        step = NaitFilter(made.model, made.signatures, threshold=threshold, columns=KEYS, batch_size=BATCH)
        kept = [doc.id for doc in step.run(documents(made.rows))]
        assert kept == [row["id"] for row, keep in zip(made.rows, mask, strict=True) if keep]
        assert 0 < len(kept) < 200 and step.stats["dropped"].total == 200 - len(kept)
    alone = NaitFilter(made.model, made.signatures, threshold=1e9, columns=KEYS)
    assert alone.filter(documents(made.rows)[0]) == (False, "low_score.sums")


def test_bad_documents_and_options(made: Made) -> None:
    docs = documents([*made.rows[:10], BAD, *made.rows[10:20]])
    with pytest.raises(NaitError, match=r"sample 10 of a batch: .*empty response"):
        list(NaitFilter(made.model, made.signatures, columns=KEYS).run(docs))
    for keep in (True, False):
        step = NaitFilter(made.model, made.signatures, columns=KEYS, keep_bad=keep, threshold=-1e9)
        kept = list(step.run(docs))
        assert len(kept) == 20 + keep
    assert docs[10].metadata["score.sums"] is None and "empty response" in docs[10].metadata["nait_error"]
    assert "nait_error" not in docs[0].metadata
    with pytest.raises(NaitError, match="no signature is named maths; there are sums, texts"):
        list(NaitFilter(made.model, made.signatures, threshold={"maths": 1}).run(docs))
    with pytest.raises(NaitError, match="pass one of them"):
        NaitFilter(made.model, made.signatures, columns=KEYS, sample=as_sample)
    with pytest.raises(NaitError, match="keep_bad=null"):
        NaitFilter(made.model, made.signatures, keep_bad="null")


def test_local_executor_in_two_processes(made: Made, tmp_path: Path) -> None:
    """Four tasks on two workers, which start afresh; the filter travels to them."""
    (tmp_path / "pool").mkdir()
    for part in range(4):
        docs = documents(made.rows[part * 50 : part * 50 + 50])
        lines = [json.dumps({"text": doc.text, "id": doc.id, "metadata": doc.metadata}) for doc in docs]
        (tmp_path / "pool" / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
    pipeline = [
        JsonlReader(str(tmp_path / "pool")),
        NaitFilter(made.model, made.signatures, columns=KEYS, batch_size=BATCH),
        JsonlWriter(str(tmp_path / "out"), compression=None),
    ]
    LocalPipelineExecutor(pipeline, tasks=4, workers=2, logging_dir=str(tmp_path / "logs")).run()
    rows = [json.loads(line) for part in sorted((tmp_path / "out").iterdir()) for line in part.open()]
    assert [row["id"] for row in rows] == [row["id"] for row in made.rows]
    got = np.array([[row["metadata"][name] for name in made.names] for row in rows])
    for c in range(2):
        assert close(got[:, c], made.scores[:, c], "contrast")
