"""Ranges of files on web servers, of which some send other bytes than they are asked for."""

from __future__ import annotations

import asyncio
import re
from typing import Any

_PIECE = 1 << 18


class NoRanges(Exception):
    """The server sends files as a whole only."""


def fetch_range(store: Any, url: str, start: int, stop: int) -> bytes | None:
    """Bytes ``start`` to ``stop``, or as many of them as came before the connection was cut; None where that are none.

    ``store``: fsspec's file system. Raises NoRanges where the server sends all of the file instead, and aiohttp's
    errors.
    """
    from fsspec.asyn import sync

    return sync(store.loop, _fetch_range, store, url, start, stop)


async def _fetch_range(store: Any, url: str, start: int, stop: int) -> bytes | None:
    import aiohttp

    session = await store.set_session()
    headers = {**store.kwargs.get("headers", {}), "Range": f"bytes={start}-{stop - 1}"}
    data = bytearray()
    async with session.get(store.encode_url(url), **{**store.kwargs, "headers": headers}) as response:
        response.raise_for_status()
        at = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", f"bytes {start}-"))
        if (response.status != 206 and start) or at is None or int(at[1]) != start:
            raise NoRanges
        try:
            while len(data) < stop - start and (piece := await response.content.read(_PIECE)):
                data += piece
        except (aiohttp.ClientError, asyncio.TimeoutError):  # what came is good
            if not data:
                raise
    return bytes(memoryview(data)[: stop - start]) or None
