"""The servers, and waits that do not wait."""

from collections.abc import Iterator

import pytest

from nait_fast.remote import places
from tests.remote.servers import WebServer, s3_server, web_server


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    with s3_server() as address:
        yield address


@pytest.fixture
def web() -> Iterator[WebServer]:
    with web_server() as server:
        yield server


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No second is waited before a connection is tried again."""
    monkeypatch.setattr(places, "FIRST_WAIT", 0.001)
