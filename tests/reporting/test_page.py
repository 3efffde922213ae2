"""The page: well-formed, alone, the same each time, whatever the rows hold and whatever is missing."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pyarrow import parquet

import nait_fast
from nait_fast.config import ReportOptions
from nait_fast.errors import NaitError
from nait_fast.outputs.recognise import CLAIM
from nait_fast.reporting import contents, figures, formatting, layers
from nait_fast.reporting.drawing import COLOURS
from nait_fast.storage.lock import FOLDER_LOCK
from tests.reporting.made import Made, change, make_rows, plain, report
from tests.reporting.pages import check

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "</style></title></svg></text><h1>out</h1><!-- -->",
    "\"double\" 'single' `back` &amp; &lt;",
    "{{ 7 * 7 }} {% raw %} {# none #}",
    "$\\frac{$ x^2 _{ \\",
    "\u202eright to left\u202c שלום עולם",
    "nul \x00 bell \x07 escape \x1b[31m half \ud83d noncharacter \uffff",
    "w" * 5000,
    "e" + "\u0301" * 300,
    "",
    "  \n\n  ",
    "==cmd|' /C calc'!A0",
    "https://example.org/ javascript:alert(1)",
]
CSS = (Path(formatting.__file__).parent / "page.css").read_text()


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), make_rows(200), 2)


def test_one_target(made: Made, tmp_path: Path) -> None:
    html, result = report(made.select("one", made.signatures[:1], top_k=20), tmp_path / "one.html")
    page = check(html)
    assert result["notes"] == [] and result["bytes"] == len(html.encode()) < 300_000
    assert "Out of 200 samples of pool.jsonl, nait-fast rank chose the best 20 (10.0%; " in page.words
    assert len(page.plots) == 6 and "nothing to compare" in page.words
    for title in ("Scores", "Composition", "Layers", "Length", "Variety", "Why a row", "Selected rows", "Provenance"):
        assert ("h2", title) in page.texts
    assert "Rank 1 of 200" in page.words and "Rank 200 of 200" in page.words and "Most in layers" in page.words
    command = next(text for tag, text in page.texts if tag == "pre")
    assert command.startswith(f"nait-fast rank --index {made.index} --signature ") and "--top-k 20" in command
    manifest = json.loads((made.folder / "one" / "manifest.json").read_text())
    for said in (manifest["model"], manifest["files"]["selected.jsonl"], manifest["environment"]["cpu"]):
        assert said in page.words


def test_the_same_selection_gives_the_same_bytes(made: Made, tmp_path: Path) -> None:
    out = made.select("two", fraction=0.2)
    result = [report(out, tmp_path / name / "r.html", plots=str(tmp_path / name)) for name in ("a", "b")]
    assert result[0][0] == result[1][0]
    files = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert {*result[0][1]["plots"], "r.html", CLAIM, FOLDER_LOCK} == set(files)
    assert {"scores-t1.png", "composition.svg", "layers-t0.png", "length-t1.svg", "transfer-overlap.png"} <= set(files)
    for name, data in files.items():
        if name.endswith(".png"):
            assert data.startswith(b"\x89PNG")
        elif name.endswith(".svg"):
            assert data.startswith(b"<?xml") and b"currentColor" not in data and b"dc:date" not in data
    assert not list(tmp_path.rglob("*.tmp"))


def test_many_targets(tmp_path: Path) -> None:
    made = Made(tmp_path, make_rows(120), 8, widths=[96] * 32)
    html, _ = report(made.select(combine="union", fraction=0.1), tmp_path / "many.html")
    page = check(html)
    assert len(page.plots) == 3 * 8 + 1 + 2 + 2 + 1 and len(html) < 1_500_000
    for options, said in (
        ({"combine": "roundrobin"}, "(in turns)"),
        ({"pick": "bottom"}, "chose the worst"),
        ({"pick": "random", "combine": "max"}, "chose at random"),
    ):
        out = made.select("few", signatures=made.signatures[:2], **options, fraction=0.1)
        assert said in check(plain(out, tmp_path / "few.html")).words


@pytest.mark.parametrize("format", ["alpaca", "messages", "text", "prompt_completion", "input_ids"])
def test_hostile_texts(tmp_path: Path, format: str) -> None:
    rows: list[dict[str, Any]] = []
    for i in range(3 * len(HOSTILE)):
        text = HOSTILE[i % len(HOSTILE)]
        clean = text.encode(errors="ignore").decode() + " end"
        row: dict[str, Any] = {
            "alpaca": {"instruction": clean, "output": clean},
            "messages": {"messages": [{"role": r, "content": clean} for r in ("user", "assistant") * 6]},
            "text": {"text": clean},
            "prompt_completion": {"prompt": clean, "completion": clean},
            "input_ids": {"input_ids": list(range(i + 1))},
        }[format]
        rows.append({**row, "id": text.encode(errors="ignore").decode(), "<b>&\" onx='1'": text, "source": text})
    made = Made(tmp_path, rows, 1)
    out = made.select(top_k=30)
    for label in ("source", "<b>&\" onx='1'"):
        if format == "alpaca":  # the plots hold no more of the rows than their labels
            drawn = {"samples": 21, "label": label, "plots": str(tmp_path / "plots")}
            html, _ = report(out, tmp_path / "hostile.html", **drawn)
        else:
            html = plain(out, tmp_path / "hostile.html", samples=21, label=label)
        page = check(html)
        assert "alert(1)" in page.words and "49 * 49" not in page.words and formatting.REPLACEMENT in page.words
        assert len(html) < 1_000_000 and not re.search("[\ud800-\udfff]", html)
        assert page.find("img") == []
    if format == "alpaca":
        assert "{{ 7 * 7 }}" in page.words and "out" not in [text for tag, text in page.texts if tag == "h1"]
        assert "more characters are left out" in page.words


def test_a_label_of_another_kind(tmp_path: Path) -> None:
    rows = make_rows(60, label=None)
    values = [None, 3, 2.5, True, ["a", "b"], {"k": "v"}, "", "x"]
    for i, row in enumerate(rows):
        row["kind"] = values[i % len(values)]
    out = Made(tmp_path, rows, 1).select(fraction=0.5)
    page = check(report(out, tmp_path / "r.html")[0])
    assert "have no label to count" in page.words
    page = check(report(out, tmp_path / "r.html", label="kind")[0])
    for shown in ("(none)", "2.5", "true", '["a", "b"]', '{"k": "v"}'):
        assert ("bdi", shown) in page.texts


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    made = Made(tmp_path, make_rows(80), 2)
    out = {kept: made.select(kept, scores=kept, top_k=9) for kept in ("all", "selected", "none")}
    made.saved(made.exact)
    for file in (tmp_path / "signatures").glob("t1*"):
        file.unlink()
    page = check(report(out["all"], tmp_path / "r.html")[0])
    assert "The signature of t1 is not where it was" in page.words and "nothing to tell which layers" in page.words
    shutil.move(made.index, tmp_path / "elsewhere")
    page = check(report(out["all"], tmp_path / "r.html")[0])
    assert (
        "The index (" in page.words and "is not where it was" in page.words and "Its text is not at hand" in page.words
    )
    assert len(page.plots) == 1 + 2 + 1 + 1 + 2 + 2  # all that the scores tell, and the selection's labels
    page = check(report(out["selected"], tmp_path / "r.html")[0])
    assert "Only the selected rows' scores were kept" in page.words and "Worst of those selected" in page.words
    assert len(page.plots) == 2 + 1 + 1 + 2 and "Its text is not at hand" not in page.words
    page = check(report(out["none"], tmp_path / "r.html")[0])
    assert "The scores were not kept" in page.words and len(page.plots) == 1
    assert "no ranking to show the ends of" in page.words


def test_an_index_that_has_changed_is_not_used(tmp_path: Path) -> None:
    made, other = Made(tmp_path / "a", make_rows(80), 1), Made(tmp_path / "b", make_rows(70), 1)
    out = made.select(top_k=9)
    shutil.rmtree(made.index)
    shutil.copytree(other.index, made.index)
    page = check(report(out, tmp_path / "r.html")[0])
    assert "has changed since this selection was made" in page.words
    (made.index / "manifest.json").write_text("{}")
    page = check(report(out, tmp_path / "r.html")[0])
    assert "The index cannot be read" in page.words


def test_length_is_warned_of(tmp_path: Path) -> None:
    """Of selections of before, whose manifests have no warning of it."""
    made = Made(tmp_path, make_rows(100), 1)
    out = made.select(top_k=9)
    kept = {"warnings": []}
    for rho, said in (
        (-0.73, "−0.73): short samples tend to come first"),
        (0.6, "+0.60): long samples"),
        (None, ""),
        (0.3, ""),
    ):
        change(out, **kept, mean_scores=None, spearman_with_length={"t0": rho})
        page = check(plain(out, tmp_path / "r.html"))
        assert ("Mind:" in page.words and said in page.words) if said else "Mind:" not in page.words
    change(out, **kept, mean_scores={}, spearman_with_length={"t0": 0.9})
    assert "Mind:" not in check(plain(out, tmp_path / "r.html")).words


def test_what_the_manifest_warns_of_stands_first(made: Made, tmp_path: Path) -> None:
    out = made.select("warned", made.signatures[:1], top_k=9)
    said = ["3 rows are odd: look at them", "<b>more</b> & more"]
    change(out, warnings=said)
    page = check(plain(out, tmp_path / "r.html"))
    for text in said:
        assert f"Mind: {text}" in page.words and page.words.index(text) < page.words.index("pool's mean")
    change(out, warnings=[3])
    with pytest.raises(NaitError, match="not a valid manifest"):
        plain(out, tmp_path / "r.html")


def test_cuts_in_words(made: Made, tmp_path: Path) -> None:
    for combine, said in (
        ("mean", "Rows rank by the mean of their scores, each in standard deviations; the last one selected has "),
        ("max", "Rows rank by the greatest of their scores, each in standard deviations; the last one selected has "),
        ("roundrobin", "Rows that score higher for a target than its cut were all selected: t0 "),
        ("union", "Rows that score higher for a target than its cut were all selected: t0 "),
    ):
        out = made.select("cuts", combine=combine, top_k=20)
        found = contents.gather(ReportOptions(selection=str(out)), tmp_path / "r.html")
        table = parquet.read_table(out / "scores.parquet").to_pydict()
        left = [np.array(table[f"score.t{c}"])[~np.array(table["selected"])].max() for c in range(2)]
        cuts = figures.target_cuts(found, found.scores)
        assert cuts == (left if combine in ("roundrobin", "union") else [None, None])
        z = [float(found.scores.z(np.array(left))[c]) for c in range(2)]
        line = None if any(cuts) else 1.2345
        text = figures.cut_text(found, found.scores, line)
        assert text.startswith(said)
        numbers = ", ".join(f"t{c} {formatting.number(z[c], 3)}" for c in range(2)) if any(cuts) else "1.23"
        assert text.endswith(f"{numbers}.")
    out = made.select("cuts", combine="mean", top_k=20, pick="random")
    found = contents.gather(ReportOptions(selection=str(out)), tmp_path / "r.html")
    assert figures.cut_text(found, found.scores, None) == "There is no one score at which the selection is cut."


def test_the_table_of_several_targets_has_their_cuts(made: Made, tmp_path: Path) -> None:
    """Not the lowest scores that were selected: those of the rows that another target chose."""
    for combine in ("roundrobin", "union", "mean"):
        out = made.select("cut table", combine=combine, top_k=20)
        html = plain(out, tmp_path / "r.html")
        words = check(html).words
        table = parquet.read_table(out / "scores.parquet").to_pydict()
        left = [np.array(table[f"score.t{c}"])[~np.array(table["selected"])].max() for c in range(2)]
        shown = [formatting.number(value) if combine != "mean" else "–" for value in left]
        assert re.findall('<td data-label="cut">(.*?)</td>', html) == shown and "lowest selected" not in words
        said = "No target has a cut of its own" if combine == "mean" else "Cut: every row that scores higher"
        assert said in words


def test_signatures_of_a_folder(made: Made, tmp_path: Path) -> None:
    """The manifest names the folder: report and compare find what is in it."""
    files = made.saved(*made.signatures)
    out, apart = made.folder / "of a folder", tmp_path / "signatures"
    shutil.copytree(Path(files[0]).parent, apart)
    given = {"index": str(made.index), "top_k": 20, "overwrite": True}
    nait_fast.rank(**given, signature=[str(apart)], output=str(out))
    found = contents.gather(ReportOptions(selection=str(out)), tmp_path / "r.html")
    assert found.notes == [] and [part.target for part in found.layers] == ["t0", "t1"]
    nait_fast.rank(**given, signature=files, output=str(made.folder / "of files"))
    pages = [plain(folder, tmp_path / "r.html") for folder in (out, made.folder / "of files")]
    assert check(pages[0]).words.split("Provenance")[0] == check(pages[1]).words.split("Provenance")[0]


def test_neurons_are_shown_where_they_tell_rows_apart(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = made.select("neurons", made.signatures[:1], top_k=20)
    monkeypatch.setattr(layers, "TELLING_SHARE", 1.01)
    words = check(plain(out, tmp_path / "none.html")).words
    assert "No neurons are named: of each row here, the 6 that most tell it from the rows beside it make less" in words
    assert "neurons that tell it from the rows beside it" not in words
    monkeypatch.setattr(layers, "TELLING_SHARE", 0.01)
    page = check(plain(out, tmp_path / "some.html"))
    assert "Neurons are named where the 6" in page.words and "Half of it takes" in page.words
    shown = [text for tag, text in page.texts if tag == "summary" and text.startswith("neurons")]
    assert shown == ["neurons that tell it from the rows beside it"] * (5 + 5 + 3 + 3)


def test_the_list_says_what_it_leaves_out(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = made.select("left", combine="max", top_k=30)
    words = check(plain(out, tmp_path / "all.html")).words
    assert "All 30 selected rows, best first." in words and "stands out for" in words and "score t1" in words
    monkeypatch.setattr(contents, "LISTED_ROWS", 8)
    words = check(plain(out, tmp_path / "some.html")).words
    assert "The first 8 of 30 selected rows, best first; --samples all lists every one." in words
    page = check(plain(out, tmp_path / "every.html", samples="all"))
    assert "All 30 selected rows, best first." in page.words
    assert len([a for tag, a in page.tags if tag == "td" and a.get("data-label") == "rank"]) == 30
    for samples in (0, 51, "some", 2.5):
        with pytest.raises(NaitError, match="--samples"):
            report(out, tmp_path / "none.html", samples=samples)


def luminance(colour: tuple[float, ...]) -> float:
    """Relative luminance of an sRGB colour, 0 to 1 each (WCAG 2.2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def themes() -> list[dict[str, tuple[float, ...]]]:
    found = []
    for block in re.findall(r":root \{(.*?)\}", CSS, re.DOTALL)[:2]:
        pairs = re.findall(r"--(\w+): #([0-9a-f]{6})", block)
        found.append({name: tuple(int(value[i : i + 2], 16) / 255 for i in (0, 2, 4)) for name, value in pairs})
    return found


def test_colours_can_be_told_apart_in_both_themes() -> None:
    light, dark = themes()
    assert {name: f"#{''.join(f'{round(c * 255):02x}' for c in light[name])}" for name in COLOURS} == COLOURS
    for theme in (light, dark):
        for back in (theme["back"], theme["card"]):
            assert all(contrast(theme[name], back) >= 4.5 for name in ("ink", "soft", "pick"))
            assert all(contrast(theme[name], back) >= 2.9 for name in ("pool", "minus"))
        assert contrast(theme["ink"], theme["warn"]) >= 7
        for name in ("pick", "minus"):  # a heat map's strongest cell
            cell = tuple(0.5 * a + 0.5 * b for a, b in zip(theme[name], theme["back"], strict=True))
            assert contrast(theme["ink"], cell) >= 4.5


def test_words() -> None:
    assert formatting.clean("a\r\nb\rc\x00\ud800") == "a\nb\nc\ufffd\ufffd"
    assert formatting.split("one two three four", 10) == ("one two", "three four")
    assert formatting.split("x" * 12, 10) == ("x" * 12, "") and formatting.split("x" * 40, 10) == ("x" * 10, "x" * 30)
    assert formatting.short("a  b\n c", 10) == "a b c" and formatting.short("w" * 50, 10) == "w" * 9 + "…"
    numbers = [0, 1234567, -2.0, 0.000123456, 12.3456, -1e300, 1e-300, 3.999999e-5]
    assert [formatting.number(n) for n in numbers] == [
        "0",
        "1,234,567",
        "−2",
        "0.0001235",
        "12.35",
        "−1.000e+300",
        "1.000e−300",
        "4.000e−05",
    ]
    assert [formatting.number(n) for n in (None, float("nan"), float("inf"))] == ["–"] * 3
    assert [formatting.percent(x) for x in (0.5, 0.0001, 0, None, float("nan"))] == ["50.0%", "<0.1%", "0.0%", "–", "–"]
    assert (formatting.signed(1.5), formatting.signed(-0.25), formatting.correlation(-0.5)) == (
        "+1.50",
        "−0.250",
        "−0.50",
    )
    assert [formatting.listed(x) for x in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]
    assert formatting.count(1, "row") == "1 row" and formatting.count(2000, "row") == "2,000 rows"


def test_marks_do_not_pile_up() -> None:
    assert formatting.clean("e" + "\u0301" * 300 + "a\u0308") == "e" + "\u0301" * 4 + "a\u0308"


def test_more_targets_than_are_drawn(tmp_path: Path) -> None:
    made = Made(tmp_path, make_rows(60), 26, widths=[32])
    page = check(report(made.select(fraction=0.1, combine="max"), tmp_path / "r.html")[0])
    assert len(page.plots) == 3 * 12 + 1 + 2 + 2 + 1 and "Of 26 targets, the first 12 are drawn" in page.words
    assert page.words.count("These are the first 24 of 26.") == 4  # beside each of two figures, and inside it
