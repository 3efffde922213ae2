"""Coding a reading as its coordinates along the components of adjacent layers."""

from collections.abc import Sequence

import numpy as np
import torch

from nait_fast.codecs.base import Coder, LayerParts
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.components.basis import Components, columns_of, neurons_of
from nait_fast.codecs.layout import CodeLayout
from nait_fast.codecs.pca import principal
from nait_fast.errors import BadInput

WIDE, NARROW = 127, 7  # the largest number of 8 bits, and of 4
SHARE = 0.4  # of the components that a group's calibration sample spans: with more, groups become smaller


class ComponentCoder(Coder):
    """The reading less its centre along the components of ``codebook``, each number rounded and cut to its bits.

    The layers of a batch come in order: what those of a group add to its numbers is summed up until its last.
    """

    def __init__(self, codebook: Codebook, device: torch.device | None = None):
        components, self._neurons = codebook.part, codebook.layout
        assert isinstance(components, Components)
        self.reading, self._components = codebook.meta["reading"], components
        self.layout = CodeLayout(())
        self.columns = columns_of(*components.numbers)
        self._centre = torch.from_numpy(codebook.threshold).to(device)
        self._scale = torch.from_numpy(components.component_scale).to(device)
        groups = np.repeat(np.arange(len(components.component_layers)), components.component_layers).tolist()
        self._groups, self._sum = groups, torch.empty(0)
        directions, self._basis = components.directions(self._neurons), list[torch.Tensor]()
        for ordinal, group in enumerate(groups):
            (first, basis), neurons = directions[group], self._neurons.neurons(ordinal)
            mine = basis[:, neurons.start - first.start : neurons.stop - first.start]
            self._basis.append(torch.from_numpy(np.ascontiguousarray(mine.T)).to(device))

    def encode(self, ordinal: int, values: torch.Tensor) -> tuple[None, LayerParts]:
        group, before, behind = self._groups[ordinal], self._groups[:ordinal], self._groups[ordinal + 1 :]
        x = (values.float() - self._centre[self._neurons.neurons(ordinal)]) @ self._basis[ordinal]
        self._sum = self._sum + x if group in before else x  # a batch that ran out of memory begins again
        if group in behind:
            return None, {}
        split = int(self._components.component_counts[group, 0])
        levels = (self._sum / self._scale[self._components.of(group)]).round()
        wide = levels[:, :split].clamp(-WIDE, WIDE).to(torch.int8)
        narrow = levels[:, split:].clamp(-NARROW, NARROW).to(torch.int8).view(torch.uint8) & 15
        pairs = narrow[:, 0::2] | (narrow[:, 1::2] << 4)
        place = self._components.kept(group, narrow=True)
        return None, {
            "components": (self._components.kept(group, narrow=False), wide),
            "nibbles": (slice(place.start // 2, place.stop // 2), pairs),
        }


def make_components(values: np.ndarray, centre: np.ndarray, layout: CodeLayout, wide: int, narrow: int) -> Components:
    """The components of adjacent layers in the calibration sample's reading ``values`` [n, N] less ``centre``.

    Those of the largest variance over all groups are kept: ``wide`` in 8 bits, the next ``narrow`` (an even number) in
    4. Through each group's n × n Gram matrix, in fp64. Raises NaitError where the sample has not so many.
    """
    layers = _together(layout.widths, len(values), wide + narrow)
    groups = neurons_of(layers, layout)
    variances, vectors = [], []
    for neurons in groups:
        x = values[:, neurons].astype(np.float64) - centre[neurons]
        spreads, mine = principal(x, wide + narrow)
        variances.append(spreads)
        vectors.append(mine)
    counts = _allotted(variances, wide, narrow)
    basis, scales = [], []
    for neurons, mine, (wide_ones, narrow_ones) in zip(groups, vectors, counts.tolist(), strict=True):
        x = values[:, neurons].astype(np.float64) - centre[neurons]
        directions = (x.T @ mine[:, : wide_ones + narrow_ones]).T.astype(np.float16)
        largest = np.abs(x.astype(np.float32) @ directions.astype(np.float32).T).max(axis=0, initial=0)
        steps = np.where(np.arange(len(directions)) < wide_ones, WIDE, NARROW)
        scales.append(np.where(largest > 0, largest / steps, 1).astype(np.float32))
        basis.append(directions.reshape(-1))
    return Components(np.concatenate(basis), layers.astype(np.int32), counts.astype(np.int32), np.concatenate(scales))


def _together(widths: Sequence[int], n: int, wanted: int) -> np.ndarray:
    """int64 [G]: how many adjacent layers share their components, as even as can be.

    Layers move together: components of several say more for the same bytes. But ``n`` samples span less of a wide
    group, so groups are as few as leave ``wanted`` components a SHARE of what all of them span.
    """
    for groups in range(1, len(widths) + 1):
        parts = np.array_split(np.array(widths), groups)
        if wanted <= SHARE * sum(min(n - 1, part.sum()) for part in parts):
            break
    return np.array([len(part) for part in parts])


def _allotted(variances: list[np.ndarray], wide: int, narrow: int) -> np.ndarray:
    """int64 [G, 2]: components of 8 and of 4 bits for each group, by variance; of 4 bits an even number each."""
    owners = np.repeat(np.arange(len(variances)), [len(v) for v in variances])
    order = owners[np.argsort(-np.concatenate(variances), kind="stable")]
    if len(order) < wide + narrow:
        raise _too_few(f"{wide + narrow} components were asked for, the calibration sample has {len(order)}")
    counts = np.stack(
        [
            np.bincount(order[:wide], minlength=len(variances)),
            np.bincount(order[wide : wide + narrow], minlength=len(variances)),
        ],
        axis=1,
    )
    sizes = np.array([len(v) for v in variances])
    odd = np.flatnonzero(counts[:, 1] % 2)  # an even number of groups, as their sum is even
    for giver, taker in zip(odd[::2], odd[1::2], strict=True):
        free = sizes - counts.sum(axis=1)
        if not free[taker]:
            giver, taker = taker, giver
        counts[giver, 1] -= 1
        if free[taker]:
            counts[taker, 1] += 1
            continue
        counts[taker, 1] -= 1  # both are full: their two go to a layer that is not
        if free.max() < 2:
            raise _too_few("too few components")
        counts[free.argmax(), 1] += 2
    return counts


def _too_few(what: str) -> BadInput:
    return BadInput(what, where="--codec components", remedy="ask for fewer bytes or raise --calibration-size")
