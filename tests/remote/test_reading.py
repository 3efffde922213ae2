"""Files behind URLs: ranges, cuts, servers without ranges, files that change."""

import builtins
import io
import itertools
import json
import random
import sys
import tracemalloc

import fsspec
import pyarrow.parquet
import pytest

from nait_fast.data.pool import Pool
from nait_fast.errors import NaitError
from nait_fast.remote import reading, retrying
from nait_fast.remote.places import RemotePath, place_of
from nait_fast.remote.reading import RemoteFile
from tests.data.pools import ROWS, dump
from tests.remote.servers import SECRET, WebServer

DATA = random.Random(0).randbytes(100_000)


@pytest.fixture(autouse=True)
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST", 1000)
    monkeypatch.setattr(reading, "LARGEST", 8000)


def served(web: WebServer, data: bytes = DATA, name: str = "pool.jsonl") -> RemotePath:
    web.files[f"/{name}"] = data
    place = place_of(f"{web.address}/{name}")
    assert isinstance(place, RemotePath)
    return place


def jsonl(rows: int = 2000) -> bytes:
    return b"".join(json.dumps({"text": f"row {i} {'x' * (i % 50)}"}).encode() + b"\n" for i in range(rows))


@pytest.mark.parametrize("ranges", [True, False])
@pytest.mark.parametrize("cuts", [set(), {0}, {1, 2, 3, 7, 8}, set(range(0, 40, 2))])
def test_a_cut_connection_costs_no_byte(web: WebServer, ranges: bool, cuts: set[int]) -> None:
    place = served(web)
    web.ranges, web.cuts = ranges, cuts
    with place.open(buffering=100) as file:
        assert file.read() == DATA
    for start in (0, 777, 99_999, 100_000):
        with place.open(buffering=100) as file:
            file.seek(start)
            assert file.read(2500) == DATA[start : start + 2500]
            assert file.read() == DATA[start + 2500 :]


def test_ranges_follow_one_another_and_grow(web: WebServer) -> None:
    with served(web).open(buffering=100) as file:
        # To the end: of what is read ahead, nothing is on its way any more.
        assert b"".join(iter(lambda: file.read(100), b"")) == DATA
    ranges = sorted(part for part in web.gets if part)
    assert ranges[:4] == [(0, 1000), (1000, 3000), (3000, 5000), (5000, 7000)]
    assert all(before[1] == after[0] for before, after in itertools.pairwise(ranges))
    assert max(stop - start for start, stop in ranges) == 8000


def test_a_cut_range_goes_on_where_its_bytes_end(web: WebServer) -> None:
    place = served(web, DATA[:1000])
    web.cuts = {0, 1}
    assert place.read_bytes() == DATA[:1000]
    assert web.gets == [(0, 1000), (500, 1000), (750, 1000)]


