"""How an index lays out its codes; docs/format.md is the specification."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nait_fast.kernels.rotate import rotated_width
from nait_fast.storage import values

FORMAT_VERSION = 3
READ_VERSIONS = (2, FORMAT_VERSION)  # 2: without checksums, which Index says
CODECS = ("neuron", "nag", "rotated", "components")
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

    def neurons(self, position: int) -> slice:
        """Layer ``position``'s place among all neurons, layer after layer."""
        start = sum(self.widths[:position])
        return slice(start, start + self.widths[position])

    def bytes(self, position: int) -> slice:
        """Layer ``position``'s place in a row of codes."""
        ends = self._byte_ends()
        return slice(int(ends[position]), int(ends[position + 1]))

    def pack(self, bits: np.ndarray) -> np.ndarray:
        """Bool [n, N] -> codes uint8 [n, row_bytes]."""
        out = np.zeros((len(bits), self.row_bytes), dtype=np.uint8)
        for position in range(len(self.widths)):
            packed = np.packbits(bits[:, self.neurons(position)], axis=1, bitorder="little")
            start = self.bytes(position).start
            out[:, start : start + packed.shape[1]] = packed
        return out

    def unpack(self, codes: np.ndarray) -> np.ndarray:
        """Codes uint8 [n, row_bytes] -> bool [n, N]."""
        layers = [
            np.unpackbits(codes[:, self.bytes(p)], axis=1, count=w, bitorder="little").astype(bool)
            for p, w in enumerate(self.widths)
        ]
        return np.concatenate(layers, axis=1)


def code_layout(codec: str, widths: Sequence[int]) -> CodeLayout:
    """Where the bits of each of the ``widths`` lie in a row of codes: codec rotated pads a layer to whole blocks, codec
    components has none."""
    if codec == "components":
        return CodeLayout(())
    return CodeLayout.of([rotated_width(w) for w in widths] if codec == "rotated" else widths)


def columns_of(told: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The tensors of a shard that come with its codes: name -> (dtype, shape of a row), by what a manifest says.

    Codec rotated: ``factors`` [L], and ``outliers`` [m] where some neurons are kept as numbers; codec components:
    ``components`` [K8] and ``nibbles`` [K4 / 2], two numbers each; ``embedding`` [H] where one is kept.
    """
    columns: dict[str, tuple[str, tuple[int, ...]]] = {}
    if told["codec"] == "rotated":
        columns["factors"] = ("<f2", (len(told["widths"]),))
        if told["outliers"]:
            columns["outliers"] = ("i1", (told["outliers"],))
    if told["codec"] == "components":
        columns["components"] = ("i1", (told["components"][0],))
        columns["nibbles"] = ("u1", (told["components"][1] // 2,))
    if told.get("embedding"):
        columns["embedding"] = ("i1", (told["embedding"],))
    return columns


def row_bytes(told: Mapping[str, Any]) -> int:
    """Bytes that a row's code and what comes with it take, by what a manifest says."""
    columns = (np.dtype(dtype).itemsize * math.prod(shape) for dtype, shape in columns_of(told).values())
    return told["row_bytes"] + sum(columns)


def read_code_layout(meta: dict[str, Any]) -> CodeLayout:
    """Of the entries ``widths`` and ``layers``, which must agree."""
    widths = [values.count(width, "widths", 1) for width in values.entries(meta["widths"], "widths")]
    layers = [values.count(layer, "layers") for layer in values.entries(meta["layers"], "layers")]
    if not widths or len(layers) != len(widths) or layers != sorted(set(layers)):
        raise ValueError(f"layers: {values.short(layers)} of widths {values.short(widths)}")
    if sum(widths) > values.MAX_NEURONS:
        raise ValueError(f"widths: {values.short(sum(widths))} neurons")
    return CodeLayout.of(widths)
