"""What the documents say holds: the snippet that reads an index, the figures; and each page is found."""

import ast
import re
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from benchmarks import figures_page, methods, models_page
from benchmarks.figures_page import MISSING, completed, gpu_table
from docs import options_page

ROOT = Path(__file__).parent.parent


def test_an_index_is_read_without_this_package(tiny_model, pool_file, tmp_path, monkeypatch):
    nait_fast.build_index(model=tiny_model, dataset=str(pool_file), output=str(tmp_path / "index"), shard_rows=25)
    snippet = re.search(r"```python\n(.*?)```", (ROOT / "docs" / "format.md").read_text(), re.DOTALL)
    assert snippet is not None and "nait_fast" not in snippet[1]
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(snippet[1], names)
    index = nait_fast.Index(tmp_path / "index")
    expected = np.concatenate([index.layout.unpack(np.array(shard.codes)) for shard in index.shards()])
    assert names["rows"].tolist() == list(range(60))
    assert np.array_equal(names["bits"].astype(bool), expected[:, index.layout.neurons(2)])


def test_readme_and_the_benchmarks_page_show_what_the_results_say(monkeypatch):
    monkeypatch.setattr("sys.argv", ["figures_page", "--check"])
    assert figures_page.main() == 0


def test_readme_is_a_page_and_its_links_are_there():
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]*)\)", text) if "://" not in link]
    assert len(links) > 10 and all((ROOT / link).is_file() for link in links)


def test_the_pages_are_in_the_navigation():
    """``zensical build --strict``, which checks the links, says nothing of a page that no menu names."""
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    assert set(re.findall(r"[a-z_]+\.md", (ROOT / "mkdocs.yml").read_text())) == pages


def test_the_pictures_are_there_and_small():
    """``zensical build --strict`` says nothing of a picture that is not there."""
    found = set()
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        named = re.findall(r'\]\(([^):]*\.(?:svg|webp))\)|(?:src|srcset)="([^"]*)"', page.read_text())
        found |= {page.parent / (markdown or html) for markdown, html in named}
    assert len(found) > 5 and all(picture.stat().st_size < 150_000 for picture in found)


def test_the_methods_page_shows_what_the_results_say(monkeypatch):
    monkeypatch.setattr("sys.argv", ["methods", "--check"])
    assert methods.main() == 0


def test_the_models_page_shows_what_the_results_say():
    assert models_page.write(check=True) == 0


def test_the_messages_that_the_questions_quote_are_those_of_the_program():
    table = (ROOT / "docs" / "faq.md").read_text().partition("| you see |")[2].partition("\n\n")[0]
    quoted = [text for line in table.splitlines()[2:] for text in re.findall('"([^"]*)"', line.split(" | ")[0])]
    sources = [ast.parse(path.read_text()) for path in (ROOT / "nait_fast").rglob("*.py")]
    said = [n.value for tree in sources for n in ast.walk(tree) if isinstance(n, ast.Constant) and type(n.value) is str]
    assert len(quoted) > 8 and [text for text in quoted if not any(text in one for one in said)] == []


def test_the_options_page_is_that_of_the_options(monkeypatch):
    monkeypatch.setattr("sys.argv", ["options_page", "--check"])
    assert options_page.main() == 0


def test_the_options_page_names_each_flag_with_its_kind_and_default():
    page = (ROOT / "docs" / "options.md").read_text()
    for line in (ROOT / "tests" / "flags.txt").read_text().splitlines():
        verb, *flags = line.split()
        missing = [
            f for f in flags if f[:2] == "--" and f[:5] != "--no-" and f != "--help" and f"| `{f}` |" not in page
        ]
        assert not missing, verb
    assert "| `--top-k` | whole number, at least 1 |  | select this many samples |" in page
    assert "| `--pick` | `top`, `bottom`, `random` | `top` | which end of the ranking |" in page
    assert "|  | `top_k` | whole number, at least 1 | `20` | neurons a layer |" in page  # of nag


def test_the_gpu_table_shows_what_was_measured_and_what_was_not():
    row = {"part": "endtoend", "shape": "llama-2-7b", "name": "index pass", "check": "ok: 0 differ", "of_matmul": 0.5}
    newer = row | {"of_matmul": 0.625, "overhead_percent": -1.26, "engine_is": 2.0, "repeats": 3}
    failed = {"part": "scan", "name": "count, 1 plane", "check": "failed: 3 scores differ", "of_read": 0.9}
    lines = gpu_table([row, newer, newer | {"shape": "tiny", "of_matmul": 0.1}, failed]).splitlines()[2:]
    cells = {line.split("|")[1].strip(): line.split("|")[3].strip() for line in lines}
    assert list(cells.values())[:4] == ["-1.3%", MISSING, "62%", MISSING]
    scanned = cells.pop("scan of 1M codes, 1 plane, of the measured read bandwidth")
    assert scanned == "failed: 3 scores differ" and set(list(cells.values())[3:]) == {MISSING}


def test_a_baseline_of_two_runs_counts_with_the_faster_one():
    twice = {"part": "endtoend", "samples": 10, "tokens": 1000, "shared_prefix": 24, "repeats": 2, "dtype": "bfloat16"}
    times = dict(zip(("ms_p20", "ms", "ms_p80"), np.quantile([100.0, 300.0], (0.2, 0.5, 0.8)), strict=True))
    old = completed({**twice, **times, "hardware": "NVIDIA H100 80GB HBM3", "engine_is": 4.0, "tflop_per_s": 494.7})
    assert old["engine_is"] == pytest.approx(2.0) and old["of_peak"] == pytest.approx(0.5)
    assert old["run_tokens_per_s"] == pytest.approx(760 / 0.2)
    new = {**twice, **times, "engine_is": 4.0, "run_tokens_per_s": 1.0}
    assert completed(new) == new
