"""One byte of a file changed, any byte of any file: whoever reads it refuses it in one line."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.codecs import codec_of
from nait_fast.codecs.codebook import load_codebook
from nait_fast.data.plan import load_plan
from nait_fast.errors import NaitError
from nait_fast.index.format import columns_of
from nait_fast.index.reader import Index
from nait_fast.index.run_file import read_run, write_run
from nait_fast.index.skipped import check_kept, check_list
from nait_fast.index.stream import Stream, ids
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.reporting.evaluation_file import load_evaluation
from nait_fast.reporting.selection_folder import open_selection
from nait_fast.reporting.validation_file import load_validation
from nait_fast.storage.files import pack_tensors, read_json, read_sealed, sha256, write_sealed
from nait_fast.storage.names import CALIBRATION, CODEBOOK, MANIFEST, RUN, SKIPPED, shard_name
from nait_fast.verbs.inspection import inspect, verify
from tests.index.made import IDS, LAYOUT, ROWS, SHARED, WIDTHS, make, put, seal, signature
from tests.ranking.indexes import id_tensors
from tests.reporting.made import Made, make_rows
from tests.reporting.test_validation_shown import FULL as VALIDATION

CODECS: dict[str, dict[str, Any]] = {
    "neuron": {},
    "nag": {"top_k": 3, "codebook": None},
    "rotated": {"outliers": 2, "embedding": 6, "embed_layer": 1},
    "components": {"components": [4, 2]},
}
METHODS: dict[str, dict[str, Any]] = {
    "nag": {"top_k": 3, "scale": 0.5},
    "nait": {"explained": [0.5, 0.5], "sign_margin": [3.0, 3.0]},
    "embed": {"codebook": "c" * 16, "embed_layer": 1},
}


def of_codec(index: Path, codec: str) -> Path:
    """The index with shards of ``codec``, of no sense but that of their bytes."""
    told = read_json(index / MANIFEST) | {"codec": codec, **CODECS[codec]}
    told["row_bytes"] = codec_of(codec).code_layout(WIDTHS).row_bytes
    generator = np.random.default_rng(3)
    seal(index / MANIFEST, told)
    for number, rows in enumerate(ROWS):
        n = len(rows)
        tensors = {
            "codes": generator.integers(0, 256, (n, told["row_bytes"]), np.uint8),
            "row": np.array(rows),
            "n_tokens": np.full(n, 7, np.int32),
            "exact.sums": generator.normal(size=n),
            **id_tensors(IDS[number]),
        }
        for name, (dtype, shape) in columns_of(told).items():
            tensors[name] = generator.integers(0, 100, (n, *shape)).astype(dtype)
        put(index, shard_name(number), pack_tensors(tensors, {"kind": "shard", "number": number}))
    return index


def signatures(folder: Path) -> Iterator[Path]:
    n = LAYOUT.n_neurons
    weights = np.linspace(-1, 1, n).astype(np.float32)
    tensors = {
        "nag": {
            "weights": weights,
            "planes": LAYOUT.pack(np.ones((1, n), bool)),
            "plane_weights": np.ones(1, np.int64),
        },
        "nait": {"direction": weights},
        "embed": {"centroid": weights[:6], "hidden_mean": weights[6:12]},
    }
    yield signature().save(folder)
    for method, more in METHODS.items():
        meta = {"method": method, **SHARED, "samples": 8, **more}
        yield Signature(method, meta, tensors[method]).save(folder)


def read_shards(index: Path) -> None:
    """All that there is in the shards, as ``rank`` reads it."""
    opened = Index(index)
    for part in Stream(opened, list(opened.exact), columns=list(opened.columns)).parts():
        assert len(part.row)
    assert sum(len(some.absent) for some in ids(opened, 4)) == opened.rows


def flips(path: Path, number: int, read: Callable[[], Any], seed: int = 0) -> int:
    """Change ``number`` bytes of a file, one at a time; each is found. Returns that number."""
    read()
    data, chance = path.read_bytes(), random.Random(seed)
    for _ in range(number):
        at, by = chance.randrange(len(data)), chance.randrange(1, 256)
        path.write_bytes(data[:at] + bytes([data[at] ^ by]) + data[at + 1 :])
        with pytest.raises(NaitError) as error:
            read()
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000, (at, by)
    path.write_bytes(data)
    read()
    return number


@pytest.fixture
def index(tmp_path: Path) -> Path:
    index = make(tmp_path / "index")
    write_run(index, {"identity": {"dtype": "float32"}, "datasets": read_json(index / MANIFEST)["datasets"]})
    return index


@pytest.fixture(scope="module")
def chosen(tmp_path_factory) -> Made:
    made = Made(tmp_path_factory.mktemp("flips"), make_rows(40))
    made.select(fraction=0.2)
    return made


@pytest.mark.parametrize("codec", CODECS)
def test_shards(index: Path, codec: str) -> None:
    of_codec(index, codec)
    assert flips(index / shard_name(0), 600, lambda: read_shards(index)) == 600


def test_files_of_tensors(index: Path, tmp_path: Path) -> None:
    from nait_fast.index.calibration import load_calibration

    flips(index / CODEBOOK, 500, lambda: load_codebook(index))
    flips(index / CALIBRATION, 500, lambda: load_calibration(index / CALIBRATION, LAYOUT, ["sums"], {}))
    for path in signatures(tmp_path):
        flips(path, 250, lambda path=path: load_signature(path))
        flips(path, 20, lambda path=path: inspect(str(path)), seed=1)


def test_files_of_json(index: Path) -> None:
    flips(index / MANIFEST, 300, lambda: Index(index))
    flips(index / MANIFEST, 20, lambda: inspect(str(index)), seed=1)
    flips(index / "plan-00.json", 200, lambda: load_plan(index / "plan-00.json"))
    flips(index / RUN, 200, lambda: read_run(index))
    flips(index / SKIPPED, 200, lambda: check_list(Index(index)))


def test_files_of_a_selection(chosen: Made, tmp_path: Path) -> None:
    folder = chosen.folder / "chosen"
    flips(folder / MANIFEST, 250, lambda: open_selection(folder))
    flips(folder / "selected.jsonl", 200, lambda: open_selection(folder))
    flips(folder / "scores.parquet", 250, lambda: open_selection(folder).file("scores.parquet"))
    nait_fast.evaluate(index=str(chosen.index), signature=chosen.saved(*chosen.signatures), output=str(tmp_path))
    flips(tmp_path / "evaluation.json", 250, lambda: load_evaluation(tmp_path / "evaluation.json"))
    write_sealed(tmp_path / "validation.json", VALIDATION)
    flips(tmp_path / "validation.json", 250, lambda: load_validation(tmp_path / "validation.json"))
    flips(tmp_path / "validation.json", 20, lambda: inspect(str(tmp_path / "validation.json")), seed=1)


def test_files_that_merge_reads(index: Path, tmp_path: Path) -> None:
    other = make(tmp_path / "more" / "index")
    told = read_json(other / MANIFEST)
    told["datasets"][0]["sha256"] = "6" * 64
    seal(other / MANIFEST, told)
    write_run(other, {**read_run(index), "datasets": told["datasets"]})
    out = tmp_path / "all"

    def merge() -> None:
        shutil.rmtree(out, ignore_errors=True)
        nait_fast.merge(index=[str(index), str(other)], output=str(out))

    for folder, name in (
        (index, CODEBOOK),
        (index, CALIBRATION),
        (other, RUN),
        (index, SKIPPED),
        (other, "plan-00.json"),
        (other, MANIFEST),
        (other, shard_name(1)),
    ):
        flips(folder / name, 12, merge)
    merge()
    assert Index(out).verify() == []


def test_verify_reads_all(index: Path) -> None:
    for name in (MANIFEST, CODEBOOK, CALIBRATION, RUN, SKIPPED, "plan-00.json", shard_name(0), shard_name(1)):
        flips(index / name, 25, lambda: verify(str(index)))


VERBS: dict[str, Callable[[Made, Path], Any]] = {
    "rank": lambda made, out: nait_fast.rank(
        index=str(made.index), signature=made.saved(*made.signatures), output=str(out)
    ),
    "evaluate": lambda made, out: nait_fast.evaluate(
        index=str(made.index), signature=made.saved(*made.signatures), output=str(out)
    ),
    "report": lambda made, out: nait_fast.report(selection=str(made.folder / "chosen"), output=str(out / "r.html")),
    "search": lambda made, out: nait_fast.search(nait_fast.Index(str(made.index)), made.signatures[0], 3),
    "resident": lambda made, out: nait_fast.ResidentIndex(nait_fast.Index(str(made.index)), "cpu"),
}


@pytest.mark.parametrize("verb", VERBS)
def test_verbs_that_read_codes(chosen: Made, tmp_path: Path, verb: str) -> None:
    path = chosen.index / shard_name(0)
    data = path.read_bytes()
    codes = data.index(chosen.codes.tobytes())
    VERBS[verb](chosen, tmp_path / "whole")
    try:
        for at in (codes, codes + chosen.codes.nbytes - 1):
            path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
            with pytest.raises(NaitError, match=r"shard-00000\.safetensors"):
                VERBS[verb](chosen, tmp_path / "out")
            assert not (tmp_path / "out" / MANIFEST).exists()
    finally:
        path.write_bytes(data)


def test_a_shard_of_another_index_is_refused(tmp_path: Path) -> None:
    """Whole, of the same number and shape."""
    ours, theirs = (Made(tmp_path / name, make_rows(40, seed)) for name, seed in (("a", 0), ("b", 1)))
    (ours.index / shard_name(0)).write_bytes((theirs.index / shard_name(0)).read_bytes())
    told = read_json(ours.index / MANIFEST)
    told["shards"][0]["bytes"] = (ours.index / shard_name(0)).stat().st_size
    seal(ours.index / MANIFEST, told)
    with pytest.raises(NaitError, match="is not the shard that the manifest tells of"):
        VERBS["rank"](ours, tmp_path / "out")


def test_rows_left_out_are_not_selected(chosen: Made, tmp_path: Path) -> None:
    """Shards that hold a row which is listed as left out, under right checksums."""
    listed = json.dumps({"row": 5, "where": "pool:6", "reason": "empty response"}) + "\n"
    before = (chosen.index / MANIFEST).read_bytes()
    told = {k: v for k, v in read_sealed(chosen.index / MANIFEST).items() if k != "checksum"}
    told["skipped"]["sha256"] = sha256(listed.encode())
    (chosen.index / SKIPPED).write_text(listed)
    write_sealed(chosen.index / MANIFEST, told)
    try:
        check_kept(Index(chosen.index), np.array([4, 6]))
        with pytest.raises(NaitError, match=r"row 5 was left out \(empty response\), but the shards hold it"):
            nait_fast.rank(
                index=str(chosen.index), signature=chosen.saved(*chosen.signatures), output=str(tmp_path), fraction=1.0
            )
    finally:
        (chosen.index / SKIPPED).unlink()
        (chosen.index / MANIFEST).write_bytes(before)


@pytest.mark.parametrize("rows", [[1, 0, 2], [0, 0, 1], [0, 1, 99]])
def test_rows_that_are_none_of_the_unit(tmp_path: Path, rows: list[int]) -> None:
    index = make(tmp_path / "index")
    shard = nait_fast.Index(index).open(nait_fast.Index(index).entries[0])
    tensors = {
        "codes": shard.codes,
        "row": np.array([*rows, 100, 101][:5]),
        "n_tokens": shard.n_tokens,
        "exact.sums": shard.exact["sums"],
    }
    put(index, shard_name(0), pack_tensors(tensors, {"kind": "shard", "number": 0}))
    for read in (lambda: list(Stream(Index(index)).parts()), lambda: Index(index).open(Index(index).entries[0]).row):
        with pytest.raises(NaitError, match=r"rows beyond those of its unit|rows that do not ascend"):
            read()
