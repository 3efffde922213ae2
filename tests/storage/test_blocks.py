"""Blocks of rows, each under a checksum: whatever rows are read, they are those that were written, and what has
changed in their blocks is found."""

import json
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
import xxhash

from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at
from nait_fast.index.stream import Stream, ids
from nait_fast.storage import blocks
from nait_fast.storage.files import checksum_of, pack_tensors, read_head, read_tensors, sha256, tensor_pieces
from nait_fast.storage.names import shard_name
from tests.ranking.indexes import id_tensors, write_index

WIDTHS = [100, 60]  # 32 bytes a row
ROWS = [23, 40, 7]


@pytest.fixture(params=[1, 64, 100, 500, 1 << 18], ids="{} B".format)
def index(tmp_path: Path, monkeypatch, request) -> Path:
    monkeypatch.setattr(blocks, "BLOCK_BYTES", request.param)
    generator, first, shards = np.random.default_rng(0), 0, []
    for n in ROWS:
        shards.append(
            {
                "codes": generator.integers(0, 256, (n, 32), np.uint8),
                "row": np.arange(first, first + n),
                "n_tokens": generator.integers(1, 500, n).astype(np.int32),
                "exact.a": generator.normal(size=n),
                **id_tensors([None if k % 5 == 3 else f"row-{first + k}" for k in range(n)]),
            }
        )
        first += n
    return write_index(tmp_path / "index", shards, WIDTHS, exact={"a": "e" * 16})


def whole(index: Path) -> dict[str, np.ndarray]:
    """The arrays as they were written, past all readers."""
    found: dict[str, list[np.ndarray]] = {}
    for number in range(len(ROWS)):
        data = (index / shard_name(number)).read_bytes()
        for name, tensor in read_head(index / shard_name(number), "shard").layout.items():
            size = tensor.row_bytes * tensor.shape[0]
            array = np.frombuffer(data[tensor.offset : tensor.offset + size], tensor.dtype).reshape(tensor.shape)
            found.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in found.items()}


@pytest.mark.parametrize(("rows", "threads"), list(product((1, 3, 16, 64, None), (1, 3))))
def test_streams_give_what_was_written(index: Path, rows: int | None, threads: int) -> None:
    opened, expected = Index(index), whole(index)
    parts = [
        {"codes": p.codes.copy(), "row": p.row, "n_tokens": p.n_tokens, "exact.a": p.exact["a"]}
        for p in Stream(opened, ["a"], rows=rows).parts(threads)
    ]
    assert all(len(part["row"]) <= (rows or 70) for part in parts)
    for name in parts[0]:
        assert np.array_equal(np.concatenate([part[name] for part in parts]), expected[name])
    texts = []
    for some in ids(opened, rows or 70):
        assert len(some.absent) <= (rows or 70)
        ends = some.offsets.tolist()
        texts += [some.text[a:b].tobytes().decode() for a, b in pairwise(ends)]
    assert texts == ["" if k % 5 == 3 else f"row-{f + k}" for f, n in ((0, 23), (23, 40), (63, 7)) for k in range(n)]


def test_drawn_rows_are_those_that_were_written(index: Path) -> None:
    expected = whole(index)["codes"]
    for seed in range(5):
        places = np.sort(np.random.default_rng(seed).choice(70, 9, replace=False))
        assert np.array_equal(np.concatenate([b["codes"] for b in codes_at(Index(index), places)]), expected[places])


def test_only_blocks_that_are_read_are_checked(index: Path) -> None:
    path = index / shard_name(1)
    tensor = read_head(path, "shard").layout["codes"]
    data = bytearray(path.read_bytes())
    data[tensor.offset + 20 * 32] ^= 1  # row 20 of the shard, 43 of the index
    path.write_bytes(data)
    block = 20 // tensor.block_rows
    for row in range(40):
        if row // tensor.block_rows == block:
            with pytest.raises(NaitError, match=r"shard-00001\.safetensors: bytes of 'codes' have changed"):
                list(codes_at(Index(index), np.array([23 + row])))
        else:
            assert len(list(codes_at(Index(index), np.array([23 + row])))) == 1
    assert len(list(Stream(Index(index), codes=False).parts())) == 1
    with pytest.raises(NaitError, match=r"shard-00001\.safetensors: bytes of 'codes' have changed .*index --repair"):
        list(Stream(Index(index), rows=4).parts())


def test_what_a_file_says_of_its_blocks(tmp_path: Path) -> None:
    array = np.arange(100_000, dtype=np.int64).reshape(-1, 10)
    data = pack_tensors(
        {"a": array, "none": np.zeros((3, 0)), "empty": np.zeros(0)}, {"kind": "x", "blocks": 1, "z": "é"}
    )
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    layout, meta, checksum = read_head(path, "x")
    assert meta == {"kind": "x", "z": "é"} and checksum == checksum_of(data) and len(checksum) == 16
    rows = layout["a"].block_rows
    assert rows == blocks.BLOCK_BYTES // 80 and not layout["none"].digests and not layout["empty"].digests
    expected = [xxhash.xxh3_64_hexdigest(array[at : at + rows].tobytes()) for at in range(0, 10_000, rows)]
    assert layout["a"].digests == "".join(expected) and len(expected) == 4
    assert pack_tensors(*read_tensors(path, "x")) == data
    assert checksum_of(pack_tensors({"a": array}, {"kind": "x"}, sealed=False)) == ""


def test_the_header_is_the_library_s_byte_for_byte() -> None:
    from safetensors.numpy import save

    generator = np.random.default_rng(0)
    dtypes = ["?", "u1", "i1", "<i2", "<u2", "<f2", "<i4", "<u4", "<f4", "<f8", "<i8", "<u8", ">f4"]
    names = ["a", "codes", "exact.é\u2028\x7f", 'exact."\\\x01\n', "exact.\U0001f600", "", "Z"]
    for trial in range(60):
        shapes = [generator.integers(0, 4, generator.integers(1, 4)) for _ in range(int(generator.integers(0, 8)))]
        tensors = {
            f"{generator.choice(names)}{place % 3}": generator.integers(0, 99, shape).astype(generator.choice(dtypes))
            for place, shape in enumerate(shapes)
        }
        meta = {"kind": "x", "trial": trial, "z": "é\u2029\x00"}
        expected = save(
            {name: np.ascontiguousarray(array) for name, array in tensors.items()},
            metadata={"nait_fast": json.dumps(meta, sort_keys=True)},
        )
        assert pack_tensors(tensors, meta, sealed=False) == expected


def test_pieces_are_the_tensors_own_memory(tmp_path: Path) -> None:
    tensors = {"codes": np.arange(12, dtype=np.uint8).reshape(3, 4), "row": np.arange(3), "none": np.zeros((0, 7))}
    pieces = tensor_pieces(tensors, {"kind": "x"})
    assert b"".join(pieces) == pack_tensors(tensors, {"kind": "x"}) and checksum_of(pieces[0])
    assert sha256(*pieces) == sha256(b"".join(pieces))
    held = dict(zip(("row", "none", "codes"), pieces[1:], strict=True))
    for name in ("row", "codes"):
        assert np.shares_memory(np.frombuffer(held[name], np.uint8), tensors[name])
