"""Where the scores of a signature come from in an index, whether they can, and what computes them."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.codecs.base import Estimator, Rows
from nait_fast.codecs.codebook import Codebook
from nait_fast.compatibility import OLD, is_old
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at, drawn_places
from nait_fast.index.stream import Part
from nait_fast.kernels import PopcountScan
from nait_fast.methods import method_of
from nait_fast.methods.signature import Signature, check_fits, check_names
from nait_fast.methods.similarity import cosines
from nait_fast.notices import warn

SAMPLE_ROWS = 4096  # of the index: by them an estimate is made the best for it


def source_of(index: Index, signature: Signature) -> str:
    """Where a signature's scores come from: 'exact' numbers in the index, 'bits', 'embedding', 'samples' (compared with
    each target sample), or 'estimated'."""
    return method_of(signature.method).source(index, signature)


def check_index(index: Index, signatures: Sequence[Signature]) -> None:
    """Refuse signatures that this index cannot score. Raises NaitError."""
    check_names(signatures)
    for signature in signatures:
        where = f"index {index.name}"
        check_fits(signature, index.manifest, index.codebook_hash, where)
        method_of(signature.method).check_index(index, signature, where)
    if signatures and is_old(index.manifest):
        warn(
            f"index {index.name} and signature '{signatures[0].name}' were made {OLD}: whether they agree in these "
            "is not known; index the pool again and rebuild the signatures to be sure"
        )


def code_counter(signatures: Sequence[Signature], device: str, code_bytes: int = 0) -> PopcountScan:
    """Integer scores under bit signatures, to be multiplied by the signatures' scales."""
    planes = np.concatenate([s.tensors["planes"] for s in signatures])
    weights = np.concatenate([s.tensors["plane_weights"] for s in signatures])
    owners = np.repeat(np.arange(len(signatures)), [len(s.tensors["planes"]) for s in signatures])
    return PopcountScan(planes, weights, owners, len(signatures), device, code_bytes)


class Work(ABC):
    """Scores the signatures at ``places`` of a list; ``columns``: what it reads beside codes and exact scores."""

    columns: Sequence[str] = ()

    def __init__(self, places: list[int]):
        self.places = places

    @abstractmethod
    def score(self, part: Part) -> np.ndarray:
        """Scores float64 [n, places] of the rows in ``part``; several threads may ask at once."""

    def compile(self) -> bool:
        """Compile what must be, where that pays; whether Numba has been asked to."""
        return False


class _Exact(Work):
    def __init__(self, places: list[int], signatures: Sequence[Signature]):
        super().__init__(places)
        self._names = [s.name for s in signatures]

    def score(self, part: Part) -> np.ndarray:
        return np.stack([part.exact[name] for name in self._names], axis=1)


class _Embedding(Work):
    columns = ("embedding",)

    def __init__(self, places: list[int], signatures: Sequence[Signature]):
        super().__init__(places)
        self._centroids = np.stack([s.tensors["centroid"] for s in signatures])

    def score(self, part: Part) -> np.ndarray:
        return cosines(part.columns["embedding"], self._centroids)


class _Bits(Work):
    def __init__(self, places: list[int], signatures: Sequence[Signature], device: str, code_bytes: int):
        super().__init__(places)
        self._counter = code_counter(signatures, device, code_bytes)
        self._scales = np.array([s.meta["scale"] for s in signatures])

    def score(self, part: Part) -> np.ndarray:
        return self._counter(part.codes) * self._scales

    def compile(self) -> bool:
        if pays := not self._counter.on_device and self._counter.compiles(0):
            self._counter(np.zeros((1, self._counter.planes.shape[1]), np.uint8))
        return pays


class Sampled(Work):
    """How like a row is to a signature's target samples: to the most like of them, or (rule centroid) on average."""

    def __init__(self, place: int, signature: Signature, index: Index, device: str, code_bytes: int, rule: str):
        super().__init__([place])
        self.similarities = method_of(signature.method).similarities(index, signature, device, code_bytes)
        self.columns, self._mean = self.similarities.columns, rule == "centroid"

    def score(self, part: Part) -> np.ndarray:
        return self.reduced(self.similarities(part))[:, None]

    def reduced(self, similarities: np.ndarray) -> np.ndarray:
        """Scores float64 [n] from similarities [n, samples]."""
        return similarities.mean(axis=1) if self._mean else similarities.max(axis=1)

    def compile(self) -> bool:
        return self.similarities.compile()


class _Estimated(Work):
    def __init__(self, places: list[int], signatures: Sequence[Signature], index: Index, device: str, code_bytes: int):
        super().__init__(places)
        self.columns = list(codec_of(index.manifest["codec"]).columns(index.manifest))
        self._scan = estimator(index.codebook, signatures, device, code_bytes, sample_of(index))

    def score(self, part: Part) -> np.ndarray:
        return self._scan(part.codes, part.columns)

    def compile(self) -> bool:
        return self._scan.compile()


def sample_of(index: Index) -> Rows:
    """The rows by which ``index`` is scanned for estimates, read when they are asked for."""
    return codes_at(index, drawn_places(index.rows, SAMPLE_ROWS, 0))


def estimator(
    codebook: Codebook, signatures: Sequence[Signature], device: str = "cpu", code_bytes: int = 0, rows: Rows = ()
) -> Estimator:
    """What estimates the scores of nait ``signatures``; the rest as of ``Codec.estimator``."""
    directions = np.stack([signature.tensors["direction"] for signature in signatures])
    return codec_of(codebook.meta["codec"]).estimator(codebook, directions, device, code_bytes, rows)


def works_of(index: Index, signatures: Sequence[Signature], device: str, rule: str | None = None) -> list[Work]:
    """What computes the scores of ``signatures``, which fit ``index``, by ``rule`` (None: each method's own); codes are
    scanned on ``device``."""
    sources, works = [source_of(index, s) for s in signatures], list[Work]()
    code_bytes = index.rows * index.code_layout.row_bytes
    if rule in ("max", "roundrobin"):
        return [Sampled(i, s, index, device, code_bytes, rule) for i, s in enumerate(signatures)]
    for source in sorted(set(sources)):
        places = [i for i, other in enumerate(sources) if other == source]
        mine = [signatures[i] for i in places]
        if source == "exact":
            works.append(_Exact(places, mine))
        elif source == "embedding":
            works.append(_Embedding(places, mine))
        elif source == "samples":
            own = (rule or method_of(s.method).rules[0] for s in mine)
            works += (Sampled(i, signatures[i], index, device, code_bytes, r) for i, r in zip(places, own, strict=True))
        elif source == "estimated":
            works.append(_Estimated(places, mine, index, device, code_bytes))
        else:
            works.append(_Bits(places, mine, device, code_bytes))
    return works
