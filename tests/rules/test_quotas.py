"""Quotas against the definition: row after row, best first, each asked whether all of its groups have room."""

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nait_fast.errors import BadInput, NaitError
from nait_fast.methods.signature import load_signature
from nait_fast.ranking.requirements import check_lengths
from nait_fast.rules.best_first import Budget
from nait_fast.rules.constraints.quotas import Partition, Quotas, length_partition, read_quotas
from nait_fast.rules.constraints.selecting import select_rows
from tests.conftest import write_jsonl
from tests.rules.made import MadePool, make_pool, rows_of
from tests.rules.orders import Chunked
from tests.rules.test_near_duplicates import families

Groups = list[tuple[list[int], list[Fraction | None]]]  # group of each place, share of each group


def rooms_of(shares: list[Fraction | None], size: int, come: list[int]) -> list[float]:
    """``come``: the groups' numbers, in the order in which their best rows come."""
    if sum(share or 0 for share in shares) < 1:
        return [float("inf") if share is None else share * size // 1 for share in shares]
    rooms = [0 if share is None else share * size // 1 for share in shares]
    while sum(rooms) < size:  # to whoever has lost most by rounding
        lost = [-1 if share is None else share * size - room for share, room in zip(shares, rooms, strict=True)]
        rooms[max(come, key=lost.__getitem__)] += 1  # of equals, whose best row comes first
    return [float("inf") if share is None else room for share, room in zip(shares, rooms, strict=True)]


def naive(order: list[int], weights: list[int], groups: Groups, size: int) -> tuple[list[int], dict[int, int]]:
    """(places that are selected, place -> the partition that took it) of all that are asked."""
    rooms = []
    for of, shares in groups:
        come = dict.fromkeys([*(of[place] for place in order), *range(len(shares))])
        rooms.append(rooms_of(shares, size, list(come)))
    selected, refused, used = [], {}, 0
    for place in order:
        full = [n for n, (of, _) in enumerate(groups) if rooms[n][of[place]] < weights[place]]
        if any(not any(room) for room in rooms):
            return selected, refused
        if full:
            rooms[full[0]][groups[full[0]][0][place]] = 0
            refused[place] = full[0]
            continue
        if used + weights[place] > size:
            return selected, refused
        for n, (of, _) in enumerate(groups):
            rooms[n][of[place]] -= weights[place]
        selected.append(place)
        used += weights[place]
        if used == size:
            return selected, refused
    for place in [place for place in order if place in refused] if all(any(room) for room in rooms) else []:
        if used + weights[place] > size:
            break
        del refused[place]
        selected.append(place)
        used += weights[place]
    return selected, refused


@settings(max_examples=100, deadline=None)
@given(st.data())
@pytest.mark.filterwarnings("ignore::nait_fast.notices.NaitWarning")
def test_as_defined(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 30))
    order = data.draw(st.permutations(range(n)))
    tokens = data.draw(st.lists(st.integers(1, 9), min_size=n, max_size=n))
    groups: Groups = []
    for _ in range(data.draw(st.integers(1, 2))):
        number = data.draw(st.integers(1, 4))
        parts = data.draw(st.lists(st.integers(0, 5), min_size=number, max_size=number).filter(any))
        whole = data.draw(st.sampled_from([sum(parts), sum(parts) + 3]))
        shares: list[Fraction | None] = [Fraction(part, whole) for part in parts]
        shares += [None] if whole > sum(parts) else []
        groups.append((data.draw(st.lists(st.integers(0, len(shares) - 1), min_size=n, max_size=n)), shares))
    in_tokens = data.draw(st.booleans())
    size = data.draw(st.integers(1, 9 * n if in_tokens else n))
    partitions = [
        Partition(f"p{number}", "k", [f"g{g}" for g in range(len(shares))], np.array(of).__getitem__, shares)
        for number, (of, shares) in enumerate(groups)
    ]
    budget = Budget(tokens=size) if in_tokens else Budget(rows=size)
    chosen = select_rows(
        Chunked(np.array(order), (4, 1)), budget, [Quotas(partitions)], n_tokens=np.array(tokens).__getitem__
    )
    selected, refused = naive(order, tokens if in_tokens else [1] * n, groups, size)
    assert chosen.places.tolist() == selected
    looked = order[: chosen.looked]
    took = {p: d.constraint for d in chosen.dropped for p in d.places.tolist()}
    assert took == {place: f"p{number}" for place, number in refused.items() if place in looked}
    assert sorted([*selected, *took]) == sorted(looked) or not chosen.full


def test_rounding_adds_up_to_the_budget() -> None:
    third = Partition("quota", "k", ["a", "b", "c"], np.zeros_like, [Fraction(1, 3)] * 3)
    assert [third.rooms(size).room for size in (3, 4, 5, 100)] == [[1, 1, 1], [2, 1, 1], [2, 2, 1], [34, 33, 33]]
    uneven = Partition("quota", "k", ["a", "b"], np.zeros_like, [Fraction(1, 10), Fraction(9, 10)])
    assert [uneven.rooms(size).room for size in (1, 5, 14)] == [[0, 1], [1, 4], [1, 13]]
    some = Partition("quota", "k", ["a", "others"], np.zeros_like, [Fraction(3, 10), None])
    assert [some.rooms(size).room for size in (3, 10)] == [[0, None], [3, None]]


def test_of_more_groups_than_the_budget_has_rows_those_of_the_best_rows_have_one() -> None:
    groups, order = np.array([0, 1, 2, 3, 4, 4]), np.array([4, 5, 2, 0, 3, 1])
    each = Quotas([Partition("quota", "k", list("abcde"), groups.__getitem__, [Fraction(1, 5)] * 5)])
    chosen = select_rows(Chunked(order), Budget(rows=3), [each])
    assert chosen.places.tolist() == [4, 2, 0] and chosen.full
    assert chosen.described[0]["of"] == {"a": [1, 1], "b": [0, 0], "c": [1, 1], "d": [0, 0], "e": [1, 1]}


def test_what_stays_unused_and_who_gets_nothing_is_said(recwarn: pytest.WarningsRecorder) -> None:
    groups, tokens = np.array([0, 1, 1, 0, 0]), np.array([20, 36, 5, 15, 5])
    half = [Fraction(1, 2)] * 2
    quotas = Quotas([Partition("quota", "k", ["a", "b"], groups.__getitem__, half)])
    chosen = select_rows(Chunked(np.arange(5)), Budget(tokens=70), [quotas], n_tokens=tokens.__getitem__)
    assert chosen.places.tolist() == [0, 3] and chosen.full  # the first row of b is longer than its part
    fifths = Quotas([Partition("quota", "k", list("abcde"), groups.__getitem__, [Fraction(1, 5)] * 5)])
    select_rows(Chunked(np.arange(5)), Budget(rows=2), [fifths])
    some = Quotas([Partition("quota", "k", ["a", "others"], groups.__getitem__, [Fraction(1, 4), None])])
    assert select_rows(Chunked(np.arange(5)), Budget(rows=4), [some]).places.tolist() == [0, 1, 2, 3]
    assert [str(w.message) for w in recwarn.list] == [
        "quota k: 35 of 70 tokens stay unused: a group's part ends at its first row that would exceed it (b 0 of 35)",
        "quota k: 3 of 5 groups get nothing: their shares of 2 rows are less than one",
        "quota k: the rows that have room end before the budget is full; the best of the others fill up",
    ]


def test_a_share_is_the_most_that_a_group_may_have() -> None:
    groups = np.array([0, 0, 0, 1, 1, 1, 1, 1])  # the best are all of group 0
    quotas = Quotas([Partition("quota", "k", ["a", "others"], groups.__getitem__, [Fraction(1, 2), None])])
    order = Chunked(np.arange(8))
    assert select_rows(order, Budget(rows=4), [quotas]).places.tolist() == [0, 1, 3, 4]
    assert select_rows(Chunked(np.arange(8)[::-1]), Budget(rows=4), [quotas]).places.tolist() == [7, 6, 5, 4]


def test_who_has_too_few_is_said_and_others_fill_up(recwarn: pytest.WarningsRecorder) -> None:
    groups = np.array([0, 0, 0, 0, 1, 0])
    half = Quotas([Partition("quota", "k", ["a", "b"], groups.__getitem__, [Fraction(1, 2)] * 2)])
    chosen = select_rows(Chunked(np.arange(6)), Budget(rows=4), [half])
    assert chosen.places.tolist() == [0, 1, 4, 2] and chosen.full
    assert [str(w.message) for w in recwarn.list] == [
        "quota k: some groups have fewer rows left than their share (b 1 of 2); the best of the others fill up"
    ]
    assert [(d.places.tolist(), d.details["group"].tolist()) for d in chosen.dropped] == [([3], ["a"])]
    assert chosen.described == [{"constraint": "quota", "dropped": 1, "key": "k", "of": {"a": [3, 2], "b": [1, 2]}}]


def test_bins_of_length_have_the_share_of_their_rows() -> None:
    tokens = np.random.default_rng(0).integers(5, 400, 1003).astype(np.int32)
    bins = length_partition(tokens.__getitem__, len(tokens))
    counts = np.bincount(bins.group(np.arange(1003)))
    assert len(counts) == 10 and (abs(counts - 100.3) < 12).all()
    assert list(bins.shares) == [Fraction(int(count), 1003) for count in counts]
    for number, label in enumerate(bins.labels):
        first, last = map(int, label.split("-"))
        inside = (tokens >= first) & (tokens <= last)
        assert (bins.group(np.flatnonzero(inside)) == number).all() and inside.sum() == counts[number]
    alike = length_partition(np.repeat([7, 9], [25, 5]).__getitem__, 30)
    assert alike.labels == ["7-7", "8-9"] and alike.shares == [Fraction(5, 6), Fraction(1, 6)]
    assert length_partition(np.array([7]).__getitem__, 1).labels == ["7-7"]


def test_bins_of_samples_leave_longer_and_shorter_rows_without_a_share() -> None:
    tokens, lengths = np.array([3, 10, 14, 15, 20, 25, 90]), np.repeat([20, 10, 15, 20], 4)
    bins = length_partition(tokens.__getitem__, len(tokens), lengths)
    assert bins.labels == ["10-10", "11-15", "16-20", "above 20", "below 10"]
    assert bins.shares == [Fraction(1, 4), Fraction(1, 4), Fraction(1, 2), 0, 0]
    assert bins.group(np.arange(7)).tolist() == [4, 0, 1, 1, 2, 3, 3]


SOURCES = ("math", "code", "chat")


def source(row: int) -> dict[str, Any]:
    return {"source": SOURCES[row % 3 if row % 10 else 0], "level": row % 2, **({"topic": "x"} if row % 4 else {})}


@pytest.fixture
def made(tmp_path: Path) -> MadePool:
    return make_pool(tmp_path / "made", families(120, 32, 200, seed=1), 3, source)


def sources_of(folder: Path) -> dict[str, int]:
    found = [row["source"] for row in rows_of(folder / "selected.jsonl")]
    return {name: found.count(name) for name in SOURCES}


def test_by_a_key_of_the_pool(made: MadePool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    summary = made.rank(out, top_k=30, quota=["source=math:.1", "source=code:0.2"])
    counts = sources_of(out)
    assert counts["math"] == 3 and counts["code"] == 6 and counts["chat"] == 21
    (said,) = summary["constraints"]
    assert said["of"] == {"math": [3, 3], "code": [6, 6], "others": [21]} and said["dropped"] > 10
    dropped = rows_of(out / "dropped.jsonl")
    assert len(dropped) == said["dropped"]
    assert {(d["constraint"], d["key"], d["group"]) for d in dropped} == {
        ("quota", "source", "math"),
        ("quota", "source", "code"),
    }
    assert all(made.lines[d["row"]]["source"] == d["group"] for d in dropped)
    made.rank(out, top_k=30, quota="source:equal", overwrite=True)
    assert sources_of(out) == dict.fromkeys(SOURCES, 10)
    every = [made.lines[row]["source"] for row in made.row.tolist()]
    made.rank(out, top_k=60, quota="source:pool", overwrite=True)
    assert all(abs(sources_of(out)[name] - every.count(name) / 2) < 1 for name in SOURCES)
    made.rank(out, token_budget=600, quota=["source:equal", "level=1:.5"], overwrite=True)
    tokens = {name: 0 for name in SOURCES}
    length = dict(zip(made.row.tolist(), made.n_tokens.tolist(), strict=True))
    rows = [int(row["id"][1:]) for row in rows_of(out / "selected.jsonl")]
    for row in rows:
        tokens[made.lines[row]["source"]] += length[row]
    assert all(140 <= number <= 200 for number in tokens.values())
    assert sum(length[row] for row in rows if row % 2) <= 300


def test_by_length(made: MadePool, tmp_path: Path) -> None:
    summary = made.rank(tmp_path / "out", top_k=40, length="quota", quota="source:equal")
    assert [said["constraint"] for said in summary["constraints"]] == ["quota", "length"]
    assert all(abs(used - share) <= 1 for used, share in summary["constraints"][1]["of"].values())
    plain = made.rank(tmp_path / "plain", top_k=40, length="quota")
    assert all(used == share for used, share in plain["constraints"][0]["of"].values())
    rows = [int(row["id"][1:]) for row in rows_of(tmp_path / "plain" / "selected.jsonl")]
    length = dict(zip(made.row.tolist(), made.n_tokens.tolist(), strict=True))
    for label, (used, _) in plain["constraints"][0]["of"].items():
        first, last = map(int, label.split("-"))
        assert sum(first <= length[row] <= last for row in rows) == used
        best = [p for p in made.order.tolist() if first <= made.n_tokens[p] <= last][:used]
        assert {int(made.row[p]) for p in best} <= set(rows)


def test_by_the_lengths_of_the_target(made: MadePool, tmp_path: Path) -> None:
    signature = load_signature(made.signature)
    with pytest.raises(
        NaitError, match="--length quota:target: signature 'a' does not tell how long its target's samples are; make"
    ):
        made.rank(tmp_path / "out", length="quota:target")
    lengths = np.array([8, 8, 9, 10, 30, 31, 32, 33], dtype=np.int32)
    kept = {"samples": made.codes[:8], "lengths": lengths}
    (tmp_path / "kept").mkdir()
    replace(signature, tensors={**signature.tensors, **kept}).save(tmp_path / "kept")
    summary = made.rank(
        tmp_path / "out", top_k=8, length="quota:target", signature=[tmp_path / "kept" / "a.safetensors"]
    )
    length = dict(zip(made.row.tolist(), made.n_tokens.tolist(), strict=True))
    found = sorted(length[int(row["id"][1:])] for row in rows_of(tmp_path / "out" / "selected.jsonl"))
    assert sum(8 <= number <= 10 for number in found) == 4 == sum(11 <= number <= 33 for number in found)
    of = summary["constraints"][0]["of"]
    assert of["above 33"] == of["below 8"] == [0, 0] and all(used == share for used, share in of.values())
    assert sum(used for used, _ in of.values()) == 8
    nait = replace(signature, meta={**signature.meta, "method": "nait"})
    with pytest.raises(NaitError, match="use another method, or --length quota"):
        check_lengths([nait])


def test_rows_without_the_key_are_a_group(made: MadePool, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    summary = made.rank(tmp_path / "out", top_k=30, quota="topic:equal")
    assert summary["constraints"][0]["of"] == {"x": [15, 15], "null": [15, 15]}
    lacking = sum(row % 4 == 0 for row in made.row.tolist())
    said = f"--quota topic: {lacking} of 120 rows have no 'topic'; they are a group, null"
    assert said in [str(w.message) for w in recwarn.list]


def test_as_in_the_targets(made: MadePool, tmp_path: Path) -> None:
    from nait_fast.config import BudgetOptions, ConstraintOptions
    from nait_fast.data.pool import Pool
    from nait_fast.index.pool_rows import rows_of as pool_rows
    from nait_fast.index.reader import Index
    from nait_fast.verbs.rank import rank_index

    def rank(rows: list[dict[str, Any]]) -> dict[str, Any]:
        target = write_jsonl(tmp_path / "target.jsonl", rows)
        arguments = [Index(made.index), [load_signature(made.signature)], BudgetOptions(top_k=20), 0, tmp_path]
        by = ConstraintOptions(quota=("source:target",))
        return rank_index(*arguments, pool_rows(Pool(made.pool)), constraining=by, targets=[str(target)])

    of = rank([{"text": "a", "source": name} for name in ("math", "code", "code", "code")])["constraints"][0]["of"]
    assert of == {"math": [5, 5], "code": [15, 15], "chat": [0, 0]}
    with pytest.raises(NaitError, match='1 samples of the targets have "law", which no row of the pool has'):
        rank([{"text": "a", "source": "law"}, {"text": "b", "source": "math"}])
    with pytest.raises(NaitError, match="1 of the targets' 2 samples have no 'source'"):
        rank([{"text": "a"}, {"text": "b", "source": "math"}])


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ("source", "write KEY=VALUE:SHARE"),
        ("source:half", "write KEY=VALUE:SHARE"),
        ("=a:0.5", "write KEY=VALUE:SHARE"),
        ("a=:0.5", "write KEY=VALUE:SHARE"),
        ("a=b:1.5", "a share is a number from 0 to 1"),
        ("a=b:-0.5", "a share is a number from 0 to 1"),
        ("a=b:nan", "a share is a number from 0 to 1"),
        ("a=b:equal", "a share is a number from 0 to 1"),
        ("a=b:" + "9" * 40, "a share is a number from 0 to 1"),
        ("a=b:0.5 a=b:0.4", "a has its quotas already"),
        ("a=b:0.5 a:equal", "a has its quotas already"),
        ("a:equal a=b:0.5", "a has its quotas already"),
        ("a:equal a:pool", "a has its quotas already"),
        ("a=b:0.5 a=c:0.6", "the shares of a add up to 1.1, which is above 1"),
    ],
)
def test_what_cannot_be_read(quota: str, words: str) -> None:
    with pytest.raises(BadInput, match=f"^--quota .*: .*{words}"):
        read_quotas(quota.split())


def test_what_can_be_read() -> None:
    shares = {"b:c": Fraction(1, 2), "d=e": Fraction(1, 4)}
    assert read_quotas(["a=b:c:.5", "a=d=e:0.25", "x:y:pool"]) == {"a": shares, "x:y": "pool"}
    assert read_quotas(["a=b:.3", "a=c:.3", "a=d:.4"])["a"] == {  # .3 + .3 + .4 is 1 to the digit
        "b": Fraction(3, 10),
        "c": Fraction(3, 10),
        "d": Fraction(2, 5),
    }


@pytest.mark.parametrize(
    ("quota", "words"),
    [
        ("sourse:equal", "--quota sourse: no row of the pool has this key"),
        ("source=maths:0.5", "--quota source=maths: no row of the pool has it; there are math, code, chat"),
        ("source:target", "--quota source:target: a signature does not tell"),
        ("id:equal", "--quota id:equal: the pool has 120 values of it, more than can share"),
    ],
)
def test_what_the_pool_does_not_have(
    made: MadePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quota: str, words: str
) -> None:
    monkeypatch.setattr("nait_fast.rules.constraints.quotas.MOST_GROUPS", 100)
    with pytest.raises(NaitError) as error:
        made.rank(tmp_path / "out", quota=quota)
    assert str(error.value).startswith(words)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_the_manifest_is_plain(made: MadePool, tmp_path: Path) -> None:
    made.rank(tmp_path / "out", top_k=9, quota="level:equal", near_duplicates=0.01)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [said["constraint"] for said in manifest["constraints"]] == ["near-duplicates", "quota"]
    assert manifest["constraints"][1]["of"] in ({"0": [5, 5], "1": [4, 4]}, {"0": [4, 4], "1": [5, 5]})
