"""``--tokens`` end to end: indexes, signatures and scores over the response or the prompt, against plain hooks."""

import json

import numpy as np
import pytest

import nait_fast
from nait_fast import NaitError, Scorer
from tests import naive
from tests.commands import run
from tests.conftest import CHAT_TEMPLATE, make_rows, write_jsonl

# The tiny model's template, with the marks by which transformers tells what the assistant says.
MASKED = CHAT_TEMPLATE.replace(
    "{{ m['content'] }}",
    "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}{% endgeneration %}"
    "{% else %}{{ m['content'] }}{% endif %}",
)


def talks(n: int, seed: int = 0) -> list[dict]:
    """Conversations of one and of two turns, most with the same system message."""
    rows = make_rows(2 * n, seed)
    made = []
    for i in range(n):
        turns = [{"role": "system", "content": "you can help me please"}] if i % 6 else []
        for row in rows[2 * i : 2 * i + 1 + i % 2]:
            turns += [
                {"role": "user", "content": row["instruction"]},
                {"role": "assistant", "content": "é " + row["output"]},
            ]
        made.append({"messages": turns, "id": str(i)})
    return made


ROWS, TARGET = talks(24), talks(8, seed=5)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokens")
    return write_jsonl(folder / "pool.jsonl", ROWS), write_jsonl(folder / "target.jsonl", TARGET)


@pytest.fixture(scope="module")
def plain(tiny_model):
    """(model, rows, tokens) -> [(ids, positions of the chosen ones)], by transformers alone."""
    model, tokenizer = naive.load(tiny_model)

    def chosen(rows: list[dict], tokens: str) -> list[tuple[list[int], list[int]]]:
        out = []
        for row in rows:
            ids = naive.content_ids(tokenizer, row["messages"])
            masked = tokenizer.apply_chat_template(
                row["messages"], chat_template=MASKED, return_dict=True, return_assistant_tokens_mask=True
            )
            assert masked["input_ids"][: len(ids)] == ids
            mask = masked["assistant_masks"][: len(ids)]
            out.append((ids, [i for i, own in enumerate(mask) if own == (tokens == "response")]))
        return out

    return model, chosen


@pytest.fixture(scope="module")
def indexes(tmp_path_factory, tiny_model, files):
    """tokens -> folder of an index of the pool, with embeddings."""
    out = {}
    for tokens in ("all", "response", "prompt"):
        out[tokens] = tmp_path_factory.mktemp(tokens) / "index"
        nait_fast.build_index(
            model=tiny_model,
            dataset=files[0],
            output=out[tokens],
            tokens=tokens,
            embed="last",
            calibration_size=len(ROWS),
            shard_rows=10,
        )
    return out


def signature(folder, indexes, tiny_model, files, tokens: str, **more):
    options = {"model": tiny_model, "target": [f"t={files[1]}"], "tokens": tokens, "output": folder / "signatures"}
    (made,) = nait_fast.build_signature(**options, **{"codebook": indexes[tokens], **more})["signatures"]
    return made["file"]


@pytest.mark.parametrize("tokens", ["response", "prompt"])
def test_codes_and_embeddings_are_those_of_plain_hooks(indexes, plain, tokens: str) -> None:
    model, chosen = plain
    index = nait_fast.Index(indexes[tokens])
    assert index.manifest["reading_tokens"] == index.codebook.meta["reading_tokens"] == tokens
    samples = chosen(ROWS, tokens)
    means = np.stack([naive.pooled(model, ids, places)["mean"] for ids, places in samples]).reshape(len(ROWS), -1)
    np.testing.assert_allclose(index.codebook.threshold, means.mean(axis=0), rtol=1e-4, atol=1e-6)
    bits = np.concatenate([index.layout.unpack(np.array(shard.codes)) for shard in index.shards()]).astype(bool)
    near = np.abs(means - means.mean(axis=0)) < 1e-5
    assert ((bits == (means > means.mean(axis=0))) | near).all() and near.mean() < 0.01
    hidden = np.stack([naive.mean_hidden(model, ids, places)[-1] for ids, places in samples])
    centred = hidden - hidden.mean(axis=0)
    levels = centred * (127 / np.abs(centred).max(axis=1, keepdims=True))
    got = np.concatenate([shard.columns["embedding"] for shard in index.shards()])
    assert np.abs(got - levels).max() < 0.51
    assert [n for shard in index.shards() for n in shard.n_tokens] == [len(ids) for ids, _ in samples]
    shared = json.loads((indexes[tokens] / "log.json").read_text())["shared_prefix_tokens"]
    assert sum(shared) > 4


def test_all_is_as_if_the_option_were_not_there(indexes, tiny_model, files, tmp_path) -> None:
    assert "reading_tokens" not in nait_fast.Index(indexes["all"]).manifest
    made = nait_fast.load_signature(signature(tmp_path, indexes, tiny_model, files, "all"))
    assert "reading_tokens" not in made.meta


@pytest.mark.parametrize("tokens", ["response", "prompt"])
@pytest.mark.parametrize("method", ["nait", "contrast", "embed", "nag:top_k=9"])
def test_scores_of_select_are_those_of_scorer(tiny_model, files, plain, tmp_path, tokens: str, method: str) -> None:
    more = {} if method.startswith("nag") else {"calibration_size": len(ROWS)}
    options = {"model": tiny_model, "dataset": files[0], "target": [f"t={files[1]}"], "method": method, "top_k": 5}
    nait_fast.select(**options, tokens=tokens, output=tmp_path / "out", **more)
    made = tmp_path / "out" / "signatures" / "t.safetensors"
    rows, scores = nait_fast.search(nait_fast.Index(tmp_path / "out" / "index"), nait_fast.load_signature(made), 24)
    scores = scores[np.argsort(rows)]
    again = Scorer(tiny_model, [made]).score(ROWS)[:, 0]
    assert np.corrcoef(scores, again)[0, 1] > 0.99
    if method == "nait":
        model, chosen = plain
        of_target = np.stack([naive.pooled(model, *sample)["drift"] for sample in chosen(TARGET, tokens)])
        of_pool = np.stack([naive.pooled(model, *sample)["drift"] for sample in chosen(ROWS, tokens)])
        expected = naive.nait_scores(of_pool, naive.principal_directions(of_target))
        np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4 * expected.std())


