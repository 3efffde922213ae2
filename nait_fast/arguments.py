"""The keyword arguments of the verbs as functions, for editors and type checkers: what ``config`` takes, as Python
callers may write it. Nothing imports this at run time.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Literal, TypeAlias

from typing_extensions import Required, TypedDict

Path: TypeAlias = str | PathLike[str]
Paths: TypeAlias = Path | Sequence[Path]
Names: TypeAlias = str | Sequence[str]
Pairs: TypeAlias = Names | Mapping[str, str]  # KEY=VALUE


class RunArguments(TypedDict, total=False):
    """Of ``config.RunOptions``."""

    tokenizer: Path | None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float8"]
    device: str
    batch_tokens: int | None
    trust_remote_code: bool


class ModelArguments(RunArguments, total=False):
    """Of ``config.ModelOptions``."""

    model: Required[Path]
    layers: str
    depth: str
    experts: Literal["neurons", "router"]


class TurnArguments(TypedDict, total=False):
    """Of ``config.RowOptions``, but for columns."""

    roles: Pairs
    role: Names
    ignore: Names


class RowArguments(TurnArguments, total=False):
    """Of ``config.RowOptions``."""

    columns: Pairs


class DataArguments(RowArguments, total=False):
    """Of ``config.DataOptions``."""

    format: str
    template: Literal["auto", "chat", "alpaca", "none"]
    template_date: str | None
    max_length: int
    skip_bad_rows: bool


class ReadingOfRows(TypedDict, total=False):
    """Of ``api.inspect``."""

    format: str
    columns: Pairs
    roles: Pairs


class ReadingArguments(TypedDict, total=False):
    """Of ``config.ReadingOptions``."""

    reading: Literal["drift", "mean"] | None
    first_token: Literal["exclude", "include"]
    tokens: Literal["all", "response", "prompt"]


class PassArguments(TypedDict, total=False):
    """Of ``config.PassOptions``."""

    calibration_size: int
    seed: int
    too_long: Literal["cut", "skip"]
    workers: int | None


class ClusterArguments(TypedDict, total=False):
    """Of ``config.ClusterOptions``."""

    engine: Literal["local", "ray"]
    address: str | None


class HubArguments(TypedDict, total=False):
    """Of ``config.HubOptions``."""

    push_to_hub: str | None
    public: bool


class OutputArguments(TypedDict, total=False):
    """Of ``config.OutputOptions``."""

    overwrite: bool


class SignatureArguments(TypedDict, total=False):
    """Of ``config.SignatureOptions``."""

    method: str
    weights: str | None
    planes: int | None
    top_m: int | None
    sign: str | None
    nag_top_k: int | None


class AmountArguments(TypedDict, total=False):
    """Of ``config.AmountOptions``."""

    fraction: float | None
    top_k: int | None
    token_budget: int | None


class ChoosingArguments(AmountArguments, total=False):
    """Of ``config.BudgetOptions``, but for what is written."""

    rule: Literal["centroid", "roundrobin", "max"] | None
    pick: Literal["top", "bottom", "random"]
    combine: Literal["mean", "max", "union", "roundrobin"]


class BudgetArguments(ChoosingArguments, total=False):
    """Of ``config.BudgetOptions``."""

    scores: Literal["all", "selected", "none"]
    export: Sequence[Literal["llama_factory", "dataflex", "messages", "near", "cossim"]]


class ConstraintArguments(TypedDict, total=False):
    """Of ``config.ConstraintOptions``."""

    decontaminate: Paths
    decontaminate_ngram: int
    decontaminate_codes: Paths
    decontaminate_distance: float
    near_duplicates: float | None
    coverage: float | None
    quota: Names
    quality: Path | None
    quality_weight: float
    quality_scale: Literal["minmax", "z", "rank"]
    length: Literal["free", "matched", "quota", "quota:target"]


class SelectArguments(
    ConstraintArguments,
    BudgetArguments,
    SignatureArguments,
    ClusterArguments,
    PassArguments,
    ReadingArguments,
    DataArguments,
    ModelArguments,
    HubArguments,
    OutputArguments,
    total=False,
):
    """Of ``config.SelectOptions``."""

    dataset: Required[Path]
    target: Required[Paths]
    output: Required[Path]


class IndexArguments(ClusterArguments, PassArguments, ReadingArguments, DataArguments, ModelArguments, total=False):
    """Of ``config.IndexOptions``."""

    dataset: Required[Path]
    output: Required[Path]
    codec: str
    codebook: Path | None
    exact: Paths
    score: Paths
    nag_top_k: int | None
    outliers: int | None
    bytes_per_sample: int | None
    embed: str
    nll: Literal["none", "loss", "ifd"]
    shard_rows: int
    append: bool
    repair: bool


class MergeArguments(TypedDict, total=False):
    """Of ``config.MergeOptions``."""

    index: Required[Paths]
    output: Required[Path]


class SignatureBuildArguments(
    SignatureArguments, ReadingArguments, DataArguments, ModelArguments, OutputArguments, total=False
):
    """Of ``config.SignatureBuildOptions``."""

    target: Required[Paths]
    codebook: Path | None
    output: Required[Path]
    keep_samples: bool | None


class RankArguments(ConstraintArguments, BudgetArguments, ClusterArguments, HubArguments, OutputArguments, total=False):
    """Of ``config.RankOptions``."""

    index: Required[Path]
    signature: Paths
    foreign_scores: Paths
    output: Required[Path]
    dataset: Paths
    device: str
    seed: int
    workers: int | None


class SelectionArguments(ConstraintArguments, ChoosingArguments, total=False):
    """Of ``config.RankOptions``, but for index, signatures and what is written."""

    dataset: Paths
    device: str
    seed: int


class EvaluateArguments(RowArguments, RunArguments, OutputArguments, total=False):
    """Of ``config.EvaluateOptions``."""

    index: Required[Path]
    signature: Required[Paths]
    output: Required[Path]
    dataset: Paths
    label: str | None
    relevant: Names
    rule: Literal["centroid", "roundrobin", "max"] | None
    fraction: float
    core_targets: int | None
    model: Path | None
    target: Paths
    rows: int
    sizes: Names
    repeats: int
    seed: int


class CompareArguments(AmountArguments, OutputArguments, total=False):
    """Of ``config.CompareOptions``."""

    index: Required[Path]
    signature: Paths
    foreign_scores: Paths
    selection: Paths
    rule: Sequence[Literal["centroid", "roundrobin", "max"]]
    label: str | None
    relevant: Names
    dataset: Paths
    device: str
    seed: int
    output: Path | None


class ValidateArguments(RowArguments, RunArguments, OutputArguments, total=False):
    """Of ``config.ValidateOptions``."""

    selection: Required[Path]
    held_out: Required[Pairs | Paths]
    output: Required[Path]
    general: Path | None
    model: Path | None
    dataset: Paths
    template: Literal["auto", "chat", "alpaca", "none"] | None
    max_length: int | None
    deciles: bool
    seeds: int
    draws: int
    samples: int
    tokens: int | None
    steps: int | None
    layers: int | Literal["all"] | None
    rank: int
    lr: float
    answer: Literal["number", "choice", "exact", "likelihood"] | None
    answer_tokens: int
    seed: int


class ReportArguments(OutputArguments, total=False):
    """Of ``config.ReportOptions``."""

    selection: Required[Path]
    output: Path | None
    label: str | None
    evaluation: Path | None
    validation: Path | None
    samples: int | Literal["all"]
    plots: Path | None
    dataset: Paths
    target: Paths


class ScoringArguments(TurnArguments, total=False):
    """Of ``scorer.Scorer``, but for columns."""

    tokenizer: Path | None
    template: Literal["auto", "chat", "alpaca", "none"]
    template_date: str | None
    max_length: int | None
    dtype: Literal["auto", "float32", "bfloat16", "float16", "float8"]
    device: str
    layers: str | None
    depth: str | None
    batch_tokens: int | None


class ScorerArguments(ScoringArguments, total=False):
    """Of ``scorer.Scorer``."""

    columns: Pairs


class BatchScorerArguments(ScoringArguments, total=False):
    """Of ``integrations.batch.BatchScorer``."""

    columns: Pairs | None
    bad_rows: Literal["raise", "null"]


class BenchArguments(TypedDict, total=False):
    """Of ``config.BenchOptions``."""

    shape: Literal["smollm2-135m", "qwen2.5-1.5b", "llama-2-7b", "tiny"] | None
    model: Path | None
    part: Literal["all", "ceilings", "kernels", "scan", "endtoend", "cli"]
    device: str
    dtype: Literal["auto", "float32", "bfloat16", "float16"]
    max_length: int
    rows: int | None
    seconds: float
    seed: int
    output: Path | None
    compare: Paths


class MemoryArguments(SignatureArguments, ReadingArguments, DataArguments, total=False):
    """Of ``config.SignatureBuildOptions``, without what stands for files."""

    dtype: Literal["auto", "float32", "bfloat16", "float16", "float8"]
    device: str
    batch_tokens: int | None
    trust_remote_code: bool
    layers: str
    depth: str
    experts: Literal["neurons", "router"]
    codebook: Path | None
    keep_samples: bool | None
