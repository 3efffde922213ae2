"""``rank`` over synthetic indexes: streamed shards, what the outputs say, what is left behind, the memory it takes."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from nait_fast.config import BudgetOptions
from nait_fast.errors import NaitError
from nait_fast.index import stream as streaming
from nait_fast.index.reader import Index
from nait_fast.index.stream import Stream, ids
from nait_fast.kernels.popcount import launch
from nait_fast.ranking import scan as scanning
from nait_fast.ranking.scan import scan, score_codes, search
from nait_fast.storage.files import checksum_of, pack_tensors, read_tensors
from nait_fast.verbs.rank import rank_index
from tests.ranking import naive_select
from tests.ranking.indexes import contrast, id_tensors, nait, write_index

WIDTHS = [40, 70]  # 8 + 12 bytes, padded to 32
ROWS = 257


class Pool:
    """The lines behind an index of consecutive rows, some of them skipped."""

    paths, format = ("elsewhere/pool.jsonl",), "text"

    def lines(self, rows: np.ndarray) -> Iterator[bytes]:
        assert (np.diff(rows) > 0).all()
        for row in rows.tolist():
            yield self.line(row)

    @staticmethod
    def line(row: int) -> bytes:
        return json.dumps({"text": "word " * (row % 7) + str(row)}).encode()


class Made:
    """An index on disk and all that is in it."""

    def __init__(self, folder: Path, shard_rows: list[int], rows: int = ROWS):
        generator = np.random.default_rng(3)
        self.row = np.cumsum(generator.integers(1, 3, rows))
        self.n_tokens = generator.integers(1, 60, rows).astype(np.int32)
        self.codes = generator.integers(0, 256, (rows, 32), dtype=np.uint8)
        self.codes[::5] = self.codes[0]  # ties
        self.ids = [f"é-{row}" if row % 3 else None for row in self.row.tolist()]
        self.ids[0], self.ids[1] = "", None
        self.exact = generator.standard_normal(rows)
        self.signatures = [contrast("a", WIDTHS, 1), nait("n", WIDTHS), contrast("b", WIDTHS, 2)]
        ends = np.cumsum(shard_rows)
        starts = ends - shard_rows
        shards = [
            self._shard(slice(start, end), plain=i == 1)
            for i, (start, end) in enumerate(zip(starts, ends, strict=True))
        ]
        self.ids = [None if starts[1] <= i < ends[1] else name for i, name in enumerate(self.ids)]
        self.index = Index(write_index(folder, shards, WIDTHS, exact={"n": self.signatures[1].hash}))
        self.scores = np.column_stack(
            [score_codes(self.codes, [s]) if s.name != "n" else self.exact for s in self.signatures]
        )

    def _shard(self, part: slice, plain: bool) -> dict[str, np.ndarray]:
        told = {} if plain else id_tensors(self.ids[part])
        return {
            "codes": self.codes[part],
            "row": self.row[part],
            "n_tokens": self.n_tokens[part],
            "exact.n": self.exact[part],
            **told,
        }


@pytest.fixture(params=[[100, 57, 100], [1, 0, 256], [257, 0]], ids=str)
def made(request: pytest.FixtureRequest, tmp_path: Path) -> Made:
    return Made(tmp_path / "index", request.param)


@pytest.mark.parametrize("rows", [1, 7, 64, 1000])
def test_a_stream_gives_every_row_in_order(made: Made, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "READ_BYTES", 13 * rows)
    stream = Stream(made.index, ["n"], rows=rows)
    whole = [(p.codes.copy(), p.row, p.n_tokens, p.exact["n"]) for p in stream.parts()]
    mapped = list(
        Stream(made.index, ["n"], rows=rows).map(lambda p: (p.codes.copy(), p.row, p.n_tokens, p.exact["n"]), 3)
    )
    for got in (whole, mapped):
        assert all(len(part[0]) <= rows for part in got)
        for values, expected in zip(
            zip(*got, strict=True), (made.codes, made.row, made.n_tokens, made.exact), strict=True
        ):
            assert (np.concatenate(values) == expected).all()
    uncoded = list(Stream(made.index, codes=False, rows=rows).parts())
    assert {p.codes.shape[1] for p in uncoded} == {0} and sum(len(p.row) for p in uncoded) == ROWS


def test_buffers_are_aligned_and_few(made: Made) -> None:
    seen = {part.codes.ctypes.data for part in Stream(made.index, rows=5).parts()}
    assert len(seen) <= 3 and all(address % 64 == 0 for address in seen)


@pytest.mark.parametrize("rows", [1, 10, 1000])
def test_ids_in_pieces(made: Made, rows: int) -> None:
    found: list[str | None] = []
    for piece in ids(made.index, rows):
        for start, end, absent in zip(piece.offsets, piece.offsets[1:], piece.absent, strict=False):
            found.append(None if absent else piece.text[start:end].tobytes().decode())
    assert found == made.ids


def test_a_stream_left_early_stops_its_threads(made: Made) -> None:
    parts = Stream(made.index, rows=3).parts()
    next(parts)
    parts.close()


def test_a_file_cut_short_while_it_is_read(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = max(made.index.entries, key=lambda e: e.rows)
    layout = made.index.layout_of(entry)
    monkeypatch.setattr(made.index, "layout_of", lambda e: layout)
    made.index.entries = [entry] * (entry.number + 1)
    with open(entry.path, "r+b") as file:
        file.truncate(layout["codes"].offset + 100)
    with pytest.raises(NaitError, match="ends early"):
        list(Stream(made.index).parts())
    entry.path.unlink()
    with pytest.raises(NaitError, match="no such file; rebuild it with"):
        list(Stream(made.index).map(lambda part: None, 2))


def test_damaged_ids_are_refused(made: Made, tmp_path: Path) -> None:
    entry = max(made.index.entries, key=lambda e: e.rows)
    offset = made.index.layout_of(entry)["id_ends"].offset
    whole = entry.path.read_bytes()
    with open(entry.path, "r+b") as file:
        file.seek(offset + 8 * 3)
        file.write((10**6).to_bytes(8, "little"))
    with pytest.raises(NaitError, match="bytes of 'id_ends' have changed"):
        rank_index(made.index, made.signatures, BudgetOptions(), 0, tmp_path, Pool())
    entry.path.write_bytes(whole)
    tensors, meta = read_tensors(entry.path, "shard")
    held = {name: np.array(array) for name, array in tensors.items()}
    held["id_ends"][3] = 10**6
    data = pack_tensors(held, meta)  # under right checksums
    entry.path.write_bytes(data)
    made.index.entries = [
        replace(e, bytes=len(data), checksum=checksum_of(data)) if e == entry else e for e in made.index.entries
    ]
    with pytest.raises(NaitError, match="its ids are damaged; rebuild it"):
        rank_index(made.index, made.signatures, BudgetOptions(), 0, tmp_path, Pool())


@pytest.mark.parametrize("score_bytes", [1, 500, 1 << 20])
def test_scores_do_not_depend_on_blocks(made: Made, score_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "SCORE_BYTES", score_bytes)
    monkeypatch.setattr(launch, "SMALL_SCAN_BYTES", 1 if score_bytes == 500 else 1 << 31)
    blocks = list(scan(made.index, made.signatures))
    assert (np.concatenate([b.row for b in blocks]) == made.row).all()
    assert (np.concatenate([b.scores for b in blocks]) == made.scores).all()
    only_exact = list(scan(made.index, [made.signatures[1]]))
    assert (np.concatenate([b.scores for b in only_exact])[:, 0] == made.exact).all()
    best, scores = search(made.index, made.signatures[0], 20)
    expected = naive_select.combined_order(made.row, made.scores[:, :1], "mean")[:20]
    assert best.tolist() == made.row[expected].tolist() and scores.tolist() == made.scores[expected, 0].tolist()


CHOICES = [
    {"fraction": 0.2},
    {"top_k": 9, "combine": "union", "pick": "bottom"},
    {"token_budget": 900, "pick": "random"},
    {"top_k": ROWS, "combine": "roundrobin"},
]


@pytest.mark.parametrize("options", CHOICES, ids=str)
@pytest.mark.parametrize("which", ["all", "selected", "none"])
def test_the_files_of_a_selection(made: Made, tmp_path: Path, which: str, options: dict) -> None:
    out = tmp_path / "out"
    out.mkdir()
    told = rank_index(made.index, made.signatures, BudgetOptions(scores=which, **options), 5, out, Pool())
    written = {"selected.jsonl", "dataset_info.json"} | ({"scores.parquet"} if which != "none" else set())
    assert {path.name for path in out.iterdir()} == written == set(told["files"])
    for name, digest in told["files"].items():
        assert hashlib.sha256((out / name).read_bytes()).hexdigest() == digest
    lines = (out / "selected.jsonl").read_bytes().splitlines()
    assert len(lines) == told["rows_selected"] and told["scores"] == which and told["spearman_rows"] == ROWS
    if options.get("pick") != "random":
        expected = naive_select.select(made.row, made.n_tokens, made.scores, BudgetOptions(**options))
        assert lines == [Pool.line(row) for row in made.row[expected.positions()].tolist()]
        assert told["tokens_selected"] == made.n_tokens[expected.selected].sum()
        if which != "none":
            check_scores(made, out / "scores.parquet", expected, which == "all")


def check_scores(made: Made, path: Path, expected: naive_select.Selection, every: bool) -> None:
    table = parquet.read_table(path)
    kept = np.ones(ROWS, dtype=bool) if every else expected.selected
    types = ["int64", "string", "int32", "double", "double", "double", "int64", "bool"]
    assert [str(field.type) for field in table.schema] == types
    assert table.column_names == ["row", "id", "n_tokens", "score.a", "score.n", "score.b", "rank", "selected"]
    columns = [
        made.row,
        np.array(made.ids, dtype=object),
        made.n_tokens,
        *made.scores.T,
        expected.rank,
        expected.selected,
    ]
    for name, column in zip(table.column_names, columns, strict=True):
        assert table[name].to_pylist() == column[kept].tolist(), name


def test_row_groups_and_shards_do_not_change_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digests = set()
    for number, shards in enumerate(([100, 57, 100], [100, 57, 50, 50])):
        made = Made(tmp_path / f"index{number}", shards)
        told = rank_index(made.index, made.signatures, BudgetOptions(), 0, made.index.folder.parent, Pool())
        digests.add(told["files"]["scores.parquet"])
    assert len(digests) == 1


def test_nothing_is_left_after_an_error(made: Made, tmp_path: Path) -> None:
    class Changed(Pool):
        def lines(self, rows: np.ndarray) -> Iterator[bytes]:
            yield b"{}"
            raise NaitError("pool.jsonl: changed since it was indexed")

    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(NaitError, match="changed since"):
        rank_index(made.index, made.signatures, BudgetOptions(), 0, out, Changed())
    assert not list(out.iterdir())


def test_torch_is_asked_only_where_there_may_be_a_gpu(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scanning, "GPU_SCAN_BYTES", 1)
    monkeypatch.setattr(scanning, "pick_device", lambda device: f"picked {device}")
    for may, chosen in ((False, "cpu"), (True, "picked auto")):
        monkeypatch.setattr(scanning, "_may_have_gpu", lambda may=may: may)
        assert scanning.scan_device("auto", made.index, made.signatures) == chosen
        assert scanning.scan_device("cuda:1", made.index, made.signatures) == "picked cuda:1"
        assert scanning.scan_device("cuda:1", made.index, made.signatures[1:2]) == "cpu"


IN_A_PROCESS = """
import resource, sys
from pathlib import Path
import numpy as np
sys.path.insert(0, {root!r})
from nait_fast.config import BudgetOptions
from nait_fast.env import environment
from nait_fast.index.reader import Index
from nait_fast.ranking import columns, external, selection_files, spearman
from nait_fast.verbs.rank import rank_index
from tests.ranking.indexes import contrast
from tests.ranking.test_rank_index import Pool

