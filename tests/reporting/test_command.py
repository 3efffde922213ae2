"""``report`` from the command line: after ``select``, with every method, and with what it refuses."""

import dataclasses
import json
import shutil
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.notices import NaitWarning
from nait_fast.reporting import contents
from nait_fast.reporting.provenance import command
from nait_fast.reporting.selection_folder import open_selection
from nait_fast.storage.files import read_sealed, sha256
from tests.commands import run, shell, summary
from tests.reporting.made import Made, change, make_rows, report
from tests.reporting.pages import check


@pytest.mark.parametrize("method", ["contrast", "nait", "nag"])
def test_after_select(capsys, tmp_path: Path, tiny_model: str, pool_file, target_file, method: str) -> None:
    out = tmp_path / "out put"
    words = ["--model", tiny_model, "--dataset", pool_file, "--target", f"sums={target_file}", "--top-k", 12]
    chosen = "nag:top_k=9" if method == "nag" else method
    summary(capsys, "select", *words, "--output", out, "--method", chosen)
    result = summary(capsys, "report", out)
    assert result["output"] == str(out / "report.html") and result["plots"] == []
    page = check((out / "report.html").read_text())
    assert "nait-fast select chose the best 12 (20.0%; " in page.words and f"by method {method}" in page.words
    assert ("numbers only" in page.words) == (method == "nait") == bool(result["notes"])
    assert ("against the pool's mean, by layer: Most in layers" in page.words) == (method != "nait")
    assert ("Most like it in sums" in page.words) == (method != "nait")
    untold = "Which samples of sums a row is most like is not told: their method keeps no samples."
    assert (untold in page.words) == (method == "nait")
    said = next(text for tag, text in page.texts if tag == "pre")
    assert (
        f"--output '{out}'" in said and "--top-k 12" in said and ("--method nag:top_k=9" in said) == (method == "nag")
    )
    # Elsewhere it says the same: the folder's own index and signatures are meant.
    moved = tmp_path / "moved"
    shutil.move(out, moved)
    again = summary(capsys, "report", "--selection", moved, "--output", tmp_path / "new" / "r.html")
    assert (tmp_path / "new" / "r.html").read_bytes() == (moved / "report.html").read_bytes()
    assert again["bytes"] == result["bytes"] and summary(capsys, "verify", moved)["ok"]


def test_a_page_of_the_selection_before_is_said(made: Made) -> None:
    out = made.select("again", top_k=5)
    nait_fast.report(selection=str(out))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NaitWarning)
        made.select("again", top_k=5)
    with pytest.warns(NaitWarning, match=r"report\.html: tells of the selection that was here before"):
        made.select("again", top_k=6)


CODECS = {"rotated": {"codec": "rotated"}, "components": {"codec": "components:bytes=96"}}


@pytest.mark.parametrize("codec", CODECS)
def test_estimated_scores_and_embeddings(tmp_path: Path, tiny_model: str, pool_file, target_file, codec: str) -> None:
    index, given = tmp_path / "index", {"model": tiny_model, "output": str(tmp_path)}
    nait_fast.build_index(model=tiny_model, dataset=str(pool_file), output=str(index), **CODECS[codec], embed="last")
    nait_fast.build_signature(**given, target=[f"sums={target_file}"], method="nait")
    nait_fast.build_signature(**given, target=[f"hidden={target_file}"], method="embed", codebook=str(index))
    files = [str(tmp_path / f"{name}.safetensors") for name in ("sums", "hidden")]
    nait_fast.rank(index=str(index), signature=files[:1], output=str(tmp_path / "one"), top_k=9)
    html, result = report(tmp_path / "one", tmp_path / "r.html")
    page = check(html)
    assert result["notes"] == [] and len(page.plots) == 5
    assert "against the pool's mean, by layer: Most in layers" in page.words and "Half of it takes" not in page.words
    nait_fast.rank(index=str(index), signature=files, output=str(tmp_path / "two"), top_k=9)
    html, result = report(tmp_path / "two", tmp_path / "r.html", overwrite=True)
    both = codec == "rotated"
    assert ("A near-duplicate is a selected row" in page.words) == both and "no bits of neurons" in page.words
    assert ("How many are near-duplicates is not told: codec components keeps no bits." in page.words) != both
    assert "hidden is not told: they compare embeddings" in result["notes"][0] and len(check(html).plots) == 10


