"""The rotation: what makes it one, its estimate of inner products, and the Triton kernel against the reference."""

import numpy as np
import pytest
import torch

from nait_fast.kernels import rotate_bits, unpack
from nait_fast.kernels.rotate import BLOCK, ROUNDS, reference, rotated_width
from tests.ops.device import DEVICE, poisoned

WIDTHS = (1, 31, 33, 127, 128, 129, 300, 1536)


def rotation(width, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = np.random.default_rng(seed)
    padded = rotated_width(width)
    orders = np.stack([generator.permutation(padded) for _ in range(ROUNDS)]).astype(np.int32)
    signs = generator.choice([-1.0, 1.0], (ROUNDS, padded)).astype(np.float32)
    return torch.from_numpy(orders), torch.from_numpy(signs)


def draw(n, width, dtype=torch.float32, seed=0) -> torch.Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def test_hadamard_is_orthonormal_and_of_sylvesters_order():
    h = reference.hadamard(torch.device("cpu"), torch.float64)
    assert torch.allclose(h @ h.T, torch.eye(BLOCK, dtype=torch.float64), atol=1e-12)
    signs = [[(-1) ** (i & j).bit_count() for j in range(BLOCK)] for i in range(BLOCK)]
    assert torch.equal(h.sign(), torch.tensor(signs, dtype=torch.float64))


@pytest.mark.parametrize("width", WIDTHS)
def test_inner_products_stay(width):
    orders, signs = rotation(width, seed=width)
    x, y = draw(5, width, torch.float64), draw(7, width, torch.float64, seed=1)
    a, b = reference.rotate(x, orders, signs), reference.rotate(y, orders, signs)
    assert a.shape == (5, rotated_width(width)) and a.dtype == torch.float64
    assert torch.allclose(a @ b.T, x @ y.T, rtol=1e-10, atol=1e-10 * width**0.5)


def test_one_neuron_is_spread_over_all():
    orders, signs = rotation(1536)
    single = torch.zeros(1, 1536)
    single[0, 77] = 1.0
    z = reference.rotate(single, orders, signs)
    assert (z.abs() > 1e-6).sum() >= 1536 / 3 and z.abs().max() < 0.15


def test_the_estimate_is_unbiased_and_as_sharp_as_rabitq_says():
    """⟨z, u⟩ over random rotations: the mean is the inner product, the spread about sqrt(π/2 − 1) · |u| / sqrt(J)."""
    x, u = draw(1, 512), draw(1, 512, seed=3)
    exact = float((x.double() * u.double()).sum())
    got = []
    for seed in range(300):
        orders, signs = rotation(512, seed)
        codes, factor = rotate_bits(x, orders, signs)
        z = unpack(codes, 512).double() * 2 - 1
        got.append(float(factor[0].double() * (z * reference.rotate(u.double(), orders, signs)).sum()))
    expected = float(np.sqrt(np.pi / 2 - 1) * x.norm() * u.norm() / np.sqrt(512))
    assert abs(np.mean(got) - exact) < 4 * expected / np.sqrt(300)
    assert 0.7 * expected < np.std(got) < 1.3 * expected


def test_bits_and_factor_by_hand():
    orders, signs = rotation(40)
    x = draw(3, 40)
    x[1] = 0
    codes, factor = rotate_bits(x, orders, signs)
    z = reference.rotate(x.double(), orders, signs)
    assert codes.shape == (3, BLOCK // 8) and codes.dtype == torch.uint8
    assert torch.equal(unpack(codes, BLOCK)[[0, 2]], z[[0, 2]] > 0)
    assert factor[1] == 0 and not codes[1].any()
    assert torch.allclose(factor[[0, 2]].double(), (z.square().sum(1) / z.abs().sum(1))[[0, 2]], rtol=1e-6)


@pytest.mark.usefixtures("triton_backend")
@pytest.mark.parametrize("n, dtype", [(0, torch.float32), (1, torch.bfloat16), (9, torch.float16), (17, torch.float32)])
@pytest.mark.parametrize("width", WIDTHS)
def test_the_kernel(width, n, dtype):
    orders, signs = (x.to(DEVICE) for x in rotation(width))
    values = draw(n, width, dtype, seed=width).to(DEVICE)
    if n > 1:
        values[1] = 0
    z = reference.rotate(values.double(), orders, signs)
    near = 1e-5 * values.double().norm(dim=1, keepdim=True)
    for source in (values, torch.cat([values, values], 1)[:, :width]):  # and one whose rows are strided
        with poisoned():
            codes, factor = rotate_bits(source, orders, signs)
        bits = unpack(codes, rotated_width(width))
        assert not ((bits != (z > 0)) & (z.abs() > near)).any()
        exact = reference.factor(z.square().sum(1), z.abs().sum(1)).double()
        of_torch = (reference.rotate_bits(values.float(), orders, signs)[1].double() - exact).abs()
        assert ((factor.double() - exact).abs() <= (2 * of_torch).clamp(min=4e-7 * exact.abs().max() if n else 0)).all()


@pytest.mark.parametrize("change", ["values", "permutations", "signs", "empty"])
def test_what_does_not_fit_is_refused(change):
    orders, signs = rotation(200)
    values = draw(2, 200)
    if change == "values":
        values = values[0]
    elif change == "permutations":
        orders = orders[:, :128]
    elif change == "signs":
        signs = signs[:1]
    else:
        values = values[:, :0]
    with pytest.raises(ValueError, match="must be"):
        rotate_bits(values, orders, signs)
