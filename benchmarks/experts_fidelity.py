"""What to keep of a mixture of experts: bits of the router, or of some neurons a layer, against all neurons' bits.

    python -m benchmarks.experts_fidelity --model FOLDER --dataset POOL.jsonl --target NAME=FILE … --work DIR

On a model so small that all neurons of a sample can be kept (``benchmarks.make_moe``), or a dense one for comparison.
The pool is a stratified sample, whose ``source`` is a target's NAME where the row is of its kind; 512 of its samples
calibrate. The signatures are those of the product, made from what a code reads, and so are the codes and the scan; the
chosen neurons are those of a layer whose mean varies most in the calibration sample, as ``--experts neurons:N`` takes
them for codec components, and beside them as many of each expert, those of it that vary most, and as many drawn at
random, as codec neuron takes them. "Where routed": a bit is set only where a token was sent to the neuron's expert, and
the mean is above that of the samples where one was. A row for each code, method and target: R-precision, AUC, and
Spearman and overlap of the best 10% with the scores by all neurons' bits (contrast) or by all neurons' readings (nait).
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.fidelity import CALIBRATION, exact_scores
from benchmarks.pools import described, stratified
from benchmarks.readings import Readings, captured, work_parser
from benchmarks.record import record, table
from nait_fast.codecs.codebook import Codebook
from nait_fast.codecs.layout import CodeLayout
from nait_fast.evaluation.comparison import compared
from nait_fast.evaluation.retrieval import auc, r_precision
from nait_fast.methods.contrast import contrast_signature, neuron_proxy
from nait_fast.methods.nait import nait_signature
from nait_fast.ranking.scan import score_codes
from nait_fast.verbs.model_inspection import inspect_model

SHARES = (48, 12, 4, 2)  # a layer's neurons are divided by: 12 is 8,192 of Qwen3-30B-A3B's 98,304
LEVELS = 127

Scores = dict[str, np.ndarray]  # method -> float64 [n, C]


@dataclass(frozen=True)
class Kept:
    """What a code keeps of the pool and the targets: some neurons of each layer, or the router's weights.

    ``layout``: of the kept ones; ``at`` int64 [kept]: their places among those of ``pool`` and ``targets``, whose
    readings are mean and drift; ``routed``: a bit is set only where a token was sent to the neuron's expert, and the
    threshold is of such samples alone.
    """

    name: str
    pool: Readings
    targets: Mapping[str, Readings]
    layout: CodeLayout
    at: np.ndarray
    routed: bool

    def of(self, readings: Readings, reading: str) -> np.ndarray:
        """fp32 [n, kept]."""
        return readings.pool[reading][:, self.at]

    def scores(self, sample: np.ndarray) -> Scores:
        """``sample`` int64: the pool's rows that calibrate."""
        mean = self.of(self.pool, "mean")
        threshold = self._threshold(mean[sample])

        def bits(values: np.ndarray) -> np.ndarray:
            above = values > threshold
            return above & (values != 0) if self.routed else above

        n = len(self.layout.widths)
        meta: dict[str, Any] = {
            "codec": "neuron",
            "reading": "mean",
            "widths": list(self.layout.widths),
            "layers": list(range(n)),
            "samples": len(sample),
        }
        scale = mean[sample].std(axis=0, dtype=np.float64).astype(np.float32)
        codebook = Codebook(bits(mean[sample]).mean(axis=0).astype(np.float32), meta, threshold, scale)
        codes = self.layout.pack(bits(mean))
        contrast = [
            contrast_signature(name, bits(self.of(target, "mean")), codebook) for name, target in self.targets.items()
        ]
        widths = {key: meta[key] for key in ("widths", "layers")}
        nait = [nait_signature(name, self.of(target, "drift"), widths) for name, target in self.targets.items()]
        return {
            "contrast": score_codes(codes, contrast),
            "nait, mean, bits": score_codes(codes, [neuron_proxy(signature, codebook) for signature in nait]),
            "nait, mean, int8": exact_scores(levels(mean, mean[sample]), nait),
            "nait, mean, exact": exact_scores(mean, nait),
            "nait, drift, exact": exact_scores(self.of(self.pool, "drift"), nait),
        }

    def _threshold(self, mean: np.ndarray) -> np.ndarray:
        """fp32 [kept] of the calibration sample's ``mean`` [m, kept]."""
        count = (mean != 0).sum(axis=0) if self.routed else len(mean)
        return (mean.sum(axis=0, dtype=np.float64) / np.maximum(count, 1)).astype(np.float32)

    def bytes(self, method: str) -> int:
        """Of a sample: of its code, or of one target's score."""
        one_a_number = {"int8": self.layout.n_neurons, "exact": 8}
        return one_a_number.get(method.rpartition(", ")[2], self.layout.row_bytes)


