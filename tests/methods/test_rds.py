"""Methods rds and crds against plain implementations: transformers, one sample at a time, and whole matrices."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet
from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer

import nait_fast
from nait_fast.errors import BadInput, NaitError
from nait_fast.extract.session import Session
from nait_fast.index.reader import Index
from nait_fast.methods import whitening
from nait_fast.methods.signature import load_signature
from nait_fast.methods.whitening import fit, whitening_of
from nait_fast.ranking.scan import scan
from nait_fast.scorer import Scorer
from tests import naive
from tests.commands import run, summary
from tests.conftest import make_rows, write_jsonl
from tests.ranking.test_rules import _ranked
from tests.rules.test_round_robin import by_definition

DEMO = Path(__file__).parents[2] / "nait_fast" / "demo"


def states(model: Any, tokenizer: Any, rows: list[dict[str, Any]]) -> np.ndarray:
    """e float64 [n, H] of Alpaca rows, one by one."""
    out = []
    for row in rows:
        prompt = "\n".join(filter(None, (row["instruction"], row.get("input"))))
        turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": row["output"]}]
        out.append(naive.rds(model, naive.content_ids(tokenizer, turns, 512)))
    return np.stack(out)


def cosines(ours: np.ndarray, rows: np.ndarray) -> np.ndarray:
    ours, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, rows))
    return ours @ rows.T


@pytest.mark.model
@pytest.mark.slow
def test_the_order_of_a_plain_implementation(
    smollm2_shallow: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """160 rows, 64 target samples of two kinds: rds, and crds with components as scikit-learn's PCA has them. By two of
    the model's layers: what is compared is the body's end, whatever comes before."""
    two_layers = str(tmp_path / "two layers")
    AutoModel.from_pretrained(smollm2_shallow, num_hidden_layers=2).save_pretrained(two_layers)
    AutoTokenizer.from_pretrained(smollm2_shallow).save_pretrained(two_layers)
    pool = [json.loads(line) for line in (DEMO / "pool.jsonl").read_text().splitlines()][:160]
    write_jsonl(tmp_path / "pool.jsonl", pool)
    texts = [(DEMO / f"{name}.jsonl").read_text() for name in ("arithmetic", "code")]
    target = [json.loads(line) for text in texts for line in text.splitlines()]
    write_jsonl(tmp_path / "t.jsonl", target)
    model = ["--model", two_layers]
    made = ["--dataset", tmp_path / "pool.jsonl", "--embed", "rds:float32", "--output", tmp_path / "index"]
    summary(capsys, "index", *model, *made)
    index = Index(tmp_path / "index")
    e, ours = (states(*naive.load(two_layers), rows) for rows in (pool, target))
    _, singular, components = np.linalg.svd(e - e.mean(axis=0), full_matrices=False)  # whiten=True, svd_solver="full"
    whitened = [(x - e.mean(axis=0)) @ components[:20].T / (singular[:20] / np.sqrt(159)) for x in (ours, e)]
    for method, lines in (("rds", cosines(ours, e)), ("crds:dims=20", cosines(*whitened))):
        signed = ["--target", f"t={tmp_path / 't.jsonl'}", "--method", method, "--output", tmp_path / method[:3]]
        summary(capsys, "signature", *model, *signed)
        rows, table, told = _ranked(capsys, index, [tmp_path / method[:3] / "t.safetensors"], "--top-k", 80)
        assert rows == [row for row, _ in by_definition(lines, [64], 80)]
        assert told["rule"] == "roundrobin" and np.abs(np.array(table["score.t"]) - lines.max(axis=0)).max() < 1e-4


def test_select_scorer_and_rules(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """By select as by index, signature and rank; in memory as by rank; by all three rules."""
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(60, seed=1))
    target = write_jsonl(tmp_path / "t.jsonl", make_rows(7, seed=2))
    for method in ("rds", "crds:dims=12"):
        out = tmp_path / method[:3]
        told = summary(
            capsys,
            *("select", "--model", tiny_model, "--dataset", pool, "--target", target, "--method", method),
            *("--top-k", 9, "--output", out),
        )
        assert told["rule"] == "roundrobin" and told["method"] == [method[: 3 + (method[0] == "c")]]
        index = Index(out / "index")
        (shard,) = index.shards()
        scale = shard.columns["rds_scale"].astype(np.float64)[:, None]
        e, ours = shard.columns["rds"] * scale, load_signature(out / "signatures" / "t.safetensors").tensors["samples"]
        if method != "rds":
            made = whitening_of(index, 12)
            e, ours = made(e), made(ours)
            digest = hashlib.sha256(made.mean.tobytes() + made.components.tobytes()).hexdigest()[:16]
            assert told["whitening"] == {"t": {"rows": 60, "dims": 12, "hash": digest}}
        assert ("whitening" in told) == (method != "rds")
        lines = cosines(ours.astype(np.float64), e)
        for rule, scores in (("max", lines.max(axis=0)), ("centroid", lines.mean(axis=0))):
            again = ["--index", out / "index", "--signature", out / "signatures" / "t.safetensors", "--rule", rule]
            summary(capsys, "rank", *again, "--top-k", 9, "--output", tmp_path / f"{method[:3]} {rule}")
            table = parquet.read_table(tmp_path / f"{method[:3]} {rule}" / "scores.parquet").to_pydict()
            assert np.allclose(table["score.t"], scores, atol=1e-9)
        index, signature = Index(out / "index"), load_signature(out / "signatures" / "t.safetensors")
        scanned = np.concatenate([block.scores[:, 0] for block in scan(index, [signature])])
        assert np.allclose(scanned, lines.max(axis=0))
        asked = ["--index", out / "index", "--signature", out / "signatures" / "t.safetensors", "--model", tiny_model]
        asked += ["--target", f"t={target}", "--sizes", 4, "--repeats", 2]
        assert run(capsys, "evaluate", *asked, "--output", tmp_path / f"{method[:3]} measured").status == 0
        measured = json.loads((tmp_path / f"{method[:3]} measured" / "evaluation.json").read_text())
        assert measured["stability"] and measured["signatures"][0]["rule"] == "roundrobin"
        k = measured["rules"][0]["rows"]
        in_turns = {row for row, _ in by_definition(lines, [len(lines)], k)}
        best = set(np.lexsort((np.arange(lines.shape[1]), -lines.max(axis=0)))[:k].tolist())
        assert measured["rules"][0]["overlap"][1][2] == pytest.approx(len(in_turns & best) / k, abs=1e-6)
        (tmp_path / "no model").mkdir(exist_ok=True)
        (tmp_path / "no model" / "config.json").touch()
        for more in (["--pick", "bottom"], ["--quality", "n"]):
            early = ["--model", tmp_path / "no model", "--dataset", pool, "--target", target, "--method", method]
            error = run(capsys, "select", *early, *more, "--output", tmp_path / "none").error
            assert "rule roundrobin" in error
    rows = [json.loads(line) for line in pool.read_text().splitlines()]
    scorer = Scorer(tiny_model, tmp_path / "rds" / "signatures" / "t.safetensors")
    table = parquet.read_table(tmp_path / "rds max" / "scores.parquet").to_pydict()
    assert np.allclose(scorer.score(rows)[:, 0], table["score.t"], atol=1e-4)  # the index has 11 bits of each number
    with pytest.raises(BadInput, match="scored by the principal components of a pool"):
        Scorer(tiny_model, tmp_path / "crd" / "signatures" / "t.safetensors").score(rows[:2])


def test_whitening_is_of_any_blocks_and_kept(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = np.random.default_rng(0)
    e = 1e3 + generator.normal(size=(200, 20)) @ generator.normal(size=(20, 20))
    whole = fit(iter([e]), 8)
    parted = fit(iter(np.split(e, [1, 7, 150])), 8)
    assert np.allclose(np.abs(whole(e)), np.abs(parted(e)), atol=1e-6)
    assert np.allclose(np.cov(whole(e).T), np.eye(8)) and np.allclose(whole(e).mean(axis=0), 0, atol=1e-9)
    assert fit(iter([e[:5]]), 8).components.shape == (4, 20)  # no more than rows can tell
    with pytest.raises(BadInput, match="of all 3 rows are the same"):
        fit(iter([np.ones((3, 4))]), 2)

    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(60, seed=1))
    made = ["index", "--model", tiny_model, "--dataset", pool, "--embed", "rds", "--output", tmp_path / "index"]
    summary(capsys, *made)
    index, calls = Index(tmp_path / "index"), []
    monkeypatch.setattr(whitening, "fit", lambda *args: calls.append(args[1]) or fit(*args))
    first, second = whitening_of(index, 4), whitening_of(Index(index.folder), 4)
    assert calls == [4] and (first.components == second.components).all() and (first.mean == second.mean).all()
    assert whitening_of(index, 5) is whitening_of(index, 5) and calls == [4, 5]
    (index.folder / "whitening.safetensors").write_bytes(b"damaged")
    whitening_of(Index(index.folder), 5)
    assert calls == [4, 5, 5] and not index.verify()
    assert run(capsys, *made).status == 0  # complete, whatever has been kept beside it


def test_what_does_not_fit_is_refused(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(30, seed=1))
    target = write_jsonl(tmp_path / "t.jsonl", make_rows(5, seed=2))
    made = ["--model", tiny_model, "--target", target, "--method", "rds", "--output", tmp_path / "sigs"]
    summary(capsys, "signature", *made)
    summary(capsys, "index", "--model", tiny_model, "--dataset", pool, "--output", tmp_path / "bits")
    asked = ["--signature", tmp_path / "sigs" / "t.safetensors", "--output", tmp_path / "none"]
    error = run(capsys, "rank", "--index", tmp_path / "bits", *asked).error
    assert error == (
        f"signature 't' (rds) compares last hidden states, index {tmp_path / 'bits'} has none: "
        "index the pool with --embed rds"
    )
    for more, said in (
        (["--reading", "mean"], "method rds has none (it compares hidden states)"),
        (["--codebook", tmp_path / "bits"], "method rds needs none"),
        (["--keep-samples"], "method rds always does"),
    ):
        assert said in run(capsys, "signature", *made, *more).error


def test_states_of_another_model_are_refused(tiny_model: str, tokenizer: Any) -> None:
    """Signatures of the first layer's neurons agree with a model whose later layers differ; its states do not."""
    models = [AutoModelForCausalLM.from_pretrained(tiny_model).eval() for _ in range(2)]
    with torch.no_grad():
        models[1].model.layers[-1].mlp.down_proj.weight.mul_(2)
    signature = nait_fast.signature_of(models[0], make_rows(4), tokenizer=tokenizer, layers="0", method="rds")
    assert Scorer(models[0], signature, tokenizer=tokenizer).score(make_rows(2)).shape == (2, 1)
    with pytest.raises(NaitError, match="was made with another model than this Scorer"):
        Scorer(models[1], signature, tokenizer=tokenizer)


def test_the_model_is_hashed_before_it_runs(tiny_model: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What becomes of it meanwhile does not get into the states' signature as if they were of that."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    plain, run = nait_fast.signature_of(model, make_rows(4), tokenizer=tokenizer, method="rds"), Session.run

    def changing(session: Session, *given: Any) -> None:
        run(session, *given)
        session.model.body.norm.weight.data.mul_(2)

    monkeypatch.setattr(Session, "run", changing)
    changed = nait_fast.signature_of(model, make_rows(4), tokenizer=tokenizer, method="rds")
    assert changed.meta["rds_model"] == plain.meta["rds_model"]
