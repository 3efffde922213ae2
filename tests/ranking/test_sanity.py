"""A ranking that says nothing is an error or a warning, never a result in silence."""

import json
from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.index import token_hashes
from nait_fast.methods.signature import load_signature
from nait_fast.notices import recorded
from nait_fast.ranking.sanity import rows_of_targets
from tests.commands import beside_cautions, run
from tests.conftest import make_rows, write_jsonl
from tests.ranking.indexes import contrast, write_index

WIDTHS = [40, 33]
pytestmark = pytest.mark.filterwarnings("ignore::nait_fast.notices.NaitWarning")


def made(folder: Path, codes: np.ndarray, pool: Path) -> str:
    """An index of ``pool`` that has ``codes`` uint8 [n, W] of its rows."""
    from nait_fast.data.pool import Pool

    n = len(codes)
    tensors = {"codes": codes, "row": np.arange(n, dtype=np.int64), "n_tokens": np.full(n, 5, dtype=np.int32)}
    plan = Pool(pool).plan()
    told = {"path": str(pool), "kind": "jsonl", "format": "alpaca", "rows": n, "sha256": plan.sha256}
    return str(write_index(folder / "index", [tensors], WIDTHS, datasets=[told]))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_model: str) -> dict[str, str]:
    """A pool, targets of which some samples are rows of it, and what is made of them."""
    folder = tmp_path_factory.mktemp("sanity")
    rows = make_rows(40)
    paths = {
        "pool": write_jsonl(folder / "pool.jsonl", rows),
        "apart": write_jsonl(folder / "apart.jsonl", make_rows(12, seed=5)),
        # The same texts under other keys, and one that is there twice.
        "within": write_jsonl(
            folder / "within.jsonl",
            [
                *({"prompt": r["instruction"], "completion": r["output"], "tag": 1} for r in (*rows[:7], rows[3])),
                *({"prompt": r["instruction"], "completion": r["output"]} for r in make_rows(5, seed=6)),
            ],
        ),
        "one": write_jsonl(folder / "one.jsonl", rows[:1]),
        "same": write_jsonl(folder / "same.jsonl", [{**rows[0], "id": str(i)} for i in range(9)]),
    }
    return {name: str(path) for name, path in paths.items()} | {"model": tiny_model, "folder": str(folder)}


def chosen(whole: dict[str, str], tmp_path: Path, pool: str = "pool", target: str = "apart", **options):
    with recorded() as told:
        out = nait_fast.select(
            model=whole["model"], dataset=whole[pool], target=[f"t={whole[target]}"], output=tmp_path / "out", **options
        )
    return out, [text for text in told if "unread" not in text]


@pytest.mark.parametrize("method", ["contrast", "nait", "nag", "embed"])
def test_samples_that_are_rows_of_the_pool(whole, tmp_path: Path, method: str) -> None:
    chosen_method = "nag:9" if method == "nag" else method
    told, warnings = chosen(whole, tmp_path / "a", target="within", method=chosen_method)
    assert told["rows_of_targets"] == {"t": 7}
    (said,) = beside_cautions(warnings)
    assert said.startswith("target 't': 7 of the pool's 40 rows are samples of the target itself; they rank high")
    manifest = json.loads((tmp_path / "a" / "out" / "manifest.json").read_text())
    assert manifest["warnings"] == warnings and manifest["rows_of_targets"] == {"t": 7}
    told, warnings = chosen(whole, tmp_path / "b", method=chosen_method)
    assert told["rows_of_targets"] == {"t": 0} and beside_cautions(warnings) == []


def test_samples_that_are_left_out_are_not_warned_of(whole, tmp_path: Path) -> None:
    def said(warnings: list[str]) -> list[str]:
        return [text for text in beside_cautions(warnings) if not text.startswith("--decontaminate:")]  # what is short

    told, warnings = chosen(whole, tmp_path, target="within", decontaminate=[whole["within"]], decontaminate_ngram=3)
    assert told["rows_of_targets"] == {"t": 7} and said(warnings) == []
    other = write_jsonl(tmp_path / "other.jsonl", [{"instruction": "Nobody says this here.", "output": "No."}])
    _, warnings = chosen(whole, tmp_path / "b", target="within", decontaminate=[str(other)], fraction=0.5)
    rows = [json.loads(line) for line in (tmp_path / "b" / "out" / "selected.jsonl").read_text().splitlines()]
    texts = {json.loads(line)["prompt"] for line in Path(whole["within"]).read_text().splitlines()}
    mine = sum(row["instruction"] in texts for row in rows)
    (left,) = said(warnings)
    assert mine and left.startswith(f"target 't': {mine} of the 20 selected rows are samples of the target itself")


