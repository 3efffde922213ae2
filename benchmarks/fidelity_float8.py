"""What bf16 and FP8 products change: bits of neurons, contrast scores and what they retrieve, against fp32.

    python -m benchmarks.fidelity_float8 --model MODEL --dataset POOL.jsonl.gz --target NAME=FILE … --work DIR
        [--rows 3040] [--samples 64] [--max-length 384] [--precision NAME …]

Every row and target sample runs in each precision: float32, bfloat16, float8, and the last two once more with outlier
channels as models of 7B parameters have them: CHANNELS of the hidden state are multiplied, in the norms before
attention and MLP of every layer, and the weights that they meet divided. That is the same function, and for a power
of two the same fp32 numbers. A bit is a mean reading above the mean of a sample of CALIBRATION rows in the same
precision, as an index's is; contrast's weights are the differences of the frequencies of bits of a target and of that
sample. What ``--work`` holds already is not run again. A row of results for each precision and target.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.pools import described, lines_of, pool_parser, write_pool
from benchmarks.record import record, table
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.data.pool import Pool
from nait_fast.data.prefixes import shared_prefixes
from nait_fast.evaluation.comparison import compared
from nait_fast.evaluation.retrieval import r_precision
from nait_fast.extract.session import encode_all, open_session
from nait_fast.extract.sinks import Collect
from nait_fast.models.find import decoder_layers
from nait_fast.models.load import load_model
from nait_fast.progress import Progress

PRECISIONS = ("float32", "bfloat16", "float8", "bfloat16, outliers", "float8, outliers")
CHANNELS = {11: 64, 101: 256, 307: 1024}  # of the hidden state -> how many times as large
CALIBRATION = 512
BATCH = 8192  # tokens: a CPU unpacks an FP8 weight once a product
# Norms of a layer and the parts that read what comes out of them: of Llama, and of Gemma 3, whose norms scale by 1 + w.
READERS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "pre_feedforward_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


def with_outliers(model: str, folder: Path) -> str:
    """A checkpoint in ``folder`` that computes what ``model`` does, with outlier channels."""
    if (folder / "config.json").exists():
        return str(folder)
    loaded = load_model(model, dtype="float32")
    body: Any = loaded.body
    with torch.no_grad():
        for layer in decoder_layers(body):
            gemma = hasattr(layer, "pre_feedforward_layernorm")
            for norm, parts in READERS.items():
                if not hasattr(layer, norm) or (gemma and norm == "post_attention_layernorm"):
                    continue
                weight, offset = getattr(layer, norm).weight, float(gemma)
                for channel, factor in CHANNELS.items():
                    weight[channel] = (weight[channel] + offset) * factor - offset
                    for part in parts:
                        layer.get_submodule(part).weight[:, channel] /= factor
    for attribute in ("quantization_config", "_pre_quantization_dtype"):
        body.config.__dict__.pop(attribute, None)
    body.hf_quantizer, body.is_quantized = None, False
    body.save_pretrained(folder)
    return str(folder)


def captured(model: str, precision: str, files: Mapping[str, Path], max_length: int, work: Path) -> dict[str, Any]:
    """Mean readings fp32 [n, N] of each of ``files``, by its name."""
    folder = work / precision.replace(", ", "-")
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        dtype, _, outliers = precision.partition(", ")
        source = with_outliers(model, work / "with-outliers") if outliers else model
        options = ModelOptions(
            model=source, tokenizer=model, dtype=dtype, batch_tokens=BATCH
        )  # a GGUF file's is its own
        session = open_session(options, DataOptions(max_length=max_length))
        for name, file in files.items():
            _, encoded = encode_all(session.encoder, Pool(str(file)))
            sink = Collect(len(encoded), session.layout, ["mean"])
            progress = Progress(len(encoded), f"{precision}: {name}", session.quiet)
            session.run(encoded, sink, ["mean"], shared_prefixes(encoded), progress.add)
            progress.close()
            np.save(folder / f"{name}.npy", sink.readings["mean"].numpy())
        (folder / "done").touch()
    return {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in files}


def bits_and_scores(readings: Mapping[str, np.ndarray], seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(bits bool [n, N] of the pool, scores float64 [n] of each target)."""
    pool = readings["pool"]
    drawn = np.sort(np.random.default_rng(seed).permutation(len(pool))[:CALIBRATION])
    sample = pool[drawn]
    thresholds = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    frequency = (sample > thresholds).mean(axis=0)
    bits = np.concatenate([pool[i : i + CALIBRATION] > thresholds for i in range(0, len(pool), CALIBRATION)])
    weights = {name: (r > thresholds).mean(axis=0) - frequency for name, r in readings.items() if name != "pool"}
    columns = np.stack(list(weights.values()), axis=1)
    scores = np.concatenate([bits[i : i + CALIBRATION] @ columns for i in range(0, len(pool), CALIBRATION)])
    return bits, dict(zip(weights, scores.T, strict=True))


def measured(of: Mapping[str, Mapping[str, np.ndarray]], sources: np.ndarray, seed: int) -> Iterator[dict[str, Any]]:
    """A row for each precision of ``of``, float32 among them, and target."""
    exact_bits, exact_scores = bits_and_scores(of["float32"], seed)
    for precision, readings in of.items():
        bits, scores = bits_and_scores(readings, seed)
        different = float(np.mean([(a != b).mean() for a, b in zip(bits, exact_bits, strict=True)]))
        for name, mine in scores.items():
            relevant = sources == name
            yield {
                "precision": precision,
                "target": name,
                "rows": len(bits),
                "bits": round(different, 6),
                **{key: round(value, 6) for key, value in compared(mine, exact_scores[name]).items()},
                "r_precision": round(r_precision(mine, relevant), 4) if relevant.any() else None,
            }


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """The table of docs/methods.md for the rows of one model."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    shown = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        mine = [row for row in rows if row["precision"] == precision]
        line = {"precision": precision, "bits that differ": f"{mine[0]['bits']:.2%}"}
        line["Spearman, worst"] = f"{min(row['spearman'] for row in mine):.4f}"
        line["best 10%, worst"] = f"{min(row['top10'] for row in mine):.3f}"
        line |= {f"{row['target']}": f"{row['r_precision']:.3f}" for row in mine}
        shown.append(line)
    first = rows[0]
    return (
        f"**Precisions** by {first['model']}: bits and contrast scores of {first['rows']:,} samples of at most "
        f"{first['max_length']} tokens against those in float32, the worst of {len(targets)} targets; then the "
        "R-precision of each target's own source.\n\n"
        f"{table(shown, list(shown[0]))}\n"
    )


def main() -> None:
    parser = pool_parser(__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for the readings")
    parser.add_argument("--samples", type=int, default=64, help="of each target")
    parser.add_argument("--precision", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    arguments = parser.parse_args()
    files = {"pool": write_pool(arguments)}
    for name, _, file in (text.partition("=") for text in arguments.target):
        files[name] = arguments.work / f"{name}.jsonl"
        files[name].write_bytes(b"".join(lines_of(Path(file), arguments.samples)))
    of = {p: captured(arguments.model, p, files, arguments.max_length, arguments.work) for p in arguments.precision}
    if "float32" not in of:
        return
    sources = np.array([json.loads(line)["source"] for line in lines_of(files["pool"])])
    about = described(arguments, "max_length", "seed", "samples")
    rows = [about | row for row in measured(of, sources, arguments.seed)]
    path = record("fidelity_float8", rows)
    print(lines(rows))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
