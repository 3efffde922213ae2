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

Weights are a fit, and a fit can fail: rows that are there twice count once, rows of uncommonly large factors not at
all, and the weights that each half of the rows gives must lower the error over the other half, or the plain estimate
stays. Each signature is worked on by itself, so that its scores do not depend on which others are ranked.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain

import numpy as np
import torch

from nait_fast.codecs.base import Rows
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.rotated.rotation import LEADING, Rotation, padded_layout
from nait_fast.kernels.rotate.reference import rotate

ROWS_AN_ESTIMATE = 8  # with fewer, weights would follow chance
GROUP = 256  # rows unpacked at once
LOUD = 4.0  # medians of a layer's factors: a row beyond would decide E f² and C by itself
LOST = 1 - 2 / np.pi  # what the sign of a normal number leaves of its variance


def rotated(directions: np.ndarray, rotation: Rotation, padded: slice) -> np.ndarray:
    """One layer of ``directions`` [C, J], rotated one by one: float64 [C, J']."""
    order, signs = (torch.from_numpy(x[:, padded]) for x in (rotation.permutations, rotation.signs))
    out = np.zeros((len(directions), padded.stop - padded.start))
    for c in np.flatnonzero(directions.any(axis=1)):
        out[c] = rotate(torch.from_numpy(directions[c : c + 1]).double(), order, signs).numpy()[0]
    return out


