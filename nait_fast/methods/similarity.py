"""How like each of a target's samples is to rows of an index: S[q, i], by what the index keeps of both.

Bits (method contrast): the cosine of b_q − p and b_i − p, p the pool's bit frequencies, rounded to 1/4095, so that all
sums are of whole numbers and S is the same on every device. Top-k sets (nag): the share of a set that two have in
common. Vectors (embed, rds, crds): their cosine.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput, first_line
from nait_fast.kernels import PopcountScan

if TYPE_CHECKING:
    from nait_fast.index.stream import Part
    from nait_fast.methods.whitening import Whitening

FREQUENCY_BITS = 12
LEVELS = (1 << FREQUENCY_BITS) - 1  # of a frequency: finer than any calibration sample tells it
CHUNK_NUMBERS = 1 << 20  # of vectors turned into float64 at once
DEVICE_CHUNK_NUMBERS = 1 << 25  # the same on a device: 256 MB


class Similarities(ABC):
    """Of ``queries`` target samples; ``columns``: what is read of rows beside their codes."""

    queries: int
    columns: Sequence[str] = ()

    @abstractmethod
    def __call__(self, part: Part) -> np.ndarray:
        """S float64 [n, queries] of consecutive rows; several threads may ask at once."""

    def by_layer(self, codes: np.ndarray, number: int) -> np.ndarray | None:
        """What adds up to the similarities of sample ``number`` and rows of ``codes`` uint8 [n, W]: float64 [n, L].
        None where these are no sums over layers."""
        return None

    def compile(self) -> bool:
        """Compile what must be, where that pays; whether Numba has been asked to."""
        return False


def _layer_sums(values: np.ndarray, layout: CodeLayout) -> np.ndarray:
    """float64 [n, L] of float64 [n, N]."""
    return np.stack([values[:, layout.neurons(i)].sum(axis=1) for i in range(len(layout.widths))], axis=1)


class _Counted(Similarities):
    """Of codes: sums of their bits under ``planes`` uint8 [P, W], weighted, into as many sums as ``owners`` names."""

    def __init__(self, planes: np.ndarray, weights: np.ndarray, owners: np.ndarray, device: str, code_bytes: int):
        self._counter = PopcountScan(planes, weights, owners, int(owners.max()) + 1, device, code_bytes)

    def compile(self) -> bool:
        if pays := not self._counter.on_device and self._counter.compiles(0):
            self._counter(np.zeros((1, self._counter.planes.shape[1]), np.uint8))
        return pays


class BitCosines(_Counted):
    """Σ_j (b_q,j − c_q,j)(b_i,j − p_j) over both' lengths, 0 where one has none. c_q: p, or the pool's frequencies
    among samples like q (``methods/length_matching.py``)."""

    def __init__(
        self,
        samples: np.ndarray,
        frequency: np.ndarray,
        layout: CodeLayout,
        device: str = "cpu",
        code_bytes: int = 0,
        centres: tuple[np.ndarray, np.ndarray] | None = None,
    ):
        """``samples`` uint8 [Q, W]: codes; ``frequency`` [N]: p, shares of the pool; ``centres``: those of groups of
        samples [G, N], and the group of each, int [Q]."""
        shares = np.asarray(frequency, dtype=np.float64)[None]
        group = np.zeros(len(samples), dtype=np.int64)
        if centres is not None:
            shares, group = np.concatenate([shares, centres[0]]), centres[1] + 1
        levels = np.rint(shares * LEVELS).astype(np.int64)
        bits = [(levels >> place & 1).astype(bool) for place in range(FREQUENCY_BITS)]
        every = np.ones((1, layout.n_neurons), dtype=bool)
        self.queries = len(samples)
        # Sums behind those of the samples: all bits, then those weighted by p and by each centre.
        of_bits = layout.pack(np.concatenate([every, *bits]))
        weights = np.concatenate([[1], np.repeat(1 << np.arange(FREQUENCY_BITS), len(levels))]).astype(np.int64)
        owners = np.concatenate([[0], np.tile(1 + np.arange(len(levels)), FREQUENCY_BITS)])
        super().__init__(
            np.concatenate([samples, of_bits]),
            np.concatenate([np.ones(self.queries, dtype=np.int64), weights]),
            np.concatenate([np.arange(self.queries), self.queries + owners]),
            device,
            code_bytes,
        )
        sums = PopcountScan(of_bits, weights, owners, 1 + len(levels))(np.ascontiguousarray(samples))
        own = sums[np.arange(self.queries), 1 + group]
        self._group, self._square = group, int(levels[0] @ levels[0])
        self._samples, self._levels, self._layout = samples, levels.astype(np.uint16), layout
        self._constant = (levels @ levels[0])[group] - LEVELS * sums[:, 1]
        self._lengths = _length(sums[:, 0], own, np.einsum("gj,gj->g", levels, levels)[group])

    def __call__(self, part: Part) -> np.ndarray:
        counts = self._counter(part.codes)
        common, (every, of_pool, *_) = counts[:, : self.queries], counts[:, self.queries :].T
        of_centres = counts[:, self.queries + 1 :][:, self._group]
        products = LEVELS**2 * common - LEVELS * of_centres + self._constant
        lengths = _length(every, of_pool, self._square)[:, None] * self._lengths
        return np.divide(products, lengths, out=np.zeros(products.shape), where=lengths > 0)

    def by_layer(self, codes: np.ndarray, number: int) -> np.ndarray:
        of_pool, centre = (self._levels[place] / LEVELS for place in (0, self._group[number]))
        sample = self._layout.unpack(self._samples[number : number + 1])[0] - centre
        rows = self._layout.unpack(codes) - of_pool
        lengths = np.linalg.norm(rows, axis=1, keepdims=True) * np.linalg.norm(sample)
        parts = _layer_sums(rows * sample, self._layout)
        return np.divide(parts, lengths, out=np.zeros(parts.shape), where=lengths > 0)


def _length(every: np.ndarray, weighted: np.ndarray, square: np.ndarray | int) -> np.ndarray:
    """|b − c| · LEVELS float64 [n] from Σ b_j, Σ LEVELS · c_j b_j and Σ (LEVELS · c_j)²: whole numbers."""
    return np.sqrt(LEVELS**2 * every - 2 * LEVELS * weighted + square)


class Overlaps(_Counted):
    """How many bits two codes have in common, times ``scale``."""

    def __init__(self, samples: np.ndarray, scale: float, layout: CodeLayout, device: str = "cpu", code_bytes: int = 0):
        """``samples`` uint8 [Q, W]."""
        self.queries, self._scale, self._samples, self._layout = len(samples), scale, samples, layout
        weights, owners = np.ones(self.queries, dtype=np.int64), np.arange(self.queries)
        super().__init__(samples, weights, owners, device, code_bytes)

    def __call__(self, part: Part) -> np.ndarray:
        return self._counter(part.codes) * self._scale

    def by_layer(self, codes: np.ndarray, number: int) -> np.ndarray:
        return _layer_sums(self._layout.unpack(codes & self._samples[number]) * self._scale, self._layout)


class Cosines(Similarities):
    """Cosines of ``samples`` [Q, H] with vectors that ``columns`` of the index hold, at any scale a row.

    ``vectors_of`` makes vectors [n, H] of the columns; ``whitening``: both are compared after it. On a ``device`` all
    products run there, in float64 as on the CPU: what differs is the order of sums.
    """

    def __init__(
        self,
        samples: np.ndarray,
        columns: Sequence[str],
        vectors_of: Callable[[Mapping[str, np.ndarray]], np.ndarray],
        device: str = "cpu",
        whitening: Whitening | None = None,
    ):
        self.queries, self.columns, self._vectors_of, self._whitening = len(samples), columns, vectors_of, whitening
        self._samples = samples if whitening is None else whitening(samples)
        self._device = None if device == "cpu" else _Device(device, self._samples, whitening)

    def __call__(self, part: Part) -> np.ndarray:
        vectors = self._vectors_of(part.columns)
        if self._device is not None:
            return self._device(vectors)
        return cosines(vectors if self._whitening is None else self._whitening(vectors), self._samples)


class _Device:
    """What ``Cosines`` computes, on a device of torch."""

    def __init__(self, device: str, samples: np.ndarray, whitening: Whitening | None):
        """``samples`` [Q, D]: whitened already. Raises NaitError for a device without float64."""
        import torch

        def on_device(values: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values)).to(device).double()

        try:
            on_device(np.zeros(1)).cpu()
        except (TypeError, RuntimeError) as error:
            why = f"cannot compare vectors in float64 ({first_line(error)})"
            raise BadInput(why, where=f"--device {device}", remedy="try --device cpu") from None
        self._on_device = on_device
        self._samples = torch.nn.functional.normalize(on_device(samples), dim=1, eps=np.finfo(np.float64).tiny)
        self._whitening = None if whitening is None else (on_device(whitening.mean), on_device(whitening.components))

    def __call__(self, vectors: np.ndarray) -> np.ndarray:
        """float64 [n, Q]."""
        out = np.empty((len(vectors), len(self._samples)))
        step = max(1, DEVICE_CHUNK_NUMBERS // max(1, vectors.shape[1]))
        for start in range(0, len(vectors), step):
            some = self._on_device(vectors[start : start + step])
            if self._whitening is not None:
                some = (some - self._whitening[0]) @ self._whitening[1].T
            norms = some.norm(dim=1, keepdim=True).clamp(min=np.finfo(np.float64).tiny)
            out[start : start + step] = (some @ self._samples.T / norms).cpu().numpy()
        return out


def cosines(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 [n, Q]: cosines of ``vectors`` [n, H], at any scale a row, with ``others`` [Q, H]; 0 where one is 0."""
    wanted = others.astype(np.float64)
    wanted /= np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    out = np.empty((len(vectors), len(others)))
    step = max(1, CHUNK_NUMBERS // max(1, vectors.shape[1]))
    for start in range(0, len(vectors), step):
        some = vectors[start : start + step].astype(np.float64)
        norms = np.linalg.norm(some, axis=1, keepdims=True)
        out[start : start + step] = some @ wanted.T / np.maximum(norms, np.finfo(np.float64).tiny)
    return out
