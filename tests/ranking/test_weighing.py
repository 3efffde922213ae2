"""The best linear estimate from rotated codes, on made readings whose layers move together."""

import numpy as np
import pytest
import torch

from nait_fast.extract.coders import RotatedCoder, choose_outliers, make_rotation
from nait_fast.index.codebook import Codebook
from nait_fast.index.format import CodeLayout
from nait_fast.index.rotation import LEADING
from nait_fast.kernels.rotate.reference import rotate
from nait_fast.ranking import weighing
from nait_fast.ranking.rotated import EDGE, RotatedScan, in_steps
from nait_fast.ranking.signature import Signature
from nait_fast.ranking.weighing import correction, weighed

WIDTHS = (130, 67, 128, 31)
LAYOUT = CodeLayout.of(WIDTHS)
ROWS = 1500


def readings(seed: int, rows: int = ROWS, loud: float = 12) -> np.ndarray:
    """fp32 [rows, N]: a few factors that all layers share, noise, and some neurons that are far louder."""
    generator = np.random.default_rng(seed)
    loads = np.random.default_rng(99).standard_normal((4, LAYOUT.n_neurons)) * np.array([[0.6], [0.4], [0.3], [0.2]])
    values = generator.standard_normal((rows, 4)) @ loads + generator.standard_normal((rows, LAYOUT.n_neurons))
    values[:, [3, 140, 200, 340]] *= loud
    return (values + 0.5).astype(np.float32)


def coded(values: np.ndarray, outliers: int, seed: int) -> tuple[Codebook, dict[str, np.ndarray]]:
    """(codebook, codes and columns) of ``values``, which are the calibration sample as well."""
    centre = values.mean(axis=0)
    rotation = make_rotation(values, centre, LAYOUT, outliers, seed)
    codebook = Codebook(centre, {"reading": "drift", "widths": list(WIDTHS)}, centre, rotation=rotation)
    return codebook, coded_with(codebook, values)


def coded_with(codebook: Codebook, values: np.ndarray) -> dict[str, np.ndarray]:
    """Codes uint8 [n, W] and the columns that come with them."""
    coder = RotatedCoder(codebook)
    rows: dict[str, np.ndarray] = {"codes": np.zeros((len(values), coder.layout.row_bytes), dtype=np.uint8)}
    rows |= {name: np.zeros((len(values), *shape), dtype) for name, (dtype, shape) in coder.columns.items()}
    for position in range(len(WIDTHS)):
        bits, parts = coder.encode(position, torch.from_numpy(values[:, LAYOUT.neurons(position)]))
        rows["codes"][:, coder.layout.bytes(position)] = bits
        for name, (place, part) in parts.items():
            rows[name][:, place] = part.numpy()
    return rows


def directions(number: int) -> np.ndarray:
    """fp32 [number, N]: of unit length in each layer, as nait's are."""
    v = np.random.default_rng(5).standard_normal((number, LAYOUT.n_neurons)).astype(np.float32)
    v += 0.3 * readings(7, number)
    for position in range(len(WIDTHS)):
        layer = v[:, LAYOUT.neurons(position)]
        layer /= np.linalg.norm(layer, axis=1, keepdims=True)
    return v


def scanned(codebook: Codebook, v: np.ndarray, rows: dict[str, np.ndarray], among: list) -> np.ndarray:
    signatures = [Signature(f"v{i}", {}, {"direction": x}) for i, x in enumerate(v)]
    return RotatedScan(codebook, signatures, rows=among)(rows["codes"], rows)


@pytest.mark.parametrize("outliers", [0, 6])
def test_less_error_than_the_plain_estimate_and_no_bias(outliers: int) -> None:
    """Over rotations, pools and directions; on rows that the weights were not made of, too."""
    loud = 12 if outliers else 2
    values, v = readings(0, loud=loud), directions(6)
    fresh, slopes = readings(1, loud=loud), {"plain": list[float](), "best": list[float]()}
    error = {"plain": list[np.ndarray](), "own": list[np.ndarray](), "fresh": list[np.ndarray]()}
    for seed in range(3):
        codebook, rows = coded(values, outliers, seed)
        exact = values.astype(np.float64) @ v.T.astype(np.float64)
        plain, best = scanned(codebook, v, rows, []), scanned(codebook, v, rows, [rows])
        new = scanned(codebook, v, coded_with(codebook, fresh), [rows]) - fresh.astype(np.float64) @ v.T.astype(
            np.float64
        )
        error["plain"].append(np.square(plain - exact).mean(axis=0) / exact.var(axis=0))
        error["own"].append(np.square(best - exact).mean(axis=0) / exact.var(axis=0))
        error["fresh"].append(np.square(new).mean(axis=0) / exact.var(axis=0))
        assert np.abs((best - exact).mean(axis=0)).max() < 0.02 * exact.std()
        for name, got in (("plain", plain), ("best", best)):
            slopes[name] += [np.polyfit(got[:, c], exact[:, c], 1)[0] for c in range(len(v))]
    plain, best = (np.mean(slopes[name]) for name in ("plain", "best"))
    assert abs(best - 1) < 0.5 * abs(plain - 1)  # the plain estimate is louder than the scores, by its errors
    plain, own, new = (np.mean(error[name]) for name in ("plain", "own", "fresh"))
    assert own < 0.75 * plain and new < 0.75 * plain and abs(own / new - 1) < 0.1


