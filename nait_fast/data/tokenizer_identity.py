"""A tokenizer's identity: a hash of all that decides which ids a text becomes."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nait_fast.errors import BadInput

# One text in many forms: what flags and code of the tokenizer's class do to ids shows here, whatever they are called.
_PROBE = "A b  c\n\t0 123 4567\r\né 漢字 ﬁ \U0001f642 don't <b>x</b> "


def tokenizer_identity(tokenizer: Any) -> str:
    """SHA-256 (64 hex digits) over vocabulary, merges, normaliser and all else that the tokenizer is made of.

    Truncation and padding, which a call elsewhere may have left behind, are left out. Raises NaitError for a tokenizer
    whose ids are drawn at random.
    """
    digest = hashlib.sha256()
    rust = getattr(tokenizer, "backend_tokenizer", None)
    parts = _slow(tokenizer) if rust is None else iter([_serialised(rust)])
    for part in (*parts, _json(_flags(tokenizer)), _json(_probed(tokenizer))):
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode(errors="backslashreplace")


def _serialised(rust: Any) -> bytes:
    """The Rust tokenizer as it is saved, but ``truncation`` and ``padding``."""
    if getattr(rust.model, "dropout", None):
        raise BadInput(
            f"leaves out merges at random (dropout {rust.model.dropout}), so that a text has other ids each time",
            where="tokenizer",
            remedy="set model.dropout to null in its tokenizer.json",
        )
    text = rust.to_str()
    # Both stand in front of a vocabulary that is slow to parse.
    decoder, place = json.JSONDecoder(), 0
    pieces = []
    for key in ("truncation", "padding"):
        mark = f'"{key}":'
        start = text.find(mark, place, place + 1000)
        if start < 0:
            return _json({k: v for k, v in json.loads(text).items() if k not in ("truncation", "padding")})
        pieces.append(text[place:start])
        _, place = decoder.raw_decode(text, start + len(mark))
    return ("".join(pieces) + text[place:]).encode(errors="backslashreplace")


def _special(tokenizer: Any) -> dict[str, Any]:
    """The special tokens, but a padding that is the EOS: batching asks for one, and the Encoder takes both alike."""
    tokens = dict(getattr(tokenizer, "special_tokens_map", {}))
    if tokens.get("pad_token") == tokens.get("eos_token"):
        tokens.pop("pad_token", None)
    return tokens


def _flags(tokenizer: Any) -> dict[str, Any]:
    names = ("bos_token_id", "eos_token_id", "unk_token_id", "split_special_tokens", "add_prefix_space")
    return {
        "size": len(tokenizer),
        "special": _special(tokenizer),
        **{name: getattr(tokenizer, name, None) for name in names},
    }


def _probed(tokenizer: Any) -> list[Any]:
    special = [token for token in _special(tokenizer).values() if isinstance(token, str)]
    text = _PROBE + " ".join(special)
    results: list[Any] = []
    for add in (False, True):
        try:
            results.append([int(i) for i in tokenizer(text, add_special_tokens=add)["input_ids"]])
        except Exception as error:  # a tokenizer that refuses some text is one that does so each time
            results.append([type(error).__name__])
    return results


def _slow(tokenizer: Any) -> Iterator[bytes]:
    """What a tokenizer in Python is made of: its class, vocabulary, settings and files."""
    yield type(tokenizer).__qualname__.encode()
    vocabulary = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    yield _json(vocabulary)
    settings = getattr(tokenizer, "init_kwargs", {})
    plain = (str, bool, int, float, type(None))
    files = dict.fromkeys(getattr(tokenizer, "vocab_files_names", {}))
    inert = {
        *files,
        "name_or_path",
        "pad_token",
        "tokenizer_file",
        "special_tokens_map_file",
        "model_max_length",
        "chat_template",
    }
    yield _json({k: v for k, v in settings.items() if isinstance(v, plain) and k not in inert})
    for name in sorted(files):
        path = getattr(tokenizer, name, None) or settings.get(name)
        if isinstance(path, str) and Path(path).is_file():
            yield name.encode() + Path(path).read_bytes()
    model: Any = getattr(tokenizer, "sp_model", None)
    if hasattr(model, "serialized_model_proto"):
        yield model.serialized_model_proto()