def test_no_more_is_held_than_a_few_ranges(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LARGEST", 100_000)
    place = served(web, bytes(6_000_000))
    with place.open(buffering=100) as file:
        file.read(500_000)
        tracemalloc.start()
        try:
            while file.read(5000):
                pass
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    assert peak < 1_500_000, peak


def test_a_server_that_is_gone_is_told_in_one_line(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    place = served(web)
    monkeypatch.setattr(reading, "TRIES", 3)
    with place.open(buffering=100) as file:
        assert file.read(1500) == DATA[:1500]
        web.cuts = set(range(1000))
        web.files["/pool.jsonl"] = b""
        with pytest.raises(OSError, match="the connection was lost 3 times in a row at byte"):
            file.read()


def test_the_server_says_no(web: WebServer) -> None:
    served(web)
    query = f"denied&sig={SECRET}"
    with pytest.raises(NaitError) as error:
        Pool(f"{web.address}/pool.jsonl?{query}").scan()
    assert str(error.value).startswith(f"{web.address}/pool.jsonl?…: cannot be opened: the server answered 403, which")
    assert SECRET not in repr(error.value)
    with pytest.raises(NaitError, match=r"nothing\.jsonl: no such file or folder; check the URL"):
        Pool(f"{web.address}/nothing.jsonl").scan()


def test_the_query_is_sent_and_kept_from_all_else(web: WebServer) -> None:
    served(web, b"".join(line + b"\n" for line in dump(ROWS)))
    pool = Pool(f"{web.address}/pool.jsonl?X-Amz-Signature={SECRET}&b=%2F")
    info = pool.scan()
    assert {*web.queries} == {f"X-Amz-Signature={SECRET}&b=%2F"}
    assert info.path == pool.path == f"{web.address}/pool.jsonl?…" and SECRET not in repr((info, pool.plan()))
    with pytest.raises(NaitError, match="its query, which may have been a key to it, was not kept; give the whole URL"):
        Pool(pool.path).scan()


@pytest.mark.parametrize("etags", [True, False])
def test_lines_that_change_are_refused(web: WebServer, etags: bool) -> None:
    web.etags = etags
    data = jsonl()
    served(web, data)
    pool = Pool(f"{web.address}/pool.jsonl", unit_rows=100)
    assert len(pool.lines(range(0, 2000, 300))) == 7
    web.files["/pool.jsonl"] = data.replace(b"row 1500", b"raw 1500")
    with pytest.raises(NaitError, match=r"pool.jsonl: changed since it was first read"):
        pool.lines([1500])


def parquet_of(rows: int, group: int) -> bytes:
    table = pyarrow.table({"text": [f"row {i} {'x' * 400}" for i in range(rows)], "n": list(range(rows))})
    out = io.BytesIO()
    pyarrow.parquet.write_table(table, out, row_group_size=group, compression="none", use_dictionary=False)
    return out.getvalue()


def test_row_groups_are_read_on_demand(web: WebServer) -> None:
    served(web, parquet_of(2000, 200), "pool.parquet")
    pool = Pool(f"{web.address}/pool.parquet", unit_rows=100)
    size = len(web.files["/pool.parquet"])
    pool.plan()  # goes through all bytes, for their hash
    web.gets.clear()
    assert json.loads(pool.lines([1050])[0])["n"] == 1050
    read = sum(stop - start for start, stop in web.gets)
    assert 0 < read < 0.25 * size, (read, size)
    web.gets.clear()
    wanted = [1001, 1199, 1200, 1950]  # of three row groups, each read once
    assert [json.loads(line)["n"] for line in pool.lines(wanted)] == wanted
    assert sum(stop - start for start, stop in web.gets) < 0.5 * size


def test_parquet_that_changes_is_refused(web: WebServer) -> None:
    served(web, parquet_of(2000, 200), "pool.parquet")
    pool = Pool(f"{web.address}/pool.parquet", unit_rows=100)
    assert len(pool.lines([5])) == 1
    web.files["/pool.parquet"] = parquet_of(2000, 100)
    with pytest.raises(NaitError, match=r"pool.parquet: changed since it was first read"):
        pool.lines([5])


def test_parquet_needs_ranges(web: WebServer) -> None:
    served(web, parquet_of(2000, 200), "pool.parquet")
    web.ranges = False
    with pytest.raises(NaitError, match=r"pool.parquet: its server sends it only as a whole, .*; download it"):
        Pool(f"{web.address}/pool.parquet").scan()


def test_pyarrow_gets_all_that_it_asks_for(web: WebServer) -> None:
    place = served(web)
    with RemoteFile(place, anywhere=True) as file:
        assert file.seek(-70_000, io.SEEK_END) == 30_000 == file.tell()
        assert file.read(60_000) == DATA[30_000:90_000]
        assert file.seek(-100, io.SEEK_CUR) == 89_900 and file.read(100_000) == DATA[89_900:]
        assert file.read(1) == b""


def test_packages_that_are_missing_are_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: object, **named: object) -> object:
        if name.partition(".")[0] in ("s3fs", "gcsfs", "aiohttp"):
            raise ImportError(name)
        return real(name, *rest, **named)

    for module in [name for name in sys.modules if name.partition(".")[0] in ("s3fs", "gcsfs", "aiohttp")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **_: without({"s3": "s3fs", "gs": "gcsfs"}[scheme]))
    monkeypatch.setattr(builtins, "__import__", without)
    for url, package, extra in (("s3://b/x.jsonl", "s3fs", "s3"), ("gs://b/x.jsonl", "gcsfs", "gcs")):
        needs = rf'^{url}: {url[:2]}:// needs {package}: pip install "nait-fast\[{extra}\]"'
        with pytest.raises(NaitError, match=needs):
            Pool(url).scan()
    with pytest.raises(NaitError, match=r'http:// needs aiohttp: pip install "nait-fast\[http\]"'):
        Pool("http://host/x.jsonl").scan()


def test_schemes_that_nothing_reads() -> None:
    with pytest.raises(NaitError, match=r"^foo://b/x.jsonl: foo:// is nothing that is read; give s3://"):
        Pool("foo://b/x.jsonl").scan()


def test_waits_grow_to_half_a_minute() -> None:
    assert retrying.wait_before(20) == 30.0
