"""Why rows score as they do: the target samples next to them, parts by layer, neurons; against plain computations."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.config import ReportOptions
from nait_fast.errors import NaitError
from nait_fast.methods.signature import LENGTHS, SAMPLES, load_signature
from nait_fast.reporting import layers
from nait_fast.reporting.contents import Report, gather
from nait_fast.reporting.formatting import fixed
from nait_fast.verbs import signature as signature_verb
from tests.ranking.indexes import contrast
from tests.ranking.test_rules import TARGETS, made  # noqa: F401
from tests.reporting.made import plain
from tests.reporting.pages import check

KEPT = (SAMPLES, LENGTHS)


def ranked(index: Any, files: list[Path], **options: Any) -> Path:
    out = index.folder.parent / "chosen"
    nait_fast.rank(index=index.folder, signature=files, output=out, top_k=20, overwrite=True, **options)
    return out


def gathered(out: Path, **options: Any) -> Report:
    return gather(ReportOptions(selection=str(out), samples=4, **options), out.parent / "report.html")


def shown(found: Report) -> list[Any]:
    return [*found.best, *found.worst, *found.inside, *found.outside]


def turns_of(file: Path) -> list[list[tuple[str, str]]]:
    rows = map(json.loads, file.read_text().splitlines())
    return [[("user", row["instruction"]), ("assistant", row["output"])] for row in rows]


def test_the_samples_next_to_a_row(made: Any) -> None:  # noqa: F811
    """Their numbers, how like they are, and their texts, from where the signatures' own config says that they are."""
    index, files, _, lines = made
    folder = index.folder.parent
    like = dict(zip(TARGETS, np.split(lines, [TARGETS["a"][0]]), strict=True))
    found = gathered(ranked(index, files))
    assert len(shown(found)) == 4 + 4 + 2 + 2 and set(found.of_targets) == {s.target for s in shown(found)}
    for s in shown(found):
        of_row, of_target = like[s.target][:, s.ranked.row], found.of_targets[s.target]
        assert [near.number for near in s.near] == np.argsort(-of_row, kind="stable")[:3].tolist()
        np.testing.assert_allclose([near.similarity for near in s.near], np.sort(of_row)[::-1][:3], atol=1e-9)
        expected = turns_of(folder / f"{s.target}.jsonl")
        assert of_target.samples == len(expected) and of_target.texts.untold == ""
        for near in s.near:
            assert of_target.texts.texts[near.number].turns == expected[near.number]
        assert of_target.typical == pytest.approx(np.median(like[s.target].max(axis=0)))
    words = check(plain(found.chosen.folder, folder / "page.html")).words
    best = found.best[0]
    number, text = best.near[0].number, turns_of(folder / f"{best.target}.jsonl")[best.near[0].number][0][1]
    called = found.of_targets[best.target].called
    said = f"Most like it in {best.target} {called} {fixed(best.near[0].similarity)} sample {number + 1} of "
    assert f"{said}{TARGETS[best.target][0]} user {text[:30]}" in words and "is most like is not told" not in words


def test_where_the_samples_are_not_at_hand(made: Any, tmp_path: Path) -> None:  # noqa: F811
    index, files, signatures, _ = made
    if signatures[0].method != "contrast":
        return
    folder, out = index.folder.parent, ranked(index, files)
    targets = [f"{name}={folder / name}.jsonl" for name in TARGETS]
    (folder / "sigs" / "config.yaml").write_text(json.dumps({"target": targets}))  # it names those that were copied
    whole = gathered(out).of_targets
    (target,) = {s.target for s in gathered(out).best[:1]}
    shutil.move(folder / f"{target}.jsonl", tmp_path / "moved.jsonl")
    found = gathered(out).of_targets[target].texts
    gone = f"The texts of {target}'s samples are not at hand: {folder / target}.jsonl is no file here, or has changed"
    assert found.texts == {} and found.untold == f"{gone}; name it with --target."
    words = check(plain(out, folder / "page.html")).words
    assert found.untold in words and f"Most like it in {target}" in words
    there = gathered(out, target=(f"{target}={tmp_path / 'moved.jsonl'}",)).of_targets[target]
    assert there.texts == whole[target].texts and there.texts.untold == ""
    (folder / f"{target}.jsonl").write_text('{"text": "other"}\n{"text": "samples"}\n')
    assert gathered(out).of_targets[target].texts == found
    for named, said in (
        (f"{target}={folder / target}.jsonl", f"is not what signature '{target}' was made from"),
        (f"{target}={tmp_path / 'none.jsonl'}", "none.jsonl"),
        (f"x={tmp_path / 'moved.jsonl'}", "no target 'x'; there are a, b"),
        (".x=y", "begins with a dot"),
        ((f"a={tmp_path / 'moved.jsonl'}", f"a={tmp_path / 'moved.jsonl'}"), "the name 'a' is there twice"),
    ):
        with pytest.raises(NaitError, match=said):
            plain(out, folder / "page.html", target=(named,) if isinstance(named, str) else named)
    other = "ab".replace(target, "")
    relative = {"target": [f"{target}=data/{target}.jsonl"], "format": "alpaca"}
    (folder / "sigs" / "config.yaml").write_text(json.dumps(relative))  # as of a command that ran in the folder
    (folder / "data").mkdir()
    shutil.move(tmp_path / "moved.jsonl", folder / "data" / f"{target}.jsonl")
    assert gathered(out).of_targets[target].texts == whole[target].texts
    for name in (other, target):  # whether a row that is shown stands out for it or not
        with pytest.raises(NaitError, match="is not what signature"):
            gathered(out, target=(f"{name}={folder / target}.jsonl",))
    (folder / "sigs" / "config.yaml").unlink()
    assert "nothing tells which file they are in" in gathered(out).of_targets[target].texts.untold


