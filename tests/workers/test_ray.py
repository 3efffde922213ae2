"""The units on Ray: the same bytes as the local engine's, whatever becomes of an actor."""

import os
import shutil
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast import NaitError, build_index
from nait_fast.index.reader import Index
from nait_fast.ranking import scan
from nait_fast.workers import ray_cluster, ray_scan
from tests.commands import run
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.workers.test_workers import events, wait_for_units

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Ray Data logs to the stderr that it finds at its import: not to one that a test captures for itself."""
    pytest.importorskip("ray.data")


@pytest.fixture(scope="module")
def options(tmp_path_factory, tiny_model: str) -> dict:
    pool = write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", make_rows(160))
    return {"model": tiny_model, "dataset": str(pool), "shard_rows": 4, "calibration_size": 20}


@pytest.fixture(scope="module")
def local_folder(tmp_path_factory, options: dict) -> Path:
    folder = tmp_path_factory.mktemp("local")
    build_index(**options, output=str(folder))
    return folder


@pytest.fixture(scope="module")
def local(local_folder: Path) -> dict[str, str]:
    return digest(local_folder)


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_a_cluster_that_is_not_there_is_told_at_once(tmp_path: Path, by: str, capsys, monkeypatch) -> None:
    assert not ray.is_initialized()  # the first tests of this file: a cluster that one is connected to would be taken
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(4))
    command = ["index", "--model", "x", "--dataset", pool, "--output", tmp_path / "index", "--engine", "ray"]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if by == "flag":
            error = run(capsys, *command, "--address", address).error
            assert f"--address {address}: no Ray cluster answers there" in error and "leave the flag out" in error
        else:
            monkeypatch.setenv("RAY_ADDRESS", address)
            error = run(capsys, *command).error
            assert f"RAY_ADDRESS={address}: no Ray cluster answers there" in error and "unset it" in error


def test_a_killed_actor_costs_only_its_unit(tmp_path: Path, cluster, options: dict, local: dict[str, str]) -> None:
    folder = tmp_path / "index"
    killed: list[int] = []

    def kill() -> None:
        killed.append(next(iter(wait_for_units(folder, 3).values())))
        os.kill(killed[0], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    told = build_index(**options, output=str(folder), engine="ray", workers=2)
    thread.join()
    assert digest(folder) == local and Index(folder).verify() == []
    assert told["workers"] == 2 and told["rows_indexed"] == 160
    begun = [e["pid"] for e in events(folder) if e["event"] == "begin"]
    assert killed[0] in begun and len(set(begun)) == 3  # another one has taken its place
    done = [e["unit"] for e in events(folder) if e["event"] == "unit"]
    assert set(done) == set(range(40)) and len(done) <= 42  # at most what was under way, again
    # Once more: nothing is left to do, and nothing changes.
    assert build_index(**options, output=str(folder), engine="ray", workers=1)["rows_indexed"] == 160
    assert digest(folder) == local


def test_begun_by_one_engine_and_ended_by_another(
    tmp_path: Path, cluster, options: dict, local_folder: Path, local: dict[str, str]
) -> None:
    folder = tmp_path / "index"
    shutil.copytree(local_folder, folder)
    for number in (3, 20, 39):
        path = folder / f"shard-{number:05d}.safetensors"
        path.write_bytes(path.read_bytes()[:-3])
    build_index(**options, output=str(folder), engine="ray", workers=1, repair=True)
    assert digest(folder) == local and Index(folder).verify() == []


def test_failures(tmp_path: Path, cluster, options: dict, capsys) -> None:
    rows = make_rows(400)
    del rows[380]["output"]
    pool = write_jsonl(tmp_path / "bad.jsonl", rows)
    uncalibrated = {name: value for name, value in options.items() if name != "calibration_size"}
    bad = {**uncalibrated, "dataset": str(pool), "codec": "nag:5", "shard_rows": 40, "engine": "ray"}
    with pytest.raises(NaitError, match=r"bad\.jsonl:381: no key .*the same command goes on where it stopped"):
        build_index(**bad, output=str(tmp_path / "index"))
    assert "; the others go on" in capsys.readouterr().err
    assert len(list((tmp_path / "index").glob("shard-*.safetensors"))) == 9
    assert build_index(**bad, output=str(tmp_path / "index"), skip_bad_rows=True)["rows_indexed"] == 399
    with pytest.raises(
        NaitError, match=r"^--model .*: the folder has no config.*; the same command goes on where it stopped$"
    ):
        build_index(**{**bad, "model": str(tmp_path)}, output=str(tmp_path / "other"), skip_bad_rows=True)
    with pytest.raises(NaitError, match="--workers 3: the Ray cluster has only 2 CPUs"):
        build_index(**{**bad, "workers": 3}, output=str(tmp_path / "other"))
    with pytest.raises(NaitError, match="is for --engine ray"):
        build_index(**options, output=str(tmp_path / "third"), address="auto")


def test_a_ranking_loses_an_actor(
    tmp_path: Path, cluster, options: dict, local_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it scans: another one comes in its place, and the bytes are those of one machine."""
    target = {"model": options["model"], "target": str(write_jsonl(tmp_path / "a.jsonl", make_rows(9, seed=2)))}
    nait_fast.build_signature(**target, codebook=local_folder, keep_samples=True, output=str(tmp_path))
    asked = {"index": local_folder, "signature": str(tmp_path / "a.safetensors"), "rule": "roundrobin"}
    nait_fast.rank(**asked, output=str(tmp_path / "here"))
    monkeypatch.setattr(ray_scan, "UNIT_PARTS", 1)
    monkeypatch.setattr(scan, "SCORE_BYTES", 8 * 9 * 8)
    taken, lost = ray_scan._in_order, []

    def losing(ray_: Any, actors: Sequence[Any], *given: Any) -> Iterator[Any]:
        for number, block in enumerate(taken(ray_, actors, *given)):
            if number == 3 and not lost:
                lost.append(actors[0])
                ray_.kill(actors[0], no_restart=False)
            yield block

    monkeypatch.setattr(ray_scan, "_in_order", losing)
    nait_fast.rank(**asked, output=str(tmp_path / "there"), engine="ray", workers=1)
    assert lost
    for name in ("selected.jsonl", "scores.parquet"):
        assert (tmp_path / "there" / name).read_bytes() == (tmp_path / "here" / name).read_bytes(), name


