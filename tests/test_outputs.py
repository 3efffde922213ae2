"""An output folder is one command's at a time, and nothing in it that nait_fast did not write is touched."""

import itertools
import json
import multiprocessing
import os
import shutil
import signal
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import nait_fast
from nait_fast.config import IndexOptions
from nait_fast.data.folders import pool_files
from nait_fast.errors import NaitError
from nait_fast.extract.index_folder import IndexFolder
from nait_fast.index.reader import Index
from nait_fast.index.writer import IndexWriter
from nait_fast.notices import NaitWarning
from nait_fast.outputs.inputs import check_folders
from nait_fast.outputs.output_folder import STAGE, Output
from nait_fast.outputs.recognise import CLAIM, State
from nait_fast.storage.lock import FOLDER_LOCK, OutputLock
from nait_fast.verbs import index as index_verb
from nait_fast.verbs import rank as rank_verb
from nait_fast.verbs import select as select_verb
from nait_fast.verbs import signature as signature_verb
from nait_fast.verbs.inspection import verify
from tests.commands import run
from tests.conftest import make_rows, write_jsonl


def holding(folder: Path, run: str | None = None) -> OutputLock:
    folder.mkdir(exist_ok=True)
    lock = OutputLock(folder / FOLDER_LOCK, f"--output {folder}", run)
    lock.acquire()
    return lock


def test_one_command_at_a_time_and_who_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["nait-fast", "rank"])
    first = holding(tmp_path)
    started = time.monotonic()
    for own in (None, "a"):
        with pytest.raises(NaitError) as error:
            holding(tmp_path, own)
        line = str(error.value)
        assert line.startswith(f"--output {tmp_path}: in use by pid {os.getpid()} on ") and "\n" not in line
        assert "(nait-fast rank)" in line and time.strftime(" since %Y-") in line
    assert time.monotonic() - started < 2
    first.release()
    assert (tmp_path / FOLDER_LOCK).read_bytes() == b""
    holding(tmp_path).release()


def test_workers_of_one_run_hold_it_together(tmp_path: Path) -> None:
    a, b = holding(tmp_path, "run"), holding(tmp_path, "run")
    for other in (None, "another"):
        with pytest.raises(NaitError, match="in use by pid"):
            holding(tmp_path, other)
    a.release()
    with pytest.raises(NaitError, match="in use by pid"):
        holding(tmp_path, "another")
    holding(tmp_path, "run").release()
    b.release()
    holding(tmp_path, "another").release()


def _hold(folder: str) -> None:
    lock = holding(Path(folder))
    (Path(folder) / "held").touch()
    time.sleep(60)
    lock.release()


def test_a_killed_command_holds_nothing(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_hold, args=(str(tmp_path),))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    with pytest.raises(NaitError, match=f"in use by pid {process.pid} on"):
        holding(tmp_path)
    process.kill()
    process.join()
    assert b"pid" in (tmp_path / FOLDER_LOCK).read_bytes()
    holding(tmp_path).release()


def test_a_lock_follows_the_umask_and_no_link(tmp_path: Path) -> None:
    before = os.umask(0o007)
    try:
        holding(tmp_path / "a").release()
    finally:
        os.umask(before)
    assert (tmp_path / "a" / FOLDER_LOCK).stat().st_mode & 0o777 == 0o660
    (tmp_path / "b").mkdir()
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "b" / FOLDER_LOCK).symlink_to(tmp_path / "mine")
    with pytest.raises(NaitError, match="cannot be opened"):
        holding(tmp_path / "b")
    assert (tmp_path / "mine").read_text() == "mine"


