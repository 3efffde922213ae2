"""Files that are too large to be ours are refused before anything parses them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from nait_fast.data.plan import load_plan
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signature
from nait_fast.storage import files


def write_header(path: Path, header: bytes, told: int | None = None) -> Path:
    path.write_bytes((told or len(header)).to_bytes(8, "little") + header)
    return path


@pytest.fixture
def no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """safetensors' own parser must not see the file: it takes gigabytes and most of a minute."""

    def opened(*_: object, **__: object) -> None:
        raise AssertionError("the library parses the header")

    monkeypatch.setattr("safetensors.safe_open", opened)


def test_a_header_of_too_many_tensors(tmp_path: Path, no_library: None) -> None:
    entries = {
        f"t{i}": {"dtype": "U8", "shape": [1], "data_offsets": [i, i + 1]} for i in range(files.MOST_TENSORS + 1)
    }
    path = write_header(tmp_path / "t.safetensors", json.dumps(entries).encode())
    with pytest.raises(NaitError, match=r"t\.safetensors: .*a header of 10,001 entries, of which 10,000 are read"):
        load_signature(path)


def test_a_header_of_too_many_bytes_is_not_even_read(tmp_path: Path, no_library: None) -> None:
    path = write_header(tmp_path / "t.safetensors", b"{}", told=1 << 40)
    with pytest.raises(NaitError, match=r"t\.safetensors: .*a header of 1,099,511,627,776 bytes"):
        load_signature(path)
    with pytest.raises(NaitError, match="no object"):
        load_signature(write_header(path, b"[1]"))


@pytest.mark.parametrize(
    ("name", "read"), [("manifest.json", lambda path: Index(path.parent)), ("plan.json", load_plan)]
)
def test_json_of_too_many_bytes_is_not_read(tmp_path: Path, name: str, read: Callable[[Path], object]) -> None:
    path = tmp_path / name
    with open(path, "wb") as file:
        file.truncate(files.MOST_JSON + 1)  # sparse: it takes no room
    with pytest.raises(NaitError, match=f"{name}: 134,217,729 bytes, more than the 134,217,728 that are read"):
        read(path)
