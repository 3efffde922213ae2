"""Rows whose codes lie next to an evaluation sample's, against every pair."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nait_fast.errors import NaitError
from nait_fast.methods.signature import load_signature
from nait_fast.rules.best_first import Budget
from nait_fast.rules.constraints.decontaminate_codes import CodeDecontamination
from nait_fast.rules.constraints.selecting import select_rows
from nait_fast.storage.files import sha256_file
from tests.rules.made import MadePool, make_pool, rows_of
from tests.rules.orders import Chunked
from tests.rules.test_near_duplicates import families

FLIPPED = 12  # bits of 256 in which planted rows differ from their samples


@pytest.fixture
def made(tmp_path: Path) -> MadePool:
    return make_pool(tmp_path / "made", families(80, 32, 200, seed=1))


def planted(codes: np.ndarray, places: list[int]) -> np.ndarray:
    """Samples uint8 [n, 32] that differ from the codes at ``places`` in ``FLIPPED`` bits."""
    generator, out = np.random.default_rng(0), codes[places].copy()
    for code in out:
        flips = np.zeros(256, dtype=np.uint8)
        flips[generator.choice(256, FLIPPED, replace=False)] = 1
        code ^= np.packbits(flips)
    return out


def keeping(made: MadePool, folder: Path, samples: np.ndarray) -> Path:
    """A signature that keeps ``samples``."""
    signature, number = load_signature(made.signature), len(samples)
    kept = {"samples": samples, "lengths": np.full(number, 9, dtype=np.int32)}
    folder.mkdir()
    meta = {**signature.meta, "samples": number}
    replace(signature, meta=meta, tensors={**signature.tensors, **kept}).save(folder)
    return folder / "a.safetensors"


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_every_pair(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAIT_FAST_BACKEND", backend)
    every = families(159, 32, 20, seed=3)
    codes, others = every[:150], every[150:]
    order = np.random.default_rng(1).permutation(150)
    near = CodeDecontamination([codes[:60], codes[60:]], [("x", others[:4]), ("y", others[4:])], 0.2, 256)
    chosen = select_rows(Chunked(order), Budget(rows=150), [near])
    apart = np.bitwise_count(codes[:, None] ^ others[None]).sum(axis=2)
    gone = [place for place in order.tolist() if apart[place].min() <= 51]  # less than 51.2
    assert 5 < len(gone) < 150 and chosen.places.tolist() == [p for p in order.tolist() if p not in gone]
    found = {
        place: (name, int(sample), int(bits))
        for d in chosen.dropped
        for place, name, sample, bits in zip(d.places.tolist(), *d.details.values(), strict=True)
    }
    for place in gone:
        nearest = int(np.argmin(apart[place]))
        expected = ("x", nearest) if nearest < 4 else ("y", nearest - 4)
        assert found[place] == (*expected, int(apart[place].min()))
    assert found.keys() == set(gone)


def test_in_a_selection(made: MadePool, tmp_path: Path) -> None:
    places = made.order[[0, 3, 8]].tolist()
    file = keeping(made, tmp_path / "kept", planted(made.codes, places))
    summary = made.rank(tmp_path / "out", top_k=10, decontaminate_codes=[file])
    assert rows_of(tmp_path / "out" / "dropped.jsonl") == [
        {
            "row": int(made.row[place]),
            "id": f"é{made.row[place]}",
            "constraint": "decontaminate-codes",
            "evaluation": str(file),
            "sample": places.index(place),
            "bits": FLIPPED,
        }
        for place in sorted(places)
    ]
    said = {"constraint": "decontaminate-codes", "dropped": 3, "share": 0.05, "most_bits": FLIPPED, "samples": 3}
    said["signatures"] = {str(file): sha256_file(file)[:16]}
    assert summary["constraints"] == [said]
    near = made.rank(tmp_path / "near", top_k=10, decontaminate_codes=[file], decontaminate_distance=0.04)
    assert near["constraints"][0]["dropped"] == 0


def test_files_that_keep_no_codes(made: MadePool, tmp_path: Path) -> None:
    for file, words in (
        (
            made.signature,
            f"--decontaminate-codes {made.signature}: signature 'a' does not keep its target's samples; make it again "
            "with",
        ),
        (made.pool, "pool.jsonl: damaged or truncated"),
        (tmp_path / "none", "no such file"),
    ):
        with pytest.raises(NaitError, match=words):
            made.rank(tmp_path / "out", decontaminate_codes=[file])
    file = keeping(made, tmp_path / "kept", made.codes[:3])
    with pytest.raises(NaitError, match=r"--decontaminate-distance 0\.0: is a share of a code's bits"):
        made.rank(tmp_path / "out", decontaminate_codes=[file], decontaminate_distance=0.0)
    signature = load_signature(file)
    (tmp_path / "other").mkdir()
    replace(signature, meta={**signature.meta, "codebook": "d" * 16}).save(tmp_path / "other")
    with pytest.raises(NaitError, match="made with another codebook"):
        made.rank(tmp_path / "out", decontaminate_codes=[tmp_path / "other" / "a.safetensors"])