def node(cpus: float, gpus: float = 0, alive: bool = True) -> dict:
    return {"Alive": alive, "Resources": {"CPU": cpus, "GPU": gpus}}


@pytest.mark.parametrize(
    ("nodes", "device", "workers", "number"),
    [
        ([node(8, 2), node(8, 4), node(8, 8, alive=False)], "auto", None, 6),
        ([node(8, 2), node(8)], "cpu", None, 2),
        ([node(8, 2), node(8)], "cpu", 16, 16),
        ([node(8, 2), node(8)], "auto", 3, None),
        ([node(0), node(4)], "auto", None, 1),
        ([node(0)], "auto", None, None),
    ],
)
def test_how_many_actors(nodes: list[dict], device: str, workers: int | None, number: int | None) -> None:
    if number is None:
        with pytest.raises(NaitError, match="has only"):
            ray_cluster.number_of(workers, nodes, device)
    else:
        assert ray_cluster.number_of(workers, nodes, device) == number


@pytest.mark.parametrize(
    ("cpus", "actors", "each"),
    [([2], 2, 1), ([2], 1, 2), ([8, 8], 2, 8), ([6, 2], 2, 3), ([4, 4], 3, 2), ([4, 4], 8, 1), ([1, 1], 2, 1)],
)
def test_cpus_of_an_actor(cpus: list[float], actors: int, each: int) -> None:
    """The most that lets all of them find a place; one more would not."""
    assert ray_cluster.cpus_each([node(n) for n in cpus], actors) == each
    assert sum(int(n) // each for n in cpus) >= actors > sum(int(n) // (each + 1) for n in cpus)


def test_ray_ends_behind_the_last_call_of_its_threads() -> None:
    """Whoever asks Ray for something after its end takes the process along."""
    order, go = [], threading.Event()

    class Executor(threading.Thread):
        def run(self) -> None:
            go.wait(10)
            order.append("asked")

    def parked() -> None:
        forever.wait(60)

    class Ray:
        @staticmethod
        def shutdown() -> None:
            order.append("down")

    Executor.__module__ = parked.__module__ = "ray.data._internal"
    forever = threading.Event()
    prefetcher, somebody = (
        threading.Thread(target=target, name=name, daemon=True)
        for target, name in ((parked, "Prefetcher"), (forever.wait, "another's"))
    )
    threads = [Executor(), prefetcher, somebody]
    for thread in threads:
        thread.start()
    threading.Timer(0.3, go.set).start()
    ray_cluster.shut_down(Ray)
    assert order == ["asked", "down"]
    assert prefetcher.is_alive() and somebody.is_alive()
    forever.set()
