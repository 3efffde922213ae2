"""Python tasks of the demo's pool, written by hand."""

from __future__ import annotations

from typing import NamedTuple


class Task(NamedTuple):
    language: str
    instruction: str
    input: str
    code: str
    note: str = ""  # a sentence that follows the code


TASKS = (
    Task(
        "python",
        "Write a function that tells whether a phrase is a palindrome, ignoring case and spaces.",
        "",
        r"""
def is_palindrome(phrase):
    letters = phrase.replace(" ", "").lower()
    return letters == letters[::-1]
""",
    ),
    Task(
        "python",
        "How do I count the vowels in a string in Python?",
        "",
        r"""
def count_vowels(text):
    return sum(ch in "aeiou" for ch in text.lower())
""",
        "The generator yields True or False, and sum() treats True as 1.",
    ),
    Task(
        "python",
        "Flatten this list of lists without importing anything.",
        "rows = [[1, 2], [3], [], [4, 5]]",
        r"""
flat = [item for row in rows for item in row]
print(flat)  # [1, 2, 3, 4, 5]
""",
    ),
    Task(
        "python",
        "Remove duplicates from a list but keep the order of first appearance.",
        "",
        r"""
def unique(items):
    return list(dict.fromkeys(items))
""",
        "Dictionaries remember insertion order, so the first occurrence of each item wins.",
    ),
    Task(
        "python",
        "Show the three most frequent words of a text file called notes.txt.",
        "",
        r"""
from collections import Counter

with open("notes.txt", encoding="utf-8") as handle:
    words = handle.read().lower().split()
for word, count in Counter(words).most_common(3):
    print(word, count)
""",
    ),
    Task(
        "python",
        "Sum the column 'amount' of a CSV file.",
        "",
        r"""
import csv

def total(path):
    with open(path, newline="") as handle:
        return sum(float(row["amount"]) for row in csv.DictReader(handle))
""",
    ),
    Task(
        "python",
        "Implement merging of two sorted lists into one sorted list.",
        "",
        r"""
def merge(a, b):
    result, i, j = [], 0, 0
    while i < len(a) and j < len(b):
        if a[i] <= b[j]:
            result.append(a[i])
            i += 1
        else:
            result.append(b[j])
            j += 1
    return result + a[i:] + b[j:]
""",
    ),
    Task(
        "python",
        "I need an endless generator of Fibonacci numbers.",
        "",
        r"""
def fibonacci():
    a, b = 0, 1
    while True:
        yield a
        a, b = b, a + b
""",
        "Take the first ten with itertools.islice(fibonacci(), 10).",
    ),
    Task(
        "python",
        "Why does this list keep growing between calls? Fix it.",
        "def add(item, basket=[]):\n    basket.append(item)\n    return basket",
        r"""
def add(item, basket=None):
    if basket is None:
        basket = []
    basket.append(item)
    return basket
""",
        "A default value is created once, when the function is defined, so the old version shared one list.",
    ),
    Task(
        "python",
        "Code a binary search that returns the index of a value or -1.",
        "",
        r"""
def binary_search(values, wanted):
    low, high = 0, len(values) - 1
    while low <= high:
        mid = (low + high) // 2
        if values[mid] == wanted:
            return mid
        if values[mid] < wanted:
            low = mid + 1
        else:
            high = mid - 1
    return -1
""",
    ),
    Task(
        "python",
        "Convert a list of Fahrenheit temperatures to Celsius, to one decimal.",
        "[32, 68, 100]",
        r"""
celsius = [round((f - 32) * 5 / 9, 1) for f in [32, 68, 100]]
print(celsius)  # [0.0, 20.0, 37.8]
""",
    ),
    Task(
        "python",
        "Create a decorator that prints how long a function takes.",
        "",
        r"""
import functools
import time

def timed(func):
    @functools.wraps(func)
    def wrapper(*args, **kwargs):
        start = time.perf_counter()
        try:
            return func(*args, **kwargs)
        finally:
            print(f"{func.__name__}: {time.perf_counter() - start:.3f} s")
    return wrapper
""",
    ),
    Task(
        "python",
        "Define a dataclass for a 2D point with a method for the distance to another point.",
        "",
        r"""
from dataclasses import dataclass
from math import hypot

@dataclass
class Point:
    x: float
    y: float

    def distance(self, other):
        return hypot(self.x - other.x, self.y - other.y)
""",
    ),
    Task(
        "python",
        "Load settings from a JSON file, falling back to an empty dict if the file is missing.",
        "",
        r"""
import json

def load_settings(path):
    try:
        with open(path) as handle:
            return json.load(handle)
    except FileNotFoundError:
        return {}
""",
    ),
    Task(
        "python",
        "Extract all e-mail addresses from a string with a regular expression.",
        "",
        r"""
import re

def find_emails(text):
    return re.findall(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+", text)
""",
        "The pattern is good enough for everyday text, though not for every address the standard allows.",
    ),
    Task(
        "python",
        "Group words by their first letter.",
        "['ant', 'bee', 'bear', 'cat', 'ape']",
        r"""
from collections import defaultdict

groups = defaultdict(list)
for word in ['ant', 'bee', 'bear', 'cat', 'ape']:
    groups[word[0]].append(word)
print(dict(groups))
""",
    ),
    Task(
        "python",
        "Transpose a matrix given as nested lists in one line.",
        "",
        r"""
transposed = [list(column) for column in zip(*matrix)]
""",
    ),
    Task(
        "python",
        "Write a prime test that only tries divisors up to the square root.",
        "",
        r"""
def is_prime(n):
    if n < 2:
        return False
    divisor = 2
    while divisor * divisor <= n:
        if n % divisor == 0:
            return False
        divisor += 1
    return True
""",
    ),
    Task(
        "python",
        "Implement a Caesar cipher for lower-case letters.",
        "",
        r"""
def caesar(text, shift):
    out = []
    for ch in text:
        if "a" <= ch <= "z":
            ch = chr((ord(ch) - ord("a") + shift) % 26 + ord("a"))
        out.append(ch)
    return "".join(out)
""",
        "Calling it with a negative shift decodes the message.",
    ),
    Task(
        "python",
        "Split a list into chunks of a given size.",
        "",
        r"""
def chunks(items, size):
    return [items[i:i + size] for i in range(0, len(items), size)]
""",
    ),
    Task(
        "python",
        "Rename every .jpeg file in a folder to .jpg using pathlib.",
        "",
        r"""
from pathlib import Path

for path in Path("photos").glob("*.jpeg"):
    path.rename(path.with_suffix(".jpg"))
""",
    ),
    Task(
        "python",
        "Write a pytest test for the function below.",
        'def slugify(title):\n    return title.strip().lower().replace(" ", "-")',
        r"""
def test_slugify():
    assert slugify("  Hello World ") == "hello-world"
    assert slugify("one") == "one"
    assert slugify("") == ""
""",
    ),
    Task(
        "python",
        "Build a small stack class with push, pop and peek.",
        "",
        r"""
class Stack:
    def __init__(self):
        self._items = []

    def push(self, item):
        self._items.append(item)

    def pop(self):
        return self._items.pop()

    def peek(self):
        return self._items[-1]
""",
    ),
    Task(
        "python",
        "Retry a callable up to three times, waiting longer after each failure.",
        "",
        r"""
import time

def retry(func, tries=3, delay=1.0):
    for attempt in range(tries):
        try:
            return func()
        except Exception:
            if attempt == tries - 1:
                raise
            time.sleep(delay * 2 ** attempt)
""",
    ),
    Task(
        "python",
        "Rewrite this loop as a list comprehension.",
        "squares = []\nfor n in numbers:\n    if n % 2 == 0:\n        squares.append(n * n)",
        r"""
squares = [n * n for n in numbers if n % 2 == 0]
""",
    ),
    Task(
        "python",
        "Check whether the brackets in a string are balanced.",
        "",
        r"""
def balanced(text):
    closing = {")": "(", "]": "[", "}": "{"}
    stack = []
    for ch in text:
        if ch in closing.values():
            stack.append(ch)
        elif ch in closing:
            if not stack or stack.pop() != closing[ch]:
                return False
    return not stack
""",
    ),
    Task(
        "python",
        "Sort these products by price, then by name.",
        'products = [{"name": "mug", "price": 7}, {"name": "cup", "price": 7}, {"name": "fork", "price": 3}]',
        r"""
products.sort(key=lambda p: (p["price"], p["name"]))
""",
        "Tuples compare element by element, so equal prices fall back to the name.",
    ),
)
