"""What else a score tells of: the sample's length, and how much of it is which layer's."""

from dataclasses import replace
from typing import Any

import numpy as np

from nait_fast.codecs.base import Estimator
from nait_fast.codecs.layout import CodeLayout
from nait_fast.evaluation.rankings import Rankings, scores_anew
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature
from nait_fast.ranking.sources import estimator, sample_of
from nait_fast.ranking.spearman import spearman

CHUNK_ROWS = 256  # unpacked at once: 90 MB of a layer of 11,008 neurons in float64


def bit_weights(signature: Signature) -> np.ndarray:
    """The weight of each neuron's bit, float64 [N], as a bit signature's planes have it.

    scale · Σ_p plane_weights[p] · planes[p]: the score is its sum over the bits that are set.
    """
    bits = signature.layout.unpack(signature.tensors["planes"])
    return signature.meta["scale"] * (signature.tensors["plane_weights"].astype(np.float64) @ bits)


def layer_parts(codes: np.ndarray, weights: np.ndarray, layout: CodeLayout) -> np.ndarray:
    """Σ of ``weights`` float64 [N] over the bits set in each layer, float64 [n, L], of ``codes`` uint8 [n, row_bytes].

    A row's parts add up to its score.
    """
    out = np.empty((len(codes), len(layout.widths)))
    for start in range(0, len(codes), CHUNK_ROWS):
        chunk = codes[start : start + CHUNK_ROWS]
        for ordinal, width in enumerate(layout.widths):
            packed = np.ascontiguousarray(chunk[:, layout.bytes(ordinal)])
            bits = np.unpackbits(packed, axis=1, count=width, bitorder="little")
            out[start : start + len(chunk), ordinal] = bits @ weights[layout.neurons(ordinal)]
    return out


def layer_scan(index: Index, signature: Signature) -> Estimator:
    """What estimates the parts of a nait score by layer, as L signatures: each is 0 outside a layer of its own.

    A row's parts add up to its score in ``index``, but for what is the same for all rows.
    """
    codebook, layout = index.codebook, signature.layout
    (direction,) = estimator(codebook, [signature], rows=sample_of(index)).directions
    alone = np.zeros((len(layout.widths), layout.n_neurons), dtype=np.float32)
    for ordinal, row in enumerate(alone):
        row[layout.neurons(ordinal)] = direction[layout.neurons(ordinal)]
    return estimator(codebook, [replace(signature, tensors={"direction": row}) for row in alone])


def estimated_parts(codes: dict[str, np.ndarray], scan: Estimator) -> np.ndarray:
    """A nait score's parts by layer, float64 [n, L], of ``codes`` and what comes with them, by a ``layer_scan``."""
    return scan(codes["codes"], codes)


def variance_shares(parts: np.ndarray) -> np.ndarray | None:
    """The share of each layer in the variance of the score, float64 [L], from its ``parts`` float64 [n, L].

    cov(part_l, score) / var(score), the score being the sum of the parts. The shares add up to 1; a layer that works
    against the others has a negative one. None where the score is constant.
    """
    centred = parts - parts.mean(axis=0)
    total = centred.sum(axis=1)
    variance = float(total @ total)
    # Of parts that cancel, rounding leaves something that is no variance.
    if variance <= 1e-20 * float((centred**2).sum()) or variance == 0:
        return None
    return centred.T @ total / variance


def section(rankings: Rankings) -> list[dict[str, Any]]:
    """Of each signature: Spearman of its score with the rows' tokens, and each layer's share in the score's variance
    over a sample of the rows."""
    out = []
    for number, label in enumerate(rankings.labels):
        scores = rankings.scores_of(number)
        if scores is None:
            continue  # listed by the rankings
        places, column = scores
        exact = rankings.exact.get(number)
        parts = exact.parts if exact else _parts_of(rankings, number)
        shares = None if parts is None else variance_shares(parts)
        if parts is None:
            rankings.miss(f"layer shares of {label}", _why_no_parts(rankings, number))
        elif shares is None:
            rankings.miss(f"layer shares of {label}", "its score is the same for all sampled rows")
        out.append(
            {
                "signature": label,
                "rows": len(column),
                "spearman_with_length": spearman(column, rankings.scores.n_tokens[places]),
                "layer_share": None if shares is None else shares.tolist(),
                "layers": rankings.signatures[number].meta["layers"],
                "sampled_rows": 0 if parts is None else len(parts),
            }
        )
    return out


def by_sample(rule: str) -> str:
    """Why what a signature's weights give is not the score by ``rule``."""
    return f"rule {rule} compares rows with single target samples"


def _parts_of(rankings: Rankings, number: int) -> np.ndarray | None:
    """Parts of the sampled rows' scores by layer, float64 [m, L], where the index's codes give them."""
    signature = rankings.signatures[number]
    if rankings.rules[number] != "centroid":
        return None
    if signature.is_bits:
        return layer_parts(rankings.sampled["codes"], bit_weights(signature), signature.layout)
    if signature.is_direction and scores_anew(rankings.index, signature):
        return estimated_parts(rankings.sampled, layer_scan(rankings.index, signature))
    return None


def _why_no_parts(rankings: Rankings, number: int) -> str:
    if rankings.signatures[number].is_direction:
        return "the index holds the sum of its layers only; pass --model"
    if rankings.rules[number] != "centroid" and rankings.signatures[number].is_bits:
        return by_sample(rankings.rules[number])
    return "its score is no sum over layers"
