"""The demo's data: what it must hold for the demonstration to show anything."""

import ast
import itertools
import re
from collections import Counter
from fractions import Fraction

import pytest

from nait_fast.demo import TARGETS, pool_rows, target_rows

SOURCES = {"arithmetic", "code", "translation", "summarising", "chat", "writing", "facts"}
EQUATION = re.compile(r"\d[\d.]*(?: [-+*/x×÷−] \d[\d.]*)+ = \d[\d.]*\d|\d[\d.]*(?: [-+*/x×÷−] \d[\d.]*)+ = \d")
POOL = pool_rows()
TARGET = {name: target_rows(name) for name in TARGETS}
ALL = [*POOL, *itertools.chain(*TARGET.values())]


def key(row: dict[str, str]) -> tuple[str, str, str]:
    return row["instruction"], row["input"], row["output"]


def texts(rows: list[dict[str, str]]) -> set[str]:
    return {text for row in rows for text in key(row) if text}


def exact(expression: str) -> Fraction:
    """The value of a sum such as "6 × 4", with the usual precedence."""
    python = expression.translate(str.maketrans({"x": "*", "×": "*", "÷": "/", "−": "-"}))
    python = re.sub(r"\d+(?:\.\d+)?", lambda match: f"Fraction('{match.group()}')", python)
    return eval(python, {"__builtins__": {}, "Fraction": Fraction})


def code_of(row: dict[str, str]) -> str | None:
    """The Python of an answer, in a fence or bare; None in one of another language."""
    fence = re.search(r"```(\w*)\n(.*?)\n```", row["output"], re.S)
    if fence is not None:
        return fence[2] if fence[1] == "python" else None
    start = r"def \w+\(|class \w+[(:]|import \w+$|from \w+ import|@\w"
    return row["output"] if re.match(start, row["output"], re.M) else None


def test_counts_and_keys() -> None:
    counts = Counter(row["source"] for row in POOL)
    assert counts.keys() == SOURCES and all(55 <= count <= 75 for count in counts.values()), counts
    assert [row["id"] for row in POOL] == [f"demo-{i:04d}" for i in range(422)]
    assert all(set(row) == {"instruction", "input", "output", "source", "id"} for row in POOL)
    for rows in TARGET.values():
        assert len(rows) == 32 and all(set(row) == {"instruction", "input", "output"} for row in rows)


def test_texts_are_whole_and_short() -> None:
    for row in ALL:
        assert row["instruction"] and row["output"]
        assert all(text == text.strip() for text in key(row))
        assert row.get("source", "code") == "code" or not any("{" in text for text in key(row))
    sizes = [sum(len(text) for text in key(row)) for row in ALL]
    assert max(sizes) <= 800 and sum(size > 600 for size in sizes) <= len(ALL) // 50


def test_the_labels_are_mixed() -> None:
    assert sum(a["source"] != b["source"] for a, b in itertools.pairwise(POOL)) > len(POOL) // 2


def test_no_row_is_there_twice_and_none_is_of_a_target() -> None:
    assert len({key(row) for row in POOL}) == len({row["output"] for row in POOL}) == len(POOL)
    for rows in TARGET.values():
        assert len({key(row) for row in rows}) == len(rows)
        assert not texts(POOL) & texts(rows)


@pytest.mark.parametrize(
    "row",
    [*(r for r in POOL if r["source"] == "arithmetic"), *TARGET["arithmetic"]],
    ids=lambda row: row["instruction"][:30],
)
def test_every_sum_is_right(row: dict[str, str]) -> None:
    equations = [match.group().split(" = ") for match in EQUATION.finditer(row["output"])]
    assert equations and all(exact(left) == Fraction(right) for left, right in equations)
    # The last value is also what the row gives as its answer, outside of the sums.
    rest = EQUATION.sub("", row["output"])
    assert equations[-1][1] in re.findall(r"\d+(?:\.\d+)?", rest)


def test_python_answers_do_what_they_say() -> None:
    rows = [*(row for row in POOL if row["source"] == "code"), *TARGET["code"]]
    codes = [code for row in rows if (code := code_of(row)) is not None]
    assert len(codes) > 30
    names: dict = {}
    for code in codes:
        ast.parse(code)
        if re.match(r"def \w+\(", code):
            exec(code, names)
    assert names["is_palindrome"]("Never odd or even")
    assert names["merge"]([1, 3], [2, 4, 5]) == [1, 2, 3, 4, 5]
    assert names["binary_search"]([1, 4, 9], 9) == 2 and names["binary_search"]([1, 4, 9], 5) == -1
    assert [n for n in range(20) if names["is_prime"](n)] == [2, 3, 5, 7, 11, 13, 17, 19]
    assert names["caesar"](names["caesar"]("hello xyz", 5), -5) == "hello xyz"
    assert names["balanced"]("{[()]}") and not names["balanced"]("(]")
    assert names["gcd"](12, 18) == 6
    assert names["roman_to_int"]("MCMXCIV") == 1994 and names["roman_to_int"]("VI") == 6
    assert names["common_prefix"](["flow", "flower", "fly"]) == "fl"
    assert names["rotate"]([1, 2, 3], 1) == [3, 1, 2] and names["rotate"]([1, 2, 3], 3) == [1, 2, 3]


def test_other_labels_mention_numbers_and_programming_too() -> None:
    """Keyword matching alone must not separate the targets' labels from the rest."""
    others = [" ".join(key(row)) for row in POOL if row["source"] not in TARGETS]
    assert sum(len(re.findall(r"\d+", text)) >= 2 for text in others) >= 50
    assert sum(len(re.findall(r"\d+", text)) >= 6 for text in others) >= 15
    assert sum(bool(re.search(r"\b(program|cod(e|er|ing)|software|computer|bug)", text)) for text in others) >= 15
