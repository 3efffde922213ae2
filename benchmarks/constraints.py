"""Constraints on codes: near-duplicates found among planted edits of real samples, and the speed of both constraints.

    python -m benchmarks.constraints --model FOLDER --dataset POOL.jsonl --work DIR
    python -m benchmarks.constraints --index FOLDER --parts near coverage --work DIR
    python -m benchmarks.constraints --dataset POOL.jsonl --evaluation FILE --parts words --work DIR

``edits``: samples of the pool with copies of some of them, one word or sign changed: which are found, by D, and what
else is dropped. ``near`` and ``coverage``: codes made of those real ones, three rows of the index voting on each bit
and a thirty-second of the bits turned, so that they lie apart as real ones do; in a file that is mapped. ``words``:
samples of an evaluation set among the pool's rows, as they are and edited: which are found by runs of words, and how
many of the pool's own rows.
"""

import argparse
import json
import os
import random
import re
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

import nait_fast
from benchmarks.pools import lines_of, stratified
from benchmarks.record import record, table
from nait_fast.codecs.layout import CodeLayout
from nait_fast.index.reader import Index
from nait_fast.rules.best_first import ArrayOrder, Budget
from nait_fast.rules.constraints.coverage import coverage
from nait_fast.rules.constraints.decontaminate import Decontamination, texts_of_sample
from nait_fast.rules.constraints.near_duplicates import near_duplicates, near_duplicates_of
from nait_fast.rules.constraints.selecting import select_rows

SHARES = (0.005, 0.01, 0.02, 0.03, 0.05, 0.1)
NGRAMS = (8, 13)
PARTS = ("edits", "near", "coverage", "words")
NARROW = 512  # bytes of a code, evenly out of the real ones'
COPIES, TURNED = 20, 0.015  # at scale: one row of so many is another one's copy, with a share of its bits turned
_PAIRS = (
    "big:large write:compose create:make make:create find:locate give:provide explain:describe describe:explain "
    "show:display list:enumerate help:assist good:fine start:begin quick:fast many:numerous buy:purchase get:obtain "
    "use:employ important:essential answer:reply generate:produce total:overall each:every also:too people:persons "
    "need:require best:finest new:fresh way:manner different:distinct"
)
SYNONYMS = dict(pair.split(":") for pair in _PAIRS.split())


def _synonym(word: str) -> str:
    other = SYNONYMS[word.lower()]
    return other.capitalize() if word[0].isupper() else other


# Kind of edit -> (what may be edited, whether a match of it is, what it becomes).
EDITS: dict[str, tuple[str, Callable[[str], bool], Callable[[str, random.Random], str]]] = {
    "case": (r"[A-Za-z]+", bool, lambda word, draw: word.swapcase()),
    "number": (r"\d+", bool, lambda digits, draw: str(int(digits) + 1)),
    "synonym": (r"[A-Za-z]+", lambda word: word.lower() in SYNONYMS, lambda word, draw: _synonym(word)),
    "whitespace": (" ", bool, lambda space, draw: draw.choice(["  ", "\n"])),
}


def edited(text: str, kind: str, draw: random.Random) -> str:
    """``text`` with one edit of that kind; as it is where there is nothing to edit."""
    pattern, fits, change = EDITS[kind]
    if not (matches := [match for match in re.finditer(pattern, text) if fits(match.group())]):
        return text
    match = draw.choice(matches)
    return text[: match.start()] + change(match.group(), draw) + text[match.end() :]


def planted(lines: list[bytes], seed: int) -> list[dict[str, Any]]:
    """The rows, and behind them for each kind of edit 5% of them again, edited in one place of one field. ``kind``: of
    the edit, "" of the rows themselves; ``of``: the row that it was made of."""
    draw, rows = random.Random(seed), [json.loads(line) for line in lines]
    out = [{**row, "kind": "", "of": number} for number, row in enumerate(rows)]
    for kind in EDITS:
        made, order = 0, list(range(len(rows)))
        draw.shuffle(order)
        for number in order:
            field = draw.choice([name for name in ("instruction", "input", "output") if rows[number].get(name)])
            text = edited(rows[number][field], kind, draw)
            if text == rows[number][field]:
                continue
            out.append({**rows[number], field: text, "kind": kind, "of": number})
            made += 1
            if made == len(rows) // 20:
                break
    return out


