"""What an index, its codebook, a signature and a running model must share for their numbers to mean the same."""

from collections.abc import Iterable, Mapping
from typing import Any

from nait_fast.errors import Mismatch
from nait_fast.storage import values

# Entry of a manifest or of metadata -> the flag that decides it. The first that differs is named: what a user sets
# comes before the hash of a model that was read that way.
AGREE = {
    "dtype": "--dtype",
    "max_length": "--max-length",
    "first_token": "--first-token",
    "reading_tokens": "--tokens",  # where readings do not run over all
    "experts": "--experts",  # of a mixture of experts, where it is not their neurons
    "layers": "--layers",
    "model": "--model",
    "template": "--template, --tokenizer and --template-date",
    "chosen": "--codebook",  # of a mixture of experts, where not all neurons are kept
}
IDENTITY = (*AGREE, "widths")
LEFT_OUT = {"reading_tokens": "all", "experts": "neurons", "chosen": "all"}  # what an entry that is not there says
DIGITS = 32  # of model and template; 16 in files made before these hashes covered what they do now
OLD = "before all weights, the configuration, the tokenizer's content, dtype and --max-length were part of its identity"


def is_old(meta: Mapping[str, Any]) -> bool:
    """Whether the index, codebook or signature was made before its identity covered what it does now."""
    return len(meta["model"]) < DIGITS


def check(meta: Mapping[str, Any]) -> None:
    """Raises KeyError or ValueError where an index, codebook or signature does not say what it is of."""
    for key in ("model", "template", "first_token"):
        values.text(meta[key], key)
    if not is_old(meta):
        values.digest(meta["model"], "model", DIGITS)
        values.digest(meta["template"], "template", DIGITS)
        values.text(meta["dtype"], "dtype")
        values.count(meta["max_length"], "max_length", 1)


def shared_entries(meta: Mapping[str, Any], more: Iterable[str] = ()) -> dict[str, Any]:
    """Those entries of ``meta`` that are its identity, and ``more``."""
    return {key: meta[key] for key in (*more, *IDENTITY) if key in meta}


def value_of(meta: Mapping[str, Any], key: str) -> Any:
    """An entry, as messages show it."""
    value = meta.get(key, LEFT_OUT.get(key))
    return shown_dtype(value) if key == "dtype" else value


def shown_dtype(dtype: Any) -> Any:
    """A class of weights' types, as messages show it."""
    return "bfloat16 or float16" if dtype == "half" else dtype


def difference(mine: Mapping[str, Any], theirs: Mapping[str, Any], more: Iterable[str] = ()) -> str | None:
    """The first entry in which the two differ, ``more`` of them included; None if they agree.

    Of two that are both old what one of them lacks is left out.
    """
    old = is_old(mine) and is_old(theirs)
    for key in (*IDENTITY, *more):
        if mine.get(key) != theirs.get(key) and not (old and not (key in mine and key in theirs)):
            return key
    return None


def refuse(mine: Mapping[str, Any], theirs: Mapping[str, Any], what: str, where: str) -> None:
    """Raise Mismatch if ``mine``, of ``what``, does not agree with ``theirs``, of ``where``."""
    if is_old(mine) and not is_old(theirs):
        raise Mismatch(f"{what} was made {OLD}, and cannot be compared with {where}", remedy="rebuild it", join=": ")
    if is_old(theirs) and not is_old(mine):
        raise Mismatch(
            f"{where} was made {OLD}, and cannot be compared with {what}", remedy="rebuild the index", join=": "
        )
    key = difference(mine, theirs)
    if key is not None:
        raise Mismatch(
            f"{what} was made with another {name_of(key)} ({values.short(value_of(mine, key))}) than {where} "
            f"({values.short(value_of(theirs, key))})",
            remedy=f"rebuild it with {_flag(key, theirs.get(key, LEFT_OUT.get(key)))}",
            join=": ",
        )


def name_of(key: str) -> str:
    """What messages call an entry."""
    return {
        "template": "template or tokenizer",
        "model": "model (or configuration)",
        "reading_tokens": "choice of tokens",
        "chosen": "choice of experts' neurons",
    }.get(key, key)


def _flag(key: str, value: Any) -> str:
    """The flag that gives ``value``, with it where a user can type that."""
    if key == "dtype":
        return f"--dtype {dtype_option(value)}"
    if key == "experts":
        return f"--experts {value}"
    if key == "chosen" and value != LEFT_OUT["chosen"]:
        return "--codebook of that index"
    if key == "reading_tokens":
        return f"--tokens {value}"
    if key in ("max_length", "first_token"):
        return f"--{key.replace('_', '-')} {value}"
    if key == "layers":
        return (
            f"--layers {','.join(map(str, value))}" if isinstance(value, list) and len(value) <= 8 else "its --layers"
        )
    return f"the same {AGREE.get(key, key)}"


def options_of(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The options, name -> value, that give an identity like that of ``meta``, which is not old; of those that have no
    one value in it, as the model and its template, none."""
    return {
        "dtype": dtype_option(meta["dtype"]),
        "max_length": meta["max_length"],
        "first_token": meta["first_token"],
        "tokens": meta.get("reading_tokens", LEFT_OUT["reading_tokens"]),
        "experts": meta.get("experts", LEFT_OUT["experts"]),
        "layers": ",".join(map(str, meta["layers"])),
    }


def dtype_option(dtype: Any) -> str:
    """What --dtype is for weights of the class ``dtype``."""
    return "bfloat16" if dtype == "half" else str(dtype)
