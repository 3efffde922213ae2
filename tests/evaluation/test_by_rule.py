"""``evaluate --rule``, and how far the rules agree: against whole matrices of similarities."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.evaluation.stability import with_samples
from nait_fast.evaluation.writing import tables
from nait_fast.index.reader import Index
from nait_fast.methods import method_of
from nait_fast.methods.signature import load_signature
from nait_fast.notices import NaitWarning
from nait_fast.ranking.scan import score_codes
from nait_fast.rules import round_robin
from nait_fast.storage.files import read_sealed, write_sealed
from nait_fast.verbs.evaluate import recognise
from tests.ranking.test_rules import METHODS, TARGETS, _made, _similarities
from tests.rules.test_round_robin import by_definition

WANTED = {"a": "sums", "b": "texts"}


class Kept:
    """An index of 90 rows, and of two signatures that keep their samples what each rule makes of them."""

    def __init__(self, folder: Path, model: str, method: str, capsys: pytest.CaptureFixture[str]):
        self.folder, (self.index, self.files) = folder, _made(folder, model, method, capsys)
        index, self.signatures = Index(self.index), [load_signature(file) for file in self.files]
        (shard,) = index.shards()
        self.tokens = np.array(shard.n_tokens)
        rows = [json.loads(line) for line in (folder / "pool.jsonl").read_text().splitlines()]
        self.source = np.array([row["source"] for row in rows])
        self.lines = [np.round(_similarities(index, s), 9) for s in self.signatures]  # ties are ties here, too
        self.codes = np.array(shard.codes)

    def first(self, rule: str, number: int, k: int) -> list[int]:
        """The first rows by the definition of each rule."""
        lines = self.lines[number]
        if rule == "roundrobin":
            return [row for row, _ in by_definition(lines, [len(lines)], k)]
        by_max = rule == "max"
        scores = lines.max(axis=0) if by_max else score_codes(self.codes, self.signatures[number : number + 1])[:, 0]
        return np.lexsort((np.arange(len(scores)), -scores))[:k].tolist()

    def evaluate(self, name: str, **options: Any) -> dict[str, Any]:
        return nait_fast.evaluate(index=self.index, signature=self.files, output=self.folder / name, **options)


@pytest.fixture
def kept(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> Kept:
    return Kept(tmp_path, tiny_model, "contrast", capsys)


@pytest.mark.parametrize("short", [False, True], ids=["one pass", "passes again"])
@pytest.mark.parametrize("rule", ["centroid", "roundrobin", "max"])
def test_measures_are_of_the_rule(kept: Kept, monkeypatch: pytest.MonkeyPatch, rule: str, short: bool) -> None:
    if short:
        monkeypatch.setattr(round_robin, "LEAST", 1)
        monkeypatch.setattr(round_robin, "MOST", 20)
    relevant = [f"{name}={value}" for name, value in WANTED.items()]
    found = kept.evaluate("of labels", rule=rule, label="source", relevant=relevant, fraction=0.2)
    assert [s["rule"] for s in found["signatures"]] == [rule, rule]
    assert f"| a | contrast | mean | {rule} | 9 | yes |" in found["text"]
    for number, measures in enumerate(found["retrieval"]):
        of_label = kept.source == WANTED[measures["signature"]]
        assert measures["relevant"] == of_label.sum() == 45
        assert measures["r_precision"] == pytest.approx(of_label[kept.first(rule, number, 45)].mean(), abs=1e-6)
        assert measures["p_at"] == {"10": of_label[kept.first(rule, number, 10)].mean()}
    chosen = [set(kept.first(rule, number, 18)) for number in range(2)]
    assert found["transfer"]["overlap"][0][1] == pytest.approx(len(chosen[0] & chosen[1]) / 18, abs=1e-6)
    assert found["unique"]["a"]["count"] == len(chosen[0] - chosen[1])
    whys = {m["what"]: m["why"] for m in found["missing"]}
    said = f"rule {rule} compares rows with single target samples"
    for what, measured in (("layer shares of a", found["confounds"][0]["layer_share"]), ("fidelity of a", None)):
        assert (whys.get(what) == said) == (rule != "centroid"), what
        assert measured is None or rule == "centroid"
    assert bool(found["fidelity"]) == (rule == "centroid")


@pytest.mark.parametrize("own", [None, "roundrobin", "max"])
def test_overlap_between_rules(kept: Kept, own: str | None) -> None:
    """The same whichever of the rules the evaluation is by."""
    relevant = ["a=sums", "b=poems"]
    with pytest.warns(NaitWarning, match="has the label 'poems'"):
        of_label = kept.evaluate("of labels", rule=own, label="source", relevant=relevant)["rules"]
    plain = kept.evaluate("plain", rule=own)["rules"]
    for entry, k, number in ((of_label[0], 45, 0), (of_label[1], 9, 1), (plain[0], 9, 0), (plain[1], 9, 1)):
        assert entry["rules"] == ["centroid", "roundrobin", "max"] and (entry["rows"], entry["relevant"]) == (k, k > 9)
        first = [kept.first(rule, number, k) for rule in entry["rules"]]
        shared = [[len(set(a) & set(b)) / k for b in first] for a in first]
        assert np.allclose(entry["overlap"], shared, atol=1e-6)
        assert np.allclose(entry["tokens"], [kept.tokens[rows].mean() for rows in first], atol=1e-6)
        assert entry["target_tokens"] == pytest.approx(kept.signatures[number].tensors["lengths"].mean(), abs=1e-6)
        precision = [(kept.source[rows] == "sums").mean() for rows in first]
        assert entry["r_precision"] is None if k == 9 else np.allclose(entry["r_precision"], precision, atol=1e-6)
    assert 0 < plain[0]["overlap"][0][1] < 1  # they are not alike here: a wrong one would be seen


def test_the_written_file(kept: Kept) -> None:
    found = kept.evaluate("whole", rule="max", label="source", relevant=["a=sums", "b=texts"])
    content = read_sealed(kept.folder / "whole" / "evaluation.json")
    assert content["rules"] == found["rules"] and "\n## Agreement of rules\n" in found["text"]
    entry = content["rules"][0]
    shared, tokens = entry["overlap"][1], f"{entry['tokens'][1]:.1f} | {entry['target_tokens']:.1f}"
    line = f"| a | roundrobin | 45 | {shared[0]:.3f} |  | {shared[2]:.3f} | {tokens} | {entry['r_precision'][1]:.3f} |"
    assert line in found["text"].splitlines()
    # An evaluation that knew nothing of rules is still one: its tables are those that it had.
    older = {k: v for k, v in content.items() if k not in ("rules", "checksum")}
    older["signatures"] = [{k: v for k, v in s.items() if k != "rule"} for s in content["signatures"]]
    text = tables(older)
    assert "| signature | method | reading | samples | ranks the index |" in text and "Agreement of rules" not in text
    write_sealed(kept.folder / "whole" / "evaluation.json", older)
    (kept.folder / "whole" / "evaluation.md").write_text(text)
    assert recognise(kept.folder / "whole" / "evaluation.md")[0].name == "WHOLE"


def test_what_cannot_be_ranked_by_the_rule(kept: Kept, tiny_model: str) -> None:
    target = [f"a={kept.folder / 'a.jsonl'}"]
    given = {"model": tiny_model, "target": target}
    nait_fast.build_signature(**given, codebook=kept.index, output=kept.folder / "without", keep_samples=False)
    nait_fast.build_signature(**given, method="nait", output=kept.folder / "nait")
    without, nait = (kept.folder / name / "a.safetensors" for name in ("without", "nait"))
    for file, words in (
        (without, "--rule max: signature 'a' does not keep its target's samples; make it again with --keep-samples"),
        (nait, "--rule max: method nait does not compare rows with single samples"),
    ):
        with pytest.raises(NaitError) as error:
            nait_fast.evaluate(index=kept.index, signature=[*kept.files, file], output=kept.folder / "no", rule="max")
        assert str(error.value).startswith(words)
    assert not (kept.folder / "no" / "evaluation.json").exists()
    found = nait_fast.evaluate(index=kept.index, signature=[without], output=kept.folder / "yes", rule="centroid")
    assert found["rules"] == [] and "Agreement of rules" not in found["text"]
    (kept.index / "codebook.safetensors").unlink()
    found = kept.evaluate("no codebook")
    (why,) = {m["why"] for m in found["missing"] if m["what"].startswith("agreement of rules of")}
    assert found["rules"] == [] and "codebook.safetensors is missing" in why


@pytest.mark.parametrize("method", METHODS)
def test_samples_that_are_made_again(
    method: str, tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stability by a rule that asks samples is that of signatures which keep them."""
    kept = Kept(tmp_path, tiny_model, method, capsys) if method == "contrast" else None
    index, files = (kept.index, kept.files) if kept else _made(tmp_path, tiny_model, method, capsys)
    signature, given = load_signature(files[0]), {"model": tiny_model, "target": [f"a={tmp_path / 'a.jsonl'}"]}
    options = {"index": index, "signature": files[:1], **given, "sizes": ["4"], "repeats": 2}
    found = {
        rule: nait_fast.evaluate(**options, rule=rule, output=tmp_path / rule)["stability"][0]
        for rule in ("centroid", "max")
    }
    assert found["max"]["samples"] == TARGETS["a"][0] and abs(found["max"]["halves"]["spearman"]) < 1
    assert found["max"]["halves"] != found["centroid"]["halves"]
    if method == "contrast":  # its material is the bits
        bits = signature.layout.unpack(signature.tensors["samples"]).astype(bool)
        tensors = {k: v for k, v in signature.tensors.items() if k not in ("samples", "lengths")}
        again = method_of(method).refit(signature, bits[:5], Index(index).codebook, "a")
        assert again.samples == 0 and tensors.keys() == again.tensors.keys()
        assert (with_samples(again, bits[:5], None).tensors["samples"] == signature.tensors["samples"][:5]).all()
        assert with_samples(signature, bits, None) is signature
