"""nait_fast: ranks instruction-tuning samples by the MLP neurons of an LLM that they activate (arXiv 2603.13201)."""

from typing import TYPE_CHECKING, Any

from nait_fast._version import __version__

if TYPE_CHECKING:
    from nait_fast.api import (
        build_index,
        build_signature,
        compare,
        evaluate,
        inspect,
        merge,
        rank,
        report,
        run_bench,
        run_demo,
        select,
        selection_of,
        signature_of,
        validate,
        verify,
    )
    from nait_fast.errors import BadInput, Busy, Damaged, Mismatch, MissingExtra, NaitError
    from nait_fast.index.reader import Index
    from nait_fast.live_capture import Captured, capture
    from nait_fast.methods.signature import Signature, load_signature
    from nait_fast.ranking.in_memory import RowSelection
    from nait_fast.ranking.resident import ResidentIndex
    from nait_fast.ranking.scan import search
    from nait_fast.scorer import Scorer

__all__ = [
    "BadInput",
    "Busy",
    "Captured",
    "Damaged",
    "Index",
    "Mismatch",
    "MissingExtra",
    "NaitError",
    "ResidentIndex",
    "RowSelection",
    "Scorer",
    "Signature",
    "__version__",
    "build_index",
    "build_signature",
    "capture",
    "compare",
    "evaluate",
    "inspect",
    "load_signature",
    "merge",
    "rank",
    "report",
    "run_bench",
    "run_demo",
    "search",
    "select",
    "selection_of",
    "signature_of",
    "validate",
    "verify",
]

# Names that are not the verbs' functions -> where they are.
_ELSEWHERE = {
    "BadInput": "errors",
    "Busy": "errors",
    "Captured": "live_capture",
    "Damaged": "errors",
    "Index": "index.reader",
    "Mismatch": "errors",
    "MissingExtra": "errors",
    "NaitError": "errors",
    "ResidentIndex": "ranking.resident",
    "RowSelection": "ranking.in_memory",
    "Scorer": "scorer",
    "Signature": "methods.signature",
    "capture": "live_capture",
    "load_signature": "methods.signature",
    "search": "ranking.scan",
}


def __getattr__(name: str) -> Any:
    # Public names are imported at first use, each for itself: `import nait_fast` costs milliseconds, torch seconds.
    if name not in __all__:
        raise AttributeError(f"module 'nait_fast' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"nait_fast.{_ELSEWHERE.get(name, 'api')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
