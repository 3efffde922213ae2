"""What a text gives as its answer: the number it ends in, the letter it chooses, all of it."""

import pytest

from nait_fast.validation.answers import choice, correct, exact, number


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("B, as I said.", "B"),
        ("I think it is B. I am sure.", "B"),
        ("B. I'm sure", "B"),
        ("(B) because I said so", "B"),
        ("The answer is (C).", "C"),
        ("The answer is (C). Mind that (D) is near.", "C"),
        ("The answer is\n\n(E)", "E"),
        ("First I thought the answer is A. But no: the answer is B.", "B"),
        ("The correct answer is option (D) because A is wrong.", "D"),
        ("So the answer is B.", "B"),
        ("The answer is a dog, which is (B)", "B"),
        ("A dog would be (B)", "B"),
        ("Option A is right", "A"),
        ("A is taller than B. B is taller than C: C", "C"),
        ("A", "A"),
        ("A.", "A"),
        ("**B**", "B"),
        ("_B_", "B"),
        ("The answer is 'B'.", "B"),
        ("I'd say ’D’ then", "D"),
        (r"so $\boxed{B}$", "B"),
        ("Answer: C", "C"),
        ("A. Something\nI guess", "A"),
        ("B) 5 and not A) 4", "B"),
        ("Not (A) but (B)", "B"),
        ("I", "I"),
        ("I am sure of nothing", None),
        ("A dog", None),
        ("b", None),
        ("Tokyo", None),
        ("", None),
    ],
)
def test_the_letter(text: str, wanted: str | None) -> None:
    assert choice(text) == wanted


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("2 + 3 = 5", "5"),
        ("So he has 5.", "5"),
        ("4 - 2 is 2.\n#### 1,234", "1234"),
        ("#### $18", "18"),
        ("#### 18 of 20", "18"),
        ("$1,050.50 in all", "1050.5"),
        ("72.00", "72"),
        ("0.50", "0.5"),
        (".5", "0.5"),
        ("007", "7"),
        ("-0.0", "0"),
        ("x = -5", "-5"),
        ("−5", "-5"),
        ("-$5", "-5"),
        ("between 3-5", "5"),
        ("(2)-1", "1"),
        ("100", "100"),
        (r"so $\boxed{12}$.", "12"),
        ("none", None),
    ],
)
def test_the_number(text: str, wanted: str | None) -> None:
    assert number(text) == wanted


def test_all_of_it() -> None:
    assert exact("The  Eiffel-Tower, in Paris!") == exact("eiffel tower in paris") == "eiffel tower in paris"


def test_right_is_what_says_the_same() -> None:
    assert correct("number", "It is 12.0", "3 * 4 = 12\n#### 12") and not correct("number", "120", "#### 12")
    assert correct("choice", "It is (B)", "(B)") and not correct("choice", "no idea", "(B)")
    assert not correct("choice", "no idea", "no idea")  # a reference without an answer makes nothing right
