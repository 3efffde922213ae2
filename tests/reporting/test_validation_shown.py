"""What ``validate`` found, in a report and by ``inspect``: one with everything in it, one of another selection, and
damaged ones."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.errors import Damaged, NaitError
from nait_fast.reporting.validation_file import load_validation
from nait_fast.storage.files import read_sealed, write_sealed
from nait_fast.validation import FILE
from tests.commands import run, summary
from tests.reporting.made import Made, change, make_rows, report
from tests.reporting.pages import check

GENERAL = "<i>all</i>"


def measured(mean: float, half: float | None = 0.008, **more: Any) -> dict[str, Any]:
    return {"mean": mean, "half": half, **more}


def arm(name: str, loss: float, difference: float | None = None, word: str = "", **more: Any) -> dict[str, Any]:
    """Losses on both sets; ``difference``: on the target's, none at all for random rows."""
    whole = {
        "arm": name,
        "target": None,
        "seeds": 3,
        "rows": 412.667,
        "mean_response": 49.6,
        "losses": {"t0": measured(loss), GENERAL: measured(2 * loss)},
    }
    if difference is not None:
        other = measured(0.0123, None, word="")
        whole["against_random"] = {"t0": measured(difference, word=word), GENERAL: other}
    return {**whole, **more}


FULL: dict[str, Any] = {
    "kind": "nait_fast validation",
    "format_version": 1,
    "selection": {"folder": "chosen", "checksum": "a" * 64, "targets": ["t0"]},
    "model": "models/tiny <b>",
    "recipe": {"tokens": 20480, "steps": 32, "layers": 6, "rank": 8, "lr": 0.001, "alpha": 16},
    "sets": [
        {"name": "t0", "role": "target", "samples": 64, "tokens": 3210},
        {"name": GENERAL, "role": "general", "samples": 128, "tokens": 9876},
    ],
    "arms": [
        arm("base", 1.5, 0.25, "worse", seeds=1, rows=None, mean_response=None, accuracy={"t0": measured(0.51, None)}),
        arm("random", 1.25),
        arm("random_length", 1.24, -0.01),
        arm(
            "top",
            1.2,
            -0.0174,
            "better",
            accuracy={"t0": measured(0.612, 0.013)},
            accuracy_against_random={"t0": measured(0.031, 0.042)},
        ),
        arm("bottom", 1.3, 0.05, "worse"),
    ],
    "verdicts": [
        {"target": "t0", "text": "<u>better</u> than random rows by 0.017", "word": "better", **measured(-0.0174)}
    ],
    "warnings": ["few <u>samples</u>"],
    "environment": {},
    "options": {},
}
TENTHS = [arm(f"tenth {k}", 1.2 + 0.01 * k, 0.01 * k - 0.05, "") for k in range(1, 11)]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), make_rows(120), 1)


def validate(folder: Path, out: Path, **changed: Any) -> Path:
    """Writes that of the selection ``out`` into ``folder``."""
    folder.mkdir(exist_ok=True)
    of = {**FULL["selection"], "checksum": read_sealed(out / "manifest.json")["checksum"]}
    write_sealed(folder / FILE, {**FULL, "selection": of, **changed})
    return folder / FILE


def test_the_section(made: Made, tmp_path: Path) -> None:
    out = made.select("told", fraction=0.1)
    before = check(report(out, tmp_path / "r.html")[0])
    assert "Does it train better?" not in before.words
    file = validate(tmp_path / "found", out)
    html, result = report(out, tmp_path / "r.html", validation=str(file))
    page = check(html)
    assert result["notes"] == [] and len(page.plots) == len(before.plots)
    headings = [text for tag, text in page.texts if tag == "h2"]
    assert headings[:3] == ["Scores", "Does it train better?", "Composition"]
    assert [p["class"] for p in page.find("p") if "verdict" in p.get("class", "")] == ["verdict for"]
    for said in (
        "t0: <u>better</u> than random rows by 0.017",
        f"Elsewhere, on {GENERAL}: not told apart, loss +0.012 ± ? against random rows.",
        "t0: right answers: +3.1 ± 4.2 points against random rows, not told apart.",
        "tiny <b> was trained anew for each arm (LoRA of rank 8 on the last 6 layers), on 20,480 response "
        "tokens a run in 32 steps, with 3 seeds an arm, and measured on held-out samples: 64 samples of t0 (target) "
        f"and 128 samples of {GENERAL} (general).",
        "Mind: few <u>samples</u>",
        f"loss on t0against random on t0accuracy on t0loss on {GENERAL}against random on {GENERAL}",
        "as it is1––1.500 ± 0.008+0.250 ± 0.008 worse51.0%3.000 ± 0.008+0.012 ± ?",
        "random rows3413501.250 ± 0.008––2.500 ± 0.008–",
        "random, same lengths3413501.240 ± 0.008−0.010 ± 0.008–",
        "the selection3413501.200 ± 0.008−0.017 ± 0.008 better61.2% ± 1.3%2.400 ± 0.008",
        "the worst rows3413501.300 ± 0.008+0.050 ± 0.008 worse",
        "± ?: too few seeds to tell.",
    ):
        assert said in page.words, said
    assert "the tenths in numbers" not in page.words
    # Named by its folder it is the same page, and so where it lies in the selection's.
    assert report(out, tmp_path / "again.html", validation=str(file.parent))[0] == html
    for place in (out / "validation", out):
        validate(place, out)
        assert report(out, tmp_path / "again.html")[0] == html
        (place / FILE).unlink()


