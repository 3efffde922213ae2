"""``--rule``: rows by single samples of a target, against whole matrices of similarities."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature, load_signature
from nait_fast.rules import round_robin
from nait_fast.verbs.inspection import verify
from tests.commands import run, summary
from tests.conftest import make_rows, write_jsonl
from tests.rules.test_round_robin import by_definition

METHODS = {"contrast": [], "nag": ["--codec", "nag:top_k=5"], "embed": ["--embed", "last"]}
TARGETS = {"a": (9, 11), "b": (5, 12)}  # name -> (samples, seed)


def _made(folder: Path, model: str, method: str, capsys: pytest.CaptureFixture[str]) -> tuple[Path, list[Path]]:
    """(index, signatures that keep their samples): copies of what is made once a method."""
    first = Path(model).parent / f"ranked by samples {method} {os.getpid()}"
    if not first.exists():
        first.mkdir()
        pool = write_jsonl(first / "pool.jsonl", make_rows(90, seed=1))
        summary(capsys, "index", "--model", model, "--dataset", pool, "--output", first / "index", *METHODS[method])
        of_method = {"nag": ["--method", "nag:top_k=5"], "embed": ["--method", "embed"]}.get(method, [])
        codebook = [] if method == "nag" else ["--codebook", first / "index"]
        targets = [f"{t}={write_jsonl(first / f'{t}.jsonl', make_rows(n, seed=s))}" for t, (n, s) in TARGETS.items()]
        made = ["--target", *targets, *codebook, *of_method, "--output", first / "sigs"]
        summary(capsys, "signature", "--model", model, "--keep-samples", *made)
    shutil.copytree(first, folder, dirs_exist_ok=True)
    return folder / "index", [folder / "sigs" / f"{name}.safetensors" for name in TARGETS]


@pytest.fixture(params=METHODS)
def made(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> tuple[Index, list[Path], list[Signature], np.ndarray]:
    """(index, signatures' files, the same read, similarities float64 [samples of all, rows], by the definition)."""
    folder, files = _made(tmp_path, tiny_model, request.param, capsys)
    index, signatures = Index(folder), [load_signature(file) for file in files]
    lines = np.concatenate([_similarities(index, signature) for signature in signatures])
    return index, files, signatures, lines


def _similarities(index: Index, signature: Signature) -> np.ndarray:
    (shard,) = index.shards()
    samples = signature.tensors["samples"]
    assert len(samples) == TARGETS[signature.name][0] == len(signature.tensors["lengths"])
    if signature.method == "embed":
        ours, rows = samples.astype(np.float64), shard.columns["embedding"].astype(np.float64)
    else:
        ours, rows = (index.layout.unpack(np.array(codes)).astype(np.float64) for codes in (samples, shard.codes))
        if signature.method == "nag":
            return ours @ rows.T / (5 * len(index.layout.widths))
        p = np.rint(index.codebook.frequency.astype(np.float64) * 4095) / 4095
        ours, rows = ours - p, rows - p
    return (ours / np.linalg.norm(ours, axis=1, keepdims=True)) @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T


def _ranked(
    capsys: pytest.CaptureFixture[str], index: Index, files: list[Path], *options: object
) -> tuple[list[int], Any, dict[str, Any]]:
    """(rows as they are chosen, the table, the summary)."""
    from pyarrow import parquet

    folder = index.folder.parent / "chosen"
    of = ["--signature", *files] if files else []
    told = summary(capsys, "rank", "--index", index.folder, *of, "--output", folder, "--overwrite", *options)
    table = parquet.read_table(folder / "scores.parquet").to_pydict()
    places = zip(table["rank"], table["row"], table["selected"], strict=True)
    rows = sorted((rank, row) for rank, row, chosen in places if chosen)
    lines = (folder / "selected.jsonl").read_text().splitlines()
    pool = (folder.parent / "pool.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [json.loads(pool[row]) for _, row in rows]
    assert sorted(table["rank"]) == list(range(1, len(table["row"]) + 1))
    return [row for _, row in rows], table, told


def test_max_and_roundrobin(made: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    index, files, signatures, lines = made
    lines = np.round(lines, 9)  # so that ties are ties here, too
    numbers = [signature.samples for signature in signatures]
    rows, table, told = _ranked(capsys, index, files[:1], "--rule", "max", "--top-k", 20)
    best = lines[: numbers[0]].max(axis=0)
    assert np.allclose(table["score.a"], best, atol=1e-9) and told["rule"] == "max"
    assert np.round(table["score.a"], 9)[rows].tolist() == sorted(best, reverse=True)[:20]
    for least, most in ((64, 1 << 22), (1, 1), (2, 50)):
        monkeypatch.setattr(round_robin, "LEAST", least)
        monkeypatch.setattr(round_robin, "MOST", most)
        for some in (1, 2):
            wanted = by_definition(lines[: sum(numbers[:some])], numbers[:some], 25)
            rows, table, told = _ranked(capsys, index, files[:some], "--rule", "roundrobin", "--top-k", 25)
            assert rows == [row for row, _ in wanted]
            assert np.allclose(table["score.a"], best, atol=1e-9) and told["rule"] == "roundrobin"
    behind = [row for _, row in sorted(zip(table["rank"], table["row"], strict=True))][25:]
    scores = np.maximum(table["score.a"], table["score.b"])[behind]
    assert (np.diff(scores) <= 0).all()


def test_budget_in_tokens(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    index, files, signatures, lines = made
    (shard,) = index.shards()
    wanted = by_definition(np.round(lines, 9), [signature.samples for signature in signatures], 90)
    tokens = np.cumsum([shard.n_tokens[row] for row, _ in wanted])
    budget = int(tokens[17]) + 1
    rows, _, told = _ranked(capsys, index, files, "--rule", "roundrobin", "--token-budget", budget)
    assert rows == [row for row, _ in wanted][:18] and told["tokens_selected"] == tokens[17]
    first = int(shard.n_tokens[wanted[0][0]])
    asked = ["rank", "--index", index.folder, "--signature", *files, "--output", index.folder.parent / "none"]
    error = run(capsys, *asked, "--rule", "roundrobin", "--token-budget", first - 1).error
    assert error == f"--token-budget {first - 1}: below the first sample's {first} tokens"


@pytest.mark.parametrize("method", ["contrast", "nag"])
def test_select_by_rule_is_rank_by_rule(
    method: str, tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "apart").mkdir()
    index, files = _made(tmp_path / "apart", tiny_model, method, capsys)
    rows, _, _ = _ranked(capsys, Index(index), files, "--rule", "roundrobin", "--top-k", 15)
    of_method = ["--method", "nag:top_k=5"] if method == "nag" else []
    asked = ["--model", tiny_model, "--dataset", tmp_path / "apart" / "pool.jsonl", "--rule", "roundrobin"]
    targets = [f"{name}={tmp_path / 'apart' / f'{name}.jsonl'}" for name in TARGETS]
    asked += ["--target", *targets, *of_method, "--top-k", 15, "--output", tmp_path / "at once"]
    assert summary(capsys, "select", *asked)["rule"] == "roundrobin"
    for name in ("selected.jsonl", "scores.parquet"):
        assert (tmp_path / "at once" / name).read_bytes() == (tmp_path / "apart" / "chosen" / name).read_bytes()
    for file in files:
        ours, theirs = load_signature(tmp_path / "at once" / "signatures" / file.name), load_signature(file)
        assert (ours.tensors["samples"] == theirs.tensors["samples"]).all()


def test_what_cannot_be_ranked_by_samples(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    index, files = _made(tmp_path, tiny_model, "contrast", capsys)
    asked = ["rank", "--index", index, "--output", tmp_path / "none", "--rule", "roundrobin"]
    target = f"a={tmp_path / 'a.jsonl'}"
    made = ["--model", tiny_model, "--target", target, "--codebook", index]
    summary(capsys, "signature", *made, "--no-keep-samples", "--output", tmp_path / "without")
    error = run(capsys, *asked, "--signature", tmp_path / "without" / "a.safetensors").error
    assert error == (
        "--rule roundrobin: signature 'a' does not keep its target's samples; make it again with --keep-samples"
    )
    summary(capsys, "signature", *made, "--output", tmp_path / "by default")
    assert (tmp_path / "by default" / "a.safetensors").read_bytes() == files[0].read_bytes()
    error = run(capsys, *asked, "--signature", files[0], "--pick", "bottom").error
    assert error.startswith("--pick bottom: by rule roundrobin samples take their best rows, in turns")
    error = run(capsys, *asked, "--signature", *files, "--combine", "max").error
    assert error.startswith("--combine max: by rule roundrobin targets take turns")
    nait = ["--model", tiny_model, "--target", target, "--method", "nait", "--output", tmp_path / "nait"]
    error = run(capsys, "signature", *nait, "--keep-samples").error
    assert error == "--keep-samples: method nait compares no rows with samples; leave it out"
    select = ["--dataset", tmp_path / "pool.jsonl", "--rule", "max", *nait]
    error = run(capsys, "select", *select).error
    assert error.startswith("--rule max: method nait does not compare rows with single samples")
    assert not (tmp_path / "none").exists() or not any((tmp_path / "none").iterdir())


def test_constraints_see_the_turns(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Who loses a place does so in the order of the turns, and whoever comes next in it is selected."""
    folder, files = _made(tmp_path, tiny_model, "contrast", capsys)
    index, signatures = Index(folder), [load_signature(file) for file in files]
    lines = np.round(np.concatenate([_similarities(index, signature) for signature in signatures]), 9)
    (shard,) = index.shards()
    bits, kept = index.layout.unpack(np.array(shard.codes)), list[int]()
    least = 0.35 * index.layout.n_neurons
    for row, _ in by_definition(lines, [signature.samples for signature in signatures], 90):
        if all((bits[row] != bits[other]).sum() >= least for other in kept):
            kept.append(row)
    rows, _, told = _ranked(capsys, index, files, "--rule", "roundrobin", "--top-k", 30, "--near-duplicates", 0.35)
    assert rows == kept[:30] and told["constraints"][0]["dropped"] > 0


def test_exported_similarities(made: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Whole, and each sample's best rows; read back as another tool's, they select the same."""
    index, files, signatures, lines = made
    exports = ["--export", "near", "cossim"]
    rows, _, _ = _ranked(capsys, index, files, "--rule", "roundrobin", "--top-k", 25, *exports)
    folder = index.folder.parent / "chosen"
    numbers, theirs = [signature.samples for signature in signatures], []
    for signature, own in zip(signatures, np.split(lines, np.cumsum(numbers)[:-1]), strict=True):
        held = np.load(folder / f"{signature.name}_cossim.npy")
        assert held.dtype == np.float32 and np.allclose(held, own, atol=1e-6)
        theirs += [f"{signature.name}={(folder.parent / signature.name).with_suffix('.npy')}"]
        np.save(folder.parent / signature.name, own)  # in full precision, or ties would be others
    near = np.load(folder / "near.npy")
    best = np.stack([np.lexsort((np.arange(90), -np.round(line, 9)))[:25] for line in lines])
    assert near.dtype == np.int64 and near.shape == best.shape
    assert np.allclose(np.take_along_axis(lines, near, 1), np.take_along_axis(lines, best, 1))
    assert all(
        name in json.loads((folder / "manifest.json").read_text())["files"] for name in ("near.npy", "a_cossim.npy")
    )
    told = verify(str(folder))
    text = f"{folder}: every byte is as it was written (5 files, 25 rows selected)"
    assert told == {"path": str(folder), "ok": True, "files": 5, "rows_selected": 25, "text": text}
    of_pool, before = (folder.parent / "pool.jsonl").read_text().splitlines(True), (folder / "near.npy").read_bytes()
    (folder.parent / "evaluation.jsonl").write_text(of_pool[near[0, 0]])
    without = ["--decontaminate", folder.parent / "evaluation.jsonl", "--decontaminate-ngram", 5]
    some, _, _ = _ranked(capsys, index, files, "--rule", "roundrobin", "--top-k", 25, *exports, *without)
    assert near[0, 0] not in some and (folder / "near.npy").read_bytes() == before  # similarities as they are
    (folder / "mine_cossim.npy").write_bytes(b"another's")
    _ranked(capsys, index, [], "--foreign-scores", *theirs[:1], "--export", "cossim")
    left = {file.name for file in folder.glob("*.npy")}  # not what the selection before had of another target
    assert left == {"a_cossim.npy", "mine_cossim.npy"} and verify(str(folder))["files"] == 3
    again, _, _ = _ranked(capsys, index, [], "--foreign-scores", *theirs, "--rule", "roundrobin", "--top-k", 25)
    assert len(set(again) & set(rows)) >= 23  # but for ties


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="not on this system")
def test_similarities_that_the_disk_has_no_room_for(
    made: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, files, signatures, lines = made
    asked = []

    def full(descriptor: int, start: int, size: int) -> None:
        asked.append((start, size, os.fstat(descriptor).st_size))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    ranked = ["rank", "--index", index.folder, "--signature", *files, "--top-k", 5, "--export", "cossim"]
    error = run(capsys, *ranked, "--output", index.folder.parent / "full").error
    assert f"{signatures[0].name}_cossim.npy: cannot be written (No space left on device)" in error
    ((start, size, whole),) = asked
    assert (start, size) == (0, whole) and whole >= 4 * signatures[0].samples * len(lines[0])