external.BUCKET_ROWS, spearman.EXACT_ROWS = 1 << 13, 10_000
selection_files.GROUP_CELLS, columns.BLOCK_CELLS = 1 << 14, 1 << 14
peaks = []
for name in ("small", "large"):
    folder = Path({folder!r}) / name
    signatures = [contrast(str(i), [1024], i, 2) for i in range(4)]
    for combine in ("mean", "roundrobin"):
        rank_index(Index(folder), signatures, BudgetOptions(top_k=500, combine=combine), 0, folder.parent, Pool())
    environment()
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
print(*peaks, "torch" in sys.modules)
"""


def test_memory_does_not_grow_with_the_rows_and_torch_stays_out(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    codes = generator.integers(0, 256, (40_000, 128), dtype=np.uint8)
    for name, shards in (("small", 1), ("large", 10)):
        each = (
            {
                "codes": np.roll(codes, i, axis=1),
                "row": np.arange(i * 40_000, (i + 1) * 40_000),
                "n_tokens": generator.integers(1, 99, 40_000).astype(np.int32),
            }
            for i in range(shards)
        )
        write_index(tmp_path / name, each, [1024])
    script = IN_A_PROCESS.format(root=str(Path(__file__).parents[2]), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    small, large, torch = done.stdout.split()
    assert torch == "False"
    assert int(large) - int(small) < 12, (small, large)  # MB; the large one's codes are 51, its columns 18