@pytest.mark.parametrize("codec", CODECS)
def test_parts_of_estimates_add_up(tmp_path: Path, tiny_model: str, pool_file, target_file, codec: str) -> None:
    from pyarrow import parquet

    from nait_fast.config import ReportOptions
    from nait_fast.reporting.contents import gather

    index = tmp_path / "index"
    nait_fast.build_index(model=tiny_model, dataset=str(pool_file), output=str(index), **CODECS[codec])
    nait_fast.build_signature(model=tiny_model, output=str(tmp_path), target=[f"sums={target_file}"], method="nait")
    nait_fast.rank(index=str(index), signature=[str(tmp_path / "sums.safetensors")], output=str(tmp_path / "out"))
    found = gather(ReportOptions(selection=str(tmp_path / "out")), tmp_path / "report.html")
    scores = parquet.read_table(tmp_path / "out" / "scores.parquet")["score.sums"].to_numpy()
    (part,) = found.layers
    assert part.mean.sum() == pytest.approx(scores.mean(), rel=0.1, abs=0.1 * scores.std()) and part.rows == 60
    assert part.share.sum() == pytest.approx(1)
    for shown in [*found.best, *found.worst]:
        assert shown.decided is not None and shown.decided.neurons == ()
        assert shown.decided.total == pytest.approx(scores[shown.ranked.place] - scores.mean(), abs=1e-3 * scores.std())
    assert np.sign(found.best[0].decided.total) == 1


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return Made(tmp_path_factory.mktemp("made"), make_rows(50), 1)


def test_what_killed_commands_left_beside_the_page_goes(made: Made, tmp_path: Path) -> None:
    page = tmp_path / "page.html"

    def left(output: Path, *names: str) -> Path:
        folder = Path(tempfile.mkdtemp(dir=tmp_path, prefix=contents._prefix(output)))
        for name in names:
            (folder / name).write_text("half")
        return folder

    gone = [left(page), left(page, "scores.parquet", "scores.parquet.12-0a1b2c3d.tmp")]
    kept = [
        left(page, "mine.txt"),
        left(tmp_path / "other.html", "scores.parquet"),
        tmp_path / ".nait-fast-report-mine",
    ]
    kept[-1].mkdir()
    nait_fast.report(selection=str(made.select("left")), output=str(page))
    assert not any(folder.exists() for folder in gone) and all(folder.exists() for folder in kept)


def put(folder: Path, name: str, data: bytes) -> None:
    """Write a file of the selection, and into the manifest what it says of it."""
    (folder / name).write_bytes(data)
    change(folder, files={**read_sealed(folder / "manifest.json")["files"], name: sha256(data)})


SPOILED = {
    "no such folder": lambda f: shutil.rmtree(f),
    "not a selection": lambda f: (f / "manifest.json").unlink(),
    "cannot be read": lambda f: (f / "manifest.json").write_text("{"),
    "checksum": lambda f: (f / "manifest.json").write_text(json.dumps({"kind": "nait_fast selection"})),
    "not a valid manifest (targets": lambda f: change(f, targets=[]),
    "not a valid manifest ('method'": lambda f: change(f, method=None),
    "not a valid manifest (rows_selected": lambda f: change(f, rows_selected=0),
    "not a valid manifest (scores": lambda f: change(f, scores="some"),
    "not a valid manifest (verb": lambda f: change(f, verb="bench"),
    "not a valid manifest (config": lambda f: change(f, config=[]),
    "not a valid manifest (spearman": lambda f: change(f, spearman_with_length={"t0": "x"}),
    "selected.jsonl: no such file": lambda f: (f / "selected.jsonl").unlink(),
    "scores.parquet: no such file": lambda f: (f / "scores.parquet").unlink(),
    "scores.parquet: its bytes have changed": lambda f: (f / "scores.parquet").write_bytes(b"PAR1"),
    "selected.jsonl: its bytes have changed": lambda f: (f / "selected.jsonl").write_bytes(b'{"text": "x"}\n'),
    "scores.parquet: cannot be read": lambda f: put(f, "scores.parquet", b"PAR1"),
    "scores.parquet: has not the columns": lambda f: change(
        f, targets=["t9"], signatures={"t9": "a" * 16}, spearman_with_length={"t9": None}
    ),
    "scores.parquet: 5 rows selected, the manifest says 6": lambda f: change(f, rows_selected=6),
}