def test_as_good_as_a_fit_to_the_exact_scores() -> None:
    """The weights come without exact scores; a regression of these on the same estimates is hardly better."""
    values, v = readings(0), directions(1)
    codebook, rows = coded(values, 6, 0)
    exact = values.astype(np.float64) @ v[0].astype(np.float64)
    rotation, estimates = codebook.rotation, []
    for position in range(len(WIDTHS)):  # each part alone, by the plain estimate
        for k in range(LEADING + 2):
            part = np.zeros(LAYOUT.n_neurons, dtype=np.float32)
            mine = LAYOUT.neurons(position)
            coded_v = v[0].copy()
            coded_v[rotation.outliers] = 0
            basis = rotation.leading[:, mine].astype(np.float32)
            if k < LEADING:
                part[mine] = basis[k]
            elif k == LEADING:
                part[mine] = coded_v[mine] - coded_v[mine] @ basis.T @ basis
            else:
                part[mine] = (v[0] - coded_v)[mine]
            estimates.append(scanned(codebook, part[None], rows, [])[:, 0])
    features = np.stack([*estimates, np.ones(ROWS)], axis=1)
    oracle = features @ np.linalg.lstsq(features, exact, rcond=None)[0]
    best, plain = (scanned(codebook, v[:1], rows, among)[:, 0] for among in ([rows], []))
    error, least, most = (np.square(x - exact).mean() for x in (best, oracle, plain))
    assert least <= error < least + 0.25 * (most - least)


def test_the_errors_covariance_is_as_the_formula_says() -> None:
    """mean(f²) (1 − 2/π) ⟨a, b⟩, over rotations."""
    values = readings(0, 300)
    layer = LAYOUT.neurons(0)
    x = values[:, layer] - values.mean(axis=0)[layer]
    a, b = np.random.default_rng(3).standard_normal((2, WIDTHS[0]))
    b += a
    errors, expected = [], []
    for seed in range(60):
        codebook, rows = coded(values, 0, seed)
        rotation = codebook.rotation
        f = rows["factors"][:, 0].astype(np.float64) * rotation.factor_scale[0]
        bits = np.unpackbits(rows["codes"][:, :32], axis=1, bitorder="little").astype(np.float64)
        turned = weighing.rotated(np.stack([a, b]), rotation, slice(0, 256))
        errors.append(f[:, None] * ((2 * bits - 1) @ turned.T) - x @ np.stack([a, b]).T)
        expected.append(np.square(f).mean() * weighing.LOST * (a @ b))
    found = np.mean([e[:, 0] * e[:, 1] for e in errors])
    assert found == pytest.approx(np.mean(expected), rel=0.15)


def test_signatures_blocks_and_damaged_rows() -> None:
    """A signature's scores do not depend on the others', nor on the blocks; a row with a factor that is no number does
    not count."""
    values, v = readings(0), directions(3)
    codebook, rows = coded(values, 6, 0)
    together = scanned(codebook, v, rows, [rows])
    for c in range(3):
        alone = scanned(codebook, v[c : c + 1], rows, [rows])[:, 0]
        np.testing.assert_allclose(alone, together[:, c], rtol=1e-5, atol=1e-5)
    blocks = [{name: x[i : i + 700] for name, x in rows.items()} for i in range(0, ROWS, 700)]
    np.testing.assert_allclose(scanned(codebook, v, rows, blocks), together, rtol=1e-4, atol=1e-4)
    damaged = {name: np.concatenate([x[:1], x]) for name, x in rows.items()}
    damaged["factors"][0, 2] = np.nan
    np.testing.assert_allclose(scanned(codebook, v, rows, [damaged]), together, rtol=1e-4, atol=1e-4)


