import ast
import itertools
import random
import re
from collections import Counter
from fractions import Fraction

import pytest

from nait_fast.demo import (
    arithmetic,
    arithmetic_more,
    arithmetic_pool,
    arithmetic_target,
    code_other,
    code_python,
    code_target,
)
from nait_fast.demo.material import parse
from nait_fast.demo.pool import SOURCES, make_pool, make_target
from nait_fast.errors import NaitError

POOL_STORIES = arithmetic_pool.STORIES + arithmetic_more.STORIES
EQUATION = re.compile(r"\d[\d.]*(?: [-+*/x×÷−] \d[\d.]*)+ = \d[\d.]*\d|\d[\d.]*(?: [-+*/x×÷−] \d[\d.]*)+ = \d")


def key(row):
    return row["instruction"], row["input"], row["output"]


def texts(rows):
    return {row[field] for row in rows for field in ("instruction", "input", "output") if row[field]}


def exact(expression):
    """The value of a sum such as "6 × 4", computed apart from the generator and with the usual precedence."""
    python = expression.translate(str.maketrans({"x": "*", "×": "*", "÷": "/", "−": "-"}))
    python = re.sub(r"\d+(?:\.\d+)?", lambda match: f"Fraction('{match.group()}')", python)
    return eval(python, {"__builtins__": {}, "Fraction": Fraction})


def equations(text):
    return [match.group().split(" = ") for match in EQUATION.finditer(text)]


def test_the_same_seed_gives_the_same_rows():
    assert make_pool() == make_pool(0)
    assert make_pool(3) == make_pool(3)
    assert make_pool(3) != make_pool(4)
    for name in ("arithmetic", "code"):
        assert make_target(name) == make_target(name, 32, 1)
        assert make_target(name, seed=2) != make_target(name, seed=3)


def test_nothing_depends_on_or_changes_the_global_random_state():
    random.seed(5)
    state = random.getstate()
    first = make_pool()
    assert random.getstate() == state
    random.seed(6)
    assert make_pool() == first


def test_counts_per_label():
    pool = make_pool()
    counts = Counter(row["source"] for row in pool)
    assert set(counts) == set(SOURCES)
    assert all(55 <= count <= 75 for count in counts.values()), counts
    assert 380 <= len(pool) <= 430


def test_row_shape():
    pool = make_pool()
    assert [row["id"] for row in pool] == [f"demo-{i:04d}" for i in range(len(pool))]
    for row in pool:
        assert set(row) == {"instruction", "input", "output", "source", "id"}
    for name in ("arithmetic", "code"):
        rows = make_target(name)
        assert len(rows) == 32
        assert all(set(row) == {"instruction", "input", "output"} for row in rows)
    for row in pool + make_target("arithmetic") + make_target("code"):
        assert row["instruction"] and row["output"]
        for field in ("instruction", "input", "output"):
            assert row[field] == row[field].strip()
            assert "{" not in row[field] or row.get("source", "code") == "code"


def test_rows_are_short():
    rows = make_pool() + make_target("arithmetic") + make_target("code")
    sizes = [sum(len(text) for text in key(row)) for row in rows]
    assert sum(size > 600 for size in sizes) <= len(rows) // 50
    assert max(sizes) <= 800


def test_the_labels_are_mixed():
    sources = [row["source"] for row in make_pool()]
    changes = sum(a != b for a, b in itertools.pairwise(sources))
    assert changes > len(sources) // 2


@pytest.mark.parametrize("seed", range(5))
def test_rows_are_unique_and_not_in_the_targets(seed):
    pool = make_pool(seed)
    assert len({key(row) for row in pool}) == len(pool)
    assert len({row["output"] for row in pool}) == len(pool)
    pool_texts = texts(pool)
    for name in ("arithmetic", "code"):
        rows = make_target(name, seed=seed + 1)
        assert len({key(row) for row in rows}) == len(rows)
        assert not pool_texts & texts(rows)


