"""Exact scores and what bits make of them."""

from typing import Any

import numpy as np

from nait_fast.evaluation.case import Case
from nait_fast.evaluation.confounds import layer_parts
from nait_fast.evaluation.ranks import compared
from nait_fast.evaluation.scores import exact_column, score_places
from nait_fast.index import identity
from nait_fast.index.codebook import Codebook
from nait_fast.ranking.signature import Signature, signed_planes
from nait_fast.ranking.sources import ESTIMATORS

PLANES = 12  # one scale for all layers: 4 round the weak ones away (top 10% of SmolLM2's drift: 0.33 instead of 0.72)


def neuron_proxy(signature: Signature, codebook: Codebook) -> Signature:
    """A nait signature as weights of neuron bits of its reading: v · σ in ``PLANES`` planes.

    The best guess at A_l · v_l that a bit [A > τ] allows, up to a constant: a neuron above its mean lies about σ above
    it (DESIGN: neuron bits, weights v·σ).
    """
    assert codebook.scale is not None
    weights = (signature.tensors["direction"] * codebook.scale).astype(np.float32)
    planes, plane_weights, scale = signed_planes(weights, PLANES, codebook.layout)
    kept = identity.kept(codebook.meta, ("reading",))
    meta = {
        "method": "contrast",
        **kept,
        "codebook": codebook.hash,
        "samples": signature.meta["samples"],
        "scale": scale,
    }
    tensors = {"weights": weights, "threshold": codebook.threshold, "planes": planes, "plane_weights": plane_weights}
    return Signature(signature.name, meta, {name: t for name, t in tensors.items() if t is not None})


def section(case: Case) -> list[dict[str, Any]]:
    """What bits keep of a score: for nait, bits against the exact score; for contrast, its planes against the weights
    that they round."""
    out = []
    for position, label in enumerate(case.labels):
        signature = case.signatures[position]
        if position in case.refused and position not in case.exact:
            continue  # listed by the case
        if signature.method == "nait":
            told: dict[str, Any] | str = _of_nait(case, position)
        elif signature.method == "contrast":
            told = _of_planes(case, position)
        else:
            told = f"method {signature.method} has no score that bits stand in for"
        if isinstance(told, str):
            case.miss(f"fidelity of {label}", told)
        else:
            out.append({"signature": label, **told})
    return out


def _of_planes(case: Case, position: int) -> dict[str, Any]:
    signature, column = case.signatures[position], case.column(position)
    assert column is not None
    weights = signature.tensors["weights"].astype(np.float64)
    whole = layer_parts(case.sampled["codes"], weights, signature.layout).sum(axis=1)
    by = f"its bit planes ({signature.meta.get('quantisation', 'planes')})"
    return {"by": by, "against": "its unrounded weights", "rows": len(whole), **compared(column[case.sample], whole)}


def _of_nait(case: Case, position: int) -> dict[str, Any] | str:
    """The measures, or why there are none."""
    signature, index = case.signatures[position], case.index
    known = case.exact.get(position)
    stored = index.exact.get(signature.name) == signature.hash
    if not stored and known is None:
        return "the index holds no exact scores of it; pass --model"
    bits = _approximate(case, position)
    if isinstance(bits, str):
        return bits
    by, column = bits
    if stored:
        return {"by": by, "against": "exact scores in the index", "rows": len(column),
                **compared(column, exact_column(index, signature.name))}  # fmt: skip
    assert known is not None
    return {"by": by, "against": "exact scores by the model", "rows": len(known.places),
            **compared(column[known.places], known.scores)}  # fmt: skip


def _approximate(case: Case, position: int) -> tuple[str, np.ndarray] | str:
    """(how, scores float64 [n] of all rows) that the index's bits give for a nait signature; or why they give none."""
    signature, index = case.signatures[position], case.index
    codec, reading = index.manifest["codec"], index.manifest["reading"]
    if codec == "nag" or case.codebook is None:
        return f"codec {codec} holds nothing of NAIT's score"
    if signature.meta["reading"] != reading:
        return f"its reading is {signature.meta['reading']}, the index's is {reading}; index the pool with --reading"
    anew, by = signature, f"codec {codec}"
    if codec not in ESTIMATORS:
        anew, by = neuron_proxy(signature, case.codebook), f"neuron bits, weights v·σ in {PLANES} planes"
    (column,) = score_places(index, [anew], np.arange(index.rows), case.device)
    return by, column