def test_parts_of_a_likeness(made: Any) -> None:  # noqa: F811
    """By rule max a row scores its likeness to the sample next to it, which is a sum over layers of bits."""
    index, files, signatures, _ = made
    found = gathered(ranked(index, files, rule="max"))
    of_bits = signatures[0].method != "embed"
    assert all((s.decided is not None) == of_bits for s in shown(found))
    words = check(plain(found.chosen.folder, index.folder.parent / "page.html")).words
    assert ("how like it is to the sample next to it" in words) == of_bits
    (shard,) = index.shards()
    for s in shown(found) if of_bits else ():
        score = s.ranked.scores[list(TARGETS).index(s.target)]
        assert s.near[0].similarity == pytest.approx(score) == s.decided.total and not s.decided.centred
        assert (s.decided.half, s.decided.neurons) == (None, ())
        own = next(x for x in signatures if x.name == s.target).tensors["samples"][s.near[0].number]
        a, b = (index.layout.unpack(np.array(code)[None])[0] for code in (own, shard.codes[s.ranked.row]))
        if signatures[0].method == "nag":
            products = (a & b) / (5 * len(index.layout.widths))
        else:
            p = np.rint(index.codebook.frequency.astype(np.float64) * 4095) / 4095
            products = (a - p) * (b - p) / np.linalg.norm(a - p) / np.linalg.norm(b - p)
        parts = [products[index.layout.neurons(i)].sum() for i in range(len(index.layout.widths))]
        assert s.decided.layers == [(layer, pytest.approx(part)) for layer, part in enumerate(parts)]


def test_neurons_are_named_where_they_tell_rows_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    widths, generator = [40, 70, 33], np.random.default_rng(3)
    bits = generator.random((5, 143)) < 0.5
    bits[:, 7] = True  # the weightiest, but all have it
    weights, pool = generator.normal(size=143), generator.random(143)
    weights[7] = 99
    signature = contrast("t", widths, 1)
    for share, named in ((0.0, True), (1.01, False)):
        monkeypatch.setattr(layers, "TELLING_SHARE", share)
        told = layers.telling_neurons(bits, weights, pool, [4, 5, 9], signature)
        assert [bool(neurons) for neurons in told] == [named] * 5
        for i, neurons in enumerate(told if named else ()):
            others = np.delete(bits, i, axis=0).mean(axis=0)
            parts = weights * (bits[i] - others)
            expected = sorted(range(143), key=lambda j: -abs(parts[j]))[:6]
            for neuron, j in zip(neurons, expected, strict=True):
                ordinal = int(np.searchsorted(np.cumsum(widths), j, side="right"))
                place = j - sum(widths[:ordinal])
                assert (neuron.layer, neuron.neuron, neuron.bit) == ([4, 5, 9][ordinal], place, bits[i, j])
                assert (neuron.part, neuron.others, neuron.pool) == pytest.approx((parts[j], others[j], pool[j]))
    assert layers.telling_neurons(bits[:1], weights, pool, [4, 5, 9], signature) == [()]
    monkeypatch.setattr(layers, "TELLING_SHARE", 0.0)
    assert layers.telling_neurons(bits[[1, 1]], weights, pool, [4, 5, 9], signature) == [(), ()]


def test_how_many_neurons_make_half() -> None:
    assert layers.neurons_for_half(np.array([1.0, 5.0, 3.0, -1.0])) == 1  # 5 of 8
    assert layers.neurons_for_half(np.array([-2.0, -2.0, -2.0, 0.0])) == 2
    assert layers.neurons_for_half(np.array([1.0, -1.0])) is None


@pytest.mark.parametrize("few", [True, False])
def test_select_keeps_samples_where_they_are_few(
    tmp_path: Path, tiny_model: str, pool_file: Path, target_file: Path, monkeypatch: pytest.MonkeyPatch, few: bool
) -> None:
    if not few:
        monkeypatch.setattr(signature_verb, "KEPT_BYTES", 0)
    out = tmp_path / "out"
    nait_fast.select(model=tiny_model, dataset=pool_file, target=f"sums={target_file}", output=out, top_k=12)
    kept = load_signature(out / "signatures" / "sums.safetensors").samples
    assert kept == few * len(target_file.read_text().splitlines())
    words = check(plain(out, tmp_path / "page.html")).words
    assert ("Most like it in sums" in words) == few
    assert ("Which samples of sums a row is most like is not told: a signature keeps what" in words) != few
    assert ("How long the samples of sums are is not told" in words) != few


def test_samples_that_rows_cannot_be_compared_with(made: Any) -> None:  # noqa: F811
    index, files, signatures, _ = made
    folder = index.folder.parent
    if signatures[0].method == "contrast":
        bare = replace(signatures[0], tensors={k: v for k, v in signatures[0].tensors.items() if k not in KEPT})
        (folder / "bare").mkdir()
        out = ranked(index, [bare.save(folder / "bare")])
        with pytest.raises(NaitError, match="--target a=x: signature 'a' does not keep its target's samples"):
            gathered(out, target=("a=x",))
        shutil.move(index.folder, folder / "elsewhere")
        with pytest.raises(NaitError, match="--target a=x: the selection's index or signatures are gone"):
            gathered(out, target=("a=x",))
