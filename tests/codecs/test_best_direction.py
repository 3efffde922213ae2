"""The best linear estimate from rotated codes, on made readings whose layers move together."""

from functools import cache

import numpy as np
import pytest
import torch

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.rotated.best_direction import LOST, checked_correction, correction, error_products, weighed
from nait_fast.codecs.rotated.coder import RotatedCoder, choose_outliers, make_rotation
from nait_fast.codecs.rotated.estimate import EDGE, RotatedScan, in_steps
from nait_fast.codecs.rotated.rotation import LEADING
from nait_fast.kernels.rotate.reference import rotate

WIDTHS = (130, 67, 128, 31)
LAYOUT = CodeLayout.of(WIDTHS)
ROWS, CALIBRATED = 1500, 512


def readings(seed: int, rows: int = ROWS, loud: float = 12) -> np.ndarray:
    """fp32 [rows, N]: a few factors that all layers share, noise, and some neurons that are far louder."""
    generator = np.random.default_rng(seed)
    loads = np.random.default_rng(99).standard_normal((4, LAYOUT.n_neurons)) * np.array([[0.6], [0.4], [0.3], [0.2]])
    values = generator.standard_normal((rows, 4)) @ loads + generator.standard_normal((rows, LAYOUT.n_neurons))
    values[:, [3, 140, 200, 340]] *= loud
    return (values + 0.5).astype(np.float32)


def coded(values: np.ndarray, outliers: int, seed: int) -> tuple[Codebook, dict[str, np.ndarray]]:
    """(codebook, codes and columns) of ``values``, the first of which are the calibration sample."""
    centre = values.mean(axis=0)
    rotation = make_rotation(values[:CALIBRATED], centre, LAYOUT, outliers, seed)
    codebook = Codebook(centre, {"codec": "rotated", "reading": "drift", "widths": list(WIDTHS)}, centre, part=rotation)
    return codebook, coded_with(codebook, values)


def coded_with(codebook: Codebook, values: np.ndarray) -> dict[str, np.ndarray]:
    """Codes uint8 [n, W] and the columns that come with them."""
    coder = RotatedCoder(codebook)
    rows: dict[str, np.ndarray] = {"codes": np.zeros((len(values), coder.layout.row_bytes), dtype=np.uint8)}
    rows |= {name: np.zeros((len(values), *shape), dtype) for name, (dtype, shape) in coder.columns.items()}
    for ordinal in range(len(WIDTHS)):
        bits, parts = coder.encode(ordinal, torch.from_numpy(values[:, LAYOUT.neurons(ordinal)]))
        rows["codes"][:, coder.layout.bytes(ordinal)] = bits
        for name, (place, part) in parts.items():
            rows[name][:, place] = part.numpy()
    return rows


@cache
def coded_readings(seed: int) -> tuple[Codebook, dict[str, np.ndarray]]:
    """``coded`` of ``readings(0)``, with six outliers."""
    return coded(readings(0), 6, seed)


def directions(number: int) -> np.ndarray:
    """fp32 [number, N]: of unit length in each layer, as nait's are."""
    v = np.random.default_rng(5).standard_normal((number, LAYOUT.n_neurons)).astype(np.float32)
    v += 0.3 * readings(7, number)
    for ordinal in range(len(WIDTHS)):
        layer = v[:, LAYOUT.neurons(ordinal)]
        layer /= np.linalg.norm(layer, axis=1, keepdims=True)
    return v


def scanned(codebook: Codebook, v: np.ndarray, rows: dict[str, np.ndarray], among: list) -> np.ndarray:
    return RotatedScan(codebook, v, rows=among)(rows["codes"], rows)


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
    assert abs(best - 1) < 0.25 * abs(plain - 1)  # the plain estimate is louder than the scores, by its errors
    plain, own, new = (np.mean(error[name]) for name in ("plain", "own", "fresh"))
    assert own < 0.75 * plain and new < 0.75 * plain and abs(own / new - 1) < 0.1