def test_more_samples_than_a_signature_tells_of(whole, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(token_hashes, "MOST", 3)
    told, warnings = chosen(whole, tmp_path, target="pool", method="nait")
    assert told["rows_of_targets"] == {"t": 3}
    assert warnings[0].startswith("target 't': at least 3 of the pool's 40 rows are samples of the target itself")


def test_two_targets_of_one_name(whole, tmp_path: Path) -> None:
    for part in ("within", "apart"):
        chosen(whole, tmp_path / part, target=part, method="nait")
    index = nait_fast.Index(tmp_path / "apart" / "out" / "index")
    files = [tmp_path / part / "out" / "signatures" / "t.safetensors" for part in ("within", "within", "apart")]
    with recorded() as warnings:
        assert rows_of_targets(index, [load_signature(file) for file in files]) == {"t": 7}
    warnings = beside_cautions(warnings)
    assert len(warnings) == 1 and warnings[0].startswith("target 't': 7 of the pool's")


def test_rank_evaluate_and_merge_know_them_too(whole, tmp_path: Path, capsys) -> None:
    options = {"model": whole["model"], "calibration_size": 20}
    nait_fast.build_index(dataset=whole["pool"], output=tmp_path / "a", shard_rows=16, **options)
    nait_fast.build_index(
        model=whole["model"], dataset=whole["apart"], output=tmp_path / "b", shard_rows=16, codebook=tmp_path / "a"
    )
    nait_fast.merge(index=[tmp_path / "a", tmp_path / "b"], output=tmp_path / "both")
    targets = [f"t={whole['within']}", f"apart={whole['apart']}"]
    nait_fast.build_signature(model=whole["model"], target=targets, codebook=tmp_path / "a", output=tmp_path)
    files = [str(tmp_path / "t.safetensors"), str(tmp_path / "apart.safetensors")]
    ran = run(capsys, "rank", "--index", tmp_path / "both", "--signature", *files, "--output", tmp_path / "r", "--json")
    told = json.loads(ran.out)
    assert told["rows_of_targets"] == {"t": 7, "apart": 12}
    assert [text.split(" rows")[0] for text in beside_cautions(told["warnings"])] == [
        "target 't': 7 of the pool's 52",
        "target 'apart': 12 of the pool's 52",
    ]
    assert ran.err.count("nait-fast: warning: ") == 2
    with recorded() as said:
        nait_fast.evaluate(index=tmp_path / "both", signature=files, output=tmp_path / "e")
    assert sum("samples of the target itself" in text for text in said) == 2
    assert nait_fast.Index(tmp_path / "both").verify() == []
    shown = run(capsys, "inspect", files[0], "--json").out
    assert "contents" not in shown and "sha256" in shown


def test_contents_are_of_the_tokens_read() -> None:
    some = [np.array(ids, dtype=np.int32) for ids in ([1, 2], [1, 2], [2, 1], [], [258])]
    hashes = token_hashes.hashes_of(some)
    assert hashes.dtype == np.int64 and len(set(hashes.tolist())) == 4 and hashes[0] == hashes[1]
    assert token_hashes.from_text(token_hashes.as_text(hashes)).tolist() == sorted(set(hashes.tolist()))
    assert token_hashes.from_text(token_hashes.as_text(hashes[:0])).tolist() == []
    for damaged in ("?", "AAAA"):
        with pytest.raises(ValueError):
            token_hashes.from_text(damaged)


@pytest.mark.parametrize("method", ["contrast", "nait", "nag", "embed"])
def test_a_pool_of_one_text(whole, tmp_path: Path, method: str) -> None:
    """It has no order, and there is nothing wrong with that; it is said."""
    chosen_method = "nag:9" if method == "nag" else method
    if method == "contrast":  # of one text alone no threshold can be said: under another pool's codebook
        nait_fast.build_index(model=whole["model"], dataset=whole["pool"], output=tmp_path / "a", calibration_size=20)
        nait_fast.build_index(
            model=whole["model"], dataset=whole["same"], output=tmp_path / "b", codebook=tmp_path / "a"
        )
        nait_fast.build_signature(
            model=whole["model"], target=[f"t={whole['apart']}"], codebook=tmp_path / "a", output=tmp_path
        )
        with recorded() as warnings:
            told = nait_fast.rank(
                index=tmp_path / "b", signature=[tmp_path / "t.safetensors"], output=tmp_path / "out", top_k=3
            )
    else:
        told, warnings = chosen(whole, tmp_path, pool="same", method=chosen_method, top_k=3)
    assert told["rows_selected"] == 3
    assert beside_cautions(warnings) == ["all 9 rows hold the same tokens: they rank as they lie in the pool"]


def test_rows_that_are_cut_to_the_same_tokens(whole, tmp_path: Path) -> None:
    """A template that is longer than --max-length leaves nothing of the rows' own."""
    cut = {"template": "alpaca", "max_length": 20}
    with pytest.raises(NaitError, match=r"weighs no neuron, .*--max-length"):
        chosen(whole, tmp_path / "a", **cut)
    with pytest.raises(NaitError, match=r"all 40 rows hold the same tokens once they are cut: .* --max-length than 20"):
        chosen(whole, tmp_path / "b", method="nag:9", **cut)


def test_codes_that_are_all_equal(tmp_path: Path, capsys) -> None:
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(30))
    generator = np.random.default_rng(0)
    code = generator.integers(0, 256, 16, dtype=np.uint8)
    signature = contrast("t", WIDTHS, 1)
    width = signature.layout.row_bytes
    codes = np.zeros((30, width), dtype=np.uint8)
    codes[:, :5] = code[:5]
    file = str(signature.save(tmp_path))
    index = made(tmp_path / "equal", codes, pool)
    words = ["--index", index, "--signature", file, "--output", tmp_path / "out"]
    for verb in ("rank", "evaluate"):
        error = run(capsys, verb, *words).error
        assert "target 't': all 30 rows have the same score, for all have one and the same code" in error
        assert "--layers" in error and not (tmp_path / "out" / "selected.jsonl").exists()
    codes[-1, 0] ^= 1  # one bit of one row, in which the signature may still see nothing
    planes = signature.tensors["planes"].copy()
    planes[:, 0] = 0
    blind = nait_fast.Signature("t", signature.meta, {**signature.tensors, "planes": planes})
    index = made(tmp_path / "nearly", codes, pool)
    words = ["--index", index, "--signature", blind.save(tmp_path / "nearly"), "--output", tmp_path / "out2"]
    for verb in ("rank", "evaluate"):
        assert (
            "the same score, though their codes differ: its signature weighs nothing" in run(capsys, verb, *words).error
        )


