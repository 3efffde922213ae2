"""A GGUF file parsed once, by whole lists, says what gguf's own reader says of it."""

import re
import threading
from pathlib import Path

import numpy as np
import pytest

from nait_fast.models.gguf_file import leading_tensors, parsed_once

gguf = pytest.importorskip("gguf")
LISTS = {
    "words": ["", "a", "zwölf", "日本" * 40],
    "one": ["alone"],
    "whole": [3, -1, 7],
    "halves": [0.5, -2.25],
    "truths": [True, False, True],
}


@pytest.fixture
def small(tmp_path) -> str:
    path = tmp_path / "small.gguf"
    file = gguf.GGUFWriter(str(path), "llama")
    for name, values in LISTS.items():
        file.add_array(f"test.{name}", values)
    file.add_string("test.text", "no list")
    file.add_tensor("plain", np.arange(6, dtype=np.float32).reshape(2, 3))
    file.add_tensor("half", np.arange(8, dtype=np.float16))
    blocks = gguf.quants.quantize(
        np.linspace(-1, 1, 128, dtype=np.float32).reshape(2, 64), gguf.GGMLQuantizationType.Q8_0
    )
    file.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return str(path)


def check_same(path: str) -> None:
    plain = gguf.GGUFReader(path)
    with parsed_once(True):
        reader = gguf.GGUFReader(path)
        assert gguf.GGUFReader(path) is reader and type(reader) is not type(plain)
    assert list(reader.fields) == list(plain.fields)
    for name, field in plain.fields.items():
        ours = reader.fields[name]
        assert (ours.offset, ours.types, ours.data) == (field.offset, field.types, field.data), name
        assert [part.tobytes() for part in ours.parts] == [part.tobytes() for part in field.parts], name
    for ours, tensor in zip(reader.tensors, plain.tensors, strict=True):
        assert (ours.name, ours.tensor_type, ours.data_offset) == (tensor.name, tensor.tensor_type, tensor.data_offset)
        assert ours.data.dtype == tensor.data.dtype and np.array_equal(ours.data, tensor.data)


def test_lists_of_every_kind(small) -> None:
    check_same(small)
    with parsed_once(True):
        reader = gguf.GGUFReader(small)
    assert {name: reader.fields[f"test.{name}"].contents() for name in LISTS} == LISTS


@pytest.mark.model
def test_the_real_file(smollm2) -> None:
    check_same(smollm2)


def test_another_gguf_reads_in_its_own_way(small, monkeypatch) -> None:
    class Other(gguf.GGUFReader):
        def _get_str(self, offset):
            length, text = super()._get_str(offset)
            return length, text[::-1]

    monkeypatch.setattr(gguf, "GGUFReader", Other)
    check_same(small)


@pytest.mark.parametrize("end", [20, 60, 300, 420])
def test_a_broken_file_fails_as_ever(small, tmp_path, end) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(Path(small).read_bytes()[:end])
    with pytest.raises((IndexError, ValueError)) as expected:
        gguf.GGUFReader(path)
    with parsed_once(True), pytest.raises(type(expected.value), match=re.escape(str(expected.value))):
        gguf.GGUFReader(path)


def test_gguf_is_left_as_it_was(small) -> None:
    before = gguf.GGUFReader, gguf.get_tensor_name_map
    with pytest.raises(RuntimeError), parsed_once(True):
        inner = gguf.GGUFReader
        assert inner is not before[0]
        with parsed_once(True):
            assert gguf.GGUFReader is inner
        assert gguf.GGUFReader is inner
        raise RuntimeError
    assert (gguf.GGUFReader, gguf.get_tensor_name_map) == before
    with parsed_once(False):
        assert gguf.GGUFReader is before[0]


def test_one_thread_at_a_time() -> None:
    before, seen = gguf.GGUFReader, []

    def other() -> None:
        with parsed_once(True):
            seen.append(gguf.GGUFReader)

    with parsed_once(True):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.05)
        assert not seen
    thread.join(10)
    assert len(seen) == 1 and gguf.GGUFReader is before


def test_what_others_read_meanwhile_is_whole(small) -> None:
    """Layers that are left out for one thread's model are there for those of others."""
    plain, seen = gguf.GGUFReader, []
    file = str(Path(small).with_name("layers.gguf"))
    writer = gguf.GGUFWriter(file, "llama")
    for layer in range(3):
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", np.ones((2, 2), dtype=np.float32))
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    with parsed_once(True), leading_tensors(1):
        ours = gguf.GGUFReader(file)
        thread = threading.Thread(target=lambda: seen.extend(gguf.GGUFReader(file) for _ in range(2)))
        thread.start()
        thread.join()
    assert len(ours.tensors) == 1
    assert [len(reader.tensors) for reader in seen] == [3, 3] and seen[0] is not seen[1]
    assert all(type(reader) is plain for reader in seen)
