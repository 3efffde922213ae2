"""``Scorer`` gives the scores of index and rank, for samples in memory."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import nait_fast
from nait_fast import NaitError, Scorer
from tests.conftest import make_rows, make_tokenizer, write_jsonl

ROWS = make_rows(40)
METHODS = {"contrast": {}, "nait": {"reading": "drift"}, "nag": {"method": "nag:9"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny_model: str) -> dict[str, tuple[Path, np.ndarray]]:
    """method -> (signature file, scores of ROWS out of an index of them)."""
    folder = tmp_path_factory.mktemp("scored")
    pool = write_jsonl(folder / "pool.jsonl", ROWS)
    target = write_jsonl(folder / "sums.jsonl", [r for r in make_rows(24, seed=1) if r["source"] == "sums"])
    out = {}
    for method, own in METHODS.items():
        place = folder / method
        options = {"model": tiny_model, "target": [f"{method}={target}"], "method": method, "output": place, **own}
        nait_fast.select(dataset=pool, **options, **({} if method == "nag" else {"calibration_size": 20}))
        signature = place / "signatures" / f"{method}.safetensors"
        rows, scores = nait_fast.search(nait_fast.Index(place / "index"), nait_fast.load_signature(signature), 40)
        out[method] = (signature, scores[np.argsort(rows)])
    return out


@pytest.fixture
def loaded(tiny_model: str):
    """(model, tokenizer) as somebody else loads them."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(tiny_model).eval(), AutoTokenizer.from_pretrained(tiny_model)


def close(got: np.ndarray, expected: np.ndarray, method: str) -> bool:
    """Bit scores agree exactly but for a bit at its threshold; NAIT's are sums of floats."""
    if method == "nait":
        return bool(np.allclose(got, expected, atol=2e-5 * expected.std()))
    return bool((got == expected).mean() >= 0.95 and np.allclose(got, expected, atol=0.2 * expected.std()))


@pytest.mark.parametrize("method", METHODS)
def test_scores_equal_index_and_rank(tiny_model: str, made, method: str) -> None:
    signature, expected = made[method]
    scorer = Scorer(tiny_model, signature if method == "nag" else [signature])  # one may stand for itself
    assert scorer.names == [method]
    scores = scorer.score(ROWS)
    assert scores.shape == (40, 1) and scores.dtype == np.float64
    assert close(scores[:, 0], expected, method)
    # One at a time, and once more in another order: the same samples have the same scores.
    alone = np.concatenate([scorer.score([row])[:, 0] for row in ROWS[:8]])
    assert close(alone, expected[:8], method)
    assert close(scorer.score(ROWS[::-1])[::-1, 0], expected, method)


def test_several_signatures_in_one_pass(tiny_model: str, made) -> None:
    scorer = Scorer(tiny_model, [path for path, _ in made.values()])
    assert scorer.names == list(METHODS)
    together = scorer.score(ROWS)
    for column, (method, (path, expected)) in enumerate(made.items()):
        assert close(together[:, column], expected, method)
        assert close(Scorer(tiny_model, [nait_fast.load_signature(path)]).score(ROWS)[:, 0], expected, method)


def test_a_model_in_memory_is_left_as_it_was(loaded, made) -> None:
    model, tokenizer = loaded
    ids = torch.arange(4, 30)[None]
    with torch.no_grad():
        before = model(ids).logits
    signature, expected = made["contrast"]
    assert close(Scorer(model, [signature], tokenizer=tokenizer).score(ROWS)[:, 0], expected, "contrast")
    body = Scorer(model.model, [signature], tokenizer=tokenizer)
    assert close(body.score(ROWS)[:, 0], expected, "contrast")
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)
    with pytest.raises(NaitError, match="a model in memory needs its tokenizer"):
        Scorer(model, [signature])
    with pytest.raises(NaitError, match="training mode"):
        Scorer(model.train(), [signature], tokenizer=tokenizer)


