"""Indexes, signatures and Scorers of models, tokenizers and lengths that differ do not mix; old files are said."""

import json
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast import NaitError, Scorer
from nait_fast.index.reader import Index
from nait_fast.methods.signature import Signature
from nait_fast.notices import NaitWarning
from nait_fast.ranking.sources import check_index
from tests.conftest import make_rows, write_jsonl
from tests.ranking.indexes import nait


def changed(model: str, folder: Path, name: str) -> str:
    """A copy of the tiny model in which one thing of the ones that decide numbers is another."""
    import shutil

    shutil.copytree(model, folder)
    if name == "config":
        told = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**told, "rms_norm_eps": 1e-4}))
    else:
        told = json.loads((folder / "tokenizer.json").read_text())
        told["model"]["merges"].pop()
        (folder / "tokenizer.json").write_text(json.dumps(told))
    return str(folder)


def test_what_differs_is_refused(tmp_path: Path, tiny_model: str):
    pool, more = (write_jsonl(tmp_path / f"{n}.jsonl", make_rows(n, seed=n)) for n in (24, 12))
    index = str(tmp_path / "index")
    options = {"codec": "nag", "shard_rows": 16}
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=index, **options)
    rows = make_rows(8, seed=3)
    signature = nait_fast.signature_of(tiny_model, rows, name="a", method="nag")
    check_index(Index(index), [signature])
    for name, words in (
        ("config", r"another model \(or configuration\)"),
        ("tokenizer", "another template or tokenizer"),
    ):
        other = changed(tiny_model, tmp_path / name, name)
        key = {"config": "model", "tokenizer": "template"}[name]
        with pytest.raises(NaitError, match=f"made otherwise: {key}"):
            nait_fast.build_index(model=other, dataset=str(more), output=index, append=True, **options)
        with pytest.raises(NaitError, match=words):
            check_index(Index(index), [nait_fast.signature_of(other, rows, name="a", method="nag")])
        with pytest.raises(NaitError, match=words):
            Scorer(other, [signature])
    with pytest.raises(NaitError, match="rebuild it with --max-length 512"):
        check_index(Index(index), [nait_fast.signature_of(tiny_model, rows, name="a", method="nag", max_length=64)])
    with pytest.raises(NaitError, match="another dtype"):
        Scorer(tiny_model, [signature], dtype="bfloat16")
    with pytest.raises(NaitError, match="another max_length"):
        Scorer(tiny_model, [signature], max_length=64)
    short = nait_fast.signature_of(tiny_model, rows, name="b", method="nag", max_length=64)
    with pytest.raises(NaitError, match="the signatures differ in max_length"):
        Scorer(tiny_model, [signature, short])
    assert Scorer(tiny_model, [short])._session.encoder.max_length == 64


def test_float8_meets_no_other_precision(tmp_path: Path, tiny_model: str):
    pool, index, rows = (
        write_jsonl(tmp_path / "pool.jsonl", make_rows(8)),
        str(tmp_path / "index"),
        make_rows(4, seed=3),
    )
    nait_fast.build_index(model=tiny_model, dataset=str(pool), output=index, codec="nag", dtype="float8")
    assert json.loads((tmp_path / "index" / "run.json").read_text())["identity"]["precision"] == "float8"
    mine, half = (
        nait_fast.signature_of(tiny_model, rows, name="a", method="nag", dtype=dtype)
        for dtype in ("float8", "bfloat16")
    )
    check_index(Index(index), [mine])
    with pytest.raises(NaitError, match=r"another dtype \('bfloat16 or float16'\) .*rebuild it with --dtype float8"):
        check_index(Index(index), [half])
    scorer = Scorer(tiny_model, [mine])
    assert scorer._session.model.precision == "float8" and np.isfinite(scorer.score(rows)).all()
    with pytest.raises(NaitError, match="another dtype"):
        Scorer(tiny_model, [mine], dtype="bfloat16")


def old(signature: Signature) -> Signature:
    kept = {k: v for k, v in signature.meta.items() if k not in ("dtype", "max_length")}
    return Signature(
        signature.name, {**kept, "model": kept["model"][:16], "template": kept["template"][:16]}, signature.tensors
    )


def test_an_old_signature_in_a_scorer(tiny_model: str):
    with pytest.raises(NaitError, match="was made before all weights"):
        Scorer(tiny_model, [old(nait("a", [72, 72, 72]))])


def test_an_old_signature_of_an_old_index_is_said(tmp_path: Path):
    from tests.ranking import indexes

    made = indexes.contrast("a", [40], 0)
    rows = {"codes": made.layout.pack(np.zeros((2, 40), bool)), "row": np.arange(2), "n_tokens": np.full(2, 5, "i4")}
    folder = indexes.write_index(tmp_path / "index", [rows], [40])
    index = Index(folder)
    with pytest.raises(NaitError, match="cannot be compared with"):
        check_index(index, [old(made)])
    index.manifest.update(model="a" * 16, template="b" * 16)
    with pytest.warns(NaitWarning, match="whether they agree in these is not known"):
        check_index(index, [old(made)])
