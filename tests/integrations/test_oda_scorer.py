"""ODA-DataScorer's scorer, in stand-ins for the two modules of its checkout that a scorer imports: it is no package."""

import json
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from nait_fast import NaitError
from tests.conftest import write_jsonl
from tests.integrations.conftest import BAD, Made


class BaseScorer(ABC):
    """As model_based/scorers/base_scorer.py calls its scorers."""

    def __init__(self, config: dict):
        self.config = config
        self._validate_config()
        self._setup()

    @abstractmethod
    def _validate_config(self): ...

    @abstractmethod
    def _setup(self): ...

    @abstractmethod
    def score_item(self, data_item: dict) -> float: ...

    @abstractmethod
    def evaluate(self, dataset) -> list[dict]: ...


def append_jsonl(records, path: str, flush: bool = True) -> None:
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(json.dumps(record) + "\n" for record in records)


def repair_trailing_incomplete_jsonl(path: str) -> None:
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: whole.rfind(b"\n") + 1])


def load_jsonl_id_set(path: str, id_key: str = "id") -> set[str]:
    return {str(json.loads(line)[id_key]) for line in Path(path).read_text().splitlines()}


def normalize_id(value: object) -> str:
    return "" if value is None else str(value)


@pytest.fixture(scope="module")
def oda() -> Iterator[ModuleType]:
    base, lines = ModuleType("scorers.base_scorer"), ModuleType("utils.utils_jsonl")
    base.BaseScorer = BaseScorer
    for function in (append_jsonl, repair_trailing_incomplete_jsonl, load_jsonl_id_set, normalize_id):
        setattr(lines, function.__name__, function)
    made = {"scorers": ModuleType("scorers"), base.__name__: base, "utils": ModuleType("utils"), lines.__name__: lines}
    with pytest.MonkeyPatch.context() as patch:
        for name, module in made.items():
            patch.setitem(sys.modules, name, module)
        from nait_fast.integrations import oda_scorer

        yield oda_scorer


def records_of(path: str | Path) -> list[dict]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_a_file_is_scored_and_gone_on_with(oda: ModuleType, made: Made, tmp_path: Path) -> None:
    rows = made.rows[:20]
    pool = str(write_jsonl(tmp_path / "pool.jsonl", rows))
    config = {"name": "NaitScorer", "num_gpu_per_job": 0, "model": made.model, "signatures": made.signatures[0]}
    scorer = oda.NaitScorer(config | {"batch_size": 8})
    whole = scorer.evaluate(pool)
    assert [record["id"] for record in whole] == [row["id"] for row in rows]
    assert np.allclose([record["score"] for record in whole], made.scores[:20, 0], rtol=1e-5, atol=1e-6)
    assert set(whole[0]) == {"id", "score"}
    assert scorer.score_item(rows[3]) == pytest.approx(whole[3]["score"], rel=1e-5, abs=1e-6)
    out = tmp_path / "out" / "scores.jsonl"
    assert scorer.evaluate_to_file(pool, str(out), resume=False) == str(out)
    assert records_of(out) == whole
    lines = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join(lines[:8]) + lines[8][:9])  # as if killed while writing
    scorer.evaluate_to_file(pool, str(out), resume=True)
    again = records_of(out)
    assert again[:8] == whole[:8] and [record["id"] for record in again] == [row["id"] for row in rows]
    assert np.allclose([r["score"] for r in again], [r["score"] for r in whole], rtol=1e-5, atol=1e-6)


def test_several_signatures_and_a_bad_row(oda: ModuleType, made: Made, tmp_path: Path) -> None:
    pool = str(write_jsonl(tmp_path / "pool.jsonl", [made.rows[0], BAD]))
    config = {"model": made.model, "signatures": made.signatures}
    good, bad = oda.NaitScorer({**config, "bad_rows": "null"}).evaluate(pool)
    assert good["score"] == good["score.sums"] and good["score.texts"] is not None
    assert bad == {"id": "bad", "score": None, "score.sums": None, "score.texts": None, "nait_error": "empty response"}
    with pytest.raises(NaitError, match="empty response"):
        oda.NaitScorer(config).evaluate(pool)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"signatures": "a"}, "NaitScorer: model is missing"),
        ({"model": "m", "signatures": []}, "NaitScorer: signatures is missing"),
        ({"model": "m", "signatures": "a", "max_length": 8}, "NaitScorer: unknown option 'max_length'; known are"),
        ({"model": "m", "signatures": "a", "batch_size": 0}, "NaitScorer: batch_size 0: must be a whole number, at"),
        ({"model": "m", "signatures": "a", "options": {"layer": 1}}, "Scorer: unknown option 'layer'"),
    ],
)
def test_configurations_that_cannot_be(oda: ModuleType, config: dict, message: str) -> None:
    with pytest.raises(NaitError) as caught:
        oda.NaitScorer(config)
    assert str(caught.value).startswith(message)


def test_a_line_that_is_no_row(oda: ModuleType, made: Made, tmp_path: Path) -> None:
    file = tmp_path / "pool.jsonl"
    scorer = oda.NaitScorer({"model": made.model, "signatures": made.signatures[0]})
    for text, message in (("{}\n\n{,", r"pool\.jsonl:3: not valid JSON"), ("[1]", r"pool\.jsonl:1: is no row")):
        file.write_text(text)
        with pytest.raises(NaitError, match=message):
            scorer.evaluate(str(file))