def test_tenths_are_drawn(made: Made, tmp_path: Path) -> None:
    out = made.select("tenths", fraction=0.1)
    validate(out, out, arms=[*FULL["arms"], *TENTHS], warnings=[])
    html, result = report(out, tmp_path / "r.html", plots=str(tmp_path / "plots"))
    page = check(html)
    assert "training.png" in result["plots"] and "training.svg" in result["plots"]
    for said in (
        "Loss after training on each tenth of the ranking",
        "On t0 the loss is lowest after tenth 1 (1.210; −0.040 ± 0.008 against random rows) and highest after tenth 10 "
        "(1.300; +0.050 ± 0.008 against random rows).",
        "Bars are intervals of the difference from random rows",
        "the tenths in numbers",
        "tenth 10 of the ranking3413501.300 ± 0.008+0.050 ± 0.008",
        f"loss on {GENERAL}",
    ):
        assert said in page.words, said
    # Without the differences it is the losses' own intervals that are drawn.
    alone = [{k: v for k, v in entry.items() if k != "against_random"} for entry in TENTHS]
    validate(out, out, arms=[*FULL["arms"], *alone])
    page = check(report(out, tmp_path / "r.html")[0])
    for said in (
        "On t0 the loss is lowest after tenth 1 (1.210 ± 0.008) and highest after tenth 10 (1.300 ± 0.008); after "
        "random rows it is 1.250 ± 0.008.",
        "Bars and band are intervals of each loss by itself.",
    ):
        assert said in page.words, said
    # One tenth makes no curve; the table has it.
    validate(out, out, arms=TENTHS[:1], verdicts=[])
    page = check(report(out, tmp_path / "r.html")[0])
    assert "tenth 1 of the ranking" in page.words and "Loss after training on each tenth" not in page.words


def test_tenths_of_several_targets(tmp_path: Path) -> None:
    made = Made(tmp_path / "made", make_rows(120), 2)
    out = made.select(fraction=0.1)
    selection = {"checksum": read_sealed(out / "manifest.json")["checksum"], "targets": ["t0", "t1"]}
    half = [{**entry, "target": "t0", "losses": {"t0": measured(1.1, None)}} for entry in TENTHS[::2]]
    arms = [*FULL["arms"], *TENTHS, *half, arm("top", 1.1, -0.1, "better", target="t0")]
    validate(out, out, arms=arms, selection={**FULL["selection"], **selection})
    page = check(report(out, tmp_path / "r.html")[0])
    titles = [text for tag, text in page.texts if tag == "p" and text.startswith("Loss after")]
    assert titles == [f"Loss after training on each tenth of the ranking{of}" for of in ("", " for t0")]
    assert "the selection for t0" in page.words and "tenth 9 of the ranking for t0" in page.words
    assert "lowest after tenth 1 (1.100; −0.040 ± 0.008 against random rows)" in page.words


@pytest.mark.parametrize("arms", [[], [{**FULL["arms"][1], "losses": {}}]], ids=["no arm", "no loss"])
def test_little_is_told(made: Made, tmp_path: Path, arms: list[dict[str, Any]]) -> None:
    out = made.select("little", fraction=0.1)
    validate(out, out, arms=arms, verdicts=[], warnings=[], sets=[])
    page = check(report(out, tmp_path / "r.html")[0])
    assert "Does it train better?" in page.words and "against random" not in page.words.lower()
    assert "was trained anew" in nait_fast.inspect(str(write_alone(tmp_path / "alone", arms)))["text"]


