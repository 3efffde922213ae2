"""Exact scores and what bits make of them."""

from typing import Any

import numpy as np

from nait_fast.codecs import codec_of
from nait_fast.evaluation.comparison import compared
from nait_fast.evaluation.confounds import by_sample, layer_parts
from nait_fast.evaluation.rankings import Rankings, exact_column, score_places
from nait_fast.methods import method_of
from nait_fast.methods.contrast import PROXY_PLANES, neuron_proxy


def section(rankings: Rankings) -> list[dict[str, Any]]:
    """What bits keep of a score: for nait, bits against the exact score; for contrast, its planes against the weights
    that they round."""
    out = []
    for number, label in enumerate(rankings.labels):
        signature = rankings.signatures[number]
        if number in rankings.refused and number not in rankings.exact:
            continue  # listed by the rankings
        if signature.is_direction:
            measures: dict[str, Any] | str = _of_nait(rankings, number)
        elif method_of(signature.method).rounds and rankings.rules[number] != "centroid":
            measures = by_sample(rankings.rules[number])
        elif method_of(signature.method).rounds:
            measures = _of_planes(rankings, number)
        else:
            measures = f"method {signature.method} has no score that bits stand in for"
        if isinstance(measures, str):
            rankings.miss(f"fidelity of {label}", measures)
        else:
            out.append({"signature": label, **measures})
    return out


def _of_planes(rankings: Rankings, number: int) -> dict[str, Any]:
    signature, column = rankings.signatures[number], rankings.column(number)
    assert column is not None
    weights = signature.tensors["weights"].astype(np.float64)
    whole = layer_parts(rankings.sampled["codes"], weights, signature.layout).sum(axis=1)
    by = f"its bit planes ({signature.meta.get('quantisation', 'planes')})"
    return {
        "by": by,
        "against": "its unrounded weights",
        "rows": len(whole),
        **compared(column[rankings.sample], whole),
    }


def _of_nait(rankings: Rankings, number: int) -> dict[str, Any] | str:
    """The measures, or why there are none."""
    signature, index = rankings.signatures[number], rankings.index
    exact = rankings.exact.get(number)
    stored = index.exact.get(signature.name) == signature.hash
    if not stored and exact is None:
        return "the index holds no exact scores of it; pass --model"
    bits = _approximate(rankings, number)
    if isinstance(bits, str):
        return bits
    by, column = bits
    if stored:
        return {
            "by": by,
            "against": "exact scores in the index",
            "rows": len(column),
            **compared(column, exact_column(index, signature.name)),
        }
    assert exact is not None
    return {
        "by": by,
        "against": "exact scores by the model",
        "rows": len(exact.places),
        **compared(column[exact.places], exact.scores),
    }


def _approximate(rankings: Rankings, number: int) -> tuple[str, np.ndarray] | str:
    """(how, scores float64 [n] of all rows) that the index's bits give for a nait signature; or why they give none."""
    signature, index = rankings.signatures[number], rankings.index
    codec, reading = codec_of(index.manifest["codec"]), index.manifest["reading"]
    if not codec.calibrates or rankings.codebook is None:
        return f"codec {codec.name} holds nothing of NAIT's score"
    if signature.meta["reading"] != reading:
        return f"its reading is {signature.meta['reading']}, the index's is {reading}; index the pool with --reading"
    anew, by = signature, f"codec {codec.name}"
    if not codec.estimates:
        anew, by = neuron_proxy(signature, rankings.codebook), f"neuron bits, weights v·σ in {PROXY_PLANES} planes"
    (column,) = score_places(index, [anew], np.arange(index.rows), rankings.device)
    return by, column
