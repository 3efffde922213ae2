"""How like each target sample is to each row, for other tools: whole matrices, and each sample's best rows."""

import errno
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from nait_fast.config import SIMILARITY_EXPORTS
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature, require_samples
from nait_fast.ranking.scan import Scan, scan, similarities
from nait_fast.rules.round_robin import MOST, BestRows
from nait_fast.storage.files import atomic_file, sha256_file

NEAR, COSSIM = "near.npy", "_cossim.npy"  # the latter behind a target's name


def names_of(targets: Sequence[str]) -> list[str]:
    """The files that there may be."""
    return [NEAR, *(target + COSSIM for target in targets)]


def of_similarities(exports: Sequence[str]) -> list[str]:
    """Those of ``exports`` that are written here."""
    return [export for export in exports if export in SIMILARITY_EXPORTS]


def check_similarities(exports: Sequence[str], signatures: Sequence[Signature]) -> None:
    """Raises NaitError where ``exports`` ask for similarities of samples that a signature does not keep."""
    for export in of_similarities(exports):
        for signature in signatures:
            require_samples(signature, f"--export {export}")


def _matrix(path: Path, shape: tuple[int, int]) -> np.memmap:
    """NaN, float32 of ``shape``, in a file that has all of its room on the disk: a hole that finds none when it is
    written through memory would kill the process. Raises NaitError."""
    try:
        matrix = np.lib.format.open_memmap(path, "w+", np.float32, shape)
        if hasattr(os, "posix_fallocate"):  # macOS has none
            with open(path, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            what = f"cannot be written ({error.strerror or error})"
            raise NaitError(what, where=path, remedy="nothing was lost, rerun") from None
    matrix[:] = np.nan
    return matrix


def write_similarities(
    folder: Path,
    exports: Sequence[str],
    index: Index,
    signatures: Sequence[Signature],
    device: str,
    selected: int,
    scanning: Scan = scan,
) -> dict[str, str]:
    """Write the files that ``exports`` ask for; returns file name -> SHA-256. One more pass over the index.

    ``near.npy`` int64 [M, K], as DataFlex's ``near`` reads it, column by column: of each target sample, target after
    target, its K best rows, numbers in the pool, best first; K: as many as are ``selected``, or what makes ``MOST``
    numbers in all. ``NAME_cossim.npy`` float32 [samples, rows of the pool]: the similarities, as the rules of arXiv
    2602.14696's code take them; NaN for rows of the pool that are not in the index. Of either no constraint takes a
    row, nor is quality mixed into it. Raises NaitError.
    """
    if not of_similarities(exports):
        return {}
    numbers, files = [signature.samples for signature in signatures], list[Path]()
    best = BestRows(sum(numbers), min(selected, max(1, MOST // sum(numbers)))) if "near" in exports else None
    matrices = list[np.memmap]()
    if "cossim" in exports:
        for signature in signatures:
            files.append(folder / (signature.name + COSSIM))
            shape = (signature.samples, index.pool_rows)
            matrices.append(_matrix(files[-1], shape))
    for row, blocks in similarities(index, signatures, device, scanning):
        if best is not None:
            best.add(best.sift(row, blocks))
        for matrix, own in zip(matrices, np.split(blocks, np.cumsum(numbers)[:-1], axis=1), strict=False):
            matrix[:, row] = own.T
    for matrix in matrices:
        matrix.flush()
    if best is not None:
        files.append(folder / NEAR)
        with atomic_file(files[-1]) as file:
            np.save(file, np.stack(best.lists()), allow_pickle=False)
    return {file.name: sha256_file(file) for file in files}
