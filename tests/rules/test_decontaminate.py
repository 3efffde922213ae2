"""Rows that share words with an evaluation set, against the definition; edits of real samples that are found."""

import gzip
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.constraints import EDITS, edited
from nait_fast.errors import NaitError
from nait_fast.notices import NaitWarning
from nait_fast.rules.best_first import Budget
from nait_fast.rules.constraints import word_grams
from nait_fast.rules.constraints.decontaminate import Decontamination, read_samples, texts_of_sample
from nait_fast.rules.constraints.selecting import select_rows
from nait_fast.rules.constraints.word_grams import WordGrams, words_of
from nait_fast.storage.files import sha256_file
from tests.conftest import write_jsonl
from tests.rules.made import make_pool, rows_of
from tests.rules.orders import Chunked
from tests.rules.test_near_duplicates import families

DEMO = Path(__file__).parents[2] / "nait_fast" / "demo" / "pool.jsonl"


def runs_of(words: list[str], n: int) -> list[str]:
    return [" ".join(words[start : start + n]) for start in range(len(words) - n + 1)]


def naive(samples: list[list[str]], rows: list[list[str]], n: int) -> dict[int, tuple[int, str]]:
    """Row -> (the first sample that shares a run, the row's first such run)."""
    sought: list[tuple[int, list[str]]] = []
    for texts in samples:
        long = [words for text in texts if len(words := text.split()) >= n]
        if long:
            sought.append((n, [run for words in long for run in runs_of(words, n)]))
        else:
            longest = max((text.split() for text in texts), key=len, default=[])
            sought.append((len(longest), [" ".join(longest)] if len(longest) >= min(n, 5) else []))
    out = {}
    for number, texts in enumerate(rows):
        best = None
        for text_number, text in enumerate(texts):
            words = text.split()
            for sample, (size, runs) in enumerate(sought):
                for start, run in enumerate(runs_of(words, size) if runs else []):
                    if run in runs and (best is None or (text_number, start) < best[0]):
                        best = (text_number, start), sample, run
        if best is not None:
            out[number] = best[1:]
    return out


texts_in_ab = st.lists(st.lists(st.sampled_from("abc"), max_size=12).map(" ".join), max_size=3)


@settings(max_examples=100, deadline=None)
@given(st.lists(texts_in_ab, max_size=4), st.lists(texts_in_ab, max_size=6), st.integers(3, 7), st.integers(1, 30))
def test_as_defined(samples: list[list[str]], rows: list[list[str]], n: int, batch: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_grams, "_BATCH_WORDS", batch)
        found = {shared.row: (shared.sample, shared.words) for shared in WordGrams(samples, n).find(rows)}
    expected = naive(samples, rows, n)
    assert found.keys() == expected.keys()
    for row, (sample, words) in found.items():  # runs of two lengths may begin at one place
        assert words in " ".join(words_of("\n".join(rows[row]))) and words in " ".join(samples[sample])
        assert words.startswith(expected[row][1]) or expected[row][1].startswith(words)


def test_a_run_is_of_one_text() -> None:
    grams = WordGrams([["a b c d e f g"]], 6)
    assert not list(grams.find([["a b c", "d e f g"], ["x"], [], ["g f e d c b a"]]))
    assert [(s.row, s.words) for s in grams.find([["x"], ["y", "z b c d e f g"]])] == [(1, "b c d e f g")]


def test_words_are_letters_and_digits() -> None:
    assert words_of("Don’t  STOP, it's 3.5%\n_here_!") == ["dont", "stop", "its", "3", "5", "here"]
    assert words_of("Ｆｕｌｌ ﬁne naïve Ünï") == ["full", "fine", "naïve", "ünï"]
    assert words_of("模型3个 GPT、かな 한국") == [*"模型", "3", "个", "gpt", *"かな", "한국"]


def test_short_samples_are_sought_whole_and_shortest_not_at_all() -> None:
    grams = WordGrams(
        [["what is the capital of france", "paris"], ["yes of course"], [], ["one two three four five"]], 13
    )
    assert grams.sought.tolist() == [True, False, False, True]
    rows = [
        "Tell me: what is the capital of France?",
        "the capital of france",
        "yes of course",
        "one two three four six",
    ]
    assert [(s.row, s.sample) for s in grams.find([[row] for row in rows])] == [(0, 0)]


