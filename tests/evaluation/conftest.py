"""What is evaluated: a pool of two kinds, its index, and signatures by every method."""

from pathlib import Path

import pytest

import nait_fast
from tests.conftest import make_rows, write_jsonl

ROWS = 120


class World:
    """A pool of two kinds, its index with exact scores of ``nait``'s signatures, and signatures of both kinds."""

    def __init__(self, folder: Path, model: str):
        self.folder, self.model = folder, model
        self.rows = make_rows(ROWS)
        self.pool = write_jsonl(folder / "pool.jsonl", self.rows)
        self.targets = {
            kind: write_jsonl(folder / f"{kind}.jsonl", [r for r in make_rows(48, seed=7) if r["source"] == kind])
            for kind in ("sums", "texts")
        }
        target = [f"{kind}={path}" for kind, path in self.targets.items()]
        nait_fast.build_signature(model=model, target=target, method="nait", output=folder / "nait", reading="mean")
        self.index = folder / "index"
        nait = sorted(map(str, (folder / "nait").glob("*.safetensors")))
        nait_fast.build_index(
            model=model, dataset=self.pool, output=self.index, calibration_size=60, exact=nait, shard_rows=50
        )
        nait_fast.build_signature(model=model, target=target, codebook=self.index, output=folder / "contrast")
        nait_fast.build_signature(model=model, target=target, method="nait", output=folder / "drift")
        nait_fast.build_signature(model=model, target=target, method="nag:5", output=folder / "nag")
        self.rotated = folder / "rotated"
        nait_fast.build_index(
            model=model,
            dataset=self.pool,
            output=self.rotated,
            calibration_size=60,
            shard_rows=50,
            codec="rotated:outliers=6",
            embed="last",
        )
        nait_fast.build_signature(
            model=model, target=target, method="embed", codebook=self.rotated, output=folder / "embed"
        )

    def files(self, *folders: str) -> list[str]:
        return [str(self.folder / name / f"{kind}.safetensors") for name in folders for kind in ("sums", "texts")]

    def target(self) -> list[str]:
        return [f"{kind}={path}" for kind, path in self.targets.items()]


@pytest.fixture(scope="session")
def world(tmp_path_factory, tiny_model: str) -> World:
    return World(tmp_path_factory.mktemp("evaluated"), tiny_model)
