"""``--push-to-hub`` against a stand-in of the Hub's API."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pyarrow.parquet
import pytest
import yaml

from nait_fast import env
from nait_fast.data.pool import Pool
from nait_fast.remote import reading
from nait_fast.reporting.dataset_card import card_of
from tests.commands import run
from tests.data.pools import refusal
from tests.data.test_folders import README
from tests.remote.hub import TOKEN, DataSet, StandIn, stand_in
from tests.remote.made import Made, files_in

ID = "me/chosen"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[StandIn]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with stand_in() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.address)
        yield server


def front_matter(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_a_selection_and_its_card(capsys, made: Made, hub: StandIn, tmp_path: Path) -> None:
    ran = run(capsys, *made.rank(tmp_path / "a", "--push-to-hub", ID, "--near-duplicates", "0.01"))
    assert ran.status == 0 and ran.out.endswith(f"\non the Hub (private): {hub.address}/datasets/{ID}\n"), ran.err
    there = hub.sets[ID]
    assert there.private and there.files.keys() == {"README.md", "selected.jsonl"}
    assert there.files["selected.jsonl"] == (tmp_path / "a/selected.jsonl").read_bytes()
    assert there.commits == ["7 rows for sums, selected with nait_fast"]
    card, manifest = there.files["README.md"].decode(), json.loads((tmp_path / "a/manifest.json").read_bytes())
    data_files = [{"split": "train", "path": "selected.jsonl"}]
    assert front_matter(card)["configs"] == [{"config_name": "default", "data_files": data_files}]
    for text in (
        "# chosen\n",
        "7 rows of 60 (",
        " tokens, selected for sums with nait_fast",
        'load_dataset("me/chosen", split="train")',
        "| method | contrast |",
        "| near duplicates | 0.01 |",
        "| near-duplicates: rows that lost their places | 0 |",
        "| source: sums | ",
        f"| pool | pool.jsonl, 60 rows, SHA-256 {manifest['datasets'][0]['sha256']} |",
        f"| signature of sums | {manifest['signatures']['sums']} |",
        f"| selected.jsonl | SHA-256 {manifest['files']['selected.jsonl']} |",
    ):
        assert text in card, text
    assert str(made.folder) not in card and made.model not in card
    assert all(TOKEN.encode() not in data for data in files_in(tmp_path / "a").values()) and TOKEN not in ran.err
    assert manifest["config"]["push_to_hub"] == ID
    # Another selection takes its place; the same is no matter.
    assert run(capsys, *made.rank(tmp_path / "b", "--push-to-hub", ID, "--pick", "bottom")).status == 0
    assert there.files["selected.jsonl"] == (tmp_path / "b/selected.jsonl").read_bytes() and len(there.commits) == 2


def test_a_card_names_files_and_not_their_places(capsys, made: Made, tmp_path: Path) -> None:
    assert run(capsys, *made.rank(tmp_path / "a")).status == 0
    manifest = json.loads((tmp_path / "a/manifest.json").read_bytes())
    manifest["warnings"] = ["/home/me/a/pool.jsonl: 3 rows | hold 'x', and/or y; see ../b/c.md, s3://b/d/e.jsonl"]
    manifest["datasets"][0]["path"] = "https://host/d/pool.jsonl?…"
    manifest["model_name"] = "org/model"
    manifest["rows_skipped"]["rows"] = 2
    manifest["config"]["decontaminate"] = ["/home/me/test.jsonl"]
    card = card_of(manifest, ID)
    assert "\n- pool.jsonl: 3 rows \\| hold 'x', and/or y; see c.md, e.jsonl\n" in card
    assert "\n- 2 rows of the pool could not be used, and were left out\n" in card
    assert "| pool | pool.jsonl, 60 rows, " in card and "| model | org/model (float32), " in card
    assert "| decontaminate | test.jsonl |" in card and "/home" not in card


def test_what_is_sent_is_loaded(capsys, made: Made, hub: StandIn, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    arguments = made.rank(tmp_path / "a", "--push-to-hub", ID, "--public")
    assert "on the Hub (public): " in run(capsys, *arguments).out
    assert not hub.sets[ID].private
    for name, data in hub.sets[ID].files.items():
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / name).write_bytes(data)
    rows = datasets.load_dataset(str(tmp_path / "there"), split="train", cache_dir=str(tmp_path / "cache"))
    chosen = [json.loads(line) for line in (tmp_path / "a/selected.jsonl").read_bytes().splitlines()]
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in chosen]


def test_a_failure_leaves_the_selection_whole(capsys, made: Made, hub: StandIn, tmp_path: Path) -> None:
    command = made.rank(tmp_path / "a", "--push-to-hub", ID)
    hub.broken = 403
    ran = run(capsys, *command)
    assert ran.status == 2 and ran.err.splitlines()[-1] == (
        f"nait-fast: error: --push-to-hub {ID}: cannot be sent to the Hub (the Hub answered 403: No room left in this "
        f"account.); the selection is whole in {tmp_path / 'a'}; the same command tries again"
    )
    assert (tmp_path / "a/config.yaml").exists() and run(capsys, "verify", tmp_path / "a").status == 0
    hub.broken = 0
    assert run(capsys, *command).status == 0
    assert hub.sets[ID].files["selected.jsonl"] == (tmp_path / "a/selected.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "there", "more", "why"),
    [
        ("me/x", DataSet(True, {"data.parquet": b""}), (), "is a data set that nait_fast did not write, and"),
        ("me/x", DataSet(True, {"README.md": b"# mine"}), (), "is a data set that nait_fast did not write, and"),
        ("me/x", DataSet(False), (), "is public: all could read the selection; pass --public, or name another"),
        ("me/x", DataSet(True), ("--public",), "is private, and --public makes no data set public that"),
        ("x", None, (), "is no id of a data set on the Hub; write OWNER/NAME"),
        ("a b/c", None, (), "is no id of a data set on the Hub; write OWNER/NAME"),
    ],
)
def test_refused_before_anything_is_written(
    capsys, made: Made, hub: StandIn, tmp_path: Path, name: str, there: DataSet | None, more: tuple[str, ...], why: str
) -> None:
    if there is not None:
        hub.sets[name] = there
    assert run(capsys, *made.rank(tmp_path / "a", "--push-to-hub", name, *more)).error.startswith(
        f"--push-to-hub {name}: {why}"
    )
    assert not (tmp_path / "a").exists()


def test_without_the_hub(capsys, made: Made, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = made.rank(tmp_path / "a", "--push-to-hub", ID)
    monkeypatch.setenv("HF_TOKEN", "hf_another")
    assert "cannot be sent to the Hub (the Hub answered 401" in run(capsys, *command).error
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    error = run(capsys, *command).error
    assert error == f"--push-to-hub {ID}: there is no token for the Hub; run: hf auth login (or set HF_TOKEN)"
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "cannot be sent to the Hub (OfflineModeIsEnabled: " in run(capsys, *command).error
    assert not (tmp_path / "a").exists()
    error = run(capsys, *made.rank(tmp_path / "a", "--public")).error
    assert error.endswith("--public True: is for --push-to-hub, which is not given; leave it out")


def test_an_output_that_is_a_url_is_sent_to_both(
    capsys, made: Made, hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(env.CACHE, str(tmp_path / "cache"))
    url = f"memory://{tmp_path.name}/out"
    assert run(capsys, *made.rank(url, "--push-to-hub", ID)).status == 0
    assert hub.sets[ID].files.keys() == {"README.md", "selected.jsonl"}
    hub.broken = 500
    assert (
        f"the selection is whole in {url}; the same command tries again"
        in run(capsys, *made.rank(url, "--push-to-hub", ID)).err
    )


def test_pools_in_a_data_set(hub: StandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fsspec.config.conf, "hf", {"endpoint": hub.address})
    monkeypatch.setattr(reading, "FIRST", 1000)
    rows = [{"text": f"row {i} " + "x" * 2000} for i in range(400)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "p", row_group_size=50, compression="none")
    parquet, lines = (tmp_path / "p").read_bytes(), b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    files = {"README.md": README.encode(), "more/a.jsonl": lines}
    files |= {f"data/{split}-00000-of-00001.parquet": parquet for split in ("train", "test")}
    hub.sets["me/set"] = DataSet(False, files)
    pool = Pool("hf://datasets/me/set/more/a.jsonl", unit_rows=64)
    assert pool.plan().sha256 == hashlib.sha256(lines).hexdigest() and pool.scan().good == 400
    hub.ranges.clear()
    pool = Pool("hf://datasets/me/set/data:train", unit_rows=50)
    plan = pool.plan()
    assert (plan.rows, plan.sha256) == (400, hashlib.sha256(parquet).hexdigest())
    assert json.loads(pool.lines([123])[0])["text"] == rows[123]["text"]
    read = sum(min(stop, len(parquet)) - start for start, stop in hub.ranges)
    assert 0 < read < len(parquet) // 2  # the Hub knows its hash
    assert "holds files of several splits or folders" in refusal("hf://datasets/me/set/data")
    assert "hf://datasets/me/none: no such file or folder; check the URL" in refusal("hf://datasets/me/none")
