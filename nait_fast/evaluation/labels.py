"""What the signatures of an evaluation are called, when several have one name."""

from collections.abc import Sequence

from nait_fast.errors import BadInput
from nait_fast.methods.signature import Signature


def labels_of(signatures: Sequence[Signature], least: int = 0) -> list[str]:
    """A label for each: its name; where names repeat, with method and reading, and where that does not tell them apart,
    with how it was quantised, then with its hash; with the first ``least`` of these four in any case. Raises NaitError
    for one that is there twice."""
    hashes = [signature.hash for signature in signatures]
    if twice := next((s.name for s, h in zip(signatures, hashes, strict=True) if hashes.count(h) > 1), None):
        raise BadInput(f"'{twice}' is there twice", where="--signature", remedy="leave one out")

    def label(number: int, depth: int) -> str:
        s = signatures[number]
        details = [s.method, str(s.meta["reading"]), str(s.meta.get("quantisation", "")), hashes[number]][:depth]
        return f"{s.name} ({', '.join(filter(None, details))})" if depth else s.name

    depths = [least] * len(signatures)
    for deeper in (2, 3, 4):
        labels = [label(number, depth) for number, depth in enumerate(depths)]
        depths = [deeper if labels.count(name) > 1 else depth for name, depth in zip(labels, depths, strict=True)]
    return [label(number, depth) for number, depth in enumerate(depths)]


def groups_of(signatures: Sequence[Signature]) -> list[list[int]]:
    """Numbers of the signatures in groups, as few as there can be, within which no name repeats."""
    groups: list[list[int]] = []
    seen: dict[str, int] = {}
    for number, signature in enumerate(signatures):
        turn = seen.get(signature.name, 0)
        seen[signature.name] = turn + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(number)
    return groups


def kind_of(signature: Signature) -> tuple[str, ...]:
    """(method, reading), and how it was quantised where it was: what two signatures of one family share."""
    kind = (signature.method, str(signature.meta["reading"]), str(signature.meta.get("quantisation", "")))
    return kind if kind[2] else kind[:2]


def families_of(signatures: Sequence[Signature]) -> dict[tuple[str, ...], list[int]]:
    """Kind -> numbers of the signatures, in their order: the rankings that may be laid over each other."""
    families: dict[tuple[str, ...], list[int]] = {}
    for number, signature in enumerate(signatures):
        families.setdefault(kind_of(signature), []).append(number)
    return families
