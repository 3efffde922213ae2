"""The adapters in their real hosts, on real samples: the scores beside the API's, and the time.

    python -m benchmarks.adapters --model FILE.gguf --dataset POOL.jsonl.gz --target FILE [--rows 200] [--hosts NAME …]

A signature is made of the target's first 32 samples, under a codebook of the pool's first 64. Each host that can be
imported then scores the first ``--rows`` samples of the pool in one worker, in batches of 64; a row each goes to
``--output`` (default: ``adapters.jsonl`` of this hardware) with the host's version, the largest difference from
``Scorer.score`` on the same batches, how many scores differ, and the seconds with the host's own start and loading the
model.
"""

import argparse
import importlib.util
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import nait_fast
from benchmarks.pools import lines_of
from benchmarks.record import record, table

BATCH = 64
NAME = "score.target"
COLUMNS = ("instruction", "input", "output")  # the samples are Alpaca rows
Rows = list[dict[str, Any]]


def hf_datasets(model: str, signature: str, rows: Rows, options: dict[str, Any]) -> list[float]:
    from datasets import Dataset

    from nait_fast.integrations.hf_datasets import ScoreColumns

    scorer = ScoreColumns(model, signature, **options)
    return Dataset.from_list(rows).map(scorer, batched=True, batch_size=BATCH)[NAME]


def data_juicer(model: str, signature: str, rows: Rows, options: dict[str, Any]) -> list[float]:
    from data_juicer.core.data import NestedDataset
    from data_juicer.utils.constant import Fields

    from nait_fast.integrations.data_juicer import NaitFastFilter

    op = NaitFastFilter(model, signature, scorer_options=options, batch_size=BATCH, auto_op_parallelism=False)
    return [row[Fields.stats].get(NAME) for row in NestedDataset.from_list(rows).process(op)]


def datatrove(model: str, signature: str, rows: Rows, options: dict[str, Any]) -> list[float]:
    from datatrove.data import Document
    from datatrove.executor.local import LocalPipelineExecutor

    from nait_fast.integrations.datatrove import NaitFilter

    out: list[float] = []

    def read(data: Any, rank: int, world_size: int) -> Any:
        return (Document(text="-", id=str(i), metadata=dict(row)) for i, row in enumerate(rows))

    def keep(data: Any, rank: int, world_size: int) -> Any:
        for doc in data:
            out.append(doc.metadata[NAME])
            yield doc

    with tempfile.TemporaryDirectory() as logs:
        step = NaitFilter(model, signature, columns=COLUMNS, batch_size=BATCH, **options)
        LocalPipelineExecutor([read, step, keep], tasks=1, workers=1, logging_dir=logs).run()
    return out


def ray_data(model: str, signature: str, rows: Rows, options: dict[str, Any]) -> list[float]:
    import ray

    from nait_fast.integrations.ray_data import score

    with _ray():
        numbered = [{**row, "row": i} for i, row in enumerate(rows)]
        dataset = ray.data.from_items(numbered, override_num_blocks=1)
        scored = score(dataset, model, signature, columns=COLUMNS, batch_size=BATCH, **options).take_all()
    return [row[NAME] for row in sorted(scored, key=lambda row: row["row"])]


@contextmanager
def _ray() -> Iterator[None]:
    """Ray on this machine, whose workers find this checkout."""
    import ray

    from nait_fast.workers.ray_cluster import shut_down

    root = str(Path(__file__).resolve().parent.parent)
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env={"env_vars": {"PYTHONPATH": root}})
    try:
        yield
    finally:
        shut_down(ray)


