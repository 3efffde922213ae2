"""The bit-pack ops against NumPy, and the layout of a row of codes."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.codecs.layout import CodeLayout
from nait_fast.kernels import layer_bytes, pack_bits, pack_bool, topk_bits, unpack
from tests import naive

WIDTHS = (1, 7, 31, 32, 33, 63, 64, 65, 1000)
SPECIAL = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, 1.0000001, -1.0, 1e-45, 3e38], dtype=np.float32)
widths, rows, seeds = st.sampled_from(WIDTHS), st.integers(0, 5), st.integers(0, 2**32 - 1)


def numpy_pack(bits: np.ndarray) -> np.ndarray:
    """NumPy's own packing, padded to whole 32-bit words."""
    out = np.zeros((len(bits), -(-bits.shape[1] // 32) * 4), dtype=np.uint8)
    packed = np.packbits(bits, axis=1, bitorder="little")
    out[:, : packed.shape[1]] = packed
    return out


def draw(n: int, width: int, seed: int, nan: bool = True) -> np.ndarray:
    """fp32 [n, width]: a third special values, the rest normal."""
    rng = np.random.default_rng(seed)
    special = rng.choice(SPECIAL if nan else SPECIAL[1:], (n, width))
    return np.where(rng.random((n, width)) < 0.3, special, rng.standard_normal((n, width))).astype(np.float32)


def test_layout_byte_by_byte():
    # Neuron j is bit j % 8 of byte j // 8; a layer takes whole 32-bit words; the rest is zero.
    bits = torch.zeros(3, 35, dtype=torch.bool)
    bits[0, [0, 9, 18, 27, 34]] = True
    bits[1, [7, 8, 31, 32]] = True
    assert pack_bool(bits).tolist() == [
        [0b00000001, 0b00000010, 0b00000100, 0b00001000, 0b00000100, 0, 0, 0],
        [0b10000000, 0b00000001, 0b00000000, 0b10000000, 0b00000001, 0, 0, 0],
        [0, 0, 0, 0, 0, 0, 0, 0],
    ]
    # Two such layers in a row: the second starts at byte 8, and the row is filled up to 16 bytes.
    layout = CodeLayout.of([35, 1])
    row = np.zeros((1, 36), dtype=bool)
    row[0, [0, 34, 35]] = True
    assert layout.pack(row).tolist() == [[1, 0, 0, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]]


@pytest.mark.parametrize("width", WIDTHS)
def test_layer_bytes(width):
    assert layer_bytes(width) == naive.layer_bytes(width)
    assert layer_bytes(width) % 4 == 0 and width <= 8 * layer_bytes(width) < width + 32


@settings(deadline=None)
@given(widths, rows, seeds)
def test_pack_bits(width, n, seed):
    values, threshold = draw(n, width, seed), draw(1, width, seed + 1)[0]
    equal = np.random.default_rng(seed).random((n, width)) < 0.2
    values = np.where(equal, threshold, values)  # a value at its threshold gives 0
    codes = pack_bits(torch.from_numpy(values), torch.from_numpy(threshold))
    assert codes.dtype == torch.uint8 and codes.shape == (n, layer_bytes(width))
    bits = values > threshold
    assert not bits[np.isnan(values) | equal].any()
    assert np.array_equal(codes.numpy(), numpy_pack(bits))
    if n:
        assert np.array_equal(codes.numpy(), naive.pack(bits[:, None]))


@settings(deadline=None)
@given(widths, rows, seeds)
def test_pack_and_unpack_are_inverse(width, n, seed):
    bits = np.random.default_rng(seed).random((n, width)) < 0.5
    codes = pack_bool(torch.from_numpy(bits))
    assert np.array_equal(codes.numpy(), numpy_pack(bits))
    restored = unpack(codes, width)
    assert restored.dtype == torch.bool and np.array_equal(restored.numpy(), bits)
    # The padding bits are zero: nothing of a layer lies past its width.
    assert not unpack(codes, 8 * layer_bytes(width))[:, width:].any()


@settings(deadline=None)
@given(widths, rows, seeds, st.integers(0, 70))
def test_topk_bits(width, n, seed, k):
    # Few distinct values: many ties, of which the lower index wins; -0.0 and 0.0 are equal.
    values = draw(n, width, seed, nan=False).round(0) if seed % 2 else draw(n, width, seed, nan=False)
    order = np.argsort(-values, axis=1, kind="stable")[:, :k]
    bits = np.zeros((n, width), dtype=bool)
    np.put_along_axis(bits, order, True, axis=1)
    codes = topk_bits(torch.from_numpy(values), k)
    assert codes.shape == (n, layer_bytes(width))
    assert np.array_equal(codes.numpy(), numpy_pack(bits))
    sets = [naive.nag_sets([row], k)[0] for row in values]
    assert [set(np.flatnonzero(row)) for row in unpack(codes, width).numpy()] == sets


def test_topk_bits_of_equal_values_takes_the_first():
    assert unpack(topk_bits(torch.full((2, 65), 3.0), 20), 65).sum(0).tolist() == [2] * 20 + [0] * 45


@pytest.mark.parametrize("width", WIDTHS)
def test_no_rows(width):
    empty = torch.zeros(0, width)
    shape = (0, layer_bytes(width))
    assert pack_bits(empty, torch.zeros(width)).shape == shape
    assert pack_bool(empty.bool()).shape == shape
    assert topk_bits(empty, 5).shape == shape
    assert unpack(torch.zeros(shape, dtype=torch.uint8), width).shape == (0, width)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_values_meet_an_fp32_threshold(dtype):
    values = torch.tensor([[1.0, 1.0, 1.0]], dtype=dtype)
    threshold = torch.tensor([1.0, 1.0001, 0.9999])  # all of them 1.0 once rounded to bf16 or fp16
    assert unpack(pack_bits(values, threshold), 3).tolist() == [[False, False, True]]


# ------------------------------------------------------------------------------------------------ rows of codes

LAYOUTS = [(1,), (32,), (33, 7, 64), (1000, 1, 31), (72,) * 3, (64, 64), (65, 128, 1, 1, 1)]


@pytest.mark.parametrize("layout", [CodeLayout.of(w) for w in LAYOUTS], ids=str)
@pytest.mark.parametrize("n", [0, 1, 5])
def test_rows_of_mixed_widths(layout, n):
    bits = np.random.default_rng(n).random((n, layout.n_neurons)) < 0.5
    codes = layout.pack(bits)
    assert codes.dtype == np.uint8 and codes.shape == (n, layout.row_bytes)
    assert np.array_equal(layout.unpack(codes), bits)
    used = sum(layer_bytes(w) for w in layout.widths)
    assert layout.row_bytes % 16 == 0 and used <= layout.row_bytes < used + 16
    assert not codes[:, used:].any()
    for position, width in enumerate(layout.widths):  # each layer's place holds what the op packs
        part = torch.from_numpy(bits[:, layout.neurons(position)])
        assert part.shape[1] == width
        assert np.array_equal(codes[:, layout.bytes(position)], pack_bits(part.float(), torch.full((width,), 0.5)))


def test_places_of_layers_follow_one_another():
    layout = CodeLayout.of([33, 7, 64])
    assert [layout.neurons(p) for p in range(3)] == [slice(0, 33), slice(33, 40), slice(40, 104)]
    assert [layout.bytes(p) for p in range(3)] == [slice(0, 8), slice(8, 12), slice(12, 20)]
    assert (layout.n_neurons, layout.row_bytes) == (104, 32)
