"""Options of every verb as frozen dataclasses: one definition for the API, the command line and replayable YAML."""

import dataclasses
import os
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import ClassVar, Literal

from nait_fast.codecs import CODECS, codec_of
from nait_fast.errors import BadInput
from nait_fast.methods import METHODS, method_of
from nait_fast.options import Choice, Options, Registry, option
from nait_fast.urls import is_url, path_of

COMBINES = ("mean", "max", "union", "roundrobin")
TOKENS = ("all", "response", "prompt")  # of a sample; prompt: all but the response
PICKS = ("top", "bottom", "random")
RULES = ("centroid", "roundrobin", "max")
SCORES = ("all", "selected", "none")
LENGTHS = ("free", "matched", "quota", "quota:target")  # the first is the default
EXPERTS = ("neurons", "router")
SELECTED_EXPORTS = ("llama_factory", "dataflex", "messages")  # of the selected rows
SIMILARITY_EXPORTS = ("near", "cossim")  # of all rows
EXPORTS = (*SELECTED_EXPORTS, *SIMILARITY_EXPORTS)
NLL = ("none", "loss", "ifd")  # what an index keeps of losses; the first is the default
RDS_TYPES = ("float16", "int8", "float32")  # of the numbers of ``rds`` in an index; the first is the default
MOST_NAME_BYTES = 200  # of a target: files are named after it, and a file system takes 255 with what goes around it
SHOWN_ROWS = 5  # of either end of a ranking, with their texts, in a report
LISTED_ROWS = 2000  # of a selection that a report lists, unless all are asked for: a page of a megabyte
POOL = "pool: JSONL, JSON, CSV (.gz, .zst), Parquet, folder of these, a URL, or Hub id[:CONFIG][:SPLIT]"
BENCH_SHAPES = ("smollm2-135m", "qwen2.5-1.5b", "llama-2-7b", "tiny")  # the first is the default
BENCH_PARTS = ("all", "ceilings", "kernels", "scan", "endtoend", "cli")


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """How a model is loaded and run, whichever it is."""

    group: ClassVar[str] = "model"

    tokenizer: str | None = option(None, "tokenizer, if not the model's own")
    dtype: str = option(
        "auto",
        "auto: float32 on a CPU, bfloat16 on a GPU; float8: products in FP8, the rest in bfloat16",
        choices=("auto", "float32", "bfloat16", "float16", "float8"),
    )
    device: str = option("auto", "auto, cpu, cuda, cuda:1")
    batch_tokens: int | None = option(None, "tokens a batch (default: 2048 on a CPU, 65536 on a GPU)", minimum=1)
    trust_remote_code: bool = option(False, "let the model's own Python code run")


@dataclass(frozen=True)
class Experts:
    """What is read of a mixture of experts: the 'router', or 'neurons'; of these ``kept`` a layer, all of them ('all'),
    or as many as an index has room for (None)."""

    reads: str
    kept: int | Literal["all"] | None = None


def experts_of(text: str) -> Experts:
    """Of the text of --experts. Raises BadInput."""
    reads, colon, kept = text.partition(":")
    if reads in EXPERTS and not colon:
        return Experts(reads)
    if reads == "neurons" and kept == "all":
        return Experts(reads, "all")
    if reads == "neurons" and re.fullmatch("[0-9]{1,9}", kept) and int(kept):
        return Experts(reads, int(kept))
    raise BadInput(
        "is nothing that can be read of experts",
        where=f"--experts {text[:80]}",
        remedy="write router, neurons, neurons:N or neurons:all",
    )


def depth_of(text: str) -> Fraction | None:
    """Of the text of --depth; None: all layers. Raises BadInput."""
    if text == "all":
        return None
    if re.fullmatch(r"[0-9]{1,9}/[0-9]{1,9}|[0-9]{0,9}\.?[0-9]{1,18}", text):
        numerator, _, denominator = text.partition("/")
        if int(denominator or 1) and 0 < (share := Fraction(text)) <= 1:
            return share
    raise BadInput(
        "is no share of a model's layers",
        where=f"--depth {text[:80]}",
        remedy="write all, 1/3 or 0.5: above 0, at most 1",
    )


