"""A run that was stopped anywhere goes on to the very bytes of one that was not; other options are refused."""

import multiprocessing
import random
import shutil
import time
import warnings
from pathlib import Path

import pytest
from torch import nn

import nait_fast
from nait_fast.data.prefixes import SCHEME
from nait_fast.errors import NaitError
from nait_fast.index.run_file import read_run, write_run
from nait_fast.index.writer import IndexWriter
from nait_fast.models.linear import usable
from nait_fast.models.product_trial import Products
from nait_fast.notices import NaitWarning
from nait_fast.storage.files import read_json
from tests.conftest import make_rows, write_jsonl
from tests.index.bits import digest
from tests.index.stopping import Stopped

OPTIONS = {"shard_rows": 4, "calibration_size": 20, "batch_tokens": 200}


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    return write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", make_rows(60))


@pytest.fixture(scope="module")
def signature(tmp_path_factory, tiny_model: str) -> Path:
    folder = tmp_path_factory.mktemp("target")
    target = write_jsonl(folder / "sums.jsonl", make_rows(12, seed=1))
    nait_fast.build_signature(model=tiny_model, target=[str(target)], method="nait", output=folder)
    return folder / "sums.safetensors"


def options(kind: str, model: str, pool: Path, signature: Path) -> dict:
    own = {
        "plain": {},
        "exact": {"exact": [signature], "reading": "drift"},
        "nag": {"codec": "nag:5"},
        "alpaca": {"template": "alpaca"},  # with a shared prefix
    }[kind]
    return calibrating({"model": model, "dataset": pool, **OPTIONS, **own})


def calibrating(options: dict) -> dict:
    """Without what codec nag, which calibrates nothing, refuses."""
    calibrates = not options.get("codec", "").startswith("nag")
    return {name: value for name, value in options.items() if name != "calibration_size" or calibrates}


KINDS = ("plain", "exact", "nag", "alpaca")


@pytest.fixture(scope="module", params=KINDS)
def undisturbed(request, tmp_path_factory, tiny_model: str, pool: Path, signature: Path) -> tuple[dict, dict]:
    given = options(request.param, tiny_model, pool, signature)
    folder = tmp_path_factory.mktemp("undisturbed")
    nait_fast.build_index(output=folder, **given)
    return given, digest(folder)


# Every place of a plain one; what else an index holds is written with its shard, wherever that is.
STOPS = [
    *(("plain", shard, when) for shard in (0, 2, 14) for when in ("before", "after")),
    *((kind, 2, when) for kind in ("exact", "nag") for when in ("before", "after")),
    *(("alpaca", shard, "before") for shard in (0, 14)),
]


@pytest.mark.parametrize(("undisturbed", "shard", "when"), STOPS, indirect=["undisturbed"], scope="module")
def test_an_exception_in_the_middle(tmp_path, monkeypatch, undisturbed, shard: int, when: str) -> None:
    given, expected = undisturbed
    write, written = IndexWriter.write_shard, []

    def failing(self, number, *arguments):
        written.append(number)
        if number == shard and when == "before":
            raise Stopped
        write(self, number, *arguments)
        if number == shard:
            raise Stopped

    monkeypatch.setattr(IndexWriter, "write_shard", failing)
    with pytest.raises(Stopped):
        nait_fast.build_index(output=tmp_path, **given)
    assert not (tmp_path / "manifest.json").exists()
    with pytest.raises(NaitError, match="not finished"):
        nait_fast.Index(tmp_path)
    first, shard = len(written), -1
    nait_fast.build_index(output=tmp_path, **given)
    assert written[first:] == list(range(first - (when == "before"), 15))  # no shard is run twice
    assert digest(tmp_path) == expected