def write_alone(folder: Path, arms: list[dict[str, Any]]) -> Path:
    folder.mkdir()
    write_sealed(folder / FILE, {**FULL, "arms": arms, "verdicts": [], "warnings": [], "sets": []})
    return folder


def test_words_that_do_not_speak_for_it_are_marked_so(made: Made, tmp_path: Path) -> None:
    out = made.select("marked", fraction=0.1)
    verdicts = [{**FULL["verdicts"][0], "word": word} for word in ("better", "worse", "not told apart")]
    validate(out, out, verdicts=verdicts)
    page = check(report(out, tmp_path / "r.html")[0])
    marks = [p["class"] for p in page.find("p") if p.get("class", "").startswith("verdict")]
    assert marks == ["verdict for", "verdict against", "verdict open"]


def test_one_of_another_selection_is_said(made: Made, tmp_path: Path) -> None:
    out = made.select("other", fraction=0.1)
    validate(out, out)
    change(out, warnings=["this is another one"])
    html, result = report(out, tmp_path / "r.html")
    said = "The validation is of another selection than this one, and is not shown: validate this one."
    assert result["notes"] == [said]
    page = check(html)
    assert said in page.words and "Does it train better?" not in page.words


def test_what_inspect_says(capsys: Any, made: Made, tmp_path: Path) -> None:
    file = validate(tmp_path / "found", made.select("seen", fraction=0.1), arms=[*FULL["arms"], *TENTHS])
    for place in (file, file.parent):
        seen = nait_fast.inspect(str(place))
        lines = [" ".join(line.split()) for line in seen["text"].splitlines()]
        assert seen["kind"] == "nait_fast validation" and seen["verdicts"] == FULL["verdicts"]
        assert lines[0] == f"{place}: whether a selection trains better" or len(str(place)) > 40
        for said in (
            "t0: <u>better</u> than random rows by 0.017",
            f"elsewhere, on {GENERAL}: not told apart, loss +0.012 ± ? against random rows",
            "t0: right answers: +3.1 ± 4.2 points against random rows, not told apart",
            "± ?: too few seeds to tell.",
            "- few <u>samples</u>",
            "trained on seeds rows tokens of a response",
            "as it is 1 – –",
            "the selection 3 413 50",
            "loss on t0 loss against random accuracy",
            "the selection 1.200 ± 0.008 −0.017 ± 0.008 better 61.2% ± 1.3%",
            "random rows 2.500 ± 0.008 –",
            "tenth 10 of the ranking 1.300 ± 0.008 +0.050 ± 0.008 –",
        ):
            assert said in lines, said
        assert all(len(line) <= 80 for line in seen["text"].splitlines() if str(tmp_path) not in line)
    assert summary(capsys, "inspect", file)["arms"] == [*FULL["arms"], *TENTHS]
    shown = " ".join(run(capsys, "inspect", file.parent).out.split())
    assert "whether a selection trains better" in shown


def test_a_pool_of_that_name_is_a_pool(tmp_path: Path) -> None:
    (tmp_path / "pool").mkdir()
    rows = [{"instruction": "say", "output": f"word {i}"} for i in range(5)]
    (tmp_path / "pool" / FILE).write_text(json.dumps(rows))
    for place in (tmp_path / "pool", tmp_path / "pool" / FILE):
        assert nait_fast.inspect(str(place))["rows"] == 5


