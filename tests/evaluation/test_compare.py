"""``compare``: methods, rules and selections side by side, against plain computations over whole matrices."""

import csv
import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index.reader import Index
from nait_fast.notices import NaitWarning
from nait_fast.ranking import columns
from nait_fast.ranking.columns import ScoreTable
from nait_fast.ranking.scan import Block
from nait_fast.ranking.spearman import spearman
from nait_fast.reporting.as_contender import _write_ranks
from nait_fast.storage.files import read_sealed, write_sealed
from nait_fast.terminal import cells_of, text_table
from tests.commands import run
from tests.evaluation.test_by_rule import WANTED, Kept
from tests.ranking.test_rules import _made

RULES = ("centroid", "max", "roundrobin")
RELEVANT = [f"{name}={value}" for name, value in WANTED.items()]


@pytest.fixture
def kept(tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> Kept:
    return Kept(tmp_path, tiny_model, "contrast", capsys)


def rows_of(folder: Path) -> list[int]:
    """The selected rows of a selection, best first."""
    from pyarrow import parquet

    table = parquet.read_table(folder / "scores.parquet").to_pydict()
    places = zip(table["rank"], table["row"], table["selected"], strict=True)
    return [row for _, row in sorted((rank, row) for rank, row, chosen in places if chosen)]


def checked(kept: Kept, found: dict[str, Any], chosen: list[list[int]]) -> None:
    """``found`` tells of the selections ``chosen``, rows best first, the random ones last."""
    names = [one["column"] for one in found["compared"]]
    for i, a in enumerate(chosen):
        one, tokens = found["compared"][i], kept.tokens[a]
        assert (one["rows"], one["tokens"]) == (len(a), tokens.sum()), names[i]
        assert one["mean_tokens"] == pytest.approx(tokens.mean()) and one["median_tokens"] == np.median(tokens)
        sources = found["composition"]
        share = {value: sources["rows"][names[i]][sources["values"].index(value)] for value in ("sums", "texts")}
        assert share == {value: (kept.source[a] == value).sum() for value in share}
        for j, b in enumerate(chosen):
            both = len(set(a) & set(b))
            assert found["shared"][i][j] == both
            assert found["jaccard"][i][j] == pytest.approx(both / len(set(a) | set(b)), abs=1e-6)
    for i, a in enumerate(chosen[:-1]):
        others = set().union(*(set(b) for j, b in enumerate(chosen[:-1]) if j != i))
        own = [row for row in a if row not in others]
        told = found["compared"][i]["only_here"]
        assert told["count"] == len(own) and [e["row"] for e in told["examples"]] == own[:2]
    assert "only_here" not in found["compared"][-1]


@pytest.mark.parametrize("cells", [1 << 18, 7], ids=["one block", "many blocks"])
def test_methods_and_rules_by_definition(kept: Kept, monkeypatch: pytest.MonkeyPatch, cells: int) -> None:
    monkeypatch.setattr(columns, "BLOCK_CELLS", cells)
    options = {"index": kept.index, "signature": kept.files, "label": "source", "relevant": RELEVANT}
    found = nait_fast.compare(**options, rule=RULES, top_k=20, seed=3)
    assert [(one["label"], one["rule"]) for one in found["compared"][:-1]] == [
        (f"{name} (contrast, mean)", rule) for name in "ab" for rule in RULES
    ]
    nait_fast.rank(
        index=kept.index, signature=kept.files[0], top_k=20, pick="random", seed=3, output=kept.folder / "drawn"
    )
    drawn = rows_of(kept.folder / "drawn")
    chosen = [kept.first(rule, number, 20) for number in range(2) for rule in RULES]
    checked(kept, found, [*chosen, drawn])
    for place, measures in enumerate(found["retrieval"][:-2]):
        wanted = kept.source == WANTED["ab"[place // 3]]
        first = kept.first(RULES[place % 3], place // 3, 45)
        assert measures["r_precision"] == pytest.approx(wanted[first].mean(), abs=1e-6)
        assert measures["share"] == pytest.approx(wanted[chosen[place]].mean(), abs=1e-6)
        assert (measures["relevant"], measures["chance"]) == (45, 0.5)
    beside = {measures["label"][0]: measures["share"] for measures in found["retrieval"][-2:]}
    assert beside == pytest.approx({value: (kept.source[drawn] == value).mean() for value in WANTED.values()})
    best = [kept.lines[number].max(axis=0) for number in range(2)]
    assert found["spearman"][1][4] == pytest.approx(spearman(*best), abs=1e-6)
    assert found["spearman"][1][2] == 1 and found["spearman"][0][6] is None and found["spearman_rows"] == 90
    assert found["compared"][1]["spearman_with_length"] == pytest.approx(spearman(best[0], kept.tokens), abs=1e-6)
    assert found["pool"]["median_tokens"] == np.median(kept.tokens)
    assert found["compared"][0]["target_tokens"] == pytest.approx(kept.signatures[0].tensors["lengths"].mean())
    example = found["compared"][0]["only_here"]["examples"][0]
    row = json.loads((kept.folder / "pool.jsonl").read_text().splitlines()[example["row"]])
    assert row["instruction"] in example["text"] and row["output"] in example["text"]


def test_selections_of_this_and_of_another_index(
    kept: Kept, tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what another model's or codec's index ranks, by the rows' numbers in the pool."""
    other, files = _made(tmp_path / "other", tiny_model, "embed", capsys)
    whole, some = tmp_path / "whole", tmp_path / "some"
    nait_fast.rank(index=other, signature=files[0], top_k=9, output=whole)
    nait_fast.rank(
        index=kept.index, signature=kept.files, near_duplicates=0.2, top_k=12, scores="selected", output=some
    )
    output = tmp_path / "compared"
    found = nait_fast.compare(
        index=kept.index,
        signature=kept.files[0],
        selection=[whole, some],
        label="source",
        relevant=RELEVANT,
        output=output,
    )
    assert [one["label"] for one in found["compared"][1:3]] == [
        "whole: a (embed)",
        "some: a, b (contrast, roundrobin, near-duplicates)",
    ]
    checked(kept, found, [kept.first("centroid", 0, 9), rows_of(whole), rows_of(some), _random_rows(kept, 9)])
    assert (found["spearman"][0][1], found["spearman"][0][2]) == (
        pytest.approx(_spearman_of_ranks(kept, whole), abs=1e-6),
        None,
    )
    of_two = {one["label"][0]: one for one in found["retrieval"] if one["column"] == "C"}  # a line for each target
    shares = {value: (kept.source[rows_of(some)] == value).mean() for value in ("sums", "texts")}
    assert {value: one["share"] for value, one in of_two.items()} == pytest.approx(shares)
    assert all(one["r_precision"] is None and one["chance"] == 0.5 for one in of_two.values())
    assert next(one["r_precision"] for one in found["retrieval"] if one["column"] == "B") > 0
    assert "order of C" in [one["what"] for one in found["missing"]]
    content = read_sealed(output / "compare.json")
    assert {key: value for key, value in content.items() if key != "checksum"} == {
        key: value for key, value in found.items() if key not in ("output", "text")
    }
    with open(output / "compare.csv") as lines:
        table = list(csv.DictReader(lines))
    assert [line["rows"] for line in table] == ["9", "9", "12", "12", "9"] and table[0]["only_here"] != ""
    with open(output / "pairs.csv") as lines:
        pairs = {(line["a"], line["b"]): line for line in csv.DictReader(lines)}
    assert len(pairs) == 6 and int(pairs["A", "C"]["shared"]) == found["shared"][0][2]
    assert nait_fast.inspect(output)["text"] == found["text"]
    again = {"index": kept.index, "signature": kept.files[1], "output": output}
    with pytest.raises(NaitError, match=r"compare\.json: holds another result .*--overwrite"):
        nait_fast.compare(**again)
    nait_fast.compare(**again, overwrite=True)
    (output / "pairs.csv").write_text("mine")
    with pytest.raises(NaitError, match=r"pairs\.csv: is not as nait_fast wrote it last"):
        nait_fast.compare(**again)
    (output / ".nait-fast.json").unlink()
    with pytest.raises(NaitError, match=r"compare\.json: is in the way"):
        nait_fast.compare(**again, overwrite=True)


def _random_rows(kept: Kept, k: int) -> list[int]:
    folder = kept.folder / "drawn"
    nait_fast.rank(index=kept.index, signature=kept.files[0], top_k=k, pick="random", output=folder)
    return rows_of(folder)


def _spearman_of_ranks(kept: Kept, folder: Path) -> float:
    """Of a selection's order with that of the first signature's scores."""
    from pyarrow import parquet

    ranks = np.array(parquet.read_table(folder / "scores.parquet").to_pydict()["rank"])
    order = kept.first("centroid", 0, 90)
    scores = np.array([score for _, score in sorted(zip(order, _scores(kept), strict=True))])
    return spearman(-ranks.astype(float), scores)


def _scores(kept: Kept) -> np.ndarray:
    from nait_fast.ranking.scan import score_codes

    return np.sort(score_codes(kept.codes, kept.signatures[:1])[:, 0])[::-1]


def test_what_the_terminal_shows(kept: Kept, capsys: pytest.CaptureFixture[str]) -> None:
    """No line is wider than a terminal, under each table stands how to read it, and what is missing is said."""
    command = ["compare", "--index", kept.index, "--signature", kept.folder / "sigs"]
    asked = ["--rule", *RULES, "--token-budget", 900, "--label", "source", "--relevant", *RELEVANT]
    ran = run(capsys, *command, *asked)
    assert ran.status == 0 and max(map(cells_of, ran.out.splitlines())) <= 80
    for title, reading in (
        ("Overlap of the selections", "Above: rows that both select."),
        ("Spearman of the scores", "Order of all rows by score:"),
        ("Retrieval of a label", "R-precision: "),
        ("Lengths", "Far from the target's"),
        ("Composition by source", "Share of the rows;"),
        ("Selected by one alone", "Rows that no other column selects"),
    ):
        assert ran.out.index(f"\n{title}\n\n") < ran.out.index(f"\n\n{reading}")
    assert "Not compared" not in ran.out
    drawn = next(line.split() for line in ran.out.splitlines() if line.startswith("random "))
    assert 800 < int(drawn[-1]) <= 900
    plain = run(capsys, *command)
    assert "- retrieval: pass --label COLUMN" in plain.out and plain.status == 0


def test_random_rows_beside_folders_are_as_many_as_these(kept: Kept, tmp_path: Path) -> None:
    for name, size in (("few", 7), ("many", 31)):
        nait_fast.rank(index=kept.index, signature=kept.files, top_k=size, output=tmp_path / name)
    given = {"index": kept.index, "selection": [tmp_path / "few", tmp_path / "many"]}
    assert nait_fast.compare(**given)["compared"][-1]["rows"] == 31
    assert nait_fast.compare(**given, top_k=5)["compared"][-1]["rows"] == 5
    # A label that no target has is said once a target, not once a folder.
    found = nait_fast.compare(**given, label="source", relevant=["a=sums"])
    assert [one["what"] for one in found["missing"]] == ["retrieval of 'b'"]


def test_what_is_not_compared_is_said(kept: Kept, tmp_path: Path, tiny_model: str) -> None:
    target = [f"a={kept.folder / 'a.jsonl'}"]
    nait_fast.build_signature(
        model=tiny_model, target=target, codebook=kept.index, output=tmp_path / "without", keep_samples=False
    )
    nait_fast.build_signature(model=tiny_model, target=target, method="nag:5", output=tmp_path / "nag")
    files = [kept.files[0], tmp_path / "without" / "a.safetensors", tmp_path / "nag" / "a.safetensors"]
    manifest = read_sealed(kept.index / "manifest.json")
    pool = shutil.copy(manifest["datasets"][0]["path"], tmp_path / "moved.jsonl")
    manifest["datasets"][0]["path"] = str(tmp_path / "gone.jsonl")
    write_sealed(kept.index / "manifest.json", {k: v for k, v in manifest.items() if k != "checksum"})
    found = nait_fast.compare(index=kept.index, signature=files, rule=["centroid", "max"], top_k=5)
    assert [one["rule"] for one in found["compared"]] == ["centroid", "max", "centroid", ""]
    whys = {one["what"]: one["why"] for one in found["missing"]}
    assert any("does not keep its target's samples" in why for why in whys.values())
    assert any("does not fit codec neuron" in why for why in whys.values())
    assert "gone.jsonl" in whys["texts and sources of rows"] and found["composition"] is None
    assert found["compared"][1]["only_here"]["examples"][0]["text"] is None
    assert "Not compared\n\n- " in found["text"]
    with pytest.raises(NaitError, match="does not fit codec neuron"):
        nait_fast.compare(index=kept.index, signature=files[2])
    again = {"index": kept.index, "signature": files[0], "dataset": pool, "label": "source"}
    with pytest.warns(NaitWarning, match="is not measured: no row of the index has the label 'a'; name one"):
        assert nait_fast.compare(**again)["retrieval"] == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("", "compare: there is nothing to compare; give --signature or --selection"),
        ("--selection {index}", "not a selection; give a folder that select or rank wrote"),
        ("--selection {chosen} {chosen}", "--selection {chosen}: is there twice; leave one out"),
        ("--selection {none}", "written with --scores none; select or rank again without"),
        ("--selection {strange}", "is a selection from another pool than that of index {index}"),
        ("--signature {a} {a}", "--signature: 'a' is there twice; leave one out"),
        ("--signature {a} --fraction 2", "--fraction 2.0: must be above 0 and at most 1; write 0.02 for 2%"),
        ("--signature {a} --top-k 91", "--top-k 91: the pool has only 90 usable samples"),
        ("--signature {a} --token-budget 1", "--token-budget 1: below the first sample's"),
        ("--signature {a} --label id", "--label id: no row of"),
        ("--signature {a} --label source --relevant c=x", "write NAME=VALUE, the name of a signature (a)"),
        ("--signature {a} --output {index}", "holds an index or a selection; choose another folder"),
    ],
)
def test_refusals(options: str, words: str, kept: Kept, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = {"index": kept.index, "a": kept.files[0], **{n: tmp_path / n for n in ("chosen", "none", "strange")}}
    if "--selection" in options:
        for name, scores in (("chosen", "selected"), ("none", "none"), ("strange", "selected")):
            nait_fast.rank(index=kept.index, signature=kept.files[0], top_k=3, scores=scores, output=paths[name])
        manifest = read_sealed(paths["strange"] / "manifest.json")
        manifest["datasets"][0]["sha256"] = "0" * 64
        write_sealed(paths["strange"] / "manifest.json", {k: v for k, v in manifest.items() if k != "checksum"})
    asked = [word.format(**paths) for word in options.split()]
    if "--label" in asked and "id" in asked:
        asked[asked.index("id")] = "nowhere"
        words = words.replace("id", "nowhere")
    error = run(capsys, "compare", "--index", kept.index, *asked).error
    assert words.format(**paths) in error


def test_ranks_of_rows_that_another_index_has(tmp_path: Path) -> None:
    """Rows that only one of two indexes of a pool holds: the other's are passed over, ours come last."""
    rows = np.array([0, 2, 3, 7, 8, 9])
    with ScoreTable(tmp_path, len(rows), []) as table:
        table.add(Block(rows, np.ones(len(rows), np.int32), np.empty((len(rows), 0))))
        scores = table.scratch(np.float64)
        there = [([1, 2, 3], [4, 1, 5]), ([5, 8], [2, 3])]
        batches = iter([SimpleNamespace(row=np.array(row), rank=np.array(rank)) for row, rank in there])
        assert _write_ranks(batches, table, scores, 5) == 3
        assert scores.read(0, 6).tolist() == [-6, -1, -5, -6, -3, -6]


def test_a_table_keeps_to_the_width() -> None:
    rows = [["漢字" * 30, *["1,000,000"] * 12], ["a", *["2"] * 12]]
    lines = text_table(["", *map(str, range(12))], rows).splitlines()
    assert max(map(cells_of, lines)) <= 80
    assert sum(line.count("1,000,000") for line in lines) == 12 and lines.count("") == 1  # in two parts
    assert all(line.startswith("漢") for line in lines if "1,000,000" in line)


def test_an_index_of_no_labels(kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of too many values is no label: said where it was not asked for, refused where it was."""
    monkeypatch.setattr("nait_fast.evaluation.contenders.MOST_VALUES", 1)
    options = {"index": Index(kept.index).folder, "signature": kept.files[0]}
    with pytest.raises(NaitError, match="--label source: has more than 1 values, which are no labels"):
        nait_fast.compare(**options, label="source")
    found = nait_fast.compare(**options)
    assert "composition by source" in [one["what"] for one in found["missing"]]
