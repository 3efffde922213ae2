"""Options from Python and YAML: converted where nothing is lost, refused by name otherwise."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from nait_fast.config import (
    BenchOptions,
    EvaluateOptions,
    IndexOptions,
    RankOptions,
    ReportOptions,
    SelectOptions,
    SignatureBuildOptions,
    split_target,
)
from nait_fast.errors import NaitError
from nait_fast.options import Options

# What an option applies beside: without it, it would be ignored, and is refused.
BESIDE = {
    "combine": {"target": ["x", "y"], "signature": ["x", "y"]},
    "decontaminate_ngram": {"decontaminate": ["x"]},
    "decontaminate_distance": {"decontaminate_codes": ["x"]},
    "quality_weight": {"quality": "x"},
    "quality_scale": {"quality": "x"},
    "seed": {"pick": "random"},
    "rows": {"model": "m", "part": "cli"},
    "repeats": {"target": ["x"], "model": "m"},
    "batch_tokens": {"model": "m"},
    "dtype": {"model": "m"},
    "workers": {"engine": "ray"},
}
NEEDED = {"model": "m", "dataset": "d", "target": ["a=b"], "output": "o"}
ALL = (SelectOptions, IndexOptions, SignatureBuildOptions, RankOptions, EvaluateOptions, ReportOptions, BenchOptions)


def test_what_python_brings() -> None:
    options = SelectOptions.from_mapping(
        {
            **NEEDED,
            "dataset": Path("pool"),
            "target": "a=b",
            "top_k": np.int64(5),
            "fraction": None,
            "method": "contrast:planes=3",
        }
    )
    assert (options.dataset, options.target, options.top_k, options.method) == (
        "pool",
        ("a=b",),
        5,
        "contrast:planes=3",
    )
    assert [type(v) for v in (options.dataset, options.top_k)] == [str, int]
    options = SelectOptions.from_mapping({**NEEDED, "fraction": 1, "target": (Path("x.jsonl"), "y=z")})
    assert options.fraction == 1.0 and isinstance(options.fraction, float) and options.target == ("x.jsonl", "y=z")
    assert SelectOptions.from_mapping({**NEEDED, "fraction": np.float32(0.5)}).fraction == 0.5


@pytest.mark.parametrize("kind", ALL)
def test_a_mapping_comes_back(kind: type[Options]) -> None:
    needed = {f.name: ["x"] if f.default == () else "x" for f in dataclasses.fields(kind) if f.metadata.get("required")}
    options = kind.from_mapping(needed)
    assert kind.from_mapping(options.to_mapping()) == options
    for name in needed:
        with pytest.raises(NaitError, match=f"here: --{name} is missing"):
            kind.from_mapping({k: v for k, v in needed.items() if k != name}, "here")


@pytest.mark.parametrize("kind", ALL)
def test_every_bound_and_choice_holds(kind: type[Options]) -> None:
    needed = {f.name: ["x"] if f.default == () else "x" for f in dataclasses.fields(kind) if f.metadata.get("required")}
    for field in dataclasses.fields(kind):
        low, high, choices = (field.metadata.get(key) for key in ("minimum", "maximum", "choices"))
        wrong = [low - 1] if low is not None else []
        wrong += [high + 1] if high is not None else []
        wrong += ["nonsense"] if choices else []
        names = {f.name for f in dataclasses.fields(kind)}
        beside = {k: v for k, v in BESIDE.get(field.name, {}).items() if k in names}
        for value in wrong:
            with pytest.raises(NaitError) as error:
                kind.from_mapping({**needed, field.name: value}, "here")
            assert str(error.value).startswith(f"here: --{field.name.replace('_', '-')} {value}: ")
        for value in (low, high, *(choices or ())):
            if value is not None:
                expected = (value,) if isinstance(field.default, tuple) else value
                assert getattr(kind.from_mapping({**needed, **beside, field.name: value}), field.name) == expected


WRONG = [
    ({"colour": 1}, "unknown option 'colour'"),
    ({"top_k": 2.5}, "--top-k 2.5: must be a whole number, not float"),
    ({"top_k": True}, "--top-k True: must be a whole number, not bool"),
    ({"fraction": "0.1"}, "--fraction 0.1: must be a number, not str"),
    ({"fraction": 10**400}, "--fraction 1000"),
    ({"skip_bad_rows": 1}, "--skip-bad-rows 1: must be true or false, not int"),
    ({"model": 5}, "--model 5: must be text, not int"),
    ({"target": [None]}, "--target [None]: must be text, not NoneType"),
    ({"target": {"a": "b"}}, "--target {'a': 'b'}: must be text, not dict"),
    ({"max_length": None}, "--max-length None: must be a whole number, not NoneType"),
    ({"method": ["nait"]}, "--method ['nait']: must be text, not list"),
]


@pytest.mark.parametrize(("change", "words"), WRONG, ids=[words for _, words in WRONG])
def test_wrong_types(change: dict, words: str) -> None:
    with pytest.raises(NaitError) as error:
        SelectOptions.from_mapping({**NEEDED, **change}, "here")
    assert str(error.value).startswith(f"here: {words}")


def test_targets() -> None:
    assert split_target("maths=a/b.jsonl") == ("maths", "a/b.jsonl")
    assert split_target("a/b.c.jsonl.gz") == ("b", "a/b.c.jsonl.gz")
    assert split_target("m=a=b.jsonl") == ("m", "a=b.jsonl")
    for text in ("=a", "a=", "", "a b=c", "a/b=c", "né$=c"):
        with pytest.raises(NaitError, match="write NAME=FILE"):
            split_target(text)