def test_few_rows() -> None:
    """The fewer there are, the fewer components have an estimate of their own; below two a layer nothing is changed."""
    values, v = readings(0), directions(2)
    codebook, rows = coded(values, 6, 0)
    for n, changed in ((0, False), (1, False), (63, False), (64, True), (100, True), (300, True)):
        some = {name: x[:n] for name, x in rows.items()}
        got, shift = weighed(v, codebook, [some])
        assert (got.tobytes() != v.tobytes()) == changed == bool(shift.any()), n
        assert np.isfinite(got).all() and np.isfinite(shift).all()


def test_a_direction_of_nothing_and_a_pool_of_one_kind() -> None:
    values, v = readings(0), directions(2)
    v[1] = 0
    codebook, rows = coded(values, 6, 0)
    got = scanned(codebook, v, rows, [rows])
    assert got[:, 1] == pytest.approx(0, abs=1e-9)
    alike = {name: np.repeat(x[:1], ROWS, axis=0) for name, x in rows.items()}
    got, plain = (scanned(codebook, v, rows, among) for among in ([alike], []))
    np.testing.assert_allclose(got, plain, rtol=1e-5, atol=1e-5)


def test_correction() -> None:
    """Two estimates of one thing, with errors of variance 1 and 3: weights 3 : 1, less than 1 in sum."""
    generator, n = np.random.default_rng(0), 200_000
    s = 2 * generator.standard_normal(n)
    estimates = np.stack([s + generator.standard_normal(n), s + 3**0.5 * generator.standard_normal(n), np.ones(n)], 1)
    plain = np.array([1.0, 0, 0])
    weights = plain - correction(estimates, np.array([1.0, 0, 0]))
    assert weights == pytest.approx([3 / 4.75, 1 / 4.75, 0], abs=0.01)
    twice = np.concatenate([estimates, estimates[:, :1]], axis=1)  # singular: the same estimate again
    weights = np.append(plain, 0) - correction(twice, np.array([1.0, 0, 0, 1.0]))
    assert weights[0] + weights[3] == pytest.approx(3 / 4.75, abs=0.01)


def test_steps_lose_next_to_nothing_along_the_components() -> None:
    generator = np.random.default_rng(0)
    order = np.stack([generator.permutation(1536) for _ in range(2)])
    signs = np.sign(generator.standard_normal((2, 1536)))
    basis = np.linalg.qr(generator.standard_normal((1536, 8)))[0].T
    u, turned = (
        generator.standard_normal((3, 1536)),
        rotate(torch.tensor(basis), torch.tensor(order), torch.tensor(signs)),
    )
    u[2] = 0
    levels, steps = in_steps(u, turned.numpy())
    assert levels.min() >= -EDGE and levels.max() < EDGE and steps[2] == 1 and not levels[2].any()
    error = u - levels * steps[:, None]
    plain = u - np.clip(np.rint(u / steps[:, None]), -EDGE, EDGE - 1) * steps[:, None]
    assert np.square(error[:2]).mean() < 1.1 * np.square(plain[:2]).mean()
    lost, before = (np.square(x[:2] @ turned.numpy().T).sum() for x in (error, plain))
    assert lost < 0.05 * before


def test_outliers_of_every_number() -> None:
    """One after another the neuron without which Σ_l T_l² / (T_l of all) is least; or all of them."""
    variance = np.random.default_rng(2).gamma(0.3, size=LAYOUT.n_neurons)
    variance[LAYOUT.neurons(2)] = 0
    layers = np.repeat(np.arange(len(WIDTHS)), WIDTHS)
    whole = np.bincount(layers, variance)

    def loss(taken: list[int]) -> float:
        left = variance.copy()
        left[taken] = 0
        held = np.bincount(layers, left)
        return float(np.sum(held**2 / np.where(whole > 0, whole, 1)))

    taken: list[int] = []
    for number in range(1, 12):
        free = [j for j in range(LAYOUT.n_neurons) if j not in taken]
        taken.append(min(free, key=lambda j: loss([*taken, j])))
        assert choose_outliers(variance, LAYOUT, number).tolist() == sorted(taken)
    assert choose_outliers(variance, LAYOUT, 0).tolist() == []
    assert choose_outliers(variance, LAYOUT, LAYOUT.n_neurons).tolist() == list(range(LAYOUT.n_neurons))