def test_as_good_as_a_fit_to_the_exact_scores() -> None:
    """The weights come without exact scores; a regression of these on the same estimates is hardly better."""
    values, v = readings(0), directions(1)
    codebook, rows = coded_readings(0)
    exact = values.astype(np.float64) @ v[0].astype(np.float64)
    rotation, estimates = codebook.part, []
    for ordinal in range(len(WIDTHS)):  # each part alone, by the plain estimate
        for k in range(LEADING + 2):
            part = np.zeros(LAYOUT.n_neurons, dtype=np.float32)
            mine = LAYOUT.neurons(ordinal)
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


def test_the_errors_are_as_large_as_the_codes_say() -> None:
    """``error_products`` of estimates against their true errors, over rotations: along a component that holds most of a
    layer, where errors are small, and across it."""
    generator = np.random.default_rng(4)
    strong = np.linalg.qr(generator.standard_normal((128, 2)))[0].T  # unit: the strong direction, and one across
    values = generator.standard_normal((400, 1)) * 30 @ strong[:1] + generator.standard_normal((400, 128))
    plain = np.array([[0.6, 0.8]])  # v = 0.6 strong + 0.8 across
    true, told, power = np.zeros((1, 2)), np.zeros((1, 2)), 0.0
    for seed in range(200):
        order = np.random.default_rng(seed)
        rotation = [np.stack([order.permutation(128) for _ in range(2)]), order.integers(0, 2, (2, 128)) * 2 - 1]
        orders, signs = (torch.from_numpy(x) for x in rotation)
        z, u = (rotate(torch.from_numpy(x), orders, signs).numpy() for x in (values, strong))
        f = np.square(z).sum(axis=1) / np.abs(z).sum(axis=1)
        estimates = f[:, None, None] * (np.sign(z) @ u.T)[:, None]
        errors = estimates - (values @ strong.T)[:, None]
        true += (errors * (errors * plain).sum(axis=2, keepdims=True)).mean(axis=0) / 200
        told += error_products(estimates, plain, plain, np.square(f).mean(keepdims=True), np.array([128])) / 200
        power += np.square(f).mean() / 200
    assert true[0, 0] < 0.4 * LOST * 0.6 * power  # far less than across: the error is not along z
    np.testing.assert_allclose(told, true, rtol=0.1)


def test_correction_of_few_rows_is_neither_too_large_nor_too_small() -> None:
    """Over samples of 60 rows for 20 estimates its mean is C⁻¹ d."""
    generator, errors = np.random.default_rng(0), np.linspace(0, 2, 20)
    mix = np.eye(20) + 0.2 * generator.standard_normal((20, 20))
    expected = np.linalg.solve(mix @ mix.T, errors)
    got = np.mean([correction(generator.standard_normal((60, 20)) @ mix.T, errors) for _ in range(2000)], axis=0)
    assert np.linalg.norm(got - expected) < 0.05 * np.linalg.norm(expected)


def error_among(seed: int, rows: int) -> np.ndarray:
    """Squared error of the estimates with that many rows to make the weights of (0: the plain ones), over the variance
    of the exact scores: float64 [6]."""
    values, v = readings(0), directions(6)
    exact = values.astype(np.float64) @ v.T.astype(np.float64)
    codebook, coded_rows = coded_readings(seed)
    among = [{name: x[:rows] for name, x in coded_rows.items()}] if rows else []
    got = scanned(codebook, v, coded_rows, among)
    return np.square(got - exact).mean(axis=0) / exact.var(axis=0)


@pytest.fixture(scope="module")
def plain_error() -> float:
    return float(np.mean([error_among(seed, 0) for seed in range(4)]))


@pytest.mark.parametrize("rows", [80, 200, 330])
def test_few_rows_do_no_harm(rows: int, plain_error: float) -> None:
    """With none, some and all of the components on their own: never worse than the plain estimate, and better soon."""
    best = np.mean([error_among(seed, rows) for seed in range(4)])
    assert best < {80: 1.0, 200: 0.9, 330: 0.85}[rows] * plain_error


