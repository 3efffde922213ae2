"""What is said of signatures: their labels, their likeness, and how they change with the target's samples."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import NaitError
from nait_fast.evaluation import fidelity, stability
from nait_fast.evaluation.agreement import cosine
from nait_fast.evaluation.comparison import compared
from nait_fast.evaluation.labels import families_of, groups_of, labels_of
from nait_fast.evaluation.rankings import ExactScores, Rankings, exact_column, score, score_places
from nait_fast.evaluation.row_content import text_of
from nait_fast.index.pool_rows import datasets_of, label_values
from nait_fast.index.reader import Index
from nait_fast.index.sample import codes_at, drawn_places
from nait_fast.methods.contrast import contrast_signature, neuron_proxy
from nait_fast.methods.nag import nag_signature
from nait_fast.methods.nait import nait_signature, uncertain_layers
from nait_fast.methods.signature import Signature
from nait_fast.ranking.scan import score_codes
from tests.ranking.indexes import CODEBOOK, IDENTITY, contrast, nait, write_index

WIDTHS = [40, 70]
LAYOUT = CodeLayout.of(WIDTHS)
META = {**IDENTITY, "layers": [0, 1], "widths": WIDTHS}


def codebook(**extra: np.ndarray) -> Codebook:
    half = np.full(LAYOUT.n_neurons, 0.5, dtype=np.float32)
    meta = {**META, "codec": "neuron", "samples": 20}
    return Codebook(**{"frequency": half, "meta": meta, "threshold": np.zeros_like(half), "scale": half, **extra})


def material(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, LAYOUT.n_neurons)) + 0.3


def made(folder: Path, rows: int = 90) -> Index:
    generator = np.random.default_rng(4)
    codes = generator.integers(0, 256, (rows, LAYOUT.row_bytes), dtype=np.uint8)
    signature = nait("n", WIDTHS)
    shards = [
        {
            "codes": codes[part],
            "row": 2 * np.arange(rows)[part],
            "exact.n": np.sin(np.arange(rows)[part]),
            "n_tokens": generator.integers(1, 40, len(codes[part])).astype(np.int32),
        }
        for part in (slice(0, 50), slice(50, rows))
    ]
    return Index(write_index(folder, shards, WIDTHS, exact={"n": signature.hash}))


def test_labels() -> None:
    a, b, n = contrast("a", WIDTHS, 1), contrast("b", WIDTHS, 2), nait("a", WIDTHS)
    assert labels_of([a, b]) == ["a", "b"]
    assert labels_of([a, b, n]) == ["a (contrast, mean)", "b", "a (nait, mean)"]
    coarse = replace(a, meta={**a.meta, "quantisation": "top_m=4"})
    fine = replace(a, meta={**a.meta, "quantisation": "planes=4"})
    assert labels_of([coarse, fine, n]) == [
        "a (contrast, mean, top_m=4)",
        "a (contrast, mean, planes=4)",
        "a (nait, mean)",
    ]
    other = contrast("a", WIDTHS, 3)
    assert labels_of([a, other]) == [f"a (contrast, mean, {s.hash})" for s in (a, other)]
    with pytest.raises(NaitError, match="--signature: 'b' is there twice"):
        labels_of([b, a, contrast("b", WIDTHS, 2)])


def test_groups_and_families() -> None:
    a, b, n = contrast("a", WIDTHS, 1), contrast("b", WIDTHS, 2), nait("a", WIDTHS)
    assert groups_of([a, n, b, contrast("a", WIDTHS, 9)]) == [[0, 2], [1], [3]]
    assert families_of([a, n, b]) == {("contrast", "mean"): [0, 2], ("nait", "mean"): [1]}
    coarse = replace(a, meta={**a.meta, "quantisation": "top_m=4"})  # the same capability once more
    assert families_of([a, coarse]) == {("contrast", "mean"): [0], ("contrast", "mean", "top_m=4"): [1]}


def test_cosines() -> None:
    x, y = np.zeros(LAYOUT.n_neurons, np.float32), np.zeros(LAYOUT.n_neurons, np.float32)
    x[[0, 50]], y[[0, 60]] = 1, 1
    signatures = [replace(nait("n", WIDTHS), tensors={"direction": v}) for v in (x, y, -x, np.zeros_like(x))]
    assert [cosine(signatures[0], s) for s in signatures] == [
        pytest.approx(1),
        pytest.approx(0.5),
        pytest.approx(-1),
        None,
    ]
    assert cosine(signatures[0], contrast("a", WIDTHS, 1)) is None
    assert cosine(signatures[0], replace(signatures[1], meta={**signatures[1].meta, "reading": "drift"})) is None


def test_scores_are_the_scan_s(tmp_path: Path) -> None:
    index = made(tmp_path / "index")
    # Two of one name, and one of a third: three scans, columns in the order that was asked for.
    signatures = [contrast("a", WIDTHS, 1), nait("n", WIDTHS), contrast("a", WIDTHS, 2), contrast("b", WIDTHS, 3)]
    codes = np.concatenate([np.array(shard.codes) for shard in index.shards()])
    found = score(index, signatures)
    assert found.row.tolist() == list(range(0, 180, 2))
    for column, signature in zip(found.columns, signatures, strict=True):
        expected = np.sin(np.arange(90)) if signature.method == "nait" else score_codes(codes, [signature])[:, 0]
        assert np.array_equal(column, expected)
    places = np.array([0, 3, 49, 50, 51, 89])
    some = [signatures[0], signatures[2], signatures[3]]
    for column, signature in zip(score_places(index, some, places), some, strict=True):
        assert np.array_equal(column, score_codes(codes[places], [signature])[:, 0])
    blocks = list(codes_at(index, places))
    assert all(block.keys() == {"codes"} for block in blocks)
    assert np.array_equal(np.concatenate([block["codes"] for block in blocks]), codes[places])
    assert np.array_equal(exact_column(index, "n"), np.sin(np.arange(90)))


def test_drawn_places() -> None:
    assert drawn_places(5, 5, 0).tolist() == [0, 1, 2, 3, 4] == drawn_places(5, 99, 1).tolist()
    some = drawn_places(1000, 20, 3)
    assert len(set(some.tolist())) == 20 and (np.diff(some) > 0).all() and (some == drawn_places(1000, 20, 3)).all()
    assert (some != drawn_places(1000, 20, 4)).any()


def test_signatures_that_cannot_be_scored_are_listed(tmp_path: Path) -> None:
    index = made(tmp_path / "index")
    foreign = replace(contrast("b", WIDTHS, 2), meta={**contrast("b", WIDTHS, 2).meta, "codebook": "d" * 16})
    other = replace(nait("n", WIDTHS), tensors={"direction": np.zeros(LAYOUT.n_neurons, np.float32)})
    rankings = Rankings(index, [foreign, contrast("a", WIDTHS, 1), other])
    assert (rankings.scored, rankings.names) == ([1], ["a"])
    assert [m["what"] for m in rankings.missing] == ["scores of b", "scores of n"]
    assert "another codebook" in rankings.missing[0]["why"] and "no exact scores" in rankings.missing[1]["why"]
    with pytest.raises(NaitError, match="another codebook"):
        Rankings(index, [foreign, other])


def test_halves_and_resamples() -> None:
    for n in (4, 5, 31):
        pairs = list(stability.halves(n, 20, 0))
        assert all(len(a) == len(b) == n // 2 and not set(a) & set(b) for a, b in pairs)
        assert len({tuple(sorted(a)) for a, _ in pairs}) > 1
        assert [a.tolist() for a, _ in pairs] == [a.tolist() for a, _ in stability.halves(n, 20, 0)]
    drawn = list(stability.resamples(30, 16, 40, 0))
    assert {len(d) for d in drawn} == {16} and min(map(min, drawn)) == 0 and max(map(max, drawn)) == 29
    assert any(len(set(d.tolist())) < 16 for d in drawn)  # with replacement
    assert any((d != e).any() for d, e in zip(drawn, stability.resamples(30, 16, 40, 1), strict=True))


def test_rebuilt_from_all_samples_is_the_signature() -> None:
    own, known = material(12), codebook(drift_mean=np.full(LAYOUT.n_neurons, 0.1, dtype=np.float32))
    built: list[tuple[Signature, np.ndarray]] = [
        (contrast_signature("a", own > 0, known, planes=3), own > 0),
        (contrast_signature("a", own > 0, known, weights="logodds", top_m=5), own > 0),
        (nag_signature("a", own > 1, {**META, "reading": "up_abs", "top_k": 3}), own > 1),
        (nait_signature("a", own, META, reading="mean"), own),
        (nait_signature("a", own, META, sign="contrast", pool_drift=known.drift_mean), own),
    ]
    for signature, samples in built:
        again = stability.rebuilt(signature, samples, known, "a")
        assert again.tensors.keys() == signature.tensors.keys()
        assert all(np.array_equal(again.tensors[key], value) for key, value in signature.tensors.items())
        assert again.meta.get("quantisation") == signature.meta.get("quantisation")
        half = stability.rebuilt(signature, samples[:6], known, "a")
        assert any(not np.array_equal(half.tensors[key], value) for key, value in signature.tensors.items())


@pytest.mark.parametrize("entries", [{}, {"quantisation": "planes=x"}, {"quantisation": "planes=4", "weights": "odd"}])
def test_a_signature_that_does_not_say_how_it_was_made(entries: dict[str, str]) -> None:
    signature = contrast("a", WIDTHS, 1)
    with pytest.raises(NaitError, match="'a' does not say how its weights were made; rebuild it"):
        stability.rebuilt(replace(signature, meta={**signature.meta, **entries}), material(4) > 0, codebook(), "a")


def test_measures_of_halves_and_sizes() -> None:
    x = np.arange(40.0)
    measures = stability.of_halves([(x, x), (x, -x), (x, np.zeros(40))])
    assert (measures["spearman"], measures["repeats"]) == (0, 3)  # a constant score has no correlation
    assert measures["top10"] == pytest.approx((1 + 0 + 0) / 3)
    measures = stability.of_size(8, x, [x, -x, x])
    assert (measures["size"], measures["low"], measures["high"]) == (8, -1, 1) and measures[
        "spearman"
    ] == pytest.approx(1 / 3)
    assert np.isnan(stability.of_size(8, x, [np.zeros(40)])["low"])
    u = np.zeros(LAYOUT.n_neurons, np.float32)
    u[[0, 50]] = 1
    v = u.copy()
    v[50] = -1
    measures = stability.of_directions([(u, v), (u, u)], LAYOUT)
    assert measures == {"cosine": [1, 1], "sign_flips": [0, 0.5]}
    assert uncertain_layers([0.5, 2.0, 1.99, 40]) == 2


def test_bits_that_stand_in_for_nait() -> None:
    generator = np.random.default_rng(0)
    sigma = generator.uniform(0.2, 3, LAYOUT.n_neurons)
    known = codebook(scale=sigma.astype(np.float32))
    signature = nait_signature("a", material(12), META, reading="mean")
    values = generator.standard_normal((4000, LAYOUT.n_neurons)) * sigma
    proxy = neuron_proxy(signature, known)
    exact = values @ signature.tensors["direction"].astype(np.float64)
    found = score_codes(LAYOUT.pack(values > 0), [proxy])[:, 0]
    # A bit tells sqrt(2 / π) = 0.80 of a normal neuron; weights without σ, or flipped, tell less.
    assert np.corrcoef(exact, found)[0, 1] == pytest.approx(0.79, abs=0.02)


def test_fidelity_by_the_index_s_and_by_the_model_s_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = made(tmp_path / "index")
    stored = nait("n", WIDTHS)
    other = replace(stored, tensors={"direction": stored.tensors["direction"] * 2})  # its name is in the index, too
    rankings = Rankings(index, [stored, other, contrast("a", WIDTHS, 1)])
    rankings.__dict__["codebook"] = codebook()
    places = np.arange(3, 80, 2)
    rankings.exact = {1: ExactScores(places, np.random.default_rng(0).standard_normal((len(places), 2)))}
    proxy = neuron_proxy(stored, codebook())
    proxy = replace(proxy, meta={**proxy.meta, "codebook": CODEBOOK})
    monkeypatch.setattr(fidelity, "neuron_proxy", lambda signature, known: proxy)
    bits = score_codes(np.concatenate([np.array(shard.codes) for shard in index.shards()]), [proxy])[:, 0]
    first, second, third = fidelity.section(rankings)
    assert (first["against"], first["rows"]) == ("exact scores in the index", 90)
    assert (second["against"], second["rows"]) == ("exact scores by the model", len(places))
    assert first["spearman"] == compared(bits, np.sin(np.arange(90)))["spearman"]
    assert second["spearman"] == compared(bits[places], rankings.exact[1].parts.sum(axis=1))["spearman"]
    assert third["against"] == "its unrounded weights"


def test_what_the_pool_says_of_its_rows() -> None:
    lines = [b'{"a": "x"}', b'{"a": 3}', b'{"b": 1}', b'{"a": null}', b'{"a": "x"}', b'{"a": true}']
    numbers, values = label_values(lines, "a")
    assert numbers.tolist() == [0, 1, -1, -1, 0, 2] and values == {"x": 0, "3": 1, "true": 2}
    assert (
        text_of(
            b'{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}',
            {"format": "messages"},
        )
        == "a\nb"
    )
    assert text_of(json.dumps({"text": "é" * 400}).encode(), {"format": "text"}) == "é" * 300
    assert text_of(b'{"input_ids": [5, 6, 7]}', {"format": "input_ids"}) == "5 6 7"
    assert text_of(b'{"instruction": 3}', {"format": "alpaca"}) == '{"instruction": 3}'


def test_formats_of_several_pools(tmp_path: Path) -> None:
    codes = np.zeros((4, LAYOUT.row_bytes), dtype=np.uint8)
    shards = [
        {"codes": codes, "row": np.arange(first, first + 4), "n_tokens": np.ones(4, dtype=np.int32)} for first in (0, 4)
    ]
    pools = [{"path": "p", "kind": "jsonl", "format": name, "rows": 4, "sha256": ""} for name in ("text", "alpaca")]
    index = Index(write_index(tmp_path / "index", shards, WIDTHS, datasets=pools))
    found = datasets_of(index, np.array([0, 3, 4, 7]))
    assert [measures["format"] for measures in found] == ["text", "text", "alpaca", "alpaca"]


def stable(folder: Path, samples: int) -> tuple[Rankings, dict | None]:
    known = codebook()
    index = made(folder)
    own = material(samples) > 0.3
    signature = contrast_signature("a", own, known)
    signature = replace(signature, meta={**signature.meta, "codebook": CODEBOOK})
    rankings = Rankings(index, [signature, nait("n", WIDTHS)])
    rankings.__dict__["codebook"] = known
    rankings.to_ranks()
    return rankings, stability.section(rankings, 0, own, [4, 16, 64], 3)


def test_stability_of_a_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nait_fast.evaluation.stability.rebuilt", _with_the_index_s_codebook)
    rankings, measures = stable(tmp_path / "index", 40)
    assert measures is not None and measures["samples"] == 40 and measures["rows"] == 90
    assert [b["size"] for b in measures["bootstrap"]] == [4, 16]
    assert [m["what"] for m in rankings.missing] == ["stability of a at 64 samples"]
    assert 0 < measures["bootstrap"][0]["spearman"] < measures["bootstrap"][1]["spearman"] < 1
    assert measures["bootstrap"][0]["low"] <= measures["bootstrap"][0]["spearman"] <= measures["bootstrap"][0]["high"]
    assert -1 < measures["halves"]["spearman"] < 1 and measures["halves"]["repeats"] == 3
    assert (measures["sign_margin"], measures["uncertain_layers"]) == (None, None)
    assert stability.section(rankings, 0, None, [4], 3) is None and "--target a=FILE" in rankings.missing[-1]["why"]
    margins = stability.section(rankings, 1, None, [4], 3)
    assert margins is not None and (margins["sign_margin"], margins["uncertain_layers"]) == ([0.5, 0.5], 2)


def _with_the_index_s_codebook(signature: Signature, *rest: object) -> Signature:
    made = REBUILT(signature, *rest)
    return replace(made, meta={**made.meta, "codebook": CODEBOOK})


REBUILT = stability.rebuilt


@pytest.mark.parametrize("samples", [2, 3])
def test_a_target_too_small_to_halve(tmp_path: Path, samples: int) -> None:
    rankings, measures = stable(tmp_path / "index", samples)
    assert measures is not None and measures["halves"] == {"spearman": None, "top10": None, "repeats": 0}
    assert rankings.missing[-1] == {"what": "stability of a", "why": f"its target has {samples} samples, 4 are needed"}