def test_equal_hashes_are_no_equal_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_grams, "_FACTOR", np.uint64(0))  # all runs have one hash
    grams = WordGrams([["a b c", "c b a"]], 3)
    assert [s.row for s in grams.find([["c a b"], ["a b c"], ["b c a"]])] == [1]


def test_edits_of_real_samples_are_found() -> None:
    rows = [json.loads(line) for line in DEMO.read_text().splitlines()]
    draw, samples = random.Random(0), rows[::4]
    kept = [[row["instruction"] + "\n" + row["input"], row["output"]] for row in rows if row not in samples]
    planted, kinds = [], []
    for sample in samples:
        texts = [sample["instruction"] + "\n" + sample["input"], sample["output"]]
        planted.append(["Please. " + texts[0], "Sure: " + texts[1]])
        kinds.append("verbatim")
        for kind in EDITS:  # one in each 20 words, of both texts
            made = list(texts)
            for number in range(2):
                for _ in range(max(1, len(texts[number].split()) // 20)):
                    made[number] = edited(made[number], kind, draw)
            planted.append(made)
            kinds.append(kind)
    grams = WordGrams([texts_of_sample(sample) for sample in samples], 13)
    found = {shared.row for shared in grams.find(planted)}
    share = {
        kind: np.mean([number in found for number, other in enumerate(kinds) if other == kind]) for kind in set(kinds)
    }
    assert grams.sought.all()
    assert share.pop("verbatim") == share.pop("case") == share.pop("whitespace") == 1
    assert min(share.values()) >= 0.9, share
    false = {shared.row for shared in grams.find(kept)}
    assert len(false) < 0.05 * len(kept)  # templates of the demo's own rows


def test_no_more_of_the_pool_is_read_than_is_offered() -> None:
    asked: list[int] = []

    def texts(places: np.ndarray) -> list[list[str]]:
        assert (np.diff(places) > 0).all()
        asked.extend(places.tolist())
        return [["w1 w2 w3 w4 w5" if place % 5 == 0 else f"other words {place}"] for place in places.tolist()]

    order = np.random.default_rng(0).permutation(1000)
    clean = Decontamination([("set", 7, ["w1 w2 w3 w4 w5 w6"])], texts, 4)
    chosen = select_rows(Chunked(order), Budget(rows=20), [clean])
    assert chosen.places.tolist() == [place for place in order.tolist() if place % 5][:20]
    assert len(asked) < 60 and len(set(asked)) == len(asked)
    assert chosen.dropped
    for dropped in chosen.dropped:
        assert all(place % 5 == 0 for place in dropped.places.tolist())
        assert set(dropped.details["words"]) == {"w1 w2 w3 w4"} and set(dropped.details["sample"]) == {7}


QUESTION = "How many golden apples does the old farmer sell at the market on the third day of May?"
SETS: list[dict[str, Any]] = [
    {"question": QUESTION, "answer": "#### 7"},
    {"question": QUESTION, "choices": ["a", "b"], "answer": 3, "subject": "farming"},
    {"id": "x" * 40, "problem": QUESTION},
    {"messages": [{"role": "system", "content": "be " * 40}, {"role": "user", "content": QUESTION}]},
    {"text": QUESTION},
]


@pytest.mark.parametrize("sample", SETS, ids=[next(iter(row)) + str(n) for n, row in enumerate(SETS)])
def test_samples_of_any_keys(sample: dict[str, Any]) -> None:
    texts = texts_of_sample(sample)
    assert QUESTION in texts and not any("be be" in text or "xxx" in text or text == "farming" for text in texts)


@pytest.mark.filterwarnings("ignore::nait_fast.notices.NaitWarning")
def test_in_a_selection(tmp_path: Path) -> None:
    def columns(row: int) -> dict[str, Any]:
        held = QUESTION.upper().replace(" ", "  ") if row % 4 == 0 else "nothing"
        return {"instruction": f"{row}: {held}", "output": "w " * 15 if row == 10 else "fine"}

    made = make_pool(tmp_path / "made", families(60, 32, 100, seed=1), 2, columns)
    sets = tmp_path / "sets"
    sets.mkdir()
    write_jsonl(sets / "a.jsonl", [{"question": "so short", "answer": "b"}, SETS[1]])
    with gzip.open(sets / "b.jsonl.gz", "wt") as file:
        file.write(json.dumps({"prompt": "w " * 20, "completion": "x"}) + "\n")
    files = [sets / "a.jsonl", sets / "b.jsonl.gz"]
    with pytest.warns(NaitWarning) as said_of:
        summary = made.rank(tmp_path / "out", fraction=1.0, decontaminate=files)
    assert "--decontaminate: 1 of 3 samples have no text of 5 words: not sought" in [
        str(warning.message) for warning in said_of
    ]
    gone = [row for row in made.row.tolist() if row % 4 == 0 or row == 10]
    dropped = rows_of(tmp_path / "out" / "dropped.jsonl")
    assert [row["row"] for row in dropped] == gone
    run = "how many golden apples does the old farmer sell at the market on"
    for row in dropped:
        by_b = row["row"] == 10
        assert row["evaluation"] == str(files[by_b]) and row["sample"] == (0 if by_b else 1)
        assert row["words"] == (" ".join(["w"] * 13) if by_b else run) and row["constraint"] == "decontaminate"
    said = {"constraint": "decontaminate", "dropped": len(gone), "ngram": 13, "samples": 3, "sought": 2}
    said["sha256"] = {str(file): sha256_file(file) for file in files}
    assert summary["constraints"] == [said] and summary["rows_selected"] == 60 - len(gone)
    more = made.rank(tmp_path / "more", fraction=1.0, decontaminate=files, decontaminate_ngram=30)
    assert more["constraints"][0]["dropped"] == len(gone) - (10 in gone)  # of 20 words: sought as a whole
    assert rows_of(tmp_path / "more" / "dropped.jsonl")[0]["words"] == " ".join(words_of(QUESTION))


def test_near_duplicates_of_what_is_gone_stay(tmp_path: Path) -> None:
    codes = np.zeros((8, 32), dtype=np.uint8)
    codes[4:] = 255
    plain = make_pool(tmp_path / "plain", codes, 2)
    first = int(plain.row[plain.order[0]])  # of four with its code
    made = make_pool(tmp_path / "made", codes, 2, lambda row: {"instruction": QUESTION if row == first else "nothing"})
    file = write_jsonl(tmp_path / "set.jsonl", [SETS[0]])
    summary = made.rank(tmp_path / "out", top_k=2, decontaminate=[file], near_duplicates=0.1)
    assert [line["dropped"] for line in summary["constraints"]] == [1, 2]
    assert rows_of(tmp_path / "out" / "selected.jsonl")[0]["id"] == f"é{made.row[made.order[1]]}"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be opened|no such"),
        ("", "holds no rows"),
        ("{]\n", "set.jsonl:1: not JSON"),
        ('{"id": "a", "n": 3}\n', "no row of it has a text"),
        ('{"input_ids": [1, 2]}\n', "no row of it has a text"),
    ],
)
def test_files_that_are_no_evaluation_sets(tmp_path: Path, content: str | None, words: str) -> None:
    file = tmp_path / "set.jsonl"
    if content is not None:
        file.write_text(content)
    import nait_fast

    with pytest.raises(NaitError, match=words) as error:  # before anything else is read
        nait_fast.rank(index=tmp_path / "none", signature=["x"], output=tmp_path / "out", decontaminate=[file])
    assert "--decontaminate" in str(error.value)


def test_an_evaluation_set_is_not_written_over(tmp_path: Path) -> None:
    made = make_pool(tmp_path / "made", families(20, 32, 100, seed=1))
    out = tmp_path / "out"
    made.rank(out, top_k=3)
    with pytest.raises(NaitError, match="would be written over, but --decontaminate"):
        made.rank(out, top_k=3, decontaminate=[out / "selected.jsonl"])
    assert read_samples(str(out / "selected.jsonl"))[2][1] == 2