def edits(index: Index, rows: list[dict[str, Any]], seed: int) -> Iterator[dict[str, Any]]:
    """For each D: of the edits, the share that does not stay beside its original, by kind; and rows dropped for
    one that they were not made of."""
    row = np.concatenate([shard.row for shard in index.shards()])
    of, kinds = (np.array([rows[r][key] for r in row.tolist()]) for key in ("of", "kind"))
    order = np.random.default_rng(seed).permutation(len(row))
    original = {int(of[place]): place for place in np.flatnonzero(kinds == "").tolist()}
    for share in SHARES:
        result = near_duplicates_of(index, order, share)
        gone = np.zeros(len(row), dtype=bool)
        gone[result.dropped] = True
        found: dict[str, list[bool]] = {kind: [] for kind in EDITS}
        for place in np.flatnonzero(kinds != "").tolist():
            found[kinds[place]].append(bool(gone[place] or gone[original[int(of[place])]]))
        false = int((of[result.dropped] != of[result.taken_by]).sum())
        shares = {kind: round(float(np.mean(hits)), 3) for kind, hits in found.items()}
        yield {"part": "edits", "D": share, "rows": len(row), **shares, "dropped": len(result.dropped), "false": false}


def words(lines: list[bytes], evaluation: list[bytes], seed: int) -> Iterator[dict[str, Any]]:
    """For each length of runs: the share that is found of evaluation samples as they are, and of those edited once, by
    kind; and how many of the pool's own rows share such a run with one."""
    own, placed = [json.loads(line) for line in lines], planted(evaluation, seed)
    samples = [("evaluation", number, texts_of_sample(json.loads(line))) for number, line in enumerate(evaluation)]
    texts = [texts_of_sample(row) for row in (*own, *placed)]
    kinds = np.array(["own"] * len(own) + [row["kind"] or "verbatim" for row in placed])
    for ngram in NGRAMS:
        with Measured() as measured:
            constraint = Decontamination(samples, lambda places: [texts[place] for place in places], ngram)
            order = ArrayOrder(np.arange(len(texts)))
            chosen = select_rows(order, Budget(rows=len(texts)), [constraint])
        gone = np.zeros(len(texts), dtype=bool)
        gone[np.concatenate([some.places for some in chosen.dropped])] = True
        shares = {kind: round(float(gone[kinds == kind].mean()), 3) for kind in ("verbatim", *EDITS)}
        about = {"ngram": ngram, "rows": len(own), "samples": len(samples), "edits": int((kinds == "case").sum())}
        yield {"part": "words", **about, **shares, "of_the_pool": int(gone[: len(own)].sum()), **measured.row()}