def weighed(directions: np.ndarray, codebook: Codebook, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
    """(fp32 [C, N]: the directions that estimate the scores of ``directions`` fp32 [C, N] best over ``rows``; float64
    [C]: what is to be added to their scores).

    There must be ROWS_AN_ESTIMATE rows an estimate: with fewer, fewer components have one, and below those of two
    estimates a layer the directions come back as they are.
    """
    blocks, out, shift = iter(rows), directions.copy(), np.zeros(len(directions))
    if (first := next(blocks, None)) is None:
        return out, shift
    rotation, layout = codebook.part, codebook.layout
    assert isinstance(rotation, Rotation)
    split = [_split(v, rotation, layout) for v in directions]
    sample = _estimates(split, rotation, layout, chain([first], blocks))
    k = min(LEADING, len(sample.along) // ROWS_AN_ESTIMATE // len(layout.widths) - 2)
    if k >= 0:
        for c, parts in enumerate(split):
            out[c], shift[c] = _best(parts, c, sample, k, rotation, layout)
    return out, shift


@dataclass(frozen=True)
class _Parts:
    """A direction: float64 [L, LEADING] ``along`` the components, fp32 [N] ``beside`` them and of the ``outliers``."""

    along: np.ndarray
    beside: np.ndarray
    outliers: np.ndarray


@dataclass(frozen=True)
class _Sample:
    """Estimates of n rows: ``along`` fp32 [n, L, LEADING] the components; ``others`` fp32 [n, L, 2, C], of each
    direction what is beside them and the outliers; ``power`` float64 [L]: E f²; ``widths`` [L]: J'."""

    along: np.ndarray
    others: np.ndarray
    power: np.ndarray
    widths: np.ndarray


def _layer(x: np.ndarray, layout: CodeLayout, ordinal: int) -> np.ndarray:
    return x[..., layout.neurons(ordinal)]


def _split(v: np.ndarray, rotation: Rotation, layout: CodeLayout) -> _Parts:
    outliers = np.zeros_like(v)
    outliers[rotation.outliers] = v[rotation.outliers]
    beside, along = v - outliers, np.empty((len(layout.widths), LEADING))
    for ordinal in range(len(along)):
        basis = _layer(rotation.leading, layout, ordinal).astype(np.float64)
        mine = _layer(beside, layout, ordinal)
        along[ordinal] = basis @ mine.astype(np.float64)
        mine -= (along[ordinal] @ basis).astype(np.float32)
    return _Parts(along, beside, outliers)


def _sound(blocks: Iterable[Mapping[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """The rows whose factors are numbers, each once."""
    seen: set[bytes] = set()
    for block in blocks:
        columns = {name: block[name] for name in ("codes", "factors", "outliers") if name in block}
        keep = np.isfinite(block["factors"]).all(axis=1)
        for i in np.flatnonzero(keep):
            key = blake2b(b"".join(column[i].tobytes() for column in columns.values()), digest_size=16).digest()
            keep[i] = key not in seen
            seen.add(key)
        yield {name: column[keep] for name, column in columns.items()}


def _regrouped(blocks: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, np.ndarray]]:
    """The same rows, GROUP at a time: last bits of a product depend on its shape, and shards' sizes must not matter."""
    waiting: dict[str, np.ndarray] = {}
    for block in blocks:
        waiting = {name: np.concatenate([waiting[name], x]) for name, x in block.items()} if waiting else block
        while len(waiting["codes"]) >= GROUP:
            yield {name: x[:GROUP] for name, x in waiting.items()}
            waiting = {name: x[GROUP:] for name, x in waiting.items()}
    if waiting and len(waiting["codes"]):
        yield waiting


def _estimates(
    split: list[_Parts], rotation: Rotation, layout: CodeLayout, blocks: Iterable[Mapping[str, np.ndarray]]
) -> _Sample:
    n_layers, padded = len(layout.widths), padded_layout(layout.widths)
    coded = np.concatenate([rotation.leading.astype(np.float32), np.stack([parts.beside for parts in split])])
    turned = [
        rotated(_layer(coded, layout, ordinal), rotation, padded.neurons(ordinal)).astype(np.float32)
        for ordinal in range(n_layers)
    ]
    along_blocks = [np.zeros((0, n_layers, LEADING), np.float32)]
    other_blocks, factors = [np.zeros((0, n_layers, 2, len(split)), np.float32)], [np.zeros((0, n_layers))]
    for block in _regrouped(_sound(blocks)):
        f = block["factors"].astype(np.float64) * rotation.factor_scale
        along = np.empty((len(f), n_layers, LEADING), dtype=np.float32)
        others = np.zeros((len(f), n_layers, 2, len(split)), dtype=np.float32)
        for ordinal, u in enumerate(turned):
            packed = np.ascontiguousarray(block["codes"][:, padded.bytes(ordinal)])
            signs = 2 * np.unpackbits(packed, axis=1, count=u.shape[1], bitorder="little").astype(np.float32) - 1
            along[:, ordinal] = f[:, ordinal, None] * (signs @ u[:LEADING].T)
            place = rotation.outliers_of(layout.neurons(ordinal))
            for c, parts in enumerate(split):  # one product each: its last bits must not depend on the others
                others[:, ordinal, 0, c] = f[:, ordinal] * (signs @ u[LEADING + c])
                if place.stop > place.start:
                    worth = parts.outliers[rotation.outliers[place]] * rotation.outlier_scale[place].astype(np.float64)
                    others[:, ordinal, 1, c] = block["outliers"][:, place] @ worth
        along_blocks.append(along)
        other_blocks.append(others)
        factors.append(f)
    f = np.concatenate(factors)
    medians = np.median(f, axis=0) if len(f) else np.ones(n_layers)
    quiet = (f <= np.where(medians > 0, LOUD * medians, np.inf)).all(axis=1)
    power = np.square(f[quiet]).sum(axis=0) / max(1, quiet.sum())
    along, others = np.concatenate(along_blocks)[quiet], np.concatenate(other_blocks)[quiet]
    return _Sample(along, others, power, np.array(padded.widths))


def _best(
    parts: _Parts, c: int, sample: _Sample, k: int, rotation: Rotation, layout: CodeLayout
) -> tuple[np.ndarray, float]:
    """(direction fp32 [N], what its scores lack) with an estimate along ``k`` components of each layer."""
    n, n_layers = len(sample.along), len(layout.widths)
    beside, leading = parts.beside.copy(), rotation.leading.astype(np.float32)
    along, others = sample.along.astype(np.float64), sample.others[..., c].astype(np.float64)
    others[..., 0] += np.einsum("nlk,lk->nl", along[..., k:], parts.along[:, k:])  # the weaker go to what is beside
    plain = np.concatenate([parts.along[:, :k], np.ones((n_layers, 2))], axis=1)
    products = plain[:, : k + 1].copy()  # ⟨a, v_l⟩: of the components, and of what is beside them
    for ordinal in range(n_layers):
        mine, basis = _layer(beside, layout, ordinal), _layer(leading, layout, ordinal)
        whole = mine + parts.along[ordinal].astype(np.float32) @ basis
        mine += parts.along[ordinal, k:].astype(np.float32) @ basis[k:]
        products[ordinal, k] = mine @ whole
    estimates, errors = np.concatenate([along[..., :k], others], axis=2), np.zeros_like(plain)
    # The last of each layer are the outliers', which have no errors.
    errors[:, : k + 1] = error_products(
        estimates[..., : k + 1], plain[:, : k + 1], products, sample.power, sample.widths
    )
    less = checked_correction(estimates.reshape(n, -1), plain.reshape(-1), errors.reshape(-1)).reshape(plain.shape)
    out = np.empty_like(beside)
    for ordinal, weights in enumerate((plain - less).astype(np.float32)):
        directions = (*leading[:k], beside, parts.outliers)
        _layer(out, layout, ordinal)[:] = weights @ np.stack([_layer(x, layout, ordinal) for x in directions])
    return out, float((estimates.mean(axis=0) * less).sum())  # the mean stays what it was


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


def checked_correction(estimates: np.ndarray, plain: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """``correction`` float64 [P] to the weights ``plain`` [P]; 0 where that of one half of the rows would raise the
    error over the other half.

    The mean squared error of weights w is, but for a constant, wᵀ C w − 2 wᵀ (C e − d).
    """
    halves = [estimates[0::2], estimates[1::2]]
    for mine, other in (halves, halves[::-1]):
        tried = plain - correction(mine, errors)
        estimated = (other - other.mean(axis=0)) @ np.stack([tried, plain], axis=1)
        products = estimated.T @ estimated / (len(other) - 1)
        after = products[0, 0] - 2 * (products[0, 1] - tried @ errors)
        before = products[1, 1] - 2 * (products[1, 1] - plain @ errors)
        if not after <= before:
            return np.zeros_like(plain)
    return correction(estimates, errors)


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