@dataclass(frozen=True)
class Embeddings:
    """What an index keeps beside codes: the mean hidden state at ``layer`` ('last', or its number, which need not be
    one), and ``rds``, as numbers of that type; None: not."""

    layer: str | None = None
    rds: str | None = None


def embeddings_of(text: str) -> Embeddings:
    """Of the text of --embed. Raises BadInput."""
    where, kept = f"--embed {text[:80]}", Embeddings()
    if text == "none":
        return kept
    for part in text.split(","):
        name, colon, dtype = part.partition(":")
        if name == "rds":
            if colon and dtype not in RDS_TYPES:
                raise BadInput(f"'{part}' is no rds", where=where, remedy=f"write rds, rds:{', rds:'.join(RDS_TYPES)}")
            twice, kept = kept.rds, dataclasses.replace(kept, rds=dtype or RDS_TYPES[0])
        else:
            twice, kept = kept.layer, dataclasses.replace(kept, layer=part)
        if twice is not None:
            kind = "rds" if name == "rds" else "layer"
            raise BadInput(f"'{part}' is the second {kind}", where=where, remedy="one index keeps one")
    return kept


@dataclass(frozen=True, kw_only=True)
class ModelOptions(RunOptions):
    model: str = option("", "model: local folder, .gguf file or Hub id", required=True)
    layers: str = option(
        "all", "layers to capture: all, 0-9, or 0,5,-1 (a leading minus needs =: --layers=-10--1)", metavar="LAYERS"
    )
    depth: str = option(
        "all", "share of the layers to capture, the first ones, rounded up: all, 1/3, or 0.5", metavar="SHARE"
    )
    experts: str = option(
        "neurons",
        "what is read of a mixture of experts: router (its weights), or neurons: all, or, where those are too many for "
        "an index, some of each layer; neurons:N keeps N a layer, neurons:all refuses to choose",
        metavar="router|neurons[:N]",
    )

    @property
    def chosen_experts(self) -> Experts:
        """``experts``, read. Raises BadInput."""
        return experts_of(self.experts)

    @property
    def chosen_layers(self) -> str | Fraction:
        """``layers``, or the share of them that ``depth`` is. Raises BadInput."""
        return depth_of(self.depth) or self.layers

    def idle(self) -> dict[str, str]:
        shared = depth_of(self.depth) is not None
        return super().idle() | ({"layers": f"--depth {self.depth} says which"} if shared else {})


@dataclass(frozen=True, kw_only=True)
class RowOptions(Options):
    """What the rows of pools and targets are taken for."""

    group: ClassVar[str] = "rows"

    columns: tuple[str, ...] = option(
        (),
        "what the rows call what a format reads: prompt=q,response=a; also messages, instruction, input, output, text, "
        "system, history, tools, id and the other keys of formats",
        metavar="NAME=COLUMN",
        pairs=True,
    )
    roles: tuple[str, ...] = option(
        (),
        "what roles in the rows stand for: Human=user,environment=tool; also system and assistant",
        metavar="NAME=ROLE",
        pairs=True,
    )
    role: tuple[str, ...] = option((), "an old spelling", renamed="roles")
    ignore: tuple[str, ...] = option(
        (),
        "keys of rows, or fields of turns, not to be told of though they are not read; label: rows whose label is "
        "false are read, too",
        metavar="KEY",
    )


@dataclass(frozen=True, kw_only=True)
class DataOptions(RowOptions):
    format: str = option("auto", "row format: auto, alpaca, sharegpt, messages, prompt_completion, text, input_ids")
    template: str = option(
        "auto", "auto: the tokenizer's chat template, else Alpaca's", choices=("auto", "chat", "alpaca", "none")
    )
    template_date: str | None = option(
        None, "the day, YYYY-MM-DD, that it is for a chat template that asks (default: 2024-07-26)", metavar="DATE"
    )
    max_length: int = option(512, "tokens a sample; the rest is cut off and counted", minimum=1)
    skip_bad_rows: bool = option(False, "leave out rows that cannot be used, and list them in skipped.jsonl")


