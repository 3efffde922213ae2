"""Files of an index or a selection: written whole or not at all, opened with one clear line when damaged."""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from nait_fast.errors import BadInput, Damaged, NaitError
from nait_fast.remote.copies import refuse_url
from nait_fast.remote.places import Place
from nait_fast.storage.blocks import Tensor, blocks_of, changed, seal, unsealed, with_blocks

_META = "nait_fast"
# What is larger was not written here, and would cost gigabytes to read: a billion rows' manifest, a thousand times more
# tensors than a shard has.
MOST_JSON, MOST_HEADER, MOST_TENSORS = 128 << 20, 8 << 20, 10_000
_OWN = frozenset({"blocks", "checksum"})  # of the metadata: what vouches for the file


def make_folder(path: str | os.PathLike[str], flag: str = "--output") -> Path:
    """Create ``path`` and make sure that it can be written to, before any work is done."""
    refuse_url(path, flag)
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"1")
    except OSError as error:
        raise BadInput(f"cannot be written to ({error.strerror or error})", where=f"{flag} {path}") from None
    return folder


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write under a temporary name; synced and renamed at the end: after a crash it is whole or absent.

    Several processes may write the same path at once: the last one's bytes stay. Raises NaitError.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        what = f"cannot be written ({error.strerror or error})"
        raise NaitError(what, where=path, remedy="nothing was lost, rerun") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # Without it a power cut may undo the rename.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, *pieces: bytes | memoryview) -> None:
    """Write ``pieces``, one after another, as ``atomic_file`` does."""
    with atomic_file(path) as file:
        for piece in pieces:
            file.write(piece)


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


def read_sealed(path: Place) -> dict[str, Any]:
    """``read_json`` of a sealed file. Raises NaitError when a byte of it has changed."""
    data = _bytes_of(path)
    value = _object_of(path, data)
    try:
        sealed = _json_bytes(_sealed({k: v for k, v in value.items() if k != "checksum"}))
    except RecursionError:  # deeper than anything that was ever written
        sealed = b""
    if data != sealed:
        raise Damaged("its bytes have changed since it was written (checksum differs)", where=path, remedy="rebuild it")
    return value


def read_json(path: Place) -> dict[str, Any]:
    return _object_of(path, _bytes_of(path))


