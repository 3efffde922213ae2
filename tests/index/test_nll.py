"""Losses in an index: those of transformers, and nothing else changed; added to, joined, repaired, checked, refused."""

import json
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast import NaitError
from nait_fast.data.template import Template
from nait_fast.index.format import bytes_per_row
from nait_fast.index.reader import Index
from nait_fast.storage.files import write_sealed
from nait_fast.verbs.inspection import inspect
from tests.commands import run
from tests.conftest import make_rows, write_jsonl
from tests.extract.test_losses import token_losses
from tests.index.bits import arrays, manifest, model
from tests.index.test_append import add_join_and_repair, build
from tests.index.test_rds import columns


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return make_rows(40)


@pytest.fixture(scope="module")
def pool(tmp_path_factory, rows) -> str:
    return str(write_jsonl(tmp_path_factory.mktemp("pool") / "pool.jsonl", rows))


@pytest.fixture(scope="module")
def expected(tiny_model: str, rows) -> np.ndarray:
    """nll and ifd float64 [n, 2], by transformers alone: tokens of the output are those that end in it."""
    whole, tokenizer = model(tiny_model)
    out = []
    for row in rows:
        text = rendered(tokenizer, row)
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, start = encoded["input_ids"], len(text) - len(row["output"])
        own = [i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > start]
        nll = token_losses(whole, ids)[own].mean()
        alone = token_losses(whole, [tokenizer.bos_token_id, *(ids[i] for i in own)])[1:].mean()
        out.append((nll, nll / alone))
    return np.array(out)


def rendered(tokenizer, row: dict) -> str:
    from nait_fast.data.formats import detect, parse

    return Template("alpaca", tokenizer).render(parse(row, detect(row) or "", 0))[0]


@pytest.mark.parametrize("codec, nll", [("neuron", "ifd"), ("nag:5", "ifd"), ("components:16", "loss")])
def test_beside_a_codec(tmp_path: Path, tiny_model: str, pool: str, expected, codec: str, nll: str) -> None:
    options = {"model": tiny_model, "dataset": pool, "template": "alpaca", "codec": codec}
    options["calibrates"] = not codec.startswith("nag")
    build(tmp_path / "plain", **options)
    summary = build(tmp_path / "nll", nll=nll, **options)
    assert max(summary["shared_prefix_tokens"]) > 5
    held, index = columns(tmp_path / "nll"), Index(tmp_path / "nll")
    names = ["nll", "ifd"][: 1 + (nll == "ifd")]
    for name, wanted in zip(names, expected.T, strict=False):
        assert held[name].dtype == np.float32
        np.testing.assert_allclose(held[name], wanted, rtol=2e-5 if name == "ifd" else 1e-5)
    assert ("ifd" in held) == (nll == "ifd")
    assert index.verify() == [] and inspect(str(tmp_path / "nll"))["nll"] == nll
    # All else is as without it.
    before, after = manifest(tmp_path / "plain"), manifest(tmp_path / "nll")
    assert bytes_per_row(after) == bytes_per_row(before) + 4 * len(names)
    assert after.keys() - before.keys() == {"nll", "nll_model"} and not before.keys() - after.keys()
    assert {name for name in before if before[name] != after[name]} <= {"shards", "calibration", "checksum"}
    plain, now = (arrays(Index(tmp_path / name)) for name in ("plain", "nll"))
    assert all(np.array_equal(plain[name], now[name]) for name in plain)


def test_beside_rds_and_tokens_and_of_few_layers(tmp_path: Path, tiny_model: str, pool: str, expected) -> None:
    options = {"model": tiny_model, "dataset": pool, "template": "alpaca", "embed": "rds:float32"}
    build(tmp_path / "rds", **options)
    build(tmp_path / "both", nll="loss", layers="0", **options)
    build(tmp_path / "response", nll="loss", tokens="response", **options)
    np.testing.assert_array_equal(columns(tmp_path / "both")["rds"], columns(tmp_path / "rds")["rds"])
    for name in ("both", "response"):
        np.testing.assert_allclose(columns(tmp_path / name)["nll"], expected[:, 0], rtol=1e-5)
    assert manifest(tmp_path / "both")["nll_model"] == manifest(tmp_path / "response")["nll_model"]