@dataclass(frozen=True, kw_only=True)
class ReadingOptions(Options):
    group: ClassVar[str] = "what is read of a row"
    reading: str | None = option(
        None, "drift or mean (default: drift for nait and its codecs, mean otherwise)", choices=("drift", "mean")
    )
    first_token: str = option(
        "exclude", "whether the mean counts a sample's first token", choices=("exclude", "include")
    )
    tokens: str = option(
        "all",
        "tokens of a sample that readings run over: all, the response (what the assistant says in any turn), or the "
        "prompt (all others)",
        choices=TOKENS,
    )


@dataclass(frozen=True, kw_only=True)
class PassOptions(Options):
    group: ClassVar[str] = "pass over the pool"
    calibration_size: int = option(
        512,
        "pool samples that set the thresholds, the pool's bit frequencies and, but for codec neuron, which neurons of "
        "experts are kept",
        minimum=2,
    )
    seed: int = option(0, "seed of the calibration sample, of what is kept of experts and of --pick random", minimum=0)
    too_long: str = option(
        "cut",
        "pool samples longer than --max-length: cut them, or leave them out and list them",
        choices=("cut", "skip"),
    )
    workers: int | None = option(
        None,
        "processes that index the pool (default: one a GPU, one on a CPU; with --engine ray one a node without GPUs)",
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Options):
    overwrite: bool = option(
        False,
        "replace results of nait-fast in --output that have changed or are of another question; never other files",
    )


@dataclass(frozen=True, kw_only=True)
class ClusterOptions(Options):
    group: ClassVar[str] = "cluster"

    engine: str = option(
        "local", "who does the work: this machine's processes, or actors on a Ray cluster", choices=("local", "ray")
    )
    address: str | None = option(None, "engine ray: a running cluster (default: $RAY_ADDRESS, else one of our own)")

    def idle(self) -> dict[str, str]:
        unused = {} if self.engine == "ray" else {"address": "is for --engine ray"}
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class HubOptions(Options):
    group: ClassVar[str] = "Hugging Face Hub"

    push_to_hub: str | None = option(
        None, "send the selection, with a card that says how it was made, to this data set of the Hub", metavar="ID"
    )
    public: bool = option(False, "let all read that data set; without, only its owner")

    def idle(self) -> dict[str, str]:
        unused = {} if self.push_to_hub else {"public": "is for --push-to-hub, which is not given"}
        return super().idle() | unused


METHOD = Registry("method", METHODS, method_of)
CODEC = Registry("codec", CODECS, codec_of)


@dataclass(frozen=True, kw_only=True)
class SignatureOptions(Options):
    group: ClassVar[str] = "method"
    method: str = option(METHODS[0], "ranking method", registry=METHOD)
    weights: str | None = option(None, "an old spelling", setting=("method", "weights"))
    planes: int | None = option(None, "an old spelling", setting=("method", "planes"))
    top_m: int | None = option(None, "an old spelling", setting=("method", "top_m"))
    sign: str | None = option(None, "an old spelling", setting=("method", "sign"))
    nag_top_k: int | None = option(None, "an old spelling", setting=("method", "top_k"))

    @property
    def chosen_method(self) -> Choice:
        """``method`` with its settings."""
        return METHOD.choice(self.method)

    def idle(self) -> dict[str, str]:
        chosen = self.chosen_method
        unused = method_of(chosen.name).unused(chosen.settings)
        return super().idle() | {name: why for name, why in unused.items() if hasattr(self, name)}


