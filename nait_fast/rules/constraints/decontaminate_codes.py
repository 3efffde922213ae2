"""Constraint decontaminate-codes: rows whose codes lie next to one of an evaluation set's samples lose their places.

The samples' codes stand in a signature that keeps them (``--keep-samples``); a row is near where it differs from one
of them in less than a share D of the bits, as near-duplicates are of one another.
"""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nait_fast.errors import BadInput, NaitError
from nait_fast.kernels import PopcountScan
from nait_fast.methods import method_of
from nait_fast.methods.signature import SAMPLES, Signature, check_fits, load_signature, require_samples
from nait_fast.rules.constraints.base import Constraint, ScoredRows, Walk
from nait_fast.rules.constraints.code_rows import CodeRows
from nait_fast.rules.constraints.near_duplicates import bits_of, most_bits

if TYPE_CHECKING:
    from nait_fast.config import ConstraintOptions

FLAG = "--decontaminate-distance"
CODES = ("u1", "SW")  # of ``Method.sample``: a code a sample


class CodeDecontamination(Constraint):
    """Without rows that differ from one of ``samples`` in less than ``share`` of ``n_bits``: (the name of what it is
    in, uint8 [S, W]). ``codes``: uint8 [n_k, W] that follow one another, of the rows by place; ``hashes``: of the
    signatures that the samples are from, by their names.

    A dropped row's details: the ``evaluation`` set, the number of the nearest ``sample`` in it (the first of equals),
    and the ``bits`` in which the two differ.
    """

    name = "decontaminate-codes"

    def __init__(
        self,
        codes: np.ndarray | Sequence[np.ndarray],
        samples: Sequence[tuple[str, np.ndarray]],
        share: float,
        n_bits: int,
        hashes: Mapping[str, str] = MappingProxyType({}),
    ):
        self._hashes = dict(hashes)
        self._codes, self._share, self._most = CodeRows(codes), share, most_bits(share, n_bits, FLAG)
        self._of = [(name, number) for name, some in samples for number in range(len(some))]
        every = np.concatenate([some for _, some in samples])
        self._sizes = np.bitwise_count(every).sum(axis=1, dtype=np.int64)
        planes = np.concatenate([every, np.full((1, every.shape[1]), 0xFF, dtype=np.uint8)])
        number = len(planes)
        self._scan = PopcountScan(planes, np.ones(number, np.int64), np.arange(number), number)

    @classmethod
    def wanted(cls, options: "ConstraintOptions") -> bool:
        if options.decontaminate_codes:
            most_bits(options.decontaminate_distance, 1, FLAG)
        return bool(options.decontaminate_codes)

    @classmethod
    def check(cls, options: "ConstraintOptions") -> None:
        for path in options.decontaminate_codes:
            _kept(load_signature(path), path)

    @classmethod
    def of(cls, options: "ConstraintOptions", rows: ScoredRows) -> "CodeDecontamination":
        index, bits, samples = rows.index, bits_of(rows.index), list[tuple[str, np.ndarray]]()
        hashes = dict[str, str]()
        for path in options.decontaminate_codes:
            signature, where = load_signature(path), f"index {index.name}"
            try:
                check_fits(signature, index.manifest, index.codebook_hash, where)
                method_of(signature.method).check_index(index, signature, where)
            except NaitError as error:
                raise BadInput(str(error), where=f"--decontaminate-codes {path}") from None
            samples.append((path, _kept(signature, path)))
            hashes[path] = signature.hash
        return cls([shard.codes for shard in index.shards()], samples, options.decontaminate_distance, bits, hashes)

    def leave(self, offered: Iterator[np.ndarray], walk: Walk) -> Iterator[np.ndarray]:
        for places in offered:
            nearest, bits = self._nearest(places)
            gone = bits <= self._most
            of = [self._of[number] for number in nearest[gone].tolist()]
            walk.drop(
                self.name,
                places[gone],
                evaluation=np.array([name for name, _ in of], dtype=object),
                sample=np.array([number for _, number in of], dtype=np.int64),
                bits=bits[gone],
            )
            yield places[~gone]

    def near(self, places: np.ndarray) -> np.ndarray:
        """bool [n]: which of the rows at ``places`` int64 [n] are near a sample."""
        return self._nearest(places)[1] <= self._most

    def _nearest(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(number of the nearest sample, bits in which the two differ), int64 [n] each, of ``places``."""
        nearest, bits = np.zeros(len(places), dtype=np.int64), np.zeros(len(places), dtype=np.int64)
        for some, codes in self._codes.chunks(places):
            common = self._scan(codes)
            apart = common[:, -1:] + self._sizes - 2 * common[:, :-1]
            nearest[some] = np.argmin(apart, axis=1)
            bits[some] = apart.min(axis=1)
        return nearest, bits

    def details(self) -> dict[str, Any]:
        counts = {"share": self._share, "most_bits": self._most, "samples": len(self._of)}
        return {**counts, "signatures": self._hashes}


def _kept(signature: Signature, path: str) -> np.ndarray:
    """The samples' codes. Raises BadInput for a signature that keeps none."""
    where = f"--decontaminate-codes {path}"
    if method_of(signature.method).sample != CODES:
        raise BadInput(f"method {signature.method} keeps no codes", where=where, remedy="use method contrast or nag")
    require_samples(signature, where)
    return signature.tensors[SAMPLES]


CONSTRAINT = CodeDecontamination
