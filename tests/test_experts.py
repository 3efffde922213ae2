"""The commands on a mixture of experts: neurons and router, from index to scores."""

from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.errors import NaitError
from nait_fast.extract import representation
from nait_fast.index.reader import Index
from tests.conftest import make_rows, write_jsonl
from tests.models.tiny import build, config_of

ROWS = make_rows(60)
CALIBRATION = {"calibration_size": 30}


@pytest.fixture(scope="module")
def moe(tmp_path_factory, tokenizer) -> str:
    """Folder of a random DeepSeek-V3: a dense layer, then two of 6 experts and a shared one."""
    folder = tmp_path_factory.mktemp("tiny-moe")
    lengths = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    config = config_of(
        "deepseek_v3",
        **lengths,
        n_routed_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=12,
        n_group=2,
        topk_group=1,
        first_k_dense_replace=1,
        num_key_value_heads=2,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
    )
    build(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("rows")
    target = [row for row in make_rows(40, seed=1) if row["source"] == "sums"]
    return {
        "pool": str(write_jsonl(folder / "pool.jsonl", ROWS)),
        "target": f"sums={write_jsonl(folder / 'sums.jsonl', target)}",
    }


@pytest.mark.parametrize(
    ("experts", "layers", "widths"), [("neurons", [0, 1, 1, 2, 2], [40, 72, 12, 72, 12]), ("router", [1, 2], [6, 6])]
)
@pytest.mark.parametrize("method", ["contrast", "nait", "nait:contrast", "embed"])
def test_select(method: str, experts: str, layers: list, widths: list, moe: str, files: dict, tmp_path: Path) -> None:
    """Every method, through each of its ways: in one command, step by step, and by a Scorer."""
    given = {"model": moe, "experts": experts}
    told = nait_fast.select(
        **given,
        **CALIBRATION,
        dataset=files["pool"],
        target=[files["target"]],
        method=method,
        fraction=0.2,
        output=str(tmp_path / "one"),
    )
    assert told["rows_selected"] == 12
    index = Index(tmp_path / "one" / "index")
    assert index.verify() == [] and index.manifest["layers"] == layers and index.manifest["widths"] == widths
    assert index.manifest.get("experts", "neurons") == experts
    signature = tmp_path / "one" / "signatures" / "sums.safetensors"
    assert nait_fast.load_signature(signature).meta.get("experts", "neurons") == experts
    ranked = nait_fast.rank(
        index=str(index.folder), signature=[str(signature)], fraction=0.2, output=str(tmp_path / "two")
    )
    assert ranked["rows_selected"] == 12
    chosen = (tmp_path / "one" / "selected.jsonl").read_bytes()
    assert (tmp_path / "two" / "selected.jsonl").read_bytes() == chosen
    scores = nait_fast.Scorer(moe, [str(signature)]).score(ROWS)[:, 0]
    best = {ROWS[i]["id"] for i in np.argsort(-scores, kind="stable")[:12]}
    assert len({row["id"] for row in ROWS if f'"id": "{row["id"]}"'.encode() in chosen} & best) >= 11


def test_neurons_and_router_do_not_mix(moe: str, files: dict, tmp_path: Path) -> None:
    made = {"model": moe, "dataset": files["pool"], **CALIBRATION}
    nait_fast.build_index(**made, output=str(tmp_path / "index"), experts="router")
    signature = nait_fast.build_signature(
        model=moe, target=[files["target"]], method="nait", reading="mean", output=str(tmp_path / "signatures")
    )["signatures"][0]["file"]
    with pytest.raises(NaitError, match=r"another experts \('neurons'\) .* \('router'\): rebuild it with --experts r"):
        nait_fast.rank(index=str(tmp_path / "index"), signature=[signature], fraction=0.2, output=str(tmp_path / "out"))


def test_more_neurons_than_are_kept(moe: str, files: dict, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(representation, "MOST_EXPERT_BYTES", 16)
    made = {"model": moe, "dataset": files["pool"], **CALIBRATION}
    with pytest.raises(NaitError, match=r"experts have 208 neurons.* use --experts router \(8 bytes a sample\)"):
        nait_fast.build_index(**made, output=str(tmp_path / "index"))
    nait_fast.build_index(**made, output=str(tmp_path / "index"), experts="router")


def test_a_dense_model_has_no_router(tiny_model: str, files: dict, tmp_path: Path) -> None:
    with pytest.raises(NaitError, match="--experts router: no experts in all layers of LlamaModel; leave it out"):
        nait_fast.build_index(model=tiny_model, dataset=files["pool"], output=str(tmp_path / "index"), experts="router")
