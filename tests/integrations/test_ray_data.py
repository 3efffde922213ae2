"""Ray Data: scores, the best rows and an index of a dataset, against the API's own."""

from pathlib import Path

import pytest

import nait_fast
from nait_fast import NaitError
from nait_fast.index.reader import Index
from tests.integrations.conftest import BAD

ray = pytest.importorskip("ray")
pytest.importorskip("ray.data")


def test_scores_and_the_best(cluster, made) -> None:
    from nait_fast.integrations import ray_data

    rows = [*made.rows, BAD]
    dataset = ray.data.from_items(rows, override_num_blocks=1)
    scored = ray_data.score(dataset, made.model, made.signatures, bad_rows="null", batch_size=len(rows)).materialize()
    table = {row["id"]: row for row in scored.take_all()}
    assert [[table[row["id"]][name] for name in made.names] for row in made.rows] == made.scores.tolist()
    assert "empty response" in table["bad"]["nait_error"] and table["r0"]["nait_error"] is None
    best = ray_data.top_k(scored.repartition(3), "texts", 20)
    assert [row["score.texts"] for row in best] == sorted(made.scores[:, 1], reverse=True)[:20]
    with pytest.raises(Exception, match=r"no column score\.other"):
        ray_data.top_k(scored, "other", 3)
    with pytest.raises(NaitError, match="choose raise or null"):
        ray_data.score(scored, made.model, made.signatures, bad_rows="drop")


def files_of(folder: Path) -> dict[str, bytes]:
    names = [*folder.glob("*.safetensors"), folder / "manifest.json"]
    return {path.name: path.read_bytes() for path in names}


def test_an_index_of_a_dataset(cluster, made, tmp_path: Path) -> None:
    from nait_fast.integrations import ray_data

    rows = made.rows[:120]
    options = {"calibration_size": 20, "shard_rows": 16}
    dataset = ray.data.from_items(rows, override_num_blocks=3)
    told = ray_data.index(dataset, tmp_path / "index", made.model, workers=1, **options)
    index = Index(tmp_path / "index")
    assert told["rows_indexed"] == 120 and index.verify() == []
    # The local engine makes the same bytes of the same pool.
    pool = str(tmp_path / "index" / "pool")
    nait_fast.build_index(model=made.model, dataset=pool, output=str(tmp_path / "local"), **options)
    assert files_of(tmp_path / "local") == files_of(tmp_path / "index")
    ids = [name for shard in index.shards() for name in shard.ids()]
    assert ids == [row["id"] for row in rows]
    # A rerun takes the rows that it wrote, and changes nothing.
    staged = {path.name: path.stat().st_mtime_ns for path in Path(pool).iterdir()}
    ray_data.index(dataset, tmp_path / "index", made.model, workers=1, **options)
    assert staged == {path.name: path.stat().st_mtime_ns for path in Path(pool).iterdir()}
    assert files_of(tmp_path / "local") == files_of(tmp_path / "index")
