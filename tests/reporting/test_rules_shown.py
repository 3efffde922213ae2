"""A report of a selection by single samples, by matched lengths or by another tool's scores tells of those scores."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.config import ReportOptions
from nait_fast.index.reader import Index
from nait_fast.methods.signature import LENGTHS, SAMPLES, load_signature
from nait_fast.reporting.contents import Report, gather
from nait_fast.reporting.evaluation_file import load_evaluation
from nait_fast.reporting.figures import draw
from nait_fast.reporting.formatting import number, percent
from tests.ranking.test_rules import _made
from tests.reporting.made import report
from tests.reporting.pages import check


@pytest.fixture
def made(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[Path]]:
    return _made(tmp_path, tiny_model, "contrast", capsys)


def _gathered(index: Path, name: str, **options: Any) -> Report:
    """What is reported of a selection that is made into the folder ``name``."""
    nait_fast.rank(index=index, output=index.parent / name, top_k=20, **options)
    return gather(ReportOptions(selection=str(index.parent / name)), index.parent / "report.html")


def _decided(found: Report) -> list[float | None]:
    """What each end's parts add up to."""
    return [None if s.decided is None else s.decided.total for s in [*found.best, *found.worst]]


@pytest.mark.parametrize(("rule", "length"), [("max", "free"), ("roundrobin", "matched"), (None, "matched")])
def test_by_rule_and_length(made: Any, tmp_path: Path, rule: str | None, length: str) -> None:
    index, files = made
    options = {"signature": files, "rule": rule, **({} if length == "free" else {"length": length})}
    whole = _gathered(index, "all", **options)
    page = check(report(tmp_path / "all", tmp_path / "page.html")[0])
    assert whole.scores is not None
    if rule is None:
        scores = np.array([s.ranked.scores[whole.chosen.targets.index(s.target)] for s in [*whole.best, *whole.worst]])
        means = [whole.scores.mean[whole.chosen.targets.index(s.target)] for s in [*whole.best, *whole.worst]]
        np.testing.assert_allclose(_decided(whole), scores - means, atol=1e-6)
        assert [part.target for part in whole.layers] == ["a", "b"] and whole.notes == []
        assert "by method contrast, length matched, with" in page.words
    else:
        assert whole.layers == [] and None not in _decided(whole)
        assert whole.notes == [
            f"What layers make of the scores of a, b over the whole pool is not told: rule {rule} compares rows with "
            "single target samples. Beside rows it is told of each."
        ]
        assert f"by method contrast and rule {rule}" in page.words and "against the pool's mean" not in page.words
        assert "There is nothing to tell which layers made these scores." in page.words
        assert "(in turns)" in page.words  # targets, by default, or their samples
    assert ("targets against rows of the pool as long as their samples" in page.words) == (length == "matched")
    if rule == "max":
        nait_fast.evaluate(index=index, signature=files, output=tmp_path / "evaluation")
        evaluated = ReportOptions(selection=str(tmp_path / "all"), evaluation=str(tmp_path / "evaluation"))
        with_it = gather(evaluated, tmp_path / "page.html")
        assert with_it.notes[0].startswith("The evaluation scores by each method's own rule")
        assert with_it.evaluation is not None and with_it.evaluation.layer_share and not draw(with_it, False)["layers"]
        nait_fast.evaluate(index=index, signature=files, output=tmp_path / "by max", rule="max")
        by_max = replace(evaluated, evaluation=str(tmp_path / "by max"))
        assert not any("The evaluation" in note for note in gather(by_max, tmp_path / "page.html").notes)
        _gathered(index, "whole", signature=files)
        other = gather(replace(by_max, selection=str(tmp_path / "whole")), tmp_path / "page.html").notes
        assert other == ["The evaluation scores by rule max, all lengths alike: not as this selection does."]
        shown = report(tmp_path / "all", tmp_path / "page.html", evaluation=str(tmp_path / "by max"), overwrite=True)[0]
        words = check(shown).words
        assert "found on 90 rows, ranked by rule max." in words and "Agreement of rules" in words
        (entry, _) = load_evaluation(tmp_path / "by max" / "evaluation.json").between_rules
        mean, turns, _ = entry["by"]
        share, other_share = (percent(mean["shared"][rule]) for rule in ("roundrobin", "max"))
        assert f"acentroid9–{share}{other_share}{number(mean['tokens'])}{number(entry['target_tokens'])}–" in words
        assert 0 < mean["shared"]["roundrobin"] == turns["shared"]["centroid"] < 1
    for kept in ("selected", "none"):
        again = _gathered(index, kept, scores=kept, **options)
        assert again.scores is not None and again.scores.whole and f"--scores {kept}" in again.notes[0]
        for name, value in vars(whole.scores).items():
            if isinstance(value, np.ndarray):
                assert (getattr(again.scores, name) == value).all(), name
        assert [r.row for r in again.scores.best] == [r.row for r in whole.scores.best]
        assert [r.rank for r in again.scores.worst] == [r.rank for r in whole.scores.worst]


def test_another_tools_scores(made: Any, tmp_path: Path) -> None:
    index, (file, _) = made
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=Index(index).pool_rows))
    options = {"foreign_scores": [f"x={tmp_path / 'x.npy'}"]}
    found = _gathered(index, "alone", **options)
    theirs = "Which layers and neurons made the scores of x is not told: they are another tool's."
    assert found.notes == [theirs] and found.layers == [] and set(_decided(found)) == {None}
    mixed = _gathered(index, "mixed", signature=[file], **options)
    assert mixed.notes == [theirs] and [part.target for part in mixed.layers] == ["a"]
    assert all((s.decided is None) == (s.target == "x") for s in [*mixed.best, *mixed.worst])
    none = _gathered(index, "none", scores="none", signature=[file], **options)
    assert none.scores is None
    assert none.notes == [theirs, "The scores were not kept (--scores none); another tool's are not made again."]


def test_inspect_tells_what_decided(made: Any, tmp_path: Path) -> None:
    index, (file, _) = made
    given = {"index": index, "signature": [file], "top_k": 20}
    plain = nait_fast.rank(**given, output=tmp_path / "plain")
    assert not {"rule", "length", "quality", "constraints"} & nait_fast.inspect(str(tmp_path / "plain")).keys()
    more = {"rule": "max", "length": "matched", "near_duplicates": 0.35}
    more |= {"quality": f"{tmp_path / 'plain' / 'scores.parquet'}#n_tokens"}
    told = nait_fast.rank(**given, **more, output=tmp_path / "more")
    shown = nait_fast.inspect(str(tmp_path / "more"))
    assert (shown["rule"], shown["length"], shown["quality"]) == ("max", "matched", told["quality"])
    (line,) = told["constraints"]
    assert shown["constraints"] == {line["constraint"]: line["dropped"]} and line["dropped"] > 0
    assert plain["rows_selected"] == shown["rows_selected"] == 20
    signature = load_signature(file)
    tensors = {name: tensor for name, tensor in signature.tensors.items() if name not in (SAMPLES, LENGTHS)}
    (tmp_path / "without").mkdir()
    without = replace(signature, tensors=tensors).save(tmp_path / "without")
    assert [nait_fast.inspect(str(path))["samples_kept"] for path in (file, without)] == [9, 0]
