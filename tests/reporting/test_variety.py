"""How unlike the selected rows are, and how long beside the target's, as a report tells: against plain computations."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nait_fast.config import ReportOptions
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.index.sample import places_of_rows
from nait_fast.reporting import figures, page, variety
from nait_fast.reporting.contents import Report, gather, target_lengths
from nait_fast.reporting.formatting import number, percent
from nait_fast.reporting.layers import layer_parts
from nait_fast.reporting.variety import fired_shares
from tests.ranking.test_rules import _made
from tests.reporting.made import Made, make_rows, report
from tests.reporting.pages import check
from tests.rules.made import MadePool, make_pool
from tests.rules.test_near_duplicates import families

NEAR = "A near-duplicate is a selected row"


@pytest.fixture
def pool(tmp_path: Path) -> MadePool:
    """140 rows with gaps in their numbers, of 60 families whose members differ in about an eighth of 256 bits."""
    return make_pool(tmp_path / "pool", families(140, 32, 60, seed=4, noise=4))


def gathered(pool: MadePool, **options: Any) -> Report:
    out = pool.index.parent / "chosen"
    pool.rank(out, overwrite=True, **options)
    return gather(ReportOptions(selection=str(out)), out.parent / "report.html")


def nears(codes: np.ndarray, bits: float) -> int:
    """Rows that have another one at less than so many bits."""
    apart = np.bitwise_count(codes[:, None] ^ codes[None]).sum(axis=2, dtype=np.int64)
    np.fill_diagonal(apart, 9999)
    return int((apart < bits).any(axis=1).sum())


def test_places_of_rows(pool: MadePool) -> None:
    """Whatever their order, over shards, and though the pool has rows that the index has not."""
    index = Index(pool.index)
    assert len(index.entries) > 1
    some = np.random.default_rng(0).permutation(140)[:50]
    assert places_of_rows(index, pool.row[some]).tolist() == some.tolist()
    assert places_of_rows(index, pool.row[:0]).tolist() == []


@pytest.mark.parametrize("combine", [{"top_k": 40}, {"top_k": 40, "pick": "random", "seed": 5}])
def test_near_duplicates_and_coverage(pool: MadePool, monkeypatch: pytest.MonkeyPatch, combine: dict[str, Any]) -> None:
    monkeypatch.setattr(variety, "NEAR_SHARE", 0.15)
    found = gathered(pool, **combine)
    assert found.scores is not None and found.variety is not None and found.variety.untold == []
    places, near, curve = places_of_rows(Index(pool.index), found.scores.chosen), found.variety.near, None
    if "pick" not in combine:
        assert places.tolist() == pool.order[:40].tolist()
    assert near is not None and (near.compared, near.most_bits, near.bits, near.drawn) == (40, 38, 256, False)
    assert near.near == nears(pool.codes[places], 0.15 * 256) and 0 < near.near < 40
    curve = found.variety.coverage
    assert curve is not None and (curve.rows[0], curve.rows[-1], curve.neurons, curve.cut) == (1, 40, 256, False)
    bits = np.unpackbits(pool.codes, axis=1, bitorder="little")
    expected = [bits[places[:k]].max(axis=0).mean() for k in curve.rows]
    assert np.allclose(curve.selected, expected) and 0.3 < expected[0] < expected[-1] <= 1
    random = np.random.default_rng(0).choice(140, 40, replace=False)
    assert np.allclose(curve.random, [bits[random[:k]].max(axis=0).mean() for k in curve.rows])


def test_coverage_is_drawn_by_rank_and_that_is_said(pool: MadePool) -> None:
    found = gathered(pool, top_k=12, coverage=0.5)
    assert found.variety is not None and found.variety.coverage is not None and found.variety.coverage.reordered
    words = check(report(pool.index.parent / "chosen", pool.index.parent / "r.html")[0]).words
    assert "In order of rank: --coverage picked them in another." in words


def test_bounds_are_said(pool: MadePool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (variety, page):
        monkeypatch.setattr(module, "NEAR_SHARE", 0.15)
    monkeypatch.setattr(variety, "NEAR_ROWS", 25)
    monkeypatch.setattr(variety, "COVERED_ROWS", 7)
    found = gathered(pool, top_k=40)
    assert found.variety is not None and found.variety.near is not None and found.variety.coverage is not None
    near, coverage = found.variety.near, found.variety.coverage
    assert (near.compared, near.drawn) == (25, True) and near.near < nears(pool.codes[pool.order[:40]], 0.15 * 256)
    assert coverage.cut and coverage.rows[-1] == 7
    words = check(report(pool.index.parent / "chosen", pool.index.parent / "r.html")[0]).words
    assert f"near-duplicates{percent(near.near / 25)} that is{near.near} of 25 rows" in words
    assert f"{NEAR} whose code differs from that of another selected row in less than 15.0% of its bits: in" in words
    assert "in at most 38 of 256. 25 of the 40 selected rows, drawn at random (seed 0), were compared" in words
    assert "Only the first 7 selected rows are looked at." in words
    first = percent(float(coverage.selected[0]))
    assert f"(whose bit is on) in at least one of the first rows: 1 row {first} (" in words
    assert [figures._covered(share, 5000) for share in (0.5, 0.9898, 0.9998, 1)] == [
        "50.0%",
        "99.0%",
        "all but 1",
        "all",
    ]


def test_one_row_is_like_no_other(pool: MadePool) -> None:
    found = gathered(pool, top_k=1)
    assert found.variety is not None and found.variety.near is None and found.variety.coverage is not None
    words = check(report(pool.index.parent / "chosen", pool.index.parent / "r.html")[0]).words
    assert NEAR not in words and "Neurons that the selection covers" in words


def test_without_the_index_it_is_said(pool: MadePool) -> None:
    assert gathered(pool, top_k=9).variety is not None
    shutil.move(pool.index, pool.index.with_name("elsewhere"))
    words = check(report(pool.index.parent / "chosen", pool.index.parent / "r.html")[0]).words
    assert "Without the index it is not told how alike the selected rows are" in words and NEAR not in words


def test_damaged_codes_are_not_read(pool: MadePool) -> None:
    index = Index(pool.index)
    with open(index.entries[0].path, "r+b") as file:
        data = bytearray(file.read())
        at = data.find(pool.codes[3].tobytes())
        data[at] ^= 1
        file.seek(0)
        file.write(data)
    with pytest.raises(NaitError, match="shard"):
        fired_shares(Index(pool.index), np.array([3]), [1])


def test_parts_of_selected_rows_whose_scores_alone_were_kept(tmp_path: Path) -> None:
    """The layers' differences are those of the selected rows, not of the first rows of the index."""
    made = Made(tmp_path, make_rows(150), 1)
    found = {}
    for kept in ("all", "selected"):
        out = made.select(kept, near_duplicates=0.2, top_k=30, scores=kept)
        found[kept] = gather(ReportOptions(selection=str(out)), out.parent / "report.html")
    whole, some = found["all"], found["selected"]
    assert whole.scores is not None and some.scores is not None and whole.scores.whole and not some.scores.whole
    assert (some.scores.chosen == whole.scores.chosen).all()
    rows = np.sort(whole.scores.chosen)  # numbers in the pool are places here
    expected = layer_parts(Index(made.index), made.signatures[0], np.arange(150), rows).difference
    for one in (whole, some):
        assert one.layers[0].selected == 30
        np.testing.assert_allclose(one.layers[0].difference, expected)
    assert whole.variety is not None and some.variety is not None and whole.variety.near == some.variety.near


