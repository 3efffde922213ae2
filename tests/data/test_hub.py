"""Data sets of the Hub by name: which configuration and split it stands for, or what is said of those there are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nait_fast.data.hub import parts_of
from nait_fast.data.pool import Pool
from tests.commands import ROOT
from tests.data.hub_server import hub
from tests.data.pools import ROWS, dump, refusal, write

datasets = pytest.importorskip("datasets")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("owner/name", ("owner/name", [])),
        ("owner/name:train", ("owner/name", ["train"])),
        ("owner/na.me:train[10:20%]+test[:5]", ("owner/na.me", ["train[10:20%]+test[:5]"])),
        ("owner/name:main:train[:10%]", ("owner/name", ["main", "train[:10%]"])),
        ("owner/name:20231101.en:train", ("owner/name", ["20231101.en", "train"])),
        ("owner/name:two words:train", ("owner/name", ["two words", "train"])),
        ("owner/name:", None),
        ("owner/name::train", None),
        ("owner/name:a:b:c", None),
        ("owner/name:main/train", None),
        ("name:train", None),
        ("C:/name", None),
        ("./owner/name", None),
    ],
)
def test_names(name: str, parts: object) -> None:
    assert parts_of(name) == parts


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, dict[str, list]]]:
    """id -> configuration -> split -> rows: what `datasets` finds."""
    held: dict[str, dict[str, dict[str, list]]] = {}

    def configs(name: str) -> dict[str, dict[str, list]]:
        if name not in held:
            raise ConnectionError("cannot reach\nthe Hub")
        return held[name]

    def default(name: str) -> str | None:
        names = list(configs(name))
        return "default" if "default" in names else names[0] if len(names) == 1 else None

    def splits(name: str, config: str) -> list[str]:
        if config not in configs(name):
            raise ValueError(f"BuilderConfig '{config}' not found")
        return list(configs(name)[config])

    def load(name: str, config: str | None = None, split: str | None = None) -> Any:
        rows = configs(name)[config or default(name) or "none"]
        loaded = {key: datasets.Dataset.from_list(value) for key, value in rows.items()}
        if split is None:
            return datasets.DatasetDict(loaded)
        return datasets.concatenate_datasets([loaded[part.partition("[")[0]] for part in split.split("+")])

    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: list(configs(name)))
    monkeypatch.setattr(datasets, "get_dataset_default_config_name", default)
    monkeypatch.setattr(datasets, "get_dataset_split_names", splits)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return held


def ids(name: str) -> tuple[str, str]:
    pool = Pool(name)
    assert pool.scan().kind == "hub"
    return pool.scan().path, "".join(sample.id or "" for sample in pool.samples())


def test_one_configuration(stand_in) -> None:
    stand_in["owner/name"] = {"default": {"train": ROWS[:3], "test": ROWS[3:]}}
    assert ids("owner/name") == ids("owner/name:train") == ("owner/name:train", "r0r1r2")
    assert ids("owner/name:test") == ("owner/name:test", "r3r4")
    assert ids("owner/name:test+train[:50%]") == ("owner/name:test+train[:50%]", "r3r4r0r1r2")
    assert ids("owner/name:default:test") == ("owner/name:default:test", "r3r4")
    assert refusal("owner/name:dev") == (
        "owner/name:dev: configuration default has no split dev; name one of train, test as owner/name:default:SPLIT"
    )
    assert refusal("owner/name:train+dev").startswith("owner/name:train+dev: configuration default has no split dev;")
    assert "other/name: the path does not exist and is no reachable Hub dataset (cannot reach)" in refusal("other/name")
    stand_in["owner/two"] = {"default": {"a": ROWS[:3], "b": ROWS[3:]}}
    assert refusal("owner/two") == "owner/two: holds several splits; name one of a, b as owner/two:SPLIT"


def test_several_configurations(stand_in) -> None:
    stand_in["openai/gsm8k"] = {"main": {"train": ROWS[:3], "test": ROWS[3:]}, "socratic": {"only": ROWS[:1]}}
    advice = "(main, socratic); write openai/gsm8k:main:train (main has train, test)"
    assert refusal("openai/gsm8k") == f"openai/gsm8k: has several configurations {advice}"
    assert refusal("openai/gsm8k:train") == (
        f"openai/gsm8k:train: has several configurations, of which train is none {advice}"
    )
    assert refusal("openai/gsm8k:x:train") == f"openai/gsm8k:x:train: has no configuration x {advice}"
    assert refusal("openai/gsm8k:main:dev") == (
        "openai/gsm8k:main:dev: configuration main has no split dev; name one of train, test as openai/gsm8k:main:SPLIT"
    )
    assert ids("openai/gsm8k:main:test") == ("openai/gsm8k:main:test", "r3r4")
    assert ids("openai/gsm8k:main") == ("openai/gsm8k:main:train", "r0r1r2")
    assert ids("openai/gsm8k:socratic") == ("openai/gsm8k:socratic:only", "r0")


def test_a_default_beside_others(stand_in) -> None:
    stand_in["owner/name"] = {"default": {"train": ROWS[:3], "en": ROWS[3:]}, "en": {"train": ROWS[:1]}, "de": {}}
    assert ids("owner/name") == ("owner/name:train", "r0r1r2")
    assert refusal("owner/name:en") == (
        "owner/name:en: en is a configuration, and a split of the configuration default; write owner/name:default:en, "
        "or owner/name:en:SPLIT"
    )
    assert ids("owner/name:en:train") == ("owner/name:en:train", "r0")
    assert ids("owner/name:default:en") == ("owner/name:default:en", "r3r4")


def test_folders_have_configurations_too(tmp_path: Path) -> None:
    for config in ("main", "socratic"):
        (tmp_path / config).mkdir()
        write(tmp_path / config / "train.jsonl", dump(ROWS[:3] if config == "main" else ROWS[3:]))
    assert f"name what to read: {tmp_path}:main/train" in refusal(tmp_path)
    for name in (f"{tmp_path}:socratic/train", f"{tmp_path}:socratic:train"):
        assert [sample.id for sample in Pool(name).samples()] == ["r3", "r4"]
    assert f"{tmp_path}: has no split main/dev" in refusal(f"{tmp_path}:main:dev")
    (tmp_path / "odd:name.jsonl").write_bytes((tmp_path / "main" / "train.jsonl").read_bytes())
    assert Pool(tmp_path / "odd:name.jsonl").scan().rows == 3
    assert "no such file or folder" in refusal(f"{tmp_path}/main/train.jsonl:main:train")
    assert "no such file or folder" in refusal(":main")


README = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train.jsonl}
  - {split: test, path: main/test.jsonl}
- config_name: socratic
  data_files:
  - {split: train, path: socratic/train.jsonl}
---
"""
PROGRAM = """
import sys
from nait_fast.data.pool import Pool
for name in sys.argv[1:]:
    try:
        print(Pool(name).scan().path, [sample.id for sample in Pool(name).samples()])
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_the_library_itself_against_a_hub(tmp_path: Path) -> None:
    files = {
        "README.md": README.encode(),
        "main/train.jsonl": b"\n".join(dump(ROWS[:3])),
        "main/test.jsonl": b"\n".join(dump(ROWS[3:])),
        "socratic/train.jsonl": b"\n".join(dump(ROWS[:1])),
    }

    def read(address: str, offline: str, *names: str) -> list[str]:
        env = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
            "HF_ENDPOINT": address,
            "HF_HOME": str(tmp_path),
            "HF_HUB_OFFLINE": offline,
        }
        command = [sys.executable, "-c", PROGRAM, *names]
        done = subprocess.run(command, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    with hub({"openai/gsm8k": files}) as (address, asked):
        named = ["openai/gsm8k:main:test", "openai/gsm8k", "openai/gsm8k:x:train", "openai/gsm8k:main:dev", "a/b"]
        read_ids, missing, unknown, split, nowhere = read(address, "0", *named)
        assert not any("socratic/train" in request for request in asked)
    assert read_ids == "openai/gsm8k:main:test ['r3', 'r4']"
    advice = "(main, socratic); write openai/gsm8k:main:train (main has train, test)"
    assert missing == f"BadInput openai/gsm8k: has several configurations {advice}"
    assert unknown == f"BadInput openai/gsm8k:x:train: has no configuration x {advice}"
    assert "configuration main has no split dev; name one of train, test" in split
    assert "no reachable Hub dataset (Dataset 'a/b' doesn't exist on the Hub" in nowhere
    # What was fetched is there without the Hub.
    kept = read(address, "1", "openai/gsm8k:main:test", "openai/gsm8k:main")
    assert kept == ["openai/gsm8k:main:test ['r3', 'r4']", "openai/gsm8k:main:train ['r0', 'r1', 'r2']"]


def test_what_takes_time_is_said_before(stand_in, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    stand_in["owner/name"] = {"default": {"train": ROWS}}
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    _ = Pool("owner/name").source
    said = "nait-fast: loading owner/name from the Hugging Face Hub, for it is not here\n"
    assert said in capsys.readouterr().err
    monkeypatch.setenv("TQDM_DISABLE", "1")
    _ = Pool("owner/name").source
    assert said not in capsys.readouterr().err
