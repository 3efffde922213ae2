"""The commands on a mixture of experts: neurons and router, from index to scores."""

from pathlib import Path

import numpy as np
import pytest

import nait_fast
from nait_fast.codecs.chosen import check_chosen
from nait_fast.config import DataOptions, ModelOptions
from nait_fast.errors import NaitError
from nait_fast.extract import indexing, representation
from nait_fast.extract.session import encode_rows, session_around
from nait_fast.extract.sinks import Collect
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
    ("experts", "layers", "widths"),
    [
        ("neurons", [0, 1, 1, 2, 2], [40, 72, 12, 72, 12]),
        ("neurons:20", [0, 1, 1, 2, 2], [40, 20, 12, 20, 12]),
        ("router", [1, 2], [6, 6]),
    ],
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
    read, chosen = experts.partition(":")[0], ":" in experts
    assert index.manifest.get("experts", "neurons") == read
    assert ("chosen" in index.manifest) == chosen == (index.codebook.chosen is not None)
    by = "variance" if method.startswith("nait") else "random"  # sums are of large numbers, bits of all alike
    assert index.codebook.meta.get("chosen_by") == (by if chosen else None)
    signature = tmp_path / "one" / "signatures" / "sums.safetensors"
    assert nait_fast.load_signature(signature).meta.get("experts", "neurons") == read
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
    monkeypatch.setattr(representation, "MOST_EXPERT_BYTES", 28)
    monkeypatch.setattr(representation, "KEPT_BYTES", 24)
    monkeypatch.setattr(representation, "LEAST_KEPT", 32)
    made = {"model": moe, "dataset": files["pool"], **CALIBRATION}
    router = r"--experts router \(8 bytes a sample\)"
    with pytest.raises(NaitError, match=rf"experts have 208 neurons.* use --experts neurons, which keeps .*{router}"):
        nait_fast.build_index(**made, output=str(tmp_path / "index"), experts="neurons:all")
    with pytest.raises(NaitError, match=rf"experts have 128 neurons.* use fewer layers \(--layers\), or {router}"):
        nait_fast.build_index(**made, output=str(tmp_path / "index"))
    monkeypatch.setattr(representation, "MOST_EXPERT_BYTES", 32)
    with pytest.warns(UserWarning, match="208 neurons; an index keeps 32 of the experts' of each layer"):
        nait_fast.build_index(**made, output=str(tmp_path / "index"))
    assert Index(tmp_path / "index").manifest["widths"] == [40, 32, 12, 32, 12]


@pytest.mark.parametrize(
    ("experts", "says"),
    [("routers", "nothing that can be read"), ("neurons:0", "nothing"), ("router:3", "nothing"), ("neurons:x", "noth")],
)
def test_what_cannot_be_read_of_experts(experts: str, says: str, files: dict, tmp_path: Path) -> None:
    """Said before a model is looked for."""
    with pytest.raises(NaitError, match=f"--experts {experts}: is {says}"):
        nait_fast.build_index(
            model="absent", dataset=files["pool"], output=str(tmp_path / "index"), experts=experts, **CALIBRATION
        )


def test_a_dense_model_has_no_router(tiny_model: str, files: dict, tmp_path: Path) -> None:
    with pytest.raises(NaitError, match="--experts router: no experts in all layers of LlamaModel; leave it out"):
        nait_fast.build_index(model=tiny_model, dataset=files["pool"], output=str(tmp_path / "index"), experts="router")


@pytest.fixture(scope="module")
def index(moe: str, files: dict, tmp_path_factory) -> Index:
    """Of 20 neurons of each layer's experts, a random sample."""
    folder = tmp_path_factory.mktemp("chosen") / "index"
    given = {"model": moe, "dataset": files["pool"], "calibration_size": 60, "experts": "neurons:20"}
    nait_fast.build_index(**given, output=str(folder))
    return Index(folder)


