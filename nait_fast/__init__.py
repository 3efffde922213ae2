"""nait_fast: ranks instruction-tuning samples by the MLP neurons of an LLM that they activate (arXiv 2603.13201)."""

from nait_fast._version import __version__

_PUBLIC = ("Captured", "Index", "NaitError", "ResidentIndex", "Scorer", "Signature", "build_index",
           "build_signature", "capture", "evaluate", "load_signature", "merge", "rank", "report", "search", "select",
           "signature_of")  # fmt: skip

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str):
    # Public names are imported at first use: `import nait_fast` costs milliseconds, torch seconds.
    if name not in _PUBLIC:
        raise AttributeError(f"module 'nait_fast' has no attribute {name!r}")
    from nait_fast import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted(__all__)
