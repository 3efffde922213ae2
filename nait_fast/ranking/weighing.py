"""The direction that rotated codes are best scanned with, by the pool's own codes.

One bit a number leaves an error ε in each estimate φ = s + ε of a part s of the exact score. It lies at random in the
J' − 1 dimensions across a sample's rotated numbers z, so two directions a and b in one layer have errors of covariance

    E ε_a ε_b = (1 − 2/π) (E f² ⟨a, b⟩ − π / (2 J') E s_a s_b),    f² ≈ π ‖z‖² / (2 J'),

which the codes tell, as E φ_a φ_b = E s_a s_b + E ε_a ε_b; the outliers, which are numbers, have no error. So the best
linear estimate of the whole score from several φ needs no exact score:

    w = e − C⁻¹ d,

C the covariance of the φ over the pool, e the weights that make up the plain estimate Σ e φ, d the covariance of the
errors with that of the plain estimate (the Wiener filter: C⁻¹ times Cov(φ, Σ e s), which is C e − d). The φ are, of
each layer, the coordinates along its ``leading`` components, what the direction has beside them, and the outliers' sum.
They tell of each other: layers move together. What comes of it is one direction again, so a scan costs what it cost.
"""

from collections.abc import Iterable, Mapping
from itertools import chain

import numpy as np
import torch

from nait_fast.index.codebook import Codebook
from nait_fast.index.drawn import Rows
from nait_fast.index.format import CodeLayout, code_layout
from nait_fast.index.rotation import LEADING, Rotation
from nait_fast.kernels.rotate.reference import rotate

ROWS_AN_ESTIMATE = 8  # with fewer, weights would follow chance
LOST = 1 - 2 / np.pi  # what the sign of a normal number leaves of its variance


def rotated(directions: np.ndarray, rotation: Rotation, padded: slice) -> np.ndarray:
    """One layer of ``directions`` [C, J], rotated: float64 [C, J']."""
    order, signs = (torch.from_numpy(x[:, padded]) for x in (rotation.permutations, rotation.signs))
    return rotate(torch.from_numpy(directions).double(), order, signs).numpy()