@pytest.mark.parametrize("kind", ["repeated", "loud", "heavy tails", "two kinds"])
def test_pools_that_a_fit_could_fail_on(kind: str) -> None:
    """The estimate is at least about as good as the plain one, over all rows."""
    values, v = readings(0), directions(4)
    generator = np.random.default_rng(8)
    codebook, rows = coded_readings(0)
    among = rows
    if kind == "repeated":  # nearly as many as there are estimates
        among = {name: np.concatenate([x[:44]] * 30) for name, x in rows.items()}
    if kind == "loud":
        among = {name: x.copy() for name, x in rows.items()}
        among["factors"][5] *= 100
    if kind == "heavy tails":
        values = values * np.exp(1.5 * generator.standard_normal((ROWS, 1))).astype(np.float32)
        among = rows = coded_with(codebook, values)
    if kind == "two kinds":  # the sample is of one kind, half of the pool of another
        other = readings(3)[:750] * 2 + 5 * generator.standard_normal(LAYOUT.n_neurons)
        values = np.concatenate([values[:750], other]).astype(np.float32)
        rows = coded_with(codebook, values)
        among = {name: x[:750] for name, x in rows.items()}
    exact = values.astype(np.float64) @ v.T.astype(np.float64)
    plain, best = (scanned(codebook, v, rows, x) for x in ([], [among]))
    alike = [[np.corrcoef(x[:, c], exact[:, c])[0, 1] for c in range(len(v))] for x in (plain, best)]
    most = 0.8 if kind == "loud" else 1.1  # without that row the fit is as good as ever
    assert np.mean(1 - np.array(alike[1])) < most * np.mean(1 - np.array(alike[0]))


def test_a_fit_that_the_other_half_of_the_rows_denies_is_not_used() -> None:
    generator, plain = np.random.default_rng(0), np.array([1.0, 1.0])
    estimates = generator.standard_normal((4000, 2)) * 2
    errors = np.array([1.0, 1.0])
    np.testing.assert_array_equal(checked_correction(estimates, plain, errors), correction(estimates, errors))
    estimates[::2, 0] *= 0.3  # there its errors would be larger than itself: a weight below 0
    assert correction(estimates[::2], errors)[0] > 2
    assert not checked_correction(estimates, plain, errors).any()


def test_signatures_blocks_and_damaged_rows() -> None:
    """A signature's scores do not depend on the others', nor on the blocks; a row with a factor that is no number does
    not count."""
    v = directions(3)
    codebook, rows = coded_readings(0)
    together = scanned(codebook, v, rows, [rows])
    for c in range(3):
        alone = RotatedScan(codebook, v[c : c + 1], rows=[rows])
        every = RotatedScan(codebook, v, rows=[rows])
        assert alone.directions[0].tobytes() == every.directions[c].tobytes()
        np.testing.assert_allclose(alone(rows["codes"], rows)[:, 0], together[:, c], rtol=1e-12)
    blocks = [{name: x[i : i + 70] for name, x in rows.items()} for i in range(0, ROWS, 70)]
    np.testing.assert_array_equal(scanned(codebook, v, rows, blocks), together)
    damaged = {name: np.concatenate([x[:1], x]) for name, x in rows.items()}
    damaged["factors"][0, 2] = np.nan
    np.testing.assert_array_equal(scanned(codebook, v, rows, [damaged]), together)


def test_few_rows() -> None:
    """The fewer there are, the fewer components have an estimate of their own; below two a layer nothing is changed."""
    v = directions(2)
    codebook, rows = coded_readings(0)
    for n, changed in ((0, False), (1, False), (63, False), (64, True), (100, True), (300, True)):
        some = {name: x[:n] for name, x in rows.items()}
        got, shift = weighed(v, codebook, [some])
        assert (got.tobytes() != v.tobytes()) == changed == bool(shift.any()), n
        assert np.isfinite(got).all() and np.isfinite(shift).all()


def test_a_direction_of_nothing_and_a_pool_of_one_kind() -> None:
    v = directions(2)
    v[1] = 0
    codebook, rows = coded_readings(0)
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
    turned = rotate(torch.tensor(basis), torch.tensor(order), torch.tensor(signs)).numpy()
    for u in generator.standard_normal((5, 1536)):
        levels, step = in_steps(u, turned)
        assert levels.min() >= -EDGE and levels.max() < EDGE
        error = u - levels * step
        plain = u - np.clip(np.rint(u / step), -EDGE, EDGE - 1) * step
        assert np.square(error).mean() < 1.1 * np.square(plain).mean()
        assert np.square(turned @ error).sum() < 0.1 * np.square(turned @ plain).sum()
    levels, step = in_steps(np.zeros(1536), turned)
    assert step == 1 and not levels.any()


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
