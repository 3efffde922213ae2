"""Programming tasks kept for the code target; none of them is in the pool."""

from __future__ import annotations

from .code_python import Task

TASKS = (
    Task(
        "python",
        "Compute the greatest common divisor with Euclid's algorithm.",
        "",
        r"""
def gcd(a, b):
    while b:
        a, b = b, a % b
    return abs(a)
""",
    ),
    Task(
        "python",
        "Decide whether two words are anagrams of each other.",
        "",
        r"""
def are_anagrams(first, second):
    return sorted(first.lower()) == sorted(second.lower())
""",
    ),
    Task(
        "python",
        "Write a generator that yields the running average of an iterable.",
        "",
        r"""
def running_average(values):
    total = 0
    for count, value in enumerate(values, start=1):
        total += value
        yield total / count
""",
    ),
    Task(
        "python",
        "Swap the keys and values of a dictionary.",
        "capitals = {'Peru': 'Lima', 'Kenya': 'Nairobi'}",
        r"""
by_city = {city: country for country, city in capitals.items()}
""",
    ),
    Task(
        "python",
        "Find the longest common prefix of several strings.",
        "",
        r"""
def common_prefix(words):
    prefix = words[0] if words else ""
    for word in words[1:]:
        while not word.startswith(prefix):
            prefix = prefix[:-1]
    return prefix
""",
    ),
    Task(
        "python",
        "Turn a Roman numeral into an integer.",
        "",
        r"""
def roman_to_int(numeral):
    value = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    total = 0
    for here, after in zip(numeral, numeral[1:] + "I"):
        total += value[here] if value[here] >= value[after] else -value[here]
    return total
""",
    ),
    Task(
        "python",
        "Memoise a recursive function for the ways to climb n stairs by ones and twos.",
        "",
        r"""
from functools import lru_cache

@lru_cache(maxsize=None)
def ways(n):
    if n <= 1:
        return 1
    return ways(n - 1) + ways(n - 2)
""",
    ),
    Task(
        "python",
        "How many days lie between two ISO dates?",
        "2024-02-25 and 2024-03-02",
        r"""
from datetime import date

gap = date.fromisoformat("2024-03-02") - date.fromisoformat("2024-02-25")
print(gap.days)  # 6
""",
    ),
    Task(
        "python",
        "Implement a first-in, first-out queue out of two stacks.",
        "",
        r"""
class Queue:
    def __init__(self):
        self._incoming, self._outgoing = [], []

    def put(self, item):
        self._incoming.append(item)

    def get(self):
        if not self._outgoing:
            while self._incoming:
                self._outgoing.append(self._incoming.pop())
        return self._outgoing.pop()
""",
    ),
    Task(
        "python",
        "Sort a list with insertion sort, changing it in place.",
        "",
        r"""
def insertion_sort(items):
    for i in range(1, len(items)):
        current, j = items[i], i
        while j > 0 and items[j - 1] > current:
            items[j] = items[j - 1]
            j -= 1
        items[j] = current
""",
    ),
    Task(
        "python",
        "Validate a password: at least ten characters, one digit, one upper-case letter.",
        "",
        r"""
def is_strong(password):
    return (
        len(password) >= 10
        and any(ch.isdigit() for ch in password)
        and any(ch.isupper() for ch in password)
    )
""",
    ),
    Task(
        "python",
        "Set up a command-line script that takes a file name and an optional --verbose flag.",
        "",
        r"""
import argparse

parser = argparse.ArgumentParser()
parser.add_argument("file")
parser.add_argument("--verbose", action="store_true")
args = parser.parse_args()
if args.verbose:
    print(f"reading {args.file}")
""",
    ),
    Task(
        "python",
        "Total the file sizes per extension under a directory.",
        "",
        r"""
from collections import Counter
from pathlib import Path

def sizes_by_extension(root):
    sizes = Counter()
    for path in Path(root).rglob("*"):
        if path.is_file():
            sizes[path.suffix] += path.stat().st_size
    return sizes
""",
    ),
    Task(
        "python",
        "Rotate a list to the right by k places.",
        "",
        r"""
def rotate(items, k):
    if not items:
        return []
    k %= len(items)
    return items[-k:] + items[:-k]
""",
    ),
    Task(
        "python",
        "The last element is never checked here. What is wrong?",
        "def contains(values, x):\n    for i in range(len(values) - 1):\n        if values[i] == x:\n"
        "            return True\n    return False",
        r"""
def contains(values, x):
    for value in values:
        if value == x:
            return True
    return False
""",
        "range(len(values) - 1) stops one short; looping over the values avoids the index entirely.",
    ),
    Task(
        "python",
        "Run-length encode a string, so that 'aaab' becomes [('a', 3), ('b', 1)].",
        "",
        r"""
from itertools import groupby

def encode(text):
    return [(ch, len(list(run))) for ch, run in groupby(text)]
""",
    ),
    Task(
        "python",
        "Divide two numbers but return None for a zero denominator.",
        "",
        r"""
def safe_divide(a, b):
    try:
        return a / b
    except ZeroDivisionError:
        return None
""",
    ),
    Task(
        "javascript",
        "Check in JavaScript whether a year is a leap year.",
        "",
        r"""
function isLeapYear(year) {
  return (year % 4 === 0 && year % 100 !== 0) || year % 400 === 0;
}
""",
    ),
    Task(
        "javascript",
        "Shuffle an array fairly.",
        "Fisher-Yates in JavaScript",
        r"""
function shuffle(array) {
  for (let i = array.length - 1; i > 0; i--) {
    const j = Math.floor(Math.random() * (i + 1));
    [array[i], array[j]] = [array[j], array[i]];
  }
  return array;
}
""",
    ),
    Task(
        "javascript",
        "Read the query parameter 'page' from the current address, defaulting to 1.",
        "",
        r"""
const params = new URLSearchParams(window.location.search);
const page = Number(params.get("page") ?? 1);
""",
    ),
    Task(
        "javascript",
        "Count how often each character occurs in a string.",
        "",
        r"""
function countCharacters(text) {
  const counts = new Map();
  for (const ch of text) {
    counts.set(ch, (counts.get(ch) ?? 0) + 1);
  }
  return counts;
}
""",
    ),
    Task(
        "javascript",
        "Pick the oldest user from an array of {name, age} objects.",
        "",
        r"""
const oldest = users.reduce((best, user) => (user.age > best.age ? user : best));
""",
        "The array must have at least one user, since reduce gets no starting value.",
    ),
    Task(
        "javascript",
        "Load three files in parallel and wait for all of them.",
        "",
        r"""
async function loadAll(urls) {
  const responses = await Promise.all(urls.map((url) => fetch(url)));
  return Promise.all(responses.map((response) => response.text()));
}
""",
    ),
    Task(
        "sql",
        "Which employees earn more than their manager?",
        "staff(id, name, pay, manager_id)",
        r"""
SELECT e.name
FROM staff AS e
JOIN staff AS m ON m.id = e.manager_id
WHERE e.pay > m.pay;
""",
    ),
    Task(
        "sql",
        "Select products whose price is above the average price.",
        "",
        r"""
SELECT name, price
FROM products
WHERE price > (SELECT AVG(price) FROM products)
ORDER BY price DESC;
""",
    ),
    Task(
        "sql",
        "Add a running total of payments per account, ordered by date.",
        "",
        r"""
SELECT account_id, paid_on, amount,
       SUM(amount) OVER (PARTITION BY account_id ORDER BY paid_on) AS running_total
FROM payments;
""",
    ),
    Task(
        "sql",
        "Count open and closed tickets in one row with CASE.",
        "",
        r"""
SELECT SUM(CASE WHEN status = 'open' THEN 1 ELSE 0 END) AS open_tickets,
       SUM(CASE WHEN status = 'closed' THEN 1 ELSE 0 END) AS closed_tickets
FROM tickets;
""",
    ),
    Task(
        "sql",
        "Add a nullable phone column to the table contacts.",
        "",
        r"""
ALTER TABLE contacts ADD COLUMN phone TEXT;
""",
    ),
    Task(
        "sql",
        "Films released in the nineties whose title starts with 'The', newest first.",
        "",
        r"""
SELECT title, released
FROM movies
WHERE released BETWEEN 1990 AND 1999
  AND title LIKE 'The %'
ORDER BY released DESC;
""",
    ),
    Task(
        "bash",
        "Create a logs directory unless it is already there, then enter it.",
        "",
        r"""
mkdir -p logs && cd logs
""",
    ),
    Task(
        "bash",
        "Compress log files in /var/log/app that are older than a week.",
        "",
        r"""
find /var/log/app -name '*.log' -mtime +7 -exec gzip {} +
""",
    ),
    Task(
        "bash",
        "Sum the second column of data.csv, skipping the header line.",
        "",
        r"""
awk -F, 'NR > 1 { sum += $2 } END { print sum }' data.csv
""",
    ),
    Task(
        "bash",
        "Show which file extensions occur in this folder, each once.",
        "",
        r"""
for f in *.*; do echo "${f##*.}"; done | sort -u
""",
    ),
    Task(
        "c",
        "Write your own strlen in C.",
        "",
        r"""
size_t my_strlen(const char *s) {
    const char *p = s;
    while (*p != '\0')
        p++;
    return (size_t)(p - s);
}
""",
    ),
    Task(
        "java",
        "Reverse a string in Java without a loop.",
        "",
        r"""
static String reverse(String text) {
    return new StringBuilder(text).reverse().toString();
}
""",
    ),
    Task(
        "rust",
        "Sum the even numbers of a slice in Rust.",
        "",
        r"""
fn sum_even(values: &[i32]) -> i32 {
    values.iter().filter(|v| *v % 2 == 0).sum()
}
""",
    ),
    Task(
        "go",
        "Count words with a map in Go.",
        "",
        r"""
func countWords(text string) map[string]int {
	counts := make(map[string]int)
	for _, word := range strings.Fields(text) {
		counts[word]++
	}
	return counts
}
""",
    ),
)
