"""The bytes of a file in blocks, decompressed and hashed on the way, and the items of a JSON list read from them."""

from __future__ import annotations

import importlib
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nait_fast.errors import NaitError

BLOCK = 1 << 17

Digest = Any  # hashlib names no public type for its objects


def open_stream(path: Path, digest: Digest) -> io.BufferedReader:
    """The file's bytes, decompressed; `digest` gets those stored, all of them once the stream is at its end."""
    blocks = read_blocks(path, digest)
    suffix = path.suffix.lower()
    if suffix == ".gz":
        blocks = _inflate(blocks, path, lambda: zlib.decompressobj(wbits=31), zlib.error)
    elif suffix == ".zst":
        zstd = import_optional("zstandard", f"{path}: a Zstandard file", "zstandard")
        window = 1 << 31  # what `zstd --long=31` writes
        make = zstd.ZstdDecompressor(max_window_size=window).decompressobj
        blocks = _inflate(blocks, path, make, zstd.ZstdError)
    return io.BufferedReader(_BlockReader(blocks), BLOCK)


def read_blocks(path: Path, digest: Digest) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            yield block


def _inflate(blocks: Iterable[bytes], path: Path, make: Callable[[], Any], failure: type[Exception]) -> Iterator[bytes]:
    """Decompress a file of one or more members (gzip) or frames (Zstandard)."""
    member = None
    for block in blocks:
        while block:
            if member is None:
                block = block.lstrip(b"\0")  # gzip allows padding between members
                if not block:
                    break
                member = make()
            try:
                yield member.decompress(block)
            except failure as error:
                raise NaitError(f"{path}: damaged, cannot be decompressed ({first_line(error)}); get it anew") from None
            block = member.unused_data if member.eof else b""
            if member.eof:
                member = None
    if member is not None:
        raise NaitError(f"{path}: cut short, its compressed data has no end; get it anew")


class _BlockReader(io.RawIOBase):
    """Blocks of bytes as a file that `io.BufferedReader` can read."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._rest:
            block = next(self._blocks, None)
            if block is None:
                return 0
            self._rest = memoryview(block)
        size = min(len(target), len(self._rest))
        target[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


def json_list(path: Path, digest: Digest) -> Iterator[Any]:
    """The items of the JSON list that a file holds, read a block at a time."""
    name = str(path)
    text = io.TextIOWrapper(open_stream(path, digest), encoding="utf-8-sig")
    decode = json.JSONDecoder().raw_decode
    blank = re.compile(r"[ \t\r\n]*")
    buffer, at, ended = "", 0, False

    def more() -> None:
        nonlocal buffer, at, ended
        # Doubling what is unread keeps the work linear when one row is longer than a block.
        read = text.read(max(BLOCK, len(buffer) - at))
        buffer, at, ended = buffer[at:] + read, 0, not read

    def mark() -> str:
        """Move past white space and return the next character, "" at the end."""
        nonlocal at
        while True:
            found = blank.match(buffer, at)
            at = found.end() if found else at
            if at < len(buffer) or ended:
                return buffer[at : at + 1]
            more()

    row = 0
    try:
        mark()
        at += 1
        empty = mark() == "]"
        while not empty:
            mark()
            try:
                value, end = decode(buffer, at)
            except json.JSONDecodeError:
                if ended:
                    raise
                more()
                continue
            if end == len(buffer) and not ended:  # a number may go on in the next block
                more()
                continue
            at = end
            yield value
            row += 1
            separator = mark()
            if separator == "]":
                break
            if separator != ",":
                raise json.JSONDecodeError("Expecting ',' or ']'", buffer, at)
            at += 1
        at += 1
        if mark():
            raise json.JSONDecodeError("Extra data after the list", buffer, at)
    except UnicodeDecodeError:
        raise NaitError(f"{name} near row {row}: not UTF-8 text; store the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else first_line(error)
        raise NaitError(
            f"{name} row {row}: not JSON ({reason}), and no row after it can be read; fix the file"
        ) from None


def import_optional(module: str, what: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        quoted = f'"{package}"' if "[" in package else package
        raise NaitError(f"{what}, needs {module.split('.')[0]}: pip install {quoted}") from None


def first_line(error: BaseException) -> str:
    text = (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
    return " ".join(text.split("\n", 1)[0].split())[:200]
