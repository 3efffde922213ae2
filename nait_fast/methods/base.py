"""What a method is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from nait_fast.codecs import CODECS
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import Mismatch
from nait_fast.index.reader import Index
from nait_fast.kernels import PopcountScan
from nait_fast.methods.signature import Signature
from nait_fast.options import Settings
from nait_fast.storage import values
from nait_fast.storage.names import CODEBOOK

if TYPE_CHECKING:
    import torch

    from nait_fast.config import SelectOptions
    from nait_fast.extract.sinks import Encode
    from nait_fast.methods.similarity import Similarities

LEAST_WEIGHT = 1e-6  # of the strongest neuron: below it is what rounding leaves of equal frequencies


class Method(ABC):
    """How target samples become a signature (``material``, ``fit``), and how a signature scores rows, of an index
    (``source``, ``check_index``) or just captured (``sink``, ``scores``).

    ``about``: what it is, in a few words; ``settings``: what it can be told; ``tensors``: of a signature's file, each
    with its type and a letter an axis: N neurons, W bytes of a code, any other as long wherever it stands;
    ``of_codebook``: its signatures fit only what was made with the same codebook; ``codebook_keys``: what of a
    codebook must agree beside its identity; ``rounds``: its planes round the weights; ``layers_untold``: why an index
    does not tell which layers made a score, where that can be. ``has_background``: a target is held against the pool,
    which can be that of its own lengths. ``rules``: those that its signatures can be ranked by, the first where none is
    asked for; ``sample``: what a signature can keep of each target sample for the others, as ``tensors`` has it, None
    for nothing. ``unit``: what a score is, in a few words; ``likeness``: what a similarity with one sample is.
    """

    name: ClassVar[str]
    about: ClassVar[str]
    settings: ClassVar[type[Settings]] = Settings
    tensors: ClassVar[Mapping[str, tuple[str, str]]]
    of_codebook: ClassVar[bool] = False
    codebook_keys: ClassVar[tuple[str, ...]] = ()
    rounds: ClassVar[bool] = False
    layers_untold: ClassVar[str] = ""
    has_background: ClassVar[bool] = False
    rules: ClassVar[tuple[str, ...]] = ("centroid",)
    sample: ClassVar[tuple[str, str] | None] = None
    unit: ClassVar[str] = "cosine"
    likeness: ClassVar[str] = "cosine"

    def unit_by(self, rule: str) -> str:
        """What the numbers are that rows score by ``rule``."""
        return self.unit if rule == "centroid" else self.likeness

    def unused(self, settings: Any) -> dict[str, str]:
        """Options of any verb that change nothing under this method with its ``settings`` -> why."""
        return {}

    def unused_in_select(self, options: SelectOptions) -> dict[str, str]:
        """As ``unused``, of ``select`` alone, which also indexes the pool."""
        return {}

    @abstractmethod
    def reading(self, asked: str | None) -> str:
        """The reading that signatures score with: as asked, or its own. Raises NaitError where none can be asked."""

    def target_reading(self, reading: str) -> str:
        """The reading of a target's samples behind a signature that scores with ``reading``."""
        return reading

    def index_options(self, reading: str, settings: Any) -> dict[str, Any]:
        """What an index must keep for ``reading``, as options of ``index``."""
        return {"reading": "mean", "codec": CODECS[0], "embed": "none"}

    def exact_readings(self, reading: str) -> frozenset[str]:
        """Readings that the index pass must score exactly."""
        return frozenset()

    def needs_drift(self, settings: Any) -> bool:
        """Whether the codebook must hold the pool's mean drift."""
        return False

    def codebook_missing(self, codebook: Codebook | None, path: str | None, settings: Any) -> str | None:
        """Why ``codebook`` is not what ``fit`` needs by ``settings``, in a message that names the flag; None where it
        is. ``path``: of ``--codebook``."""
        return None

    def check_layout(self, layout: CodeLayout, settings: Any) -> None:
        """Raises NaitError for ``settings`` that do not fit a model of the neurons in ``layout``."""
        return

    def material(
        self, values: np.ndarray, layout: CodeLayout, threshold: np.ndarray | None, settings: Any
    ) -> np.ndarray:
        """What ``fit`` takes of a target's samples, [n, …], from their reading ``values`` [n, N] (or [n, H]): by
        default these. ``threshold`` fp32 [N]: of the codebook."""
        return values

    @abstractmethod
    def fit(
        self, name: str, material: np.ndarray, meta: Mapping[str, Any], codebook: Codebook | None, settings: Any
    ) -> Signature:
        """The signature of samples, by the method's ``settings``. ``meta``: the session's identity, the reading, and
        what is said of the target. Raises NaitError."""

    def samples_of(self, material: np.ndarray, layout: CodeLayout, codebook: Codebook | None) -> np.ndarray:
        """What a signature keeps of target samples, [n, …] as ``sample`` says, from their ``material``."""
        raise NotImplementedError(f"method {self.name} keeps no samples")

    def similarities(self, index: Index, signature: Signature, device: str, code_bytes: int) -> Similarities:
        """How like each of the signature's samples is to rows of ``index``. The rest as of ``PopcountScan``."""
        raise NotImplementedError(f"method {self.name} keeps no samples")

    def products(self, signature: Signature) -> int:
        """Multiply-adds a row that ``similarities`` takes of vectors: a device is asked for many."""
        return 0

    def matched(self, signature: Signature, index: Index) -> Signature:
        """``signature``, which keeps its samples, against rows of ``index`` as long as these instead of all: in memory
        only. ``has_background`` says whether there is such a thing."""
        raise NotImplementedError(f"method {self.name} has no background")

    def whitening(self, index: Index, signature: Signature) -> dict[str, Any] | None:
        """What a manifest says of the whitened components of ``index`` that rows are compared in; None for none."""
        return None

    def settings_of(self, signature: Signature) -> Settings:
        """Those by which a signature's ``material`` was taken."""
        return self.settings()

    @abstractmethod
    def refit(self, signature: Signature, material: np.ndarray, codebook: Codebook | None, name: str) -> Signature:
        """``signature`` as other samples would give it, under its own settings. Raises NaitError."""

    def refit_missing(self, signature: Signature, codebook: Codebook | None) -> str | None:
        """Why ``refit`` cannot be had with ``codebook``, an index's; None where it can."""
        return f"the index's {CODEBOOK} is missing" if self.of_codebook and codebook is None else None

    def says_nothing(self, signature: Signature) -> str | None:
        """Why a signature tells no row from another; None where it does."""
        weights = signature.tensors.get("weights")
        if weights is None or np.abs(weights).max() >= LEAST_WEIGHT:
            return None
        return "its neurons fire as the pool's do (has every row the same tokens, cut by --max-length?)"

    @abstractmethod
    def check_meta(self, meta: Mapping[str, Any]) -> None:
        """Raises KeyError or ValueError for the metadata of a file that is no such signature."""

    @abstractmethod
    def source(self, index: Index, signature: Signature) -> str:
        """Where its scores come from in an index: as ``ranking.sources.source_of`` lists."""

    @abstractmethod
    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        """Raises NaitError where ``index``, called ``where``, cannot score the signature."""

    @abstractmethod
    def sink(self, signature: Signature, n: int, device: torch.device | None) -> Encode:
        """What takes the readings of ``n`` samples for ``scores``."""

    @abstractmethod
    def scores(self, signature: Signature, sink: Encode) -> np.ndarray:
        """float64 [n] of what the sink has taken."""


class BitMethod(Method):
    """A method whose scores are popcounts of codes. ``codec``: the one of its codes."""

    codec: ClassVar[str]

    def check_meta(self, meta: Mapping[str, Any]) -> None:
        values.number(meta["scale"], "scale")

    def source(self, index: Index, signature: Signature) -> str:
        return "bits"

    def check_index(self, index: Index, signature: Signature, where: str) -> None:
        codec = index.manifest["codec"]
        if codec != self.codec:
            raise Mismatch(
                f"signature '{signature.name}' ({self.name}) does not fit codec {codec} of {where}",
                remedy=f"index the pool with --codec {self.codec}",
                join=": ",
            )

    def scores(self, signature: Signature, sink: Encode) -> np.ndarray:
        tensors = signature.tensors
        owners = np.zeros(len(tensors["planes"]), dtype=np.int64)
        counter = PopcountScan(tensors["planes"], tensors["plane_weights"], owners, 1, "cpu")
        return counter(sink.codes)[:, 0] * signature.meta["scale"]
