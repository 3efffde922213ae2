"""Counts by name keep their size, whatever the names are."""

from nait_fast.data.unread import counted, warn_unread
from nait_fast.notices import recorded
from nait_fast.storage.tally import MOST_NAMES, OTHERS, capped


def test_the_most_frequent_names_stay() -> None:
    assert capped({}) == {} and list(capped({"b": 1, "a": 2})) == ["a", "b"]
    counts = {f"k{i:03d}": 1 + i % 2 for i in range(2 * MOST_NAMES)}
    kept = capped(counts)
    assert len(kept) == MOST_NAMES + 1 and kept[OTHERS] == MOST_NAMES
    assert all(kept[name] == 2 for name in kept.keys() - {OTHERS})
    assert sum(kept.values()) == sum(counts.values())
    assert capped(kept) == kept and capped({**kept, "new": 9})[OTHERS] == MOST_NAMES + 2


def test_names_that_are_none() -> None:
    rows = [("x" * 1000,), ("a\x1b[31m\ud83d",), ()]
    assert counted(rows) == {"x" * 59 + "…": 1, "a\ufffd[31m\ufffd": 1}
    with recorded() as told:
        warn_unread("pool", counted((f"k{i}",) for i in range(300)), {}, ())
    (line,) = told
    assert line.startswith("pool: text under 200 keys or more is not read, mostly 'k0', 'k1',")