def weighed(directions: np.ndarray, codebook: Codebook, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(fp32 [C, N]: the directions that estimate the scores of ``directions`` fp32 [C, N] best over ``rows``; float64
    [C]: what is to be added to their scores).

    There must be ROWS_AN_ESTIMATE rows an estimate: with fewer, fewer components have one, and below those of two
    estimates a layer the directions come back as they are.
    """
    blocks, n_signatures = iter(rows), len(directions)
    if (first := next(blocks, None)) is None:
        return directions, np.zeros(n_signatures)
    rotation, layout, n_layers = codebook.rotation, codebook.layout, len(codebook.layout.widths)
    assert rotation is not None
    leading = rotation.leading.astype(np.float32)
    kept = np.zeros_like(directions)
    kept[:, rotation.outliers] = directions[:, rotation.outliers]
    coded = directions - kept
    widths = np.array(code_layout("rotated", layout.widths).widths)
    along = np.stack([_layer(coded, layout, p) @ _layer(leading, layout, p).T for p in range(n_layers)])  # [L, C, k]
    beside = coded - np.concatenate([x @ _layer(leading, layout, p) for p, x in enumerate(along)], axis=1)
    common, own, power = _estimates(leading, beside, kept, rotation, layout, chain([first], blocks))
    n = len(common)
    k = min(LEADING, n // ROWS_AN_ESTIMATE // n_layers - 2)
    if k < 0:
        return directions, np.zeros(n_signatures)
    if k < LEADING:  # the others' parts go to what is beside the first k
        own[:, :, 0] += np.einsum("nlk,lck->nlc", common[..., k:], along[..., k:])
        for p, x in enumerate(along[..., k:]):
            _layer(beside, layout, p)[:] += x @ _layer(leading, layout, p)[k:]
        common, along, leading = common[..., :k], along[..., :k], leading[:k]
    out, shift = np.empty_like(directions), np.empty(n_signatures)
    for c in range(n_signatures):
        plain = np.concatenate([along[:, c], np.ones((n_layers, 2))], axis=1)
        products = plain[:, : k + 1].copy()  # ⟨a, v_l⟩: of the components, and of what is beside them
        products[:, k] = [_layer(beside[c], layout, p) @ _layer(coded[c], layout, p) for p in range(n_layers)]
        estimates = np.concatenate([common, own[..., c]], axis=2).astype(np.float64)
        errors = np.zeros_like(plain)  # the outliers', the last, have none
        errors[:, : k + 1] = error_products(estimates[..., : k + 1], plain[:, : k + 1], products, power, widths)
        less = correction(estimates.reshape(n, -1), errors.reshape(-1)).reshape(plain.shape)
        shift[c] = (estimates.mean(axis=0) * less).sum()  # what the weights take away from the mean
        for p, w in enumerate(plain - less):
            parts = (*_layer(leading, layout, p), _layer(beside[c], layout, p), _layer(kept[c], layout, p))
            _layer(out[c], layout, p)[:] = w @ np.stack(parts)
    return out, shift


def _sound(block: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows whose factors are numbers: a damaged one spoils its own score alone."""
    sound = np.isfinite(block["factors"]).all(axis=1)
    return {name: block[name][sound] for name in ("codes", "factors", "outliers") if name in block}


def _layer(x: np.ndarray, layout: CodeLayout, position: int) -> np.ndarray:
    return x[..., layout.neurons(position)]


def _estimates(
    leading: np.ndarray, beside: np.ndarray, kept: np.ndarray, rotation: Rotation, layout: CodeLayout,
    blocks: Iterable[Mapping[str, np.ndarray]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """(estimates along ``leading`` [k, N], fp32 [n, L, k]; along ``beside`` and ``kept`` [C, N], fp32 [n, L, 2, C];
    mean square of the factors, float64 [L])."""
    k, n_layers, padded = len(leading), len(layout.widths), code_layout("rotated", layout.widths)
    coded = np.concatenate([leading, beside])
    turned = [rotated(_layer(coded, layout, p), rotation, padded.neurons(p)).T for p in range(n_layers)]
    turned = [np.ascontiguousarray(u, dtype=np.float32) for u in turned]
    common, own, squares = [], [], np.zeros(n_layers)
    for block in map(_sound, blocks):
        factors = block["factors"].astype(np.float64) * rotation.factor_scale
        squares += np.square(factors).sum(axis=0)
        along = np.empty((len(factors), n_layers, k), dtype=np.float32)
        mine = np.zeros((len(factors), n_layers, 2, len(kept)), dtype=np.float32)
        for position, u in enumerate(turned):
            packed = np.ascontiguousarray(block["codes"][:, padded.bytes(position)])
            signs = 2 * np.unpackbits(packed, axis=1, count=len(u), bitorder="little").astype(np.float32) - 1
            found = factors[:, position, None] * (signs @ u)
            along[:, position], mine[:, position, 0] = found[:, :k], found[:, k:]
            place = rotation.outliers_of(layout.neurons(position))
            if place.stop > place.start:
                levels = block["outliers"][:, place] * rotation.outlier_scale[place].astype(np.float64)
                mine[:, position, 1] = levels @ kept[:, rotation.outliers[place]].T
        common.append(along)
        own.append(mine)
    rows = sum(map(len, common))
    return np.concatenate(common), np.concatenate(own), squares / max(1, rows)


def error_products(
    estimates: np.ndarray, plain: np.ndarray, products: np.ndarray, power: np.ndarray, widths: np.ndarray
) -> np.ndarray:
    """E ε_a ε_v, float64 [L, P], for the directions a behind ``estimates`` float64 [n, L, P], and v_l = Σ ``plain`` a.

    ``products`` [L, P]: ⟨a, v_l⟩; ``power`` [L]: E f²; ``widths`` [L]: J'.
    """
    whole = (estimates * plain).sum(axis=2, keepdims=True)
    inside = (np.pi / 2 / widths)[:, None]
    seen = (estimates * whole).mean(axis=0)
    return LOST * (power[:, None] * products - inside * seen) / (1 - LOST * inside)


def correction(estimates: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """C⁻¹ d, float64 [P], of ``estimates`` [n, P] and ``errors`` d [P]; 0 for estimates that are constant.

    The inverse of a sample's covariance is too large by (n − 1) / (n − P − 2) on average: that is taken out.
    """
    n, out = len(estimates), np.zeros(len(errors))
    spread = estimates.std(axis=0, ddof=1)
    alive = np.flatnonzero(spread > 1e-12 * spread.max())
    if len(alive):
        alike = np.atleast_2d(np.corrcoef(estimates[:, alive], rowvar=False))
        inverse = np.linalg.pinv(alike, rcond=1e-10, hermitian=True) * (n - len(alive) - 2) / (n - 1)
        out[alive] = inverse @ (errors[alive] / spread[alive]) / spread[alive]
    return out
