"""What comes into an output folder, or is lost from it, while a command is at work or after it."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

import nait_fast
from nait_fast.bench.results import ResultFile
from nait_fast.data.folders import pool_files
from nait_fast.errors import NaitError
from nait_fast.outputs import output_folder
from nait_fast.outputs.output_folder import STAGE, Output
from nait_fast.outputs.recognise import CLAIM
from nait_fast.verbs import index as index_verb
from nait_fast.verbs import rank as rank_verb
from nait_fast.verbs import select as select_verb
from nait_fast.verbs import signature as signature_verb
from nait_fast.verbs.inspection import verify
from tests.commands import run
from tests.conftest import make_rows
from tests.test_outputs import Made, contents, refused


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Made:
    return Made(tmp_path_factory.mktemp("made"), tiny_model)


def test_a_file_put_there_while_results_are_written(made: Made, tmp_path: Path, monkeypatch) -> None:
    out, real = tmp_path / "out", Output.done
    for name in ("top_indices.npy", "scores.parquet"):  # which this run would delete, and write over

        def done(self: Output, *given: Any, name: str = name, **named: Any) -> None:
            (out / name).write_text("mine")
            real(self, *given, **named)

        monkeypatch.setattr(Output, "done", done)
        with pytest.raises(NaitError, match=f"{name}: is in the way"):
            made.rank(out)
        assert (out / name).read_text() == "mine" and not (out / "selected.jsonl").exists()
        (out / name).unlink()
    monkeypatch.undo()
    made.rank(out)
    verify(str(out))


def test_a_failed_run_leaves_no_half_results(made: Made, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "out"
    made.rank(out)
    before = contents(out)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rank_verb, "write_scores", full)
    with pytest.raises(OSError, match="No space"):
        made.rank(out)
    after = contents(out)
    assert not (out / STAGE).exists() and after | {CLAIM: before[CLAIM]} == before
    monkeypatch.undo()
    made.rank(out)


def test_a_temporary_that_takes_its_place_while_others_are_swept(tmp_path: Path, monkeypatch) -> None:
    class Renamed:
        """What ends a temporary file just after it has been seen."""

        def fullmatch(self, name: str) -> Any:
            found = real.fullmatch(name)
            if found is not None:
                os.replace(tmp_path / name, tmp_path / found["name"])
            return found

    real = output_folder._TEMPORARY
    monkeypatch.setattr(output_folder, "_TEMPORARY", Renamed())
    for name in ("config.yaml", "a"):
        (tmp_path / f"{name}.1-0a1b2c3d.tmp").write_text(name)
    with Output(tmp_path, ["b"]):
        pass
    assert (tmp_path / "config.yaml").read_text() == "config.yaml" and (tmp_path / "a").exists()


def test_what_changes_while_a_report_is_made(capsys, made: Made, tmp_path: Path, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    from nait_fast.reporting import page

    out, report, real = tmp_path / "out", tmp_path / "page.html", page.render
    made.rank(out)
    words, changes = (
        ["report", out, "--output", report],
        {
            "page.html: is in the way": lambda: report.write_text("mine"),
            "out: has changed while it was read": lambda: made.rank(out, fraction=0.5, overwrite=True),
            "out: has changed while it was": lambda: (out / "scores.parquet").write_bytes(b"another"),
        },
    )
    for words_of, change in changes.items():

        def render(*given: Any, change: Any = change) -> bytes:
            change()
            return real(*given)

        monkeypatch.setattr(page, "render", render)
        assert words_of in run(capsys, *words).error
        assert not report.exists() or report.read_text() == "mine"
        report.unlink(missing_ok=True)


def test_a_folder_of_two_kinds_is_told_before_the_model_is_loaded(made: Made, tmp_path: Path, monkeypatch) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded")

    for verb in (index_verb, select_verb, signature_verb):
        monkeypatch.setattr(verb, "open_session", load)
    mixed, out = tmp_path / "mixed", tmp_path / "out"
    mixed.mkdir()
    shutil.copy(made.pool, mixed)
    pq.write_table(pa.Table.from_pylist(make_rows(4)), mixed / "more.parquet")
    target = [f"sums={mixed}"]
    for call, given in (
        (made.build, {"dataset": mixed}),
        (made.select, {"dataset": mixed}),
        (made.select, {"target": target}),
        (made.sign, {"target": target}),
    ):
        with pytest.raises(NaitError, match=r"mixed: holds \.parquet and \.jsonl"):
            call(out, **given)


def test_an_evaluation_of_another_program(made: Made, tmp_path: Path) -> None:
    given: dict[str, Any] = {"index": made.index, "output": tmp_path, "signature": [made.signature]}
    nait_fast.evaluate(**given)
    (tmp_path / CLAIM).unlink()
    (tmp_path / "evaluation.md").unlink()
    file = tmp_path / "evaluation.json"
    whole = file.read_bytes()
    for text in (b'[{"mine": 1}]', b"mine", b'{"kind": "mine"}'):
        file.write_bytes(text)
        refused(nait_fast.evaluate, tmp_path, "json: is in the way", **given, overwrite=True)
    file.write_bytes(whole[:-9])
    refused(nait_fast.evaluate, tmp_path, "json: is not as nait_fast wrote it", **given)
    nait_fast.evaluate(**given, overwrite=True)


def test_an_index_that_is_given_twice(made: Made, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(made.index)
    for again in (made.index, f"{made.index.parent}/./index/", link):
        with pytest.raises(NaitError, match="is given twice; name each index once"):
            nait_fast.merge(index=[made.index, again], output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_results_whose_claim_is_damaged_are_no_pool(made: Made, tmp_path: Path) -> None:
    made.rank(tmp_path)
    data = (tmp_path / CLAIM).read_bytes()
    (tmp_path / CLAIM).write_bytes(data.replace(b"selected", b"selecteD"))
    (tmp_path / "manifest.json").unlink()
    shutil.copy(made.pool, tmp_path)
    refused(pool_files, tmp_path, rf"{CLAIM}: damaged", tmp_path, None)


def test_results_whose_manifest_is_gone(made: Made, tmp_path: Path) -> None:
    own, out = made.folder / "selection", tmp_path / "out"
    made.rank(out, index=own / "index", signature=[own / "signatures" / "sums.safetensors"])
    (out / "manifest.json").unlink()
    made.select(out)  # the same question, as its claim says
    verify(str(out))


def test_one_bench_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    row = {"part": "scan", "hardware": "h", "name": "n"}
    for text in (str(path), f"{tmp_path}/./rows.jsonl"):
        first = ResultFile(text)
        refused(ResultFile, tmp_path, "rows.jsonl: in use by pid", str(path))
        first.add(row)
        first.close()
    assert len(path.read_text().splitlines()) == 2 and [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    path.write_text("mine")
    refused(ResultFile, tmp_path, "is not a file of results", str(path))
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]
    os.mkfifo(tmp_path / "pipe")  # of which nothing is read
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    piped = ResultFile(str(tmp_path / "pipe"))
    piped.add(row)
    piped.close()
    assert b'"name": "n"' in os.read(reader, 1 << 16)
    os.close(reader)
