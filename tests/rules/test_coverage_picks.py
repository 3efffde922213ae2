"""Coverage on the way from an order to a selection, against picks by the formula; and all constraints at once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nait_fast.codecs.layout import CodeLayout
from nait_fast.errors import BadInput, NaitError
from nait_fast.index.reader import Index
from nait_fast.rules.best_first import ArrayOrder, Budget
from nait_fast.rules.constraints import coverage as module
from nait_fast.rules.constraints.coverage import CoveragePicks
from nait_fast.rules.constraints.quotas import read_quotas
from nait_fast.rules.constraints.selecting import select_rows
from tests.conftest import write_jsonl
from tests.rules.made import MadePool, make_pool, rows_of
from tests.rules.orders import Chunked
from tests.rules.test_coverage import by_formula, pool
from tests.rules.test_near_duplicates import defined, families
from tests.rules.test_quotas import naive as naive_quotas

LAYOUT = CodeLayout.of((40, 25))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEWEST", 5)


@pytest.mark.usefixtures("few")
@pytest.mark.parametrize("in_tokens", [False, True])
@pytest.mark.parametrize("scored", [False, True])
def test_as_by_the_formula(in_tokens: bool, scored: bool) -> None:
    bits, scores = pool(120, LAYOUT, 3)
    order = np.lexsort((np.arange(120), -scores))
    tokens = np.random.default_rng(5).integers(1, 9, 120)
    budget = Budget(tokens=50) if in_tokens else Budget(rows=12)
    number = 1 + int(np.searchsorted(np.cumsum(tokens[order]), 200)) if in_tokens else 48
    candidates = order[:number]
    relevance = scores[candidates] if scored else -np.arange(number, dtype=np.float64)
    places, _ = by_formula(bits[candidates], relevance, number, 0.9, np.ones(65), "sqrt")
    picks = candidates[places]
    size = int((np.cumsum(tokens[picks]) <= 50).sum()) if in_tokens else 12
    chosen = select_rows(
        Chunked(order, (7, 2)),
        budget,
        [CoveragePicks([LAYOUT.pack(bits[:50]), LAYOUT.pack(bits[50:])], 0.9, LAYOUT)],
        n_tokens=tokens.__getitem__,
        score=scores.__getitem__ if scored else None,
    )
    assert chosen.places.tolist() == picks[:size].tolist() != order[:size].tolist()
    ranks = {place: rank for rank, place in enumerate(order.tolist())}
    assert chosen.looked == max(ranks[place] for place in chosen.places.tolist()) + 1
    (dropped,) = chosen.dropped
    expected = set(order[: chosen.looked].tolist()) - set(chosen.places.tolist())
    assert dropped.constraint == "coverage" and set(dropped.places.tolist()) == expected
    assert chosen.described == [
        {"constraint": "coverage", "dropped": len(expected), "share": 0.9, "candidates": number}
    ]


@pytest.mark.usefixtures("few")
def test_what_is_behind_the_candidates_follows_as_it_ranks() -> None:
    bits, _ = pool(60, LAYOUT, 3)
    picks = CoveragePicks(LAYOUT.pack(bits), 1.0, LAYOUT)
    walk_through = select_rows(ArrayOrder(np.arange(60)), Budget(rows=60), [picks]).places
    assert sorted(walk_through.tolist()) == list(range(60))

    class All(CoveragePicks):
        def leave(self, offered, walk):
            walk.budget = Budget(rows=4)  # of which 16 are picked from
            yield from super().leave(offered, walk)

    everything = select_rows(Chunked(np.arange(60), (9,)), Budget(rows=60), [All(LAYOUT.pack(bits), 1.0, LAYOUT)])
    places, _ = by_formula(bits[:16], -np.arange(16.0), 16, 1.0, np.ones(65), "sqrt")
    assert everything.places.tolist() == [*places, *range(16, 60)] and not everything.dropped


def test_without_weight_the_order_stays(tmp_path: Path) -> None:
    made = make_pool(tmp_path / "made", families(90, 32, 200, seed=1))
    made.rank(tmp_path / "plain", top_k=20)
    made.rank(tmp_path / "none", top_k=20, coverage=0.0)
    assert (tmp_path / "none" / "selected.jsonl").read_bytes() == (tmp_path / "plain" / "selected.jsonl").read_bytes()


def columns(row: int) -> dict[str, Any]:
    held = {"instruction": "what is the name of the tallest mountain there is"} if row % 9 == 4 else {}
    return {"source": "abc"[row % 3], **held}


@pytest.fixture
def made(tmp_path: Path) -> MadePool:
    return make_pool(tmp_path / "made", families(150, 32, 60, seed=2), 5, columns)


def test_all_at_once_are_one_after_another(made: MadePool, tmp_path: Path, few: None) -> None:
    """Each constraint's own definition on what those before it left, of all rows."""
    file = write_jsonl(tmp_path / "set.jsonl", [{"question": "What is the name of the tallest mountain there is?"}])
    quota = ["source=a:.25", "source=b:.25"]
    out = tmp_path / "out"
    options: dict[str, Any] = {"decontaminate": [file], "near_duplicates": 0.3, "coverage": 0.95, "quota": quota}
    summary = made.rank(out, top_k=12, **options)
    clean = np.array([place for place in made.order.tolist() if made.row[place] % 9 != 4])
    apart = np.array(defined(made.codes, clean, 76)[0])
    candidates = apart[:48]
    bits = CodeLayout.of((256,)).unpack(made.codes).astype(bool)
    picked, _ = by_formula(bits[candidates], made.scores[candidates], len(candidates), 0.95, np.ones(256), "sqrt")
    by_gain = [*candidates[picked].tolist(), *apart[48:].tolist()]
    groups = [{"a": 0, "b": 1, "c": 2}[columns(row)["source"]] for row in made.row.tolist()]
    shares = [*read_quotas(quota)["source"].values(), None]
    expected, _ = naive_quotas(by_gain, [1] * 150, [(groups, shares)], 12)
    selected = rows_of(out / "selected.jsonl")
    assert [row["id"] for row in selected] == [f"é{made.row[place]}" for place in expected]
    last = max(made.order.tolist().index(place) for place in expected)
    above = {int(made.row[place]) for place in made.order[: last + 1].tolist()}
    dropped = {row["row"]: row["constraint"] for row in rows_of(out / "dropped.jsonl")}
    assert set(dropped) == above - {int(made.row[place]) for place in expected}
    left = {"decontaminate": set(made.order.tolist()) - set(clean.tolist()), "near-duplicates": set(clean) - set(apart)}
    for name, places in left.items():
        rows = {int(made.row[place]) for place in places} & above
        assert rows and {row for row, by in dropped.items() if by == name} == rows
    assert {"coverage", "quota"} <= set(dropped.values())
    lines = {line["constraint"]: line for line in summary["constraints"]}
    assert list(lines) == ["decontaminate", "near-duplicates", "coverage", "quota"]
    assert all(line["dropped"] == list(dropped.values()).count(name) for name, line in lines.items())
    assert summary["rows_looked_at"] == last + 1


def test_codes_that_hold_no_neurons_are_refused(
    made: MadePool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nait_fast.codecs.neuron import CODEC

    monkeypatch.setattr(type(CODEC), "estimates", True)
    with pytest.raises(NaitError, match="codec neuron keeps no bits of neurons, which coverage counts"):
        made.rank(tmp_path / "out", coverage=0.5)
    assert Index(made.index).rows == 150


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_shares_out_of_range(share: float, tmp_path: Path) -> None:
    import nait_fast

    refused: list[Callable[[], Any]] = [
        lambda: nait_fast.rank(index=tmp_path / "x", signature=["x"], output=tmp_path, coverage=share),
        lambda: CoveragePicks(np.zeros((1, 16), np.uint8), share, LAYOUT),
    ]
    for act in refused:
        with pytest.raises(BadInput, match=r"--coverage .*: is a share, from 0"):
            act()