def test_signatures_that_do_not_fit(tiny_model: str, made, tmp_path: Path) -> None:
    signature, _ = made["contrast"]
    with pytest.raises(NaitError, match=r"'contrast' was made with another template or tokenizer .* than this Scorer"):
        Scorer(tiny_model, [signature], template="alpaca")
    with pytest.raises(NaitError, match="another layers"):
        Scorer(tiny_model, [signature], layers="0-1")
    of_two = nait_fast.signature_of(tiny_model, ROWS[:8], method="nag", layers="-2--1")
    with pytest.raises(NaitError, match="the signatures differ in layers; use two Scorers"):
        Scorer(tiny_model, [signature, of_two])
    with pytest.raises(NaitError, match="Scorer: two signatures have the name 'contrast': give each"):
        Scorer(tiny_model, [signature, signature])
    with pytest.raises(NaitError, match="no signatures given"):
        Scorer(tiny_model, [])
    with pytest.raises(NaitError, match="no such file"):
        Scorer(tiny_model, [tmp_path / "absent.safetensors"])
    target = write_jsonl(tmp_path / "a.jsonl", make_rows(8))
    nait_fast.build_signature(
        model=tiny_model, target=[str(target)], method="nait", first_token="include", output=tmp_path
    )
    with pytest.raises(NaitError, match="differ in first_token"):
        Scorer(tiny_model, [signature, tmp_path / "a.safetensors"])


def test_layers_are_those_of_the_signatures(tiny_model: str) -> None:
    for layers in ("0", "-2--1", "0,2"):
        signature = nait_fast.signature_of(tiny_model, ROWS[:8], method="nag", layers=layers)
        scores = Scorer(tiny_model, [signature]).score(ROWS)
        assert scores.std() > 0 and (scores == Scorer(tiny_model, [signature], layers=layers).score(ROWS)).all()


BAD = [
    ({"instruction": "a"}, "no known format has these keys: instruction"),
    ({"instruction": "a", "output": " "}, "empty response"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "unknown role 'robot'"),
    ({"input_ids": [1, 1]}, "no content tokens"),
    ({"input_ids": [5, 10**6]}, "token id 1000000 is outside the model's 458 tokens"),
    ("just text", "must be a mapping (a row of a pool), not str"),
    (None, "must be a mapping"),
]


@pytest.mark.parametrize(("sample", "words"), BAD, ids=[words for _, words in BAD])
def test_a_bad_sample_is_named(tiny_model: str, made, sample: dict, words: str) -> None:
    scorer = Scorer(tiny_model, [made["contrast"][0]])
    with pytest.raises(NaitError) as error:
        scorer.score([ROWS[0], sample, ROWS[1]])
    assert str(error.value).startswith("sample 1: ") and words in str(error.value)
    assert close(scorer.score(ROWS)[:, 0], made["contrast"][1], "contrast")  # and the scorer works on


def test_every_format_and_none_at_all(tiny_model: str, made) -> None:
    scorer = Scorer(tiny_model, [made["nag"][0]])
    assert scorer.score([]).shape == (0, 1)
    turns = [{"role": "user", "content": "a cat"}, {"role": "assistant", "content": "a dog"}]
    tokenizer = make_tokenizer()
    ids = tokenizer(tokenizer.apply_chat_template(turns, tokenize=False), add_special_tokens=False)["input_ids"]
    same = [
        {"messages": turns},
        {"instruction": "a cat", "input": "", "output": "a dog"},
        {"prompt": "a cat", "completion": "a dog"},
        {"conversations": [{"from": "human", "value": "a cat"}, {"from": "gpt", "value": "a dog"}]},
        {"input_ids": ids},
    ]
    scores = scorer.score([*same, {"text": "a dog"}])
    assert len(set(scores[:5, 0])) == 1 and np.isfinite(scores).all()


def test_threads_may_share_a_scorer(tiny_model: str, made) -> None:
    signature, expected = made["contrast"]
    scorer = Scorer(tiny_model, [signature])
    parts = [ROWS[i : i + 5] for i in range(0, 40, 5)]
    alone = [scorer.score(part) for part in parts]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(scorer.score, parts * 3))
    assert all(np.array_equal(a, b) for a, b in zip(alone * 3, together, strict=True))


