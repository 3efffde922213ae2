"""A pool in a bucket, or in memory, is the pool on this machine."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from tests.data.pools import MAKERS, ROWS, dump, write, write_parquet
from tests.data.test_folders import README
from tests.remote.servers import BUCKET, bucket


@pytest.fixture(params=["s3", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Path], str]]:
    """Puts a file or a folder there; returns the URL."""
    root = f"memory://{tmp_path.name}"
    if request.param == "s3":
        request.getfixturevalue("s3")
        root = f"s3://{BUCKET}/{tmp_path.name}"

    def put(source: Path) -> str:
        files = sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]
        for file in files:
            name = f"{tmp_path.name}/{file.relative_to(source.parent).as_posix()}"
            if request.param == "s3":
                bucket().put_object(Bucket=BUCKET, Key=name, Body=file.read_bytes())
            else:
                fsspec.filesystem("memory").pipe_file(f"/{name}", file.read_bytes())
        return f"{root}/{source.name}"

    yield put


def both(source: Path, url: str, **options: object) -> tuple[Pool, Pool]:
    here, there = Pool(source, **options), Pool(url, **options)
    mine, theirs = here.plan(), there.plan()
    assert (mine.sha256, mine.rows, mine.units, mine.kind) == (theirs.sha256, theirs.rows, theirs.units, theirs.kind)
    rows = [4, 0, 2]
    assert here.lines(rows) == there.lines(rows)
    assert list(here.samples()) == list(there.samples())
    return here, there


@pytest.mark.parametrize("make", [make for make, kind in MAKERS if kind != "disk"], ids=lambda make: make.__name__)
def test_every_container(tmp_path: Path, store: Callable[[Path], str], make: Callable[[Path], Path]) -> None:
    (tmp_path / "here").mkdir()
    source = make(tmp_path / "here")
    url = store(source)
    _, there = both(source, url, unit_rows=2)
    assert there.scan().path == url and there.source.parts[0].name.startswith(url)


def test_a_folder_of_splits(tmp_path: Path, store: Callable[[Path], str]) -> None:
    folder = tmp_path / "here" / "set"
    (folder / "data").mkdir(parents=True)
    (folder / "README.md").write_text(README)
    write_parquet(folder / "data" / "train-00000-of-00001.parquet", ROWS)
    write_parquet(folder / "data" / "test-00000-of-00001.parquet", ROWS[3:])
    url = store(folder)
    both(Path(f"{folder}:train"), f"{url}:train")
    for place in (str(folder), url):
        with pytest.raises(NaitError) as error:
            Pool(place).scan()
        assert str(error.value).startswith(
            f"{place}: holds files of several splits or folders (train, test); name what"
        )
        with pytest.raises(NaitError, match="has no split dev; name one of test, train"):
            Pool(f"{place}:dev").scan()


def test_files_of_a_folder_in_the_order_of_their_names(tmp_path: Path, store: Callable[[Path], str]) -> None:
    folder = tmp_path / "here" / "set"
    (folder / "more").mkdir(parents=True)
    for number, name in enumerate(("b.jsonl", "a.jsonl", "B.jsonl", "a-1.jsonl")):
        write(folder / name, dump(ROWS[number : number + 2]))
    write(folder / "more" / "c.jsonl", dump(ROWS))
    here, there = Pool(folder), Pool(store(folder))
    with pytest.warns(UserWarning, match=r"more/c.jsonl in folders below is not read"):
        assert here.plan().sha256 == there.plan().sha256
    names = ["B.jsonl", "a-1.jsonl", "a.jsonl", "b.jsonl"]
    assert [part.name.rpartition("/")[2] for part in there.source.parts] == names


def test_a_save_to_disk_folder_is_read_here_only(tmp_path: Path, store: Callable[[Path], str]) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "state.json").write_text("{}")
    with pytest.raises(NaitError, match="a save_to_disk folder, which is read on this machine only; copy it here"):
        Pool(store(tmp_path / "set")).scan()


def test_nothing_there(tmp_path: Path, s3: str) -> None:
    for url in (f"s3://{BUCKET}/nothing", "s3://no-such-bucket/pool.jsonl", "memory://nothing.jsonl"):
        with pytest.raises(NaitError, match=f"^{url}: no such file or folder; check the URL, and whose credentials"):
            Pool(url).scan()


def test_no_credentials(tmp_path: Path, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import s3fs

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(
        NaitError, match=r"pool.jsonl: cannot be opened: NoCredentialsError: Unable to locate credentials"
    ):
        Pool(f"s3://{BUCKET}/pool.jsonl").scan()
    s3fs.S3FileSystem.clear_instance_cache()