@pytest.mark.parametrize("name", ["codebook.safetensors", "calibration.safetensors", "manifest.json"])
def test_stopped_at_a_file(tmp_path, monkeypatch, undisturbed, name: str) -> None:
    from nait_fast.codecs import codebook
    from nait_fast.extract import indexing
    from nait_fast.storage import files

    given, expected = undisturbed
    if name != "manifest.json" and given.get("codec", "").startswith("nag"):  # it has no codebook
        nait_fast.build_index(output=tmp_path, **given)
        assert not (tmp_path / name).exists()
        return
    whole = files.write_atomic
    for after in (False, True):
        folder = tmp_path / str(after)

        def failing(path, *pieces, after=after):
            if path.name != name or after:
                whole(path, *pieces)
            if path.name == name:
                raise Stopped

        with monkeypatch.context() as patch:
            for module in (codebook, files, indexing):
                patch.setattr(module, "write_atomic", failing)
            with pytest.raises(Stopped):
                nait_fast.build_index(output=folder, **given)
        nait_fast.build_index(output=folder, **given)
        assert digest(folder) == expected


def test_a_finished_index_is_left_alone(tmp_path, undisturbed) -> None:
    given, expected = undisturbed
    nait_fast.build_index(output=tmp_path, **given)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}
    summary = nait_fast.build_index(output=tmp_path, **given)
    assert summary["tokens_run"] == 0 and summary["rows_indexed"] == 60
    assert digest(tmp_path) == expected
    assert times == {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("*.safetensors")}