def test_which_neurons_are_kept(moe: str, files: dict, index: Index, tmp_path: Path) -> None:
    """By codec neuron a random sample, the others those that vary most: against all readings of the calibration sample,
    which is the whole pool here. Experts run before the shared one."""
    given = {"model": moe, "dataset": files["pool"], "calibration_size": 60, "experts": "neurons:20"}
    nait_fast.build_index(**given, output=str(tmp_path / "varied"), codec="components:24", reading="mean")
    varied = Index(tmp_path / "varied").codebook.chosen
    session = session_around(moe, None, DataOptions(), "exclude", ModelOptions(model=moe), "test")
    _, encoded = encode_rows(session.encoder, ROWS, session.conventions)
    readings = Collect(len(ROWS), session.layout, ["mean"])
    session.run(encoded, readings, ["mean"], np.zeros(0, dtype=np.int32))
    values, places, numbers = readings.readings["mean"].numpy(), [], []
    for ordinal, (kept, counted_before) in enumerate(zip(index.layout.widths, (0, 0, 72, 0, 72), strict=True)):
        neurons, code = session.layout.neurons(ordinal), index.layout.neurons(ordinal)
        variance = values[:, neurons].astype(np.float64).var(axis=0)
        numbers.append(counted_before + np.sort(np.argsort(-variance, kind="stable")[:kept]))
        places.append(neurons.start + index.codebook.chosen[code] - counted_before)
    assert np.array_equal(varied, np.concatenate(numbers)) and not np.array_equal(index.codebook.chosen, varied)
    values = values[:, np.concatenate(places)]
    expected = values > values.mean(axis=0, dtype=np.float64).astype(np.float32)
    codes = index.layout.unpack(np.concatenate([np.array(shard.codes) for shard in index.shards()]))
    assert (codes != expected).mean() < 1e-3


def test_a_file_of_chosen_neurons_that_has_changed(index: Index) -> None:
    chosen = index.codebook.chosen
    check_chosen({"chosen": chosen}, index.codebook.meta, index.layout)
    for place, number in ((0, -1), (1, 0), (41, int(chosen[40]))):
        other = chosen.copy()
        other[place] = number
        with pytest.raises(ValueError, match="impossible"):
            check_chosen({"chosen": other}, index.codebook.meta, index.layout)
    with pytest.raises(ValueError, match="not there"):
        check_chosen({}, index.codebook.meta, index.layout)


def test_a_signature_is_of_the_same_neurons(moe: str, files: dict, index: Index, tmp_path: Path) -> None:
    """One of all neurons, or of others, does not fit; one made with the index's codebook does."""
    given = {"model": moe, "target": [files["target"]]}
    every = nait_fast.build_signature(**given, method="nait", reading="mean", output=str(tmp_path / "all"))
    with pytest.raises(NaitError, match=r"experts' neurons \('all'\).*rebuild it with --codebook of that index"):
        nait_fast.rank(
            index=str(index.folder),
            signature=[every["signatures"][0]["file"]],
            fraction=0.2,
            output=str(tmp_path / "out"),
        )
    with pytest.raises(NaitError, match=r"--experts neurons:20: which are kept stands in an index's codebook"):
        nait_fast.build_signature(**given, experts="neurons:20", method="nait", output=str(tmp_path / "some"))
    with pytest.raises(NaitError, match=r"another layers \(\[0, 1, 1, 2, 2\], here \[0, 1, 1\]\)"):
        nait_fast.build_signature(**given, layers="0-1", codebook=str(index.folder), output=str(tmp_path / "few"))
    with pytest.warns(UserWarning, match="its sums are of a random sample of the experts' neurons"):
        nait_fast.build_signature(**given, codebook=str(index.folder), method="nait", output=str(tmp_path / "nait"))
    made = nait_fast.build_signature(**given, codebook=str(index.folder), output=str(tmp_path / "fits"))
    signature = made["signatures"][0]["file"]
    nait_fast.rank(index=str(index.folder), signature=[signature], fraction=0.2, output=str(tmp_path / "out"))
    given = {"model": moe, "target": [files["target"]], "sizes": ["8"], "repeats": 2}
    told = nait_fast.evaluate(**given, index=str(index.folder), signature=[signature], output=str(tmp_path / "new"))
    assert told["rows"] == 60


