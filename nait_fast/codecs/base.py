"""What a codec is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nait_fast.codecs.layout import CodeLayout
from nait_fast.options import Settings

if TYPE_CHECKING:  # torch
    import torch

    from nait_fast.codecs.codebook import Codebook, CodebookPart
    from nait_fast.config import IndexOptions

Columns = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (numpy's dtype, shape of a row)
LayerParts = dict[str, tuple[slice, "torch.Tensor"]]  # column -> (its entries that come of a layer, [B, entries])
Rows = Iterable[Mapping[str, np.ndarray]]  # blocks of ``codes`` uint8 [n, W] and the columns that come with them


class Coder(ABC):
    """From a layer's reading to its part of a sample's code, on the device.

    ``reading``: what is coded; ``layout``: where the bits of each layer lie in a row; ``columns``: what comes with
    them.
    """

    reading: str
    layout: CodeLayout
    columns: Columns = MappingProxyType({})

    def threshold_of(self, ordinal: int) -> torch.Tensor | None:
        """fp32 [J] of a layer whose bits the capture op may pack itself; None where they come from another reading."""
        return None

    @abstractmethod
    def encode(self, ordinal: int, values: torch.Tensor) -> tuple[torch.Tensor | None, LayerParts]:
        """(codes uint8 [B, layer_bytes], if it has any, the layer's part of the columns) of the reading [B, J]."""


class Estimator(ABC):
    """Nait scores of rows out of their codes. ``directions`` fp32 [C, N]: those that the codes are scanned with, which
    may be others than were asked for."""

    directions: np.ndarray

    def compile(self) -> bool:
        """Compile what must be, where that pays, before several threads want it; whether Numba has been asked to."""
        return False

    @abstractmethod
    def __call__(self, codes: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
        """Scores float64 [n, C] of ``codes`` uint8 [n, W] and the ``columns`` that come with them."""


class Codec(ABC):
    """How a reading of N neurons is kept: what the codebook holds for it (``fit``, ``part_of``), what a shard holds
    (``code_layout``, ``columns``), how a sample is coded (``coder``), and what estimates nait scores out of that.

    ``about``: what it is, in a few words; ``settings``: what it can be told; ``default_reading``: what is coded unless
    another is asked for; ``calibrates``: it has a codebook; ``entries``: of an index's manifest, those that only this
    codec writes; ``tensors``: names of its part of a codebook; ``estimates``: nait scores come out of its codes;
    ``planes``: bit planes of a direction that an estimate scans the codes with; ``keeps_varied``: where not all neurons
    of experts are kept, those whose reading varies most are; else, unless exact scores are wanted, a random sample.
    ``ranked_by``: the method whose signatures rank its codes first of all.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    default_reading: ClassVar[str] = "drift"
    calibrates: ClassVar[bool] = True
    entries: ClassVar[tuple[str, ...]] = ()
    settings: ClassVar[type[Settings]] = Settings
    tensors: ClassVar[frozenset[str]] = frozenset()
    estimates: ClassVar[bool] = False
    planes: ClassVar[int] = 0
    keeps_varied: ClassVar[bool] = True
    ranked_by: ClassVar[str] = "nait"

    def unused(self, options: IndexOptions) -> dict[str, str]:
        """Options of ``index`` that change nothing under this codec -> why."""
        return {}

    def reading(self, asked: str | None) -> str:
        """The reading that is coded."""
        return asked or self.default_reading

    def described(
        self, settings: Any, options: IndexOptions, layout: CodeLayout, codebook: Codebook | None
    ) -> dict[str, Any]:
        """``entries`` of an index of the neurons in ``layout``: by the codec's settings, or by ``codebook``, which is
        given or the index's own. Raises NaitError for settings that do not fit either."""
        return {}

    def check_entries(self, manifest: Mapping[str, Any], layout: CodeLayout) -> None:
        """Raises KeyError, TypeError or ValueError where ``entries`` are not what was ever written."""
        if missing := set(self.entries) - manifest.keys():
            raise KeyError(min(missing))

    def code_layout(self, widths: Sequence[int]) -> CodeLayout:
        """Where the bits of layers of ``widths`` lie in a row of codes."""
        return CodeLayout.of(widths)

    def most_different(self, layout: CodeLayout, manifest: Mapping[str, Any]) -> int:
        """Bits in which the codes of two samples can differ at most; 0 where there are no bits."""
        return sum(self.code_layout(layout.widths).widths)

    def columns(self, manifest: Mapping[str, Any]) -> Columns:
        """The tensors of a shard that come with its codes."""
        return {}

    def fit(
        self, values: np.ndarray, centre: np.ndarray, layout: CodeLayout, entries: Mapping[str, Any], seed: int
    ) -> CodebookPart | None:
        """What the codebook holds for this codec, from the calibration sample's reading ``values`` [n, N] and its mean
        ``centre`` fp32 [N]. Raises NaitError."""
        return None

    def part_of(self, tensors: Mapping[str, np.ndarray], layout: CodeLayout) -> CodebookPart | None:
        """The same out of a codebook's ``tensors``. Raises KeyError or ValueError where they do not fit ``layout``."""
        return None

    @abstractmethod
    def coder(
        self, layout: CodeLayout, codebook: Codebook | None, entries: Mapping[str, Any], device: torch.device | None
    ) -> Coder:
        """What codes the neurons in ``layout`` as ``codebook`` (None where the codec has none) and ``entries`` say."""

    def estimator(
        self, codebook: Codebook, directions: np.ndarray, device: str = "cpu", code_bytes: int = 0, rows: Rows = ()
    ) -> Estimator:
        """What estimates A · v for each of ``directions`` fp32 [C, N] from the codes that ``codebook`` describes.

        ``device``: where codes are scanned, ``code_bytes`` of them; ``rows``: blocks of the pool that is ranked, by
        which an estimate may be made the best. Only of a codec that ``estimates``.
        """
        raise NotImplementedError(f"codec {self.name} estimates nothing")
