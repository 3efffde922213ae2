"""GGUF files, parsed once.

transformers parses one anew for the configuration, the weights and twice for the tokenizer, number by number: most of
the time that loading a small model takes (`benchmarks.compare demo`). Inside of ``parsed_once`` gguf's reader and its
table of names are made once each, and a list is found as a whole; what comes of it is the same.
"""

import copy
import re
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import numpy as np

from nait_fast.models.fork_safety import ForkSafeLock

_STRING, _LIST = 8, 9  # types of the file's values
_LAYER = re.compile(r"blk\.(\d+)\.")
_turn = ForkSafeLock()
_inside: ContextVar[bool] = ContextVar("nait_fast gguf", default=False)


@contextmanager
def parsed_once(wanted: bool) -> Iterator[None]:
    """Where ``wanted``, transformers parses each GGUF file once in the block, which one thread at a time is in; a block
    may lie in another. Other threads read as ever, through a function in the place of gguf's class."""
    if not wanted or _inside.get():
        yield
        return
    import gguf
    import transformers.modeling_gguf_pytorch_utils as loading

    with _turn():
        before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
        bar = loading.tqdm
        token = _inside.set(True)
        try:
            # transformers imports both at each use
            ours = {"GGUFReader": cache(_reader_of(gguf)), "get_tensor_name_map": cache(gguf.get_tensor_name_map)}
            vars(gguf).update({name: _for_us(ours[name], before[name]) for name in ours})
            loading.tqdm = _for_us(partial(bar, disable=True), bar)  # which no setting of transformers hides
            yield
        finally:
            vars(gguf).update(before)
            loading.tqdm = bar
            _inside.reset(token)


@contextmanager
def leading_tensors(number: int) -> Iterator[None]:
    """Inside of ``parsed_once``: tensors of layers behind the first ``number`` are not there, so that transformers does
    not unpack what no module will take."""
    import gguf

    every = gguf.GGUFReader

    def read(*args: Any, **named: Any) -> Any:
        reader = copy.copy(every(*args, **named))
        reader.tensors = [tensor for tensor in reader.tensors if not _behind(tensor.name, number)]
        return reader

    vars(gguf).update(GGUFReader=_for_us(read, every))
    try:
        yield
    finally:
        vars(gguf).update(GGUFReader=every)


def _for_us(ours: Callable[..., Any], others: Callable[..., Any]) -> Callable[..., Any]:
    """``ours`` for the thread that is in ``parsed_once``; what lies in a module is for ``others``, too."""

    def chosen(*args: Any, **named: Any) -> Any:
        return (ours if _inside.get() else others)(*args, **named)

    return chosen


def _behind(name: str, number: int) -> bool:
    layer = _LAYER.match(name)
    return layer is not None and int(layer[1]) >= number


def _reader_of(gguf: Any) -> Callable[..., Any]:
    """What makes a GGUFReader that finds lists as wholes; gguf's own where that fails."""
    plain: Any = gguf.GGUFReader

    class Reader(plain):  # type: ignore[misc]
        """``data``, which gguf maps, as a plain array, whose views are cheaper than a memmap's."""

        @property
        def data(self) -> np.ndarray:
            return self._bytes

        @data.setter
        def data(self, mapped: np.ndarray) -> None:
            self._bytes = np.asarray(mapped).view(np.ndarray)
            self._buffer = self._bytes.data

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list, list[int], list]:
            is_list = int(raw_type) == _LIST and self.byte_order == "I" and sys.byteorder == "little"
            return (is_list and self._list_parts(orig_offs)) or super()._get_field_parts(orig_offs, raw_type)

        def _list_parts(self, start: int) -> tuple[int, list, list[int], list] | None:
            """(bytes, parts, the places among them of what the list holds, types) of the list at ``start``; None for
            one of lists, an empty or broken one, and one that gguf reads otherwise."""
            kind, count = struct.unpack_from("<IQ", self._buffer, start)
            first = offset = start + 12
            parts: list[Any] = [self._buffer[start : start + 4], self._buffer[start + 4 : first]]
            starts: Any
            if kind == _STRING:
                length_of = struct.Struct("<Q").unpack_from
                starts = []
                for _ in range(count):
                    starts.append(offset)
                    end = offset + 8 + length_of(self._buffer, offset)[0]
                    parts += (self._buffer[offset : offset + 8], self._buffer[offset + 8 : end])
                    offset = end
                places = list(range(3, 3 + 2 * count, 2))
            elif kind in self.gguf_scalar_to_np:
                values = self._get(first, self.gguf_scalar_to_np[kind], count)
                if len(values) < count:
                    return None
                offset = first + values.nbytes
                starts = range(first, offset, values.itemsize)
                parts.extend(values.reshape(-1, 1))
                places = list(range(2, 2 + count))
            else:
                return None
            types: list[Any] = []
            for i in {0, count - 1} if count else ():  # as gguf itself reads them
                size, own, (place,), types = super()._get_field_parts(starts[i], kind)
                end = starts[i + 1] if i + 1 < count else offset
                if starts[i] + size != end or own[place].tobytes() != parts[places[i]].tobytes():
                    return None
            return (offset - start, parts, places, [gguf.GGUFValueType(_LIST), *types]) if types else None

    def read(*args: Any, **named: Any) -> Any:
        try:
            return Reader(*args, **named)
        except Exception:  # another gguf than this is made for, or a bad file, of which its own reader tells
            return plain(*args, **named)

    return read
