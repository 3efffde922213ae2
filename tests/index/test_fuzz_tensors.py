"""Tensors that an enemy wrote, checksums and all: every reader refuses them with one line, or reads what they say."""

import json
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nait_fast.index.reader import Index
from nait_fast.storage.blocks import seal
from nait_fast.storage.files import pack_tensors, read_tensors
from nait_fast.storage.names import CALIBRATION, CODEBOOK
from tests.index.hostile import SHARD, SIGNATURE, changed, quick, read_all, read_file, refused, restored
from tests.index.made import ROWS, make, put


@pytest.fixture(scope="module")
def index(tmp_path_factory) -> Path:
    return make(tmp_path_factory.mktemp("fuzz") / "index")


def header_of(data: bytes) -> tuple[dict, bytes]:
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def file_of(header: bytes, body: bytes, claimed: int | None = None) -> bytes:
    """Under a right checksum, where the header has one at all."""
    return seal((len(header) if claimed is None else claimed).to_bytes(8, "little") + header)[0] + body


def write_file(index: Path, name: str, data: bytes) -> None:
    if name == SIGNATURE:
        (index.parent / name).write_bytes(data)
    else:
        put(index, name, data)


TENSOR_FILES = [SHARD, CODEBOOK, CALIBRATION, SIGNATURE]


def original(index: Path, name: str) -> bytes:
    return (index.parent / name if name == SIGNATURE else index / name).read_bytes()


@pytest.mark.parametrize("name", TENSOR_FILES)
@given(data=st.data())
@quick
def test_tensor_headers(index: Path, name: str, data: st.DataObject) -> None:
    header, body = header_of(original(index, name))
    hostile = json.dumps(data.draw(changed(header))).encode()
    with restored(index):
        write_file(index, name, file_of(hostile, body))
        read_file(index, name)