class Made:
    """An index, a signature and a selection of the same small pool, made once, and the verbs on them."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder, model
        self.pool = write_jsonl(folder / "pool.jsonl", make_rows(40))
        self.target = write_jsonl(folder / "sums.jsonl", make_rows(12, seed=1))
        self.other = write_jsonl(folder / "texts.jsonl", make_rows(12, seed=2))
        self.index, self.signature = folder / "index", folder / "signatures" / "sums.safetensors"
        self.build(self.index)
        self.sign(folder / "signatures")
        self.select(folder / "selection")

    def build(self, output: Path, **options: Any) -> dict[str, Any]:
        given = {"model": self.model, "dataset": self.pool, "shard_rows": 8, "calibration_size": 20, **options}
        return nait_fast.build_index(output=output, **given)

    def sign(self, output: Path, **options: Any) -> dict[str, Any]:
        given = {"model": self.model, "target": [f"sums={self.target}"], "codebook": self.index, **options}
        return nait_fast.build_signature(output=output, **given)

    def select(self, output: Path, **options: Any) -> dict[str, Any]:
        given = {"model": self.model, "dataset": self.pool, "target": [f"sums={self.target}"], "calibration_size": 20}
        return nait_fast.select(output=output, **{**given, **options})

    def rank(self, output: Path, **options: Any) -> dict[str, Any]:
        given = {"index": self.index, "signature": [self.signature], "export": ["llama_factory", "messages"], **options}
        return nait_fast.rank(output=output, **given)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Made:
    return Made(tmp_path_factory.mktemp("made"), tiny_model)


@pytest.fixture
def no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused is refused before a model is loaded."""

    def load(*_: Any, **__: Any) -> None:
        raise AssertionError("the model is loaded")

    for verb in (index_verb, select_verb, signature_verb):
        monkeypatch.setattr(verb, "open_session", load)


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks."""
    files = [p for p in folder.rglob("*") if p.is_file() and p.name not in (FOLDER_LOCK, ".lock")]
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def refused(call: Any, folder: Path, words: str, *arguments: Any, **options: Any) -> str:
    """The one line that ``call`` is refused with; nothing in ``folder`` has changed."""
    before = contents(folder)
    with pytest.raises(NaitError, match=words) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    assert contents(folder) == before
    return str(error.value)


@pytest.mark.parametrize("verb", ["build", "select", "rank", "sign"])
def test_the_second_command_is_told_at_once(made: Made, tmp_path: Path, no_model, verb: str) -> None:
    out = tmp_path / "out"
    lock = holding(out, "another")
    try:
        refused(getattr(made, verb), out, f"^--output {out}: in use by pid {os.getpid()} on .* since ", out)
    finally:
        lock.release()


def test_a_worker_that_comes_late_ends_well(made: Made, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    made.build(folder)
    given = {"model": made.model, "dataset": str(made.pool), "shard_rows": 8, "calibration_size": 20}
    options = IndexOptions.from_mapping({**given, "output": str(folder), "device": "cpu"})
    with index_verb.index_lock(options):  # a fellow worker is still there
        assert made.build(folder)["tokens_run"] == 0


@pytest.mark.parametrize("gone", ["work", "."])
def test_a_folder_deleted_under_the_command_ends_it(made: Made, tmp_path: Path, monkeypatch, gone: str) -> None:
    folder, write = tmp_path / "index", IndexWriter.write_shard

    def deleting(self: IndexWriter, number: int, *arguments: Any) -> None:
        if number == 2:
            (folder / gone).resolve().rename(tmp_path / "gone")  # at once: the next unit's lock may come any moment
        write(self, number, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "write_shard", deleting)
        with pytest.raises(NaitError, match="is gone") as error:
            made.build(folder)
        assert str(folder) in str(error.value)
    made.build(folder)
    assert Index(folder).verify() == []


def test_a_shard_that_is_damaged_again_and_again_is_named(made: Made, tmp_path: Path, monkeypatch) -> None:
    folder, write = tmp_path / "index", IndexWriter.write_shard
    written: list[int] = []

    def damaging(self: IndexWriter, number: int, *arguments: Any) -> None:
        written.append(number)
        write(self, number, *arguments)
        if number == 1:
            path = self.folder / "shard-00001.safetensors"
            path.write_bytes(path.read_bytes()[:-1])

    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "write_shard", damaging)
        with pytest.raises(NaitError, match=r"shard-00001\.safetensors: missing or damaged again, 2 times"):
            made.build(folder)
    assert written == [0, 1, 2, 3, 4, 1, 1]
    assert len((folder / "events.jsonl").read_text().splitlines()) < 20
    made.build(folder)
    assert contents(folder)["manifest.json"] == contents(made.index)["manifest.json"]


def test_a_signal_ends_work_that_is_done_again(made: Made, tmp_path: Path, monkeypatch) -> None:
    def never(self: IndexFolder, head: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(IndexFolder, "finish", never)
    with pytest.raises(KeyboardInterrupt, match="stopped with 5 of 5 shards written"):
        made.build(tmp_path / "index")


FOREIGN = [
    ("build", "work/mine.txt"),
    ("build", "skipped.jsonl"),
    ("build", "events.jsonl"),
    ("build", "log.json"),
    ("build", "codebook.safetensors"),
    ("build", "shard-00003.safetensors"),
    ("build", "manifest.json"),
    ("build", "run.json"),
    ("select", "index/skipped.jsonl"),
    ("select", "selected.jsonl"),
    ("select", "messages.jsonl"),
    ("select", "scores.parquet"),
    ("select", "dataset_info.json"),
    ("select", "signatures/sums.safetensors"),
    ("rank", "messages.jsonl"),
    ("rank", "top_indices.npy"),
    ("rank", "manifest.json"),
    ("sign", "sums.safetensors"),
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(("verb", "name"), FOREIGN)
def test_a_file_in_the_way_is_named(made: Made, tmp_path: Path, no_model, verb: str, name: str, overwrite) -> None:
    out = tmp_path / "out"
    path = out / name
    path.parent.mkdir(parents=True)
    path.write_text('{"mine": 1}\n')
    given = {"overwrite": True} if overwrite and verb != "build" else {}
    words = "manifest.json|holds" if path.name == "manifest.json" else str(out / name.partition("/mine")[0])
    with pytest.raises(NaitError, match=words):
        getattr(made, verb)(out, **given)
    assert path.read_text() == '{"mine": 1}\n'


def test_names_that_are_never_written_are_no_obstacle(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("notes.txt", "model.safetensors", "pool.jsonl", "selected.jsonl.bak"):
        (out / name).write_text("mine")
    made.rank(out)
    made.sign(out)
    assert {name for name, data in contents(out).items() if data == b"mine"} == {
        "notes.txt",
        "model.safetensors",
        "pool.jsonl",
        "selected.jsonl.bak",
    }


@pytest.mark.parametrize(
    ("verb", "name"),
    [
        ("build", "skipped.jsonl"),
        ("select", "messages.jsonl"),
        ("select", "index/skipped.jsonl"),
        ("select", "scores.jsonl"),
    ],
)
@pytest.mark.parametrize("link", ["none", "symbolic", "hard"])
def test_a_pool_among_the_outputs(made: Made, tmp_path: Path, no_model, verb: str, name: str, link: str) -> None:
    path = tmp_path / "out" / name
    if name == "scores.jsonl":  # under another name than any of ours it leads to one that is
        path = path.with_name("scores.parquet")
    path.parent.mkdir(parents=True)
    given = path if link == "none" and path.suffix != ".parquet" else tmp_path / "pool.jsonl"
    if given is path:
        shutil.copy(made.pool, path)
    else:
        shutil.copy(made.pool, given)
        os.link(given, path) if link == "hard" else path.symlink_to(given)
    refused(getattr(made, verb), tmp_path, "would be written over, but --dataset", tmp_path / "out", dataset=given)


def test_a_target_among_the_outputs(made: Made, tmp_path: Path, no_model) -> None:
    out = tmp_path / "out"
    out.mkdir()
    mine = Path(shutil.copy(made.target, out / "selected.jsonl"))
    refused(made.select, out, "would be written over, but --target", out, target=[f"sums={mine}"])


def test_a_model_keeps_its_weights(made: Made, tmp_path: Path, no_model) -> None:
    """A target named as the model's file, into the model's folder, or into a copy of it."""
    model = tmp_path / "model"
    shutil.copytree(made.model, model)
    for given in (str(model), made.model):
        refused(made.sign, model, "model", model, model=given, target=[f"model={made.target}"])
    signature = nait_fast.load_signature(made.signature)
    mine = type(signature)("model", signature.meta, signature.tensors)
    refused(mine.save, model, "is no signature of nait_fast", model)


def test_a_pool_folder_does_not_become_its_own_output(made: Made, tmp_path: Path, no_model) -> None:
    pool = tmp_path / "pool"
    pool.mkdir()
    shutil.copy(made.pool, pool)
    for verb in (made.build, made.select):
        with pytest.raises(NaitError, match="is the folder that --dataset reads"):
            verb(pool, dataset=pool)
    (tmp_path / "same").symlink_to(pool)
    with pytest.raises(NaitError, match="is the folder that --dataset reads"):
        made.build(tmp_path / "same", dataset=pool)
    assert [path.name for path in pool.iterdir()] == ["pool.jsonl"]  # not even a lock is left there
    check_folders(tmp_path, [("--dataset", str(pool))])  # an output may hold it


def test_results_in_a_pools_folder_are_no_rows_of_it(made: Made, tmp_path: Path) -> None:
    pool = tmp_path / "data" / "more"
    pool.mkdir(parents=True)
    shutil.copy(made.pool, pool)
    for out in (pool / "chosen", tmp_path / "data" / "chosen"):
        made.rank(out)
    made.rank(pool)  # beside the pool itself
    shutil.copytree(made.index, pool / "index")
    (pool / "index" / "skipped.jsonl").write_text('{"row": 1, "where": "a", "reason": "b"}\n')
    (pool / "manifest.json").unlink()
    for folder in (pool, tmp_path / "data"):
        with pytest.warns(NaitWarning, match="passed over: results of nait_fast, no pool"):
            assert pool_files(folder, None).paths == (pool / "pool.jsonl",)


def test_runs_again_and_other_exports(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made.rank(out, fraction=0.5)
    first = contents(out)
    made.rank(out, fraction=0.5)
    same = contents(out)
    assert {name for name in first if first[name] != same[name]} <= {"manifest.json", CLAIM}  # they tell seconds
    made.rank(out, fraction=0.2, export=["dataflex"], scores="none")
    assert set(contents(out)) == {"selected.jsonl", "top_indices.npy", "manifest.json", CLAIM}


def test_another_question_needs_overwrite(made: Made, tmp_path: Path) -> None:
    out, sign = tmp_path / "out", tmp_path / "sign"
    made.rank(out)
    made.sign(sign, target=[f"sums={made.other}"])
    signature = sign / "sums.safetensors"
    refused(made.rank, out, "holds another result", out, signature=[signature])
    refused(made.sign, sign, "holds another result", sign)
    made.build(tmp_path / "index", dataset=made.other)
    for options in ({"codebook": tmp_path / "index"}, {"dtype": "bfloat16"}):
        refused(made.sign, sign, "holds another result", sign, target=[f"sums={made.other}"], **options)
    made.rank(out, signature=[signature], overwrite=True)
    made.rank(tmp_path / "new", signature=[signature])
    assert contents(out)["scores.parquet"] == contents(tmp_path / "new")["scores.parquet"]
    made.sign(sign, overwrite=True)
    assert contents(sign)["sums.safetensors"] == made.signature.read_bytes()


def test_select_for_another_target_needs_overwrite(made: Made, tmp_path: Path, no_model, monkeypatch) -> None:
    out = tmp_path / "out"
    shutil.copytree(made.folder / "selection", out)
    refused(made.select, out, "another", out, target=[f"sums={made.other}"])
    refused(made.select, out, "another question", out, target=[f"texts={made.target}"])
    (out / CLAIM).unlink()  # as of a version that kept none
    refused(made.select, out, "another question", out, target=[f"texts={made.target}"])
    monkeypatch.undo()
    made.select(out)
    result = made.select(out, target=[f"texts={made.other}"], overwrite=True)
    assert result["targets"] == ["texts"] and result["extraction"]["tokens_run"] == 0


def test_a_result_that_was_changed_is_kept(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made.rank(out)
    (out / "selected.jsonl").write_text("edited")
    refused(made.rank, out, "selected.jsonl: is not as nait_fast wrote it last; .*--overwrite replaces it", out)
    (out / CLAIM).unlink()
    refused(made.rank, out, "selected.jsonl: is not as nait_fast wrote it last", out)
    made.rank(out, overwrite=True)
    assert len((out / "selected.jsonl").read_text().splitlines()) == 4


@pytest.mark.parametrize("claimed", [True, False])
def test_what_an_older_version_wrote_is_known(made: Made, tmp_path: Path, claimed: bool) -> None:
    out, sign = tmp_path / "out", tmp_path / "sign"
    made.rank(out)
    made.sign(sign)
    if not claimed:
        (out / CLAIM).unlink()
        (sign / CLAIM).unlink()
    (out / "top_indices.npy").write_bytes(b"mine")
    refused(made.rank, out, "top_indices.npy: is in the way", out, overwrite=True)
    (out / "top_indices.npy").unlink()
    made.rank(out, export=[])
    made.sign(sign)


class Killed(BaseException):
    pass


def kill(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    """The run ends behind the writing of a file, or, with a number, before that file takes its place."""
    real = getattr(rank_verb, at, None) or os.replace
    moved = itertools.count()

    def written(path: Path, *arguments: Any) -> None:
        real(path, *arguments)
        Path(f"{path}.123-0a1b2c3d.tmp").write_bytes(b"half")
        raise Killed

    def replaced(source: Path, target: Path) -> None:
        if Path(source).parent.name == STAGE and next(moved) == int(at):
            raise Killed
        real(source, target)

    if at.isdecimal():
        monkeypatch.setattr(os, "replace", replaced)
    else:
        monkeypatch.setattr(rank_verb, at, written)


@pytest.mark.parametrize("at", ["write_selected", "write_scores", *map(str, range(5))])
def test_a_run_that_was_killed_finds_its_own_again(made: Made, tmp_path: Path, monkeypatch, at: str) -> None:
    out, fresh = tmp_path / "out", tmp_path / "fresh"
    made.rank(out, fraction=0.2)
    before = contents(out)
    with monkeypatch.context() as patch:
        for folder in (out, fresh):
            kill(patch, at)
            with pytest.raises(Killed):
                made.rank(folder, fraction=0.5)
            patch.undo()
    if not at.isdecimal():  # the results before it are whole
        after = contents(out)
        assert {name: after[name] for name in before} | {CLAIM: before[CLAIM]} == before
    (out / "mine.jsonl.123-0a1b2c3d.tmp").write_bytes(b"mine")
    (out / "selected.jsonl.tmp").write_bytes(b"mine")
    made.rank(out, fraction=0.5)
    assert sorted(p.name for p in out.rglob("*.tmp")) == ["mine.jsonl.123-0a1b2c3d.tmp", "selected.jsonl.tmp"]
    assert not (out / STAGE).exists()
    made.rank(fresh, fraction=0.5)
    made.rank(tmp_path / "whole", fraction=0.5)
    whole = contents(tmp_path / "whole")
    for folder in (out, fresh):
        again = contents(folder)
        assert {name for name in whole if again[name] != whole[name]} <= {"manifest.json", CLAIM}  # they tell seconds
        verify(folder)


@pytest.mark.parametrize("at", ["write_selected", "2"])
def test_a_file_put_there_after_a_kill_is_not_ours(made: Made, tmp_path: Path, monkeypatch, at: str) -> None:
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        kill(patch, at)
        with pytest.raises(Killed):
            made.rank(out)
    for name in ("messages.jsonl", "scores.parquet", "selected.jsonl"):
        held = out / name
        kept = held.read_bytes() if held.exists() else None
        held.write_text("mine")
        words = f"{name}: is (in the way|not as nait_fast wrote it last)"
        refused(made.rank, out, words, out)
        held.unlink() if kept is None else held.write_bytes(kept)
    made.rank(out)


def test_a_file_put_there_while_the_command_runs(made: Made, tmp_path: Path, monkeypatch) -> None:
    out, real = tmp_path / "out", Output.begin

    def begin(self: Output) -> Path:
        (out / "scores.parquet").write_text("mine")
        return real(self)

    monkeypatch.setattr(Output, "begin", begin)
    with pytest.raises(NaitError, match=r"scores\.parquet: is in the way"):
        made.rank(out)
    assert set(contents(out)) == {"scores.parquet"} and (out / "scores.parquet").read_text() == "mine"
    monkeypatch.undo()
    (out / "scores.parquet").unlink()
    (out / STAGE).mkdir()
    (out / STAGE / "mine").touch()
    refused(made.rank, out, f"{STAGE}: is in the way", out)


NAMES = ("a.txt", "b.txt", "c.txt")


def write(folder: Path, texts: dict[str, str], meanwhile: Any = None, overwrite: bool = False) -> None:
    """A run whose files hold ``texts``; ``meanwhile`` is called when they are written, before they are moved."""
    with Output(folder, NAMES, overwrite=overwrite) as output:
        stage = output.begin()
        for name, text in texts.items():
            (stage / name).write_text(text)
        if meanwhile is not None:
            meanwhile(stage)
        output.done("question")


def test_killed_twice_at_any_two_moves(tmp_path: Path, monkeypatch) -> None:
    """Each run writes other bytes, as a manifest does that tells seconds: what the first one put in place is ours."""
    real = os.replace
    for number, (first, second) in enumerate(itertools.product(range(2, 6), range(1, 6))):
        folder = tmp_path / str(number)
        for run_number, at in enumerate((first, second)):
            moved = itertools.count()

            def replaced(source: Any, target: Any, at: int = at, moved: Any = moved) -> None:
                if next(moved) == at:
                    raise Killed
                real(source, target)

            with monkeypatch.context() as patch:
                patch.setattr(os, "replace", replaced)
                with suppress(Killed):
                    write(folder, {name: f"{name} {run_number}" for name in NAMES})
        write(folder, {name: f"{name} 2" for name in NAMES})
        assert {name: (folder / name).read_text() for name in NAMES} == {name: f"{name} 2" for name in NAMES}
        assert set(contents(folder)) == {*NAMES, CLAIM} and not (folder / STAGE).exists()


def test_a_file_put_there_while_others_are_written(tmp_path: Path) -> None:
    write(tmp_path, {"a.txt": "1"})

    def meanwhile(stage: Path) -> None:
        (tmp_path / name).unlink(missing_ok=True)
        (tmp_path / name).mkdir() if name == "c.txt" else (tmp_path / name).write_text("mine")

    for name in NAMES:  # one of ours, one that comes anew, and one of a run before, which goes
        texts = {"a.txt": "2", "b.txt": "2"}
        with pytest.raises(NaitError, match=rf"{name}: is (in the way|not as nait_fast wrote)"):
            write(tmp_path, texts, meanwhile)
        assert (tmp_path / name).is_dir() if name == "c.txt" else (tmp_path / name).read_text() == "mine"
        assert not (tmp_path / STAGE).exists()
        (tmp_path / name).rmdir() if name == "c.txt" else (tmp_path / name).unlink()
        write(tmp_path, {"a.txt": "1"})


@pytest.mark.parametrize("by", ["nothing", "a folder", "a link"])
def test_the_folder_of_what_is_written_is_taken_away(tmp_path: Path, by: str) -> None:
    folder, mine = tmp_path / "out", tmp_path / "mine"
    mine.mkdir()
    (mine / "a.txt").write_text("mine")
    write(folder, dict.fromkeys(NAMES, "1"))

    def meanwhile(stage: Path) -> None:
        stage.rename(tmp_path / "gone")
        if by == "a folder":
            mine.rename(stage)
        elif by == "a link":
            stage.symlink_to(mine)

    with pytest.raises(NaitError, match="was taken away while it was written to"):
        write(folder, dict.fromkeys(NAMES, "2"), meanwhile)
    assert [(folder / name).read_text() for name in NAMES] == ["1"] * 3
    assert ((folder / STAGE if by == "a folder" else mine) / "a.txt").read_text() == "mine"


def test_a_folder_of_ones_own_in_place_of_what_a_kill_has_left(tmp_path: Path) -> None:
    def killed(stage: Path) -> None:
        raise Killed

    with pytest.raises(Killed):
        write(tmp_path, {"a.txt": "1"}, killed)
    for name in ("mine.txt", "sub/a.txt"):
        mine = tmp_path / STAGE / name
        mine.parent.mkdir(exist_ok=True)
        mine.write_text("mine")
        with pytest.raises(NaitError, match=rf"{STAGE}/{name.partition('/')[0]}: is in the way"):
            write(tmp_path, {"a.txt": "2"})
        assert mine.read_text() == "mine"
        mine.unlink()
    mine.parent.rmdir()
    (tmp_path / STAGE / "a.txt.123-0a1b2c3d.tmp").write_text("half")
    write(tmp_path, {"a.txt": "2"})
    assert set(contents(tmp_path)) == {"a.txt", CLAIM}

    def meanwhile(stage: Path) -> None:
        (stage / "mine.txt").write_text("mine")

    with pytest.warns(NaitWarning, match="holds what nait_fast did not write"):
        write(tmp_path, {"a.txt": "3"}, meanwhile)
    assert (tmp_path / "a.txt").read_text() == "3" and (tmp_path / STAGE / "mine.txt").read_text() == "mine"


def test_a_run_that_fails_leaves_nothing_of_itself(tmp_path: Path) -> None:
    def fails(stage: Path) -> None:
        raise KeyboardInterrupt

    for texts in ({}, {"a.txt": "1"}):
        if texts:
            write(tmp_path, texts)
        before = {name: data for name, data in contents(tmp_path).items() if name != CLAIM}
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path, {"a.txt": "2", "b.txt": "2"}, fails)
        assert {name: data for name, data in contents(tmp_path).items() if name != CLAIM} == before
        assert (tmp_path / CLAIM).exists() == bool(texts) and not (tmp_path / STAGE).exists()


def test_a_page_and_options_that_come_while_the_command_runs(capsys, made: Made, tmp_path: Path, monkeypatch) -> None:
    from nait_fast.verbs import rank as rank_verb
    from nait_fast.verbs import report as report_verb

    page, real = tmp_path / "page.html", report_verb.gather

    def gather(*arguments: Any) -> Any:
        page.write_text("mine")
        return real(*arguments)

    monkeypatch.setattr(report_verb, "gather", gather)
    with pytest.raises(NaitError, match=r"page\.html: is in the way"):
        nait_fast.report(selection=str(made.folder / "selection"), output=str(page))
    assert page.read_text() == "mine"
    out, ranked = tmp_path / "out", rank_verb.rank_index

    def rank_index(*arguments: Any, **options: Any) -> Any:
        (out / "config.yaml").write_text("mine: 1\n")
        return ranked(*arguments, **options)

    monkeypatch.setattr(rank_verb, "rank_index", rank_index)
    ran = run(capsys, "rank", "--index", made.index, "--signature", made.signature, "--top-k", 5, "--output", out)
    assert ran.status == 0 and "config.yaml: is in the way" in ran.err
    assert (out / "config.yaml").read_text() == "mine: 1\n" and (out / "manifest.json").exists()


@pytest.mark.parametrize("name", ["log.json", "log-1.json", "manifest.json", "codebook.safetensors", "events.jsonl"])
def test_a_file_put_into_an_unfinished_index(made: Made, tmp_path: Path, no_model, name: str) -> None:
    out = tmp_path / "index"
    shutil.copytree(made.index, out)
    (out / "manifest.json").unlink()
    if name.endswith(".safetensors"):
        save_file({"weight": np.zeros(3)}, out / name)
    else:
        (out / name).write_text('{"mine": 1}\n')
    refused(made.build, out, rf"{name}: is in the way", out)


def test_temporaries_of_every_verb_are_swept(made: Made, tmp_path: Path) -> None:
    for verb, folder, names in (
        (made.build, "index", ["manifest.json", "run.json", "shard-00001.safetensors", "log.json"]),
        (made.sign, "signatures", ["sums.safetensors", CLAIM]),
        (made.select, "selection", ["scores.parquet", "manifest.json", CLAIM, "signatures/sums.safetensors"]),
    ):
        out = Path(shutil.copytree(made.folder / folder, tmp_path / folder))
        left = [out / f"{name}.4194304-0a1b2c3d.tmp" for name in names]
        for path in left:
            path.write_bytes(b"half")
        verb(out)
        assert not [path for path in left if path.exists()]


def test_an_evaluation_is_replaced_by_one_that_tells_as_much(made: Made, tmp_path: Path) -> None:
    out, sign = tmp_path / "out", tmp_path / "sign"
    given: dict[str, Any] = {"index": made.index, "output": out}
    made.sign(sign, target=[f"texts={made.other}"])
    both = [made.signature, sign / "texts.safetensors"]
    nait_fast.evaluate(signature=both[:1], **given)
    (out / "evaluation.md.9-0a1b2c3d.tmp").write_text("half")
    nait_fast.evaluate(signature=both, **given)
    assert not list(out.glob("*.tmp"))
    refused(nait_fast.evaluate, out, "is of 1 signatures that are not given now", signature=both[:1], **given)
    refused(nait_fast.evaluate, out, "holds an index or a selection", **{**given, "output": made.index}, signature=both)
    (out / "evaluation.md").write_text("mine")
    refused(nait_fast.evaluate, out, "evaluation.md: is not as nait_fast wrote it", signature=both, **given)
    (out / CLAIM).unlink()
    refused(nait_fast.evaluate, out, "evaluation.md: is in the way", signature=both, **given)
    (out / "evaluation.md").unlink()
    nait_fast.evaluate(signature=both[:1], **given, overwrite=True)


def test_merge_keeps_to_its_own_files(made: Made, tmp_path: Path) -> None:
    second, out = tmp_path / "second", tmp_path / "out"
    pool = write_jsonl(tmp_path / "more.jsonl", make_rows(20, seed=9))
    nait_fast.build_index(model=made.model, dataset=pool, codebook=made.index, shard_rows=8, output=second)
    given = {"index": [made.index, second], "output": out}
    lock = holding(out)
    refused(nait_fast.merge, out, "in use by pid", **given)
    lock.release()
    (out / "skipped.jsonl").write_text('{"instruction": "mine"}')
    refused(nait_fast.merge, out, r"skipped\.jsonl: is in the way", **given)
    (out / "skipped.jsonl").unlink()
    nait_fast.merge(**given)
    (out / "log.json.1-0a1b2c3d.tmp").write_text("half")
    nait_fast.merge(**given)
    assert Index(out).pool_rows == 60 and not list(out.glob("*.tmp"))


def test_an_unfinished_index_is_no_place_for_results(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(made.index / "run.json", out)
    refused(made.rank, out, r"holds an index or something else \(run\.json\)", out)
    refused(nait_fast.evaluate, out, "holds an index", index=made.index, signature=[made.signature], output=out)


def test_the_demo_keeps_to_its_own_files(tmp_path: Path, tiny_model: str, monkeypatch) -> None:
    from nait_fast.demo import TARGETS
    from nait_fast.verbs import demo

    rows = [{**row, "source": TARGETS[i % len(TARGETS)]} for i, row in enumerate(make_rows(24))]
    held = {"pool": rows, **{name: make_rows(8, seed=len(name)) for name in TARGETS}}
    monkeypatch.setattr(demo, "pool_rows", lambda: rows)
    monkeypatch.setattr(demo, "data", lambda name: "".join(json.dumps(row) + "\n" for row in held[name]).encode())
    out = tmp_path / "demo"
    out.mkdir()
    mine = out / f"{TARGETS[0]}.jsonl"
    mine.write_text("mine")
    refused(demo.run, out, "is in the way", tiny_model, str(out), quiet=True)
    mine.unlink()
    first = demo.run(tiny_model, str(out), quiet=True)
    signed = out / "signatures" / "contrast" / f"{demo.TARGETS[0]}.safetensors"
    kept = signed.read_bytes()
    shutil.copy(out / "signatures" / "nait" / signed.name, signed)
    refused(demo.run, signed.parent, "is not as nait_fast wrote it last", tiny_model, str(out), quiet=True)
    signed.write_bytes(kept)
    left = signed.with_name(f"{signed.name}.4194304-0a1b2c3d.tmp")
    left.write_bytes(b"half")
    again = demo.run(tiny_model, str(out), quiet=True)
    assert again["precision"] == first["precision"] and mine.exists() and not left.exists()


def test_a_damaged_claim_is_told(made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made.rank(out)
    data = (out / CLAIM).read_bytes()
    (out / CLAIM).write_bytes(data.replace(b"selected", b"selecteD"))
    refused(made.rank, out, rf"{CLAIM}: damaged", out)


def test_the_state_of_a_file(tmp_path: Path) -> None:
    known = {"a": State.WHOLE, "b": State.OURS, "c": State.FOREIGN}

    def recognise(path: Path) -> tuple[State, str | None]:
        return known[path.name], None

    for name in known:
        (tmp_path / name).touch()
    with Output(tmp_path, ["a", "d"], recognise=recognise):
        pass
    with pytest.raises(NaitError, match="is not as nait_fast wrote"), Output(tmp_path, "b", recognise=recognise):
        pass
    with Output(tmp_path, "b", recognise=recognise, overwrite=True):
        pass
    with pytest.raises(NaitError, match="is in the way"), Output(tmp_path, "c", recognise=recognise, overwrite=True):
        pass
    holding(tmp_path).release()  # given back by those that were refused, too


def test_config_yaml_is_replayed_but_not_lost(capsys, made: Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["rank", "--index", made.index, "--signature", made.signature, "--output", out]
    assert run(capsys, *words).status == 0
    kept = (out / "config.yaml").read_bytes()
    assert run(capsys, "rank", "--config", out / "config.yaml").status == 0
    assert (out / "config.yaml").read_bytes() == kept
    (out / "config.yaml").write_bytes(kept.replace(b"fraction: null", b"fraction: 0.5"))
    assert "config.yaml: is not as nait_fast wrote it" in run(capsys, "rank", "--config", out / "config.yaml").error
    assert run(capsys, "rank", "--config", out / "config.yaml", "--overwrite").status == 0
    (out / "config.yaml").write_text("seed: 1\n")
    assert "config.yaml: is in the way" in run(capsys, *words, "--overwrite").error
    old = b"".join(line for line in kept.splitlines(keepends=True) if not line.startswith(b"#"))
    (out / "config.yaml").write_bytes(old)
    assert run(capsys, *words).status == 0


def test_a_page_is_replaced_and_nothing_else(capsys, made: Made, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "made" / "report.html"
    words = ["report", made.folder / "selection", "--output", page]
    page.parent.mkdir()
    page.write_text("<html>mine</html>")
    assert "report.html: is in the way" in run(capsys, *words, "--overwrite").error
    page.unlink()
    Path(f"{page}.7-0a1b2c3d.tmp").write_text("half")
    assert run(capsys, *words).status == 0 and run(capsys, *words).status == 0
    assert [p.name for p in page.parent.iterdir()] == ["report.html"]
    page.write_bytes(page.read_bytes().replace(b"<h1>", b"<h1>My "))
    assert "report.html: is not as nait_fast wrote it last" in run(capsys, *words).error
    assert run(capsys, *words, "--overwrite").status == 0
    made.sign(tmp_path / "sign", target=[f"sums={made.other}"])
    made.rank(tmp_path / "other", signature=[tmp_path / "sign" / "sums.safetensors"])
    words[1] = tmp_path / "other"
    assert "report of another selection" in run(capsys, *words).error
    words += ["--plots", tmp_path / "plots", "--overwrite"]
    assert run(capsys, *words).status == 0
    plot = next((tmp_path / "plots").glob("*.svg"))
    plot.write_text("mine")
    assert f"{plot}: is not as nait_fast wrote it last" in run(capsys, *words[:-1]).error


def test_bench_adds_to_its_own_files_only(capsys, tmp_path: Path) -> None:
    for text in ('{"instruction": "a"}\n', "words", '{"part": "scan", "hardware": "h", "name": "n"}'):
        path = tmp_path / "rows.jsonl"
        path.write_text(text)
        assert "rows.jsonl: is not a file of results" in run(capsys, "bench", "--shape", "tiny", "--output", path).error
        assert path.read_text() == text


@pytest.mark.parametrize("name", [".", "..", ".hidden", "x" * 240, "é" * 120])
def test_names_that_no_file_should_have(made: Made, tmp_path: Path, no_model, name: str) -> None:
    for verb in (made.select, made.sign):
        with pytest.raises(NaitError, match=r"--target .*write NAME=FILE"):
            verb(tmp_path / "out", target=[f"{name}={made.target}"])
    with pytest.raises(NaitError, match="differ in capitals only"):
        made.sign(tmp_path / "out", target=[f"sums={made.target}", f"Sums={made.other}"])


def test_a_name_as_long_as_may_be(made: Made, tmp_path: Path) -> None:
    result = made.select(tmp_path / "out", target=[f"{'x' * 200}={made.target}"])
    assert result["targets"] == ["x" * 200]


def test_a_refused_command_leaves_no_empty_folder(capsys, made: Made, tmp_path: Path) -> None:
    for late in (["--token-budget", 1], ["--decontaminate", made.target, "--quota", "nothing=x:0.5"]):  # with its lock
        run(capsys, "rank", "--index", made.index, "--signature", made.signature, "--output", tmp_path / "late", *late)
        assert not (tmp_path / "late").exists()
    asked = ["rank", "--index", tmp_path / "none", "--signature", tmp_path / "x.safetensors", "--output"]
    run(capsys, *asked, tmp_path / "made")
    assert not (tmp_path / "made").exists()
    (tmp_path / "there").mkdir()
    run(capsys, *asked, tmp_path / "there")
    assert (tmp_path / "there").is_dir()
    with pytest.raises(NaitError):
        nait_fast.rank(index=tmp_path / "none", signature=tmp_path / "x.safetensors", output=tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_selection_stands_for_its_index_and_signatures(made: Made, tmp_path: Path) -> None:
    selection = made.folder / "selection"
    options = {"top_k": 7, "scores": "none"}
    made.rank(
        tmp_path / "named",
        index=selection / "index",
        signature=[selection / "signatures" / "sums.safetensors"],
        **options,
    )
    made.rank(tmp_path / "folders", index=selection, signature=[selection], **options)
    made.rank(tmp_path / "files", index=selection, signature=[selection / "signatures"], **options)
    chosen = [(tmp_path / name / "selected.jsonl").read_bytes() for name in ("named", "folders", "files")]
    assert chosen[0] == chosen[1] == chosen[2]
    signed = nait_fast.build_signature(
        model=made.model, target=[f"other={made.other}"], codebook=selection, output=tmp_path / "signed"
    )
    assert signed["signatures"][0]["name"] == "other"
    (tmp_path / "empty").mkdir()
    with pytest.raises(NaitError, match="empty: no signature in this folder"):
        made.rank(tmp_path / "out", signature=[tmp_path / "empty"])
    both = [tmp_path / "signed", selection]
    assert made.rank(tmp_path / "both", index=selection, signature=both, **options)["targets"] == ["other", "sums"]


def test_rank_does_not_write_over_what_select_chose(made: Made, tmp_path: Path) -> None:
    selection = tmp_path / "selection"
    shutil.copytree(made.folder / "selection", selection)
    of_select = {"index": selection / "index", "signature": [selection / "signatures" / "sums.safetensors"]}
    refused(made.rank, selection, "holds what select has chosen", selection, **of_select)
    made.rank(selection, **of_select, overwrite=True)
    assert json.loads((selection / "manifest.json").read_text())["verb"] == "rank"
