"""What ``evaluate`` found, in a report: the real file, one with everything in it, and damaged ones."""

from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.reporting.evaluation_file import load_evaluation
from nait_fast.storage.files import write_sealed
from tests.reporting.made import Made, make_rows, report
from tests.reporting.pages import check

NAMES = ["t0 (nait, drift)", "t0 (contrast, mean)", "<b>t1</b>"]
SQUARE = [[1.0, 0.25, None], [0.25, 1.0, -0.5], [None, -0.5, 1.0]]
EXAMPLE = {"row": 3, "score": None, "text": "<script>alert(1)</script>"}
FULL: dict[str, Any] = {
    "kind": "nait_fast evaluation",
    "format_version": 1,
    "rows": 1234,
    "signatures": [{"name": "t0", "label": NAMES[0], "hash": "f" * 16}, "t1", None],
    "fidelity": [
        {"signature": NAMES[0], "against": "the model's own", "rows": 9, "spearman": 0.9, "top10": None, "top1": 1}
    ],
    "retrieval": [
        {
            "signature": NAMES[1],
            "relevant": 3,
            "rows": 9,
            "r_precision": 0.5,
            "p_at": {"10": 0.25},
            "auc": 0.75,
            "chance": 0.125,
        }
    ],
    "stability": [
        {
            "signature": NAMES[0],
            "halves": {"spearman": 0.5, "top10": 0.25, "repeats": 7},
            "sign_margin": [1.0, 3.0],
            "bootstrap": [{"size": 16, "spearman": 0.5, "low": -0.25, "high": 0.75, "top10": 0.5}],
            "uncertain_layers": 1,
        },
        {"signature": NAMES[1], "halves": None, "bootstrap": [], "sign_margin": None, "uncertain_layers": None},
    ],
    "confounds": [
        {"signature": NAMES[0], "spearman_with_length": 0.5, "layer_share": [0.25, 0.5, 0.25], "layers": [0, 1, 2]},
        {"signature": NAMES[1], "spearman_with_length": None, "layer_share": None, "layers": [0, 1, 2]},
    ],
    "rules": [
        {
            "signature": NAMES[2],
            "rows": 1200,
            "relevant": True,
            "rules": ["centroid", "max"],
            "overlap": [[1, 0.125], [0.125, 1]],
            "tokens": [61.25, None],
            "target_tokens": 58.5,
            "r_precision": [0.75, None],
        }
    ],
    "agreement": {"names": NAMES[:2], "spearman": [[1, 0.5], [0.5, 1]], "top": [[1, 0.75], [0.75, 1]]},
    "transfer": {"names": NAMES, "cosine": [[1, 0.5, 0], None, [0, 0, 1]], "overlap": SQUARE, "spearman": None},
    "core": {"at_least": 2, "count": 1, "examples": [EXAMPLE]},
    "unique": {"<i>t1</i>": {"count": 2000, "examples": [{**EXAMPLE, "score": 1.5}]}},
    "missing": [{"what": "<u>all</u>", "why": "nobody asked"}],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), make_rows(120), 2)


def test_what_evaluate_wrote(made: Made, tmp_path: Path) -> None:
    out = made.select(fraction=0.1)
    nait_fast.evaluate(
        index=str(made.index),
        signature=made.saved(*made.signatures),
        output=str(out / "evaluation"),
        label="source",
        relevant=["t0=sums", "t1=code"],
    )
    html, result = report(out, tmp_path / "r.html")
    page = check(html)
    assert result["notes"] == []
    evaluation = load_evaluation(out / "evaluation" / "evaluation.json")
    assert set(evaluation.labels) == {s.hash for s in made.signatures} and evaluation.rows == 120
    assert {e["signature"] for e in evaluation.retrieval} == {"t0", "t1"} and set(evaluation.layer_share) == {
        "t0",
        "t1",
    }
    assert evaluation.transfer["spearman"].names == ["t0", "t1"] and len(evaluation.cores) == 1
    for title in ("Retrieval", "Fidelity", "Not told", "Evaluation"):
        assert title in [text for tag, text in page.texts if tag in ("h2", "h3")]
    assert "R-precision" in page.words and "In at least 2 selections by contrast, by chance" in page.words
    assert sum(text.endswith("between targets") for tag, text in page.texts if tag == "p") == 3