def _bytes_of(path: Place) -> bytes:
    try:
        if (size := path.stat().st_size) > MOST_JSON:
            raise BadInput(
                f"{size:,} bytes, more than the {MOST_JSON:,} that are read; it is no nait_fast file", where=path
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise BadInput("no such file", where=path) from None
    except (OSError, ValueError) as error:
        raise BadInput(f"cannot be read ({str(error)[:100]})", where=path) from None


def _object_of(path: Place, data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Damaged(f"cannot be read ({str(error)[:100]})", where=path) from None
    if not isinstance(value, dict):
        raise Damaged("not a JSON object", where=path)
    return value


def sha256(*pieces: bytes | memoryview) -> str:
    """Of ``pieces``, one after another."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """Raises NaitError where the file cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _digest(file)
    except OSError as error:
        raise BadInput(f"cannot be read ({error.strerror or error})", where=path) from None


def _digest(file: Any) -> str:  # Python 3.10
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


# NumPy's dtypes as safetensors calls them, in the order of their tensors in a file: reversed.
_NAMES = {
    "bool": "BOOL",
    "uint8": "U8",
    "int8": "I8",
    "int16": "I16",
    "uint16": "U16",
    "float16": "F16",
    "int32": "I32",
    "uint32": "U32",
    "float32": "F32",
    "float64": "F64",
    "int64": "I64",
    "uint64": "U64",
}


def tensor_pieces(
    tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], sealed: bool = True
) -> list[bytes | memoryview]:
    """The pieces of a safetensors file: its header, and the tensors as they lie in memory, not copied. ``meta``, which
    is not empty, goes into its metadata as JSON, with the checksums of all blocks and of the header. ``sealed`` false:
    without these, as files of older versions were."""
    arrays = {name: np.ascontiguousarray(array, array.dtype.newbyteorder("<")) for name, array in tensors.items()}
    meta = {key: value for key, value in meta.items() if key not in _OWN}
    if not sealed:
        header = _header(arrays, json.dumps(meta, sort_keys=True))
    else:
        meta["blocks"] = {name: blocks_of(array) for name, array in arrays.items()}
        header = seal(_header(arrays, unsealed(json.dumps(meta, sort_keys=True))))[0]
    return [header, *(arrays[name].reshape(-1).view(np.uint8).data for name in _in_order(arrays))]


def _in_order(arrays: Mapping[str, np.ndarray]) -> list[str]:
    places = {dtype: -place for place, dtype in enumerate(_NAMES)}
    return sorted(arrays, key=lambda name: (places[arrays[name].dtype.name], name.encode()))


def _header(arrays: Mapping[str, np.ndarray], meta: str) -> bytes:
    """As the library writes it, byte for byte; that would copy all tensors, twice, and hold Python's lock meanwhile."""
    entries: dict[str, Any] = {"__metadata__": {_META: meta}}
    end = 0
    for name in _in_order(arrays):
        array, start = arrays[name], end
        end += array.nbytes
        entries[name] = {"dtype": _NAMES[array.dtype.name], "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def pack_tensors(tensors: Mapping[str, np.ndarray], meta: Mapping[str, Any], sealed: bool = True) -> bytes:
    """A safetensors file in memory; see ``tensor_pieces``."""
    return b"".join(tensor_pieces(tensors, meta, sealed))


def checksum_of(data: bytes | memoryview) -> str:
    """The checksum in the header of a file that ``pack_tensors`` has made, or of its first piece."""
    data = bytes(data[: 8 + int.from_bytes(data[:8], "little")])
    return seal(data)[1]


_DTYPES = {"U8": "u1", "I8": "i1", "I32": "<i4", "I64": "<i8", "F16": "<f2", "F32": "<f4", "F64": "<f8", "BOOL": "?"}


class Head(NamedTuple):
    """Where the tensors of a file lie, its metadata, and the checksum of both: "" where an older nait_fast wrote the
    file, whose bytes nothing vouches for."""

    layout: dict[str, Tensor]
    meta: dict[str, Any]
    checksum: str


def read_head(path: str | os.PathLike[str], kind: str, vouched: str = "") -> Head:
    """The head of a safetensors file whose metadata says it is a ``kind``.

    Raises NaitError when the file is missing, truncated, damaged or something else; of its tensors only their places
    are checked here. ``vouched``: a checksum; a header that has it is as it was written, which the library need not
    prove anew.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise BadInput("is a folder; name a file in it" if path.is_dir() else "no such file", where=path)
    try:
        with open(path, "rb") as raw:
            length = raw.read(8)
            header_bytes = int.from_bytes(length, "little")
            if header_bytes > MOST_HEADER:
                raise ValueError(f"a header of {header_bytes:,} bytes, of which {MOST_HEADER:,} are read")
            data = raw.read(header_bytes)
        sealed, checksum = seal(length + data)
        whole = sealed == length + data
        header = json.loads(data, object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError("a header that is no object")
        if len(header) > MOST_TENSORS:  # the library takes minutes for a million
            raise ValueError(f"a header of {len(header):,} entries, of which {MOST_TENSORS:,} are read")
        if not whole or not checksum or checksum != vouched:
            with safe_open(path, framework="np"):  # checks header, offsets and size
                pass
        meta = json.loads((header.pop("__metadata__", None) or {}).get(_META, "null"), object_pairs_hook=_once)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise Damaged(f"damaged or truncated ({_one_line(error)})", where=path, remedy="rebuild it") from None
    if not isinstance(meta, dict) or meta.get("kind") != kind:
        raise BadInput(f"is no nait_fast {kind}", where=path)
    try:
        layout = _layout(header, 8 + len(data), path.stat().st_size)
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"damaged: tensor {_one_line(error)}", where=path, remedy="rebuild it") from None
    if not meta.keys() & _OWN:  # a changed byte cannot have taken away both
        return Head(layout, meta, "")
    if not checksum or not whole:
        raise changed(path, "its header has")
    try:
        blocks = meta["blocks"]
        if not isinstance(blocks, dict) or blocks.keys() != layout.keys():
            raise ValueError("blocks of other tensors")
        layout = {name: with_blocks(tensor, blocks[name]) for name, tensor in layout.items()}
    except (KeyError, ValueError) as error:
        raise Damaged(f"damaged ({_one_line(error)})", where=path, remedy="rebuild it") from None
    return Head(layout, {key: value for key, value in meta.items() if key not in _OWN}, checksum)


def _layout(header: Mapping[str, Any], start: int, stop: int) -> dict[str, Tensor]:
    """The tensors of a header, which fill a file from byte ``start`` to ``stop``. Raises ValueError, KeyError or
    TypeError where they do not."""
    tensors: dict[str, Tensor] = {}
    place = start
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        if entry["dtype"] not in _DTYPES:
            raise ValueError(f"{name!r} has dtype {entry['dtype']}, which no nait_fast file has")
        dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
        size = dtype.itemsize * math.prod(shape)
        expected = [place - start, place - start + size]
        if any(type(n) is not int or n < 0 for n in shape) or entry["data_offsets"] != expected:
            raise ValueError(f"{name!r} is out of place")
        tensors[name] = Tensor(dtype, shape, place, name)
        place += size
    if place != stop:
        raise ValueError("data ends elsewhere than the file")
    return {name: tensors[name] for name in header}


def is_other_tensors(path: Path) -> bool:
    """Whether this is a whole safetensors file of another program."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            return _META not in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; ValueError where a key is there twice, which readers would take in different ways."""
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise ValueError("a key is there twice")
    return entries


def _one_line(error: BaseException) -> str:
    return " ".join(str(error)[:100].split())


def map_tensors(path: str | os.PathLike[str], layout: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    """Tensors mapped from the file, as ``layout`` says where they lie, their bytes unchecked. Raises NaitError."""
    out = {}
    try:
        # safetensors' own NumPy reader copies every tensor; a scan wants the mapped pages.
        data = np.memmap(path, dtype=np.uint8, mode="r")
        for name, tensor in layout.items():
            size = tensor.dtype.itemsize * math.prod(tensor.shape)
            piece = np.asarray(data[tensor.offset : tensor.offset + size])
            out[name] = piece.view(tensor.dtype).reshape(tensor.shape)
    except (OSError, ValueError, OverflowError) as error:  # a shape that NumPy does not take; a file cut off just now
        raise Damaged(f"damaged or truncated ({_one_line(error)})", where=path, remedy="rebuild it") from None
    return out


def read_all(path: str | os.PathLike[str], head: Head) -> dict[str, np.ndarray]:
    """All tensors of the file, mapped, every block checked. Raises NaitError."""
    tensors = map_tensors(path, head.layout)
    for name, array in tensors.items():
        head.layout[name].check_all(array, path)
    return tensors


def read_tensors(path: str | os.PathLike[str], kind: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """(tensors mapped from the file, every block checked; metadata); see ``read_head``."""
    head = read_head(path, kind)
    return read_all(path, head), head.meta