def test_a_damaged_shard_of_an_unfinished_index_is_made_anew(tmp_path, monkeypatch, undisturbed) -> None:
    given, expected = undisturbed
    with monkeypatch.context() as patch:
        patch.setattr(IndexWriter, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        with pytest.raises(Stopped):
            nait_fast.build_index(output=tmp_path, **given)
    shards = sorted(tmp_path.glob("shard-*.safetensors"))
    shards[0].unlink()
    shards[1].write_bytes(shards[1].read_bytes()[:-1] + b"\xff")
    shards[4].write_bytes(shards[4].read_bytes()[:-1])
    (tmp_path / "work" / "shard-00002.json").unlink()
    (tmp_path / "work" / "shard-00005.json").write_text("{")
    (tmp_path / "shard-00003.safetensors.1-2.tmp").write_bytes(b"half")
    nait_fast.build_index(output=tmp_path, **given)
    assert digest(tmp_path) == expected


def test_killed_at_random_moments(tmp_path, monkeypatch, undisturbed) -> None:
    given, expected = undisturbed
    # A server that has imported everything forks each run: what is killed is the run, not its imports.
    monkeypatch.setenv("PYTHONPATH", str(Path(nait_fast.__file__).parent.parent))
    context = multiprocessing.get_context("forkserver")
    llama = "transformers.models.llama.modeling_llama"
    context.set_forkserver_preload(["nait_fast.api", "nait_fast.verbs.index", llama])
    generator = random.Random(0)

    def start() -> multiprocessing.process.BaseProcess:
        process = context.Process(target=nait_fast.build_index, kwargs={"output": tmp_path, **given})
        process.start()
        return process

    killed = 0
    for shards in sorted(generator.sample(range(13), 5)):  # once this many are there, and a moment later
        process = start()
        while process.is_alive() and len(list(tmp_path.glob("shard-*.safetensors"))) < shards:
            time.sleep(0.001)
        process.join(generator.uniform(0.0, 0.02))
        process.kill()
        process.join()
        killed += process.exitcode == -9
    last = start()
    last.join()
    assert last.exitcode == 0
    assert killed >= 2
    assert digest(tmp_path) == expected


CHANGES = [
    ({"max_length": 7}, "max_length (512 -> 7)"),
    ({"reading": "drift"}, "reading (mean -> drift)"),
    ({"first_token": "include"}, "first_token (exclude -> include)"),
    ({"template": "alpaca"}, "template_kind (chat -> alpaca)"),
    ({"layers": "1"}, "layers ([0, 1, 2] -> [1])"),
    ({"shard_rows": 5}, "shard_rows (4 -> 5)"),
    ({"calibration_size": 21}, "--codebook, --calibration-size or --seed ("),
    ({"seed": 1}, "--codebook, --calibration-size or --seed ("),
    ({"batch_tokens": 100}, "batch_tokens (200 -> 100)"),
    ({"dtype": "bfloat16"}, "--dtype (float32 -> bfloat16)"),
    ({"codec": "nag"}, "codec (neuron -> nag)"),
    ({"too_long": "skip"}, "too_long (cut -> skip)"),
    ({"dataset": "other.jsonl"}, "dataset ("),
    ({"format": "prompt_completion", "dataset": "renamed.jsonl"}, "dataset ("),
    ({"exact": "signature"}, "sums (None -> "),
]


@pytest.mark.parametrize("finished", [True, False])
def test_changed_options_are_refused_by_name(tmp_path, monkeypatch, tiny_model, pool, signature, finished) -> None:
    given = options("plain", tiny_model, pool, signature)
    folder = tmp_path / "index"
    with monkeypatch.context() as patch:
        if not finished:
            patch.setattr(IndexWriter, "finish", lambda *_: (_ for _ in ()).throw(Stopped))
        try:
            nait_fast.build_index(output=folder, **given)
        except Stopped:
            assert not finished
    write_jsonl(tmp_path / "other.jsonl", make_rows(59))
    renamed = [{"prompt": r["instruction"], "completion": r["output"]} for r in make_rows(60)]
    write_jsonl(tmp_path / "renamed.jsonl", renamed)
    before = contents(folder)
    for change, words in CHANGES:
        changed = dict(change)
        if "dataset" in change:
            changed["dataset"] = tmp_path / change["dataset"]
        if "exact" in change:
            changed["exact"] = [signature]
        with pytest.raises(NaitError) as error:
            nait_fast.build_index(output=folder, **calibrating({**given, **changed}))
        assert words in str(error.value) and str(folder) in str(error.value), change
        assert "choose another folder or delete it" in str(error.value) and "\n" not in str(error.value)
        assert contents(folder) == before, change


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, which name the process."""
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.suffix not in (".lock", ".again")}


def test_a_folder_of_something_else_is_refused(tmp_path, tiny_model, pool) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(NaitError, match="holds something else"):
        nait_fast.build_index(model=tiny_model, dataset=pool, output=tmp_path)


def test_what_another_index_left_behind_is_not_built_upon(tmp_path: Path, tiny_model: str) -> None:
    """Codebook and calibration of another pool, in a folder whose run.json does not vouch for them."""
    pools = [write_jsonl(tmp_path / f"{k}.jsonl", make_rows(30, seed=k)) for k in range(2)]
    options = {"model": tiny_model, "calibration_size": 12, "batch_tokens": 500, "shard_rows": 12}
    for k in range(2):
        nait_fast.build_index(dataset=str(pools[k]), output=str(tmp_path / f"index{k}"), **options)
    for name in ("manifest.json", "run.json"):
        (tmp_path / "index0" / name).unlink()
    with pytest.raises(NaitError, match=r"codebook\.safetensors: left behind by an index whose run\.json is gone"):
        nait_fast.build_index(dataset=str(pools[1]), output=str(tmp_path / "index0"), **options)
    begun = tmp_path / "begun"  # killed before it was calibrated
    begun.mkdir()
    run = read_run(tmp_path / "index1")
    write_run(begun, {key: value for key, value in run.items() if key not in ("files", "exact")})
    for name in ("codebook.safetensors", "calibration.safetensors"):
        (begun / name).write_bytes((tmp_path / "index0" / name).read_bytes())
    nait_fast.build_index(dataset=str(pools[1]), output=str(begun), **options)
    for name in (
        "codebook.safetensors",
        "calibration.safetensors",
        "shard-00000.safetensors",
        "manifest.json",
        "run.json",
    ):
        assert (begun / name).read_bytes() == (tmp_path / "index1" / name).read_bytes()


def test_the_form_of_products_is_the_one_it_was_begun_with(tmp_path, monkeypatch, tiny_model, pool) -> None:
    """Whatever a later process would have chosen; one that the user names otherwise is refused."""
    given = {"model": tiny_model, "dataset": pool, **OPTIONS, "output": tmp_path / "index"}
    if not usable(nn.Linear(2, 2)):
        pytest.skip("one form only on this machine")
    monkeypatch.setenv("NAIT_FAST_LINEAR", "torch")
    nait_fast.build_index(**given)
    assert read_run(tmp_path / "index")["products"] == "torch"
    whole = digest(tmp_path / "index")
    (tmp_path / "index" / "shard-00003.safetensors").write_bytes(b"")
    monkeypatch.setenv("NAIT_FAST_LINEAR", "blocked")
    with pytest.raises(NaitError, match="NAIT_FAST_LINEAR"):
        nait_fast.build_index(**given, repair=True)
    monkeypatch.delenv("NAIT_FAST_LINEAR")
    assert nait_fast.build_index(**given, repair=True)["products"] == "torch"
    assert digest(tmp_path / "index") == whole
    log = read_json(tmp_path / "index" / "log.json")
    assert log["products"]["why"] == "as the index was begun"


def test_an_index_begun_with_other_prefixes_says_so(tmp_path, tiny_model, pool) -> None:
    given = {"model": tiny_model, "dataset": pool, **OPTIONS, "output": tmp_path / "index"}
    nait_fast.build_index(**given)
    run = read_run(tmp_path / "index")
    assert run.pop("prefixes") == SCHEME
    write_run(tmp_path / "index", run)
    (tmp_path / "index" / "shard-00003.safetensors").write_bytes(b"")
    for _ in range(2):  # and keeps saying so
        with pytest.warns(NaitWarning, match="begun when shared prefixes were chosen otherwise"):
            nait_fast.build_index(**given, repair=True)
        (tmp_path / "index" / "shard-00003.safetensors").write_bytes(b"")


def test_a_codebook_brings_the_form_of_its_index(tmp_path, monkeypatch, tiny_model, pool) -> None:
    """So that the two can be one index, whatever either machine would have chosen."""
    if not usable(nn.Linear(2, 2)):
        pytest.skip("one form only on this machine")
    given = {"model": tiny_model, **OPTIONS}
    monkeypatch.setenv("NAIT_FAST_LINEAR", "torch")
    nait_fast.build_index(**given, dataset=pool, output=tmp_path / "a")
    monkeypatch.delenv("NAIT_FAST_LINEAR")
    monkeypatch.setattr("nait_fast.models.load.products_of", lambda model: Products("blocked", choice=True))
    more = write_jsonl(tmp_path / "more.jsonl", make_rows(8, seed=3))
    given = {name: value for name, value in given.items() if name not in ("calibration_size", "seed")}
    codebook = tmp_path / "a" / "codebook.safetensors"
    assert nait_fast.build_index(**given, dataset=more, output=tmp_path / "b", codebook=codebook)["products"] == "torch"
    assert read_json(tmp_path / "b" / "log.json")["products"]["why"] == "as the index was begun"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        nait_fast.merge(index=[str(tmp_path / name) for name in "ab"], output=str(tmp_path / "all"))
    shutil.copy(tmp_path / "a" / "codebook.safetensors", tmp_path / "alone.safetensors")
    nait_fast.build_index(**given, dataset=more, output=tmp_path / "c", codebook=tmp_path / "alone.safetensors")
    with pytest.warns(NaitWarning, match=r"c: its fp32 products were made in another form .*\(blocked, not torch\)"):
        nait_fast.merge(index=[str(tmp_path / name) for name in "ac"], output=str(tmp_path / "both"))


def test_an_index_of_before_keeps_blocked_products(tmp_path, monkeypatch, tiny_model, pool) -> None:
    if not usable(nn.Linear(2, 2)):
        pytest.skip("one form only on this machine")
    given = {"model": tiny_model, "dataset": pool, **OPTIONS, "output": tmp_path / "index"}
    nait_fast.build_index(**given)
    run = read_run(tmp_path / "index")
    del run["products"]
    write_run(tmp_path / "index", run)
    more = write_jsonl(tmp_path / "more.jsonl", make_rows(8, seed=3))
    monkeypatch.setattr("nait_fast.models.load.products_of", lambda model: Products("torch", choice=True))
    added = nait_fast.build_index(**{**given, "dataset": more}, append=True)
    assert added["products"] == read_run(tmp_path / "index")["products"] == "blocked"
