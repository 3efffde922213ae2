"""Method embed: the cosine of a sample's mean hidden state with a target's centroid, both less the pool's mean."""

from typing import Any

import numpy as np

from nait_fast.index import identity
from nait_fast.index.codebook import Codebook
from nait_fast.ranking.signature import Signature

CHUNK_NUMBERS = 1 << 20  # of embeddings turned into float64 at once


def embed_signature(
    name: str, hidden: np.ndarray, codebook: Codebook, target: dict[str, Any] | None = None
) -> Signature:
    """The centroid c: mean of the target's h − μ, μ the codebook's ``hidden_mean``; a sample scores cos(h − μ, c).

    ``hidden`` fp32 [n, H]: mean hidden states of the target's samples under the codebook's model.
    """
    assert codebook.hidden_mean is not None
    centroid = (hidden.mean(axis=0, dtype=np.float64) - codebook.hidden_mean).astype(np.float32)
    kept = identity.kept(codebook.meta, ("embed_layer",))
    meta = {"method": "embed", "reading": "hidden", **kept, "codebook": codebook.hash, "samples": len(hidden),
            "target": target or {}}  # fmt: skip
    return Signature(name, meta, {"centroid": centroid, "hidden_mean": codebook.hidden_mean})


def cosines(embeddings: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """float64 [n, C]: cosines of ``embeddings`` int8 [n, H], at any scale a row, with ``centroids`` [C, H].

    0 where one of the two is 0.
    """
    wanted = centroids.astype(np.float64)
    wanted /= np.maximum(np.linalg.norm(wanted, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    out = np.empty((len(embeddings), len(centroids)))
    step = max(1, CHUNK_NUMBERS // max(1, embeddings.shape[1]))
    for start in range(0, len(embeddings), step):
        levels = embeddings[start : start + step].astype(np.float64)
        norms = np.maximum(np.linalg.norm(levels, axis=1, keepdims=True), 1)  # of whole numbers: below 1 only for 0
        out[start : start + step] = levels @ wanted.T / norms
    return out