def test_what_differs_in_tokens_does_not_mix(indexes, tiny_model, files, tmp_path, capsys) -> None:
    of_response = signature(tmp_path, indexes, tiny_model, files, "response")
    other = "signature 't' was made with another choice of tokens ('response') than"
    ran = run(capsys, "rank", "--index", indexes["all"], "--signature", of_response, "--output", tmp_path / "a")
    assert other in ran.error and ran.error.endswith("rebuild it with --tokens all")
    ran = run(capsys, "rank", "--index", indexes["prompt"], "--signature", of_response, "--output", tmp_path / "a")
    assert other in ran.error and ran.error.endswith("rebuild it with --tokens prompt")
    ran = run(capsys, "rank", "--index", indexes["response"], "--signature", of_response, "--output", tmp_path / "a")
    assert ran.status == 0
    with pytest.raises(NaitError, match=r"codebook .*another choice of tokens"):
        signature(tmp_path / "b", indexes, tiny_model, files, "response", codebook=indexes["all"])
    with pytest.raises(NaitError, match="differ in choice of tokens"):
        Scorer(tiny_model, [of_response, signature(tmp_path / "c", indexes, tiny_model, files, "all")])
    ran = run(capsys, "merge", "--index", indexes["all"], indexes["response"], "--output", tmp_path / "merged")
    assert "another choice of tokens" in ran.error
    added = write_jsonl(tmp_path / "more.jsonl", talks(6, seed=7))
    index = ["index", "--model", tiny_model, "--dataset", added, "--append", "--output", indexes["response"]]
    assert "tokens" in run(capsys, *index, "--embed", "last", "--shard-rows", "10").error
    index = ["index", "--model", tiny_model, "--dataset", files[0], "--output", tmp_path / "given", "--codebook"]
    assert "another choice of tokens" in run(capsys, *index, indexes["response"]).error
    drift = signature(tmp_path / "d", indexes, tiny_model, files, "prompt", codebook=None, method="nait")
    assert "another choice of tokens" in run(capsys, *index[:-1], "--exact", drift).error


def test_the_same_target_with_other_tokens_is_another_question(indexes, tiny_model, files, tmp_path) -> None:
    signature(tmp_path, indexes, tiny_model, files, "response")
    with pytest.raises(NaitError, match="other options"):
        signature(tmp_path, indexes, tiny_model, files, "prompt")


def test_evaluate_reads_the_tokens_of_the_index(tiny_model, files, plain, tmp_path) -> None:
    of = {"model": tiny_model, "target": [f"t={files[1]}"], "method": "nait", "tokens": "response"}
    nait_fast.build_signature(**of, output=tmp_path)
    made = tmp_path / "t.safetensors"
    index = {"model": tiny_model, "dataset": files[0], "tokens": "response", "exact": [made]}
    nait_fast.build_index(**index, output=tmp_path / "index", calibration_size=20)
    nait_fast.evaluate(
        index=tmp_path / "index",
        signature=[made],
        model=tiny_model,
        target=[f"t={files[1]}"],
        output=tmp_path / "out",
        rows=20,
        repeats=2,
        sizes=["4"],
    )
    measured = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert measured["stability"] and len(measured["confounds"][0]["layer_share"]) > 1


def test_rows_without_a_chosen_token(tiny_model, files, tmp_path, capsys) -> None:
    silent = {
        "messages": [
            {"role": "user", "content": "why"},
            {"role": "assistant", "content": ""},
            {"role": "user", "content": "how"},
        ]
    }
    long = {"messages": [{"role": "user", "content": "why " * 90}, {"role": "assistant", "content": "rain"}]}
    pool = write_jsonl(tmp_path / "pool.jsonl", [*ROWS[:10], silent, long])
    options = ["--model", tiny_model, "--tokens", "response", "--max-length", "80"]
    index = ["index", *options, "--output", tmp_path / "index", "--calibration-size", "8", "--dataset"]
    assert "no token of its response" in run(capsys, *index, pool).error
    made = run(capsys, *index, pool, "--skip-bad-rows", "--json").summary
    assert (made["rows_indexed"], made["rows_skipped"]) == (10, 2)
    listed = [json.loads(line) for line in (tmp_path / "index" / "skipped.jsonl").read_text().splitlines()]
    assert [(e["row"], e["reason"]) for e in listed if not e.get("kept")] == [
        (10, "no token of its response"),
        (11, "no token of its response within --max-length 80"),
    ]
    target = write_jsonl(tmp_path / "target.jsonl", [*TARGET[:3], silent])
    refused = run(
        capsys, "signature", *options, "--method", "nag", "--target", f"t={target}", "--output", tmp_path / "s"
    )
    assert "row 3: no token of its response; fix the row or leave it out" in refused.error
    bare = write_jsonl(tmp_path / "bare.jsonl", [{"text": "a story"}, {"text": "of rain"}])
    refused = run(capsys, "signature", *options, "--method", "nag", "--target", f"t={bare}", "--output", tmp_path / "s")
    assert "a row of the format text does not say which tokens are the assistant's; use --tokens all" in refused.error
