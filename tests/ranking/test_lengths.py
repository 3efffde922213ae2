"""``--length matched``: a target against rows of the pool as long as its samples, computed plainly."""

from pathlib import Path

import numpy as np
import pytest

from nait_fast.index.reader import Index
from nait_fast.methods.contrast import METHOD
from nait_fast.methods.length_matching import groups_of
from nait_fast.methods.signature import Signature, load_signature
from tests.commands import run
from tests.ranking.test_rules import TARGETS, _made, _ranked
from tests.rules.test_round_robin import by_definition


def _frequencies(index: Index, length: int) -> np.ndarray:
    """p_pool(ℓ) float64 [N]."""
    (shard,) = index.shards()
    bits, apart = index.layout.unpack(np.array(shard.codes)), np.abs(np.log(np.array(shard.n_tokens) / length))
    bandwidth = max(0.05, np.sort(apart)[31])
    weights = np.exp(-((apart / bandwidth) ** 2) / 2)
    return (weights[:, None] * bits).sum(axis=0) / weights.sum()


def _own(index: Index, signature: Signature) -> tuple[np.ndarray, np.ndarray]:
    """(bits of the samples [S, N], the pool's frequencies at each one's length [S, N])."""
    bits = index.layout.unpack(signature.tensors["samples"]).astype(float)
    return bits, np.stack([_frequencies(index, int(length)) for length in signature.tensors["lengths"]])


def test_groups_are_of_similar_lengths() -> None:
    generator = np.random.default_rng(0)
    for n in (1, 2, 7, 8, 100):
        lengths = generator.integers(1, 30, n)
        groups = groups_of(lengths)
        assert set(groups) == set(range(groups.max() + 1)) and groups.max() < min(8, n)
        for group in range(groups.max()):
            assert lengths[groups == group].max() < lengths[groups == group + 1].min()


def test_matched(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder, files = _made(tmp_path, tiny_model, "contrast", capsys)
    index, signatures = Index(folder), [load_signature(file) for file in files]
    lines = []
    for file, signature in zip(files, signatures, strict=True):
        bits, own = _own(index, signature)
        there = METHOD.matched(signature, index)
        assert np.abs(there.tensors["weights"] - (bits - own).mean(axis=0)).max() < 1e-5
        assert np.abs(there.tensors["weights"] - signature.tensors["weights"]).max() > 0.01
        _, table, told = _ranked(capsys, index, [file], "--length", "matched", "--top-k", 20)
        (shard,) = index.shards()
        levels = np.rint(there.tensors["weights"] / np.abs(there.tensors["weights"]).max() * 7)
        scores = index.layout.unpack(np.array(shard.codes)) @ levels * np.abs(there.tensors["weights"]).max() / 7
        assert np.allclose(table[f"score.{signature.name}"], scores) and told["length"] == "matched"
        assert told["signatures"] == {signature.name: signature.hash}
        groups = groups_of(signature.tensors["lengths"])
        centres = np.stack([own[groups == group].mean(axis=0) for group in groups])
        ours = bits - np.rint(centres * 4095) / 4095
        rows = (
            index.layout.unpack(np.array(shard.codes)) - np.rint(index.codebook.frequency.astype(float) * 4095) / 4095
        )
        ours, rows = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, rows))
        lines.append(ours @ rows.T)
    wanted = by_definition(np.concatenate(lines), [TARGETS[s.name][0] for s in signatures], 25)
    rows, table, _ = _ranked(capsys, index, files, "--length", "matched", "--rule", "roundrobin", "--top-k", 25)
    assert rows == [row for row, _ in wanted]
    assert np.allclose(table["score.b"], lines[1].max(axis=0), atol=1e-4)


def test_what_cannot_be_matched(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    index, files = _made(tmp_path, tiny_model, "embed", capsys)
    asked = ["rank", "--index", index, "--output", tmp_path / "none", "--length", "matched", "--signature"]
    assert run(capsys, *asked, files[0]).error == (
        "--length matched: method embed holds no target against the pool ('a'); use method contrast, or --length quota"
    )
    made = ["--model", tiny_model, "--target", f"a={tmp_path / 'a.jsonl'}", "--codebook", index]
    assert run(capsys, "signature", *made, "--no-keep-samples", "--output", tmp_path / "sigs2").status == 0
    assert run(capsys, *asked, tmp_path / "sigs2" / "a.safetensors").error == (
        "--length matched: signature 'a' does not keep its target's samples; make it again with --keep-samples"
    )
    select = ["select", "--model", tiny_model, "--dataset", tmp_path / "pool.jsonl", "--target", tmp_path / "a.jsonl"]
    error = run(capsys, *select, "--method", "nag", "--length", "matched", "--output", tmp_path / "none").error
    assert error.startswith("--length matched: method nag holds no target against the pool")