def test_everything_that_there_may_be(made: Made, tmp_path: Path) -> None:
    signatures = {**FULL, "signatures": [{"label": NAMES[0], "hash": made.exact.hash}]}
    write_sealed(tmp_path / "e.json", signatures)
    out = made.select("exact", [made.exact], top_k=9)
    html, result = report(out, tmp_path / "r.html", evaluation=str(tmp_path / "e.json"))
    page = check(html)
    # The layers of exact scores are the evaluation's.
    assert "Largest shares of the scores' variance: layer 1 (50.0%)" in page.words
    assert len(page.plots) == 1 + 1 + 1 + 1 + 2 + 2 + 2
    for said in (
        "on 1,234 rows",
        "16: +0.50 (−0.25 to +0.75)",
        "<u>all</u>: nobody asked",
        "In at least 2 selections",
        "Only in the selection for <i>t1</i>: 2,000 rows",
        "the model's own",
        "10: 0.250",
        "between methods",
        "<b>t1</b>centroid1,200––12.5%61.2558.500.750",
        "<b>t1</b>max1,20012.5%–––58.50–",
    ):
        assert said in page.words
    write_sealed(tmp_path / "e.json", FULL)
    result = report(out, tmp_path / "r.html", evaluation=str(tmp_path / "e.json"))[1]
    assert result["notes"][0] == "The evaluation is of other signatures than those of this selection."
    for kept in (["kind", "format_version", "rows"], [k for k in FULL if k != "signatures"]):
        write_sealed(tmp_path / "e.json", {k: FULL[k] for k in kept})
        check(report(out, tmp_path / "r.html", evaluation=str(tmp_path / "e.json"))[0])


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "nait_fast index"}, "not an evaluation"),
    ({"format_version": 2}, "format version 2, this nait_fast reads 1"),
    ({"rows": -1}, "rows"),
    ({"rows": None}, "rows"),
    ({"fidelity": 3}, "fidelity"),
    ({"fidelity": [{"signature": "a"}]}, "fidelity"),
    ({"fidelity": [{**FULL["fidelity"][0], "spearman": "much"}]}, "fidelity"),
    ({"retrieval": [{**FULL["retrieval"][0], "p_at": [1]}]}, "retrieval"),
    ({"retrieval": ["x"]}, "retrieval"),
    ({"stability": [{"signature": 1}]}, "stability"),
    ({"confounds": [{"signature": "a", "layer_share": [1.0], "layers": [1, 2]}]}, "confounds"),
    ({"confounds": [{"signature": "a", "layer_share": [float("nan")], "layers": [1]}]}, "confounds"),
    ({"rules": [{**FULL["rules"][0], "rules": ["centroid", "median"]}]}, "rules"),
    ({"rules": [{**FULL["rules"][0], "tokens": [1.0]}]}, "rules"),
    ({"rules": [{**FULL["rules"][0], "overlap": [[1]]}]}, "rules"),
    ({"rules": [{**FULL["rules"][0], "r_precision": ["much", 0.5]}]}, "rules"),
    ({"agreement": {"names": ["a"], "top": [[1, 2]]}}, "agreement"),
    ({"agreement": {"top": [[1]]}}, "agreement"),
    ({"transfer": {"names": ["a", "b"], "cosine": [[1, 0]]}}, "transfer"),
    ({"transfer": {"names": ["a"], "cosine": [["x"]]}}, "transfer"),
    ({"core": {"at_least": 1}}, "core"),
    ({"unique": {"a": {"count": 1, "examples": [{"row": "x"}]}}}, "unique"),
    ({"missing": [{"what": 1, "why": "x"}]}, "missing"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[str(change)[:40] for change, _ in WRONG])
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = tmp_path / "evaluation.json"
    write_sealed(path, {**FULL, **change})
    with pytest.raises(NaitError) as error:
        load_evaluation(path)
    assert str(error.value).startswith(f"{path}: ") and words in str(error.value) and "\n" not in str(error.value)


def test_a_changed_number_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "evaluation.json"
    write_sealed(path, {**FULL, "rows": 300})
    path.write_text(path.read_text().replace('"rows": 300', '"rows": 301', 1))
    with pytest.raises(NaitError, match=r"evaluation\.json: its bytes have changed"):
        load_evaluation(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "\x00", '{"kind": ' + "[" * 100_000])
def test_no_json_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(NaitError, match=r"evaluation\.json: "):
        load_evaluation(tmp_path / "evaluation.json")
