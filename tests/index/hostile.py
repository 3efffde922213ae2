"""What a fuzzer needs: values that are not what belongs there, and every reader of a file that holds them."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from nait_fast.codecs.codebook import load_codebook
from nait_fast.data.plan import load_plan
from nait_fast.errors import NaitError
from nait_fast.index.calibration import load_calibration
from nait_fast.index.duplicates import duplicate_ids
from nait_fast.index.reader import Index
from nait_fast.methods.signature import load_signature
from nait_fast.storage.names import CALIBRATION, CODEBOOK, MANIFEST, SKIPPED
from nait_fast.verbs.inspection import inspect, verify
from tests.index.made import LAYOUT

SHARD, PLAN, SIGNATURE = "shard-00000.safetensors", "plan-00.json", "sums.safetensors"
quick = settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def shards(index: Path) -> list[Path]:
    return sorted(index.glob("shard-*"))


@contextmanager
def restored(index: Path) -> Iterator[None]:
    files = [path for path in [*index.iterdir(), index.parent / SIGNATURE] if path.is_file()]
    kept = {path: path.read_bytes() for path in files}
    try:
        yield
    finally:
        for path, data in kept.items():
            if not path.is_file() or path.read_bytes() != data:
                path.write_bytes(data)


def refused(read: Callable[[], Any]) -> str | None:
    """The one line with which a reader refuses; None if it reads. Any other exception is raised."""
    try:
        read()
    except NaitError as error:
        assert "\n" not in str(error) and len(str(error)) < 1000
        return str(error)
    return None


def read_all(folder: Path, name: str) -> bool:
    """Whether the index is whole with its file ``name`` as it is now; every reader of that file refuses or reads it."""
    readers: dict[str, list[Callable[[], Any]]] = {
        MANIFEST: [lambda: inspect(str(folder)), lambda: Index(folder).codebook],
        CODEBOOK: [lambda: load_codebook(folder), lambda: Index(folder).codebook],
        CALIBRATION: [lambda: load_calibration(folder / CALIBRATION, LAYOUT, ["sums"], {})],
        PLAN: [lambda: well_formed(load_plan(folder / PLAN))],
        SHARD: [lambda: duplicate_ids(shards(folder))],
        SKIPPED: [],
    }
    for read in readers[name]:
        refused(read)

    def read_shards() -> None:
        index = Index(folder)
        for entry, shard in zip(index.entries, index.shards(), strict=True):
            assert len(shard.codes) == len(shard.row) == len(shard.n_tokens) == entry.rows
            assert shard.codes.shape[1] == index.layout.row_bytes
            assert len(shard.ids()) == entry.rows

    opened, whole = refused(read_shards), refused(lambda: verify(str(folder)))
    assert whole is not None or opened is None  # verify finds all that opening does
    return whole is None


def read_signature(index: Path) -> bool:
    """Whether it is one; the other readers of it then take it."""
    path = index.parent / SIGNATURE
    inspected = refused(lambda: inspect(str(path)))
    assert refused(lambda: load_signature(path)) == inspected
    return inspected is None


def read_file(index: Path, name: str) -> bool:
    return read_signature(index) if name == SIGNATURE else read_all(index, name)


def well_formed(plan: Any) -> None:
    assert sum(unit.rows for unit in plan.units) == plan.rows
    assert all(type(value) is int for unit in plan.units for value in (unit.row, unit.rows, unit.part, *unit.place))


NUMBERS = st.one_of(
    st.sampled_from([0, 1, -1, 2, 5, 6, 8, 2**31, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63), 10**400]),
    st.sampled_from([0.0, 1.0, 2.0, 6.0, 1e308, float("nan"), float("inf"), -0.5]),
    st.integers(-10, 100),
)
TEXTS = st.one_of(
    st.sampled_from(["", "../x", "/etc/passwd", "a\0b", "a\nb", "\ud800", "6", "shard-00001.safetensors", "x" * 5000]),
    st.text(max_size=8),
)
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """Every place within a JSON value, as the keys that lead there."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [p for key, entry in inner for p in [(*path, key), *places(entry, (*path, key))]]


@st.composite
def changed(draw: st.DrawFn, value: dict) -> dict:
    """``value`` with something else in one or two places, or without what was there, or with more."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from(places(value)))
        inside: Any = value
        for key in path:
            inside = inside[key]
        how = draw(st.sampled_from(["other", "other", "other", "gone", "twice", "more"]))
        if how == "gone":
            del inside[last]
        elif how == "twice" and isinstance(inside, list):
            inside.append(copy.deepcopy(inside[last]))
        elif how == "more" and isinstance(inside, dict):
            inside[draw(TEXTS)] = draw(JSON)
        else:
            inside[last] = draw(JSON)
        if not places(value):
            break
    return value


def arrays(index: Path) -> list[list]:
    return [[s.codes.tolist(), s.row.tolist(), s.n_tokens.tolist(), s.ids()] for s in Index(index).shards()]
