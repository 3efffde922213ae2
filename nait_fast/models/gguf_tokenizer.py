"""What a GGUF file says of its tokenizer and transformers (5.17) leaves out.

A vocabulary of SentencePiece's BPE (``tokenizer.ggml.model`` "llama") has ranks for scores. Of Gemma's transformers
makes a unigram model, which takes them for log-probabilities and cuts words up (▁the: ▁t, he). Here its merges are made
of the ranks, as SentencePiece merges: of all neighbours the pair whose union has the best score first. Special tokens
are those that the file names (of a Llama transformers takes BOS for EOS), and a file that wants BOS in front of a text
gets it.
"""

from collections.abc import Mapping
from typing import Any

from nait_fast.notices import warn

NORMAL, CONTROL, USER_DEFINED = 1, 3, 4  # kinds of a piece (gguf.TokenType)
_SPECIAL = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
_SPACE = "\u2581"


def mend_tokenizer(named: str, tokenizer: Any, file: str) -> None:
    """Change ``tokenizer``, which transformers made of the GGUF ``file``, to what the file says; warn, by the name of
    ``named``, where it is a unigram model and the file tells of no BPE."""
    import gguf

    fields = gguf.GGUFReader(file).fields
    for name, ours in _SPECIAL.items():
        number = fields.get(f"tokenizer.ggml.{name}_token_id")
        text = None if number is None else tokenizer.convert_ids_to_tokens(int(number.contents()))
        if text is not None and getattr(tokenizer, ours) != text:
            setattr(tokenizer, ours, text)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if type(getattr(backend, "model", None)).__name__ == "Unigram":
        pieces = _pieces(fields)
        if pieces is None:
            warn(
                f"{named}: transformers reads this GGUF file's tokenizer as a unigram model, which cuts words into "
                "other pieces than the model was trained on: all that is computed of them is worse for it; pass "
                "--tokenizer with the model's own"
            )
        else:
            _to_bpe(backend, tokenizer.unk_token, *pieces)
    wants_bos = fields.get("tokenizer.ggml.add_bos_token")
    if wants_bos is not None and wants_bos.contents() and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True


def _pieces(fields: Mapping[str, Any]) -> tuple[list[str], list[float], list[int]] | None:
    """(text, score, kind) of each piece of SentencePiece's BPE; None where the file has another tokenizer,
    or a piece twice."""
    names = [f"tokenizer.ggml.{name}" for name in ("model", "tokens", "scores", "token_type")]
    if any(name not in fields for name in names):
        return None
    kind, texts, scores, kinds = (fields[name].contents() for name in names)
    if kind != "llama":
        return None
    texts = [text if text.strip(" ") else _SPACE * len(text) for text in texts]
    return (texts, scores, kinds) if len(set(texts)) == len(texts) else None  # else a number would go to another piece


def _to_bpe(backend: Any, unknown: str, texts: list[str], scores: list[float], kinds: list[int]) -> None:
    from tokenizers import AddedToken
    from tokenizers.models import BPE
    from transformers.convert_slow_tokenizer import generate_merges

    numbers = {text: number for number, text in enumerate(texts)}
    apart = {text for text, kind in zip(texts, kinds, strict=True) if kind != NORMAL}  # not merged, nor made by merging
    merges = generate_merges(numbers, list(zip(texts, scores, strict=True)), apart)
    backend.model = BPE(numbers, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    # SentencePiece finds these before it merges; runs of spaces, when the normaliser has made them its own.
    found = [(text, kind) for text, kind in zip(texts, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    backend.add_special_tokens([AddedToken(text, normalized=False, special=True) for text, k in found if k == CONTROL])
    backend.add_tokens(
        [AddedToken(text, normalized=not text.strip(_SPACE)) for text, kind in found if kind == USER_DEFINED]
    )