@dataclass(frozen=True, kw_only=True)
class AmountOptions(Options):
    """How much is selected."""

    group: ClassVar[str] = "what is selected"
    fraction: float | None = option(None, "select this share of the pool's samples (default 0.1)")
    top_k: int | None = option(None, "select this many samples", minimum=1)
    token_budget: int | None = option(
        None,
        "select samples, in their order, of at most so many tokens in all: the first that would exceed them ends it",
        minimum=1,
    )


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(AmountOptions):
    group: ClassVar[str] = "what is selected"
    rule: str | None = option(
        None,
        "how a target's samples score a row: centroid (as a whole), max (the sample that is most like it), roundrobin "
        "(they take turns, each taking its best row; default for rds and crds)",
        choices=RULES,
    )
    pick: str = option("top", "which end of the ranking", choices=PICKS)
    combine: str = option(
        "roundrobin",
        "several targets: they take turns, each naming its best row (roundrobin), or become one order by the mean or "
        "max of their z-scores; union: each gets a budget of its own (of tokens, one for all, in turns)",
        choices=COMBINES,
    )
    scores: str = option("all", "rows that scores.parquet holds; none: do not write it", choices=SCORES)
    export: tuple[str, ...] = option(
        ("llama_factory",),
        "files for tools that train: dataset_info.json, top_indices.npy, messages.jsonl; how like target samples rows "
        "are: near (the best rows of each), cossim (all), of the whole index, with rows that constraints take",
        choices=EXPORTS,
        metavar="NAME",
    )


@dataclass(frozen=True, kw_only=True)
class ConstraintOptions(Options):
    """What else decides than the score; ``rules.constraints`` has a module for each."""

    group: ClassVar[str] = "constraints"

    decontaminate: tuple[str, ...] = option(
        (), "evaluation sets: without rows that share a run of words with one of their samples", metavar="FILE"
    )
    decontaminate_ngram: int = option(13, "words of such a run", minimum=3, maximum=1000)
    decontaminate_codes: tuple[str, ...] = option(
        (), "signatures that keep an evaluation set's samples: without rows whose codes lie next to one", metavar="FILE"
    )
    decontaminate_distance: float = option(
        0.05, "how near that is: rows that differ from a sample in less than this share of their bits"
    )
    near_duplicates: float | None = option(
        None, "no two selected rows whose codes differ in less than this share of their bits; the better stays"
    )
    coverage: float | None = option(
        None, "pick, out of the best rows, those that fire what others do not: its share beside relevance, 0 to 1"
    )
    quota: tuple[str, ...] = option(
        (),
        "a group's share of the budget at most, by a key of the pool's rows: KEY=VALUE:SHARE …, or KEY:equal, KEY:pool "
        "or KEY:target (as in the targets' samples)",
        metavar="KEY=VALUE:SHARE",
    )
    length: str = option(
        LENGTHS[0],
        "matched: a target against rows of the pool as long as its samples (method contrast); quota: the selection has "
        "the pool's distribution of tokens, the best rows of each length; quota:target: that of the target's samples",
        choices=LENGTHS,
    )
    quality: str | None = option(
        None,
        "a number a row that is mixed into its scores: a key of the pool's rows, a column of the index, or FILE#COLUMN "
        "of a file with row or id; :asc where small is good",
        metavar="COLUMN[:asc]",
    )
    quality_weight: float = option(0.5, "share that quality has beside relevance", minimum=0, maximum=1)
    quality_scale: str = option("minmax", "how both are scaled before they are mixed", choices=("minmax", "z", "rank"))

    def idle(self) -> dict[str, str]:
        unused = {} if self.decontaminate else {"decontaminate_ngram": "is for --decontaminate, which names no file"}
        if not self.decontaminate_codes:
            unused["decontaminate_distance"] = "is for --decontaminate-codes, which names no file"
        if self.quality is None:
            unused |= dict.fromkeys(("quality_weight", "quality_scale"), "is for --quality, which is not given")
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class SelectOptions(
    ConstraintOptions,
    BudgetOptions,
    SignatureOptions,
    ClusterOptions,
    PassOptions,
    ReadingOptions,
    DataOptions,
    ModelOptions,
    HubOptions,
    OutputOptions,
):
    """Options of ``select``."""

    dataset: str = option("", POOL, required=True)
    target: tuple[str, ...] = option((), "a capability's in-domain samples: NAME=FILE or FILE", required=True)
    output: str = option("", "folder for the results, or its URL (s3://, gs://)", required=True)

    def idle(self) -> dict[str, str]:
        return (
            super().idle()
            | _idle_combine(self.target, "target")
            | method_of(self.chosen_method.name).unused_in_select(self)
        )


