"""What a report says in numbers, against the same computed plainly from all bits and scores."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

from nait_fast.config import ReportOptions
from nait_fast.index.reader import Index
from nait_fast.methods.nag import nag_signature
from nait_fast.methods.signature import load_signature
from nait_fast.ranking.scan import score_codes
from nait_fast.ranking.spearman import spearman
from nait_fast.reporting import contents, layers, samples, score_summary
from nait_fast.reporting.contents import Report, gather
from tests.reporting.made import WIDTHS, Made, make_rows


def gathered(selection: Path, **options: Any) -> Report:
    return gather(ReportOptions(selection=str(selection), **options), selection.parent / "report.html")


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), make_rows(257), 3)


def ordered(values: np.ndarray) -> np.ndarray:
    return np.lexsort((np.arange(len(values)), -values))


@pytest.mark.parametrize("batch", [7, 100, 1 << 16])
def test_scores(made: Made, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(score_summary, "BATCH_ROWS", batch)
    found = gathered(made.select(signatures=made.signatures[:1], top_k=40), samples=6)
    expected = score_codes(made.codes, made.signatures[:1])[:, 0]
    order, got = ordered(expected), found.scores
    assert got is not None and got.whole and (got.rows, got.selected) == (257, 40)
    assert got.tokens == made.tokens.sum() and got.selected_tokens == made.tokens[order[:40]].sum()
    np.testing.assert_allclose(got.mean, [expected.mean()])
    np.testing.assert_allclose(got.deviation, [expected.std()])
    np.testing.assert_allclose(got.selected_mean, [expected[order[:40]].mean()])
    assert (got.selected_low[0], got.selected_high[0]) == (expected[order[39]], expected[order[0]])
    assert [r.row for r in got.best] == order[:6].tolist() and [r.rank for r in got.best] == [1, 2, 3, 4, 5, 6]
    assert [r.row for r in got.worst] == order[-6:].tolist() and got.worst[-1].rank == 257
    assert [r.id for r in got.best] == [f"r{i}" for i in order[:6]]
    assert [r.n_tokens for r in got.worst] == made.tokens[order[-6:]].tolist()
    assert [r.selected for r in [*got.best, *got.worst]] == [True] * 6 + [False] * 6
    (histogram,), (lengths,) = got.histograms, got.lengths
    assert (histogram.edges[0], histogram.edges[-1]) == (expected.min(), expected.max())
    assert (histogram.pool == np.histogram(expected, histogram.edges)[0]).all() and histogram.pool.sum() == 257
    assert (histogram.selected == np.histogram(expected[order[:40]], histogram.edges)[0]).all()
    assert (lengths.counts == np.histogram2d(made.tokens, expected, (lengths.tokens, lengths.edges))[0]).all()
    for x in range(len(lengths.mean)):
        own = expected[(made.tokens > lengths.tokens[x]) & (made.tokens < lengths.tokens[x + 1])]
        assert np.isnan(lengths.mean[x]) if not len(own) else lengths.mean[x] == pytest.approx(own.mean())
    assert (got.sample == expected).all()


def test_samples_of_many_rows_are_spread(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_summary, "SAMPLE_ROWS", 100)
    monkeypatch.setattr(score_summary, "BATCH_ROWS", 10)
    monkeypatch.setattr(layers, "SAMPLE_ROWS", 50)
    found = gathered(made.select(top_k=40))
    expected = score_codes(made.codes, made.signatures).T
    assert found.scores is not None and (found.scores.sample == expected[:, ::3]).all()
    assert found.layers[0].rows == len(range(0, 257, 7)) and found.layers[0].selected == 10
    chosen = np.flatnonzero(np.isin(np.arange(257), _selected(found)))
    assert (found.scores.some_chosen == chosen[::4]).all()


def _selected(found: Report) -> list[int]:
    table = parquet.read_table(found.chosen.folder / "scores.parquet")
    return [r for r, s in zip(table["row"].to_pylist(), table["selected"].to_pylist(), strict=True) if s]


def test_spread() -> None:
    assert layers.spread(10, 20).tolist() == list(range(10)) and layers.spread(10, 4).tolist() == [0, 3, 6, 9]
    assert layers.spread(10, 1).tolist() == [0] and layers.spread(1, 5).tolist() == [0]


@pytest.mark.parametrize("method", ["contrast", "nag"])
def test_layers(tmp_path: Path, method: str) -> None:
    made = Made(tmp_path, make_rows(150), 1)
    index, signature = Index(made.index), made.signatures[0]
    if method == "nag":  # the parts know the planes only
        meta = {k: v for k, v in signature.meta.items() if k not in ("codebook", "scale")}
        signature = nag_signature("t0", made.bits[:20], {**meta, "top_k": 3})
    weights = np.zeros(made.layout.n_neurons)
    for plane, weight in zip(signature.tensors["planes"], signature.tensors["plane_weights"], strict=True):
        weights += signature.meta["scale"] * weight * made.layout.unpack(plane[None])[0]
    parts = np.stack(
        [
            (made.bits[:, made.layout.neurons(p)] * weights[made.layout.neurons(p)]).sum(axis=1)
            for p in range(len(WIDTHS))
        ],
        axis=1,
    )
    total = parts.sum(axis=1)
    np.testing.assert_allclose(total, score_codes(made.codes, [signature])[:, 0], atol=1e-9)
    some = np.array([3, 40, 120, 149])
    got = layers.layer_parts(index, signature, np.arange(150), some)
    share = [np.cov(parts[:, p], total, bias=True)[0, 1] / total.var() for p in range(len(WIDTHS))]
    np.testing.assert_allclose(got.share, share)
    assert got.share.sum() == pytest.approx(1)
    np.testing.assert_allclose(got.mean, parts.mean(axis=0))
    np.testing.assert_allclose(got.difference, parts[some].mean(axis=0) - parts.mean(axis=0))
    assert (got.layers, got.rows, got.selected) == ([0, 1, 2], 150, 4)
    frequency = layers.bit_frequency(index, np.arange(150))
    np.testing.assert_allclose(frequency, made.bits.mean(axis=0))
    own = weights * (made.bits[7] - frequency)
    decided = layers.decided(parts[7], [4, 5, 9], got.mean)
    assert decided.centred and decided.total == pytest.approx(total[7] - total.mean()) == pytest.approx(own.sum())
    sums = {[4, 5, 9][p]: own[made.layout.neurons(p)].sum() for p in range(3)}
    assert dict(decided.layers) == pytest.approx(sums)
    sign = np.sign(decided.total)
    right = sorted((x for x in sums.items() if sign * x[1] > 0), key=lambda x: -sign * x[1])[:2]
    assert [layer for layer, _ in decided.most(2)] == [layer for layer, _ in right]
    twice = layers.decided(parts[7], [4, 4, 9], None)  # experts and a shared one are of one layer
    assert not twice.centred and dict(twice.layers) == pytest.approx({4: parts[7, 0] + parts[7, 1], 9: parts[7, 2]})


def test_a_constant_score_has_no_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nait_fast.ranking.choosing.check_spread", lambda *_: None)  # a selection of an earlier version
    made = Made(tmp_path, make_rows(30), 1)
    nothing = {**made.signatures[0].tensors, "planes": np.zeros_like(made.signatures[0].tensors["planes"])}
    found = gathered(made.select(signatures=[replace(made.signatures[0], tensors=nothing)], top_k=3))
    assert np.isnan(found.layers[0].share).all() and found.scores is not None and found.scores.deviation[0] == 0
    assert found.scores.histograms[0].pool.sum() == 30 and found.best[0].ranked.row == 0


def test_composition_and_texts(made: Made) -> None:
    found = gathered(made.select(top_k=40), samples=3)
    labels = found.labels
    assert labels is not None and labels.column == "source" and not labels.sampled
    assert labels.pool == Counter(row["source"] for row in made.rows) and labels.pool_rows == 257
    assert labels.selected == Counter(made.rows[row]["source"] for row in _selected(found))
    assert list(labels.selected.values()) == sorted(labels.selected.values(), reverse=True)
    for shown in [*found.best, *found.worst]:
        row = made.rows[shown.ranked.row]
        assert shown.text is not None and shown.text.label == row["source"]
        assert shown.text.turns == [("user", row["instruction"]), ("assistant", row["output"])]
    assert [s.ranked.rank for s in found.best] == [1, 2, 3] and [s.ranked.rank for s in found.worst] == [257, 256, 255]
    assert gathered(made.select("other", top_k=9), label="id").labels.column == "id"


@pytest.mark.parametrize(
    "options",
    [
        {"pick": "bottom", "top_k": 30},
        {"pick": "random", "fraction": 0.5},
        {"combine": "union", "top_k": 20},
        {"fraction": 1},
    ],
)
def test_texts_come_from_the_selection_where_the_pool_is_gone(tmp_path: Path, options: dict[str, Any]) -> None:
    made = Made(tmp_path, make_rows(90), 2)
    out = made.select(**options)
    made.pool.unlink()
    found = gathered(out, samples=8)
    assert found.labels is not None and found.labels.pool is None
    assert sum(found.labels.selected.values()) == found.chosen.manifest["rows_selected"]
    assert any("cannot be read" in note and "--dataset" in note for note in found.notes)
    shown = [*found.best, *found.worst]
    assert len(shown) == 16 and any(s.ranked.selected for s in shown)
    for s in shown:
        assert (s.text is not None) == s.ranked.selected
        if s.text is not None:
            assert s.text.turns[1][1] == made.rows[s.ranked.row]["output"]
    moved = made.pool.with_name("moved.jsonl")
    moved.write_text("".join(json.dumps(row) + "\n" for row in made.rows))
    found = gathered(out, samples=8, dataset=(str(moved),))
    assert found.notes == [] and found.labels is not None and found.labels.pool_rows == 90
    assert all(s.text is not None for s in [*found.best, *found.worst])


def test_labels_of_a_large_pool_are_sampled(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "LABEL_ROWS", 100)
    monkeypatch.setattr(samples, "RUN_ROWS", 10)
    monkeypatch.setattr(score_summary, "BATCH_ROWS", 7)
    found = gathered(made.select(top_k=40), samples=3)
    kept = [row for i, row in enumerate(made.rows) if i // 10 % 3 == 0]
    assert found.labels is not None and found.labels.sampled and found.labels.pool_rows == len(kept)
    assert found.labels.pool == Counter(row["source"] for row in kept)
    assert all(s.text is not None for s in [*found.best, *found.worst])


def test_targets_compared(made: Made) -> None:
    found = gathered(made.select(top_k=40))
    expected = score_codes(made.codes, made.signatures)
    best = [set(ordered(expected[:, c])[:26].tolist()) for c in range(3)]
    for i in range(3):
        for j in range(3):
            assert found.agreement["spearman"].cells[i][j] == pytest.approx(spearman(expected[:, i], expected[:, j]))
            assert found.agreement["overlap"].cells[i][j] == pytest.approx(len(best[i] & best[j]) / 26)
    z = (expected - expected.mean(axis=0)) / expected.std(axis=0)
    for shown, pick in ((found.best[0], np.argmax), (found.worst[0], np.argmin)):
        assert shown.target == f"t{pick(z[shown.ranked.row])}" and shown.decided is not None
    assert contents.agreement(expected[:, :1].T, ["t0"]) == {}


@pytest.mark.parametrize("kept", ["selected", "none"])
def test_scores_that_were_not_kept_are_made_again(made: Made, kept: str) -> None:
    options = {"top_k": 31, "combine": "max"}
    whole = gathered(made.select("whole", **options)).scores
    again = gathered(made.select("again", scores=kept, **options))
    assert whole is not None and again.scores is not None and again.scores.whole
    for name, value in vars(whole).items():
        if isinstance(value, np.ndarray):
            assert (getattr(again.scores, name) == value).all(), name
    assert [r.row for r in again.scores.best] == [r.row for r in whole.best]
    assert len(again.notes) == 1 and f"--scores {kept}" in again.notes[0]
    assert not list(made.folder.glob(".nait-fast-report-*"))


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (1, {"top_k": 40}),
        (1, {"top_k": 40, "pick": "bottom"}),
        (3, {"top_k": 40, "combine": "mean"}),
        (3, {"top_k": 40, "combine": "max"}),
        (3, {"top_k": 40, "combine": "roundrobin"}),
        (3, {"top_k": 20, "combine": "union"}),
        (1, {"top_k": 40, "near_duplicates": 0.35}),
    ],
)
def test_rows_at_the_cut(made: Made, monkeypatch: pytest.MonkeyPatch, targets: int, options: dict[str, Any]) -> None:
    monkeypatch.setattr(score_summary, "BATCH_ROWS", 50)
    found = gathered(made.select("cut", made.signatures[:targets], **options), samples=5)
    table = parquet.read_table(found.chosen.folder / "scores.parquet").to_pydict()
    taken = table.get("dropped_by", [None] * 257)
    kept = [i for i in range(257) if taken[i] is None]
    assert len(kept) == 257 if "near_duplicates" not in options else 100 < len(kept) < 257
    scores = np.array([table[f"score.t{c}"] for c in range(targets)])
    up = options.get("pick") != "bottom"
    order = sorted(kept, key=lambda i: table["rank"][i] if up else -table["rank"][i])
    chosen = [i for i in order if table["selected"][i]]
    assert order[: len(chosen)] == chosen and found.scores is not None and found.scores.cut is not None
    cut, edge = found.scores.cut, len(chosen)
    assert [r.row for r in cut.inside] == order[edge - 3 : edge][::-1]
    last = table["rank"][order[edge - 1]]
    assert [r.rank for r in cut.outside] == [last + step * (1 if up else -1) for step in (1, 2, 3)]
    assert not any(r.selected for r in cut.outside)
    np.testing.assert_array_equal(cut.above, scores[:, order[edge:]].max(axis=1))
    shown = {s.ranked.row for s in [*found.best, *found.worst]}
    for some, near in ((found.inside, cut.inside), (found.outside, cut.outside)):
        assert [s.ranked.row for s in some] == [r.row for r in near if r.row not in shown]
        assert all(s.text is not None and s.text.turns[1][1] == made.rows[s.ranked.row]["output"] for s in some)
    z = (scores - scores.mean(axis=1, keepdims=True)) / scores.std(axis=1, keepdims=True)
    np.testing.assert_allclose(found.scores.z(scores), z)
    if options.get("combine") not in ("mean", "max"):
        assert found.scores.combined is None
        return
    together = z.mean(axis=0) if options["combine"] == "mean" else z.max(axis=0)
    histogram = found.scores.combined
    assert histogram is not None and (histogram.pool.sum(), histogram.selected.sum()) == (257, 40)
    np.testing.assert_allclose([histogram.edges[0], histogram.edges[-1]], [together.min(), together.max()])
    selected = np.array(table["selected"])
    assert together[selected].min() > together[~selected].max()
    assert (
        histogram.selected == np.histogram(together[selected].clip(*histogram.edges[[0, -1]]), histogram.edges)[0]
    ).all()


@pytest.mark.parametrize("options", [{"pick": "random", "top_k": 40}, {"fraction": 1}])
def test_where_there_is_no_cut(made: Made, options: dict[str, Any]) -> None:
    found = gathered(made.select("none", made.signatures[:1], **options))
    assert found.scores is not None and found.scores.cut is None and found.inside == found.outside == []


def test_the_list(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(score_summary, "BATCH_ROWS", 50)
    monkeypatch.setattr(contents, "LISTED_ROWS", 7)
    for options in ({"top_k": 40}, {"top_k": 40, "pick": "bottom"}, {"top_k": 30, "coverage": 0.9}):
        out = made.select("listed", made.signatures[:2], combine="max", **options)
        table = parquet.read_table(out / "scores.parquet").to_pydict()
        ranked = sorted((table["rank"][i], table["row"][i]) for i in range(257) if table["selected"][i])
        for samples_, number in ((5, 7), ("all", options["top_k"])):
            found = gathered(out, samples=samples_)
            assert [(r.ranked.rank, r.ranked.row) for r in found.listed] == ranked[:number]
            assert len(found.best) == 5
            for listed in found.listed:
                row, scores = made.rows[listed.ranked.row], found.scores
                assert listed.excerpt is not None and listed.excerpt.label == row["source"] and scores is not None
                assert listed.excerpt.asked == row["instruction"] and row["output"].startswith(
                    listed.excerpt.answered[:80]
                )
                z = (listed.ranked.scores - scores.mean) / scores.deviation
                assert listed.target == int(np.argmax(z)) and listed.deviations == pytest.approx(z)
    for shown in [*found.best, *found.worst]:  # of coverage: lines of selected.jsonl have another order than the ranks
        assert shown.text is not None and shown.text.turns[1][1] == made.rows[shown.ranked.row]["output"]


def test_exact_scores_have_no_parts(made: Made) -> None:
    found = gathered(made.select("exact", [made.exact, *made.signatures[:1]], top_k=12))
    assert [part.target for part in found.layers] == ["t0"] and "numbers only" in found.notes[0]
    assert found.scores is not None and found.scores.mean[0] == pytest.approx(made.exact_scores.mean())
    alone = gathered(made.select("alone", [made.exact], top_k=12))
    assert alone.layers == [] and all(s.decided is None for s in [*alone.best, *alone.worst])
    assert load_signature(made.folder / "signatures" / "n.safetensors").method == "nait"


def test_a_pool_of_one_row(tmp_path: Path) -> None:
    found = gathered(Made(tmp_path, make_rows(1), 2).select(top_k=1))
    assert len(found.best) == 1 and found.worst == [] and found.labels is not None
