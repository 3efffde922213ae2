"""JavaScript, SQL, shell and further tasks of the demo's pool, written by hand."""

from __future__ import annotations

from .code_python import Task

TASKS = (
    Task(
        "javascript",
        "Write a debounce helper in JavaScript.",
        "",
        r"""
function debounce(fn, wait) {
  let timer;
  return (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => fn(...args), wait);
  };
}
""",
    ),
    Task(
        "javascript",
        "Add up the prices in a shopping cart array with reduce.",
        "const cart = [{item: 'pen', price: 2}, {item: 'book', price: 11}];",
        r"""
const total = cart.reduce((sum, entry) => sum + entry.price, 0);
console.log(total); // 13
""",
    ),
    Task(
        "javascript",
        "Fetch JSON from a URL with async/await and report HTTP errors.",
        "",
        r"""
async function getJson(url) {
  const response = await fetch(url);
  if (!response.ok) {
    throw new Error(`HTTP ${response.status}`);
  }
  return response.json();
}
""",
    ),
    Task(
        "javascript",
        "Toggle the class 'open' on a menu whenever its button is clicked.",
        "",
        r"""
const menu = document.querySelector("#menu");
document.querySelector("#menu-button").addEventListener("click", () => {
  menu.classList.toggle("open");
});
""",
    ),
    Task(
        "javascript",
        "Format 1234.5 as euros the German way.",
        "",
        r"""
const euro = new Intl.NumberFormat("de-DE", { style: "currency", currency: "EUR" });
console.log(euro.format(1234.5));
""",
        "It prints 1.234,50 €.",
    ),
    Task(
        "javascript",
        "Capitalise the first letter of every word in a sentence.",
        "JavaScript, please.",
        r"""
const titleCase = (text) =>
  text.split(" ").map((w) => w.charAt(0).toUpperCase() + w.slice(1)).join(" ");
""",
    ),
    Task(
        "javascript",
        "Make a sleep function that returns a promise.",
        "",
        r"""
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
""",
        "Use it inside an async function: await sleep(500);",
    ),
    Task(
        "javascript",
        "This prints 3 three times instead of 0, 1, 2. Repair it.",
        "for (var i = 0; i < 3; i++) {\n  setTimeout(() => console.log(i), 10);\n}",
        r"""
for (let i = 0; i < 3; i++) {
  setTimeout(() => console.log(i), 10);
}
""",
        "With let every turn of the loop has its own i; var shares a single one.",
    ),
    Task(
        "javascript",
        "Group an array of people by city.",
        "",
        r"""
function groupByCity(people) {
  const groups = {};
  for (const person of people) {
    (groups[person.city] ??= []).push(person);
  }
  return groups;
}
""",
    ),
    Task(
        "javascript",
        "Get the distinct tags from a list of posts, sorted alphabetically.",
        "",
        r"""
const tags = [...new Set(posts.flatMap((post) => post.tags))].sort();
""",
    ),
    Task(
        "javascript",
        "Generate a random hex colour such as #3fa2c8.",
        "",
        r"""
function randomColour() {
  const value = Math.floor(Math.random() * 0x1000000);
  return "#" + value.toString(16).padStart(6, "0");
}
""",
    ),
    Task(
        "sql",
        "Find the second highest salary in the table employees.",
        "",
        r"""
SELECT MAX(salary) AS second_highest
FROM employees
WHERE salary < (SELECT MAX(salary) FROM employees);
""",
    ),
    Task(
        "sql",
        "List customers who have never placed an order.",
        "customers(id, name), orders(id, customer_id)",
        r"""
SELECT c.name
FROM customers AS c
LEFT JOIN orders AS o ON o.customer_id = c.id
WHERE o.id IS NULL;
""",
    ),
    Task(
        "sql",
        "Which customers ordered more than five times? Write the query.",
        "",
        r"""
SELECT customer_id, COUNT(*) AS order_count
FROM orders
GROUP BY customer_id
HAVING COUNT(*) > 5;
""",
        "HAVING filters after grouping, whereas WHERE would filter single rows.",
    ),
    Task(
        "sql",
        "Create a table for books with a title, an author, a year and a unique ISBN.",
        "",
        r"""
CREATE TABLE books (
  id INTEGER PRIMARY KEY,
  title TEXT NOT NULL,
  author TEXT NOT NULL,
  year INTEGER,
  isbn TEXT UNIQUE
);
""",
    ),
    Task(
        "sql",
        "Give everyone in the sales department a 5% raise.",
        "",
        r"""
UPDATE employees
SET salary = salary * 1.05
WHERE department = 'sales';
""",
    ),
    Task(
        "sql",
        "Delete sessions that expired before the current time.",
        "",
        r"""
DELETE FROM sessions
WHERE expires_at < CURRENT_TIMESTAMP;
""",
    ),
    Task(
        "sql",
        "Show e-mail addresses that occur more than once in users.",
        "",
        r"""
SELECT email, COUNT(*) AS times
FROM users
GROUP BY email
HAVING COUNT(*) > 1;
""",
    ),
    Task(
        "sql",
        "Speed up lookups of orders by customer and date.",
        "",
        r"""
CREATE INDEX idx_orders_customer_date
ON orders (customer_id, ordered_at);
""",
        "The column order matters: queries that filter only by date cannot make good use of it.",
    ),
    Task(
        "sql",
        "Rank players by score within each team using a window function.",
        "",
        r"""
SELECT team, player, score,
       RANK() OVER (PARTITION BY team ORDER BY score DESC) AS place
FROM results;
""",
    ),
    Task(
        "sql",
        "Insert a setting, or update its value if the key already exists (SQLite).",
        "",
        r"""
INSERT INTO settings (key, value)
VALUES ('theme', 'dark')
ON CONFLICT (key) DO UPDATE SET value = excluded.value;
""",
    ),
    Task(
        "sql",
        "Average film rating per genre, best genre first.",
        "films(id, genre), ratings(film_id, stars)",
        r"""
SELECT f.genre, AVG(r.stars) AS average
FROM films AS f
JOIN ratings AS r ON r.film_id = f.id
GROUP BY f.genre
ORDER BY average DESC;
""",
    ),
    Task(
        "bash",
        "Count the lines of all Python files below the current folder.",
        "",
        r"""
find . -name '*.py' -print0 | xargs -0 cat | wc -l
""",
    ),
    Task(
        "bash",
        "Show me the ten biggest files in my home directory.",
        "",
        r"""
find ~ -type f -printf '%s %p\n' | sort -nr | head -n 10
""",
        "The -printf option belongs to GNU find, so this is for Linux.",
    ),
    Task(
        "bash",
        "Write a loop that renames all files here to lower case.",
        "",
        r"""
for file in *; do
  lower=$(printf '%s' "$file" | tr '[:upper:]' '[:lower:]')
  [ "$file" = "$lower" ] || mv -n -- "$file" "$lower"
done
""",
    ),
    Task(
        "bash",
        "Script a backup of ~/documents into a tar archive named after today's date.",
        "",
        r"""
#!/usr/bin/env bash
set -euo pipefail
tar -czf "documents-$(date +%F).tar.gz" -C "$HOME" documents
""",
    ),
    Task(
        "bash",
        "Stop a shell script with a usage message unless exactly one argument is given.",
        "",
        r"""
if [ "$#" -ne 1 ]; then
  echo "usage: $0 FILE" >&2
  exit 2
fi
""",
    ),
    Task(
        "bash",
        "Number of lines containing ERROR in server.log, ignoring case?",
        "",
        r"""
grep -ic 'error' server.log
""",
    ),
    Task(
        "bash",
        "Read hosts.txt line by line and print each name with a greeting.",
        "",
        r"""
while IFS= read -r host; do
  echo "Hello, $host"
done < hosts.txt
""",
    ),
    Task(
        "bash",
        "Replace 'colour' by 'color' in every .txt file of this folder, in place.",
        "",
        r"""
sed -i 's/colour/color/g' -- *.txt
""",
    ),
    Task(
        "bash",
        "Print the five IP addresses that appear most often in access.log.",
        "",
        r"""
awk '{print $1}' access.log | sort | uniq -c | sort -nr | head -n 5
""",
        "This assumes that the address is the first field, as in the common log format.",
    ),
    Task(
        "html",
        "Make a minimal sign-up form with name, e-mail and a submit button.",
        "",
        r"""
<form action="/signup" method="post">
  <label>Name <input name="name" required></label>
  <label>E-mail <input name="email" type="email" required></label>
  <button type="submit">Sign up</button>
</form>
""",
    ),
    Task(
        "css",
        "Centre a box both ways inside its parent.",
        "",
        r"""
.parent {
  display: flex;
  justify-content: center;
  align-items: center;
  min-height: 100vh;
}
""",
    ),
    Task(
        "c",
        "Swap two integers through pointers.",
        "in C",
        r"""
void swap(int *a, int *b) {
    int old = *a;
    *a = *b;
    *b = old;
}
""",
    ),
    Task(
        "rust",
        "Return the longest word of a sentence in Rust.",
        "",
        r"""
fn longest_word(text: &str) -> Option<&str> {
    text.split_whitespace().max_by_key(|word| word.chars().count())
}
""",
    ),
    Task(
        "go",
        "Reverse a slice of integers in place using Go.",
        "",
        r"""
func reverse(s []int) {
	for i, j := 0, len(s)-1; i < j; i, j = i+1, j-1 {
		s[i], s[j] = s[j], s[i]
	}
}
""",
    ),
    Task(
        "java",
        "Give me a thread-safe counter class in Java.",
        "",
        r"""
import java.util.concurrent.atomic.AtomicInteger;

class Counter {
    private final AtomicInteger value = new AtomicInteger();

    int next() {
        return value.incrementAndGet();
    }
}
""",
    ),
    Task(
        "typescript",
        "Declare a TypeScript interface for a blog post with optional tags.",
        "",
        r"""
interface BlogPost {
  id: number;
  title: string;
  body: string;
  tags?: string[];
}
""",
    ),
    Task(
        "bash",
        "Undo my last git commit but keep the changes in the working tree.",
        "",
        r"""
git reset HEAD~1
""",
        "The commit disappears from the branch, and the edited files stay as they are.",
    ),
    Task(
        "dockerfile",
        "Write a Dockerfile for a small Flask app whose entry point is app.py.",
        "",
        r"""
FROM python:3.12-slim
WORKDIR /app
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
CMD ["python", "app.py"]
""",
    ),
)
