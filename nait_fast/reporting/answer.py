"""What a selection is, in a few lines of a terminal: how much of what, its ends, what to mind and what is next."""

import shlex
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nait_fast.ranking.selection_files import REPORT, SELECTED
from nait_fast.reporting.formatting import correlation, count, listed, percent, short
from nait_fast.storage.names import MANIFEST
from nait_fast.terminal import WIDTH
from nait_fast.urls import is_url, joined

MOST_SOURCES = 6  # that are shown one by one
_SOURCE_WIDTH = 14
_COMBINED = {
    "mean": "by the mean of their z-scores",
    "max": "by the best of their z-scores",
    "roundrobin": "in turns",
    "union": "each with a budget of its own",
}


def answer_of(manifest: Mapping[str, Any], folder: str | Path, said: bool = False) -> str:
    """The lines of the selection in ``folder``; ``said``: its warnings have been read a moment ago. A manifest of an
    older version, which does not know all of it, gives fewer lines."""
    parts = [_amount(manifest, folder), _sources(manifest), _ends(manifest), warned(manifest, folder, said)]
    return "\n\n".join(["\n".join(lines) for part in parts if (lines := list(part))] + [_next(folder)])


def _amount(manifest: Mapping[str, Any], folder: str | Path) -> Iterator[str]:
    rows, of = manifest["rows_selected"], manifest["rows_scored"]
    tokens, all_tokens = manifest["tokens_selected"], manifest.get("tokens_scored")
    yield f"{rows:,} of {of:,} rows ({percent(rows / max(1, of))}), " + (
        f"{tokens:,} tokens"
        if all_tokens is None
        else f"{tokens:,} of {all_tokens:,} tokens ({percent(tokens / max(1, all_tokens))})"
    )
    methods = listed(list(dict.fromkeys(manifest["method"])))
    how = f", {combined_told(manifest)}" if len(manifest["targets"]) > 1 else ""
    rule = f", rule {manifest['rule']}" if "rule" in manifest else ""
    rule += f", length {manifest['length']}" if "length" in manifest else ""
    order = ", best first" if (manifest.get("config") or {}).get("pick", "top") == "top" else ""
    yield from wrapped(f"for {listed(manifest['targets'])} by {methods}{rule}{how}{order}:")
    yield f"  {joined(folder, SELECTED)}"
    if turns := manifest.get("turns"):
        yield from wrapped(f"by turns: {turns_told(turns)}")
    if beside := [name for name in manifest["files"] if name != SELECTED]:
        yield from wrapped(f"beside it: {', '.join(beside)}")
    lengths = [
        f"{manifest['targets'][0] if len(manifest['targets']) == 1 else name} {correlation(rho)}"
        for name, rho in manifest["spearman_with_length"].items()
    ]
    if rows and all_tokens is not None:
        mean = f"{tokens / rows:,.0f} tokens a row, the pool {all_tokens / max(1, of):,.0f}"
        yield from wrapped(f"{mean}; scores with length (Spearman): {', '.join(lengths)}")
    lost = [*_lost(manifest)]
    if lost:
        yield from wrapped(", ".join(lost))


def combined_told(manifest: Mapping[str, Any]) -> str:
    """How one selection came of several targets."""
    config = manifest.get("config") or {}
    if config.get("pick", "top") == "random":
        return "drawn without regard to them"
    if manifest.get("rule") == "roundrobin":
        return _COMBINED["roundrobin"]
    if config.get("combine") == "union" and config.get("token_budget") is not None:
        return f"{_COMBINED['roundrobin']}, within one budget of tokens"
    return _COMBINED.get(str(config.get("combine")), "combined")


def turns_told(turns: Mapping[str, Mapping[str, int]]) -> str:
    """What each target got, of the manifest's ``turns``."""
    each = ((name, own["rows"], own["tokens"] / max(1, own["rows"])) for name, own in turns.items())
    return ", ".join(f"{name} {count(rows, 'row')} ({tokens:,.0f} tokens each)" for name, rows, tokens in each)