def test_searches_that_say_nothing(tmp_path: Path) -> None:
    signature, generator = contrast("t", WIDTHS, 1), np.random.default_rng(0)
    codes = generator.integers(0, 256, (40, signature.layout.row_bytes), dtype=np.uint8)
    codes[:, 5], codes[:, 9:] = 0, 0  # the layers' own padding
    pool = write_jsonl(tmp_path / "pool.jsonl", make_rows(40))
    for name, held in (("equal", np.repeat(codes[:1], 40, axis=0)), ("apart", codes)):
        index = nait_fast.Index(made(tmp_path / name, held, pool))
        resident = nait_fast.ResidentIndex(index, "cpu")
        for call, given in (
            (nait_fast.search, (index, signature, 3)),
            (resident.search, (signature, 3)),
            (resident.scores, ([signature],)),
        ):
            if name == "apart":
                call(*given)
            else:
                with pytest.raises(NaitError, match="target 't': all 40 rows have the same score, for all have one"):
                    call(*given)


def test_signatures_that_weigh_nothing(whole, tmp_path: Path) -> None:
    model = whole["model"]
    nait_fast.build_index(model=model, dataset=whole["pool"], output=tmp_path / "index", calibration_size=40)
    with pytest.raises(NaitError, match="--target pool: weighs no neuron, for its neurons fire as the pool's do"):
        nait_fast.build_signature(model=model, target=[whole["pool"]], codebook=tmp_path / "index", output=tmp_path)
    with pytest.raises(NaitError, match="--target same: weighs no neuron, for its samples are all alike"):
        nait_fast.build_signature(model=model, target=[whole["same"]], method="nait", output=tmp_path)


def test_one_row_is_a_pool(tmp_path: Path, whole) -> None:
    nait_fast.build_index(model=whole["model"], dataset=whole["pool"], output=tmp_path / "a", calibration_size=20)
    nait_fast.build_index(model=whole["model"], dataset=whole["one"], output=tmp_path / "b", codebook=tmp_path / "a")
    nait_fast.build_signature(
        model=whole["model"], target=[f"t={whole['apart']}"], codebook=tmp_path / "a", output=tmp_path
    )
    with recorded() as warnings:
        told = nait_fast.rank(index=tmp_path / "b", signature=[tmp_path / "t.safetensors"], output=tmp_path / "out")
    assert told["rows_selected"] == 1 and beside_cautions(warnings) == []
