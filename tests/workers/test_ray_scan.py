"""Scans on a cluster: the bytes of one machine, for every method, rule and export, however parts come back."""

import hashlib
import json
import shutil
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.ranking import scan
from nait_fast.rules import round_robin
from nait_fast.verbs import rank, select
from nait_fast.workers.worker import Worker, index_pool
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.ranking.test_rules import _made

pytest.importorskip("ray")
from tests.workers.fake_ray import FakeRay, scanning_by

OF_RUN = ("manifest.json", ".nait-fast.json", ".nait-fast.lock")


def outputs(folder: Path) -> dict[str, str]:
    """File -> SHA-256, but for what holds times and options."""
    files = (path for path in folder.iterdir() if path.is_file() and path.name not in OF_RUN)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def by_both(
    folder: Path, patch: pytest.MonkeyPatch, seed: int, lost: int = 0, chance: float = 0.3, **options: Any
) -> tuple[list[FakeRay], dict[str, str]]:
    """What one machine and the fake cluster select, which must be the same."""
    nait_fast.rank(output=folder / "one", overwrite=True, **options)
    rays: list[FakeRay] = []
    with patch.context() as within:
        scanning_by(rays, within, 3, seed, lost, chance)
        nait_fast.rank(output=folder / "many", overwrite=True, **options)
    assert outputs(folder / "one") == outputs(folder / "many")
    return rays, outputs(folder / "many")


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Parts of a few rows, units of two of them, and lists that rule roundrobin uses up."""
    monkeypatch.setattr(scan, "SCORE_BYTES", 8 * 28)  # 2 rows of 14 samples, 28 of one score
    monkeypatch.setattr("nait_fast.workers.ray_scan.UNIT_PARTS", 2)
    monkeypatch.setattr(round_robin, "LEAST", 1)
    monkeypatch.setattr(round_robin, "MOST", 40)
    return monkeypatch


def test_every_rule_combination_and_export(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str], small_parts: pytest.MonkeyPatch
) -> None:
    index, files = _made(tmp_path, tiny_model, "contrast", capsys)
    options = {"index": index, "signature": files}
    rays, _ = by_both(tmp_path, small_parts, 0, top_k=30, rule="centroid", combine="max", **options)
    assert len(rays) == 1 and rays[0].units == 4
    by_both(tmp_path, small_parts, 1, top_k=20, rule="max", length="matched", combine="union", **options)
    exports = {"export": ["near", "cossim", "dataflex"], "near_duplicates": 0.2}
    rays, files = by_both(tmp_path, small_parts, 2, top_k=30, rule="roundrobin", **exports, **options)
    assert rays[0].units > 3 * 23 and {"near.npy", "a_cossim.npy", "dropped.jsonl"} < files.keys()  # several passes
    rays, _ = by_both(tmp_path, small_parts, 3, lost=8, token_budget=600, rule="roundrobin", **options)
    assert rays[0].lost < 8
    with pytest.raises(NaitError, match=r"^Ray: .*; run the same command again$"):
        by_both(tmp_path, small_parts, 3, lost=100, chance=1.0, top_k=5, **options)
    np.save(tmp_path / "other.npy", np.random.default_rng(0).random((3, 90)).astype(np.float32))
    foreign = {"index": index, "foreign_scores": [f"other={tmp_path / 'other.npy'}"]}
    by_both(tmp_path, small_parts, 4, top_k=30, rule="roundrobin", quota=["source:equal"], **foreign)


def test_vectors(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str], small_parts: pytest.MonkeyPatch
) -> None:
    index, files = _made(tmp_path, tiny_model, "embed", capsys)
    for seed, rule in enumerate(("centroid", "roundrobin")):
        rays, _ = by_both(tmp_path, small_parts, seed, index=index, signature=files, rule=rule, top_k=30)
        assert rays[0].units > 1


def test_estimates_and_hidden_states(tmp_path: Path, tiny_model: str, small_parts: pytest.MonkeyPatch) -> None:
    """Scores that are floating-point sums: parts are those of one machine, so their bits are, too."""
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(60))
    target = [f"a={write_jsonl(tmp_path / 'a.jsonl', make_rows(9, seed=5))}"]
    index = tmp_path / "index"
    nait_fast.build_index(
        model=tiny_model, dataset=pool, output=index, codec="rotated:outliers=6", embed="rds", calibration_size=30
    )
    options = {"model": tiny_model, "target": target}
    for method in ("nait", "rds", "crds:dims=4"):
        made = nait_fast.build_signature(**options, method=method, output=tmp_path / method)
        file = [tmp_path / method / "a.safetensors"]
        assert made and by_both(tmp_path, small_parts, 0, index=index, signature=file, top_k=20)[0][0].units > 1


def test_what_goes_wrong_on_a_node_is_told(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str], small_parts: pytest.MonkeyPatch
) -> None:
    """In the line that one machine prints, and where; nothing is written."""
    index, files = _made(tmp_path, tiny_model, "contrast", capsys)
    kept = tmp_path / "whole"
    shutil.copytree(index, kept)
    (shard,) = index.glob("shard-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    rays: list[FakeRay] = []
    options = {"index": index, "signature": files[0], "output": tmp_path / "out"}
    with small_parts.context() as patch:
        scanning_by(rays, patch, 2, 0)
        shard.write_bytes(bytes(data))
        with pytest.raises(NaitError, match=r"shard-00000\.safetensors: .*\(on a node of the Ray cluster\)$"):
            nait_fast.rank(**options)
        shutil.rmtree(index)
        shutil.copytree(kept, index)
        first = rank.scanning_of

        def another(given: Any, of: Index) -> Any:
            (index / "manifest.json").unlink()
            return first(given, of)

        patch.setattr(rank, "scanning_of", another)
        with pytest.raises(NaitError, match=r"not finished .*\(on a node of the Ray cluster\)$"):
            nait_fast.rank(**options)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_select_does_the_pass_and_the_scan_there(
    tmp_path: Path, tiny_model: str, small_parts: pytest.MonkeyPatch
) -> None:
    """What goes to the actors are plain values and whole paths, whatever the folder that the command runs in."""
    write_jsonl(tmp_path / "pool.jsonl", make_rows(60))
    write_jsonl(tmp_path / "a.jsonl", make_rows(9, seed=5))
    asked: dict[str, Any] = {"model": tiny_model, "dataset": "pool.jsonl", "target": "a.jsonl", "rule": "max"}
    asked |= {"near_duplicates": 0.1, "calibration_size": 20}
    small_parts.chdir(tmp_path)
    nait_fast.select(**asked, output="here")
    units: list[int] = []

    def run_on_ray(opens: Any, given: dict[str, Any], number: int, **named: Any) -> int:
        units.append(number)
        with small_parts.context() as elsewhere, ExitStack() as stack:
            elsewhere.chdir("/")
            build, directions = opens(json.loads(json.dumps(given)), Worker(0, 1), True, stack)
            index_pool(build, directions)
        return 7

    small_parts.setattr("nait_fast.workers.ray_engine.run_on_ray", run_on_ray)
    small_parts.setattr("nait_fast.workers.ray_cluster.cluster", lambda address: nullcontext())
    rays: list[FakeRay] = []
    scanning_by(rays, small_parts, 2, 0, verb=select)
    told = nait_fast.select(**asked, output="there", engine="ray")
    assert units == [1] and rays[0].units > 3 and told["extraction"]["workers"] == 7
    assert digest(tmp_path / "here" / "index") == digest(tmp_path / "there" / "index")
    assert outputs(tmp_path / "here") == outputs(tmp_path / "there")
    again = nait_fast.select(**asked, output="there", engine="ray", top_k=5)  # the index is there: no pass
    assert units == [1] and len(rays) == 2 and again["rows_selected"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "ray", "device": "cuda"}, "--device cuda: on a cluster processors scan"),
        ({"workers": 2}, "--workers 2: is for --engine ray"),
        ({"address": "auto"}, "--address auto: is for --engine ray"),
    ],
)
def test_options_of_a_cluster(options: dict[str, Any], words: str) -> None:
    with pytest.raises(NaitError, match=words):
        nait_fast.rank(index="x", signature="y", output="z", **options)