def _lost(manifest: Mapping[str, Any]) -> Iterator[str]:
    """What is not among the scored rows, or was cut."""
    if skipped := manifest["rows_skipped"]["rows"]:
        yield f"{count(skipped, 'row')} of the pool left out (skipped.jsonl of the index)"
    if cut := manifest.get("rows_truncated"):
        yield f"{count(cut, 'row')} of the pool read to {manifest['max_length']:,} tokens only"
    for constraint in manifest.get("constraints", ()):
        if constraint["dropped"]:
            yield f"{constraint['constraint']} took {constraint['dropped']:,}"


def _sources(manifest: Mapping[str, Any]) -> Iterator[str]:
    if (made := manifest.get("composition")) is None:
        return
    about = "" if made["pool_rows"] >= manifest["rows_scored"] else f" (of {made['pool_rows']:,} rows of each counted)"
    yield f"{short(made['key'], _SOURCE_WIDTH):<{_SOURCE_WIDTH}}{'selected':>9}{'pool':>8}{about}"
    names = [*made["selected"], *(name for name in made["pool"] if name not in made["selected"])]
    for name in names[:MOST_SOURCES]:
        yield _source(name, [name], made)
    if len(names) > MOST_SOURCES:
        yield _source(f"{len(names) - MOST_SOURCES} more", names[MOST_SOURCES:], made)


def _source(label: str, names: Sequence[str], made: Mapping[str, Any]) -> str:
    mine, pool = (
        sum(made[side].get(name, 0) for name in names) / max(1, made[f"{side}_rows"]) for side in ("selected", "pool")
    )
    bar = "█" * round(30 * mine) or ("▏" if mine else "")
    return f"{short(label, _SOURCE_WIDTH):<{_SOURCE_WIDTH}}{percent(mine):>9}{percent(pool):>8}  {bar}".rstrip()


def _ends(manifest: Mapping[str, Any]) -> Iterator[str]:
    if not (best := manifest.get("best")):
        return
    worst = sorted(manifest["worst"], key=lambda row: row["rank"])
    width = len(f"{worst[-1]['rank'] if worst else len(best):,}")
    pick = (manifest.get("config") or {}).get("pick", "top")
    yield "best rows" if pick == "top" else f"first rows (--pick {pick})"
    yield from (_row(row, width) for row in best)
    if worst:
        yield "worst rows of the pool"
        yield from (_row(row, width) for row in worst)


def _row(row: Mapping[str, Any], width: int) -> str:
    source = f"{short(row['source'], _SOURCE_WIDTH - 2):<{_SOURCE_WIDTH}}" if "source" in row else ""
    head = f"  {row['rank']:>{width},}  {source}"
    return head + short(row["text"], WIDTH - len(head))


def warned(manifest: Mapping[str, Any], place: str | Path, said: bool) -> Iterator[str]:
    """Its warnings one by one, or how many there were a moment ago."""
    if not (warnings := manifest.get("warnings", ())):
        return
    if said:
        yield f"to mind: {count(len(warnings), 'warning')}, above and in {place}"
        return
    yield "to mind"
    for warning in warnings:
        yield from wrapped(warning, "  - ", "    ")


def _next(folder: str | Path) -> str:
    try:
        told = (Path(folder) / REPORT).stat().st_mtime >= (Path(folder) / MANIFEST).stat().st_mtime
    except OSError:
        told = False
    if told:
        return training_line(folder)
    return next_line(["nait-fast", "report", str(folder), *(["--output", REPORT] if is_url(str(folder)) else [])])


def training_line(folder: str | Path) -> str:
    """What comes once a selection and its report are there."""
    return f"next: train on {joined(folder, SELECTED)} (docs/trainers.md: TRL, LLaMA-Factory, axolotl, DataFlex)"


def next_line(words: Sequence[str]) -> str:
    """The next command, to be pasted."""
    return f"next: {shlex.join(words)}"


def wrapped(text: str, first: str = "", others: str = "  ") -> list[str]:
    """``text`` in lines of at most ``WIDTH``; paths and words stay whole."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=others, break_long_words=False, break_on_hyphens=False
    )
