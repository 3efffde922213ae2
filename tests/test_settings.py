"""Methods and codecs with their settings: ``NAME:KEY=VALUE,…``."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

import nait_fast
from nait_fast.config import CODEC, METHOD, IndexOptions, SelectOptions, SignatureOptions
from nait_fast.notices import NaitWarning
from nait_fast.options import Choice, Registry, Settings, option
from nait_fast.verbs.signature import _settings_asked

SELECT = {"model": "m", "dataset": "d", "target": "t.jsonl", "output": "o"}
INDEX = {"model": "m", "dataset": "d", "output": "o"}


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("contrast", "contrast"),
        ("contrast:planes=4", "contrast"),
        ("contrast:planes=8,weights=logodds", "contrast:weights=logodds,planes=8"),
        ("contrast:top_m=64", "contrast:top_m=64"),
        ("nait:contrast", "nait:sign=contrast"),
        ("nag:3", "nag:top_k=3"),
    ],
)
def test_what_is_written(text: str, written: str) -> None:
    assert METHOD.choice(text).text == written
    assert METHOD.choice(written) == METHOD.choice(text)
    options = SelectOptions.from_mapping({**SELECT, "method": text})
    assert options.method == written and options.chosen_method == METHOD.choice(text)
    assert SelectOptions.from_mapping(options.to_mapping()) == options


@dataclass(frozen=True, kw_only=True)
class Decay(Settings):
    rate: float = option(0.5, "how fast", minimum=0.0)
    whole: bool = option(False, "all of it")


@pytest.mark.parametrize(
    ("text", "rate", "whole", "written"),
    [
        ("toy:rate=0.25,whole=true", 0.25, True, "toy:rate=0.25,whole=true"),
        ("toy:rate=2", 2.0, False, "toy:rate=2.0"),
        ("toy:rate=1e-3", 0.001, False, "toy:rate=0.001"),
        ("toy:whole=false", 0.5, False, "toy"),
        ("toy:rate=-1", None, None, "rate: must be at least 0.0"),
        ("toy:rate=nan", None, None, "rate: must be a number, not str"),
        ("toy:whole=yes", None, None, "whole: must be true or false, not str"),
    ],
)
def test_numbers_and_truth_values(text: str, rate: float | None, whole: bool | None, written: str) -> None:
    toy = Registry("--method", ["toy"], lambda name: SimpleNamespace(about="a toy", settings=Decay))
    if rate is None:
        with pytest.raises(ValueError, match=written):
            toy.choice(text)
        return
    made = toy.choice(text)
    assert made.settings == Decay(rate=rate, whole=whole) and made.text == written and toy.choice(written) == made
    assert toy.help("toy") == "toy = a toy; rate=0.5 (how fast); whole=false (all of it)"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("contrst", "choose contrast, nait, nag, embed"),
        ("", "is empty"),
        ("contrast:", "has no setting ''; it takes weights, planes, top_m"),
        ("contrast:8", "has no setting '8'"),
        ("contrast:plains=8", "has no setting 'plains'; it takes weights, planes, top_m"),
        ("contrast:planes=8,planes=8", "planes is there twice"),
        ("contrast:planes=many", "planes: must be a whole number"),
        ("contrast:planes=2.5", "planes: must be a whole number"),
        ("contrast:planes=99", "planes: must be at most 12"),
        ("contrast:planes=8,top_m=3", "planes: top_m takes the place of bit planes; leave it out"),
        ("contrast:weights=", "weights: is empty"),
        ("nait:sign=up", "sign: choose mean, contrast"),
        ("embed:3", "has no setting '3'; it takes none"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    with pytest.raises(nait_fast.NaitError) as caught:
        SelectOptions.from_mapping({**SELECT, "method": text}, "nait-fast select")
    assert str(caught.value).startswith("nait-fast select: --method") and said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "given", "old", "now"),
    [
        (SelectOptions, SELECT, {"planes": 8}, {"method": "contrast:planes=8"}),
        (SelectOptions, SELECT, {"weights": "logodds", "top_m": 3}, {"method": "contrast:weights=logodds,top_m=3"}),
        (SelectOptions, SELECT, {"method": "nait", "sign": "contrast"}, {"method": "nait:sign=contrast"}),
        (SelectOptions, SELECT, {"method": "nag", "nag_top_k": 5}, {"method": "nag:5"}),
        (IndexOptions, INDEX, {"codec": "nag", "nag_top_k": 5}, {"codec": "nag:5"}),
        (IndexOptions, INDEX, {"codec": "rotated", "outliers": 0}, {"codec": "rotated:0"}),
        (IndexOptions, INDEX, {"codec": "components", "bytes_per_sample": 64}, {"codec": "components:64"}),
        (IndexOptions, INDEX, {"score": ["s"]}, {"exact": ["s"]}),
    ],
)
def test_old_spellings_work_and_say_the_new_one(kind, given, old, now) -> None:
    with pytest.warns(NaitWarning, match=r" now; the old flag will go") as said:
        options = kind.from_mapping({**given, **old})
    assert len(said) == len(set(old) - {"method", "codec"})
    assert options == kind.from_mapping({**given, **now})
    assert not set(options.to_mapping()) & (set(old) - {"method", "codec"})


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (IndexOptions, {**INDEX, "score": ["a"], "exact": ["b"]}, "--score and --exact are one option; give one"),
        (SelectOptions, {**SELECT, "method": "contrast:planes=8", "planes": 3}, "planes is there twice"),
    ],
)
def test_an_old_and_a_new_spelling_at_once_are_refused(kind, given, said: str) -> None:
    with pytest.raises(nait_fast.NaitError, match=said):
        kind.from_mapping(given)


@pytest.mark.parametrize(("kind", "given"), [(SelectOptions, {"planes": 8}), (IndexOptions, {"score": ("s",)})])
def test_an_old_spelling_that_nobody_would_read_is_refused(kind, given) -> None:
    with pytest.raises(nait_fast.NaitError, match="is an old spelling; use"):
        kind(**given)


def test_an_old_spelling_of_another_is_refused() -> None:
    with pytest.raises(nait_fast.NaitError, match="--outliers 5: is for codec rotated, not neuron; leave it out"):
        IndexOptions.from_mapping({**INDEX, "outliers": 5})


def test_help_tells_every_setting() -> None:
    assert METHOD.help("nag") == "nag = overlap with the target's strongest neurons; top_k=20 (neurons a layer)"
    for registry in (METHOD, CODEC):
        for name in registry.names:
            assert all(f"; {setting}" in registry.help(name) for setting in registry.settings(name))
            assert registry.choice(name) == Choice(name, registry.of(name).settings())


@pytest.mark.parametrize(
    ("method", "values"),
    [
        ("contrast:planes=3", ["difference", "3", "None", "mean", "20"]),
        ("contrast:top_m=5", ["difference", "4", "5", "mean", "20"]),
        ("nait:contrast", ["difference", "4", "None", "contrast", "20"]),
        ("nag:5", ["difference", "4", "None", "mean", "5"]),
        ("embed", ["difference", "4", "None", "mean", "20"]),
    ],
)
def test_an_older_folder_answers_the_same_question(method: str, values: list[str]) -> None:
    """Its digests were made of these five, which were options of their own."""
    assert _settings_asked(SignatureOptions(method=method)) == values