def test_going_on_with_the_same_neurons(moe: str, files: dict, index: Index, tmp_path: Path, monkeypatch) -> None:
    """An index that was killed behind its calibration, and one that is added to, keep their neurons."""
    given = {"model": moe, "dataset": files["pool"], "calibration_size": 60, "experts": "neurons:20"}
    ours = tmp_path / "index"
    with monkeypatch.context() as killed:
        killed.setattr(indexing.IndexBuild, "run_unit", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            nait_fast.build_index(**given, output=str(ours))
    monkeypatch.setattr(indexing.IndexBuild, "_choose", lambda *_: 1 / 0)
    nait_fast.build_index(**given, output=str(ours))
    assert Index(ours).manifest["shards"] == index.manifest["shards"]
    assert Index(ours).codebook_hash == index.codebook_hash
    more = str(write_jsonl(tmp_path / "more.jsonl", make_rows(20, seed=5)))
    nait_fast.build_index(model=moe, dataset=more, output=str(ours), append=True)
    assert Index(ours).rows == 80 and Index(ours).verify() == []


def test_exact_scores_are_of_the_kept_neurons(moe: str, files: dict, index: Index, tmp_path: Path) -> None:
    """In a pass that chooses there can be none; under a codebook, and in what is added to an index, they are
    Scorer's."""
    made = {"model": moe, "dataset": files["pool"], **CALIBRATION}
    target = {"model": moe, "target": [files["target"]], "method": "nait"}
    every = nait_fast.build_signature(**target, output=str(tmp_path / "all"))["signatures"][0]["file"]
    with pytest.raises(NaitError, match=r"was made before this index chooses which neurons .*; give --codebook of an"):
        nait_fast.build_index(**made, experts="neurons:20", exact=[every], output=str(tmp_path / "none"))
    codebook = str(index.folder)
    with pytest.warns(UserWarning, match="a random sample"):
        some = nait_fast.build_signature(**target, codebook=codebook, output=str(tmp_path / "some"))
    some = some["signatures"][0]["file"]
    given = {"model": moe, "dataset": files["pool"], "codebook": codebook, "exact": [some]}
    nait_fast.build_index(**given, output=str(tmp_path / "scored"))
    (shard,) = Index(tmp_path / "scored").shards()
    np.testing.assert_allclose(
        shard.exact["sums"], nait_fast.Scorer(moe, [some]).score(ROWS)[:, 0], rtol=1e-5, atol=1e-6
    )
    more = str(write_jsonl(tmp_path / "more.jsonl", make_rows(20, seed=5)))
    selected = tmp_path / "selected"
    nait_fast.select(
        **made, target=[files["target"]], method="nait", experts="neurons:20", fraction=0.2, output=str(selected)
    )
    signature = str(selected / "signatures" / "sums.safetensors")
    # the index of the selection is of its own options
    added = {"model": moe, "dataset": more, "exact": [signature], "append": True, "output": str(selected / "index")}
    nait_fast.build_index(**added)
    assert Index(selected / "index").rows == 80 and Index(selected / "index").verify() == []


@pytest.mark.parametrize("experts", ["neurons:8", "neurons:all"])
def test_other_neurons_than_the_codebook_is_of(experts: str, moe: str, files: dict, index: Index, tmp_path) -> None:
    given = {"model": moe, "codebook": str(index.folder), "experts": experts, "output": str(tmp_path / "out")}
    with pytest.raises(NaitError, match=f"--experts {experts}: the codebook is of other neurons; leave it out"):
        nait_fast.build_index(**given, dataset=files["pool"])
    which = "the codebook is of other neurons" if experts == "neurons:all" else "which are kept stands in an index's"
    with pytest.raises(NaitError, match=f"--experts {experts}: {which}"):
        nait_fast.build_signature(**given, target=[files["target"]])