def test_lengths_of_pool_selection_and_target(tmp_path: Path, tiny_model: str, capsys: Any) -> None:
    import nait_fast

    index, files = _made(tmp_path, tiny_model, "contrast", capsys)
    out = tmp_path / "chosen"
    nait_fast.rank(index=index, signature=files, output=out, top_k=20)
    found = gather(ReportOptions(selection=str(out)), tmp_path / "report.html")
    lengths, scores = target_lengths(found.chosen), found.scores
    assert scores is not None and {name: len(own) for name, own in lengths.items()} == {"a": 9, "b": 5}
    (shard,) = Index(index).shards()
    tokens, edges = np.array(shard.n_tokens), scores.by_length.edges
    assert (scores.by_length.pool == np.histogram(tokens, edges)[0]).all() and scores.by_length.pool.sum() == 90
    assert (scores.by_length.selected == np.histogram(tokens[scores.chosen], edges)[0]).all()
    every = np.concatenate([tokens, *lengths.values()])
    assert edges[0] < every.min() and every.max() < edges[-1]
    drawn = figures.draw(found, False)["length"]
    assert [one.name for one in drawn] == ["tokens-a", "tokens-b", "length-a", "length-b"]
    means = [number(float(some.mean())) for some in (tokens[scores.chosen], tokens, lengths["a"])]
    said = f"a selected sample has {means[0]} tokens, one of the pool {means[1]}, one of the target's 9 samples"
    assert f"{said} {means[2]}." in drawn[0].text and drawn[1].title == "Tokens of the samples, beside those of b"
    assert list(page.lengths_untold(found)) == []


def test_lengths_beyond_the_pools(pool: MadePool) -> None:
    from nait_fast.reporting.score_summary import ScoreFile, summarise

    out = pool.index.parent / "chosen"
    pool.rank(out, top_k=20)
    file = ScoreFile(out / "scores.parquet", ["a"], 140)
    own = [np.array([1, 2], dtype=np.int32), np.array([900], dtype=np.int32)]
    edges = summarise(file, True, 20, 5, 10, own).by_length.edges
    assert edges[0] < 1 and edges[-1] > 900
    plain = summarise(file, True, 20, 5, 10).by_length
    assert plain.edges[0] > 0 and plain.edges[-1] < 900 and plain.pool.sum() == 140 and plain.selected.sum() == 20


def test_lengths_that_were_not_kept(tmp_path: Path) -> None:
    made = Made(tmp_path, make_rows(60), 2)
    out = made.select(top_k=9)
    words = check(report(out, tmp_path / "r.html")[0]).words
    said = "How long the samples of t0 and t1 are is not told: "
    assert f"{said}a signature keeps what it takes where that is at most 64 MiB, or with --keep-samples." in words
    assert "Tokens of the pool's and the selected samples" in words
    found = gather(ReportOptions(selection=str(out)), tmp_path / "r.html")
    for signature in found.chosen.signatures:
        signature.meta["method"] = "nait"
    assert list(page.lengths_untold(found)) == [f"{said}their method keeps no samples."]
    shutil.rmtree(tmp_path / "signatures")
    (line,) = page.lengths_untold(gather(ReportOptions(selection=str(out)), tmp_path / "r.html"))
    assert line == f"{said}there is no signature at hand."
