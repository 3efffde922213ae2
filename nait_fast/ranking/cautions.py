"""What to mind about a selection that was made, said as warnings with what remedies it."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nait_fast.index.reader import Index
from nait_fast.methods import method_of
from nait_fast.methods.signature import LENGTHS, SAMPLES, Signature
from nait_fast.notices import warn
from nait_fast.ranking.choosing import ScoredSelection
from nait_fast.rules.constraints.decontaminate_codes import CODES, CodeDecontamination
from nait_fast.rules.constraints.near_duplicates import bits_of

LEAST_ROWS = 20  # of fewer, means and correlations tell nothing
LENGTH_SPEARMAN = 0.5  # from here on a score goes with length
LENGTH_RATIO = 1.25  # as near to the target's own mean tokens a selection's may be
TRUNCATED_SHARE = 0.1  # of an index's rows
FEW_SAMPLES = 16  # of a target
NEAR_ROWS = 4096  # of the best selected ones that are compared with target samples
NEAR_SHARE = 0.05  # of their bits in which a selected row and a target sample may differ to be called near


def warn_of_truncated(index: Index) -> None:
    """Say so where many rows were read to the maximum length only."""
    rows = index.manifest["truncated"]
    if rows > TRUNCATED_SHARE * index.rows:
        warn(
            f"index {index.name}: {rows:,} of {index.rows:,} rows ({rows / index.rows:.0%}) are longer than the "
            f"{index.manifest['max_length']} tokens that were read of each; --max-length, of index and signatures "
            "alike, reads more"
        )


def warn_of_few(signatures: list[Signature]) -> None:
    """Say so where a target has few samples, or many of them were cut."""
    for signature in signatures:
        if signature.meta["reading"] == "none":  # scores of another tool
            continue
        samples, cut = signature.meta["samples"], (signature.meta.get("target") or {}).get("truncated", 0)
        if cut > TRUNCATED_SHARE * samples:
            warn(
                f"target '{signature.name}': {cut:,} of its {samples:,} samples ({cut / samples:.0%}) are longer than "
                f"the {signature.meta['max_length']} tokens that were read of each; --max-length reads more"
            )
        if samples < FEW_SAMPLES:
            warn(  # as measured on four targets: docs/methods.md, Samples of a target
                f"target '{signature.name}': made from {samples} samples; of four targets, 8 samples chose 82% of the "
                "best tenth that all of them chose, 64 samples 94%: give more"
            )


def warn_of_selection(
    made: ScoredSelection, length: str, combine: str, overview: Mapping[str, Any], spearman: Mapping[str, float | None]
) -> None:
    """Say what of the best rows of ``made`` is not as it should be. ``length``, ``combine``: as of the options;
    ``overview``: as of ``overview_of``; ``spearman``: of each target's scores with tokens."""
    if made.table.rows < LEAST_ROWS:
        return
    means = overview["mean_scores"]
    # Of targets that take turns each has its own best rows, however little the others' are worth to it.
    rows, in_turns = made.table.rows, len(made.scoring) > 1 and combine in ("roundrobin", "union")
    instead = "; --combine roundrobin gives each target its turn" if len(made.scoring) > 1 else ""
    selected = made.selection.tokens / len(made.selection.rows)
    targets = [tokens for s in made.scoring if (tokens := _mean_tokens(s)) is not None]
    low, high = (min(targets, default=0) / LENGTH_RATIO, max(targets, default=0) * LENGTH_RATIO)
    fits = bool(targets) and low <= selected <= high
    for signature in made.scoring:
        name, rho = signature.name, spearman[signature.name]
        if rho is not None and abs(rho) >= LENGTH_SPEARMAN and not fits and not length.startswith("quota"):
            pool, own = overview["tokens_scored"] / made.table.rows, _mean_tokens(signature)
            theirs = f", the target's samples {own:.0f}" if own is not None else ""
            warn(
                f"target '{name}': its score goes with length (Spearman {rho:+.2f}): the selected rows have "
                f"{selected:.0f} tokens on average, the pool's {pool:.0f}{theirs}; {_remedy(signature, length)}"
            )
        if not in_turns and means[name]["selected"] <= means[name]["pool"] and len(made.selection.rows) < rows:
            warn(
                f"target '{name}': the selected rows score no better than the pool on average "
                f"({means[name]['selected']:.4g} against {means[name]['pool']:.4g}){instead}"
            )
        if near := _near(made, signature):
            best = min(NEAR_ROWS, len(made.selection.rows))
            warn(
                f"target '{name}': {near:,} of the best {best:,} selected rows are nearly the same as samples of the "
                f"target (their codes differ in less than {NEAR_SHARE:.0%} of the bits); --decontaminate-codes leaves "
                "such rows out"
            )


def _mean_tokens(signature: Signature) -> float | None:
    """Of the target's samples; None where the signature does not tell."""
    if LENGTHS in signature.tensors:
        return float(np.mean(signature.tensors[LENGTHS]))
    tokens, samples = (signature.meta.get("target") or {}).get("tokens"), signature.meta.get("samples")
    return tokens / samples if tokens and samples else None


def _remedy(signature: Signature, length: str) -> str:
    """Which option of length the signature can be ranked by."""
    if length == "free" and method_of(signature.method).has_background:
        kept = "" if LENGTHS in signature.tensors else " (rank: of a signature made with --keep-samples)"
        return f"--length matched{kept} holds the target against rows as long as its samples"
    if LENGTHS in signature.tensors:
        return "--length quota:target chooses as long rows as the target's samples"
    return "--length quota chooses rows of the pool's own lengths"


def _near(made: ScoredSelection, signature: Signature) -> int:
    """How many of the best selected rows are near a sample of the target, but not the same, by codes that both are kept
    of."""
    if SAMPLES not in signature.tensors or method_of(signature.method).sample != CODES:
        return 0
    codes = [shard.codes for shard in made.index.shards()]
    samples = [(signature.name, signature.tensors[SAMPLES])]
    best = made.selection.places[made.selection.order[:NEAR_ROWS]]
    near = CodeDecontamination(codes, samples, NEAR_SHARE, bits_of(made.index)).near(best)
    return max(0, int(near.sum()) - (made.in_targets[signature.name] or 0))
