"""The servers, and waits that do not wait."""

from collections.abc import Iterator

import pytest

import nait_fast
from nait_fast.remote import retrying
from tests.conftest import make_rows, write_jsonl
from tests.remote.made import Made
from tests.remote.servers import WebServer, s3_server, web_server


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(scope="session")
def made(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(tiny_model, tmp_path_factory.mktemp("made"))
    write_jsonl(made.folder / "pool.jsonl", make_rows(60))
    write_jsonl(made.folder / "more.jsonl", make_rows(20, seed=5))
    sums = write_jsonl(made.folder / "sums.jsonl", [row for row in make_rows(40, seed=1) if row["source"] == "sums"])
    options = {"model": tiny_model, "batch_tokens": 400, "max_length": 64}
    nait_fast.build_index(dataset=made.folder / "pool.jsonl", output=made.folder / "index", shard_rows=10, **options)
    nait_fast.build_signature(target=sums, codebook=made.folder / "index", output=made.folder / "signatures", **options)
    return made


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second is waited before a connection is tried again."""
    monkeypatch.setattr(retrying, "FIRST_WAIT", 0.001)