@pytest.mark.parametrize("words", SPOILED)
def test_a_folder_that_is_none(capsys, made: Made, tmp_path: Path, words: str) -> None:
    out = tmp_path / "out"
    shutil.copytree(made.select(fraction=0.1), out)
    SPOILED[words](out)
    error = run(capsys, "report", out, "--output", tmp_path / "r.html").error
    assert words in error and str(out) in error and not (tmp_path / "r.html").exists()


REFUSED = [
    ([], "report: --selection is missing"),
    (["{OUT}", "--samples", "0"], "--samples 0: must be at least 1"),
    (["{OUT}", "--label", "colour"], "--label colour: no row has such a column; they have instruction, output, id, so"),
    (["{OUT}", "--evaluation", "{FOLDER}/none.json"], "none.json: no such file"),
    (["{OUT}", "--evaluation", "{OUT}"], "evaluation.json: no such file"),
    (["{OUT}", "--evaluation", "{OUT}/manifest.json"], "manifest.json: not an evaluation"),
    (["{OUT}", "--output", "{FOLDER}"], "is a folder; name a file, for example"),
    (["{OUT}", "--output", "{FILE}/r.html"], "cannot be written to"),
    (["{OUT}", "--output", "{OUT}/selected.jsonl"], "name a file that ends in .html"),
    (["{OUT}", "--plots", "{FILE}"], "--plots"),
    (["{OUT}", "--dataset", "{FILE}"], "{FILE}: "),
    (["{OUT}", "--dataset", "{FOLDER}/none.jsonl"], "none.jsonl"),
    (["{OUT}", "{OUT}"], "unrecognized arguments"),
    (["{OUT}", "--config", "{FOLDER}/none.yaml"], "--config"),
    (["{INDEX}"], "not a selection; give a folder that select or rank wrote"),
]


@pytest.mark.parametrize(("arguments", "words"), REFUSED, ids=[words for _, words in REFUSED])
def test_what_is_refused(capsys, made: Made, tmp_path: Path, arguments: list[str], words: str) -> None:
    (tmp_path / "file.jsonl").write_text('{"text": "another pool"}\n')
    names = {
        "OUT": made.select("refused", fraction=0.1),
        "FOLDER": tmp_path,
        "FILE": tmp_path / "file.jsonl",
        "INDEX": made.index,
    }
    error = run(capsys, "report", *(argument.format(**names) for argument in arguments)).error
    assert words.format(**names) in error
    assert not list(tmp_path.glob("*.html")) and not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize("package", ["matplotlib", "jinja2"])
def test_without_the_extra(capsys, made: Made, monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for module in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, package, None)
    error = run(capsys, "report", made.select("extra", fraction=0.1)).error
    assert error == f"report: {package} is not installed; pip install 'nait-fast[report]'"


def test_as_a_user_runs_it(made: Made, tmp_path: Path) -> None:
    ran = shell("report", made.select("user", fraction=0.1), "--output", tmp_path / "r.html", "--json", LANG="C")
    assert ran.summary["bytes"] == (tmp_path / "r.html").stat().st_size
    check((tmp_path / "r.html").read_text(encoding="utf-8"))


def test_the_command_is_a_command(made: Made) -> None:
    out = made.select("com mand", fraction=0.5, pick="bottom", scores="all", export=["llama_factory", "dataflex"])
    said = command(open_selection(out))
    assert said.startswith(f"nait-fast rank --index {made.index} --signature ") and "--pick bottom" in said
    assert f"--output '{out}' --overwrite --fraction 0.5" in said and "--export llama_factory dataflex" in said


@pytest.mark.parametrize(
    ("method", "changed", "words"),
    [("contrast", {}, ""), ("nait", {"sign": "contrast"}, " --method nait:sign=contrast")],
)
def test_the_command_of_an_older_selection(made: Made, method: str, changed: dict[str, str], words: str) -> None:
    """Its config holds every option, those of other methods at what was their default."""
    chosen = open_selection(made.select("older", fraction=0.5))
    settings = {"weights": "difference", "planes": 4, "top_m": None, "sign": "mean", "nag_top_k": 20, **changed}
    config = {"model": "m", "dataset": "d", "target": ["t"], "output": "o", "method": method, **settings}
    older = dataclasses.replace(chosen, manifest={**chosen.manifest, "verb": "select", "config": config})
    assert command(older) == f"nait-fast select --model m --dataset d --target t --output o{words}"
