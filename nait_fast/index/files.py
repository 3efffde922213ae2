"""Files of an index or a selection: written whole or not at all, opened with one clear line when damaged."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.errors import NaitError

_META = "nait_fast"


def make_folder(path: str | os.PathLike[str], flag: str = "--output") -> Path:
    """Create ``path`` and make sure that it can be written to, before any work is done."""
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.write_bytes(b"1")
        probe.unlink()
    except OSError as error:
        raise NaitError(f"{flag} {path}: cannot be written to ({error.strerror or error})") from None
    return folder


def write_atomic(path: Path, data: bytes) -> None:
    """Write ``data`` under a temporary name, sync and rename: after a crash the file is whole or absent."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise NaitError(f"{path}: cannot be written ({error.strerror or error}); nothing was lost, rerun") from None


def _json_bytes(value: Any) -> bytes:
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    return text.encode(errors="backslashreplace")  # a path of no valid UTF-8: its escapes are JSON's, too


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, _json_bytes(value))


def _sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    return {**value, "checksum": sha256(_json_bytes(value))}


def write_sealed(path: Path, value: Mapping[str, Any]) -> dict[str, Any]:
    """``write_json`` of ``value`` and, as its last entry, the SHA-256 of the file without that entry; returns both."""
    write_json(path, _sealed(value))
    return _sealed(value)


def read_sealed(path: Path) -> dict[str, Any]:
    """``read_json`` of a sealed file. Raises NaitError when a byte of it has changed."""
    value = read_json(path)
    if path.read_bytes() != _json_bytes(_sealed({k: v for k, v in value.items() if k != "checksum"})):
        raise NaitError(f"{path}: its bytes have changed since it was written (checksum differs); rebuild it")
    return value


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise NaitError(f"{path}: no such file") from None
    except (OSError, ValueError, RecursionError) as error:
        raise NaitError(f"{path}: cannot be read ({str(error)[:100]})") from None
    if not isinstance(value, dict):
        raise NaitError(f"{path}: not a JSON object")
    return value


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)


def _digest(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def pack_tensors(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> bytes:
    """A safetensors file in memory; ``meta`` goes into its metadata as JSON."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    return save(arrays, metadata={_META: json.dumps(meta, sort_keys=True)})


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors mapped from the file, metadata) of a safetensors file whose metadata says it is a ``kind``.

    Raises NaitError when the file is missing, truncated, damaged or something else.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise NaitError(f"{path}: no such file")
    try:
        with safe_open(path, framework="np") as file:  # checks header, offsets and size
            meta = json.loads((file.metadata() or {}).get(_META, "null"))
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise NaitError(f"{path}: damaged or truncated ({str(error)[:100]}); rebuild it") from None
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise NaitError(f"{path}: is no nait_fast {kind}")
    return _mapped(path), meta


_DTYPES = {"U8": "u1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"}


def _mapped(path: Path) -> dict[str, np.ndarray]:
    # safetensors' own NumPy reader copies every tensor; a scan wants the mapped pages.
    data = np.memmap(path, dtype=np.uint8, mode="r")
    header_bytes = int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8 : 8 + header_bytes].tobytes())
    body = data[8 + header_bytes :]
    out = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if entry["dtype"] not in _DTYPES:
            raise NaitError(f"{path}: tensor '{name}' has dtype {entry['dtype']}, which no nait_fast file has")
        start, end = entry["data_offsets"]
        out[name] = np.asarray(body[start:end]).view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
    return out
