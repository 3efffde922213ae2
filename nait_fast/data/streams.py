"""The bytes of a file in blocks, decompressed and hashed on the way, and its lines, none longer than a row may be."""

from __future__ import annotations

import importlib
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from nait_fast.errors import BadInput, Damaged, first_line, missing_extra
from nait_fast.remote.places import Place

BLOCK = 1 << 17
BOM = b"\xef\xbb\xbf"
MAX_ROW = "NAIT_FAST_MAX_ROW_MIB"
_MAX_ROW_MIB = 16  # a row of so much text takes the tokenizer 2.3 GB
# Compressed bytes taken at a time: in Zstandard 4 bytes can stand for 128 KiB, and a call gives it all.
_GZIP_PIECE, _ZSTD_PIECE = 1 << 14, 1 << 11
_BLANK_LINES = 64  # so many in a row are no pool's layout but a flood

Digest = Any  # hashlib names no public type for its objects


class TooLong(BadInput):
    """A row that takes more bytes than a row may."""


def row_limit() -> int:
    """Bytes that a row may take, and blank space between two: of ``NAIT_FAST_MAX_ROW_MIB``. Raises NaitError."""
    setting = os.environ.get(MAX_ROW, "")
    if setting and not (
        setting.isascii() and setting.isdigit() and 0 < int(setting[:9]) < 1 << 20 and len(setting) < 9
    ):
        raise BadInput("must be a whole number of MiB, 1 to 1048575", where=f"{MAX_ROW}={setting[:40]}")
    return int(setting or _MAX_ROW_MIB) << 20


def too_long(where: str, what: str, limit: int) -> TooLong:
    size = f"{limit >> 20} MiB"
    return TooLong(
        f"{what} of more than {size}, the limit of a row",
        where=where,
        remedy=f"remove it, or set {MAX_ROW} to what it takes",
    )


def open_stream(path: Place, digest: Digest) -> io.BufferedReader:
    """The file's bytes, decompressed; `digest` gets those stored, all of them once the stream is at its end."""
    blocks = read_blocks(path, digest)
    suffix = path.suffix.lower()
    if suffix == ".gz":
        pieces = _pieces(blocks, _GZIP_PIECE)
        blocks = _inflate(pieces, path, lambda: zlib.decompressobj(wbits=31), _unzip, zlib.error)
    elif suffix == ".zst":
        zstd = import_optional("zstandard", "a Zstandard file", path)
        window = 1 << 31  # what `zstd --long=31` writes
        make = zstd.ZstdDecompressor(max_window_size=window).decompressobj
        blocks = _inflate(_pieces(blocks, _ZSTD_PIECE), path, make, _unzstd, zstd.ZstdError)
    return io.BufferedReader(_BlockReader(blocks), BLOCK)


def read_blocks(path: Place, digest: Digest) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            yield block


def _pieces(blocks: Iterable[bytes], size: int) -> Iterator[bytes]:
    for block in blocks:
        for start in range(0, len(block), size):
            yield block[start : start + size]


def _inflate(
    pieces: Iterable[bytes],
    path: Place,
    make: Callable[[], Any],
    expand: Callable[[Any, bytes], Iterator[bytes]],
    failure: type[Exception],
) -> Iterator[bytes]:
    """Decompress a file of one or more members (gzip) or frames (Zstandard)."""
    member = None
    for piece in pieces:
        while piece:
            if member is None:
                piece = piece.lstrip(b"\0")  # gzip allows padding between members
                if not piece:
                    break
                member = make()
            try:
                yield from expand(member, piece)
            except failure as error:
                raise Damaged(
                    f"damaged, cannot be decompressed ({first_line(error, kind=False)})",
                    where=path,
                    remedy="get it anew",
                ) from None
            piece = member.unused_data if member.eof else b""
            if member.eof:
                member = None
    if member is not None:
        raise Damaged("cut short, its compressed data has no end", where=path, remedy="get it anew")


def _unzip(member: Any, piece: bytes) -> Iterator[bytes]:
    while True:
        data = member.decompress(piece, BLOCK)
        yield data
        piece = member.unconsumed_tail
        if member.eof or (not piece and len(data) < BLOCK):  # at its end `unconsumed_tail` is what it was before
            return


def _unzstd(member: Any, piece: bytes) -> Iterator[bytes]:
    yield member.decompress(piece)


def read_lines(stream: Any, name: str, at: int, number: int) -> Iterator[tuple[int, int, bytes]]:
    """(offset, number, bytes without newline) of each line of ``stream`` that is not blank; the first has offset ``at``
    and ``number``, which counts from 1. Raises NaitError at a line, or blank space, of more than ``row_limit``."""
    limit = row_limit()
    readline = stream.readline
    blank = blanks = 0
    while line := readline(limit + 1):
        size = len(line)
        if size > limit:
            raise too_long(f"{name}:{number}", "a line", limit)
        if number == 1:
            line = line.removeprefix(BOM)
        if line and not line.isspace():
            yield at, number, line.removesuffix(b"\n").removesuffix(b"\r")
            blank = blanks = 0
        else:
            blank, blanks = blank + size, blanks + 1
            if blanks % _BLANK_LINES == 0:
                skipped, lines = _skip_blank_lines(stream)
                at, number, blank = at + skipped, number + lines, blank + skipped
            if blank > limit:
                raise too_long(f"{name}:{number}", "blank space", limit)
        at, number = at + size, number + 1


def _skip_blank_lines(stream: Any) -> tuple[int, int]:
    """Go past the blank lines that are in the stream's buffer: (their bytes, their number)."""
    block = stream.peek()
    end = block.rfind(b"\n", 0, len(block) - len(block.lstrip())) + 1
    stream.read(end)
    return end, block.count(b"\n", 0, end)


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


def import_optional(module: str, what: str, where: object, extra: str = "") -> Any:
    """``module``, which ``what``, found at ``where``, needs; ``extra``: the one that brings it. Raises MissingExtra."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.split(".")[0]
        raise missing_extra(package, extra, f"{what}, needs {package}", where) from None