def test_added_joined_and_repaired(tmp_path: Path, tiny_model: str, rows) -> None:
    add_join_and_repair(tmp_path, rows, tiny_model, "nll", ("ifd", "loss"), "nll loss, not ifd")


@pytest.mark.parametrize("wrong", [{"nll": "perplexity"}, {"nll_model": "ab"}])
def test_a_manifest_that_was_never_written(tmp_path: Path, tiny_model: str, pool: str, wrong) -> None:
    build(tmp_path / "index", model=tiny_model, dataset=pool, nll="loss", calibration_size=4, layers="0")
    held = {k: v for k, v in manifest(tmp_path / "index").items() if k != "checksum"}
    write_sealed(tmp_path / "index" / "manifest.json", held | wrong)
    with pytest.raises(NaitError, match=f"not a valid manifest .*{next(iter(wrong))}"):
        Index(tmp_path / "index")


def test_the_flag(tmp_path: Path, tiny_model: str, pool: str, capsys) -> None:
    """Without a value it is the loss alone; another one is refused."""
    command = ("index", "--model", tiny_model, "--dataset", pool, "--calibration-size", 4, "--layers", "0")
    done = run(capsys, *command, "--nll", "--output", tmp_path / "index")
    assert done.status == 0 and manifest(tmp_path / "index")["nll"] == "loss"
    done = run(capsys, *command, "--nll", "perplexity", "--output", tmp_path / "other")
    assert done.status == 2 and "perplexity" in done.err


def test_rows_that_have_no_loss(tmp_path: Path, tiny_model: str, rows) -> None:
    """What nobody answers, and what --max-length cuts off: rows that cannot be used, and listed."""
    asked = {"messages": [{"role": "user", "content": "Why?"}]}
    answered = {"messages": [*asked["messages"], {"role": "assistant", "content": "So."}]}
    long = {"messages": [{"role": "user", "content": "why " * 60}, answered["messages"][1]]}
    file = str(write_jsonl(tmp_path / "rows.jsonl", [answered, asked, long, answered]))
    options = {"model": tiny_model, "dataset": file, "nll": "loss", "max_length": 40, "calibration_size": 2}
    with pytest.raises(NaitError, match=r"no token of its response.* that another stands before.*--nll"):
        build(tmp_path / "index", **options)
    build(tmp_path / "skipped", skip_bad_rows=True, **options)
    assert [shard.row.tolist() for shard in Index(tmp_path / "skipped").shards()] == [[0, 3]]
    listed = [json.loads(line)["reason"] for line in (tmp_path / "skipped" / "skipped.jsonl").read_text().splitlines()]
    assert "within --max-length 40" in listed[1]
    texts = str(write_jsonl(tmp_path / "texts.jsonl", [{"text": "So it is."}] * 4))
    with pytest.raises(NaitError, match="a row of the format text does not say which tokens are the assistant's"):
        build(tmp_path / "texts", model=tiny_model, dataset=texts, nll="loss", calibration_size=2)


def test_losses_as_quality(tmp_path: Path, tiny_model: str, pool: str, expected) -> None:
    """All of the weight: rows are ordered by it."""
    build(tmp_path / "index", model=tiny_model, dataset=pool, template="alpaca", nll="ifd")
    target = write_jsonl(tmp_path / "sums.jsonl", make_rows(8, seed=1))
    nait_fast.build_signature(
        model=tiny_model, target=[str(target)], codebook=str(tmp_path / "index"), output=tmp_path, template="alpaca"
    )
    nait_fast.rank(
        index=tmp_path / "index",
        signature=[tmp_path / "sums.safetensors"],
        output=tmp_path / "out",
        quality="ifd",
        quality_weight=1.0,
        top_k=5,
        dataset=[pool],
    )
    selected = [json.loads(line)["id"] for line in (tmp_path / "out" / "selected.jsonl").read_text().splitlines()]
    assert {int(name[1:]) for name in selected} == set(np.argsort(-expected[:, 1])[:5].tolist())
