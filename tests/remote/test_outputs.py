"""Results behind URLs: the bytes of those in a folder, sent once, whole or not at all, one command at a time."""

import json
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path

import fsspec
import pytest

from nait_fast import env
from nait_fast.errors import NaitError
from nait_fast.index.writer import IndexWriter
from nait_fast.outputs import published
from nait_fast.ranking import selection_files
from nait_fast.remote.copies import local_folder, named, working_folder
from nait_fast.storage.lock import FOLDER_LOCK
from nait_fast.storage.names import MANIFEST
from tests.commands import run
from tests.remote.made import TELLING, Made, files_in, select
from tests.remote.servers import BUCKET, SECRET

OURS = {FOLDER_LOCK, published.LISTING}


@pytest.fixture
def memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    return f"memory://{tmp_path.name}/out"


@pytest.fixture
def in_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, s3: str) -> str:
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    return f"s3://{BUCKET}/{tmp_path.name}/out"


@pytest.fixture(params=["memory", "in_s3"])
def url(request: pytest.FixtureRequest) -> str:
    return request.getfixturevalue(request.param)


def objects(url: str) -> dict[str, bytes]:
    store = fsspec.filesystem(url.partition("://")[0], use_listings_cache=False)
    key = store._strip_protocol(url).rstrip("/")
    return {name[len(key) + 1 :]: store.cat_file(name) for name in store.find(key)}


def put(url: str, name: str, data: bytes) -> None:
    fsspec.filesystem(url.partition("://")[0], use_listings_cache=False).pipe_file(f"{url}/{name}", data)


def assert_sent(here: Path, there: dict[str, bytes], but: frozenset[str] | set[str] = frozenset()) -> None:
    """All files of the folder ``here``, and no more of ours ``but`` some."""
    mine = files_in(here)
    assert there.keys() - OURS - but == {name for name in mine if not name.endswith(".lock")} - but
    for name in mine.keys() & there.keys():
        if name.rpartition("/")[2] not in TELLING:
            assert mine[name] == there[name], name


def test_a_selection_is_the_one_in_a_folder(capsys, made: Made, in_s3: str, tmp_path: Path) -> None:
    pool, sums = str(made.folder / "pool.jsonl"), f"sums={made.folder}/sums.jsonl"
    for output in (tmp_path / "a", in_s3):
        select(capsys, made.model, pool, sums, output)
    there = objects(in_s3)
    assert_sent(tmp_path / "a", there)
    listing = json.loads(there[published.LISTING])
    assert FOLDER_LOCK not in there and listing["whole"]
    assert listing["files"] == {name: len(there[name]) for name in there.keys() - OURS}
    assert f"output: {in_s3}\n".encode() in there["config.yaml"]
    assert all(SECRET.encode() not in content for content in there.values())
    # Given again it is there already, and only what tells of the run is sent.
    before = versions(in_s3)
    assert select(capsys, made.model, pool, sums, in_s3)["output"] == in_s3
    again = {name for name, version in versions(in_s3).items() if before[name] != version}
    assert again <= {MANIFEST, "config.yaml", ".nait-fast.json", published.LISTING}, again


def versions(url: str) -> dict[str, object]:
    store = fsspec.filesystem(url.partition("://")[0], use_listings_cache=False)
    infos = {name: store.info(f"{url}/{name}") for name in objects(url)}
    return {name: info.get("LastModified", info.get("created")) for name, info in infos.items()}


