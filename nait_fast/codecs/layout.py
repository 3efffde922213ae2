"""Where the bits of each captured layer lie in a row of codes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.storage import values

ROW_ALIGNMENT = 16  # bytes: 128-bit loads, and whole 64-bit words for the CPU scan


@dataclass(frozen=True)
class CodeLayout:
    """Where each captured layer's bits lie in a row of codes.

    ``widths``: neurons of each layer. Layer l takes ``ceil(widths[l] / 32)`` 32-bit words; the row is padded with zero
    bits to a multiple of 16 bytes.
    """

    widths: tuple[int, ...]

    @classmethod
    def of(cls, widths: Sequence[int]) -> "CodeLayout":
        layout = cls(tuple(int(w) for w in widths))
        if not layout.widths or min(layout.widths) < 1:
            raise ValueError(f"no valid layer widths: {widths}")
        return layout

    def _byte_ends(self) -> np.ndarray:
        return np.cumsum([0] + [(w + 31) // 32 * 4 for w in self.widths])

    @property
    def n_neurons(self) -> int:
        return sum(self.widths)

    @property
    def row_bytes(self) -> int:
        return int(-(-int(self._byte_ends()[-1]) // ROW_ALIGNMENT) * ROW_ALIGNMENT)

    def neurons(self, ordinal: int) -> slice:
        """Layer ``ordinal``'s place among all neurons, layer after layer."""
        start = sum(self.widths[:ordinal])
        return slice(start, start + self.widths[ordinal])

    def bytes(self, ordinal: int) -> slice:
        """Layer ``ordinal``'s place in a row of codes."""
        ends = self._byte_ends()
        return slice(int(ends[ordinal]), int(ends[ordinal + 1]))

    def pack(self, bits: np.ndarray) -> np.ndarray:
        """Bool [n, N] -> codes uint8 [n, row_bytes]."""
        out = np.zeros((len(bits), self.row_bytes), dtype=np.uint8)
        for ordinal in range(len(self.widths)):
            packed = np.packbits(bits[:, self.neurons(ordinal)], axis=1, bitorder="little")
            start = self.bytes(ordinal).start
            out[:, start : start + packed.shape[1]] = packed
        return out

    def unpack(self, codes: np.ndarray) -> np.ndarray:
        """Codes uint8 [n, row_bytes] -> bool [n, N]."""
        layers = [
            np.unpackbits(codes[:, self.bytes(ordinal)], axis=1, count=width, bitorder="little").astype(bool)
            for ordinal, width in enumerate(self.widths)
        ]
        return np.concatenate(layers, axis=1)


def read_code_layout(meta: Mapping[str, Any]) -> CodeLayout:
    """Of the entries ``widths`` and ``layers``, which must agree."""
    widths = [values.count(width, "widths", 1) for width in values.entries(meta["widths"], "widths")]
    layers = [values.count(layer, "layers") for layer in values.entries(meta["layers"], "layers")]
    # A layer may be there twice: its experts and a shared one.
    if not widths or len(layers) != len(widths) or layers != sorted(layers):
        raise ValueError(f"layers: {values.short(layers)} of widths {values.short(widths)}")
    if sum(widths) > values.MAX_NEURONS:
        raise ValueError(f"widths: {values.short(sum(widths))} neurons")
    return CodeLayout.of(widths)