@pytest.mark.parametrize("name", TENSOR_FILES)
@given(data=st.data())
@quick
def test_metadata(index: Path, name: str, data: st.DataObject) -> None:
    header, body = header_of(original(index, name))
    meta = data.draw(changed(json.loads(header["__metadata__"]["nait_fast"])))
    header["__metadata__"]["nait_fast"] = json.dumps(meta)
    with restored(index):
        write_file(index, name, file_of(json.dumps(header).encode(), body))
        read_file(index, name)


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_headers_that_are_nearly_right(index: Path, name: str) -> None:
    data = original(index, name)
    header, body = header_of(data)
    text = json.dumps(header).encode()
    first = next(key for key in header if key != "__metadata__")
    entry = header[first]

    def other(**values: Any) -> bytes:
        return json.dumps({**header, first: {**entry, **values}}).encode()

    begin, end = entry["data_offsets"]
    less = {k: v for k, v in tensors_of(index, name).items() if k not in ("codes", "threshold")}
    twice = f'{{"{first}": {json.dumps(entry)}, '.encode() + text[1:]
    meta_twice = text.replace(b'"__metadata__"', b'"__metadata__": {"nait_fast": "{}"}, "__metadata__"')
    files = {
        "a length of 100 MB": file_of(text, body, 100_000_000),
        "a length of 2^63": file_of(text, body, 2**63),
        "a length of -1": file_of(text, body, 2**64 - 1),
        "a length of 0": file_of(text, body, 0),
        "a length of one less": file_of(text, body, len(text) - 1),
        "a length beyond": file_of(text, body, len(data)),
        "offsets beyond": file_of(other(data_offsets=[begin, 2**40]), body),
        "offsets that are huge": file_of(other(data_offsets=[2**63, 2**64 - 1]), body),
        "offsets that overlap": file_of(other(data_offsets=[begin + 1, end + 1]), body),
        "offsets backwards": file_of(other(data_offsets=[end, begin]), body),
        "offsets below 0": file_of(other(data_offsets=[-1, end]), body),
        "another type": file_of(other(dtype="BF16"), body),
        "no type": file_of(other(dtype="X9"), body),
        "a wide type": file_of(other(dtype="F64", shape=[(end - begin) // 8]), body),
        "a shape below 0": file_of(other(shape=[-1]), body),
        "a shape of 2^63": file_of(other(shape=[2**63, 2]), body),
        "a shape of 2^63 x 0": file_of(other(shape=[2**63, 0], data_offsets=[begin, begin]), body),
        "many dimensions": file_of(other(shape=[1] * 70 + entry["shape"]), body),
        "no UTF-8": file_of(text.replace(first.encode(), b"\xff\xfe"), body),
        "a name with a NUL": file_of(text.replace(first.encode(), b"a\\u0000b"), body),
        "a tensor twice": file_of(twice, body),
        "two metadata": file_of(meta_twice, body),
        "no metadata": file_of(json.dumps({k: v for k, v in header.items() if k != "__metadata__"}).encode(), body),
        "another kind": file_of(text.replace(b'\\"kind\\": \\"', b'\\"kind\\": \\"x'), body),
        "deep": file_of(b"[" * 100_000, body),
        "deep metadata": file_of(json.dumps({**header, "__metadata__": {"nait_fast": "[" * 100_000}}).encode(), body),
        "more behind": data + bytes(8),
        "less behind": data[:-1],
        "a tensor more": pack_tensors({**tensors_of(index, name), "more": np.zeros(3)}, meta_of(index, name)),
        "a tensor less": pack_tensors(less, meta_of(index, name)),
    }
    for what, content in files.items():
        with restored(index):
            write_file(index, name, content)
            tracemalloc.start()
            assert not read_file(index, name), what
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert peak < 64 << 20, what


def tensors_of(index: Path, name: str) -> dict[str, np.ndarray]:
    place = index.parent / name if name == SIGNATURE else index / name
    kind = {SHARD: "shard", CODEBOOK: "codebook", CALIBRATION: "calibration", SIGNATURE: "signature"}[name]
    return {key: np.array(array) for key, array in read_tensors(place, kind)[0].items()}


def meta_of(index: Path, name: str) -> dict[str, Any]:
    return json.loads(header_of(original(index, name))[0]["__metadata__"]["nait_fast"])


ARRAYS = st.sampled_from(["u1", "<i4", "<i8", "<f4", "<f8", "?"]).flatmap(
    lambda dtype: st.tuples(st.just(dtype), st.lists(st.integers(0, 8), max_size=3), st.binary(max_size=64))
)


@pytest.mark.parametrize("name", TENSOR_FILES)
@given(data=st.data())
@quick
def test_tensors(index: Path, name: str, data: st.DataObject) -> None:
    tensors = tensors_of(index, name)
    key = data.draw(st.sampled_from(sorted(tensors)))
    if data.draw(st.booleans()):  # another array
        dtype, shape, content = data.draw(ARRAYS)
        array = np.resize(np.frombuffer(content + bytes(8), np.uint8), (*shape, np.dtype(dtype).itemsize))
        tensors[key] = np.ascontiguousarray(array).view(dtype).reshape(shape)
    else:  # another value
        array = tensors[key]
        raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        assume(len(raw))
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        tensors[key] = raw.view(array.dtype).reshape(array.shape)
    with restored(index):
        write_file(index, name, pack_tensors(tensors, meta_of(index, name)))
        if read_file(index, name) and name == SHARD:  # whatever its samples are, they are those of the pool's rows
            assert next(iter(Index(index).shards())).row.tolist() == ROWS[0]


ENDS = st.lists(
    st.one_of(st.integers(-3, 12), st.sampled_from([2**31, 2**62, 2**63 - 1, -(2**63)])), min_size=5, max_size=5
)


@given(ends=ENDS, text=st.binary(max_size=12), absent=st.lists(st.integers(0, 3), min_size=5, max_size=5))
@example(ends=[0, 2**63 - 1, -(2**63), 2, 4], text=b"abcd", absent=[0] * 5)
@example(ends=[1, 2, 2, 2, 2], text=b"\xc3\xa9", absent=[0] * 5)
@example(ends=[1, 2, 3, 3, 4], text=b"abcd", absent=[0] * 5)
@example(ends=[1, 2, 3, 4, 4], text=b"abcd", absent=[0, 1, 0, 0, 0])
@example(ends=[1, 2, 3, 4, 4], text=b"abcd", absent=[0, 2, 0, 0, 0])
@settings(quick, max_examples=250)
def test_ids(index: Path, ends: list[int], text: bytes, absent: list[int]) -> None:
    tensors = tensors_of(index, SHARD)
    tensors |= {
        "ids": np.frombuffer(text, np.uint8),
        "id_ends": np.array(ends),
        "id_absent": np.array(absent, np.uint8).view(bool),
    }
    with restored(index):
        put(index, SHARD, pack_tensors(tensors, meta_of(index, SHARD)))
        sound = ends == sorted(ends) and ends[0] >= 0 and ends[-1] == len(text) and max(absent) < 2
        pieces = [text[a:b] for a, b in zip([0, *ends], ends, strict=False)] if sound else []
        sound = sound and not any(piece and missing for piece, missing in zip(pieces, absent, strict=True))
        try:
            expected = [None if m else piece.decode() for piece, m in zip(pieces, absent, strict=False)]
        except UnicodeDecodeError:
            sound = False
        assert read_all(index, SHARD) == sound
        if sound:
            assert next(iter(Index(index).shards())).ids() == expected
        else:
            refusal = refused(lambda: next(iter(Index(index).shards())).ids())
            assert refusal is not None and SHARD in refusal