def levels(values: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """``values`` [n, N] rounded as int8 holds them, in steps of the largest deviation in ``sample`` [m, N]."""
    centre = sample.mean(axis=0)
    step = np.abs(sample - centre).max(axis=0) / LEVELS
    step[step == 0] = 1
    return np.clip(np.rint((values - centre) / step), -LEVELS, LEVELS) * step


def chosen(layout: CodeLayout, order: np.ndarray, each: int) -> tuple[CodeLayout, np.ndarray]:
    """The layout and the places of ``each`` neurons of every layer: those of the highest ``order`` [N]."""
    parts = []
    for ordinal, width in enumerate(layout.widths):
        at = layout.neurons(ordinal)
        parts.append(at.start + np.sort(np.argsort(-order[at], kind="stable")[: min(each, width)]))
    return CodeLayout.of([len(part) for part in parts]), np.concatenate(parts)


def of_each_expert(order: np.ndarray, layout: CodeLayout, experts: CodeLayout) -> np.ndarray:
    """``order`` [N] such that a layer's first neurons are the best one of each of its ``experts``, then the second."""
    out = np.empty(len(order))
    for ordinal, number in enumerate(experts.widths):
        layer = order[layout.neurons(ordinal)]
        best_first = np.argsort(-layer.reshape(number, -1), axis=1, kind="stable")
        place = np.argsort(best_first, axis=1)  # of each neuron within its expert
        out[layout.neurons(ordinal)] = layer / (layer.max() or 1) / 2 - place.ravel()
    return out


def kept_of(
    neurons: tuple[Readings, Mapping[str, Readings]],
    router: tuple[Readings, Mapping[str, Readings]] | None,
    sample: np.ndarray,
    seed: int,
) -> Iterator[Kept]:
    """Everything that is compared; all neurons come first. ``router``: None for a dense model."""
    layout = neurons[0].layout
    everyone = np.arange(layout.n_neurons)
    yield Kept("all neurons", *neurons, layout, everyone, routed=False)
    sizes = {max(1, max(layout.widths) // share): f"1/{share} of a layer" for share in SHARES}
    if router is not None:
        yield Kept("all neurons, where routed", *neurons, layout, everyone, routed=True)
        experts = router[0].layout
        yield Kept("router", *router, experts, np.arange(experts.n_neurons), routed=False)
        same = -(-max(experts.widths) // 32) * 32  # as many as the router's words have room for
        sizes |= {same: "the bytes of the router's bits", 8 * max(experts.widths): "the bytes of its int8"}
    variance = neurons[0].pool["mean"][sample].var(axis=0, dtype=np.float64)
    at_random = np.random.default_rng(seed).random(layout.n_neurons)
    for each, why in sorted(sizes.items()):
        most, drawn = chosen(layout, variance, each), chosen(layout, at_random, each)
        yield Kept(f"{each} neurons a layer ({why})", *neurons, *most, routed=False)
        if router is not None:
            spread = chosen(layout, of_each_expert(variance, layout, router[0].layout), each)
            yield Kept(f"{each} neurons a layer, as many of each expert", *neurons, *spread, routed=False)
        yield Kept(f"{each} neurons a layer, drawn", *neurons, *drawn, routed=False)


def measured(every: Iterator[Kept], sources: np.ndarray, sample: np.ndarray) -> Iterator[dict[str, Any]]:
    """A row for each code, method and target."""
    whole: Scores = {}
    for kept in every:
        mine = kept.scores(sample)
        whole = whole or mine
        for method, scores in mine.items():
            if method.endswith("int8") and kept.name != "router":
                continue
            by = method if method == "contrast" else method.replace("bits", "exact").replace("int8", "exact")
            for c, name in enumerate(kept.targets):
                relevant = sources == name
                yield {
                    "code": kept.name,
                    "method": method,
                    "bytes": kept.bytes(method),
                    "target": name,
                    "rows": len(scores),
                    "relevant": int(relevant.sum()),
                    "r_precision": r_precision(scores[:, c], relevant),
                    "auc": auc(scores[:, c], relevant),
                    **compared(whole[by][:, c], scores[:, c]),
                }


def lines(rows: list[dict[str, Any]]) -> str:
    """Markdown: a table for each method, means over the targets and R-precision of each."""
    parts = []
    for method in dict.fromkeys(row["method"] for row in rows):
        shown = []
        for code in dict.fromkeys(row["code"] for row in rows if row["method"] == method):
            mine = [row for row in rows if (row["code"], row["method"]) == (code, method)]
            means = {key: f"{np.mean([row[key] for row in mine]):.3f}" for key in COLUMNS}
            cells = {row["target"]: f"{row['r_precision']:.3f}" for row in mine}
            shown.append({"code": code, "bytes": f"{mine[0]['bytes']:,}", **means, **cells})
        parts.append(f"{rows[0]['model']}, {method}\n\n{table(shown, list(shown[0]))}\n")
    return "\n".join(parts)


def page(rows: list[dict[str, Any]]) -> str:
    """What docs/methods.md shows: a table for each mixture, means over the targets; of the sizes those that take the
    router's bytes, at a bit and at a byte an expert."""
    parts = []
    for model in dict.fromkeys(row["model"] for row in rows if row["code"] == "router"):
        every = [row for row in rows if row["model"] == model]
        codes = dict.fromkeys(row["code"] for row in every)
        sizes = {code.partition(" ")[0] for code in codes if "bytes of" in code}
        shown = []
        for code in (code for code in codes if not code[0].isdigit() or code.partition(" ")[0] in sizes):
            cells: dict[str, str] = {"kept": code, "bytes": ""}
            for method, keys in (("contrast", ("r_precision", "spearman", "top10")), (DRIFT, ("spearman", "top10"))):
                mine = [row for row in every if (row["code"], row["method"]) == (code, method)]
                cells["bytes"] = cells["bytes"] or f"{mine[0]['bytes']:,}"
                name = method.partition(",")[0]
                cells |= {f"{name}: {HEADS[key]}": f"{np.mean([row[key] for row in mine]):.3f}" for key in keys}
            shown.append(cells)
        about = f"{every[0]['rows']} rows, {every[0]['environment']['cpu']}, {every[0]['environment']['cores']} cores"
        parts.append(f"`{model}`, {about}; `{every[0]['command']}`:\n\n{table(shown, list(shown[0]))}\n")
    return "\n".join(parts)


DRIFT = "nait, drift, exact"
HEADS = {"r_precision": "R-precision", "spearman": "Spearman", "top10": "best 10%"}
COLUMNS = ("r_precision", "auc", "spearman", "top10")


def main() -> None:
    arguments = work_parser(__doc__).parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    pool = arguments.work / "pool.jsonl"
    pool.write_bytes(b"".join(stratified(arguments.dataset, arguments.rows, arguments.seed)))
    sources = np.array([json.loads(line)["source"] for line in pool.read_bytes().splitlines()])
    targets = {name: Path(path) for name, _, path in (text.partition("=") for text in arguments.target)}

    def read(experts: str) -> tuple[Readings, dict[str, Readings]]:
        every = [
            captured(arguments.model, path, {}, arguments.max_length, arguments.work, experts)
            for path in (pool, *targets.values())
        ]
        return every[0], dict(zip(targets, every[1:], strict=True))

    neurons = read("neurons")
    router = read("router") if inspect_model(arguments.model)["experts"] else None
    sample = np.sort(np.random.default_rng(arguments.seed).permutation(len(sources))[:CALIBRATION])
    about = described(arguments, "max_length", "seed")
    rows = [{**row, **about} for row in measured(kept_of(neurons, router, sample, arguments.seed), sources, sample)]
    path = record("experts_fidelity", rows)
    print(lines(rows))
    print(f"rows appended to {path.name}")


if __name__ == "__main__":
    main()
