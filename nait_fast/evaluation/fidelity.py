"""Exact scores and what bits make of them."""

from typing import Any

import numpy as np

from nait_fast.evaluation.case import Case
from nait_fast.evaluation.confounds import layer_parts
from nait_fast.evaluation.ranks import compared
from nait_fast.evaluation.scores import exact_column, score_places
from nait_fast.index.codebook import Codebook
from nait_fast.ranking.signature import Signature, signed_planes

PLANES = 4  # DESIGN's weights for neuron bits


def neuron_proxy(signature: Signature, codebook: Codebook) -> Signature | None:
    """A nait signature as weights of neuron bits: v · σ in 4 planes; None where the codebook's bits are of another
    reading.

    The best guess at A_l · v_l that a bit [A > τ] allows, up to a constant: a neuron above its mean lies about σ above
    it (DESIGN: neuron bits, weights v·σ).
    """
    if codebook.scale is None or codebook.meta["reading"] != signature.meta["reading"]:
        return None
    weights = (signature.tensors["direction"] * codebook.scale).astype(np.float32)
    planes, plane_weights, scale = signed_planes(weights, PLANES, codebook.layout)
    kept = {k: codebook.meta[k] for k in ("reading", "first_token", "model", "template", "layers", "widths")}
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
    whole = layer_parts(case.sampled_codes, weights, signature.layout).sum(axis=1)
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
    if index.manifest["codec"] != "neuron" or case.codebook is None:
        return f"codec {index.manifest['codec']} holds nothing of NAIT's score"
    proxy = neuron_proxy(signature, case.codebook)
    if proxy is None:
        return (f"its reading is {signature.meta['reading']}, the index's bits are of {index.manifest['reading']}; "
                "index the pool with --reading")  # fmt: skip
    (column,) = score_places(index, [proxy], np.arange(index.rows), case.device)
    return f"neuron bits, weights v·σ in {PLANES} planes", column
