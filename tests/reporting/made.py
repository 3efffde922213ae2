"""Selections made of arrays and a pool file, by ``rank``: no model, no index pass."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import nait_fast
from nait_fast.codecs.layout import CodeLayout
from nait_fast.config import ReportOptions
from nait_fast.data.pool import Pool
from nait_fast.methods.signature import Signature
from nait_fast.reporting.contents import gather
from nait_fast.reporting.figures import SECTIONS
from nait_fast.reporting.page import render
from nait_fast.storage.files import read_sealed, write_sealed
from tests.ranking.indexes import contrast, id_tensors, nait, write_index

WIDTHS = [40, 70, 33]
LABELS = ("sums", "code", "chat")
WORDS = "add the two numbers and print them while a poet writes about rain in seven short lines".split()  # noqa: SIM905


def make_rows(n: int, seed: int = 0, label: str | None = "source") -> list[dict[str, Any]]:
    """Alpaca rows of varied length; the label is drawn, the last of LABELS half of the time."""
    generator = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        words = [WORDS[j] for j in generator.integers(0, len(WORDS), int(generator.integers(4, 60)))]
        row: dict[str, Any] = {"instruction": " ".join(words[:3]), "output": " ".join(words[3:]) or "x", "id": f"r{i}"}
        if label:
            row[label] = LABELS[int(generator.choice(3, p=[0.2, 0.3, 0.5]))]
        rows.append(row)
    return rows


def write_pool(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class Made:
    """An index over a pool file, its codes, and signatures ``t0``, ``t1`` … that fit it; ``n`` is an exact one.

    ``codes`` uint8 [n, W], ``tokens`` int32 [n], ``bits`` bool [n, N]. The rows of label ``sums`` have the bits that
    ``t0`` looks for more often than others.
    """

    def __init__(self, folder: Path, rows: Sequence[dict[str, Any]], targets: int = 1, widths: Sequence[int] = WIDTHS):
        generator = np.random.default_rng(7)
        self.folder, self.rows = folder, list(rows)
        self.pool = write_pool(folder / "pool.jsonl", rows)
        self.layout, n = CodeLayout.of(widths), len(rows)
        self.signatures = [contrast(f"t{i}", widths, i + 1) for i in range(targets)]
        self.exact = nait("n", widths)
        lean = np.sign(self.signatures[0].tensors["weights"])
        of_sums = np.array([row.get("source") == "sums" for row in rows])
        self.bits = generator.random((n, self.layout.n_neurons)) < 0.5 + np.outer(of_sums, 0.2 * lean)
        self.codes = self.layout.pack(self.bits)
        self.tokens = np.array([1 + len(json.dumps(row)) // 5 for row in rows], dtype=np.int32)
        self.exact_scores = generator.standard_normal(n)
        ids = id_tensors([None if row.get("id") is None else str(row["id"]) for row in rows])
        ends = ids["id_ends"]
        shards = []
        for start in range(0, n, 100):
            part = slice(start, min(n, start + 100))
            first = int(ends[start - 1]) if start else 0
            columns = {
                "ids": ids["ids"][first : int(ends[part.stop - 1])],
                "id_ends": ends[part] - first,
                "id_absent": ids["id_absent"][part],
            }
            shards.append(
                {
                    "codes": self.codes[part],
                    "row": np.arange(n)[part],
                    "n_tokens": self.tokens[part],
                    "exact.n": self.exact_scores[part],
                    **columns,
                }
            )
        plan = Pool(str(self.pool)).plan()
        dataset = {
            "path": str(self.pool),
            "kind": "jsonl",
            "format": Pool(str(self.pool)).detect(),
            "rows": n,
            "sha256": plan.sha256,
        }
        self.index = write_index(folder / "index", shards, widths, exact={"n": self.exact.hash}, datasets=[dataset])

    def saved(self, *signatures: Signature) -> list[str]:
        folder = self.folder / "signatures"
        folder.mkdir(exist_ok=True)
        return [str(s.save(folder)) for s in signatures]

    def select(self, name: str = "chosen", signatures: Sequence[Signature] | None = None, **options: Any) -> Path:
        """A folder that ``rank`` wrote: with all the bit signatures unless others are given."""
        files = self.saved(*(self.signatures if signatures is None else signatures))
        out = self.folder / name
        nait_fast.rank(index=str(self.index), signature=files, output=str(out), overwrite=True, **options)
        return out


def report(selection: Path, output: Path, **options: Any) -> tuple[str, dict[str, Any]]:
    """(the page, the verb's summary)."""
    result = nait_fast.report(selection=str(selection), output=str(output), **options)
    return output.read_text(encoding="utf-8"), result


def change(folder: Path, **entries: object) -> None:
    """Seal the manifest of a selection anew with these ``entries``, without those that are None."""
    manifest = {k: v for k, v in read_sealed(folder / "manifest.json").items() if k != "checksum"}
    write_sealed(folder / "manifest.json", {k: v for k, v in {**manifest, **entries}.items() if v is not None})


def plain(selection: Path, output: Path, **options: Any) -> str:
    """The page without its plots, which take most of the time."""
    found = gather(ReportOptions(selection=str(selection), **options), output)
    return render(found, {section: [] for section in SECTIONS}).decode()
