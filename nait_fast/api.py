"""The verbs as functions: the keyword arguments are the command line's flags with underscores."""

from typing import Any

from nait_fast.attach import Captured, capture
from nait_fast.config import IndexOptions, MergeOptions, RankOptions, SelectOptions, SignatureBuildOptions
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.ranking.resident import ResidentIndex
from nait_fast.ranking.scan import search
from nait_fast.ranking.signature import Signature, load_signature
from nait_fast.scorer import Scorer

__all__ = ["Captured", "Index", "NaitError", "ResidentIndex", "Scorer", "Signature", "build_index",
           "build_signature", "capture", "load_signature", "merge", "rank", "search", "select"]  # fmt: skip


def select(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Select a subset of a pool: ``select(model=…, dataset=…, target=["NAME=FILE"], output=…, fraction=0.1)``.

    Options: ``nait_fast.config.SelectOptions``. Writes ``output`` and returns its summary. Raises NaitError.
    """
    from nait_fast.verbs.select import run

    return run(SelectOptions.from_mapping(options, "select"), quiet)


def build_index(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Index a pool: ``build_index(model=…, dataset=…, output=…)``. Options: ``IndexOptions``. Raises NaitError."""
    from nait_fast.verbs.index import run

    return run(IndexOptions.from_mapping(options, "build_index"), quiet)


def merge(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Join indexes made apart under one codebook: ``merge(index=["a", "b"], output=…)``.

    The result is the index that the first would be had the others' pools been added to it. Options: ``MergeOptions``.
    Raises NaitError.
    """
    from nait_fast.verbs.merge import run

    return run(MergeOptions.from_mapping(options, "merge"), quiet)


def build_signature(*, quiet: bool = True, **options: Any) -> dict[str, Any]:
    """Build signatures: ``build_signature(model=…, target=[…], codebook=INDEX, output=…)``.

    Options: ``SignatureBuildOptions``. Raises NaitError.
    """
    from nait_fast.verbs.signature import run

    return run(SignatureBuildOptions.from_mapping(options, "build_signature"), quiet)


def rank(**options: Any) -> dict[str, Any]:
    """Rank an index without the model: ``rank(index=…, signature=[…], output=…, top_k=1000)``.

    Options: ``RankOptions``. Raises NaitError.
    """
    from nait_fast.verbs.rank import run

    return run(RankOptions.from_mapping(options, "rank"))