TOP, SET = FULL["arms"][3], FULL["sets"][0]
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"kind": "nait_fast evaluation"}, "not a validation"),
    ({"format_version": 2}, "format version 2, this nait_fast reads 1"),
    ({"selection": None}, "selection"),
    ({"selection": {"checksum": "a" * 64}}, "selection"),
    ({"selection": {"checksum": "a" * 63, "targets": []}}, "checksum"),
    ({"selection": {"checksum": "a" * 64, "targets": [1]}}, "targets"),
    ({"model": 3}, "model"),
    ({"recipe": []}, "recipe"),
    ({"recipe": {**FULL["recipe"], "tokens": -1}}, "tokens"),
    ({"recipe": {**FULL["recipe"], "steps": 1.5}}, "steps"),
    ({"recipe": {**FULL["recipe"], "layers": None}}, "layers"),
    ({"recipe": {**FULL["recipe"], "rank": True}}, "rank"),
    ({"recipe": {**FULL["recipe"], "lr": float("nan")}}, "lr"),
    ({"sets": {}}, "sets"),
    ({"sets": [*FULL["sets"], SET]}, "sets: twice"),
    ({"sets": [{**SET, "role": "other"}]}, "role"),
    ({"sets": [{**SET, "samples": "many"}]}, "samples"),
    ({"sets": [{**SET, "tokens": None}]}, "tokens"),
    ({"arms": None}, "arms"),
    ({"arms": ["top"]}, "arms"),
    ({"arms": [TOP, TOP]}, "arms: twice"),
    ({"arms": [{**TOP, "arm": "middle"}]}, "arm: 'middle'"),
    ({"arms": [{**TOP, "arm": "tenth 11"}]}, "arm: 'tenth 11'"),
    ({"arms": [{**TOP, "target": "t9"}]}, "target: 't9'"),
    ({"arms": [{**TOP, "seeds": 0.5}]}, "seeds"),
    ({"arms": [{**TOP, "rows": -1}]}, "rows"),
    ({"arms": [{**TOP, "mean_response": "long"}]}, "mean_response"),
    ({"arms": [{k: v for k, v in TOP.items() if k != "losses"}]}, "losses"),
    ({"arms": [{**TOP, "losses": {"t9": measured(1.0)}}]}, "losses: 't9'"),
    ({"arms": [{**TOP, "losses": {"t0": {"mean": 1.0}}}]}, "half"),
    ({"arms": [{**TOP, "losses": {"t0": measured(1.0, -1.0)}}]}, "half"),
    ({"arms": [{**TOP, "losses": {"t0": measured(float("inf"))}}]}, "losses"),
    ({"arms": [{**TOP, "against_random": {"t0": measured(1.0)}}]}, "word"),
    ({"arms": [{**TOP, "against_random": {"t0": measured(1.0, word="good")}}]}, "word: 'good'"),
    ({"arms": [{**TOP, "against_random": [1]}]}, "against_random"),
    ({"arms": [{**TOP, "accuracy": {"t0": measured(61.2)}}]}, "accuracy"),
    ({"verdicts": [3]}, "verdicts"),
    ({"verdicts": [{**FULL["verdicts"][0], "target": "t9"}]}, "target: 't9'"),
    ({"verdicts": [{**FULL["verdicts"][0], "word": ""}]}, "word: ''"),
    ({"verdicts": [{**FULL["verdicts"][0], "text": None}]}, "text"),
    ({"verdicts": [{**FULL["verdicts"][0], "mean": None}]}, "mean"),
    ({"warnings": [1]}, "warnings"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[str(change)[-60:] for change, _ in WRONG])
def test_a_damaged_file_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    write_sealed(tmp_path / FILE, {**FULL, **change})
    with pytest.raises(NaitError) as error:
        load_validation(tmp_path / FILE)
    said = str(error.value)
    assert said.startswith(f"{tmp_path / FILE}: ") and words in said and "\n" not in said


@pytest.mark.parametrize("part", [k for k in FULL if k not in ("kind", "format_version", "environment", "options")])
def test_no_part_may_be_missing(tmp_path: Path, part: str) -> None:
    write_sealed(tmp_path / FILE, {k: v for k, v in FULL.items() if k != part})
    with pytest.raises(Damaged, match=rf"validation\.json: not a valid validation \({part}: "):
        load_validation(tmp_path / FILE)


def test_a_changed_number_is_refused(tmp_path: Path) -> None:
    write_sealed(tmp_path / FILE, FULL)
    text = (tmp_path / FILE).read_text()
    (tmp_path / FILE).write_text(text.replace('"mean": 1.5', '"mean": 1.1', 1))
    for read in (load_validation, lambda path: nait_fast.inspect(str(path))):
        with pytest.raises(Damaged, match=r"validation\.json: its bytes have changed"):
            read(tmp_path / FILE)


def test_what_report_refuses(capsys: Any, made: Made, tmp_path: Path) -> None:
    out = made.select("refused", fraction=0.1)
    for given, words in (
        (tmp_path / "none.json", "none.json: no such file"),
        (tmp_path, "validation.json: no such file"),
        (out / "manifest.json", "manifest.json: not a validation"),
    ):
        assert words in run(capsys, "report", out, "--validation", given, "--output", tmp_path / "r.html").error
    validate(tmp_path, out)
    page = tmp_path / "validation.html"
    shutil.copy(tmp_path / FILE, page)
    assert "validation.html" in run(capsys, "report", out, "--validation", page, "--output", page).error
    assert page.read_bytes() == (tmp_path / FILE).read_bytes()