def nemo_curator(model: str, signature: str, rows: Rows, options: dict[str, Any]) -> list[float]:
    import pandas as pd
    from nemo_curator.backends.ray_data import RayDataExecutor
    from nemo_curator.pipeline import Pipeline
    from nemo_curator.tasks import DocumentBatch

    from nait_fast.integrations.nemo_curator import NaitScoreStage

    with _ray():
        numbered = [{**row, "row": i} for i, row in enumerate(rows)]
        parts = [pd.DataFrame(numbered[i : i + BATCH]) for i in range(0, len(rows), BATCH)]
        stage = NaitScoreStage(model, signature, columns=COLUMNS, **options).with_(num_workers=1)
        tasks = Pipeline("scores", stages=[stage]).run(
            RayDataExecutor(), initial_tasks=[DocumentBatch("pool", part) for part in parts]
        )
    return pd.concat([task.to_pandas() for task in tasks or []]).sort_values("row")[NAME].tolist()


HOSTS: dict[str, tuple[str, str, Callable[..., list[float]]]] = {
    "datasets": ("datasets", "Dataset.map", hf_datasets),
    "ray": ("ray", "Dataset.map_batches", ray_data),
    "data_juicer": ("py-data-juicer", "NestedDataset.process", data_juicer),
    "datatrove": ("datatrove", "LocalPipelineExecutor", datatrove),
    "nemo_curator": ("nemo-curator", "Pipeline, RayDataExecutor", nemo_curator),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--dataset", required=True, type=Path)
    parser.add_argument("--target", required=True, type=Path)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--max-length", type=int, default=384)
    parser.add_argument("--hosts", nargs="+", choices=HOSTS, default=list(HOSTS))
    parser.add_argument("--output", type=Path, help="a file adapters.jsonl")
    arguments = parser.parse_args()
    if arguments.output is not None and arguments.output.name != "adapters.jsonl":
        parser.error(f"--output {arguments.output}: rows of this benchmark go to a file named adapters.jsonl")
    options = {"max_length": arguments.max_length}
    with tempfile.TemporaryDirectory() as folder:
        signature, rows = _prepare(Path(folder), arguments, options)
        api = nait_fast.Scorer(arguments.model, [signature], **options)
        started = time.perf_counter()
        expected = np.concatenate([api.score(rows[i : i + BATCH])[:, 0] for i in range(0, len(rows), BATCH)])
        alone = time.perf_counter() - started
        print(f"API: {len(rows)} samples in {alone:.1f} s")
        done = []
        for module in arguments.hosts:
            package, through, score = HOSTS[module]
            if importlib.util.find_spec(module) is None:
                print(f"{package}: not installed")
                continue
            started = time.perf_counter()
            scores = np.array(score(arguments.model, signature, rows, options), dtype=np.float64)
            seconds = time.perf_counter() - started
            difference = np.abs(scores - expected)
            row = {
                "host": package,
                "version": version(package),
                "through": through,
                "rows": len(rows),
                "max_difference": float(difference.max()),
                "differing": int((difference > 1e-9).sum()),
                "score_deviation": float(expected.std()),
                "seconds": seconds,
                "api_seconds": alone,
                "batch_size": BATCH,
                "max_length": arguments.max_length,
                "model": Path(arguments.model).name,
                "dataset": arguments.dataset.name,
                "target": arguments.target.name,
            }
            path = record("adapters", [row], arguments.output and arguments.output.parent)
            print(f"{package}: {seconds:.1f} s, largest difference {difference.max():.1e}; row appended to {path}")
            done.append(row)
    print(table(done, ["host", "version", "through", "rows", "max_difference", "differing", "seconds", "api_seconds"]))


def _prepare(folder: Path, arguments: argparse.Namespace, options: dict[str, Any]) -> tuple[str, Rows]:
    """(the signature's file, the pool's first rows)."""
    lines = lines_of(arguments.dataset, arguments.rows)
    (folder / "pool.jsonl").write_bytes(b"".join(lines[:64]))
    (folder / "target.jsonl").write_bytes(b"".join(lines_of(arguments.target, 32)))
    common = {"model": arguments.model, **options}
    nait_fast.build_index(dataset=folder / "pool.jsonl", calibration_size=64, output=folder / "index", **common)
    target = [f"target={folder / 'target.jsonl'}"]
    nait_fast.build_signature(target=target, codebook=folder / "index", output=folder, **common)
    return str(folder / "target.safetensors"), [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