def test_a_model_in_memory_may_run_meanwhile(loaded, made) -> None:
    """Scorers of one model, and whoever else runs it, do not see each other."""
    model, tokenizer = loaded
    ids = torch.arange(4, 30)[None]
    with torch.no_grad():
        before = model(ids).logits
    scorers = [Scorer(model, [made[method][0]], tokenizer=tokenizer) for method in ("contrast", "nait")]
    alone = [scorer.score(ROWS) for scorer in scorers]
    weights = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in scorers[0]._session.model.body.parameters()} <= weights  # shared, not copied

    def run(number: int) -> bool:
        if number < 2:
            return all(np.array_equal(scorers[number].score(ROWS), alone[number]) for _ in range(4))
        with torch.no_grad(), nait_fast.capture(model) as captured:
            first = [x.clone() for x in (model(ids) and captured["mean"])]
            return all(
                torch.equal(model(ids).logits, before) and all(map(torch.equal, captured["mean"], first))
                for _ in range(30)
            )

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(run, range(3)))


def test_weights_that_change_in_place_change_the_prefixes_too(loaded, made) -> None:
    """What a shared prefix has left is of the weights that it ran through."""
    model, tokenizer = loaded
    rows = [{**row, "instruction": f"write a story about the rain, please, and {row['instruction']}"} for row in ROWS]
    used, fresh = (Scorer(model, [made["nait"][0]], tokenizer=tokenizer) for _ in range(2))
    before = used.score(rows)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.25)
    after = used.score(rows)
    assert np.array_equal(after, fresh.score(rows)) and not np.allclose(after, before, rtol=1e-3)


def test_bad_samples_beside_good_ones(tiny_model: str, made) -> None:
    scorer = Scorer(tiny_model, [path for path, _ in made.values()])
    bad = [sample for sample, _ in BAD]
    scores, problems = scorer.try_score([*bad[:3], *ROWS[:4], *bad[3:]])
    places = [0, 1, 2, *range(7, 7 + len(BAD) - 3)]
    assert sorted(problems) == places
    assert all(words in problems[i] for i, (_, words) in zip(places, BAD, strict=True))
    assert np.isnan(scores[places]).all() and np.array_equal(scores[3:7], scorer.score(ROWS[:4]))


def test_a_signature_from_memory(tiny_model: str, loaded, made, tmp_path: Path) -> None:
    """As from a file: the same weights, and a file that scores alike."""
    model, tokenizer = loaded
    target = [r for r in make_rows(24, seed=1) if r["source"] == "sums"]
    codebook = str(made["contrast"][0].parents[1] / "index")
    from_file = nait_fast.load_signature(made["contrast"][0])
    for source in ((tiny_model, None), (model, tokenizer)):
        own = nait_fast.signature_of(source[0], target, name="contrast", tokenizer=source[1], codebook=codebook)
        assert own.tensors.keys() == from_file.tensors.keys()
        assert all(np.array_equal(own.tensors[key], from_file.tensors[key]) for key in own.tensors)
    assert own.meta["target"]["sha256"] == from_file.meta["target"]["sha256"]  # the file held the same lines
    scores = Scorer(tiny_model, [own.save(tmp_path)]).score(ROWS)
    assert np.array_equal(scores, Scorer(tiny_model, [made["contrast"][0]]).score(ROWS))
    nait = nait_fast.signature_of(tiny_model, target, name="nait", method="nait")
    assert np.allclose(nait.tensors["direction"], nait_fast.load_signature(made["nait"][0]).tensors["direction"])
    for samples, more, words in (
        (target[:1], {}, "1 samples: a target needs at least 2"),
        ([target[0], {"instruction": "a"}], {}, "sample 1: no known format"),
        (target, {"codebook": None}, "--codebook is missing"),
        (target, {"name": "a/b"}, "the name of letters"),
        (target, {"method": "magic"}, "--method magic: choose"),
        (target, {"max_length": 5}, "made with another max_length"),
        (target, {"first_token": "include"}, "made with another first_token"),
        (target, {"dtype": "bfloat16"}, "made with another dtype"),
    ):
        with pytest.raises(NaitError, match=words):
            nait_fast.signature_of(tiny_model, samples, **{"codebook": codebook, **more})
    with pytest.raises(NaitError, match="needs its tokenizer"):
        nait_fast.signature_of(model, target, codebook=codebook)
