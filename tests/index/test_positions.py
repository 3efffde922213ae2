"""Samples longer than what a model was trained on run, and are counted and said once."""

import json
import shutil
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest

import nait_fast
from nait_fast.index.reader import Index
from nait_fast.models.load import trained_positions
from nait_fast.notices import NaitWarning, recorded
from tests.conftest import make_rows, write_jsonl

OPTIONS = {"codec": "nag", "shard_rows": 8}


@pytest.fixture
def short(tiny_model: str, tmp_path: Path) -> str:
    """The tiny model, made for 24 positions."""
    folder = tmp_path / "short"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text()) | {"max_position_embeddings": 24}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def told_by(call, *given, **options) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with recorded() as told:
            call(*given, **options)
    return [text for text in told if "positions" in text]


def said(where: object, samples: int) -> list[str]:
    return [
        f"{where}: {samples} samples are longer than the 24 positions the model was trained on "
        "(max_position_embeddings); --max-length 24, of index and signatures alike, cuts what is beyond"
    ]


def test_samples_beyond_the_models_positions_are_said(short: str, tmp_path: Path) -> None:
    rows, more = make_rows(30), make_rows(12, seed=3)
    pool, other = write_jsonl(tmp_path / "pool.jsonl", rows), write_jsonl(tmp_path / "more.jsonl", more)
    index, apart = tmp_path / "index", [tmp_path / "a", tmp_path / "b"]
    given = {"model": short, "dataset": str(pool), "output": str(index), **OPTIONS}
    lines = told_by(nait_fast.build_index, **given)
    tokens = [int(n) for shard in Index(index).shards() for n in shard.n_tokens]
    longer = sum(n > 24 for n in tokens)
    assert 0 < longer < 30 and lines == said(pool, longer)
    assert told_by(nait_fast.build_index, **given) == lines  # complete already: said of what is there
    added = told_by(nait_fast.build_index, **{**given, "dataset": str(other), "append": True})
    beyond = sum(n > 24 for shard in Index(index).shards() for n in shard.n_tokens)
    assert beyond > longer and added == said(f"the 2 datasets of {index}", beyond)
    for folder, dataset in zip(apart, (pool, other), strict=True):
        nait_fast.build_index(**{**given, "output": str(folder), "dataset": str(dataset)})
    nait_fast.merge(index=[str(folder) for folder in apart], output=str(tmp_path / "merged"))
    assert Index(tmp_path / "merged").manifest["positions"] == 24

    with pytest.warns(NaitWarning, match=rf"the samples: {longer} samples are longer than the 24 positions"):
        signature = nait_fast.signature_of(short, rows, method="nag")
    scorer = nait_fast.Scorer(short, [signature])
    assert told_by(scorer.score, rows) == said("Scorer", longer)
    assert told_by(scorer.score, rows) == []

    fitting = {**given, "output": str(tmp_path / "cut"), "max_length": 24}
    assert told_by(nait_fast.build_index, **fitting) == [] and "positions" not in Index(tmp_path / "cut").manifest


@pytest.mark.parametrize(
    ("rope", "most"),
    [
        (None, 100),
        ({"rope_type": "default"}, 100),
        ({"rope_type": "linear", "factor": 4.0}, 400),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 12}, 100),
        (
            {"full_attention": {"rope_type": "linear", "factor": 2.0}, "sliding_attention": {"rope_type": "default"}},
            200,
        ),
    ],
)
def test_what_a_model_was_trained_on(rope: dict | None, most: int) -> None:
    assert trained_positions(SimpleNamespace(max_position_embeddings=100, rope_parameters=rope)) == most
    for none in (None, -1, "many"):
        assert trained_positions(SimpleNamespace(max_position_embeddings=none, rope_parameters=rope)) is None
    assert trained_positions(SimpleNamespace()) is None
