"""An index with the pool that it was made from, and a signature of it: no model, no index pass."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nait_fast.data.pool import Pool
from nait_fast.index.reader import Index
from nait_fast.ranking.scan import score_codes
from tests.conftest import write_jsonl
from tests.ranking.indexes import contrast, id_tensors, write_index

WIDTHS = (256,)
BYTES = 32


@dataclass(frozen=True)
class MadePool:
    """``order`` int64 [n]: places, best first; ``row``, ``n_tokens`` [n]; ``codes`` uint8 [n, 32]; ``lines``: the
    pool's rows, of which those after every seventh were left out of the index."""

    index: Path
    signature: Path
    pool: Path
    lines: list[dict[str, Any]]
    row: np.ndarray
    n_tokens: np.ndarray
    codes: np.ndarray
    scores: np.ndarray

    @property
    def order(self) -> np.ndarray:
        return np.lexsort((self.row, -self.scores))

    def rank(self, output: Path, **options: Any) -> dict[str, Any]:
        """``nait_fast.rank`` of it into ``output``."""
        import nait_fast

        given = {"index": self.index, "signature": [self.signature], "output": output}
        return nait_fast.rank(**{**given, **options})


def make_pool(
    folder: Path,
    codes: np.ndarray,
    seed: int = 0,
    columns: Callable[[int], dict[str, Any]] = lambda row: {},
    ids: Callable[[int], str] = lambda row: f"é{row}",
) -> MadePool:
    """A pool of rows that ``columns`` says more of, with ``codes`` uint8 [n, 32], ``ids`` and random lengths."""
    folder.mkdir(parents=True, exist_ok=True)
    n, generator = len(codes), np.random.default_rng(seed)
    row = np.arange(n) + np.arange(n) // 6
    lines = [
        {"id": ids(i), "instruction": f"question {i}", "output": f"answer {i * i}", **columns(i)}
        for i in range(int(row[-1]) + 1)
    ]
    pool = write_jsonl(folder / "pool.jsonl", lines)
    plan = Pool(pool).plan()
    n_tokens = generator.integers(3, 60, n).astype(np.int32)
    shards = []
    for part in np.array_split(np.arange(n), 3):
        of_ids = id_tensors([ids(r) for r in row[part].tolist()])
        shards.append({"codes": codes[part], "row": row[part], "n_tokens": n_tokens[part], **of_ids})
    about = {"path": str(pool), "kind": plan.kind, "format": "alpaca", "rows": plan.rows, "sha256": plan.sha256}
    index = write_index(folder / "index", shards, WIDTHS, datasets=[about])
    signature = contrast("a", WIDTHS, seed + 1)
    signature.save(folder)
    scores = score_codes(codes, [signature])[:, 0]
    assert Index(index).rows == n
    return MadePool(index, folder / "a.safetensors", pool, lines, row, n_tokens, codes, scores)


def rows_of(path: Path) -> Sequence[dict[str, Any]]:
    """The lines of a JSONL file."""
    import json

    return [json.loads(line) for line in path.read_text().splitlines()]