def test_from_another_machine(capsys, made: Made, memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(made.folder / "index", tmp_path / "a")
    assert run(capsys, *made.index("more.jsonl", tmp_path / "a", "--append")).status == 0
    assert run(capsys, *made.index("pool.jsonl", memory)).status == 0
    monkeypatch.setenv(env.CACHE, str(tmp_path / "elsewhere"))
    assert run(capsys, *made.index("more.jsonl", memory, "--append")).status == 0
    assert_sent(tmp_path / "a", objects(memory), but={"config.yaml"})
    # The first one's copy is an old one now.
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    damaged = working_folder(memory) / "shard-00001.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    ran = run(capsys, *made.index("more.jsonl", memory, "--append"))
    assert ran.status == 0 and f"{memory}: written from elsewhere since; what was begun here for it is" in ran.err
    assert_sent(tmp_path / "a", objects(memory), but={"config.yaml"})


def test_shards_that_are_damaged_or_gone_there(capsys, made: Made, url: str, tmp_path: Path) -> None:
    assert run(capsys, *made.index("pool.jsonl", url)).status == 0
    whole, name = objects(url), "shard-00001.safetensors"
    put(url, name, whole[name][:-1] + bytes([whole[name][-1] ^ 1]))
    said = run(capsys, *made.index("pool.jsonl", url)).err
    assert f"{url}/{name}: its bytes are others than were sent, under the same manifest" in said
    assert run(capsys, *made.index("pool.jsonl", url, "--repair")).status == 0
    assert objects(url)[name] == whole[name]
    fsspec.filesystem(url.partition("://")[0], use_listings_cache=False).rm_file(f"{url}/{name}")
    ran = run(capsys, *made.index("pool.jsonl", url))
    assert ran.status == 2 and f"{url}/{name}: is missing" in ran.err and "--repair" in ran.err
    assert run(capsys, *made.index("pool.jsonl", url, "--repair")).status == 0
    assert_sent(made.folder / "index", objects(url), but={"config.yaml"})


def test_a_stopped_index_goes_on_and_sends_each_shard_once(
    capsys, made: Made, in_s3: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(published, "_LOOK_SECONDS", 0.01)
    sent: list[str] = []
    send, write = published._Published._send, IndexWriter.write_shard

    def counted(self: published._Published, path: Path) -> None:
        send(self, path)
        sent.append(path.name)

    def stopped(self: IndexWriter, number: int, *rest: object) -> None:
        if number == 3:
            deadline = time.monotonic() + 20
            while "shard-00002.safetensors" not in sent and time.monotonic() < deadline:
                time.sleep(0.01)
            known = json.loads((working_folder(in_s3) / published.LISTING).read_bytes())["files"]
            assert "shard-00001.safetensors" in known  # what a run that is killed now leaves behind
            raise KeyboardInterrupt
        write(self, number, *rest)

    monkeypatch.setattr(published._Published, "_send", counted)
    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "write_shard", stopped)
        assert run(capsys, *made.index("pool.jsonl", in_s3)).status == 130
    there = objects(in_s3)
    assert there.keys() == {published.LISTING, *(f"shard-0000{n}.safetensors" for n in range(3))}
    assert not json.loads(there[published.LISTING])["whole"]
    assert run(capsys, *made.index("pool.jsonl", in_s3)).status == 0
    assert sorted(name for name in sent if name.startswith("shard")) == [f"shard-0000{n}.safetensors" for n in range(6)]
    assert sent[-1] == MANIFEST
    assert_sent(made.folder / "index", objects(in_s3), but={"config.yaml"})


def test_what_could_not_be_sent_is_sent_by_the_same_command(
    capsys, made: Made, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = published._Published._send

    def refused(self: published._Published, path: Path) -> None:
        if path.name == "scores.parquet":
            raise PermissionError(13, "no more room")
        send(self, path)

    with monkeypatch.context() as patch:
        patch.setattr(published._Published, "_send", refused)
        ran = run(capsys, *made.rank(memory))
    assert ran.status == 2 and ran.err.splitlines()[-1] == (
        f"nait-fast: error: --output {memory}: cannot be written (no more room); the results are whole in "
        f"{working_folder(memory)}; the same command sends what is missing"
    )
    assert MANIFEST not in objects(memory)
    assert run(capsys, *made.rank(memory)).status == 0
    assert json.loads(objects(memory)[MANIFEST])["rows_selected"] == 7


def test_a_manifest_goes_before_what_it_tells_of_is_replaced(
    capsys, made: Made, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run(capsys, *made.rank(memory, "--near-duplicates", "0.01")).status == 0
    assert "dropped.jsonl" in objects(memory)
    seen: list[set[str]] = []
    send = published._Published._send

    def watched(self: published._Published, path: Path) -> None:
        seen.append({*objects(memory)})
        send(self, path)

    monkeypatch.setattr(published._Published, "_send", watched)
    assert run(capsys, *made.rank(memory, "--overwrite", "--pick", "bottom")).status == 0
    there = objects(memory)
    assert seen and all(MANIFEST not in names for names in seen)
    assert "dropped.jsonl" not in there and json.loads(there[MANIFEST])["config"]["pick"] == "bottom"
    assert set(json.loads(there[published.LISTING])["files"]) == there.keys() - OURS


def lock_of(**fields: object) -> bytes:
    note = {"pid": 7, "host": "elsewhere", "command": "nait-fast index", "since": "today", "run": None}
    return json.dumps({**note, "beat": time.time(), **fields}).encode()


def test_one_command_at_a_time(capsys, made: Made, url: str) -> None:
    put(url, FOLDER_LOCK, lock_of())
    assert run(capsys, *made.rank(url)).error == (
        f"--output {url}: in use by pid 7 on elsewhere since today (nait-fast index); wait until it has ended, or "
        "choose another output; it counts as dead after 10 minutes without a sign of life"
    )
    assert objects(url).keys() == {FOLDER_LOCK}
    ended = subprocess.Popen(["true"])
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # ended, and not yet asked for its status
    here = socket.gethostname()
    deaths = ({"beat": time.time() - 700}, {"host": here, "pid": 2**22 + 1}, {"host": here, "pid": ended.pid})
    for dead in deaths[:1] if url.startswith("s3") else deaths:
        put(url, FOLDER_LOCK, lock_of(**dead))
        assert run(capsys, *made.rank(url)).status == 0
        assert FOLDER_LOCK not in objects(url)
    ended.wait()


def test_a_lock_that_was_lost_keeps_from_sending(
    capsys, made: Made, memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = selection_files.write_selected

    def taken(*arguments: object) -> object:
        put(memory, FOLDER_LOCK, lock_of())
        return write(*arguments)

    monkeypatch.setattr("nait_fast.verbs.rank.write_selected", taken)
    ran = run(capsys, *made.rank(memory))
    assert ran.status == 2 and f"{memory}: another command has taken it meanwhile; the results are whole in" in ran.err
    there = objects(memory)
    assert MANIFEST not in there and json.loads(there[FOLDER_LOCK])["host"] == "elsewhere"


def test_a_long_command_gives_signs_of_life(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(published, "BEAT_SECONDS", 0.02)
    beats = set()
    with published.published(memory):
        deadline = time.monotonic() + 20
        while len(beats) < 3 and time.monotonic() < deadline:
            beats.add(json.loads(objects(memory)[FOLDER_LOCK])["beat"])
    assert len(beats) == 3 and FOLDER_LOCK not in objects(memory)


def test_somebody_elses_objects_stay(capsys, made: Made, url: str) -> None:
    put(url, "precious.jsonl", b"{}")
    error = run(capsys, *made.rank(url)).error
    assert error == f"--output {url}: holds what nait_fast did not write (precious.jsonl); choose another folder"
    assert objects(url) == {"precious.jsonl": b"{}"}


def test_a_listing_that_leads_out_of_the_folder(capsys, made: Made, memory: str) -> None:
    for files in ({"../x": 1}, {"/etc/x": 1}, {"a\\..\\b": 1}, {"a//b": 1}, [], {"x": "1"}):
        put(memory, published.LISTING, json.dumps({"kind": published.KIND, "whole": True, "files": files}).encode())
        error = run(capsys, *made.rank(memory)).error
        assert error.startswith(f"{memory}/{published.LISTING}: not what nait_fast writes there; delete it together")


def test_workers_that_were_started_apart(capsys, made: Made, memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    error = run(capsys, *made.index("pool.jsonl", memory, "--engine", "ray")).error
    assert error == (
        f"--engine ray --output {memory}: actors on other nodes write into a folder that all of them see; name one"
    )
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    error = run(capsys, *made.index("pool.jsonl", memory)).error
    assert error.startswith(f"--output {memory}: several workers that were started apart share a folder of a file")


@pytest.mark.parametrize(
    ("output", "why"),
    [
        ("https://host/out", "nothing is written to https://; name a folder, or s3://… or gs://…"),
        ("hf://datasets/a/b", "nothing is written to hf://; name a folder, or s3://… or gs://…; --push-to-hub sends"),
        ("s3://bucket", "names no folder in a bucket; write s3://BUCKET/FOLDER"),
        ("s3://bucket/../x", "names no folder in a bucket"),
    ],
)
def test_where_nothing_is_written(capsys, made: Made, output: str, why: str) -> None:
    assert run(capsys, *made.rank(output)).error.startswith(f"--output {output}: {why}")


def test_files_that_stay_here(capsys, tmp_path: Path) -> None:
    url = "s3://bucket/report.html"
    error = run(capsys, "report", tmp_path, "--output", url).error
    assert error == f"--output {url}: is a URL, and this is written on this machine only; name a path here"


def test_names_of_working_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(env.CACHE, str(tmp_path))
    for url in ("s3://bucket/a/b=1/c d@e", "gs://b/ü/%41"):
        assert named(working_folder(url)) == url and named(working_folder(url) / "x") == f"{url}/x"
    assert local_folder("a/b") == Path("a/b") and named(Path("a/b")) == "a/b"
    monkeypatch.setenv(env.CACHE, "off")
    with pytest.raises(NaitError, match="NAIT_FAST_CACHE allows no folder for that; unset NAIT_FAST_CACHE, or set it"):
        working_folder("s3://bucket/a")
