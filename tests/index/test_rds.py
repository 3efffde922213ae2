"""rds in an index: right beside every codec, and nothing else changed; killed, added to, joined, repaired, checked."""

from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast import NaitError
from nait_fast.config import RDS_TYPES, DataOptions, ModelOptions
from nait_fast.extract.session import open_session
from nait_fast.index.format import bytes_per_row, rds_vectors
from nait_fast.index.reader import Index
from nait_fast.storage.files import write_sealed
from nait_fast.verbs.inspection import inspect
from nait_fast.verbs.signature import read_target
from tests import naive
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import arrays, digest, manifest, model, naive_ids
from tests.index.stopping import Stopped, stopping_at
from tests.index.test_append import add_join_and_repair, build
from tests.models.tiny import worst_error

WIDTH = 48
FIDELITY = {"float32": 1e-5, "float16": 4e-4, "int8": 1e-2}  # norm-wise
ENTRIES = {"rds", "rds_width", "rds_model"}


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(40)


@pytest.fixture(scope="module")
def pool(tmp_path_factory, rows) -> str:
    return str(write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", rows))


@pytest.fixture(scope="module")
def expected(tiny_model: str, rows) -> np.ndarray:
    """float64 [n, H], by transformers alone."""
    whole = model(tiny_model)[0]
    return np.stack([naive.rds(whole, naive_ids(tiny_model, row, template="alpaca")) for row in rows])


def columns(folder: Path) -> dict[str, np.ndarray]:
    shards = list(Index(folder).shards())
    return {name: np.concatenate([shard.columns[name] for shard in shards]) for name in shards[0].columns}


def only(folder: Path) -> dict[str, bytes]:
    """What every row has in every index of these codes."""
    return {name: array.tobytes() for name, array in arrays(Index(folder)).items()}


@pytest.mark.parametrize(
    "codec, dtype",
    [*(("neuron", dtype) for dtype in RDS_TYPES), *((c, "float16") for c in ("nag:5", "rotated:9", "components:16"))],
)
def test_beside_every_codec(tmp_path: Path, tiny_model: str, pool: str, expected, codec: str, dtype: str) -> None:
    options = {"model": tiny_model, "dataset": pool, "template": "alpaca", "codec": codec}
    options["calibrates"] = not codec.startswith("nag")
    build(tmp_path / "plain", **options)
    summary = build(tmp_path / "rds", embed=f"rds:{dtype}", **options)
    assert max(summary["shared_prefix_tokens"]) > 5
    held, index = columns(tmp_path / "rds"), Index(tmp_path / "rds")
    assert held["rds"].dtype == np.dtype(dtype) and worst_error(rds_vectors(held), expected) <= FIDELITY[dtype]
    assert index.verify() == []
    more = WIDTH * np.dtype(dtype).itemsize + (0 if dtype == "float32" else 4)
    assert bytes_per_row(index.manifest) == bytes_per_row(manifest(tmp_path / "plain")) + more
    # All else is as without it.
    before, after = manifest(tmp_path / "plain"), manifest(tmp_path / "rds")
    assert after.keys() - before.keys() == ENTRIES and not before.keys() - after.keys()
    assert (after["rds"], after["rds_width"]) == (dtype, WIDTH)
    differs = {name for name in before if before[name] != after[name]}
    assert differs <= {"shards", "calibration", "checksum"}
    assert only(tmp_path / "plain") == only(tmp_path / "rds")
    assert inspect(str(tmp_path / "rds"))["rds"] == dtype


def test_beside_an_embedding_and_of_the_last_of_few_layers(tmp_path: Path, tiny_model: str, pool: str, expected):
    build(tmp_path / "both", model=tiny_model, dataset=pool, template="alpaca", embed="last,rds:float32", layers="0")
    build(tmp_path / "embed", model=tiny_model, dataset=pool, template="alpaca", embed="last", layers="0")
    held, alone = columns(tmp_path / "both"), columns(tmp_path / "embed")
    assert worst_error(held["rds"], expected) <= 1e-5
    np.testing.assert_array_equal(held["embedding"], alone["embedding"])
    assert digest(tmp_path / "both")["codebook.safetensors"] == digest(tmp_path / "embed")["codebook.safetensors"]


def test_a_targets_samples(tiny_model: str, rows, expected) -> None:
    session = open_session(ModelOptions(model=tiny_model), DataOptions(template="alpaca"), quiet=True)
    read = read_target(session, "sums", rows[:9], ("rds",))
    assert list(read.values) == ["rds"] and worst_error(read.values["rds"], expected[:9]) <= 1e-5


def test_stopped_and_gone_on_with(tmp_path: Path, tiny_model: str, pool: str) -> None:
    options = {"model": tiny_model, "dataset": pool, "embed": "rds"}
    build(tmp_path / "whole", **options)
    with stopping_at(2), pytest.raises(Stopped):
        build(tmp_path / "stopped", **options)
    with pytest.raises(NaitError, match="holds an index made otherwise: rds"):
        build(tmp_path / "stopped", **options | {"embed": "rds:int8"})
    build(tmp_path / "stopped", **options)
    assert digest(tmp_path / "stopped") == digest(tmp_path / "whole")


def test_added_joined_and_repaired(tmp_path: Path, tiny_model: str, rows) -> None:
    add_join_and_repair(tmp_path, rows, tiny_model, "embed", ("rds:int8", "rds"), "rds float16, not int8")


@pytest.mark.parametrize("wrong", [{"rds": "int4"}, {"rds_width": 0}, {"rds_width": None}, {"rds_model": "ab"}])
def test_a_manifest_that_was_never_written(tmp_path: Path, tiny_model: str, pool: str, wrong) -> None:
    build(tmp_path / "index", model=tiny_model, dataset=pool, embed="rds", calibration_size=4, layers="0")
    held = {k: v for k, v in manifest(tmp_path / "index").items() if k != "checksum"}
    write_sealed(tmp_path / "index" / "manifest.json", held | wrong)
    with pytest.raises(NaitError, match=f"not a valid manifest .*{next(iter(wrong))}"):
        Index(tmp_path / "index")


def test_methods_that_do_not_ask_for_it_rank_as_before(tmp_path: Path, tiny_model: str, pool: str) -> None:
    """Estimates read the codec's own columns, whatever comes with them."""
    target = write_jsonl(tmp_path / "sums.jsonl", make_rows(8, seed=1))
    nait_fast.build_signature(model=tiny_model, target=[str(target)], method="nait", output=tmp_path)
    scores = []
    for name, embed in (("plain", "none"), ("rds", "rds")):
        build(tmp_path / name, model=tiny_model, dataset=pool, codec="rotated:9", embed=embed)
        nait_fast.rank(
            index=tmp_path / name, signature=[tmp_path / "sums.safetensors"], output=tmp_path / f"{name}.out"
        )
        scores.append((tmp_path / f"{name}.out" / "scores.parquet").read_bytes())
    assert scores[0] == scores[1]
