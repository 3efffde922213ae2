"""Commands on pools and targets behind URLs: the same bytes as with files, and no secret in any of them."""

import json
from pathlib import Path

import fsspec
import pytest

from nait_fast.remote import reading
from nait_fast.storage.names import MANIFEST
from tests.commands import run, summary
from tests.conftest import make_rows, write_jsonl
from tests.data.pools import write_parquet
from tests.index.stopping import stopping_at
from tests.remote.made import OPTIONS, TELLING, files_in, select
from tests.remote.servers import BUCKET, SECRET, WebServer, bucket


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool and a target on this machine."""
    folder = tmp_path_factory.mktemp("here")
    write_jsonl(folder / "pool.jsonl", make_rows(60))
    write_parquet(folder / "pool.parquet", make_rows(60))
    write_jsonl(folder / "sums.jsonl", [row for row in make_rows(40, seed=1) if row["source"] == "sums"])
    return folder


@pytest.fixture
def there(here: Path, s3: str, tmp_path: Path) -> str:
    """The same in a bucket."""
    for file in here.iterdir():
        bucket().put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/{file.name}", Body=file.read_bytes())
    return f"s3://{BUCKET}/{tmp_path.name}"


def assert_same(one: Path, other: Path, path_of_one: str, path_of_other: str) -> None:
    """But for the files that tell of the run; manifests but for what the pool is called, and what hangs on that."""
    mine, theirs = files_in(one), files_in(other)
    assert mine.keys() == theirs.keys() and any(name.endswith(".safetensors") for name in mine)
    for name in mine:
        if name.rpartition("/")[2] not in TELLING:
            assert mine[name] == theirs[name], name
    for name in mine:
        if name.endswith(MANIFEST):
            told = [json.loads(files[name]) for files in (mine, theirs)]
            kept = ("datasets", "rows", "shards", "files", "signatures", "skipped", "codebook", "tokens")
            for key in kept:
                texts = [json.dumps(manifest.get(key), ensure_ascii=False) for manifest in told]
                assert texts[0].replace(path_of_one, path_of_other) == texts[1], key


def test_a_pool_in_a_bucket_gives_the_same_bytes(
    capsys, tiny_model: str, here: Path, there: str, tmp_path: Path
) -> None:
    pools = [f"{place}/pool.jsonl" for place in (here, there)]
    for place, pool, output in zip((here, there), pools, ("a", "b"), strict=True):
        sums = f"{place}/sums.jsonl"
        select(capsys, tiny_model, pool, f"sums={sums}", tmp_path / output, "--decontaminate", sums)
    assert_same(tmp_path / "a", tmp_path / "b", pools[0], pools[1])
    assert all(SECRET.encode() not in data for data in files_in(tmp_path / "b").values())
    # rank reads the pool where the manifest says that it is
    arguments = ("--signature", tmp_path / "b/signatures/sums.safetensors", "--top-k", "7", "--quiet")
    done = run(capsys, "rank", "--index", tmp_path / "b/index", *arguments, "--output", tmp_path / "c")
    assert done.status == 0, done.err
    wanted = {json.loads(line)["id"] for line in (here / "pool.jsonl").read_bytes().splitlines()}
    chosen = [json.loads(line)["id"] for line in (tmp_path / "c/selected.jsonl").read_bytes().splitlines()]
    assert len(chosen) == 7 and wanted.issuperset(chosen)


def test_a_presigned_pool_through_cuts(
    capsys, tiny_model: str, here: Path, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "FIRST", 1000)
    web.files["/pool.jsonl"] = (here / "pool.jsonl").read_bytes()
    web.files["/sums.jsonl"] = (here / "sums.jsonl").read_bytes()
    web.cuts = set(range(2, 40, 3))
    monkeypatch.setattr("sys.argv", ["nait-fast", "select", f"{web.address}/pool.jsonl?sig={SECRET}"])
    urls = [f"http://name:{SECRET}@{web.address[7:]}/{name}?sig={SECRET}" for name in ("pool.jsonl", "sums.jsonl")]
    select(capsys, tiny_model, str(here / "pool.jsonl"), f"sums={here}/sums.jsonl", tmp_path / "a")
    select(capsys, tiny_model, urls[0], f"sums={urls[1]}", tmp_path / "b")
    assert len(web.gets) > 12
    assert_same(tmp_path / "a", tmp_path / "b", f"{here}/pool.jsonl", f"{web.address}/pool.jsonl?…")
    for name, data in files_in(tmp_path / "b").items():
        assert SECRET.encode() not in data, name
    shown = [run(capsys, "inspect", urls[0], *more) for more in ([], ["--json"])]
    assert all(ran.status == 0 and SECRET not in ran.out and f"{web.address}/pool.jsonl?" in ran.out for ran in shown)
    # where the URL is needed again, it is asked for
    given = ("--index", tmp_path / "b/index", "--signature", tmp_path / "b/signatures/sums.safetensors")
    arguments = ("rank", *given, "--top-k", "7", "--output", tmp_path / "c", "--quiet")
    error = run(capsys, *arguments).error
    assert "pool.jsonl?…: its query, which may have been a key to it, was not kept; give the whole URL again" in error
    assert run(capsys, *arguments, "--dataset", urls[0]).status == 0
    web.files["/pool.jsonl"] += b"{}\n"
    error = run(capsys, *arguments, "--dataset", urls[0], "--overwrite").error
    assert f"{web.address}/pool.jsonl?…: is not the data that index" in error and SECRET not in error


def test_a_stopped_index_of_a_remote_pool_goes_on(capsys, tiny_model: str, here: Path, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe_file(f"/{tmp_path.name}/pool.jsonl", (here / "pool.jsonl").read_bytes())
    pools = [here / "pool.jsonl", f"memory://{tmp_path.name}/pool.jsonl"]
    commands = [
        ("index", "--model", tiny_model, "--dataset", pool, "--output", tmp_path / name, *OPTIONS, "--shard-rows", "10")
        for pool, name in zip(pools, "ab", strict=True)
    ]
    summary(capsys, *commands[0])
    with stopping_at(3, KeyboardInterrupt):
        assert run(capsys, *commands[1]).status == 130
    summary(capsys, *commands[1])
    assert_same(tmp_path / "a", tmp_path / "b", str(pools[0]), str(pools[1]))


def test_parquet_in_a_bucket_and_what_takes_its_place(
    capsys, tiny_model: str, here: Path, there: str, tmp_path: Path
) -> None:
    pools = [f"{place}/pool.parquet" for place in (here, there)]
    for pool, name in zip(pools, "ab", strict=True):
        command = ("index", "--model", tiny_model, "--dataset", pool, "--output", tmp_path / name, *OPTIONS)
        summary(capsys, *command)
    assert_same(tmp_path / "a", tmp_path / "b", *pools)
    (tmp_path / "new").mkdir()
    data = write_parquet(tmp_path / "new/pool.parquet", make_rows(60, seed=3)).read_bytes()
    bucket().put_object(Bucket=BUCKET, Key=f"{tmp_path.name}/pool.parquet", Body=data)
    assert "holds an index made otherwise: dataset (sha256" in run(capsys, *command).error
