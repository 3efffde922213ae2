"""Target samples that rows are like: which ones, by what an index and a signature keep of both, and their texts."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.config import SignatureBuildOptions, split_target
from nait_fast.config_file import read_config
from nait_fast.data.pool import Pool
from nait_fast.data.row_conventions import conventions_of, make_conventions
from nait_fast.errors import BadInput, Mismatch, NaitError
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at
from nait_fast.index.stream import Part
from nait_fast.methods import method_of
from nait_fast.methods.signature import Signature, require_samples
from nait_fast.outputs.recognise import CONFIG
from nait_fast.reporting.samples import Text
from nait_fast.reporting.selection_folder import SelectionFolder
from nait_fast.urls import is_url

NEAREST = 3  # target samples that are told of a row
TYPICAL_ROWS, TYPICAL_NUMBERS = 2048, 1 << 22  # of the pool; similarities, all in all
FLAG = "--target"


@dataclass(frozen=True)
class NearSample:
    """Sample ``number`` (from 0) of a target, and how like it a row is."""

    number: int
    similarity: float


class Likeness:
    """How like rows of ``index`` are to the samples that ``signature`` keeps."""

    def __init__(self, index: Index, signature: Signature):
        self.samples, self.called = signature.samples, method_of(signature.method).likeness
        self.similarities, self._index = method_of(signature.method).similarities(index, signature, "cpu", 0), index

    def at(self, places: np.ndarray) -> np.ndarray:
        """float64 [n, samples] of the rows at ascending ``places`` int64. Raises NaitError."""
        blocks = [self.similarities(_part(block)) for block in codes_at(self._index, places)]
        return np.concatenate(blocks) if blocks else np.empty((0, self.samples))

    def nearest(self, places: np.ndarray) -> list[list[NearSample]]:
        """Of each of these rows the ``NEAREST`` samples, the nearest first."""
        rows = self.at(places)
        orders = np.argsort(-rows, axis=1, kind="stable")[:, :NEAREST]
        return [[NearSample(int(i), float(row[i])) for i in order] for row, order in zip(rows, orders, strict=True)]

    def typical(self, pool: np.ndarray) -> float:
        """Median over rows of the pool, some of those at ``pool`` int64, of the similarity with the nearest sample."""
        most = max(1, min(TYPICAL_ROWS, TYPICAL_NUMBERS // max(1, self.samples)))
        return float(np.median(self.at(pool[:: max(1, -(-len(pool) // most))]).max(axis=1)))


def _part(block: Mapping[str, np.ndarray]) -> Part:
    none = np.empty(0, dtype=np.int64)
    return Part(block["codes"], none, none, {}, {name: values for name, values in block.items() if name != "codes"})


@dataclass(frozen=True)
class TargetTexts:
    """``texts`` of samples by their number, as far as they were asked for; ``untold``: why there are none."""

    texts: dict[int, Text]
    untold: str = ""


def target_texts(
    chosen: SelectionFolder, signature: Signature, numbers: Iterable[int], named: Sequence[str]
) -> TargetTexts:
    """Texts of the samples ``numbers`` that ``signature`` was made from, if their file is still there and the same.

    ``named``: NAME=FILE, where targets' samples are now. Raises NaitError for one that is not the signature's.
    """
    wanted, target = set(numbers), signature.meta.get("target") or {}
    given = [path for name, path in map(split_target, named) if name == signature.name]
    sources = list(_sources(chosen, signature))
    if given:
        sources = [(given[0], sources[0][1] if sources else {})]
    for path, how in sources:
        if not given and not is_url(path) and not Path(path).exists():  # could be one of the Hub's
            continue
        try:
            pool = _opened(path, how, target.get("sha256"), signature.meta["samples"])
        except NaitError:
            if given:
                raise
            continue
        if pool is not None:
            return TargetTexts({i: Text(s.turns, None) for i, s in enumerate(pool.samples()) if i in wanted})
        if given:
            raise Mismatch(
                f"is not what signature '{signature.name}' was made from (its SHA-256, or how many samples there are, "
                "differ)",
                where=f"{FLAG} {signature.name}={path}",
            )
    where = "nothing tells which file they are in"
    if sources:
        where = f"{sources[0][0]} is no file here, or has changed"
    return TargetTexts({}, f"The texts of {signature.name}'s samples are not at hand: {where}; name it with {FLAG}.")


def check_named(chosen: SelectionFolder, named: Sequence[str]) -> None:
    """Raises NaitError for NAME=FILE of a target whose samples rows cannot be compared with."""
    signatures, seen = {signature.name: signature for signature in chosen.signatures}, set[str]()
    for text in named:
        name, where = split_target(text)[0], f"{FLAG} {text}"
        if name in seen:
            raise BadInput(f"the name '{name}' is there twice", where=where, remedy="name one file")
        if chosen.index is None or not signatures:
            what = "the selection's index or signatures are gone, by which rows are compared with samples"
            raise BadInput(what, where=where, remedy="put them back, or leave it out")
        if name not in signatures:
            raise BadInput(f"no target '{name}'", where=where, remedy=f"there are {', '.join(signatures)}")
        require_samples(signatures[name], where)
        seen.add(name)


def _opened(path: str, how: Mapping[str, Any], digest: Any, samples: int) -> Pool | None:
    """The samples of a file; None where they are others. Raises NaitError."""
    pool = Pool(path, **how)
    if pool.plan().sha256 != digest:
        return None
    if pool.conventions.columns and pool.columns_without_rows() == pool.conventions.columns:
        pool = Pool(path, **{**how, "conventions": pool.conventions.unmapped()})
    return pool if pool.scan().good == samples else None


def _sources(chosen: SelectionFolder, signature: Signature) -> Iterator[tuple[str, dict[str, Any]]]:
    """Files that the samples may be in, and how ``Pool`` was told to read them."""
    if chosen.manifest["verb"] == "select":
        how: dict[str, Any] = {"conventions": conventions_of(chosen.manifest["datasets"][0])}
        targets, folder = chosen.config.get("target"), chosen.folder
    else:
        folder = chosen.files[signature.name].parent
        try:
            said = read_config(str(folder / CONFIG), SignatureBuildOptions)
            conventions = make_conventions(*(said.get(name, ()) for name in ("roles", "ignore", "columns")))
        except (NaitError, TypeError):
            return
        how, targets = {"conventions": conventions, "format": said.get("format", "auto")}, said.get("target")
    for text in targets if isinstance(targets, list) else ():
        try:
            own, path = split_target(text)
        except (NaitError, AttributeError):
            continue
        if own == signature.name and is_url(path):
            yield path, how
        elif own == signature.name:
            # Relative to where the command ran: most likely a folder around its output's.
            places = [place / path for place in (Path(), *folder.resolve().parents) if (place / path).exists()]
            yield from ((str(place), how) for place in places or [Path(path)])