def _idle_combine(several: tuple[str, ...], called: str) -> dict[str, str]:
    unknown = any(os.path.isdir(path) for path in several)  # of a folder, how many there are
    return {} if unknown or len(several) > 1 else {"combine": f"there is one {called}, nothing to combine"}


@dataclass(frozen=True, kw_only=True)
class IndexOptions(ClusterOptions, PassOptions, ReadingOptions, DataOptions, ModelOptions):
    """Options of ``index``."""

    dataset: str = option("", POOL, required=True)
    output: str = option("", "folder for the index, or its URL (s3://, gs://)", required=True)
    codec: str = option(CODECS[0], "what is kept of a sample", registry=CODEC)
    codebook: str | None = option(None, "codebook of another index (folder or file) instead of calibrating")
    exact: tuple[str, ...] = option((), "nait signatures to score exactly in the same pass", metavar="FILE")
    score: tuple[str, ...] = option((), "an old spelling", renamed="exact")
    nag_top_k: int | None = option(None, "an old spelling", setting=("codec", "top_k"))
    outliers: int | None = option(None, "an old spelling", setting=("codec", "outliers"))
    bytes_per_sample: int | None = option(None, "an old spelling", setting=("codec", "bytes"))
    embed: str = option(
        "none",
        "keep embeddings: none; for method embed last (of the captured layers) or a layer; rds, the body's last hidden "
        "states weighted by position, as rds:float16 (the default), rds:int8 or rds:float32; or both: last,rds",
        metavar="LAYER|rds[:TYPE]",
    )
    nll: str = option(
        NLL[0],
        "keep the mean loss of each sample's response tokens; ifd: also that loss over the one of the response alone",
        choices=NLL,
        bare="loss",
    )
    shard_rows: int = option(2048, "rows of the pool a shard: what a killed run loses at most", minimum=1)
    append: bool = option(False, "add this dataset to a complete index, under its codebook")
    repair: bool = option(False, "make the damaged shards of a complete index again")

    @property
    def chosen_codec(self) -> Choice:
        """``codec`` with its settings."""
        return CODEC.choice(self.codec)

    @property
    def embeddings(self) -> Embeddings:
        """``embed``, read. Raises BadInput."""
        return embeddings_of(self.embed)

    def idle(self) -> dict[str, str]:
        codec = codec_of(self.chosen_codec.name)
        unused = codec.unused(self)
        if codec.calibrates and self.codebook is not None:
            unused |= dict.fromkeys(("calibration_size", "seed"), "--codebook takes the place of calibrating")
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class MergeOptions(Options):
    """Options of ``merge``."""

    index: tuple[str, ...] = option((), "index folders, in the order that their rows shall have", required=True)
    output: str = option("", "folder for the joined index", required=True)