def real_codes(index: Index, width: int) -> np.ndarray:
    """Codes uint8 [n, width] of an index, ``width`` of their bytes."""
    codes = np.concatenate([np.array(shard.codes) for shard in index.shards()])
    used = (index.code_layout.n_neurons // 8) // width * width or width
    return np.ascontiguousarray(codes[:, np.arange(width) * used // width])


def alike(real: np.ndarray, n: int, path: Path, seed: int) -> np.ndarray:
    """Codes uint8 [n, W] in a file, mapped; each bit what most of three rows of ``real`` have, some bits turned."""
    generator = np.random.default_rng(seed)
    out = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(n, real.shape[1]))
    step = 4096
    for start in range(0, n, step):
        size = min(step, n - start)
        a, b, c = (real[generator.integers(0, len(real), size)] for _ in range(3))
        noise = np.full(a.shape, 0xFF, dtype=np.uint8)
        for _ in range(5):
            noise &= generator.integers(0, 256, a.shape, np.uint8)
        out[start : start + size] = ((a & b) | (a & c) | (b & c)) ^ noise
    out.flush()
    return np.load(path, mmap_mode="r")


def copied(codes: np.ndarray, path: Path, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(codes, originals int64 [k], their copies int64 [k]) in the file at ``path``, which is changed."""
    generator = np.random.default_rng(seed)
    n, bits = len(codes), 8 * codes.shape[1]
    places = generator.permutation(n)[: 2 * (n // COPIES)]
    originals, copies = places[: len(places) // 2], places[len(places) // 2 :]
    out = np.load(path, mmap_mode="r+")
    for a, b in zip(originals.tolist(), copies.tolist(), strict=True):
        turned = np.zeros(bits, dtype=np.uint8)
        turned[generator.choice(bits, int(TURNED * bits), replace=False)] = 1
        out[b] = out[a] ^ np.packbits(turned)
    out.flush()
    return np.load(path, mmap_mode="r"), originals, copies


class Measured:
    """Wall and CPU seconds of a block, and the most anonymous memory of the process in it, in MB."""

    def __enter__(self) -> "Measured":
        self.memory, self._over = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        self._wall, self._cpu = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.wall, self.cpu = time.perf_counter() - self._wall, time.process_time() - self._cpu
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.05):
            anonymous = re.search(r"RssAnon:\s+(\d+)", Path("/proc/self/status").read_text())
            self.memory = max(self.memory, int(anonymous[1]) / 1024 if anonymous else 0.0)

    def row(self) -> dict[str, Any]:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        return {
            "seconds": round(self.wall, 1),
            "cpu_seconds": round(self.cpu, 1),
            "anonymous_mb": round(self.memory),
            "peak_mb_with_mapped": round(peak),
            "load": round(os.getloadavg()[0], 1),
        }


def near(index: Index, sizes: list[int], shares: list[float], work: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Near-duplicates of codes of 512 B; ``missed``: planted copies that stay beside their originals."""
    real, path = real_codes(index, NARROW), work / "alike.npy"
    os.environ["NAIT_FAST_BACKEND"] = "cpu"
    near_duplicates(np.zeros((2, 8), np.uint8), np.arange(2), 0.1, 64)  # Numba compiles
    for n in sizes:
        alike(real, n, path, seed)
        codes, originals, copies = copied(np.load(path, mmap_mode="r"), path, seed + 1)
        order = np.random.default_rng(seed + 2).permutation(n)
        for share in shares:
            with Measured() as measured:
                result = near_duplicates(codes, order, share, 8 * NARROW)
            gone = np.zeros(n, dtype=bool)
            gone[result.dropped] = True
            missed = int((~gone[originals] & ~gone[copies]).sum())
            speed = round(n / measured.wall)
            about = {"D": share, "rows": n, "row_bytes": NARROW, "rows_per_second": speed, "planted": len(copies)}
            yield {"part": "near", **about, "dropped": len(result.dropped), "missed": missed, **measured.row()}


def covered(index: Index, sizes: list[int], budgets: list[int], work: Path, seed: int) -> Iterator[dict[str, Any]]:
    """Coverage of so many candidates, scores drawn from a normal distribution; of the fewest, also by whole codes."""
    for n, width in (*((n, NARROW) for n in sizes), (min(sizes), index.code_layout.n_neurons // 8)):
        codes = alike(real_codes(index, width), n, work / "alike.npy", seed)
        layout = CodeLayout.of((8 * width,))
        os.environ["NAIT_FAST_BACKEND"] = "cpu"
        coverage(codes, np.arange(1), np.zeros(1), 1, 0.5, layout)  # Numba compiles
        scores = np.sort(np.random.default_rng(seed).standard_normal(n))[::-1]
        for budget in budgets:
            for share in (0.5, 0.9):
                with Measured() as measured:
                    result = coverage(codes, np.arange(n), scores, budget, share, layout)
                about = {"W": share, "rows": n, "row_bytes": width, "budget": budget, "computed": result.computed}
                yield {"part": "coverage", **about, **measured.row()}


def show(rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Record ``rows``, which all are ``about`` the same, and print them."""
    path = record("constraints", [{**row, **about} for row in rows])
    print(table(rows, [key for key in rows[0] if key != "part"]))
    print(f"rows appended to {path.name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--dataset", type=Path)
    parser.add_argument("--index", type=Path, help="of real samples, for near and coverage; default: that of the edits")
    parser.add_argument("--work", required=True, type=Path, help="folder of the edits' index, which is used again")
    parser.add_argument("--evaluation", type=Path, help="samples that are planted in the pool, for words")
    parser.add_argument("--rows", type=int, default=1200)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS[:3]))
    parser.add_argument("--sizes", nargs="+", type=int, default=[100_000, 1_000_000])
    parser.add_argument("--shares", nargs="+", type=float, default=[0.01, 0.02, 0.03, 0.05])
    parser.add_argument("--budgets", nargs="+", type=int, default=[1000, 10_000])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    if "words" in arguments.parts:
        if not (arguments.dataset and arguments.evaluation) or len(arguments.parts) > 1:
            parser.error("--parts words stands alone, with --dataset and --evaluation")
        lines = stratified(arguments.dataset, arguments.rows, arguments.seed)
        show([*words(lines, lines_of(arguments.evaluation), arguments.seed)], {"seed": arguments.seed})
        return
    if not (arguments.model and arguments.dataset) and (arguments.index is None or "edits" in arguments.parts):
        parser.error("--model and --dataset, or --index and other --parts than edits")
    folder, rows = arguments.index or arguments.work / "index", []
    if arguments.model and arguments.dataset:
        pool, folder = arguments.work / "pool.jsonl", arguments.work / "index"
        rows = planted(stratified(arguments.dataset, arguments.rows, arguments.seed), arguments.seed)
        pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
        if not folder.exists():
            nait_fast.build_index(
                model=arguments.model, dataset=str(pool), output=folder, max_length=arguments.max_length
            )
    edited_index, index = Index(folder), Index(arguments.index or folder)
    parts = {
        "edits": lambda: edits(edited_index, rows, arguments.seed),
        "near": lambda: near(index, arguments.sizes, arguments.shares, arguments.work, arguments.seed),
        "coverage": lambda: covered(index, arguments.sizes, arguments.budgets, arguments.work, arguments.seed),
    }
    about = {
        "model": Path(index.manifest["model_name"]).name,
        "max_length": index.manifest["max_length"],
        "layers": len(index.layout.widths),
        "real_rows": index.rows,
    }
    for part in arguments.parts:
        made = []
        for row in parts[part]():
            made.append(row)
            print(json.dumps(row), flush=True)
        show(made, about)


if __name__ == "__main__":
    main()