def test_stories_and_tasks_are_not_shared_with_the_targets():
    assert len(POOL_STORIES) >= 20 and len(arithmetic_target.STORIES) >= 10
    names = [story.__name__ for story in POOL_STORIES + arithmetic_target.STORIES]
    assert len(set(names)) == len(names)
    pool_tasks = code_python.TASKS + code_other.TASKS
    assert len(pool_tasks) >= 55 and len(code_target.TASKS) >= 32
    instructions = [task.instruction for task in pool_tasks + code_target.TASKS]
    codes = [task.code for task in pool_tasks + code_target.TASKS]
    assert len(set(instructions)) == len(instructions)
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "stories, styles",
    [
        (POOL_STORIES, arithmetic.POOL_STYLES),
        (arithmetic_target.STORIES, arithmetic.TARGET_STYLES),
    ],
)
def test_solutions_state_the_problem_s_own_answer(seed, stories, styles):
    rng = random.Random(seed)
    for story in stories:
        problem = story(rng)
        assert len(problem.steps) >= 2
        assert all(step.value > 0 for step in problem.steps), problem
        counted = problem.form.split()[-1] not in ("km", "hours", "${}", "kg")
        assert not counted or (problem.answer.denominator == 1 and problem.answer > 1), problem
        for style in styles:
            solution = style(problem)
            found = equations(solution)
            assert len(found) == len(problem.steps)
            assert all(exact(left) == Fraction(right) for left, right in found), solution
            assert Fraction(found[-1][1]) == problem.answer
            assert problem.answer_text in solution


def test_every_sum_in_the_rows_is_right():
    rows = [row for row in make_pool() if row["source"] == "arithmetic"] + make_target("arithmetic", 64)
    for row in rows:
        found = equations(row["output"])
        assert found, row
        for left, right in found:
            assert exact(left) == Fraction(right), row
        # the last value is also what the row gives as its answer, outside of the sums
        rest = EQUATION.sub("", row["output"])
        assert found[-1][1] in re.findall(r"\d+(?:\.\d+)?", rest), row


def test_numbers_of_a_solution_come_from_the_question_or_from_earlier_steps():
    allowed_constants = {"1", "2", "3", "4", "12", "60", "100", "1000", "0.25", "0.10", "0.05"}
    stories = POOL_STORIES + arithmetic_target.STORIES
    for story, seed in itertools.product(stories, range(20)):
        problem = story(random.Random(seed))
        known = {Fraction(text) for text in re.findall(r"\d+(?:\.\d+)?", problem.question)}
        known |= {Fraction(text) for text in allowed_constants}
        for step in problem.steps:
            for text in re.findall(r"\d+(?:\.\d+)?", step.sum):
                assert Fraction(text) in known, (story.__name__, problem)
            known.add(step.value)


def test_python_answers_parse():
    tasks = [t for t in code_python.TASKS + code_other.TASKS + code_target.TASKS if t.language == "python"]
    assert len(tasks) > 30
    for task in tasks:
        ast.parse(task.code)
    rows = [row for row in make_pool() if row["source"] == "code"] + make_target("code")
    fenced = [match.group(1) for row in rows for match in re.finditer(r"```python\n(.*?)\n```", row["output"], re.S)]
    assert fenced
    for code in fenced:
        ast.parse(code)


def test_small_python_answers_do_what_they_say():
    names: dict = {}
    for task in code_python.TASKS + code_target.TASKS:
        if task.language == "python" and re.match(r"\s*def \w+\(", task.code):
            exec(task.code, names)
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


def test_other_labels_mention_numbers_and_programming_too():
    """Keyword matching alone must not separate the targets' labels from the rest."""
    others = [" ".join(key(row)) for row in make_pool() if row["source"] not in ("arithmetic", "code")]
    assert sum(len(re.findall(r"\d+", text)) >= 2 for text in others) >= 50
    assert sum(len(re.findall(r"\d+", text)) >= 6 for text in others) >= 15
    assert sum(bool(re.search(r"\b(program|cod(e|er|ing)|software|computer|bug)", text)) for text in others) >= 15


@pytest.mark.parametrize("name, n", [("poetry", 3), ("code", 0), ("code", 1000), ("arithmetic", 0)])
def test_an_impossible_target_is_refused_in_one_line(name, n):
    with pytest.raises(NaitError) as caught:
        make_target(name, n)
    assert "\n" not in str(caught.value)


def test_parse_joins_long_lines_and_keeps_verses():
    (record,) = parse("Q: Write\ntwo lines.\nI: about tea\nA: one\n| two\n")
    assert record == ("Write two lines.", "about tea", "one\ntwo")