@dataclass(frozen=True, kw_only=True)
class SignatureBuildOptions(SignatureOptions, ReadingOptions, DataOptions, ModelOptions, OutputOptions):
    """Options of ``signature``."""

    target: tuple[str, ...] = option((), "a capability's in-domain samples: NAME=FILE or FILE", required=True)
    codebook: str | None = option(None, "index folder or codebook file (contrast; nait:sign=contrast)")
    output: str = option("", "folder for NAME.safetensors", required=True)
    keep_samples: bool | None = option(
        None,
        "keep each target sample's codes (or states) and length in the signature (default: where they take at most "
        "64 MiB): for --rule max and roundrobin, --length matched and quota:target, --export near and cossim, "
        "--decontaminate-codes, and what a report says of them",
    )

    def idle(self) -> dict[str, str]:
        unused = {"skip_bad_rows": "a signature is made of all of its samples; fix the row or delete it"}
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class RankOptions(ConstraintOptions, BudgetOptions, ClusterOptions, HubOptions, OutputOptions):
    """Options of ``rank``."""

    index: str = option("", "index folder, or that of a select", required=True)
    signature: tuple[str, ...] = option((), "signature files, or folders of them")
    foreign_scores: tuple[str, ...] = option(
        (),
        "scores of another tool, ranked like a signature's: .parquet of row (or id) and score, or .npy [rows] or "
        "[queries, rows]",
        metavar="NAME=FILE",
    )
    output: str = option("", "folder for the results, or its URL (s3://, gs://)", required=True)
    dataset: tuple[str, ...] = option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    device: str = option("auto", "where to scan: auto (a GPU for large scans), cpu, cuda, cuda:1")
    seed: int = option(0, "seed of --pick random", minimum=0)
    workers: int | None = option(None, "engine ray: processes that scan the index (default: one a node)", minimum=1)

    def idle(self) -> dict[str, str]:
        unused = _idle_combine((*self.signature, *self.foreign_scores), "signature")
        if self.engine == "ray":
            unused["device"] = "on a cluster processors scan: reading is what takes the time"
        else:
            unused["workers"] = "is for --engine ray"
        if self.pick != "random":
            unused["seed"] = "nothing is drawn but by --pick random"
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(RowOptions, RunOptions, OutputOptions):
    """Options of ``evaluate``."""

    index: str = option("", "index folder, or that of a select", required=True)
    signature: tuple[str, ...] = option((), "signature files; several may have one name", required=True)
    output: str = option("", "folder for evaluation.json and evaluation.md", required=True)
    dataset: tuple[str, ...] = option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    label: str | None = option(None, "key of the pool's rows that says what a row is: measures retrieval")
    relevant: tuple[str, ...] = option(
        (), "label's value that a signature shall find (default: its own name)", metavar="NAME=VALUE"
    )
    rule: str | None = option(
        None, "how a target's samples score a row, as for rank (default: each method's own)", choices=RULES
    )
    fraction: float = option(0.1, "share of the rows that each signature selects, for overlaps and the core")
    core_targets: int | None = option(
        None, "signatures of one method that must select a row of the core (default: all of them)", minimum=2
    )
    model: str | None = option(None, "the index's model: for exact scores, layer shares of nait, and stability")
    target: tuple[str, ...] = option((), "the samples that signatures were made from: measures stability")
    rows: int = option(1000, "rows that the model scores exactly", minimum=2)
    sizes: tuple[str, ...] = option(
        ("16", "64", "256"), "stability: samples that a signature is made from", metavar="N"
    )
    repeats: int = option(10, "stability: how often each is drawn", minimum=1)
    seed: int = option(0, "seed of all that is drawn", minimum=0)

    def idle(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        if self.model is None:
            of_model = ("tokenizer", "dtype", "batch_tokens", "trust_remote_code", "rows")
            unused |= dict.fromkeys(of_model, "is for what --model runs")
        if not self.target:
            unused |= dict.fromkeys(("sizes", "repeats"), "stability is measured with --target and --model")
            of_rows = ("columns", "roles", "ignore")
            unused |= dict.fromkeys(of_rows, "is for the samples of --target, and there are none")
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class CompareOptions(AmountOptions, OutputOptions):
    """Options of ``compare``."""

    keeps_config: ClassVar[bool] = False

    index: str = option("", "index folder", required=True)
    signature: tuple[str, ...] = option(
        (), "signature files, or folders of them, of any methods and targets; several may have one name"
    )
    foreign_scores: tuple[str, ...] = option((), "scores of another tool, as for rank", metavar="NAME=FILE")
    selection: tuple[str, ...] = option(
        (),
        "folders of select or rank, from this pool, as they are: with their own budgets and constraints",
        metavar="DIR",
    )
    rule: tuple[str, ...] = option(
        (), "score each signature by each of these rules, as for rank (default: its method's own)", choices=RULES
    )
    label: str | None = option(
        None,
        "key of the pool's rows that says what a row is: measures retrieval, and is counted (by default one that says "
        "where rows are from is counted)",
    )
    relevant: tuple[str, ...] = option(
        (), "label's value that a target shall find (default: its own name)", metavar="NAME=VALUE"
    )
    dataset: tuple[str, ...] = option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    device: str = option("auto", "where to scan: auto (a GPU for large scans), cpu, cuda, cuda:1")
    seed: int = option(0, "seed of the random rows that stand beside", minimum=0)
    output: str | None = option(None, "folder for compare.json, compare.csv and pairs.csv (default: only printed)")

    def idle(self) -> dict[str, str]:
        unused = {} if self.output else {"overwrite": "is for --output, which is not given"}
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class ValidateOptions(RowOptions, RunOptions, OutputOptions):
    """Options of ``validate``."""

    selection: str = option("", "folder that select or rank wrote", required=True, positional=True)
    held_out: tuple[str, ...] = option(
        (),
        "samples of the target that its signature was not made of, which losses are measured on: FILE, or NAME=FILE "
        "for each of several targets",
        required=True,
        metavar="NAME=FILE",
    )
    output: str = option("", "folder for validation.json and runs.jsonl", required=True)
    general: str | None = option(
        None,
        "samples of other kinds, for what is lost elsewhere (default: rows of the pool, set aside)",
        metavar="FILE",
    )
    model: str | None = option(None, "what is trained (default: the model that ranked)")
    dataset: tuple[str, ...] = option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    template: str | None = option(
        None, "how a sample becomes text (default: as in the index)", choices=("auto", "chat", "alpaca", "none")
    )
    max_length: int | None = option(None, "tokens a sample at most (default: as in the index)", minimum=16)
    deciles: bool = option(False, "also train on each tenth of the ranking: the decile curve")
    seeds: int = option(3, "trainings of each arm: other draws, orders and adapters", minimum=2)
    draws: int = option(5, "trainings on random rows", minimum=2)
    samples: int = option(64, "held-out samples of each set, at most", minimum=2)
    tokens: int | None = option(
        None,
        "response tokens of a training (default: the selection's, a small one's up to four times over, but at most "
        "10,240 on a CPU, a million on a GPU)",
        minimum=16,
    )
    steps: int | None = option(None, "steps of a training (default: up to 32, none shorter than a response)", minimum=1)
    layers: int | Literal["all"] | None = option(
        None, "how many of the last layers are adapted (default: 6 on a CPU, all on a GPU)", minimum=1
    )
    rank: int = option(8, "of the adapters (LoRA, alpha twice that)", minimum=1)
    lr: float = option(1e-3, "learning rate: AdamW, warmed up, then down to 0", minimum=0.0)
    answer: str | None = option(
        None,
        "also count right answers to the held-out samples: of a greedy one the number that it ends in, the letter that "
        "it chooses, or all of it; or which of the row's `choices` is likeliest",
        choices=("number", "choice", "exact", "likelihood"),
    )
    answer_tokens: int = option(160, "tokens of an answer at most", minimum=1)
    seed: int = option(0, "of what is drawn: rows set aside, and those that arms draw from", minimum=0)

    def idle(self) -> dict[str, str]:
        unused = {}
        if self.answer in (None, "likelihood"):
            unused["answer_tokens"] = "nothing is generated but by --answer number, choice and exact"
        return super().idle() | unused


@dataclass(frozen=True, kw_only=True)
class ReportOptions(OutputOptions):
    """Options of ``report``."""

    keeps_config: ClassVar[bool] = False

    selection: str = option("", "folder that select or rank wrote", required=True, positional=True)
    output: str | None = option(None, "HTML file to write (default: report.html in that folder)")
    label: str | None = option(
        None, "key of the pool's rows to count, for instance where a row is from (default: source, if they have it)"
    )
    evaluation: str | None = option(None, "evaluation.json of evaluate, or its folder (default: one in DIR)")
    validation: str | None = option(None, "validation.json of validate, or its folder (default: one in DIR)")
    samples: int | Literal["all"] = option(
        SHOWN_ROWS,
        "best and worst samples to show, so many each, and half as many on either side of the cut; all: a list of all "
        f"selected rows, which else has the first {LISTED_ROWS:,}",
        minimum=1,
        maximum=50,
    )
    plots: str | None = option(None, "folder for the plots as PNG and SVG files, too")
    dataset: tuple[str, ...] = option((), "the pool, if it has moved since it was indexed (all of them, in order)")
    target: tuple[str, ...] = option(
        (), "files of the targets' samples, where they are not where select or signature read them"
    )


@dataclass(frozen=True, kw_only=True)
class BenchOptions(Options):
    """Options of ``bench``."""

    keeps_config: ClassVar[bool] = False

    shape: str | None = option(
        None, "model shape to build with random weights (default smollm2-135m)", choices=BENCH_SHAPES
    )
    model: str | None = option(None, "a real model instead: local folder, .gguf file or Hub id")
    part: str = option(
        "all",
        "what to measure, ceilings first; cli (not in all): index, signature and rank as processes, by stage",
        choices=BENCH_PARTS,
    )
    device: str = option("auto", "auto, cpu, cuda:0, or several in turn: cuda:0,cuda:1")
    dtype: str = option(
        "auto", "auto: float32 on a CPU, bfloat16 on a GPU", choices=("auto", "float32", "bfloat16", "float16")
    )
    max_length: int = option(512, "endtoend, cli: tokens a sample at most", minimum=2)
    rows: int | None = option(None, "cli: rows to make up (default: 500 on a CPU, 52,002 on a GPU)", minimum=100)
    seconds: float = option(10.0, "time a part may take, about", minimum=0, maximum=86400)
    seed: int = option(0, "seed of weights, tokens and codes", minimum=0)
    output: str | None = option(None, "file that result rows are appended to, JSON lines")
    compare: tuple[str, ...] = option((), "measure nothing: show these result files side by side")

    def idle(self) -> dict[str, str]:
        unused: dict[str, str] = {}
        if self.compare:
            others = (f.name for f in dataclasses.fields(self) if f.name != "compare")
            return super().idle() | dict.fromkeys(others, "--compare only reads result files")
        if self.part != "cli":
            unused["rows"] = f"is for part cli, not {self.part}"
        else:
            unused["seconds"] = "part cli runs each command once"
        if self.part not in ("all", "endtoend", "cli"):
            unused["max_length"] = f"is for parts endtoend and cli, not {self.part}"
        if self.part in ("ceilings", "scan"):
            unused["model"] = f"part {self.part} runs no model"
            if self.shape != "tiny":  # which makes everything small
                unused["shape"] = f"part {self.part} runs no model"
        if self.part == "ceilings":
            unused["seed"] = "part ceilings draws nothing"
        return super().idle() | unused


def split_target(text: str, flag: str = "--target") -> tuple[str, str]:
    """``NAME=FILE`` or ``FILE`` (its stem is the name) -> (name, file). Raises BadInput, naming ``flag``."""
    name, equals, path = text.partition("=")
    if not equals or "/" in name:
        name, path = Path(path_of(text) if is_url(text) else text).name.split(".")[0], text
    if not name or not path or not all(c.isalnum() or c in "._-" for c in name):
        raise BadInput("write NAME=FILE, the name of letters, digits, '.', '_' and '-'", where=f"{flag} {text}")
    if name.startswith("."):
        raise BadInput(
            f"'{name}' begins with a dot, as hidden files do",
            where=f"{flag} {text}",
            remedy="write NAME=FILE with another",
        )
    if len(name.encode(errors="surrogateescape")) > MOST_NAME_BYTES:
        raise BadInput(
            f"a name of {len(name.encode(errors='surrogateescape'))} bytes, which no file can have",
            where=f"{flag} {text[:40]}…",
            remedy=f"write NAME=FILE with one of at most {MOST_NAME_BYTES}",
        )
    return name, path
